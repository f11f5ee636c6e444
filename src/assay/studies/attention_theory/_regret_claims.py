"""What `regret_loss` claims, and the inequalities that decide it."""

from __future__ import annotations

from functools import partial

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._regret_play import behaviour, games
from assay.studies.attention_theory._regret_theory import choices, identity, optimum

ForAll = partial(Check, every_seed=True)
LONG, SHORT = 200, 25  # rounds
NO_REGRET = 0.6  # Regret_T / T at 200 rounds, of losses up to 10


def worst(rows: pd.DataFrame, player: str, column: str) -> float:
    """The largest value of a player over all sequences of 200 rounds."""
    return float(rows[(rows.player == player) & (rows.horizon == LONG)][column].max())


def on(rows: pd.DataFrame, player: str, kind: str, column: str, *, d: int = 2, horizon: int = LONG) -> float:
    own = rows[(rows.player == player) & (rows.kind == kind) & (rows.d == d) & (rows.horizon == horizon)]
    return float(own[column].iloc[0])


def shrinks(rows: pd.DataFrame, player: str, column: str, *, zero_sum: bool) -> float:
    """The last value over the one after 100 rounds."""
    own = rows[(rows.player == player) & (rows.zero_sum == zero_sum)].sort_values("rounds")
    return float(own[column].iloc[-1] / own[column].iloc[0])


def last_of(rows: pd.DataFrame, player: str, column: str) -> float:
    return float(rows[(rows.player == player) & rows.zero_sum].sort_values("rounds")[column].iloc[-1])


