"""What the study of chain-of-thought prompts claims, and what decides it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._cot_risks import filtering, risk
from assay.studies.attention_theory._cot_trained import trained


def needed(rows: pd.DataFrame, k: int, column: str, level: float = 0.05) -> float:
    """The number of examples at which an error first falls to `level`, between two that were tried on a straight line
    of logarithms; infinite where none does."""
    own = rows[rows.k == k].sort_values("examples")
    log_n, log_error = np.log(own.examples.to_numpy()), np.log(np.maximum(own[column].to_numpy(), 1e-12))
    below = np.flatnonzero(log_error <= np.log(level))
    if not len(below):
        return float("inf")
    last = below[0]
    if last == 0:
        return float(own.examples.iloc[0])
    part = (np.log(level) - log_error[last - 1]) / (log_error[last] - log_error[last - 1])
    return float(np.exp(log_n[last - 1] + part * (log_n[last] - log_n[last - 1])))


def at_least(rows: pd.DataFrame, k: int, level: float, column: str = "direct") -> float:
    """Examples that the direct fit needs; all that were tried where they are too few."""
    return min(needed(rows, k, column, level), float(rows.examples.max()))


def widths(rows: pd.DataFrame) -> list[int]:
    return sorted(int(k) for k in rows.k.unique())


def worst(rows: pd.DataFrame, column: str) -> float:
    return max(needed(rows, k, column) for k in widths(rows))


def advantage(rows: pd.DataFrame, column: str) -> float:
    """How many times as many examples the direct fit needs, the smallest over widths."""
    return min(at_least(rows, k, 0.05) / needed(rows, k, column) for k in widths(rows))


def growth(rows: pd.DataFrame, column: str) -> float:
    """Examples needed at twice the width over those at the width, for an error of 0.01."""
    k, twice = widths(rows)[:2]
    narrow = needed(rows, k, column, 0.01)
    if narrow == float("inf"):
        raise LookupError(f"at width {k} no number of examples was enough: {column}")
    return (at_least(rows, twice, 0.01) if column == "direct" else needed(rows, twice, column, 0.01)) / narrow


def by_chance(rows: pd.DataFrame) -> float:
    """The same of the direct fit where the width does not change: from one half of the prompts to the other, the larger
    of both ways, most over widths."""
    pairs = [[at_least(rows, k, 0.01, f"direct_{half}_half") for half in ("first", "other")] for k in widths(rows)]
    return max(max(pair) / min(pair) for pair in pairs)


def at_60(rows: pd.DataFrame, column: str) -> float:
    """The smallest error over widths at the number of examples nearest to 60."""
    nearest = rows.examples.iloc[(rows.examples - 60).abs().argmin()]
    return float(rows[rows.examples == nearest][column].min())


def last(rows: pd.DataFrame, mode: str, column: str = "risk") -> float:
    """Error at the last position over the mean square of y."""
    own = rows[rows["mode"] == mode]
    return float(own[own.position == own.position.max()][column].iloc[0])


def seen(rows: pd.DataFrame, step: str, tokens: str) -> float:
    """What shuffling some tokens does to the loss of a step, over what shuffling its own inputs does; undefined where
    that does no harm, in a model that has not learned the step."""
    row = rows[rows["mode"] == "CoT-I/O"].iloc[0]
    own = float(row[f"{step}_by_own"])
    return float(row[f"{step}_by_{tokens}"]) / own if own > 0 else float("nan")


CLAIMS = (
    Claim(
        "attention-filters",
        "One head of softmax attention zeroes all tokens of a prompt but those of one step, and what it leaves "
        "of each step is enough to learn the network.",
        source="filtering; the construction of the weights is ours",
        experiment=filtering,
        checks=(
            Check("largest error of the head over the largest entry", lambda rows: rows.error.max(), "<=", 1e-9,
                  every_seed=True),
            Check("error of the network learned from filtered steps", lambda rows: rows.learned.max(), "<=", 1e-6),
        ),
        controls=(
            Check("the head with sharpness 1", lambda rows: rows.error_blunt.max(), "<=", 1e-9, every_seed=True),
            Check("learned from the filter of another step", lambda rows: rows.learned_other_step.max(), "<=", 1e-6),
        ),
    ),
    Claim(
        "steps-need-few-examples",
        "With the hidden activations shown, 30 examples are enough to learn a two-layer network of 10 inputs in "
        "context, at any width; from inputs and outputs alone at least twice as many are needed.",
        source="theorem and figure of sample complexity, from memory",
        experiment=risk,
        checks=(
            Check("examples for an error of 0.05, step by step, most over widths",
                  lambda rows: worst(rows, "step_by_step"), "<=", 30),
            Check("direct over step by step, least over widths", lambda rows: advantage(rows, "step_by_step"), ">=",
                  2),
        ),
        controls=(
            Check("examples, activations of other examples", lambda rows: worst(rows, "shuffled"), "<=", 30),
            Check("direct over that", lambda rows: advantage(rows, "shuffled"), ">=", 2),
        ),
    ),
    Claim(
        "direct-needs-width",
        "Twice the width asks for more examples where the hidden activations are not shown, and for none more where "
        "they are.",
        source="k d against max(k, d), from memory",
        experiment=risk,
        checks=(
            Check("examples for an error of 0.01 at twice the width, direct", lambda rows: growth(rows, "direct"),
                  ">=", 1.5),
            Check("the same step by step", lambda rows: growth(rows, "step_by_step"), "<=", 1.25),
        ),
        controls=(
            Check("the same width, from one half of the prompts to the other, direct", by_chance, ">=", 1.5),
            Check("direct", lambda rows: growth(rows, "direct"), "<=", 1.25),
        ),
    ),
    Claim(
        "pairing-is-needed",
        "What helps is that each activation stands by the example that it belongs to.",
        source="filtering; the criterion is ours",
        experiment=risk,
        checks=(
            Check("error at the number of examples nearest to 60, activations of others",
                  lambda rows: at_60(rows, "shuffled"), ">", 0.5),
        ),
        controls=(Check("activations of their own", lambda rows: at_60(rows, "step_by_step"), ">", 0.5),),
    ),
    Claim(
        "cot-io-predicts-better",
        "A transformer that predicts the hidden activations on its way predicts y better than one that never sees "
        "them.",
        source="figure of the risk by number of examples",
        experiment=trained,
        checks=(
            Check("error at the last position, CoT-I/O over ICL",
                  lambda rows: last(rows, "CoT-I/O") / last(rows, "ICL"), "<", 1),
        ),
        controls=(
            Check("the same, with activations of other examples in the prompt",
                  lambda rows: last(rows, "CoT-I/O", "risk_shuffled") / last(rows, "ICL"), "<", 1),
        ),
    ),
    Claim(
        "cot-i-between",
        "Activations in the prompt help a transformer that predicts y at once, but less than predicting them does.",
        source="figure of the risk by number of examples",
        experiment=trained,
        checks=(
            Check("error at the last position, CoT-I over ICL", lambda rows: last(rows, "CoT-I") / last(rows, "ICL"),
                  "<", 1),
            Check("CoT-I/O over CoT-I", lambda rows: last(rows, "CoT-I/O") / last(rows, "CoT-I"), "<", 1),
        ),
        controls=(
            Check("CoT-I over ICL, with activations of other examples",
                  lambda rows: last(rows, "CoT-I", "risk_shuffled") / last(rows, "ICL"), "<", 1),
        ),
    ),
    Claim(
        "trained-model-filters",
        "The trained model filters: tokens of other steps matter little to what it predicts at a step.",
        source="filtering in trained models; the criterion is ours",
        experiment=trained,
        checks=(
            Check("rise of the loss of the last step by other tokens, over that by its own",
                  lambda rows: seen(rows, "last", "others"), "<=", 0.1),
            Check("the same of the first step", lambda rows: seen(rows, "first", "others"), "<=", 0.1),
        ),
        controls=(
            Check("by its own tokens in reverse order, over that by its own",
                  lambda rows: seen(rows, "last", "own_reversed"), "<=", 0.1),
        ),
    ),
)  # fmt: skip
