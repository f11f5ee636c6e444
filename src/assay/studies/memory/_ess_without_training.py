"""What `effective_state_size` runs without training: operators, and layers as they are at first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch.nn.functional import normalize

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot, smallest_step, spearman
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


def gap(rows: pd.DataFrame) -> float:
    return spearman(rows.ess_kv, rows.accuracy) - spearman(rows.tss_kv, rows.accuracy)


def by_state(rows: pd.DataFrame, mixer: str, column: str = "ess") -> pd.Series:
    return rows[(rows.mixer == mixer) & (rows.alpha == 1)].set_index("state")[column].sort_index()


def growth(rows: pd.DataFrame, mixer: str, column: str = "ess") -> float:
    """ESS at the largest state over that at an eighth of it: 128 and 16."""
    ess = by_state(rows, mixer, column)
    return float(ess.iloc[-1] / ess[ess.index >= ess.index[-1] / 8].iloc[0])


def step_over_alpha(rows: pd.DataFrame, column: str) -> float:
    largest = rows[(rows.mixer == "GLA-S6") & (rows.state == rows.state.max())]
    return smallest_step(largest.sort_values("alpha")[column])


def predicted_by(rows: pd.DataFrame, column: str) -> float:
    """The lowest rank correlation with the error over student sizes."""
    return min(spearman(group[column], group.error) for _, group in rows.groupby("student"))


def off(rows: pd.DataFrame, gates: str, shape: str) -> float:
    own = rows[rows.gates == gates]
    return float((own.ess - own[shape]).abs().max())


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "least-state",
        "ESS at a position is the smallest state that a recurrence can have there, and the minimal realisation has it.",
        source="theorems on realisation and minimality",
        experiment=theory,
        checks=(
            ForAll("largest |ESS - true state|",
                  lambda rows: rows[rows.operator == "recurrence"].ess_off_by.max(), "<=", 0),
            ForAll("relative error of the minimal realisation", lambda rows: rows.minimal_error.max(), "<=", 1e-10),
            ForAll("relative error of a realisation smaller by 1",
                  lambda rows: rows[rows.operator == "recurrence"].smaller_error.max(), ">", 1e-3),
        ),
        controls=(
            ForAll("largest |ESS - true state| with a full-rank term added",
                  lambda rows: rows[rows.operator == "with noise"].ess_off_by.max(), "<=", 0),
        ),
    ),
    Claim(
        "recall-needs-ess",
        "Recall follows the state that is used per pair, ESS/kv, more closely than the state that there is, TSS/kv.",
        source="correlation of ESS and accuracy, here on a linear associative memory",
        experiment=memory,
        checks=(
            ForAll("rank correlation with accuracy, ESS/kv minus TSS/kv", gap, ">=", 0.05),
            ForAll("rank correlation of ESS/kv and accuracy",
                  lambda rows: spearman(rows.ess_kv, rows.accuracy), ">=", 0.9),
        ),
        controls=(
            ForAll("the same difference where nothing decays", lambda rows: gap(rows[rows.decay == 1]), ">=", 0.05),
            ForAll("rank correlation of ESS, not per pair, and accuracy",
                  lambda rows: spearman(rows.ess, rows.accuracy), ">=", 0.9),
        ),
    ),
    Claim(
        "initial-ess",
        "At initialisation, more state gives GLA more ESS, but not S6 and GLA-S6.",
        source="section on initialisation, Fig. 8",
        experiment=initialisation,
        checks=(
            Check("GLA: smallest step of ESS from state to state",
                  lambda rows: smallest_step(by_state(rows, "GLA")), ">", 0),
            Check("GLA: ESS with 8 times the state over ESS", lambda rows: growth(rows, "GLA"), ">=", 1.5),
            Check("GLA-S6: ESS with 8 times the state over ESS", lambda rows: growth(rows, "GLA-S6"), "<=", 1.1),
            Check("S6: ESS with 8 times the state over ESS", lambda rows: growth(rows, "S6"), "<=", 1.1),
        ),
        controls=(
            Check("GLA-S6 if A = 1: ESS with 8 times the state over ESS",
                  lambda rows: growth(rows, "GLA-S6", "ess_without_decay"), "<=", 1.1),
            Check("S6 if A = 1: the same", lambda rows: growth(rows, "S6", "ess_without_decay"), "<=", 1.1),
        ),
    ),
    Claim(
        "alpha-raises-ess",
        "Slower decays (a larger alpha) give GLA-S6 more ESS at initialisation.",
        source="section on initialisation, Fig. 8",
        experiment=initialisation,
        checks=(Check("smallest step of ESS from alpha to alpha", lambda rows: step_over_alpha(rows, "ess"), ">", 0),),
        controls=(Check("the same if A = 1", lambda rows: step_over_alpha(rows, "ess_without_decay"), ">", 0),),
    ),
    Claim(
        "distillation-bound",
        "The more ESS a teacher has, the worse is every smaller student.",
        source="section on distillation; the bound by Eckart and Young",
        experiment=distillation,
        checks=(
            Check("rank correlation of the teacher's ESS and the student's error, worst student size",
                  lambda rows: predicted_by(rows, "ess"), ">=", 0.9),
            ForAll("smallest (error - bound) / teacher", lambda rows: (rows.error - rows.bound).min(), ">=", -1e-12),
        ),
        controls=(
            Check("rank correlation of the teacher's norm and error", lambda rows: predicted_by(rows, "norm"),
                  ">=", 0.9),
            Check("rank correlation of the teacher's TSS and error", lambda rows: predicted_by(rows, "tss"), ">=", 0.9),
            ForAll("smallest (error - bound for half the state) / teacher",
                  lambda rows: (rows.error - rows.bound_of_half).min(), ">=", -1e-12),
        ),
    ),
    Claim(
        "modulation",
        "A gate that closes at a separator empties the state: ESS is a V of slope 1, down to 1 there.",
        source="section on state modulation, the mechanism",
        experiment=modulation,
        checks=(
            ForAll("largest distance of tolerance-ESS from the V", lambda rows: off(rows, "gated", "valley"), "<=", 0),
            ForAll("without gates: largest distance from the flat curve", lambda rows: off(rows, "A = 1", "flat"),
                  "<=", 0),
        ),
        controls=(
            ForAll("without gates: largest distance from the V", lambda rows: off(rows, "A = 1", "valley"), "<=", 0),
        ),
    ),
)  # fmt: skip


Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class UntrainedConfig(BaseModel):
    """Fields of the study's config."""

    states: list[Size] = Field(default=[4, 8, 16, 32, 64], description="state sizes of the associative memory")
    decays: list[Positive] = Field(default=[1, 0.995, 0.98, 0.95, 0.9, 0.8], description="of the same memory")
    pairs: list[Size] = Field(default=[4, 8, 16, 32, 64], description="keys written to it")
    trials: Size = Field(default=4, description="memories for each state, decay and number of pairs")
    initial_states: list[Size] = Field(
        default=[4, 8, 16, 32, 64, 128], min_length=1, description="state sizes at initialisation"
    )
    alphas: list[Positive] = Field(default=[1, 16, 128, 1024], description="of GLA-S6 at the largest of them")
    length: Annotated[int, Field(ge=64)] = Field(default=256, description="of the sequences at initialisation")
    channels: Size = Field(default=32, description="heads (of S6: channels) measured at initialisation")
    betas: list[Positive] = Field(default=[1, 2, 4, 8, 16, 64, 256], description="of the teachers")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"pairs": [4, 8, 16, 32], "initial_states": [16, 32, 128], "length": 128, "channels": 4,
              "betas": [1, 4, 16, 64, 256]},
    "laptop": {},
    "paper": {"trials": 32, "initial_states": [16, 32, 64, 128, 256], "length": 2048, "channels": 128},
}  # fmt: skip


