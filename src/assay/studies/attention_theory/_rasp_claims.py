"""What `rasp_length_generalization` judges: its claims, and the numbers that they compare."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._rasp_exact import REPEATS, programs, restrictions
from assay.studies.attention_theory._rasp_training import trained

ForAll = partial(Check, every_seed=True)
HARD = "copy-repeats"
Case = tuple[str, int]  # a task, and the largest length it was trained on


def beyond(rows: pd.DataFrame, case: Case) -> float:
    """Mean exact match at the lengths above those of training."""
    own = _of(rows, case)
    return float(own[own.length > own.longest].em.mean())


def known(rows: pd.DataFrame, case: Case) -> float:
    """Exact match on problems as in training."""
    return float(_of(rows, case).known.mean())


def _of(rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    task, longest = case
    return rows[(rows.task == task) & (rows.longest == longest)]


def equally_long(rows: pd.DataFrame, task: str, hard: str) -> tuple[Case, Case]:
    """The two tasks, each trained up to the largest length that both were trained up to."""
    both = set(rows[rows.task == task].longest) & set(rows[rows.task == hard].longest)
    if not both:
        raise LookupError(f"{task!r} and {hard!r} were not both trained, up to the same length")
    return (task, int(max(both))), (hard, int(max(both)))


def most_and_fewest(rows: pd.DataFrame) -> tuple[Case, Case]:
    """Counting, trained up to the largest length and up to the smallest."""
    found = rows[rows.task == "count"].longest
    if found.nunique() < 2:
        raise LookupError("'count' was not trained up to two lengths")
    return ("count", int(found.max())), ("count", int(found.min()))


def comparison(
    slug: str,
    text: str,
    words: str,
    cases: Callable[[pd.DataFrame], tuple[Case, Case]],
    threshold: float,
    source: str = "experiments on length, from memory; sizes and criterion are ours",
) -> Claim:
    """Exact match beyond the lengths of training, of one case less that of another. The comparison is void unless both
    know their training lengths."""

    def less(rows: pd.DataFrame, measure: Callable[[pd.DataFrame, Case], float]) -> float:
        first, second = cases(rows)
        return measure(rows, first) - measure(rows, second)

    return Claim(
        slug,
        text,
        source=source,
        experiment=trained,
        checks=(Check(f"beyond training: {words}", lambda rows: less(rows, beyond), ">=", threshold),),
        controls=(
            Check("the less known of the two at training lengths",
                  lambda rows: float(np.min([known(rows, case) for case in cases(rows)])), "<", 0.95),
            Check(f"at training lengths: {words}", lambda rows: less(rows, known), ">=", threshold),
        ),
    )  # fmt: skip


def against(task: str, text: str, hard: str = HARD) -> Claim:
    """A task with a short program against one without."""
    return comparison(
        task.partition(", ")[0], text, f"{task} less {hard}", lambda rows: equally_long(rows, task, hard), 0.4
    )


CLAIMS = (
    Claim(
        "programs",
        "One short program in RASP-L does each task at every length.",
        source="the programs, from public summaries; the authors' code for counting and adding",
        experiment=programs,
        checks=(
            ForAll("exact match of the program that does worst",
                   lambda rows: rows[rows.task != REPEATS].em.min(), ">=", 0.99),
            ForAll("copying repeats by the program for copying, longest prompts",
                   lambda rows: rows[rows.task == REPEATS].sort_values("length").em.iloc[-1], "<=", 0.1),
        ),
        controls=(
            ForAll("copying repeats: exact match at its worst", lambda rows: rows[rows.task == REPEATS].em.min(), ">=",
                   0.99),
        ),
    ),
    Claim(
        "restrictions",
        "RASP-L refuses arithmetic with indices, unbounded numbers and looking ahead; nothing that the programs do.",
        source="the restrictions of RASP-L, from memory",
        experiment=restrictions,
        checks=(
            ForAll("share refused of programs outside", lambda rows: rows[~rows.published].refused.mean(), ">=", 1),
            ForAll("share refused of the published", lambda rows: rows[rows.published].refused.mean(), "<=", 0),
        ),
        controls=(  # one is enough: what fails without the guard is not refused, but broken
            ForAll("share of programs outside that raise an error without the guard",
                   lambda rows: rows[~rows.published].raises.mean(), ">", 0),
        ),
    ),
    against("sort", "A transformer that learns to sort also sorts longer lists; one that learns to copy repeated "
            "symbols, for which there is no short program, does not copy longer ones."),
    against("mode", "The same for finding the most frequent symbol."),
    against("count", "The same for counting."),
    against("copy", "The same for copying distinct symbols."),
    against("addition, hints, reversed", "A transformer that learns to add with index hints, and from the last digit "
            "on, also adds longer numbers; one that learns plain addition does not.", hard="addition"),
    against("parity, scratchpad", "A transformer that learns parity with a scratchpad also does longer ones; one that "
            "learns plain parity does not.", hard="parity"),
    comparison(
        "diverse-lengths",
        "Counting is learned beyond the lengths of training if these are diverse, and not if they are few.",
        "count up to the most, less up to the fewest", most_and_fewest, 0.3,
        source="counting by the largest length of training, from memory; sizes and criterion are ours",
    ),
)  # fmt: skip
