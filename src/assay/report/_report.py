"""What `assay.measure` returns: tables, findings, and their way to disk, JSON, HTML and back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from assay._errors import InputError
from assay.report.schema import TABLES

FORMAT = 1
FILE_NAME = "report.json"


@dataclass(frozen=True)
class Finding:
    """One plain sentence with its numbers, and the rule that wrote it."""

    rule: str
    text: str


@dataclass(frozen=True)
class Report:
    """The result of one measurement.

    `meta` holds what was measured and how (model, text, settings, versions, time) and, under "summary", the headline
    numbers. Every table is a pandas frame with the columns of `assay.report.schema.TABLES`.
    """

    meta: dict[str, Any]
    findings: list[Finding] = field(repr=False)
    tokens: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame = field(repr=False)
    heads: pd.DataFrame = field(repr=False)
    state_size: pd.DataFrame = field(repr=False)
    memory: pd.DataFrame = field(repr=False)
    modulation: pd.DataFrame = field(repr=False)
    attention: pd.DataFrame = field(repr=False)
    geometry: pd.DataFrame = field(repr=False)
    uncertainty: pd.DataFrame = field(repr=False)
    recall: pd.DataFrame = field(repr=False)

    def __post_init__(self) -> None:
        for name, columns in TABLES.items():
            missing = list(columns) != list(getattr(self, name).columns)
            if missing:
                raise InputError(f"table {name!r} needs the columns {list(columns)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: missing numbers are None, floats keep 7 significant digits."""
        tables = {name: _columns(getattr(self, name)) for name in TABLES}
        findings = [asdict(finding) for finding in self.findings]
        return {"format": FORMAT, "meta": self.meta, "findings": findings, "tables": tables}

    def to_json(self) -> str:
        """Strict JSON (no NaN), one object: `format`, `meta`, `findings`, `tables`."""
        return json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))

    def to_html(self) -> str:
        """One self-contained page: opens from disk, needs no network."""
        from assay.report.html import render

        return render(self)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write `report.json` and `report.html`, all or nothing; return the path of the page.

        Raises `OutputError` where the folder holds a report (unless `force`) or cannot be written.
        """
        from assay.report._files import write_folder

        write_folder(Path(folder), {FILE_NAME: self.to_json(), "report.html": self.to_html()}, force=force)
        return Path(folder) / "report.html"

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read what `save` wrote. Raises `InputError` where there is no report of this format."""
        path = Path(folder) / FILE_NAME if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise InputError(f"no report at {str(folder)!r}; give the folder that `assay measure --out` wrote")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not a report: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{path} is not a report of format {FORMAT}; measure again with this version")
        tables = {name: _frame(data["tables"][name], list(TABLES[name])) for name in TABLES}
        return cls(meta=data["meta"], findings=[Finding(**finding) for finding in data["findings"]], **tables)

    def _repr_html_(self) -> str:
        """A notebook shows the whole page in a frame of its own."""
        from html import escape

        return (
            f'<iframe srcdoc="{escape(self.to_html(), quote=True)}" sandbox="allow-scripts" '
            'style="width:100%;height:900px;border:0" title="assay report"></iframe>'
        )


def _frame(columns: dict[str, list[Any]], names: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(columns, columns=names)
    for name in names:
        if frame[name].isna().all():  # a column of None alone is one of missing numbers
            frame[name] = frame[name].astype(float)
    return frame


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
