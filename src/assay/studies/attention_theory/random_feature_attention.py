"""Random-feature attention: what one attention layer learns with few examples when only its values are trained."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.lab.statistics import fit_line
from assay.studies.attention_theory._rfa_errors import errors

Size = Annotated[int, Field(ge=1)]
KEYS, QUERY_KEY, FIRST = "keys", "query-key", "first-key"
ATTENTION, BIASED, MLP = "attention", "biased attention", "MLP"


def error(rows: pd.DataFrame, target: str, model: str) -> float:
    """Of a model on a target, at the sizes at which the models are compared."""
    own = rows[(rows.sweep == "targets") & (rows.target == target) & (rows.model == model)]
    return float(own.error.iloc[0])


def ratio(rows: pd.DataFrame, target: str, model: str, other: str) -> float:
    return error(rows, target, model) / error(rows, target, other)


def rise_with_keys(rows: pd.DataFrame, model: str) -> float:
    """Error with the most keys less the error with the fewest."""
    own = rows[(rows.sweep == "keys") & (rows.model == model)].sort_values("num_keys")
    return float(own.error.iloc[-1] - own.error.iloc[0])


def heads_for(own: pd.DataFrame, level: float) -> float:
    """Heads at which the error comes down to the level, on lines between the logs; NaN where the grid does not say."""
    own = own.sort_values("heads")
    fall = -np.log(own.error.cummin())
    return float(np.exp(np.interp(-np.log(level), fall, np.log(own.heads), left=np.nan, right=np.nan)))


def exponent(rows: pd.DataFrame) -> float:
    """Slope of the log of the heads that reach an error of 0.4 over log d; NaN unless all sizes reach it."""
    own = rows[(rows.sweep == "heads") & (rows.model == ATTENTION)]
    dims = sorted(set(own.d))
    heads = np.array([heads_for(own[own.d == d], 0.4) for d in dims])
    return fit_line(np.log(dims), np.log(heads)).slope if np.isfinite(heads).all() else float("nan")


def least_error(rows: pd.DataFrame, model: str) -> float:
    """The least error with any number of heads, for the d where it is largest."""
    own = rows[(rows.sweep == "heads") & (rows.model == model)]
    return float(own.groupby("d").error.min().max())


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "order-does-not-matter",
        "On a function that does not depend on the order of the keys, attention with random heads needs fewer examples "
        "than a random-feature network of as many parameters.",
        source="sample complexity, from memory: d^p beside (N d)^p examples; experiments, target f1",
        experiment=errors,
        checks=(
            ForAll("error of attention", lambda rows: error(rows, KEYS, ATTENTION), "<=", 0.35),
            ForAll("error of attention over the MLP's", lambda rows: ratio(rows, KEYS, ATTENTION, MLP), "<=", 0.5),
        ),
        controls=(
            ForAll("a function of the first key: error", lambda rows: error(rows, FIRST, ATTENTION), "<=", 0.35),
            ForAll("the same: over the MLP's", lambda rows: ratio(rows, FIRST, ATTENTION, MLP), "<=", 0.5),
        ),
    ),
    Claim(
        "keys-cost-nothing",
        "The examples that attention needs do not grow with the number of keys; those of the network do.",
        source="sample complexity, from memory: d^p beside (N d)^p examples",
        experiment=errors,
        checks=(
            Check("error of attention with the most keys less that with the fewest",
                  lambda rows: rise_with_keys(rows, ATTENTION), "<=", 0.2),
        ),
        controls=(Check("MLP: the same", lambda rows: rise_with_keys(rows, MLP), "<=", 0.2),),
    ),
    Claim(
        "few-heads",
        "The heads that are needed grow no faster than the square of d, between d = 4 and 16 (8 at the smoke scale).",
        source="section on the number of heads: poly(d) random heads suffice",
        experiment=errors,
        checks=(
            Check("least error with any number of heads, largest over d", lambda rows: least_error(rows, ATTENTION),
                  "<=", 0.4),
            Check("exponent of the heads for an error of 0.4 over d", exponent, "<=", 2),
        ),
        controls=(Check("MLP of as many parameters: least error", lambda rows: least_error(rows, MLP), "<=", 0.4),),
    ),
    Claim(
        "biased-heads",
        "Where a key counts by its correlation with the query, heads whose mean attends to that correlation win.",
        source="section on biased heads; experiments, target f2",
        experiment=errors,
        checks=(
            ForAll("biased heads over plain", lambda rows: ratio(rows, QUERY_KEY, BIASED, ATTENTION), "<=", 0.85),
        ),
        controls=(
            ForAll("a function of the keys alone", lambda rows: ratio(rows, KEYS, BIASED, ATTENTION), "<=", 0.85),
        ),
    ),
    Claim(
        "bias-is-a-trade",
        "Where the query does not count, the same heads lose.",
        source="experiments, target f1",
        experiment=errors,
        checks=(
            ForAll("biased heads over plain", lambda rows: ratio(rows, KEYS, BIASED, ATTENTION), ">", 1),
        ),
        controls=(
            ForAll("a function of query and keys", lambda rows: ratio(rows, QUERY_KEY, BIASED, ATTENTION), ">", 1),
        ),
    ),
)  # fmt: skip


class RandomFeatureAttentionStudy(Study):
    """A single attention layer with random heads, whose values alone are fitted: what its shape buys."""

    slug = "random-feature-attention"
    paper = Paper("What can a Single Attention Layer Learn? A Study Through the Random Features Lens",
                  "Fu, Guo, Bai, Mei", 2023, "2307.11353", "NeurIPS")  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        d: Size = Field(default=8, description="size of query and keys")
        num_keys: Size = Field(default=8, description="N")
        heads: Size = Field(default=100, description="M; there are M (d + 1) parameters")
        bias: float = Field(default=2.0, gt=0, description="c of the biased heads")
        power: Size = Field(default=2, description="p of the function of the keys; 1 for the other two")
        prompts: Size = Field(default=500, description="to fit; of query and keys, 3/5 of it")
        key_counts: list[Size] = Field(default=[2, 4, 8, 16], description="for keys-cost-nothing")
        dims: list[Size] = Field(default=[4, 8, 16], description="for few-heads, at 8 d^2 prompts")
        head_counts: list[Size] = Field(default=[4, 8, 16, 32, 64, 96], description="for few-heads")
        curve: list[Size] = Field(default=[125, 250, 1000, 2000], description="prompts of the learning curves")

    scales = {
        "smoke": Config(key_counts=[2, 8], dims=[4, 8], head_counts=[4, 16, 64], curve=[]),
        "laptop": Config(),
        "paper": Config(d=16, num_keys=16, heads=1000, prompts=4096,
                        key_counts=[4, 16], dims=[4, 8, 16], head_counts=[16, 64, 256],
                        curve=[256, 1024, 16_384]),
    }  # fmt: skip
    seconds = {"smoke": 12, "laptop": 270, "paper": 20_000}

    def units(self, config: Config) -> Iterator[Unit]:
        same = {"bias": config.bias, "num_keys": config.num_keys}
        sizes = same | {"d": config.d, "heads": config.heads}
        for target, power, prompts in (
            (KEYS, config.power, config.prompts),
            (FIRST, 1, config.prompts),
            (QUERY_KEY, 1, config.prompts * 3 // 5),
        ):
            about = {"target": target, "power": power}
            yield from grid(errors, sweep="targets", prompts=prompts, **about, **sizes)
            yield from grid(errors, sweep="curves", prompts=config.curve, **about, **sizes)
        about = {"target": KEYS, "power": config.power}
        with_keys = sizes | {"num_keys": config.key_counts}
        yield from grid(errors, sweep="keys", prompts=config.prompts, **about, **with_keys)
        for d in config.dims:
            yield from grid(errors, sweep="heads", prompts=8 * d**2, d=d, heads=config.head_counts, **about, **same)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        features = given["heads"] * (given["d"] + 1)
        smaller = min(features, given["prompts"])
        return Resources(memory=PROCESS + 8 * (3 * features * (given["prompts"] + 2000) + 3 * smaller**2))

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        log, legend = {"type": "log"}, {"legend": True}
        error = {"label": "squared error over variance"}

        def lines(sweeps: list[str], x: str, **options: Any) -> dict[str, Any]:
            by = ["model", x, *options.values()]
            own = rows[rows.sweep.isin(sweeps)].groupby(by, as_index=False)[["error"]].mean()
            return mark("line", own, x=x, y="error", stroke="model", marker=True, **options)

        attention = rows[(rows.sweep == "heads") & (rows.model == ATTENTION)]
        attention = attention.assign(dimension="d = " + attention.d.astype(str))
        attention = attention.groupby(["d", "dimension", "heads"], as_index=False)[["error"]].mean()
        return [
            plot("Error by number of examples", lines(["targets", "curves"], "prompts", fx="target"),
                 x={**log, "label": "prompts to fit"}, y=error, fx={"label": "function of"}, color=legend),
            plot("Error by number of keys", lines(["keys"], "num_keys"), x={**log, "label": "keys"}, y=error,
                 color=legend),
            plot("Error of attention by number of heads", mark("ruleY", [0.4], strokeDasharray="4"),
                 mark("line", attention, x="heads", y="error", stroke="dimension", marker=True),
                 x={**log, "label": "heads"}, y={**log, **error}, color=legend),
        ]  # fmt: skip
