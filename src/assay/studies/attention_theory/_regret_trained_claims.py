"""What `regret_loss` claims of networks that are trained, and the inequalities that decide it."""

from __future__ import annotations

from functools import partial

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._regret_training import ball, pretraining, simplex, transformer

ForAll = partial(Check, every_seed=True)


def trained(rows: pd.DataFrame, h: str = "square") -> pd.DataFrame:
    return rows[rows.h == h]


def worst_over_hedge(rows: pd.DataFrame, column: str = "trained", *, h: str = "square", group: int | None = 1) -> float:
    """Worst average regret over sequences, over that of Hedge; for one loss, None for the only one."""
    own = rows if group is None else rows[(rows.h == h) & (rows.group == group)]
    return float(own[column].max() / own.hedge.max())


def largest_ratio(rows: pd.DataFrame, column: str) -> float:
    """On each sequence the average regret over that of Hedge; the largest."""
    return float((rows[column] / rows.hedge).max())


CLAIMS = (
    Claim(
        "training-finds-ftrl",
        "Linear attention trained with the squared regret on a ball becomes FTRL at the rate of the theorem.",
        source="theorem on the minimiser",
        experiment=ball,
        checks=(
            ForAll("cosine of V and -I", lambda rows: trained(rows).cosine.min(), ">=", 0.95),
            ForAll("weight on losses over constant weight", lambda rows: trained(rows)["keys"].max(), "<=", 0.05),
            Check("|rate / c - 1|", lambda rows: (trained(rows).rate_ratio - 1).abs().max(), "<=", 0.1),
        ),
        controls=(
            ForAll("h(x) = x: cosine", lambda rows: trained(rows, "identity").cosine.min(), ">=", 0.95),
            Check("h(x) = x: |rate / c - 1|", lambda rows: (trained(rows, "identity").rate_ratio - 1).abs().max(), "<=",
                  0.1),
        ),
    ),
    Claim(
        "training-finds-hedge",
        "With a softmax it becomes Hedge.",
        source="experiments, from memory",
        experiment=simplex,
        checks=(
            ForAll("cosine of V and -I, without the mean of columns; of N = 1 and 8",
                   lambda rows: trained(rows).cosine.min(), ">=", 0.95),
            ForAll("weight on losses over constant weight", lambda rows: trained(rows)["keys"].max(), "<=", 0.05),
        ),
        controls=(ForAll("h(x) = x: cosine", lambda rows: trained(rows, "identity").cosine.min(), ">=", 0.95),),
    ),
    Claim(
        "trained-has-no-regret",
        "So trained, it has little regret also on the sequences that are made against greedy players.",
        source="experiments, from memory",
        experiment=simplex,
        checks=tuple(
            Check(f"worst Regret_T / T over that of Hedge, N = {group}", partial(worst_over_hedge, group=group), "<=",
                  1.5)
            for group in (1, 8)
        ),
        controls=(
            Check("the same for FTL", partial(worst_over_hedge, column="ftl"), "<=", 1.5),
            Check("the same for h(x) = x", partial(worst_over_hedge, h="identity"), "<=", 1.5),
        ),
    ),
    Claim(
        "near-hedge-everywhere",
        "So trained, its regret is within 1.5 times that of Hedge on every single sequence.",
        source="none: a stricter reading of the same",
        experiment=simplex,
        checks=(Check("largest ratio", lambda rows: largest_ratio(trained(rows), "trained"), "<=", 1.5),),
        controls=(Check("largest ratio of FTL", lambda rows: largest_ratio(trained(rows), "ftl"), "<=", 1.5),),
    ),
    Claim(
        "transformer-has-no-regret",
        "A small transformer trained with the regret loss has little regret on all sequences.",
        source="abstract; experiments, from memory",
        experiment=transformer,
        checks=(Check("worst Regret_T / T over that of Hedge", partial(worst_over_hedge, group=None), "<=", 1.5),),
        controls=(
            Check("the same for FTL", partial(worst_over_hedge, column="ftl", group=None), "<=", 1.5),
            Check("the same before training", partial(worst_over_hedge, column="untrained", group=None), "<=", 1.5),
        ),
    ),
    Claim(
        "pretraining-gives-ftpl",
        "A small transformer that learns from noisy losses which action is the best one plays FTPL.",
        source="theorem on supervised pretraining, from memory",
        experiment=pretraining,
        checks=(Check("mean total variation from FTPL", lambda rows: rows.distance.max(), "<=", 0.05),),
        controls=(
            Check("from FTPL with twice the rate", lambda rows: rows.distance_twice.max(), "<=", 0.05),
            Check("from FTPL with half the rate", lambda rows: rows.distance_half.max(), "<=", 0.05),
            Check("from FTL", lambda rows: rows.distance_ftl.max(), "<=", 0.05),
        ),
    ),
)  # fmt: skip
