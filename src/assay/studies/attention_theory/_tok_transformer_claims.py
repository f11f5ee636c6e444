"""What is claimed about transformers on tokens of Markov sources, and what decides it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._tok_claims import NEAR, ORDERS
from assay.studies.attention_theory._tok_transformer import transformer


def after(rows: pd.DataFrame, tokens: str, order: int, unit: str, chars: float = np.inf, column: str = "nats") -> float:
    """A transformer's loss in `unit` when it has seen so many characters, at the rate that is best for it then."""
    own = rows[(rows.order == order) & (rows.tokens == tokens) & (rows.chars <= chars)]
    last = own.sort_values("chars").groupby("lr").last()
    return float((last[column] / last[unit]).min())


def reached(rows: pd.DataFrame, tokens: str, order: int) -> float:
    """Characters seen until the loss is near the entropy rate, at the best rate; all of the run where it never is."""
    own = rows[(rows.order == order) & (rows.tokens == tokens)]
    there = own[own.nats <= NEAR * own.entropy_rate]
    return float(there.chars.min() if len(there) else own.chars.max())


def needed(rows: pd.DataFrame, tokens: str, order: int) -> float:
    return reached(rows, tokens, order) / float(rows.chars.max())


def still(rows: pd.DataFrame, order: int) -> float:
    """Loss on characters over log 2 after twice the text that the model of tokens needs."""
    return after(rows, "characters", order, "marginal_entropy", 2 * reached(rows, "BPE", order))


def times_slower(rows: pd.DataFrame, order: int) -> float:
    return reached(rows, "characters", order) / reached(rows, "BPE", order)


CLAIMS = (
    Claim(
        "slow-without-tokens",
        "When a transformer on tokens is near the entropy rate, one on characters is still at the unigram loss.",
        source="abstract; figure of losses, order above 1",
        experiment=transformer,
        checks=(
            Check("order 4, twice the text after which tokens are near: loss on characters over log 2",
                  partial(still, order=4), ">=", 0.9),
            Check("order 4, part of the text after which tokens are near", partial(needed, tokens="BPE", order=4), "<=",
                  0.1),
        ),
        controls=(
            Check("order 1: loss on characters over log 2", partial(still, order=1), ">=", 0.9),
            Check("order 4, part of the text after which characters are near",
                  partial(needed, tokens="characters", order=4), "<=", 0.1),
        ),
    ),
    Claim(
        "many-times-the-text",
        "On characters a transformer needs several times as much text as on tokens, for an order above 1.",
        source="abstract of the second version: incredibly slow",
        experiment=transformer,
        checks=tuple(
            Check(f"order {k}: text until 1.2 H_inf, characters over tokens", partial(times_slower, order=k), ">=", 4)
            for k in ORDERS[1:]
        ),
        controls=(Check("the same for order 1", lambda rows: times_slower(rows, 1), ">=", 4),),
    ),
    Claim(
        "never-without-tokens",
        "On characters a transformer stays at the unigram loss, for an order above 1.",
        source="abstract of the first version: fail",
        experiment=transformer,
        checks=tuple(
            Check(f"order {k}, all steps: loss over log 2",
                  partial(after, tokens="characters", order=k, unit="marginal_entropy"), ">=", 0.9)
            for k in ORDERS[1:]
        ),
        controls=(
            Check("the same for order 1", lambda rows: after(rows, "characters", 1, "marginal_entropy"), ">=", 0.9),
        ),
    ),
    Claim(
        "tokens-reach-the-entropy",
        "On tokens a transformer comes near the entropy rate.",
        source="abstract; figure of losses",
        experiment=transformer,
        checks=tuple(
            Check(f"order {k}, all steps: loss over the entropy rate",
                  partial(after, tokens="BPE", order=k, unit="entropy_rate"), "<=", NEAR)
            for k in ORDERS[1:]
        ),
        controls=(
            Check("a unigram model of the same few tokens, order 4",
                  lambda rows: after(rows, "BPE", 4, "entropy_rate", column="unigram"), "<=", NEAR),
        ),
    ),
)  # fmt: skip
