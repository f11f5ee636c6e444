"""Which runs the gallery shows: of each study the newest of the largest scale, from stored records alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay._errors import InputError, nearest
from assay.lab.discovery import Source, known_studies, load_study
from assay.lab.provenance import about
from assay.lab.store import read_record, unreadable
from assay.lab.study import SCALES
from assay.report._text import visible

LONGEST = 2_000  # characters of one text


@dataclass(frozen=True)
class Shown:
    """A study in the gallery. `record`: its run.json, None where it was never run; `rows`: of rows.jsonl; `text`: the
    same as it is in the file.

    `record["about"]` says what the study is: title, authors, words for its settings; empty where nobody knows.
    """

    slug: str
    family: str
    record: dict[str, Any] | None = None
    rows: tuple[dict[str, Any], ...] = ()
    text: str = ""


def find_runs(root: Path, slugs: Sequence[str] = ()) -> list[Shown]:
    """All studies that are known, or have a run under `root`, by family and slug; or those of `slugs`.

    Raises `InputError` for a slug that is neither, where there is no run, or where a record cannot be read.
    """
    known = {source.slug: source for source in known_studies()}
    stored = {file.parents[2].name for file in root.glob("*/runs/*/run.json")}
    for slug in slugs:
        if slug not in known and slug not in stored:
            raise InputError(f"no study {slug!r}{nearest(slug, {*known, *stored})}; see: assay study list")
        if slug not in stored:
            raise InputError(f"no run of {slug} in {root}; make one by: assay study run {slug} --out {root}")
    if not stored:
        raise InputError(f"no runs in {root}; make them by: assay study run --all --scale smoke --out {root}")
    chosen = [_shown(root, slug, known.get(slug)) for slug in dict.fromkeys(slugs or [*known, *stored])]
    return sorted(chosen, key=lambda one: (one.family, one.slug))


def changed_settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not those of the record's scale, with what the scale has."""
    plain = record["about"].get("scales", {}).get(record["scale"], {})
    return {name: plain[name] for name, value in record["config"].items() if name in plain and plain[name] != value}


def _shown(root: Path, slug: str, source: Source | None) -> Shown:
    family = source.family if source else "other"
    folders = [file.parent for file in (root / slug / "runs").glob("*/run.json")]
    if not folders:
        return Shown(slug, family)
    records = [_read(folder, source) for folder in folders]
    record, folder = max(zip(records, folders, strict=True), key=lambda one: _rank(one[0]))
    try:
        text = (folder / "rows.jsonl").read_text("utf-8")
        rows = tuple(json.loads(line) for line in text.split("\n") if line)
    except (OSError, ValueError):
        raise unreadable(folder / "rows.jsonl") from None
    return Shown(slug, family, record, rows, text)


def _rank(record: dict[str, Any]) -> tuple[int, bool, str]:
    """The largest scale, with its own settings if there is such a run, and of these the newest."""
    scale = record["scale"]
    return SCALES.index(scale) if scale in SCALES else -1, not changed_settings(record), record["created"]


def _read(folder: Path, source: Source | None) -> dict[str, Any]:
    record = read_record(folder / "run.json")
    if "about" not in record:
        record["about"] = _about(source)
    return {name: harmless(value) for name, value in record.items()}


def _about(source: Source | None) -> dict[str, Any]:
    """For records that do not say it themselves: from the study's code, if it is here."""
    try:
        return about(load_study(source)) if source else {}
    except InputError:
        return {}


def harmless(value: Any) -> Any:
    """Plain data with control characters and lone surrogates in its texts made visible; NaN and infinity are None."""
    if isinstance(value, dict):
        return {visible(key, LONGEST): harmless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [harmless(one) for one in value]
    if isinstance(value, str):
        return visible(value, LONGEST)
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value
