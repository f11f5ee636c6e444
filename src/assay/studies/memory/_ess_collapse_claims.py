"""What `effective_state_size` claims of saturation and collapse, and the models that it trains for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from assay.lab import Check, Claim, Unit, grid, mark, plot
from assay.studies.memory._ess_collapse import Task, recall


def value(
    rows: pd.DataFrame, column: str, mixer: str, decay: str = "none", penalty: float = 0, **setting: Any
) -> float:
    """Of the model with these settings; those that are not named are as usual: no penalty, and the largest state."""
    wanted = {"mixer": mixer, "decay": decay, "penalty": penalty, "state": rows.state.max()} | setting
    for name, chosen in wanted.items():
        rows = rows[rows[name] == chosen]
    return float(rows[column].iloc[0])


def by_state(rows: pd.DataFrame, column: str, mixer: str, decay: str = "none") -> float:
    """`column` with the largest state minus `column` with the smallest."""
    smallest = rows.state.min()
    return value(rows, column, mixer, decay) - value(rows, column, mixer, decay, state=smallest)


def behind(rows: pd.DataFrame, decay: str) -> float:
    """Accuracy of LA minus the best of GLA and WLA."""
    best = max(value(rows, "accuracy", mixer, decay) for mixer in ("GLA", "WLA"))
    return value(rows, "accuracy", "LA") - best


def used(rows: pd.DataFrame) -> float:
    """ESS of LA over the largest of GLA and WLA that decay fast."""
    return value(rows, "ess", "LA") / max(value(rows, "ess", mixer, "fast") for mixer in ("GLA", "WLA"))


def gained(rows: pd.DataFrame, column: str, mixer: str, sign: int = 1) -> float:
    """What the penalty, or the same with its sign turned, adds."""
    size = float(rows.penalty.max())
    return value(rows, column, mixer, "fast", sign * size) - value(rows, column, mixer, "fast")


def ahead_of_la(rows: pd.DataFrame, mixer: str, penalty: int) -> float:
    """Accuracy of a mixer that decays fast, with the penalty or without, minus that of LA."""
    own = value(rows, "accuracy", mixer, "fast", penalty * float(rows.penalty.max()))
    return own - value(rows, "accuracy", "LA")


def penalised(mixer: str) -> Claim:
    return Claim(
        f"penalty-{mixer.lower()}",
        f"A penalty on ||A - I||_F gives {mixer} that decays fast more ESS and more recall.",
        source="section on the regulariser; here on the only mixer",
        experiment=recall,
        checks=(
            Check("accuracy with the penalty minus without", lambda rows: gained(rows, "accuracy", mixer), ">=", 0.1),
            Check("ESS with the penalty minus without", lambda rows: gained(rows, "ess", mixer), ">=", 1),
        ),
        controls=(
            Check("accuracy with the penalty's sign turned minus without",
                  lambda rows: gained(rows, "accuracy", mixer, -1), ">=", 0.1),
        ),
    )  # fmt: skip


CLAIMS = (
    Claim(
        "saturation",
        "Of a state that is small for what there is to recall a larger part is used, and more of it helps.",
        source="definition of state saturation; grid of accuracies of LA on MQAR",
        experiment=recall,
        checks=(
            Check("LA: utilisation with the smallest state minus with the largest",
                  lambda rows: -by_state(rows, "utilisation", "LA"), ">=", 0.1),
            Check("LA: accuracy with the largest state minus with the smallest",
                  lambda rows: by_state(rows, "accuracy", "LA"), ">=", 0.2),
        ),
        controls=(
            Check("LA: the same difference of accuracy with a quarter of the pairs",
                  lambda rows: by_state(rows, "accuracy_few", "LA"), ">=", 0.2),
        ),
    ),
    Claim(
        "collapse",
        "Of a state that is large enough for LA, GLA and WLA that decay fast use little, and recall less.",
        source="definition of state collapse; grids of accuracy and ESS/kv on MQAR at TSS 128, kv 128",
        experiment=recall,
        checks=(
            Check("accuracy of LA minus the best of GLA and WLA that decay fast", lambda rows: behind(rows, "fast"),
                  ">=", 0.2),
            Check("ESS of LA over the largest of theirs", used, ">=", 1.2),
        ),
        controls=(
            Check("accuracy of LA minus the best of GLA and WLA that decay slowly", lambda rows: behind(rows, "slow"),
                  ">=", 0.2),
        ),
    ),
    Claim(
        "penalty-above-la",
        "With the penalty, GLA and WLA that decay fast recall more than LA, which without it is ahead.",
        source="figure of accuracies, in the section on the regulariser",
        experiment=recall,
        checks=tuple(
            Check(f"accuracy of {mixer} with it minus LA", partial(ahead_of_la, mixer=mixer, penalty=1), ">", 0)
            for mixer in ("GLA", "WLA")
        ),
        controls=tuple(
            Check(f"accuracy of {mixer} without minus LA", partial(ahead_of_la, mixer=mixer, penalty=0), ">", 0)
            for mixer in ("GLA", "WLA")
        ),
    ),
    penalised("WLA"),
    penalised("GLA"),
    Claim(
        "initial-decay-decides",
        "GLA-S6 with a small alpha cannot recall with any state, nor S6; with a large alpha GLA-S6 can.",
        source="section on initialisation, Fig. 8",
        experiment=recall,
        checks=(
            Check("accuracy of GLA-S6 with a small alpha, the better of two states",
                  lambda rows: max(value(rows, "accuracy", "GLA-S6", "fast", state=n) for n in set(rows.state)),
                  "<=", 0.15),
            Check("accuracy of S6", lambda rows: value(rows, "accuracy", "S6", "fast"), "<=", 0.15),
            Check("accuracy of GLA-S6 with a large alpha minus with a small one",
                  lambda rows: value(rows, "accuracy", "GLA-S6", "slow") - value(rows, "accuracy", "GLA-S6", "fast"),
                  ">=", 0.3),
        ),
        controls=(
            Check("accuracy of GLA", lambda rows: value(rows, "accuracy", "GLA", "slow"), "<=", 0.15),
        ),
    ),
    Claim(
        "more-state-helps-gla",
        "The larger its state, the better GLA recalls.",
        source="section on initialisation, Fig. 8",
        experiment=recall,
        checks=(
            Check("accuracy of GLA with the largest state minus with the smallest",
                  lambda rows: by_state(rows, "accuracy", "GLA", "slow"), ">=", 0.05),
        ),
        controls=(
            Check("the same of GLA-S6 with a small alpha", lambda rows: by_state(rows, "accuracy", "GLA-S6", "fast"),
                  ">=", 0.05),
        ),
    ),
)  # fmt: skip


class CollapseConfig(BaseModel):
    """Fields of the study's config."""

    collapse_steps: int = Field(default=400, ge=0, description="of training on saturation and collapse; 0: none")
    collapse_lr: float = Field(default=2e-2, gt=0, description="learning rate of these models")
    collapse_layers: int = Field(default=1, ge=1, description="of these models")
    collapse_width: int = Field(default=32, ge=2, description="of these models")
    collapse_states: list[PositiveInt] = Field(
        default=[8, 32], min_length=2, description="TSS of these models, smallest and largest"
    )
    collapse_pairs: int = Field(default=16, ge=4, description="that these models recall")
    collapse_room: int = Field(default=4, ge=4, description="tokens for each of these pairs")
    collapse_vocab: int = Field(default=64, ge=10, description="tokens that these models know")
    collapse_batch: int = Field(default=16, ge=1, description="sequences of all these pairs in a step")
    fast_betas: list[PositiveFloat] = Field(
        default=[0.25, 2], min_length=2, max_length=2, description="of GLA and WLA that decay fast"
    )
    slow_betas: list[PositiveFloat] = Field(
        default=[16, 64], min_length=2, max_length=2, description="of GLA and WLA that decay slowly"
    )
    s6_alphas: list[PositiveFloat] = Field(
        default=[1 / 32, 1000], min_length=2, max_length=2, description="of GLA-S6 that decays fast, and slowly"
    )
    penalty: float = Field(default=1 / 8, gt=0, description="factor of the mean of ||A - I||_F in the loss")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"collapse_steps": 0},
    "laptop": {},
    "paper": {
        "collapse_steps": 140_000, "collapse_lr": 2e-3, "collapse_layers": 2, "collapse_width": 128,
        "collapse_states": [16, 256], "collapse_pairs": 128, "collapse_room": 32, "collapse_vocab": 8192,
        "collapse_batch": 64, "fast_betas": [16, 16], "slow_betas": [256, 256], "s6_alphas": [1, 1000],
        "penalty": 1.0,
    },
}  # fmt: skip


