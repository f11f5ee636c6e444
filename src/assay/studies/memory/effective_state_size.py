"""Effective state-size: what a mixer remembers, and what that predicts. The claims that need no training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Study, StudyConfig, Unit, grid, mark, plot, smallest_step, spearman
from assay.studies.memory._ess_without_training import distillation, initialisation, memory, modulation, theory

Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def gap(rows: pd.DataFrame) -> float:
    return spearman(rows.ess_kv, rows.accuracy) - spearman(rows.tss_kv, rows.accuracy)


def by_state(rows: pd.DataFrame, mixer: str) -> pd.Series:
    return rows[(rows.mixer == mixer) & (rows.alpha == 1)].set_index("state").ess.sort_index()


def growth(rows: pd.DataFrame, mixer: str) -> float:
    """ESS at the largest state over that at an eighth of it: 128 and 16."""
    ess = by_state(rows, mixer)
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
            Check("GLA-S6: ESS with 8 times the state over ESS", lambda rows: growth(rows, "GLA-S6"), ">=", 1.5),
            Check("GLA: ESS with 8 times the state over ESS", lambda rows: growth(rows, "GLA"), "<=", 1.1),
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


class EffectiveStateSize(Study):
    """Quantifying how much of its memory a model uses, by the rank of what it carries across a position."""

    slug = "effective-state-size"
    paper = Paper(
        "Quantifying Memory Utilization with Effective State-Size",
        "Parnichkun, Tumma, Thomas, Moro, An, Suzuki, Yamashita, Poli, Massaroli", 2025, "2504.19561", "ICML"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        states: list[Size] = Field(default=[4, 8, 16, 32, 64], description="state sizes of the associative memory")
        decays: list[Positive] = Field(default=[1, 0.995, 0.98, 0.95, 0.9, 0.8], description="of the same memory")
        pairs: list[Size] = Field(default=[4, 8, 16, 32, 64], description="keys written to it")
        trials: Size = Field(default=4, description="memories for each state, decay and number of pairs")
        initial_states: list[Size] = Field(default=[4, 8, 16, 32, 64, 128], description="state sizes at initialisation")
        alphas: list[Positive] = Field(default=[1, 16, 128, 1024], description="of GLA-S6 at the largest of them")
        length: Annotated[int, Field(ge=64)] = Field(default=256, description="of the sequences at initialisation")
        channels: Size = Field(default=32, description="heads (of S6: channels) measured at initialisation")
        betas: list[Positive] = Field(default=[1, 2, 4, 8, 16, 64, 256], description="of the teachers")

    scales = {
        "smoke": Config(pairs=[4, 8, 16, 32], initial_states=[16, 32, 128], length=128, channels=4,
                        betas=[1, 4, 16, 64, 256]),
        "laptop": Config(seeds=20),
        "paper": Config(seeds=20, trials=32, initial_states=[16, 32, 64, 128, 256], length=2048, channels=128),
    }  # fmt: skip
    seconds = {"smoke": 15, "laptop": 120, "paper": 3600}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(theory, state=5, uncontrollable=3, unobservable=2, length=40)
        asked = {"decays": tuple(config.decays), "pairs": tuple(config.pairs), "trials": config.trials}
        yield from grid(memory, state=config.states, **asked)
        sizes = {"width": 128, "length": config.length, "every": config.length // 16, "channels": config.channels}
        mixers = ["GLA", "LA", "S6", "GLA-S6"]
        yield from grid(initialisation, mixer=mixers, state=config.initial_states, alpha=1.0, **sizes)
        yield from grid(initialisation, mixer="GLA-S6", state=max(config.initial_states), alpha=config.alphas, **sizes)
        yield from grid(distillation, betas=tuple(config.betas), state=48, length=96, students=(4, 8, 16))
        yield from grid(modulation, state=24, document=32)

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        recall = of["memory"].groupby(["kv", "state", "decay"], as_index=False)[["ess_kv", "accuracy"]].mean()
        start = of["initialisation"].query("alpha == 1").groupby(["mixer", "state"], as_index=False)[["ess"]].mean()
        students = of["distillation"].astype({"student": str})
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
