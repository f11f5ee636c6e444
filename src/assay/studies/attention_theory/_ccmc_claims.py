"""What is claimed of context-conditioned Markov chains, and what decides it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from assay.lab import Check, Claim
from assay.lab.statistics import fit_line
from assay.studies.attention_theory._ccmc_experiments import collapse, equivalence, identification, one_trajectory

CONNECTED = ["connected", "self"]


def at_ends(rows: pd.DataFrame, design: str) -> pd.DataFrame:
    """The rows of the smallest and the largest n, in this order."""
    return rows[rows.design == design].sort_values("n").iloc[[0, -1]]


def error_ratio(rows: pd.DataFrame, design: str) -> float:
    first, last = at_ends(rows, design).error
    return float(last / first)


def error_times_n(rows: pd.DataFrame, design: str) -> float:
    last = at_ends(rows, design).iloc[1]
    return float(last.error * last.n)


def told_apart(rows: pd.DataFrame, designs: list[str]) -> float:
    return float(rows[rows.design.isin(designs)].identifiable.min())


def exponent(rows: pd.DataFrame, x: str = "n", y: str = "error", **where: str) -> float:
    """Of the power of x as which y falls."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return fit_line(np.log(rows[x]), np.log(rows[y])).slope


def off_the_exponent(rows: pd.DataFrame, predicted: float | None = None, *, tie: bool = False) -> float:
    """The largest distance over chains of the share's exponent from what is predicted."""
    chains = rows[(rows.predicted == 0) == tie].groupby("chain")
    return max(
        abs(exponent(own, "time", "share") - (own.predicted.iloc[0] if predicted is None else predicted))
        for _, own in chains
    )


def fall(rows: pd.DataFrame, *, tie: bool = False) -> float:
    """The largest ratio over chains of the share at the end and at a fortieth of the time."""
    chains = rows[(rows.predicted == 0) == tie].groupby("chain")
    return max(
        float(own.sort_values("time").share.iloc[-1] / own.sort_values("time").share.iloc[0]) for _, own in chains
    )


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "attention-is-a-chain",
        "One layer of softmax attention with a tied head is a Markov chain whose row is weighted with the counts of "
        "the prompt, with position encodings by the weights of positions; weights and chain determine each other.",
        source="the equivalence theorem; positions: section on positional encodings",
        experiment=equivalence,
        checks=(
            ForAll("largest difference of the two laws", lambda rows: rows.law.max(), "<=", 1e-12),
            ForAll("the same with position encodings", lambda rows: rows.placed.max(), "<=", 1e-12),
            ForAll("P to W to P: largest difference", lambda rows: rows.chain.max(), "<=", 1e-12),
            ForAll("W to P to W, in the span of the differences: relative", lambda rows: rows.weights.max(), "<=",
                   1e-11),
        ),
        controls=(
            ForAll("the chain without counts", lambda rows: rows.law_without_counts.max(), "<=", 1e-12),
            ForAll("the chain without weights of positions", lambda rows: rows.placed_without_weights.max(), "<=",
                   1e-12),
            ForAll("W to P to W, for all of W", lambda rows: rows.weights_outside.max(), "<=", 1e-11),
        ),
    ),
    Claim(
        "connected-means-consistent",
        "Prompts determine the chain if and only if each query's co-occurrence graph is connected; that each token "
        "occurs with the query, the last token, suffices.",
        source="the consistency theorem; the graph's definition is from memory",
        experiment=identification,
        checks=(
            Check("connected: error at the largest n over that at the smallest",
                  lambda rows: error_ratio(rows, "connected"), "<=", 0.3),
            Check("connected: n times the error", lambda rows: error_times_n(rows, "connected"), "<=", 96),
            Check("query with every token: the ratio", lambda rows: error_ratio(rows, "self"), "<=", 0.3),
            Check("query with every token: n times the error", lambda rows: error_times_n(rows, "self"), "<=", 96),
            ForAll("the coverage test says so", lambda rows: told_apart(rows, CONNECTED), ">=", 1),
        ),
        controls=(
            Check("disconnected: the ratio", lambda rows: error_ratio(rows, "disconnected"), "<=", 0.3),
            Check("disconnected: n times the error", lambda rows: error_times_n(rows, "disconnected"), "<=", 96),
            ForAll("disconnected: the coverage test", lambda rows: told_apart(rows, ["disconnected"]), ">=", 1),
        ),
    ),
    Claim(
        "error-falls-as-one-over-n",
        "Where prompts determine the chain, the squared error falls as 1 / n.",
        source="the sample complexity theorem, O(K^2 / n); only the power of n is checked",
        experiment=identification,
        checks=(
            Check("connected: exponent of n", lambda rows: exponent(rows, design="connected"), "<=", -0.8),
            Check("connected: the same", lambda rows: exponent(rows, design="connected"), ">=", -1.2),
        ),
        controls=(
            Check("disconnected: exponent of n", lambda rows: exponent(rows, design="disconnected"), "<=", -0.8),
        ),
    ),
    Claim(
        "winner-takes-all",
        "A chain that reads itself collapses: the share of a token that loses falls as a power of time, "
        "P_wj / P_ww - 1 where w wins.",
        source="section on single trajectories; the exponent is derived here",
        experiment=collapse,
        checks=(
            Check("distance from the exponent, largest over chains", off_the_exponent, "<=", 0.05),
            Check("share at the end over that at a fortieth of the time", fall, "<=", 0.5),
        ),
        controls=(
            Check("a tie: distance from the mildest exponent of the others",
                  lambda rows: off_the_exponent(rows, rows[rows.predicted < 0].predicted.max(), tie=True), "<=", 0.05),
            Check("a tie: share at the end over that before", lambda rows: fall(rows, tie=True), "<=", 0.5),
        ),
    ),
    Claim(
        "one-trajectory-does-not-tell",
        "A single trajectory of a chain that reads itself does not tell the rows of tokens that lose; as many prompts "
        "do.",
        source="section on single trajectories",
        experiment=one_trajectory,
        checks=(
            Check("one trajectory: exponent of n of the error",
                  lambda rows: exponent(rows, source="one trajectory"), ">=", -0.5),
            Check("prompts: the same", lambda rows: exponent(rows, source="prompts"), "<=", -0.8),
        ),
        controls=(
            Check("one trajectory of a Markov chain, which does not weight with counts: the same",
                  lambda rows: exponent(rows, source="Markov chain"), ">=", -0.5),
        ),
    ),
)  # fmt: skip
