"""What is claimed about dictionaries of tokens of Markov sources, and what decides it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from assay.lab import Check, Claim
from assay.lab.statistics import smallest_step
from assay.studies.attention_theory._tok_dictionaries import dictionaries, hidden_chains

NEAR = 1.2  # times the entropy rate; 16 tokens that are all equally likely cost 1.4 to 1.8 times of it
ORDERS = (1, 2, 4)


def of(
    rows: pd.DataFrame, dictionary: str, column: str, size: int = 1, *, order: int = 1, source: str = "switching"
) -> float:
    """A number of one dictionary. By default, of the characters themselves: pieces of one."""
    own = rows[(rows.source == source) & (rows.order == order) & (rows.dictionary == dictionary)]
    return float(own[own["size"] == size][column].iloc[0])


def worst(rows: pd.DataFrame, dictionary: str, size: int, *, over: str = "entropy_rate", orders: Any = ORDERS) -> float:
    """The largest loss over the orders, in units of `over`."""
    return max(of(rows, dictionary, "nats", size, order=k) / of(rows, "fixed", over, order=k) for k in orders)


def to_characters(rows: pd.DataFrame, **source: Any) -> float:
    return of(rows, "LZW", "nats", 512, **source) / of(rows, "fixed", "nats", **source)


def least_gain(rows: pd.DataFrame, dictionary: str, order: int, sizes: tuple[float, float] = (32, np.inf)) -> float:
    """What the next larger dictionary gains at least, among those of these sizes, in units of the entropy rate."""
    own = rows[(rows.source == "switching") & (rows.order == order) & (rows.dictionary == dictionary)]
    return smallest_step(-own[own["size"].between(*sizes)].sort_values("size").ratio)


def from_formula(rows: pd.DataFrame, order: int) -> float:
    own = rows[(rows.source == "switching") & (rows.order == order) & (rows.dictionary == "fixed")]
    return float(((own.nats - own.formula).abs() / own.entropy_rate).max())


def of_coins(rows: pd.DataFrame, **source: Any) -> float:
    """The loss with a dictionary learned on fair coins over the one with the source's own."""
    return of(rows, "LZW of fair coins", "nats", 512, **source) / of(rows, "LZW", "nats", 512, **source)


def hidden(rows: pd.DataFrame, tokens: str, over: str, text: str = "as it is") -> float:
    """Loss on a chain that is read with errors, in units of a column."""
    own = rows[rows.text == text].set_index("tokens")
    return float(own.nats[tokens] / own[over][tokens])


Each = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "tokens-make-unigrams-suffice",
        "A unigram model over learned tokens comes near the entropy rate; over characters it stays at the entropy of a "
        "single character.",
        source="abstract; theorem on LZW, section on BPE",
        experiment=dictionaries,
        checks=(
            Check("512 LZW tokens over characters, worst order", lambda rows: max(to_characters(rows, order=k)
                                                                                 for k in ORDERS), "<=", 0.7),
            Check("128 BPE tokens over the entropy rate, worst order", lambda rows: worst(rows, "BPE", 128), "<=", 1.3),
        ),
        controls=(
            Check("fair coins: 512 LZW tokens over characters", lambda rows: to_characters(rows, source="fair coins"),
                  "<=", 0.99),
            Check("characters over the entropy rate", lambda rows: worst(rows, "fixed", 1, orders=[1]), "<=", 1.3),
        ),
    ),
    Claim(
        "larger-is-better",
        "From 32 tokens on, a larger LZW dictionary gives a smaller loss.",
        source="theorem on LZW, from memory: the excess is of the order of 1 / log d",
        experiment=dictionaries,
        checks=tuple(
            Check(f"order {k}: least gain from size to size", partial(least_gain, dictionary="LZW", order=k), ">", 0)
            for k in ORDERS
        ),
        controls=(
            Check("order 4: the same for tokens of fixed length up to the order",
                  lambda rows: least_gain(rows, "fixed", 4, sizes=(1, 4)), ">", 0),
        ),
    ),
    Claim(
        "fixed-length-formula",
        "Tokens of r characters cost (H(pi) + (r - 1) H_inf) / r on a source of order 1.",
        source="section on dictionaries of fixed length",
        experiment=dictionaries,
        checks=(Each("largest error in units of H_inf", lambda rows: from_formula(rows, 1), "<=", 0.02),),
        controls=(Each("the same on a source of order 2", lambda rows: from_formula(rows, 2), "<=", 0.02),),
    ),
    Claim(
        "fixed-length-needs-more",
        "Where flips are rare, a dictionary of fixed length needs more than the square of the number of tokens.",
        source="section on dictionaries of fixed length: exponentially many in 1 / excess",
        experiment=dictionaries,
        checks=(
            Check("length of tokens that cost what 512 LZW tokens cost; 18 is the square of 512",
                  lambda rows: of(rows, "LZW", "fixed_length", 512, source="rare flips"), ">=", 18),
        ),
        controls=(
            Check("the same on fair coins", lambda rows: of(rows, "LZW", "fixed_length", 512, source="fair coins"),
                  ">=", 18),
            Check("the same for a dictionary of fair coins",
                  lambda rows: of(rows, "LZW of fair coins", "fixed_length", 512, source="rare flips"), ">=", 18),
        ),
    ),
    Claim(
        "dictionary-of-its-source",
        "A dictionary that was learned on another source costs more.",
        source="section on generalisation",
        experiment=dictionaries,
        checks=tuple(
            Check(f"order {k}: 512 tokens of fair coins over the source's own", partial(of_coins, order=k), ">=", 1.05)
            for k in ORDERS[1:]
        ),
        controls=(Check("the same on fair coins", lambda rows: of_coins(rows, source="fair coins"), ">=", 1.05),),
    ),
    Claim(
        "hidden-chains",
        "Tokens do as much for a source that no order describes: a chain of which each symbol may be misread.",
        source="beyond the paper, whose theorems are on Markov sources; limits as in tokens-make-unigrams-suffice",
        experiment=hidden_chains,
        checks=(
            Check("512 LZW tokens over the entropy of a character",
                  lambda rows: hidden(rows, "LZW", "marginal_entropy"), "<=", 0.7),
            Check("128 BPE tokens over the entropy rate", lambda rows: hidden(rows, "BPE", "entropy_rate"), "<=", 1.3),
        ),
        controls=(
            Check("the same text in random order: LZW tokens over characters",
                  lambda rows: hidden(rows, "LZW", "marginal_entropy", "shuffled"), "<=", 0.7),
            Check("characters over the entropy rate", lambda rows: hidden(rows, "characters", "entropy_rate"), "<=",
                  1.3),
        ),
    ),
)  # fmt: skip
