"""`assay study`: what it prints, what it keeps, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy import calls, edit

from assay import AssayError
from assay.study_cli import app


def study(*arguments: object) -> int:
    """As `assay.cli.main` calls it; a mistake of the user is raised."""
    code = app(args=[str(argument) for argument in arguments], prog_name="assay study", standalone_mode=False)
    return code if isinstance(code, int) else 0


def refused(*arguments: object) -> str:
    with pytest.raises(AssayError) as caught:
        study(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_importing_the_commands_imports_nothing_heavy() -> None:
    code = """
import sys
from assay.study_cli import app
heavy = {"torch", "transformers", "pandas", "numpy", "scipy", "pydantic", "joblib", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert study() == 0
    assert "Usage: assay study" in capsys.readouterr().out


def test_run_prints_verdicts_with_numbers(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("run", toy, "--scale", "smoke", "--jobs", 1, "sizes=2", "--seeds", 3) == 0
    shown = capsys.readouterr().out

    assert "toy, smoke: 6 units run, 0 kept from before, 0 failed" in shown
    assert "holds: It grows." in shown
    assert "> 0, 3 seeds" in shown
    assert shown.endswith("figures, in a page: assay study report toy\n")
    assert len(calls(toy.parent)) == 6
    assert study("run", toy, "--scale", "smoke", "--jobs", 1, "sizes=2", "seeds=3") == 0
    assert calls(toy.parent) == []


def test_json_is_all_that_is_printed(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("run", toy, "--scale", "smoke", "--jobs", 1, "--json", "--out", toy.parent / "here") == 0
    out, err = capsys.readouterr()
    (run,) = json.loads(out)

    assert err == ""
    assert (run["study"], run["scale"], run["ran"], run["kept"], run["failures"]) == ("toy", "smoke", 12, 0, [])
    assert run["claims"][0]["verdict"] == "holds"
    assert set(run["claims"][0]["checks"][0]["values"]) == {"0", "1"}
    assert run["config"] == {"seeds": 2, "sizes": [1, 2, 3], "pause": 0.0, "unused": 0}
    assert len((Path(run["folder"]) / "rows.jsonl").read_text().splitlines()) == run["rows"] == 18
    assert run["folder"].startswith(str(toy.parent / "here"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_an_experiment_prints_is_not_in_the_json(toy: Path, capfd: pytest.CaptureFixture[str], jobs: int) -> None:
    edit(toy, "    time.sleep(pause)", "    print('hello')")

    assert study("run", toy, "--scale", "smoke", "--jobs", jobs, "--json") == 0
    out, err = capfd.readouterr()
    assert len(json.loads(out)) == 1
    assert err.count("hello\n") == 6


def test_failed_units_are_shown_and_change_the_exit_code(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(toy, "    time.sleep(pause)", "    raise RuntimeError('[bold]no luck')")

    assert study("run", toy, "--scale", "smoke", "--jobs", 1) == 1
    shown = capsys.readouterr().out
    assert "6 failed" in shown
    assert "RuntimeError: [bold]no luck" in shown
    assert "inconclusive: It grows. (all units failed)" in shown


def test_list_and_show(toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    study("list")
    assert "never run" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    study("list", "--family", "memory")
    narrow = capsys.readouterr().out.splitlines()
    assert max(map(len, narrow)) <= 80
    first = next(index for index, line in enumerate(narrow) if line.startswith("effective-state-size "))
    words = "\n".join(narrow[first : first + 4])  # three columns of at most four lines
    for part in ("Quantifying Memory", "2025, ", " claims", " min | ", "never run"):
        assert part in words
    study("list", "--family", "memory")
    shown = capsys.readouterr().out
    assert "effective-state-size" in shown
    assert "2025" in shown

    study("show", "effective-state-size")
    shown = capsys.readouterr().out
    for words in ("2504.19561", "recall-needs-ess: ", "control, must not hold: ", "pairs=4,8,16,32 | 4,8,16,32,64"):
        assert words in shown

    study("run", toy, "--scale", "smoke", "--jobs", 1)
    capsys.readouterr()
    study("show", toy)
    assert "last verdicts here: 1 holds (smoke)" in capsys.readouterr().out


def test_a_damaged_record_is_named(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.parent / "here" / "effective-state-size" / "runs" / "laptop-0"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"created": ')

    assert "laptop-0/run.json cannot be read; remove its folder" in refused(
        "show", "effective-state-size", "--out", toy.parent / "here"
    )
    study("list", "--out", toy.parent / "here")
    shown = " ".join(capsys.readouterr().out.split())
    assert "cannot be read" in shown
    assert "zoology-mqar" in shown  # the others are listed


@pytest.mark.usefixtures("toy")
def test_all_leaves_out_what_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from assay.lab import discovery

    good = discovery._of_module("toy_study", "toys")
    bad = discovery._of_module("nowhere_to_be_found", "toys")
    monkeypatch.setattr(discovery, "known_studies", lambda: [bad, good])

    assert study("run", "--all", "--scale", "smoke", "--jobs", 1) == 0
    out, err = capsys.readouterr()
    assert "toy, smoke: 12 units run" in out
    assert "assay: left out: study nowhere-to-be-found of toys cannot be loaded" in err


def test_the_largest_units_of_all_studies_are_looked_at_before_any_runs(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = toy.read_text().replace('slug = "toy"', 'slug = "large"')
    text = text.replace("StudyConfig, grid", "StudyConfig, grid\nfrom assay.lab.study import Resources")
    large = toy.parent / "large_study.py"
    large.write_text(
        text.replace(
            "    def units", "    def resources(self, unit):\n        return Resources(memory=9e9)\n\n    def units"
        )
    )
    monkeypatch.setattr("assay.models._memory.available_memory", lambda _: 5_000_000_000)

    assert "takes 9.0 GB of memory and 5.0 GB" in refused("run", toy, large, "--scale", "smoke", "--jobs", 1)
    assert calls(toy.parent) == []


def test_mistakes_are_one_line(toy: Path) -> None:
    assert refused("run", "nosuch") == "no study 'nosuch'; see: assay study list"
    assert refused("run") == "give the names of studies, or --all; see: assay study list"
    assert refused("run", toy, "--all").startswith("give the names of studies, or --all")
    assert "give another --out" in refused(
        "run", toy, "--scale", "smoke", "--jobs", 1, "--out", toy.parent / ("x" * 300)
    )
    assert refused("run", toy, "--scale", "huge") == "--scale huge: toy has smoke"
    assert refused("run", toy, "--scale", "smoke", "sizes=x").startswith("sizes=x: expected list, each whole number")
    assert refused("run", toy, "--scale", "smoke", "--seeds", 0).startswith(
        "seeds=0: expected whole number (at least 1"
    )
    assert refused("run", toy, "--scale", "smoke", "--jobs", 0) == "--jobs 0: give 1 or more"
    assert refused("run", toy, "--scale", "smoke", "--device", "abacus").startswith("no device 'abacus'")
    assert refused("list", "--family", "zzz") == "--family zzz: expected one of attention-theory, memory"
    assert calls(toy.parent) == []
    assert not (toy.parent / "cache").exists()


def test_ctrl_c_says_that_nothing_is_lost(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(toy, "    time.sleep(pause)", "    if n == 3:\n        raise KeyboardInterrupt")
    with pytest.raises(SystemExit) as stopped:
        study("run", toy, "--scale", "smoke", "--jobs", 1)

    assert stopped.value.code == 130
    assert capsys.readouterr().err == "assay: stopped; finished units are kept, the same command goes on\n"
    edit(toy, "raise KeyboardInterrupt", "pass")
    del sys.modules["toy_study"]  # as in a new process
    calls(toy.parent)
    study("run", toy, "--scale", "smoke", "--jobs", 1)
    assert "second 1 0" in calls(toy.parent)
