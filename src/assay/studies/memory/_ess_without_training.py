"""What `effective_state_size` runs: experiments on operators and untrained layers."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from assay.lab import Row
from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.nn import GLA, GLAS6, LA, S6, Mixer
from assay.operators import DenseOperator, RecurrentOperator


def theory(*, state: int, uncontrollable: int, unobservable: int, length: int) -> list[Row]:
    """A random recurrence, its state padded with dimensions that no input reaches and others that no output reads,
    in random coordinates; and the same operator with a full-rank term of norm 0.1 added."""
    unfed, size = slice(state, state + uncontrollable), state + uncontrollable + unobservable
    unread = slice(unfed.stop, size)
    A, B, C = (torch.randn(length, *shape, dtype=torch.float64) for shape in ((size, size), (size,), (size,)))
    A[:, unfed, :state] = A[:, unfed, unread] = A[:, :state, unread] = B[:, unfed] = C[:, unread] = 0
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    recurrence = RecurrentOperator.pre_update(turn @ A @ turn.T / state**0.5, B @ turn.T, C @ turn.T)
    noise = torch.randn(length, length, dtype=torch.float64).tril(-1)
    operators = {
        "recurrence": recurrence,
        "with noise": DenseOperator(recurrence.to_dense() + 0.1 * noise / noise.norm()),
    }
    rows: list[Row] = []
    for name, T in operators.items():
        sigma = T.hankel_singular_values(range(state, length - state + 1))
        rank = tolerance_ess(sigma / sigma.amax(), 1e-10)
        norm = T.to_dense().norm()
        rows.append(
            {
                "operator": name,
                "ess_off_by": (rank - state).abs().max(),
                "minimal_error": (T.realise().operator.to_dense() - T.to_dense()).norm() / norm,
                "smaller_error": (T.truncate(state - 1).operator.to_dense() - T.to_dense()).norm() / norm,
            }
        )
    return rows


def memory(*, state: int, decays: tuple[float, ...], pairs: tuple[int, ...], trials: int) -> list[Row]:
    """A linear associative memory: kv unit keys are written with Gaussian values of 32 dimensions, then asked for in
    another order. Recalled is the value at the smallest angle to what is read, with noise of 0.05."""
    rows: list[Row] = []
    for decay, kv in ((decay, kv) for decay in decays for kv in pairs):
        keys = normalize(torch.randn(trials, kv, state, dtype=torch.float64), dim=-1)
        values, order = torch.randn(trials, kv, 32, dtype=torch.float64), torch.randperm(kv)
        B, C = torch.cat([keys, 0 * keys], 1), torch.cat([0 * keys, keys[:, order]], 1)
        T = RecurrentOperator(torch.full((2 * kv, 1), decay, dtype=torch.float64), B, C).to_dense()
        read = T[:, kv:, :kv] @ values
        found = ((read + 0.05 * torch.randn_like(read)) @ normalize(values, dim=-1).mT).argmax(-1)
        ess = float(entropy_ess(DenseOperator(T).hankel_singular_values([kv])).mean())
        accuracy = (found == order).double().mean()
        rows.append(
            {"decay": decay, "kv": kv, "ess": ess, "ess_kv": ess / kv, "tss_kv": state / kv, "accuracy": accuracy}
        )
    return rows


def initialisation(
    *, mixer: str, state: int, alpha: float, width: int, length: int, every: int, channels: int, device: str
) -> Row:
    """Mean entropy-ESS of an untrained layer on Gaussian noise, as it is and with A = 1 in the place of its decays."""
    sizes = {"num_heads": max(1, width // state), "expand_k": max(1, state // width)}
    if mixer == "GLA-S6":
        layer: Mixer = GLAS6(width, **sizes, alpha=alpha)
    elif mixer == "S6":
        layer = S6(width, **sizes, delta_range=None)
    else:
        layer = {"GLA": GLA, "LA": LA}[mixer](width, **sizes)
    with torch.no_grad():
        T = layer.to(device).operator(torch.randn(1, length, width, device=device))
    assert isinstance(T, RecurrentOperator)
    kept = T[0, :channels]
    positions = range(every, length, every)
    undecayed = RecurrentOperator(torch.ones_like(kept.A), kept.B, kept.C)
    ess, without = (entropy_ess(one.hankel_singular_values(positions)).mean() for one in (kept, undecayed))
    return {"ess_without_decay": without, "ess": ess}


def distillation(
    *, betas: tuple[float, ...], state: int, length: int, students: tuple[int, ...], device: str
) -> list[Row]:
    """Two untrained GLA heads for each beta, each scaled by exp(N(0, 1)), and for each the recurrence with a state of k
    that is best block by block: its relative error, and the bound that no recurrence with k can pass."""
    rows: list[Row] = []
    for beta in betas:
        layer = GLA(2 * state, num_heads=2, beta=beta).to(device)
        with torch.no_grad():
            T = layer.operator(torch.randn(1, length, 2 * state, device=device))[0].double().to_dense()
        teacher = DenseOperator(T * torch.randn(2, 1, 1, dtype=torch.float64).exp().to(device))
        sigma, norm = teacher.hankel_singular_values(range(1, length)), teacher.to_dense().norm(dim=(-2, -1))
        ess = entropy_ess(sigma[:, length // 2 - 1])
        for k in students:
            student = teacher.truncate(k).operator.to_dense()
            error = (student - teacher.to_dense()).norm(dim=(-2, -1)) / norm
            bound, easier = (sigma[..., j:].square().sum(-1).amax(-1).sqrt() / norm for j in (k, k // 2))
            for head in range(2):
                known = {"beta": beta, "head": head, "student": k, "tss": state, "ess": ess[head], "norm": norm[head]}
                rows.append(known | {"bound": bound[head], "bound_of_half": easier[head], "error": error[head]})
    return rows


def modulation(*, state: int, document: int) -> list[Row]:
    """Tolerance-ESS along three documents, in the paper's pre-update form: gates of 0.995, but 1e-4 at the two
    separators; and of the same with A = 1. Beside them what it must be: a V, down to 1, of slope 1."""
    length, separators = 3 * document, (document, 2 * document)
    B, C = (normalize(torch.randn(length, state, dtype=torch.float64), dim=-1) for _ in range(2))
    gates = torch.full((length, 1), 0.995, dtype=torch.float64)
    gates[list(separators)] = 1e-4
    rows: list[Row] = []
    for name, A in {"gated": gates, "A = 1": torch.ones_like(gates)}.items():
        ess = tolerance_ess(RecurrentOperator.pre_update(A, B, C).hankel_singular_values(range(1, length)), 1e-3)
        for i in range(1, length):
            last = max((s for s in separators if s < i), default=0)
            after = min((s for s in separators if s >= i), default=length - 1)
            valley, flat = min(state, i - last, after - i + 1), min(state, i, length - i)
            rows.append({"gates": name, "position": i, "ess": ess[i - 1], "valley": valley, "flat": flat})
    return rows
