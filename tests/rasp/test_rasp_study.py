"""The study's experiments at their smallest: what they return, and that training changes something."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from assay.data.algorithmic import AlgorithmicTask
from assay.lab import find_study
from assay.lab.claims import judge
from assay.studies.attention_theory._rasp_exact import REPEATS, programs
from assay.studies.attention_theory._rasp_training import task_of, trained

SIZES = {"context": 24, "width": 16, "layers": 1, "heads": 2, "batch": 32, "lr": 1e-2, "tested_on": 50}


def test_a_task_by_its_name() -> None:
    assert task_of("sort", 16) == AlgorithmicTask("sort", num_symbols=32, num_hints=34)
    assert task_of("copy-repeats", 16).num_symbols == 4
    found = task_of("addition, hints, reversed", 5)
    assert (found.name, found.hints, found.reverse, found.scratchpad) == ("addition", True, True, False)
    assert task_of("parity, scratchpad", 5) == AlgorithmicTask("parity", hints=True, scratchpad=True, num_symbols=10,
                                                               num_hints=12)  # fmt: skip


def test_training_on_two_lengths() -> None:
    rows = trained(task="mode", longest=2, beyond=2, steps=150, seed=0, device="cpu", **SIZES)
    assert [row["length"] for row in rows] == [2, 3, 4]
    assert len({row["known"] for row in rows}) == 1
    assert rows[0]["known"] >= 0.99  # a prompt of one symbol, or of the same twice
    assert rows[0]["trained"] < 150  # and training ended
    assert trained(task="mode", longest=2, beyond=2, steps=1, seed=0, device="cpu", **SIZES)[0]["known"] < 0.7


def test_all_prompts_are_counted() -> None:
    assert programs(task="sort", length=4, prompts=47, seed=0, device="cpu") == {"em": 1.0}
    assert programs(task=REPEATS, length=6, prompts=47, seed=0, device="cpu")["em"] < 0.2


def test_every_trained_unit_fits_into_its_context() -> None:
    study = find_study("rasp-length-generalization")
    for scale in ("laptop", "paper"):
        for unit in study.units(study.config(scale)):
            given = unit.settings
            if unit.experiment is trained:
                length = given["longest"] + given["beyond"]
                task_of(given["task"], length).sample(
                    20, min_length=length, max_length=length, context=given["context"], generator=torch.Generator()
                )  # raises where it does not


def rows_of(known: float, **beyond: float) -> pd.DataFrame:
    """Five seeds of tasks that are right at 12, and as given at 13 and above."""
    cells = [(name.replace("_", "-"), em, length, 12) for name, em in beyond.items() for length in (12, 13, 16)]
    cells += [("count", 1.0, length, 30) for length in (30, 31)]
    return pd.DataFrame(
        {"seed": seed, "task": task, "longest": longest, "length": length, "em": 1.0 if length <= longest else em,
         "known": known + seed / 1000}
        for seed in range(5) for task, em, length, longest in cells
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "beyond", "verdict"), [(0.97, 0.1, "holds"), (0.97, 0.9, "fails"), (0.9, 0.1, "void")]
)
@pytest.mark.parametrize("slug", ["sort", "mode", "copy", "count", "diverse-lengths"])
def test_verdicts(slug: str, known: float, beyond: float, verdict: str) -> None:
    claim = next(one for one in find_study("rasp-length-generalization").claims if one.slug == slug)
    rows = rows_of(known, sort=0.95, mode=0.95, copy=0.95, count=beyond, copy_repeats=beyond)
    assert judge(claim, rows).verdict == verdict
    without = judge(claim, rows[~rows.task.isin(["copy-repeats"]) & (rows.longest < 30)])
    assert without.verdict != "holds"  # nothing to compare with
