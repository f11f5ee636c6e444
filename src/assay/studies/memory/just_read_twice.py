"""Just read twice: what must be kept in mind depends on the order of reading, and a second reading undoes that."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.memory._jrt_memory import module, needed, order
from assay.studies.memory._jrt_training import trained

Size = Annotated[int, Field(ge=1)]
Reader = Literal["once", "twice", "prefix", "convolutions, once", "convolutions, twice"]
READERS: list[Reader] = ["twice", "convolutions, twice", "once", "prefix", "convolutions, once"]  # the slowest first


def at(rows: pd.DataFrame, len_a: int, len_b: int) -> pd.Series:
    return rows[(rows.len_a == len_a) & (rows.len_b == len_b)].iloc[0]


def order_gap(rows: pd.DataFrame, reader: str) -> float:
    return float(at(rows, 4, 64)[reader] - at(rows, 64, 4)[reader])


def exponent(rows: pd.DataFrame, reader: str) -> float:
    """Slope of log state over log |A|."""
    own = rows[rows.reader == reader]
    return float(np.polyfit(np.log(own.len_a), np.log(own.state), 1)[0])


def gain(rows: pd.DataFrame, reader: str, over: str, where: str) -> float:
    by_reader = rows.set_index("reader")[where]
    return float(by_reader[reader] - by_reader[over])


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "order-decides",
        "With a state of fixed size, a causal reader finds the common element of two sets if the smaller set comes "
        "first, and not if the larger does; one who knows both sets does not mind.",
        source="theorem on set disjointness: max(|A|, |B|) for causal readers, min(|A|, |B|) for others",
        experiment=order,
        checks=(
            Check("causal: accuracy for (4, 64) minus (64, 4)", lambda rows: order_gap(rows, "causal"), ">=", 0.25),
            Check("stores the smaller: |the same|", lambda rows: abs(order_gap(rows, "smaller")), "<=", 0.05),
        ),
        controls=(
            Check("|A| = |B|: accuracy storing A minus storing B",
                  lambda rows: at(rows, 16, 16).causal - at(rows, 16, 16).swapped, ">=", 0.25),
            Check("causal: |accuracy for (4, 64) minus (64, 4)|", lambda rows: abs(order_gap(rows, "causal")),
                  "<=", 0.05),
        ),
    ),
    Claim(
        "state-follows-the-stored-set",
        "A causal reader needs state in proportion to the first set; one who may store the smaller set does not.",
        source="theorem on set disjointness, on a linear memory",
        experiment=needed,
        checks=(
            Check("causal: exponent of the state over |A|", lambda rows: exponent(rows, "causal"), ">=", 0.8),
            Check("stores the smaller: the same", lambda rows: exponent(rows, "stores the smaller"), "<=", 0.5),
        ),
        controls=(
            Check("stores the smaller: exponent", lambda rows: exponent(rows, "stores the smaller"), ">=", 0.8),
            Check("causal: exponent", lambda rows: exponent(rows, "causal"), "<=", 0.5),
        ),
    ),
    Claim(
        "prefix-is-a-recurrence",
        "Prefix linear attention shows its prefix to all tokens, and is still decoded with a state of fixed size.",
        source="equation of prefix linear attention",
        experiment=module,
        checks=(
            ForAll("relative difference of parallel and token by token", lambda rows: rows.decoded.max(), "<=", 1e-5),
            ForAll("M = 0: relative difference from causal linear attention", lambda rows: rows.without_prefix.max(),
                   "<=", 1e-6),
            ForAll("what a token behind the prefix changes before it", lambda rows: rows.leaked.max(), "<=", 0),
            ForAll("what the last token of the prefix changes, at least", lambda rows: rows.seen_by_all.min(), ">",
                   1e-5),
        ),
        controls=(
            ForAll("token by token from a state without the encoder's sums",
                   lambda rows: rows.decoded_without_encoder.max(), "<=", 1e-5),
            ForAll("M > 0: relative difference from causal linear attention", lambda rows: rows.prefix.max(), "<=",
                   1e-6),
        ),
    ),
    Claim(
        "jrt-prompt",
        "Reading the prompt twice lets a recurrent model answer where the larger set comes first.",
        source="JRT-Prompt, on set disjointness",
        experiment=trained,
        checks=(
            Check("|A| > |B|: accuracy twice minus once", lambda rows: gain(rows, "twice", "once", "larger_first"),
                  ">=", 0.10),
        ),
        controls=(
            Check("gated convolutions alone, the same",
                  lambda rows: gain(rows, "convolutions, twice", "convolutions, once", "larger_first"), ">=", 0.10),
        ),
    ),
    Claim(
        "prefix-linear-attention",
        "Seeing the prompt as a whole lets a recurrent model answer where the larger set comes first, and is of no "
        "matter where the smaller one does.",
        source="JRT-RNN, on set disjointness",
        experiment=trained,
        checks=(
            Check("|A| > |B|: accuracy with a prefix minus causal",
                  lambda rows: gain(rows, "prefix", "once", "larger_first"), ">=", 0.15),
            Check("|A| < |B|: |the same|", lambda rows: abs(gain(rows, "prefix", "once", "smaller_first")), "<=", 0.1),
        ),
        controls=(
            Check("|A| < |B|: accuracy with a prefix minus causal",
                  lambda rows: gain(rows, "prefix", "once", "smaller_first"), ">=", 0.15),
        ),
    ),
)  # fmt: skip


class JustReadTwice(Study):
    """What a recurrent model must keep depends on the order of reading; reading twice, or all at once, undoes that."""

    slug = "just-read-twice"
    paper = Paper(
        "Just read twice: closing the recall gap for recurrent language models",
        "Arora, Timalsina, Singhal, Spector, Eyuboglu, Zhao, Rao, Rudra, Ré", 2024, "2407.05483"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        trials: Size = Field(default=1000, description="pairs of sets for each accuracy without training")
        readers: list[Reader] = Field(default=READERS, description="that are trained")
        sizes: tuple[tuple[Size, Size], ...] = Field(default=((2, 24), (24, 2)), description="|A|, |B| in training")
        vocab_size: Size = Field(default=64, description="of the sets in training")
        width: Size = Field(default=32, description="of the trained models")
        num_heads: Size = Field(default=1, description="of linear attention")
        feature_dim: Size = Field(default=4, description="of queries and keys in linear attention")
        blocks: Size = Field(default=2, description="of a convolution and linear attention")
        steps: Size = Field(default=2000, description="of training")
        batch: Size = Field(default=64, description="examples in each step")
        lr: float = Field(default=8e-3, gt=0, description="learning rate")

    scales = {
        "smoke": Config(trials=300, readers=[]),
        "laptop": Config(),
        "paper": Config(
            sizes=tuple(
                pair
                for a, b in ((4, 16), (8, 32), (16, 64), (4, 128), (16, 256), (4, 256))
                for pair in ((a, b), (b, a))
            ),
            vocab_size=2048, width=64, num_heads=2, feature_dim=16, steps=45_000, batch=256, lr=8e-4,
        ),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 670, "paper": 40_000}

    def units(self, config: Config) -> Iterator[Unit]:
        fields = ("sizes", "vocab_size", "width", "num_heads", "feature_dim", "blocks", "steps", "batch", "lr")
        yield from grid(
            trained, reader=config.readers, tested_on=2000, **{name: getattr(config, name) for name in fields}
        )
        yield from grid(order, sizes=((4, 64), (64, 4), (16, 16)), state=64, vocab_size=2048, trials=config.trials)
        yield from grid(needed, lengths=(8, 16, 32, 64), fixed=4, wanted=0.9, vocab_size=2048, trials=config.trials)
        yield from grid(module, length=96, prefix_len=48, width=32)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not trained:
            return Resources()
        tokens = given["batch"] * 2 * max(a + b + 3 for a, b in given["sizes"])
        return training_resources(
            tokens=tokens, width=given["width"], layers=2 * given["blocks"], vocab_size=given["vocab_size"]
        )

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        states = of["needed"].groupby(["reader", "len_a"], as_index=False)[["state"]].mean()
        log, legend = {"type": "log"}, {"legend": True}
        figures = [
            plot("State for an accuracy of 0.9, |B| = 4",
                 mark("line", states, x="len_a", y="state", stroke="reader", marker=True),
                 x={**log, "label": "|A|"}, y={**log, "label": "numbers in the state"}, color=legend),
        ]  # fmt: skip
        if "trained" in of:
            columns = {"smaller_first": "smaller set first", "larger_first": "larger set first"}
            tall = of["trained"].rename(columns=columns).melt(["reader", "seed"], list(columns.values()), "order")
            figures.append(
                plot("Accuracy of trained readers", mark("dot", tall, x="value", y="reader", stroke="order"),
                     x={"label": "accuracy", "domain": [0, 1]}, y={"label": None}, color=legend)
            )  # fmt: skip
        return figures
