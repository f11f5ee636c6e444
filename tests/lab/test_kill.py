"""A run that is killed at any moment loses the units in flight, nothing else, and leaves no half of anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from toy import calls, edit, load_toy, rows_of, run_toy

from assay.lab import in_processes, run_study
from assay.lab.config import with_settings

KILLS = 20
SIZES = 80
SETTINGS = ["sizes=" + ",".join(map(str, range(SIZES))), "pause=0.004"]
UNITS = SIZES * 2 * 2


def _process(file: Path, during_write: bool = False, jobs: int = 1) -> multiprocessing.process.BaseProcess:
    """A run in a process of its own, started from one that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pandas", "assay.lab.runner"])
    process = context.Process(target=_run, args=(file, during_write, jobs))
    process.start()
    return process


def _run(file: Path, during_write: bool, jobs: int) -> None:
    import sys

    os.chdir(file.parent)
    sys.dont_write_bytecode = True
    if during_write:
        from assay.lab import store

        store.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    with in_processes(jobs) as executor:
        run_toy(file, SETTINGS, executor=executor)


def stored(file: Path) -> list[Path]:
    """The units that are there; each can be read."""
    units = [unit for unit in (file.parent / "results" / "toy" / "units").glob("*.json") if unit.name[0] != "."]
    for unit in units:
        assert json.loads(unit.read_text())["rows"]
    return units


@pytest.mark.parametrize(("jobs", "kills"), [(1, KILLS), (2, 3)])
def test_killed_at_random_moments_and_resumed_it_is_the_same_byte_for_byte(toy: Path, jobs: int, kills: int) -> None:
    rng = random.Random(0)
    counts = [0]
    for _ in range(kills):
        process = _process(toy, jobs=jobs)
        start = time.monotonic()
        while len(stored(toy)) == counts[-1] and process.is_alive() and time.monotonic() - start < 60:
            time.sleep(0.001)  # until it works: what comes before is not what is tested
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # the control: it was interrupted indeed
        counts.append(len(stored(toy)))
    time.sleep(0 if jobs == 1 else 2)  # its workers see within a second that it is gone
    resumed = run_toy(toy, SETTINGS)
    ran = calls(toy.parent)
    whole = run_toy(toy, SETTINGS, root="uninterrupted")

    assert len({count for count in counts if 0 < count < UNITS}) >= min(kills, 4)  # at different points
    assert rows_of(resumed) == rows_of(whole)
    assert resumed.kept + resumed.ran == UNITS
    assert len(set(ran)) == UNITS
    under_way = 1 if jobs == 1 else 2 * jobs  # the pool has the next ones at hand
    assert len(ran) <= UNITS + kills * under_way


def test_what_a_unit_kept_is_there_again_after_a_kill_and_gone_when_it_is_finished(toy: Path) -> None:
    """A unit in five steps, each of which it writes down; it is killed after the third."""
    body = "    done = scratch / 'done'\n    start = int(done.read_text()) if done.exists() else 0\n"
    body += '    noted("first", f"{n} from {start}", seed)\n'
    body += "    for step in range(start, 5):\n        done.write_text(str(step + 1))\n"
    body += "        if (n, seed, step) == (2, 0, 2) and not Path('killed').exists():\n"
    body += "            import os\n            Path('killed').touch()\n            os.kill(os.getpid(), 9)\n"
    edit(toy, '    noted("first", n, seed)\n    time.sleep(pause)\n', body)
    edit(toy, "n, pause, seed):", "n, pause, seed, scratch):")
    process = _process(toy)
    process.join(60)
    kept = list((toy.parent / "results" / "toy" / "scratch").glob("*/*"))

    assert process.exitcode == -signal.SIGKILL
    assert [file.read_text() for file in kept] == ["3"]
    resumed = run_toy(toy, SETTINGS)
    assert [line for line in calls(toy.parent) if line.startswith("first 2 ")] == [
        "first 2 from 0 0",
        "first 2 from 3 0",
        "first 2 from 0 1",
    ]
    assert rows_of(resumed) == rows_of(run_toy(toy, SETTINGS, root="uninterrupted"))
    assert list((toy.parent / "results" / "toy" / "scratch").iterdir()) == []


def test_killed_while_writing_it_leaves_no_row(toy: Path) -> None:
    process = _process(toy, during_write=True)
    process.join(60)

    assert process.exitcode == -signal.SIGKILL
    assert stored(toy) == []
    assert run_toy(toy, SETTINGS).ran == UNITS


@pytest.mark.parametrize("deadly", [False, True])
def test_processes_give_the_same_rows_and_a_dying_one_costs_only_its_unit(toy: Path, deadly: bool) -> None:
    if deadly:
        edit(
            toy, "    time.sleep(pause)", "    import os\n    if (n, seed) == (2, 1):\n        os.kill(os.getpid(), 9)"
        )
    study = load_toy(toy)
    config = with_settings(study.config("smoke"), [])
    with in_processes(2) as executor:
        run = run_study(study, config, scale="smoke", root=toy.parent / "pool", executor=executor)

    if deadly:
        assert (run.ran, len(run.failures)) == (11, 1)
        assert "worker process died" in run.failures[0]
        assert len([line for line in calls(toy.parent) if line == "first 2 1"]) == 3
    else:
        assert rows_of(run) == rows_of(run_toy(toy))