CLAIMS = (
    Claim(
        "optimal-weights",
        "For independent losses of mean zero, the linear attention of least squared regret on a ball has "
        "V* = -R S^-1 E[||sum l|| l_1 l_2^T] S^-1, for isotropic losses -c I.",
        source="theorem on the minimiser of the regret loss (formula derived anew)",
        experiment=optimum,
        checks=(
            ForAll("relative distance of least squares from V*, largest", lambda rows: rows.off.max(), "<=", 0.05),
            ForAll("isotropic: |rate / c - 1|, largest", lambda rows: rows[rows.isotropic].rate_off.max(), "<=", 0.02),
            ForAll("mean squared regret over that of doing nothing, largest", lambda rows: rows.square.max(), "<", 1),
        ),
        controls=(
            ForAll("the distance for losses of another mean, smallest", lambda rows: rows.off_with_mean.min(), "<=",
                   0.05),
            ForAll("mean squared regret of -V*, smallest", lambda rows: rows.square_flipped.min(), "<", 1),
        ),
    ),
    Claim(
        "attention-is-ftrl",
        "Linear attention with V = -eta I and weights that do not depend on losses is FTRL: Hedge with a softmax, with "
        "a projection the lazy projection of minus eta times the total.",
        source="self-attention and FTRL",
        experiment=identity,
        checks=(ForAll("largest difference of policies", lambda rows: rows.difference.max(), "<=", 1e-12),),
        controls=(
            ForAll("the same with keys, smallest", lambda rows: rows.with_keys.min(), "<=", 1e-12),
            ForAll("the same from FTL, smallest", lambda rows: rows.from_ftl.min(), "<=", 1e-12),
        ),
    ),
    Claim(
        "players-have-no-regret",
        "Hedge and FTPL have little regret on every sequence, growing slower than the number of rounds.",
        source="the baselines of the experiments",
        experiment=behaviour,
        checks=tuple(
            Check(f"{player}: largest {words}", partial(worst, player=player, column=column), "<=", limit)
            for player in ("Hedge", "FTPL")
            for words, column, limit in (("Regret_T / T", "average", NO_REGRET), ("slope of log regret", "slope", 1))
        ),
        controls=(
            Check("FTL: largest Regret_T / T", lambda rows: worst(rows, "FTL", "average"), "<=", NO_REGRET),
            Check("FTL: largest slope", lambda rows: worst(rows, "FTL", "slope"), "<=", 1),
        ),
    ),
    Claim(
        "checks-see-greed",
        "On the alternating sequence FTL has linear regret, and both checks say so.",
        source="the two checks, and the alternating sequence, from memory",
        experiment=behaviour,
        checks=(
            Check("FTL: Regret_T / T", lambda rows: on(rows, "FTL", "alternating", "average"), ">=", 4),
            Check("FTL: slope", lambda rows: on(rows, "FTL", "alternating", "slope"), ">=", 0.99),
            Check("FTL: p of the trend check", lambda rows: on(rows, "FTL", "alternating", "p_trend"), ">=", 0.9),
        ),
        controls=(
            Check("Hedge: Regret_T / T", lambda rows: on(rows, "Hedge", "alternating", "average"), ">=", 4),
            Check("Hedge: slope", lambda rows: on(rows, "Hedge", "alternating", "slope"), ">=", 0.99),
            Check("Hedge: p of the trend check", lambda rows: on(rows, "Hedge", "alternating", "p_trend"), ">=", 0.9),
        ),
    ),
    Claim(
        "checks-are-fooled",
        "The checks alone do not tell: with linear regret FTL passes each of them on some sequence, and in 25 rounds "
        "Hedge fails one.",
        source="none: a limit of the two checks",
        experiment=behaviour,
        checks=(
            Check("FTL, adaptive: Regret_T / T", lambda rows: on(rows, "FTL", "adaptive", "average"), ">=", 4),
            Check("FTL, adaptive: p of a slope below 1", lambda rows: on(rows, "FTL", "adaptive", "p_slope"), "<=",
                  0.05),
            Check("FTL, alternating among 3: Regret_T / T", lambda rows: on(rows, "FTL", "alternating", "average", d=3),
                  ">=", 4),
            Check("FTL, alternating among 3: p of the trend check",
                  lambda rows: on(rows, "FTL", "alternating", "p_trend", d=3), "<=", 0.05),
            Check("Hedge, noisy alternating, 25 rounds: p of a slope below 1",
                  lambda rows: on(rows, "Hedge", "noisy-alternating", "p_slope", horizon=SHORT), ">=", 0.95),
        ),
        controls=(
            Check("FTL, alternating: p of a slope below 1", lambda rows: on(rows, "FTL", "alternating", "p_slope"),
                  "<=", 0.05),
            Check("FTL, alternating: p of the trend check", lambda rows: on(rows, "FTL", "alternating", "p_trend"),
                  "<=", 0.05),
            Check("Hedge, alternating: p of a slope below 1", lambda rows: on(rows, "Hedge", "alternating", "p_slope"),
                  ">=", 0.95),
        ),
    ),
    Claim(
        "average-play",
        "Average play of two Hedge players nears a Nash equilibrium of a zero-sum game, and their joint play a coarse "
        "correlated equilibrium of any.",
        source="repeated games; Freund & Schapire 1999",
        experiment=games,
        checks=(
            ForAll("zero-sum: duality gap at the end over that after 100 rounds",
                   lambda rows: shrinks(rows, "Hedge", "gap", zero_sum=True), "<=", 0.4),
            ForAll("zero-sum: payoff less exact value", lambda rows: last_of(rows, "Hedge", "off_value"), "<=", 0.02),
            ForAll("general: gap to a coarse correlated equilibrium, the same ratio",
                   lambda rows: shrinks(rows, "Hedge", "cce", zero_sum=False), "<=", 0.4),
            ForAll("that gap less the largest Regret_T / T", lambda rows: rows.differs.max(), "<=", 1e-9),
        ),
        controls=(
            ForAll("best answers to the last move: duality gap, the same ratio",
                   lambda rows: shrinks(rows, "greedy", "gap", zero_sum=True), "<=", 0.4),
            ForAll("the same: payoff less exact value", lambda rows: last_of(rows, "greedy", "off_value"), "<=", 0.02),
            ForAll("the same: gap to a coarse correlated equilibrium, ratio",
                   lambda rows: shrinks(rows, "greedy", "cce", zero_sum=False), "<=", 0.4),
        ),
    ),
    Claim(
        "noisy-choices-are-ftpl",
        "Whoever chooses the best action of means drawn from what noisy losses tell of them is FTPL with normal noise.",
        source="quantal response; pretraining on optimal actions; from memory",
        experiment=choices,
        checks=(
            Check("FTPL: |cross-entropy of the best action less own entropy|",
                  lambda rows: rows[rows.player == "FTPL"].calibration.iloc[0], "<=", 0.05),
            Check("cross-entropy of FTPL with other rates less its own, smallest",
                  lambda rows: rows[rows.player != "FTPL"].excess.min(), ">", 0),
        ),
        controls=(
            Check("half the rate: |cross-entropy less entropy|",
                  lambda rows: rows[rows.player == "half"].calibration.iloc[0], "<=", 0.05),
            Check("cross-entropy of other rates less that of half the rate, smallest",
                  lambda rows: (rows.excess - rows[rows.player == "half"].excess.iloc[0]).min(), ">", 0),
        ),
    ),
)  # fmt: skip
