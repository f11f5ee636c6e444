"""`assay study report` of what `assay study run` has left."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import edit

from assay.cli import main


def test_a_run_is_shown(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", str(toy), "--scale", "smoke", "--jobs", "1", "sizes=2,4", "--out", "results"]) == 0
    assert main(["study", "report", "toy", "--results", "results", "--out", "site"]) == 0
    assert capsys.readouterr().out.endswith(f"1 study: {Path('site') / 'index.html'}\n")

    page = Path("site", "toy.html").read_text("utf-8")
    assert "It grows." in page
    assert '<span class="badge holds">holds</span>' in page
    assert "assay study run toy --scale smoke" in page
    assert len(Path("site", "toy.rows.jsonl").read_text().splitlines()) == 12


def test_failed_units_are_said(toy: Path) -> None:
    edit(toy, "    time.sleep(pause)", "    raise RuntimeError('no luck')")
    assert main(["study", "run", str(toy), "--scale", "smoke", "--jobs", "1", "--out", "results"]) == 1
    assert main(["study", "report", "--results", "results", "--out", "site"]) == 0

    page = Path("site", "toy.html").read_text("utf-8")
    assert "6 units failed" in page
    assert "all units failed" in page


def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    assert main(["study", "report", "--results", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "assay study run --all --scale smoke --out nowhere" in err
