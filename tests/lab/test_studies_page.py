"""docs/studies.md, followed to the letter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from assay.study_cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text("utf-8")


def test_the_first_study_is_written_and_run_as_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE[PAGE.index("## Write a study") :]
    (name,) = re.findall(r"Put this into `(\w+\.py)`", section)
    (folder / name).write_text(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0])
    console = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0]
    commands = re.findall(r"^\$ assay study (.*)\n((?:(?!\$).*\n)*)", console, re.MULTILINE)
    assert len(commands) == 2

    for command, promised in commands:
        app(args=[*shlex.split(command), "--jobs", "1"], prog_name="assay study", standalone_mode=False)
        shown = " ".join(capsys.readouterr().out.split())
        for line in filter(None, (line.strip().removesuffix("…").strip() for line in promised.splitlines())):
            assert re.sub(r"\d+ s of computing", "", line) in shown
