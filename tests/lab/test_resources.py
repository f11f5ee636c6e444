"""What a machine does not have: memory for so many units at once, or room on its disk."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy import calls, edit, run_toy

from assay import InputError
from assay.lab import Unit
from assay.lab.executor import _Pool, fitting
from assay.lab.study import Resources

ALL = 12  # units of the toy


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_disk_that_is_really_full_stops_with_one_line_and_later_it_goes_on(
    toy: Path, capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    import subprocess

    from assay.cli import main

    disk = toy.parent / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        command = ["study", "run", str(toy), "--scale", "smoke", "--jobs", str(jobs), "--out", str(disk)]
        assert main(command) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(f"assay: cannot write {disk}/toy/units/")
        assert err.endswith(": No space left on device; what is finished is kept, the same command goes on\n")
        assert err.count("\n") == 1
        kept = list((disk / "toy" / "units").iterdir())
        assert 0 < len(kept) < ALL
        assert all(json.loads(file.read_text())["rows"] for file in kept)

        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert main([*command[:-4], "--jobs", "1", "--out", str(disk)]) == 0
        assert f"{ALL - len(kept)} units run, {len(kept)} kept from before, 0 failed" in capfd.readouterr().out
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_more_units_run_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.models._memory.available_memory", lambda _: 4_000_000_000)

    def units(**amounts: float) -> list[Unit]:
        return [Unit(print, {}), Unit(print, {}, resources=Resources(**amounts))]

    assert fitting(units(), 8) == 8
    assert fitting(units(memory=1.5e9), 8) == 2
    assert fitting(units(memory=0.1e9), 8) == 8
    assert fitting(units(cpus=3), 8) == 2
    assert fitting(units(cpus=0.5), 8) == 8
    assert fitting(units(cpus=9, memory=4e9), 8) == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for gpus, most in ((1, 2), (0.5, 4), (0, 8)):
        unit = Unit(print, {}, resources=Resources(gpus=gpus))
        assert fitting([unit], 8, "cuda") == most
        assert fitting([unit], 8, "cpu") == 8
    name = print.__name__  # not "print" where Ray has replaced it
    with pytest.raises(InputError, match=rf"of {name} takes 4\.1 GB of memory and 4\.0 GB are free here; `assay"):
        fitting(units(memory=4.1e9), 8)


@pytest.mark.parametrize(("memory", "most"), [(1.5e9, 2), (0.0, 4)])
def test_the_processes_keep_to_that(monkeypatch: pytest.MonkeyPatch, memory: float, most: int) -> None:
    monkeypatch.setattr("assay.models._memory.available_memory", lambda _: 4_000_000_000)
    lock, now, seen = threading.Lock(), [0], []

    def watched() -> dict[str, float]:
        with lock:
            now[0] += 1
            seen.append(now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return {}

    pool = _Pool(4)
    with ThreadPoolExecutor(4) as pool.workers:  # in the place of processes, which do not see each other
        units = {str(seed): Unit(watched, {}, seed, resources=Resources(memory=memory)) for seed in range(8)}
        assert sorted(key for key, _ in pool.run(units, "cpu")) == list(units)
    assert max(seen) == most


def test_a_study_that_does_not_fit_is_refused_before_it_starts(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from assay.cli import main

    edit(toy, "StudyConfig, grid", "StudyConfig, grid\nfrom assay.lab.study import Resources")
    edit(
        toy,
        "    def units",
        '    def resources(self, unit):\n        return Resources(memory=1e9 * unit.settings["n"])\n\n    def units',
    )
    monkeypatch.setattr("assay.models._memory.available_memory", lambda _: 2_500_000_000)

    for jobs in ("1", "2"):
        assert main(["study", "run", str(toy), "--scale", "smoke", "--jobs", jobs]) == 2
        assert capsys.readouterr().err == (
            "assay: a unit of first takes 3.0 GB of memory and 2.5 GB are free here; "
            "`assay study show` says what the units of each scale take\n"
        )
    assert calls(toy.parent) == []
    assert main(["study", "show", str(toy)]) == 0
    assert "3.0 GB of memory a unit" in " ".join(capsys.readouterr().out.split())
    assert main(["study", "run", str(toy), "--scale", "smoke", "--jobs", "1", "sizes=1,2"]) == 0
    assert run_toy(toy, ["sizes=1,2"], root="cache/assay/studies").kept == 8  # what a unit takes is not part of its key
