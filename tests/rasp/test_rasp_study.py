"""The study's experiments at their smallest: what they return, and that training changes something."""

from __future__ import annotations

from typing import get_args

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from assay.data.algorithmic import AlgorithmicTask
from assay.lab import find_study
from assay.lab.claims import judge
from assay.rasp.core import aggr
from assay.studies.attention_theory._rasp_exact import OUTSIDE, REPEATS, programs, restrictions
from assay.studies.attention_theory._rasp_training import task_of, trained
from assay.studies.attention_theory.rasp_length_generalization import Task

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


def test_every_task_that_the_config_names_can_be_drawn() -> None:
    study = find_study("rasp-length-generalization")
    names = get_args(Task)
    for name in names:
        task_of(name, 5).sample(2, max_length=5, generator=torch.Generator())
    assert study.Config(tasks=list(names)).tasks == list(names)
    with pytest.raises(ValidationError, match="Input should be 'copy'"):
        study.Config(tasks=["sorting"])


def test_a_broken_program_does_not_count_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = next(one for one in find_study("rasp-length-generalization").claims if one.slug == "restrictions")
    rows = pd.DataFrame(restrictions(length=12, seed=0)).assign(seed=0)
    assert judge(claim, rows).verdict == "holds"
    monkeypatch.setitem(OUTSIDE, "broken", lambda x: aggr(x, x, reduction="median"))  # type: ignore[arg-type]
    rows = pd.DataFrame(restrictions(length=12, seed=0)).assign(seed=0)
    assert rows[rows.program == "broken"].refused.all()
    assert judge(claim, rows).verdict == "void"


PAIRS = {  # by claim: a task, the length it is trained up to, and the same of what it is compared with
    **{name: ((name, 12), ("copy-repeats", 12)) for name in ("sort", "mode", "count", "copy")},
    "addition": (("addition, hints, reversed", 12), ("addition", 12)),
    "parity": (("parity, scratchpad", 12), ("parity", 12)),
    "diverse-lengths": (("count", 30), ("count", 12)),
}


def rows_of(known: float, cases: dict[tuple[str, int], float]) -> pd.DataFrame:
    """Five seeds of tasks that are right up to the longest of training, and as given beyond."""
    return pd.DataFrame(
        {"seed": seed, "task": task, "longest": longest, "length": length, "em": 1.0 if length <= longest else em,
         "known": known + seed / 1000}
        for seed in range(5) for (task, longest), em in cases.items() for length in (longest, longest + 1, longest + 4)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "beyond", "verdict"), [(0.97, 0.1, "holds"), (0.97, 0.9, "fails"), (0.9, 0.1, "void")]
)
@pytest.mark.parametrize("slug", PAIRS)
def test_verdicts(slug: str, known: float, beyond: float, verdict: str) -> None:
    claim = next(one for one in find_study("rasp-length-generalization").claims if one.slug == slug)
    easy, hard = PAIRS[slug]
    assert judge(claim, rows_of(known, {easy: 0.95, hard: beyond})).verdict == verdict
    for alone in (easy, hard):
        without = judge(claim, rows_of(known, {alone: 0.95, ("another", 12): 0.0}))
        assert without.verdict == "inconclusive"
        assert "trained" in without.reason


def test_tasks_are_compared_after_equal_lengths() -> None:
    claim = next(one for one in find_study("rasp-length-generalization").claims if one.slug == "count")
    cases = {("count", 12): 0.2, ("count", 30): 1.0, ("copy-repeats", 12): 0.1}
    assert judge(claim, rows_of(0.97, cases)).verdict == "fails"
    assert judge(claim, rows_of(0.97, {**cases, ("copy-repeats", 30): 0.1})).verdict == "holds"
