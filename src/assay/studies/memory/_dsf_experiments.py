"""What `dynamical_systems_framework` runs: mixers in two forms, the Taylor ladder, and recall after training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from assay.data import mqar
from assay.lab import Row
from assay.lab.training import token_accuracy, train
from assay.models import Backbone, BackboneConfig
from assay.operators import RecurrentOperator
from assay.operators.equivalence import (
    linear_attention,
    normalised_attention,
    qlstm,
    rg_lru,
    s6,
    softmax_attention,
    ssd,
    taylor_attention,
)


def forms(*, length: int, width: int, state: int) -> list[Row]:
    """Each mixer by its own definition, token after token, and as a recurrence of the framework applied to the same
    values; and that recurrence with A = 1, that is, without the ratio of normalisers or without the gate."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    q, k, b, c, v = draw(length, state), draw(length, state), draw(length, state), draw(length, state), draw(length)
    z, z2, z3, rates = draw(length, width), draw(length, width), draw(length, width), draw(width)
    log_eta, log_a, delta, a = 0.5 * draw(length), -softplus(draw(length)) / 4, softplus(z), draw(width, state).exp()
    phi_q, phi_k, sigmoid = elu(q) + 1, elu(k) + 1, torch.sigmoid
    past = [slice(0, i + 1) for i in range(length)]
    linear = [(phi_k[s] @ phi_q[i]) @ v[s] / (phi_k[s] @ phi_q[i]).sum() for i, s in enumerate(past)]
    normalised = [(k[s] @ q[i]) @ v[s] / log_eta[i].exp() for i, s in enumerate(past)]
    decayed = [((b[s] @ c[i]) * (log_a.cumsum(0)[i] - log_a.cumsum(0)[s]).exp()) @ v[s] for i, s in enumerate(past)]
    forget = (-8 * softplus(rates) * sigmoid(z)).exp()
    mixers: dict[str, tuple[RecurrentOperator, Tensor]] = {
        "linear attention": (linear_attention(q, k), torch.stack(linear)),
        "normalised attention": (normalised_attention(q, k, log_eta), torch.stack(normalised)),
        "SSD": (ssd(log_a, b, c), torch.stack(decayed)),
        "S6": (
            s6(delta, a, b, c),
            _steps((-delta[..., None] * a).exp(), delta[..., None] * b[:, None], c[:, None], v),
        ),
        "qLSTM": (
            qlstm(z, z2, z3),
            _steps(sigmoid(z)[..., None], sigmoid(z2)[..., None], sigmoid(z3)[..., None], v),
        ),
        "RG-LRU": (
            rg_lru(z, z2, rates),
            _steps(forget[..., None], ((1 - forget**2).sqrt() * sigmoid(z2))[..., None], torch.ones(1, 1, 1), v),
        ),
    }
    rows: list[Row] = []
    for name, (T, direct) in mixers.items():
        without = RecurrentOperator(torch.ones_like(T.A), T.B, T.C)
        errors = [(operator.apply(v[:, None])[..., 0] - direct).abs().max() for operator in (T, without)]
        rows.append({"mixer": name, "error": errors[0], "error_without_A": errors[1]})
    return rows


def _steps(A: Tensor, B: Tensor, C: Tensor, v: Tensor) -> Tensor:
    """`h = A h + B v, y = C h`, for A, B, C of shapes that expand to (L, d, N) -> (d, L)."""
    A, B, C = (x.expand(len(v), *A.shape[1:]) for x in (A, B, C))
    h, outputs = torch.zeros_like(A[0]), []
    for t in range(len(v)):
        h = A[t] * h + B[t] * v[t]
        outputs.append((C[t] * h).sum(-1))
    return torch.stack(outputs, dim=-1)


def ladder(*, degrees: tuple[int, ...], width: int, length: int, stds: tuple[float, ...]) -> list[Row]:
    """Softmax attention with exp cut after each degree: its state, its largest rank over positions, and its distance
    from softmax attention, on Gaussian queries and keys of a standard deviation."""
    q, k = torch.randn(2, length, width, dtype=torch.float64)
    rows: list[Row] = []
    for std in stds:
        softmax = softmax_attention(std * q, std * k).to_dense()
        of_softmax = int(torch.linalg.matrix_rank(softmax[length // 2 :, : length // 2], rtol=1e-13))
        for degree in degrees:
            T = taylor_attention(std * q, std * k, degree)
            dense = T.to_dense()
            blocks = [dense[i:, :i] for i in range(1, length)]
            rank = max(int(torch.linalg.matrix_rank(block, rtol=1e-13)) for block in blocks)
            error = (dense - softmax).abs().max()
            state = int(T.state_size([1]))
            row = {"std": std, "degree": degree, "state": state, "possible": min(state, length // 2)}
            rows.append(row | {"rank": rank, "error": error, "softmax_rank": of_softmax / (length // 2)})
    return rows


def recall(
    *,
    mixer: str,
    key_size: int,
    pairs: int,
    length: int,
    vocabulary: int,
    width: int,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    device: str,
) -> Row:
    """Accuracy on MQAR of two layers without MLPs. Attention of any kind comes behind a short convolution, which lets a
    value see its key; two qLSTM have a convolution of their own. `mixer`: "softmax", "ssd" (the mixer of Mamba-2), a
    normaliser, or a qLSTM."""
    pattern, options = _layers(mixer, key_size)
    model = Backbone(BackboneConfig(pattern, vocab_size=vocabulary, d_model=width, mixers=options, mlp_ratio=0)).to(
        device
    )
    task: dict[str, Any] = {"seq_len": length, "num_kv_pairs": pairs, "vocab_size": vocabulary}
    test = mqar(1000, **task, generator=torch.Generator(device).manual_seed(10**9 + seed))
    rows = train(
        model,
        lambda generator: mqar(batch, **task, generator=generator),
        steps=steps, seed=seed, lr=lr, every=max(1, steps // 8),
        measure=lambda model: {"accuracy": token_accuracy(model, test)},
        stop=lambda row: bool(row["accuracy"] >= 0.995),
    )  # fmt: skip
    return {"accuracy": rows[-1].get("accuracy", float("nan")), "trained": rows[-1]["step"]}


def _layers(mixer: str, key_size: int) -> tuple[str, dict[str, dict[str, Any]]]:
    if mixer.startswith("qlstm"):
        return f"{mixer},{mixer}", {}
    if mixer == "softmax":
        return "base-conv-short,attention", {"attention": {"num_heads": 1}}
    if mixer == "ssd":
        return "base-conv-short,mamba2", {"mamba2": {"num_heads": 1, "state_size": key_size, "expand": 1}}
    options = {"num_heads": 1, "key_size": key_size, "normaliser": mixer}
    return "base-conv-short,normalised-attention", {"normalised-attention": options}
