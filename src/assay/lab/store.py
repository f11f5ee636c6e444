"""Where results live: one small JSON file for each unit, and a folder for each run.

    ROOT/SLUG/units/KEY.json          settings, seed, versions, seconds, rows
    ROOT/SLUG/failed/KEY.json         the traceback of a unit that failed; it is tried again in the next run
    ROOT/SLUG/runs/SCALE-ID/          rows.jsonl (the table) and run.json (config, provenance, verdicts, figures)

KEY is a hash of the unit's code, settings and seed, the kind of device, and the versions of assay and torch; ID is one
of all keys of a run. So rows of another version stay where they are and are never mixed in, and what is there is only
ever replaced by the same. Files are written beside their place and moved there: a killed run leaves no half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from assay._errors import InputError, OutputError
from assay.lab.study import Row, Unit

FORMAT = 1
"""Of the rows and of the way in which units are run (seeding, threads); a change of it makes all results old."""
STALE = 3600.0
"""Seconds after which a temporary file is what a killed run left behind."""
NEEDED = {"scale": str, "created": str, "config": dict, "claims": list, "figures": list}
"""What a run's record has at least."""


def default_root() -> Path:
    """`$XDG_CACHE_HOME/assay/studies`, `~/.cache/assay/studies` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay" / "studies"


@cache
def versions() -> dict[str, str]:
    """Of the libraries on which numbers depend."""
    return {name: version(name) for name in ("assay", "torch")}


def unit_key(unit: Unit, code: str, device: str) -> str:
    """32 hexadecimal digits. Raises `InputError` for settings that are not numbers, texts, truth values or lists."""
    about = {
        "format": FORMAT,
        "experiment": unit.name,
        "settings": unit.settings,
        "seed": unit.seed,
        "code": code,
        "device": device.partition(":")[0] if unit.uses("device") else "cpu",
        "versions": versions(),
    }
    try:
        text = json.dumps(about, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"experiment {unit.name!r} has settings that are not plain values: {error}") from None
    return _hash(text)


def run_id(keys: Sequence[str]) -> str:
    """8 hexadecimal digits."""
    return _hash("".join(keys))[:8]


@dataclass(frozen=True)
class Stored:
    """A unit's rows, and the seconds it took when it ran."""

    rows: list[Row]
    seconds: float


class Store:
    """The results of one study under `root`. Methods raise `OutputError` where they cannot write."""

    def __init__(self, root: Path, slug: str) -> None:
        self.folder = root / slug

    def get(self, key: str) -> Stored | None:
        """A finished unit, or None where there is none, or none that can be read."""
        try:
            found = json.loads((self.folder / "units" / f"{key}.json").read_text("utf-8"))
            return Stored(found["rows"], found["seconds"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        except NotADirectoryError:
            raise OutputError(f"cannot write to {self.folder}: {self.folder.parent} is a file") from None
        except OSError as error:
            raise OutputError(f"cannot read {self.folder}: {error.strerror or error}; give another --out") from None

    def put(self, key: str, unit: Unit, stored: Stored) -> None:
        """Keep a finished unit, and forget that it failed before."""
        about = {"experiment": unit.name, "settings": dict(unit.settings), "seed": unit.seed, "versions": versions()}
        text = json.dumps(about | {"seconds": round(stored.seconds, 3), "rows": stored.rows}, allow_nan=False)
        self._write(self.folder / "units" / f"{key}.json", text + "\n")
        (self.folder / "failed" / f"{key}.json").unlink(missing_ok=True)

    def put_failure(self, key: str, unit: Unit, traceback: str) -> None:
        about = {"experiment": unit.name, "settings": dict(unit.settings), "seed": unit.seed, "traceback": traceback}
        self._write(self.folder / "failed" / f"{key}.json", json.dumps(about, indent=1) + "\n")

    def put_run(self, name: str, rows: Sequence[Row], record: dict[str, Any]) -> Path:
        """The run's folder. Its rows are written first: a record is there only if its rows are."""
        folder = self.folder / "runs" / name
        self._write(folder / "rows.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._write(folder / "run.json", json.dumps(record, allow_nan=False, indent=1) + "\n")
        return folder

    def scratch(self, key: str) -> Path:
        """Where a unit may keep what it needs to go on after it was killed."""
        return (self.folder / "scratch" / key).absolute()

    def clear_scratch(self, key: str) -> None:
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, the newest first. Raises `InputError` where one cannot be read."""
        found = [read_record(file) for file in (self.folder / "runs").glob("*/run.json")]
        return sorted(found, key=lambda record: record["created"], reverse=True)

    def sweep(self) -> None:
        """Remove the temporary files of killed runs."""
        for file in self.folder.glob("**/.*.part"):
            try:
                if time.time() - file.stat().st_mtime > STALE:
                    file.unlink()
            except FileNotFoundError:  # another run was quicker
                pass

    def _write(self, file: Path, text: str) -> None:
        part: Path | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=file.parent)
            part = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            part.chmod(0o644)
            part.replace(file)
        except OSError as error:
            if part is not None:
                part.unlink(missing_ok=True)
            raise OutputError(
                f"cannot write {file}: {error.strerror or error}; what is finished is kept, the same command goes on"
            ) from None


def read_record(file: Path) -> dict[str, Any]:
    """A run.json. Raises `InputError` where it is damaged."""
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in NEEDED.items()):
        raise unreadable(file)
    return record


def unreadable(file: Path) -> InputError:
    """Of a run's file."""
    slug = file.parents[2].name
    return InputError(f"{file} cannot be read; remove its folder, and run again: assay study run {slug}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
