"""Small studies for the tests, as files: the laboratory reads the code that it runs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from assay.lab import Study, StudyRun, find_study, run_study
from assay.lab.config import with_settings
from assay.lab.executor import Executor

STUDY = '''
"""Two experiments, each of which writes down its calls."""

import random
import time
from pathlib import Path

from assay.lab import Check, Claim, Paper, Study, StudyConfig, grid
from {helper} import scale_of

OFFSET = 1.0


def noted(name, n, seed):
    with Path("calls.log").open("a") as log:
        log.write(f"{{name}} {{n}} {{seed}}\\n")


def first(*, n, pause, seed):
    """n, and a little noise."""
    noted("first", n, seed)
    time.sleep(pause)
    return {{"value": scale_of(n) + 0.01 * random.random()}}


def second(*, n, seed):
    noted("second", n, seed)
    return [{{"part": part, "value": OFFSET + part}} for part in range(2)]


class Toy(Study):
    slug = "toy"
    paper = Paper("A toy", "Nobody", 2025)
    claims = (
        Claim("grows", "It grows.", "nowhere", first, (Check("mean", lambda rows: rows.value.mean(), ">", 0),), ()),
    )

    class Config(StudyConfig):
        sizes: list[int] = [1, 2, 3]
        pause: float = 0.0
        unused: int = 0

    scales = {{"smoke": Config(seeds=2)}}

    def units(self, config):
        yield from grid(first, n=config.sizes, pause=config.pause)
        yield from grid(second, n=config.sizes)
'''
HELPER = '"""Of the study."""\n\n\ndef scale_of(n):\n    return 2.0 * n\n'


def write_toy(folder: Path, *, helper: str = "toy_helper") -> Path:
    """The study and what it imports; its path."""
    (folder / f"{helper}.py").write_text(HELPER)
    file = folder / "toy_study.py"
    file.write_text(STUDY.format(helper=helper))
    return file


def load_toy(file: Path) -> Study:
    """As a new process would: the files are read again."""
    for name in ("toy_study", "toy_helper"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return find_study(str(file))


def run_toy(
    file: Path, settings: Sequence[str] = (), root: str = "results", executor: Executor | None = None
) -> StudyRun:
    study = load_toy(file)
    config = with_settings(study.config("smoke"), settings)
    return run_study(study, config, scale="smoke", root=file.parent / root, executor=executor)


def calls(folder: Path) -> list[str]:
    """Which units have run since the last time this was asked."""
    log = folder / "calls.log"
    found = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def rows_of(run: StudyRun) -> bytes:
    """The table as it is on disk."""
    text = (run.folder / "rows.jsonl").read_bytes()
    assert [json.loads(line) for line in text.splitlines()] == run.rows
    return text
