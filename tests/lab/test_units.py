"""A unit runs once, again when its code or settings change, and never for anything else."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
from pathlib import Path

import pytest
from toy import calls, edit, load_toy, rows_of, run_toy

from assay import InputError
from assay.lab import Unit, grid, run_study, run_unit
from assay.lab.fingerprint import _DESCRIBES, _Reach, _source
from assay.lab.store import Store, unit_key

ALL = 12  # two experiments, three sizes, two seeds


def test_the_same_command_twice_runs_nothing(toy: Path) -> None:
    first = run_toy(toy)
    assert (first.ran, first.kept, len(calls(toy.parent))) == (ALL, 0, ALL)

    second = run_toy(toy)
    assert (second.ran, second.kept, calls(toy.parent)) == (0, ALL, [])
    assert rows_of(first) == rows_of(second)
    assert first.folder == second.folder


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("toy_study.py", "OFFSET = 1.0", "OFFSET = 3.0", {"second"}),  # what the experiment uses of its file
        ("toy_study.py", "0.01 * random", "0.02 * random", {"first"}),  # the experiment
        ("toy_helper.py", "2.0 * n", "3.0 * n", {"first"}),  # a module that it imports
        ("toy_study.py", 'open("a")', 'open(mode="a")', {"first", "second"}),  # what both use
        ("toy_study.py", '"It grows."', '"It does."', set()),  # a claim
        ("toy_study.py", '"""n, and a little noise."""', '"""Noise."""  # no more', set()),  # a docstring
        ("toy_helper.py", '"""Of the study."""', "# nothing\n", set()),  # and another
        ("toy_study.py", "def first(*, n,", "def first(*, n: int,", set()),  # an annotation
    ],
)
def test_a_change_of_code_runs_what_it_touches(toy: Path, file: str, old: str, new: str, again: set[str]) -> None:
    run_toy(toy)
    calls(toy.parent)
    edit(toy.parent / file, old, new)
    run = run_toy(toy)

    ran = calls(toy.parent)
    assert {line.split()[0] for line in ran} == again
    assert len(ran) == run.ran == ALL // 2 * len(again)


def test_what_describes_and_judges_units_does_not_count() -> None:
    reach = _Reach(_source("assay.studies.memory._ess_length"))  # type: ignore[arg-type]
    reach.definitions("longer")

    assert "assay.lab.training" in reach.modules
    assert not _DESCRIBES & set(reach.modules)
    assert all(importlib.util.find_spec(name) for name in _DESCRIBES)


def test_a_file_that_is_edited_but_not_loaded_again_counts_as_it_was(toy: Path) -> None:
    study = load_toy(toy)
    run_study(study, study.config("smoke"), root=toy.parent)
    edit(toy, "OFFSET = 1.0", "OFFSET = 3.0")

    assert run_study(study, study.config("smoke"), root=toy.parent).ran == 0
    assert run_toy(toy, root=".").ran == ALL // 2


def test_only_the_fields_that_a_unit_has_count(toy: Path) -> None:
    run_toy(toy)
    calls(toy.parent)

    assert run_toy(toy, ["unused=1"]).ran == 0
    assert run_toy(toy, ["sizes=2,3,4"]).ran == 4  # n = 4 in two experiments with two seeds
    assert run_toy(toy, ["seeds=3"]).ran == 6
    assert run_toy(toy, ["pause=0.001"]).ran == 6  # of the first experiment


def test_results_of_another_version_are_kept_and_not_mixed(toy: Path) -> None:
    old = run_toy(toy)
    before = rows_of(old)
    edit(toy, "OFFSET = 1.0", "OFFSET = 3.0")
    new = run_toy(toy)

    assert new.folder != old.folder
    assert (old.folder / "rows.jsonl").read_bytes() == before
    assert {row["value"] for row in new.rows if row["experiment"] == "second"} == {3.0, 4.0}


@pytest.mark.parametrize("what", ["FORMAT", "assay", "torch"])
def test_results_of_another_library_or_format_stay_and_are_not_read(
    toy: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from assay.lab import store

    with monkeypatch.context() as patch:
        if what == "FORMAT":
            patch.setattr(store, "FORMAT", store.FORMAT - 1)
        else:
            now = store.versions()
            patch.setattr(store, "versions", lambda: now | {what: "0.0.1"})
        old = run_toy(toy)
        for file in (toy.parent / "results" / "toy" / "units").iterdir():  # so that they could be told apart
            text = json.loads(file.read_text())
            file.write_text(json.dumps(text | {"rows": [row | {"value": -1.0} for row in text["rows"]]}))
        assert run_toy(toy).kept == ALL
    before = {file: file.read_bytes() for file in (toy.parent / "results").rglob("*.json*")}
    new = run_toy(toy)

    assert (new.ran, new.kept) == (ALL, 0)
    assert {row["value"] for row in new.rows}.isdisjoint({-1.0})
    assert {file: file.read_bytes() for file in before} == before
    assert new.folder != old.folder
    assert len(list((toy.parent / "results" / "toy" / "units").iterdir())) == 2 * ALL


def test_the_key_knows_settings_seed_device_and_code(toy: Path) -> None:
    study = load_toy(toy)
    unit = study.seeded_units(study.config("smoke"))[0]

    def with_device(*, n: int, device: str) -> None: ...

    keys = {
        unit_key(unit, "a", "cpu"),
        unit_key(unit, "b", "cpu"),
        unit_key(Unit(unit.experiment, {**unit.settings, "n": 9}, 0), "a", "cpu"),
        unit_key(Unit(unit.experiment, unit.settings, 1), "a", "cpu"),
        *(unit_key(Unit(with_device, {"n": 1}), "a", device) for device in ("cpu", "cuda")),
    }
    assert len(keys) == 6
    assert unit_key(unit, "a", "cuda:1") == unit_key(unit, "a", "cpu")  # it takes no device
    assert unit_key(Unit(with_device, {"n": 1}), "a", "cuda:1") == unit_key(Unit(with_device, {"n": 1}), "a", "cuda")
    with pytest.raises(InputError, match="settings that are not plain values"):
        unit_key(Unit(print, {"n": object()}), "a", "cpu")


def test_rows_say_where_they_come_from_and_do_not_depend_on_what_was_there(toy: Path) -> None:
    part = run_toy(toy, ["sizes=3"], root="a")
    whole, fresh = run_toy(toy, root="a"), run_toy(toy, root="b")

    assert part.ran == 4
    assert whole.ran == ALL - 4
    assert rows_of(whole) == rows_of(fresh)
    assert list(whole.rows[0].items())[:4] == [("experiment", "first"), ("n", 1), ("pause", 0.0), ("seed", 0)]
    assert [row["part"] for row in whole.rows if row["experiment"] == "second"] == [0, 1] * 6


def test_a_unit_is_seeded_and_leaves_the_generators_alone() -> None:
    import numpy as np
    import torch

    def draw() -> dict[str, float]:
        return {"python": random.random(), "numpy": np.random.rand(), "torch": torch.rand(()), "nan": float("nan")}

    def seed_all() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)

    seed_all()
    expected = draw()
    seed_all()
    one, same, other = (run_unit(Unit(draw, {}, seed), "cpu") for seed in (1, 1, 2))
    after = draw()

    assert one.rows == same.rows
    assert one.rows != other.rows
    assert one.rows is not None
    assert one.rows[0]["nan"] is None
    assert {name: float(after[name]) for name in ("python", "numpy", "torch")} == {
        name: float(expected[name]) for name in ("python", "numpy", "torch")
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("inf"), "row\\['x'\\] is infinite"), ([1], "row\\['x'\\] is list; expected a number, text or truth value")],
)
def test_a_row_that_is_not_numbers_and_texts_is_a_failure(value: object, words: str) -> None:
    outcome = run_unit(Unit(lambda: {"x": value}, {}), "cpu")

    assert outcome.rows is None
    assert re.search(words, outcome.traceback)


def test_a_failing_unit_is_tried_three_times_and_the_rest_goes_on(toy: Path) -> None:
    edit(toy, "    time.sleep(pause)", "    if n == 2:\n        raise RuntimeError('no luck')\n    time.sleep(pause)")
    run = run_toy(toy)

    assert len([line for line in calls(toy.parent) if line.startswith("first 2 ")]) == 2 * 3
    assert (run.ran, len(run.failures)) == (ALL - 2, 2)
    assert "RuntimeError: no luck" in run.failures[0]
    assert run.results[0].verdict == "inconclusive"
    assert run.results[0].reason == "2 units failed"
    failed = list((toy.parent / "results" / "toy" / "failed").iterdir())
    assert ["no luck" in json.loads(file.read_text())["traceback"] for file in failed] == [True, True]

    edit(toy, "raise RuntimeError('no luck')", "pass")
    assert run_toy(toy).failures == []


def test_a_unit_that_fails_once_is_kept(toy: Path) -> None:
    flag = toy.parent / "failed-once"
    fail_once = "if n == 2 and not flag.exists():\n        flag.touch()\n        raise RuntimeError"
    once = f"    flag = Path({str(flag)!r})\n    {fail_once}"
    edit(toy, "    time.sleep(pause)", once)

    assert run_toy(toy).failures == []


def test_a_check_that_cannot_be_computed_costs_no_rows(toy: Path) -> None:
    edit(toy, "rows.value.mean()", "rows.no_such_column.mean()")
    run = run_toy(toy)

    assert len(run.rows) == 18
    assert run.results[0].verdict == "inconclusive"
    assert "AttributeError" in run.results[0].reason


def test_a_full_disk_is_one_line_and_what_was_finished_stays(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay import OutputError
    from assay.lab import store

    real, left = store.os.fsync, iter(range(5))

    def fsync(handle: int) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(store.os, "fsync", fsync)
    with pytest.raises(OutputError, match="No space left on device; what is finished is kept"):
        run_toy(toy)
    monkeypatch.setattr(store.os, "fsync", real)

    assert run_toy(toy).kept == 5
    assert list((toy.parent / "results").rglob(".*.part")) == []


def test_a_damaged_file_counts_as_none(toy: Path) -> None:
    run_toy(toy)
    next((toy.parent / "results" / "toy" / "units").glob("*.json")).write_text('{"rows": [')

    assert run_toy(toy).ran == 1


def test_old_temporary_files_are_swept(tmp_path: Path) -> None:
    units = tmp_path / "toy" / "units"
    units.mkdir(parents=True)
    for name, age in (("old", 7200), ("new", 60)):
        (units / f".{name}.part").touch()
        os.utime(units / f".{name}.part", (0, 0) if age > 3600 else None)
    Store(tmp_path, "toy").sweep()

    assert [file.name for file in units.iterdir()] == [".new.part"]


def test_grid_takes_lists_as_axes() -> None:
    settings = [unit.settings for unit in grid(print, a=[1, 2], b="x", c=(3, 4))]

    assert settings == [{"a": 1, "b": "x", "c": (3, 4)}, {"a": 2, "b": "x", "c": (3, 4)}]


def test_an_experiment_must_be_a_function_of_a_file(folder: Path) -> None:
    from assay.lab import Paper, Study, StudyConfig

    class Inside(Study):
        slug, paper, claims, scales = "inside", Paper("", "", 1), (), {"smoke": StudyConfig()}

        def units(self, config: StudyConfig) -> object:  # noqa: ARG002
            return grid(lambda: {})

    with pytest.raises(InputError, match="expected a function at the top level of a file"):
        run_study(Inside(), StudyConfig(), root=folder)