def units(config: CollapseConfig) -> Iterator[Unit]:
    if not config.collapse_steps:
        return
    small, large = min(config.collapse_states), max(config.collapse_states)
    task = Task(config.collapse_pairs, config.collapse_room, config.collapse_vocab, config.collapse_batch)
    common = {
        "layers": config.collapse_layers, "width": config.collapse_width, "task": tuple(task),
        "steps": config.collapse_steps, "lr": config.collapse_lr,
    }  # fmt: skip
    turned = [0.0, config.penalty, -config.penalty]
    (gla, wla), (slow_gla, slow_wla) = config.fast_betas, config.slow_betas
    models: tuple[tuple[str, str, dict[str, Any], Any, Any], ...] = (
        ("LA", "none", {}, [small, large], 0.0),
        ("GLA", "fast", {"beta": gla}, large, turned),
        ("WLA", "fast", {"beta": wla}, large, turned),
        ("GLA", "slow", {"beta": slow_gla}, [small, large], 0.0),
        ("WLA", "slow", {"beta": slow_wla}, large, 0.0),
        ("GLA-S6", "fast", {"alpha": config.s6_alphas[0]}, [small, large], 0.0),
        ("GLA-S6", "slow", {"alpha": config.s6_alphas[1]}, large, 0.0),
        ("S6", "fast", {"delta_range": None}, large, 0.0),
    )
    for mixer, decay, options, state, penalty in models:
        chosen = {"mixer": mixer, "decay": decay, "options": tuple(options.items())}
        yield from grid(recall, **chosen, state=state, penalty=penalty, **common)


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "recall"]
    if own.empty:
        return []
    own = own.assign(model=own.mixer + ", " + own.decay.replace("none", "no") + " decay")
    return [
        plot("What one mixer uses, and what it recalls",
             mark("dot", own[own.penalty >= 0], x="ess", y="accuracy", stroke="model"),
             x={"type": "log", "label": "ESS at the middle"}, y={"label": "accuracy"}, color={"legend": True})
    ]  # fmt: skip