def units(config: UntrainedConfig) -> Iterator[Unit]:
    yield from grid(theory, state=5, uncontrollable=3, unobservable=2, length=40)
    asked = {"decays": tuple(config.decays), "pairs": tuple(config.pairs), "trials": config.trials}
    yield from grid(memory, state=config.states, **asked)
    sizes = {"width": 128, "length": config.length, "every": config.length // 16, "channels": config.channels}
    mixers = ["GLA", "LA", "S6", "GLA-S6"]
    yield from grid(initialisation, mixer=mixers, state=config.initial_states, alpha=1.0, **sizes)
    yield from grid(initialisation, mixer="GLA-S6", state=max(config.initial_states), alpha=config.alphas, **sizes)
    yield from grid(distillation, betas=tuple(config.betas), state=48, length=96, students=(4, 8, 16))
    yield from grid(modulation, state=24, document=32)


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments."""
    of = {str(name): own for name, own in rows.groupby("experiment")}
    recall = of["memory"].groupby(["kv", "state", "decay"], as_index=False)[["ess_kv", "accuracy"]].mean()
    start = of["initialisation"].query("alpha == 1").groupby(["mixer", "state"], as_index=False)[["ess"]].mean()
    students = of["distillation"].astype({"student": int}).astype({"student": str})
    curve = of["modulation"].query("seed == 0")
    log, legend = {"type": "log"}, {"legend": True}
    return [
        plot("Recall and the state used for each pair", mark("dot", recall, x="ess_kv", y="accuracy", stroke="kv"),
             x={**log, "label": "ESS / kv"}, y={"label": "accuracy"}, color={**log, **legend, "label": "kv"}),
        plot("ESS before training", mark("line", start, x="state", y="ess", stroke="mixer", marker=True),
             x={**log, "label": "state"}, y={**log, "label": "entropy-ESS"}, color=legend),
        plot("What a student loses", mark("dot", students, x="ess", y="error", stroke="student"),
             x={"label": "ESS of the teacher"}, y={"label": "relative error"}, color=legend),
        plot("State along three documents", mark("line", curve, x="position", y="ess", stroke="gates"),
             x={"label": "position"}, y={"label": "tolerance-ESS"}, color=legend),
    ]  # fmt: skip
