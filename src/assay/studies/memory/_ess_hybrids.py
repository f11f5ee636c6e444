"""What `effective_state_size` trains with layers of GLA and of attention, and what it claims of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.lab.training import token_accuracy, train
from assay.models import Backbone, BackboneConfig
from assay.nn import SA
from assay.studies.memory._ess_recall import decay, draw, length_of, mean_ess, operators

EIGHT: list[tuple[int, ...]] = [(), (0,), (3,), (2, 5), (1, 3, 5), (1, 3, 5, 7)]  # those after Jamba, and the first


def hybrid(
    *, attention: tuple[int, ...], layers: int, width: int, state: int, heads: int, pairs: int, vocab_size: int,
    steps: int, batch: int, lr: float, seed: int, device: str,
) -> Row:  # fmt: skip
    """Recall by layers of GLA with a TSS of `state`, but those at `attention` of SA with `heads`, all without MLPs; the
    mean tolerance-ESS of the layer of each kind that has the most, and the mean over those of attention; 0 for none."""
    kinds = ["ess-sa" if layer in attention else "ess-gla" for layer in range(layers)]
    gla: dict[str, Any] = {"num_heads": width // state} | decay("GLA", length_of("recall", pairs))
    options: dict[str, dict[str, Any]] = {"ess-sa": {"num_heads": heads}, "ess-gla": gla}
    model = Backbone(
        BackboneConfig(
            ",".join(kinds), vocab_size=vocab_size, d_model=width, mlp_ratio=0,
            mixers={kind: options[kind] for kind in set(kinds)},
        )
    ).to(device)  # fmt: skip
    train(
        model, lambda generator: draw("recall", batch, pairs, vocab_size, generator), steps=steps, seed=seed, lr=lr,
        weight_decay=0,
    )  # fmt: skip
    test = draw("recall", 256, pairs, vocab_size, torch.Generator(device).manual_seed(2**40 + seed))
    sa, gla_ess = [0.0], [0.0]
    with torch.no_grad():
        for mixer, T in operators(model, test.inputs[:8]):
            (sa if isinstance(mixer, SA) else gla_ess).append(mean_ess(T, tolerance=0.1))
    return {
        "placement": named(attention),
        "accuracy": token_accuracy(model, test),
        "most_sa_ess": max(sa),
        "mean_sa_ess": sum(sa) / max(1, len(attention)),
        "most_gla_ess": max(gla_ess),
    }


def named(attention: tuple[int, ...]) -> str:
    return " and ".join(map(str, attention)) or "none"


def accuracy(rows: pd.DataFrame, *attention: int, layers: int = 4) -> float:
    own = rows[(rows.layers == layers) & (rows.placement == named(attention))]
    return float(own.accuracy.iloc[0])


def first_beside_others(rows: pd.DataFrame) -> float:
    """The lowest accuracy with attention in the first of four layers and in others."""
    own = rows[(rows.layers == 4) & rows.placement.str.startswith("0 and")]
    return float(own.accuracy.sort_values().iloc[0])


def ordered(rows: pd.DataFrame, column: str, layers: int = 4) -> float:
    """Of the pairs of placements with attention whose accuracies are 0.1 or more apart, the part that `column` puts in
    the same order; ties count half. NaN where there are none."""
    own = rows[(rows.layers == layers) & (rows.placement != "none")]
    if own.empty:
        raise LookupError(f"no rows of {layers} layers")
    by_accuracy, by_column = (
        np.subtract.outer(values, values) for values in (own.accuracy.to_numpy(), own[column].to_numpy())
    )
    apart = by_accuracy >= 0.1
    return float(((np.sign(by_column[apart]) + 1) / 2).mean()) if apart.any() else float("nan")


def four_minus_fewer(rows: pd.DataFrame) -> float:
    """Accuracy with four of eight layers of attention, minus the best with three, two, one or none."""
    return accuracy(rows, *EIGHT[-1], layers=8) - max(
        accuracy(rows, *places, layers=8) for places in EIGHT[:-1] if places != (0,)
    )


SOURCE = "appendix on hybrids, {} mixers"
NONE_FIRST = Check(
    "accuracy without attention minus with it in the first", lambda rows: accuracy(rows) - accuracy(rows, 0), ">=", 0.3
)
CLAIMS = (
    Claim(
        "layer-order",
        "One layer of attention among layers of GLA recalls, unless it is the first.",
        source=SOURCE.format("four"),
        experiment=hybrid,
        checks=(
            Check("lowest accuracy with attention in one layer, not the first, minus in the first",
                  lambda rows: min(accuracy(rows, at) for at in (1, 2, 3)) - accuracy(rows, 0), ">=", 0.3),
            Check("accuracy with attention in the first minus without", lambda rows: accuracy(rows, 0) - accuracy(rows),
                  "<", 0.3),
        ),
        controls=(NONE_FIRST,),
    ),
    Claim(
        "first-beside-another",
        "Attention in the first layer and another recalls, where in the first alone it does not.",
        source=SOURCE.format("four"),
        experiment=hybrid,
        checks=(
            Check("lowest accuracy with attention in the first layer and others, minus in the first alone",
                  lambda rows: first_beside_others(rows) - accuracy(rows, 0), ">=", 0.3),
        ),
        controls=(NONE_FIRST,),
    ),
    Claim(
        "attention-ess-tells",
        "Which placements recall is told by the ESS of the layer of attention that has the most.",
        source=SOURCE.format("four") + ", and eight",
        experiment=hybrid,
        checks=(
            Check("pairs of placements in four layers that it puts in the order of their accuracies",
                  lambda rows: ordered(rows, "most_sa_ess"), ">=", 0.9),
            Check("in eight layers: the same", lambda rows: ordered(rows, "most_sa_ess", 8), ">=", 0.9),
        ),
        controls=(
            Check("four layers: the same of the layer of GLA that has the most",
                  lambda rows: ordered(rows, "most_gla_ess"), ">=", 0.9),
            Check("eight layers: the same of GLA", lambda rows: ordered(rows, "most_gla_ess", 8), ">=", 0.9),
        ),
    ),
    Claim(
        "mean-ess-tells-less",
        "In four layers the mean ESS of those of attention tells it less well.",
        source=SOURCE.format("four"),
        experiment=hybrid,
        checks=(
            Check("pairs of placements in the order of their accuracies: largest ESS minus mean",
                  lambda rows: ordered(rows, "most_sa_ess") - ordered(rows, "mean_sa_ess"), ">", 0),
        ),
        controls=(
            Check("largest ESS of GLA minus mean of attention",
                  lambda rows: ordered(rows, "most_gla_ess") - ordered(rows, "mean_sa_ess"), ">", 0),
        ),
    ),
    Claim(
        "jamba-order",
        "Of eight layers, attention in four, placed as in Jamba, recalls; in three, two or one it recalls less.",
        source=SOURCE.format("eight"),
        experiment=hybrid,
        checks=(
            Check("accuracy with attention in four layers minus the best with fewer", four_minus_fewer, ">=", 0.3),
        ),
        controls=(
            Check("accuracy with attention in the first minus none",
                  lambda rows: accuracy(rows, 0, layers=8) - accuracy(rows, layers=8), ">=", 0.3),
        ),
    ),
)  # fmt: skip


class HybridConfig(BaseModel):
    """Fields of the study's config."""

    hybrid_steps: list[NonNegativeInt] = Field(
        default=[400, 200], min_length=2, max_length=2,
        description="of training hybrids of GLA and SA with four layers, and with eight; 0: none",
    )  # fmt: skip
    hybrid_most: int = Field(default=2, ge=1, le=4, description="layers of attention, of four")
    hybrid_widths: list[PositiveInt] = Field(default=[32, 32], min_length=2, max_length=2, description="of these")
    hybrid_heads: list[PositiveInt] = Field(default=[2, 2], min_length=2, max_length=2, description="of SA in these")
    hybrid_states: list[PositiveInt] = Field(
        default=[2, 2], min_length=2, max_length=2, description="TSS of a channel of GLA"
    )
    hybrid_pairs: list[PositiveInt] = Field(default=[4, 4], min_length=2, max_length=2, description="that these recall")
    hybrid_vocab: int = Field(default=16, ge=4, description="tokens that hybrids know")
    hybrid_batch: int = Field(default=32, ge=1, description="sequences in a step")
    hybrid_lr: float = Field(default=5e-3, gt=0, description="learning rate of hybrids")

    @model_validator(mode="after")
    def divisible(self) -> HybridConfig:
        for name, parts in (("hybrid_heads", self.hybrid_heads), ("hybrid_states", self.hybrid_states)):
            if any(width % part for width, part in zip(self.hybrid_widths, parts, strict=True)):
                raise ValueError(f"{name} is {parts}; expected divisors of hybrid_widths, {self.hybrid_widths}")
        return self


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"hybrid_steps": [0, 0]},
    "laptop": {},
    "paper": {
        "hybrid_steps": [140_000, 140_000], "hybrid_most": 4, "hybrid_widths": [64, 16], "hybrid_heads": [4, 2],
        "hybrid_states": [16, 8], "hybrid_pairs": [512, 1024], "hybrid_vocab": 8192, "hybrid_batch": 64,
        "hybrid_lr": 2e-3,
    },
}  # fmt: skip


def units(config: HybridConfig) -> Iterator[Unit]:
    four = [places for count in range(config.hybrid_most + 1) for places in combinations(range(4), count)]
    sizes = (
        config.hybrid_steps, config.hybrid_widths, config.hybrid_heads, config.hybrid_states, config.hybrid_pairs
    )  # fmt: skip
    for layers, placements, steps, width, heads, state, pairs in zip((4, 8), (four, EIGHT), *sizes, strict=True):
        if steps:
            yield from grid(
                hybrid, attention=placements, layers=layers, width=width, heads=heads, state=state, pairs=pairs,
                vocab_size=config.hybrid_vocab, steps=steps, batch=config.hybrid_batch, lr=config.hybrid_lr,
            )  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "hybrid"]
    if own.empty:
        return []
    return [
        plot(f"Where attention stands, {layers:.0f} layers",
             mark("dot", some, x="accuracy", y="placement"),
             mark("tickX", some.groupby("placement", as_index=False)[["accuracy"]].mean(), x="accuracy", y="placement"),
             x={"label": "accuracy of each seed, and the mean", "domain": [0, 1]}, y={"label": "layers of attention"})
        for layers, some in own.groupby("layers")
    ]  # fmt: skip
