"""From a study and a config to rows and verdicts; what is known already is not run again."""

from __future__ import annotations

import inspect
import platform
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay._errors import InputError
from assay._progress import Progress
from assay.lab.claims import ClaimResult, judge
from assay.lab.config import StudyConfig
from assay.lab.executor import Executor, Outcome, in_this_process
from assay.lab.fingerprint import fingerprint
from assay.lab.provenance import about, commit, machine
from assay.lab.store import Store, Stored, default_root, run_id, unit_key, versions
from assay.lab.study import Row, Study, Unit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StudyRun:
    """What came of a study. `ran`: units that ran now; `kept`: units whose rows were there; `failures`: tracebacks.

    `folder` has rows.jsonl and run.json, which holds `record`: the same, with config, provenance and figures.
    """

    study: str
    scale: str
    rows: list[Row]
    results: tuple[ClaimResult, ...]
    ran: int
    kept: int
    failures: list[str]
    folder: Path
    record: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """The rows."""
        return _table(self.rows)


def run_study(
    study: Study,
    config: StudyConfig,
    *,
    scale: str = "custom",
    root: Path | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> StudyRun:
    """Run every unit of `config` that is not stored under `root` yet, and judge the claims.

    `scale` only names the run. `executor`: this process by default; see `in_processes` for several. The rows and
    their order do not depend on the executor, on what was stored before, or on interruptions.
    Raises `InputError` for a study that cannot be run so, `OutputError` where results cannot be written.
    """
    store = Store(root or default_root(), study.slug)
    units, codes = _keyed(study, config, device)
    found = {key: stored for key in units if (stored := store.get(key)) is not None}
    missing = {key: replace(unit, scratch=store.scratch(key)) for key, unit in units.items() if key not in found}
    store.sweep()
    failures: dict[str, str] = {}
    show = progress or (lambda *_: None)
    show(0.0, f"{study.slug}: {len(missing)} units")
    outcomes = (executor or in_this_process)(missing, device)
    for done, (key, outcome) in enumerate(outcomes, start=1):
        if outcome.rows is None:
            failures[key] = outcome.traceback
            store.put_failure(key, units[key], outcome.traceback)
        else:
            found[key] = Stored(outcome.rows, outcome.seconds)
            store.put(key, units[key], found[key])
        store.clear_scratch(key)
        show(done / len(missing), f"{study.slug}: {done} of {len(missing)} · {_current(units[key], outcome)}")

    rows = [row for key in units if key in found for row in found[key].rows]
    results = _judge(study, rows, Counter(units[key].name for key in failures))
    record = {
        "study": study.slug,
        "about": about(study),
        "scale": scale,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "config": config.model_dump(mode="json"),
        "units": len(units),
        "failed": len(failures),
        "rows": len(rows),
        "unit_seconds": round(sum(stored.seconds for stored in found.values()), 1),
        "device": device,
        "code": codes,
        "versions": versions() | {"python": platform.python_version()},
        "commit": commit(Path(inspect.getfile(type(study)))),
        "machine": machine(device),
        "claims": [asdict(result) for result in results],
        "figures": _figures(study, rows),
    }
    folder = store.put_run(f"{scale}-{run_id(list(units))}", rows, record)
    return StudyRun(
        study=study.slug,
        scale=scale,
        rows=rows,
        results=results,
        ran=len(missing) - len(failures),
        kept=len(units) - len(missing),
        failures=list(failures.values()),
        folder=folder,
        record=record,
    )


def units_of(study: Study, config: StudyConfig) -> list[Unit]:
    """With their seeds. Raises `InputError` where the settings do not go together."""
    try:
        return study.seeded_units(config)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{study.slug} has no units with these settings: {error}") from error


def _keyed(study: Study, config: StudyConfig, device: str) -> tuple[dict[str, Unit], dict[str, str]]:
    """Every unit by its key, in the order of the rows; and the hash of the code of every experiment."""
    units, codes = units_of(study, config), dict[str, str]()
    for unit in units:
        if unit.name not in codes:
            codes[unit.name] = fingerprint(unit.experiment, study.parts)
    return {unit_key(unit, codes[unit.name], device): unit for unit in units}, codes


def _current(unit: Unit, outcome: Outcome) -> str:
    """What is shown while it runs: the unit's experiment and the last number of its last row."""
    if outcome.rows is None:
        return f"{unit.name} failed"
    row = outcome.rows[-1] if outcome.rows else {}
    numbers = [f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float)]
    return " ".join([unit.name, *numbers[-1:]])


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _judge(study: Study, rows: Sequence[Row], failed: Counter[str]) -> tuple[ClaimResult, ...]:
    results = []
    for claim in study.claims:
        name = claim.experiment.__name__
        own = [row for row in rows if row["experiment"] == name]
        results.append(judge(claim, _table(own), failed=failed[name]))
    return tuple(results)


def _figures(study: Study, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """With settings of the user's own some rows may be missing that a figure needs: then there is none."""
    try:
        return study.figure(_table(rows)) if rows else []
    except Exception as error:
        warnings.warn(f"{study.slug}: no figure ({type(error).__name__}: {error})", stacklevel=2)
        return []
