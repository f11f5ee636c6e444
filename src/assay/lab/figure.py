"""Figures as data: Observable Plot's own vocabulary in plain JSON, so that a page draws them without knowing the study.

A figure is `{"title", "marks": [{"mark", "data", "options"}, …], "options"}`; a page draws it by
`Plot.plot({...options, marks: marks.map(m => Plot[m.mark](m.data, m.options))})`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def mark(kind: str, data: Any, **options: Any) -> dict[str, Any]:
    """A mark of Observable Plot ("dot", "line", "ruleY", …). `data`: a table, or a sequence of numbers or dicts.
    `options` name its columns (x, y, stroke), or give values.

    Only the columns that the options name are kept. NaN becomes null, which Plot leaves out.
    """
    return {
        "mark": kind,
        "data": _records(data, options) if hasattr(data, "columns") else [_plain(one) for one in data],
        "options": options,
    }


def _records(data: pd.DataFrame, options: dict[str, Any]) -> list[dict[str, Any]]:
    named = {value for value in options.values() if isinstance(value, str)}
    wanted = [column for column in data.columns if column in named]
    return [{str(k): _plain(v) for k, v in row.items()} for row in data[wanted].to_dict("records")]


def plot(title: str, *marks: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A figure. `options` are those of Plot.plot: `x={"label": …, "type": "log"}`, `color={"legend": True}`, …"""
    return {"title": title, "marks": list(marks), "options": options}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
