"""The report as one page that opens from disk: template, styles, scripts and data in a single file, no network.

Findings, headline numbers and the table of layers are plain HTML and can be read without scripts; the charts are drawn
in the browser from a JSON block. Nothing that a model or a text contains becomes markup: the template escapes, the JSON
block has no `<`, and the scripts set texts as text nodes only.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from assay.report._page import page_data
from assay.report._text import decimal, duration, finite, float_bytes, number, percent, size, visible

if TYPE_CHECKING:
    from assay.report._report import Report

MAX_FINDINGS = 7
MAX_WARNINGS = 20
LIBRARIES = ("d3.min.js", "plot.umd.min.js")
SCRIPTS = ("data.js", "memory.js", "model.js", "report.js")

# `<` would end the script element, `&` is read differently in XHTML, U+2028/9 end a line in old engines
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(report: Report) -> str:
    """The whole page as text, to be written as UTF-8."""
    meta = report.meta
    return _template().render(
        styles=_asset("report.css"),
        libraries=[_asset(name) for name in LIBRARIES],
        scripts=_scripts(),
        data=script_json(page_data(report)),
        model=visible(meta["model"], 120),
        subtitle=_subtitle(meta),
        tiles=_tiles(report),
        findings=[_parts(finding.text) for finding in report.findings[:MAX_FINDINGS]],
        warnings=[visible(text) for text in meta.get("warnings") or []][:MAX_WARNINGS],
        empty=_empty(report),
        layers=_layer_rows(report),
        settings=_settings(meta),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(read_asset("report.html.j2"))


def read_asset(name: str) -> str:
    return (files("assay.report") / "assets" / name).read_text(encoding="utf-8")


def _asset(name: str) -> Markup:
    return Markup(read_asset(name))


def _scripts() -> Markup:
    """One function around all scripts, so that they share names with each other and with nothing else."""
    body = "\n".join(read_asset(name) for name in SCRIPTS)
    return Markup(f'(() => {{\n"use strict";\n{body}\n}})();')


def script_json(data: dict[str, Any]) -> Markup:
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))


def _parts(text: str) -> list[tuple[str, bool]]:
    """A sentence cut at its percentages, which are set in bold: (piece, whether it is a percentage)."""
    pieces = re.split(r"(-?\d+(?:\.\d+)?\s?%)", visible(text, 600))
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def _subtitle(meta: dict[str, Any]) -> list[str]:
    windows = meta.get("num_windows")
    parts = [
        visible(meta["architecture"], 80) if meta.get("architecture") else "",
        f"{number(meta['num_parameters'])} parameters" if finite(meta.get("num_parameters")) else "",
        f"text: {visible(meta['text'], 80)}" if meta.get("text") else "",
        f"{meta['num_tokens']:,} tokens" if isinstance(meta.get("num_tokens"), int) else "",
        f"{windows} windows" if isinstance(windows, int) and windows > 1 else "",
        visible(meta["created"])[:10] if meta.get("created") else "",
    ]
    return [part for part in parts if part]


def _tiles(report: Report) -> list[dict[str, str]]:
    """The headline numbers: label, value, and what the value is beside."""
    summary: dict[str, Any] = report.meta.get("summary") or {}
    measured, layers = int(report.layers["measured"].fillna(False).astype(bool).sum()), len(report.layers)
    state, cache_floats = finite(summary.get("total_ess_floats")), finite(summary.get("total_cache_floats"))
    width = float_bytes(report.meta.get("dtype"))
    held = f" ({size(state * width)})" if state is not None and width else ""
    allocated = f" ({size(cache_floats * width)})" if cache_floats is not None and width else ""
    tiles = [
        {
            "label": "Utilisation",
            "value": percent(summary.get("utilisation")),
            "note": "of the attainable state is used, over all layers and positions" if measured else "not measured",
        },
        {
            "label": "State carried",
            "value": number(state),
            "note": f"floats{held}; the cache allocates {number(cache_floats)}{allocated}, mean over positions"
            if state is not None
            else "not measured",
        },
        {
            "label": "Bits per byte",
            "value": number(summary.get("bits_per_byte")),
            "note": "of this text; lower is better",
        },
        {
            "label": "Layers measured",
            "value": f"{measured} of {layers}",
            "note": "the others are named below" if measured < layers else "none left out",
        },
    ]
    hit, other = summary.get("hit_loss") or {}, summary.get("other_loss") or {}
    if finite(hit.get("mean")) is not None:
        note = f"bits per token where a bigram repeats (n = {hit.get('n', '–')}); {number(other.get('mean'))} elsewhere"
        tiles.append({"label": "Recall loss", "value": number(hit["mean"]), "note": note})
    return tiles


def _empty(report: Report) -> dict[str, str]:
    """Why a section has no chart; empty where it has one."""
    heads, geometry = report.heads, report.geometry
    all_measured = bool(report.layers["measured"].fillna(False).astype(bool).all())
    no_attention = "No attention layers in this model." if all_measured else "No attention layer was measured."
    reasons = {
        "map": (len(heads) == 0, "No layer was measured, so there is no map; the table of layers below says why."),
        "curves": (
            len(report.state_size) == 0,
            "No layer was measured, so there is no state to follow along the text.",
        ),
        "memory": (len(report.memory) == 0, "No total is known, because no layer was measured."),
        "modulation": (len(report.modulation) == 0, "Too few delimiters in this text to compare."),
        "attention": (not heads["attention_entropy"].notna().any(), no_attention),
        "entropy": (len(report.attention) == 0, "No attention entropy along the text."),
        "geometry": (len(geometry) == 0, "The geometry of the layers was not measured."),
        "alpha": (
            not geometry["alpha_req"].notna().any(),
            "α-ReQ: no power law could be fitted to so few token states.",
        ),
        "uncertainty": (not report.uncertainty["surprisal"].notna().any(), "No surprisal was measured."),
        "recall": (not report.recall["hit"].any(), "No bigram occurs twice in this text."),
    }
    return {name: sentence if missing else "" for name, (missing, sentence) in reasons.items()}


def _layer_rows(report: Report) -> list[dict[str, Any]]:
    rows = []
    for row in report.layers.to_dict("records"):
        used = finite(row["utilisation"])
        fidelity = finite(row["fidelity"])
        rows.append(
            {
                "layer": row["layer"],
                "mixer": visible(row["mixer"], 80),
                "kind": visible(row["kind"], 20),
                "heads": number(row["num_heads"]),
                "measured": bool(row["measured"]),
                "reason": visible(row["reason"]),
                "entropy": decimal(row["entropy_ess"]),
                "tolerance": decimal(row["tolerance_ess"]),
                "tss": decimal(row["tss"]),
                "used": percent(used),
                "bar": f"{100 * min(max(used or 0.0, 0.0), 1.0):.1f}",
                "fidelity": "–" if fidelity is None else f"{fidelity:.1e}",
            }
        )
    return rows


def _settings(meta: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every setting that is known."""
    names = {
        "model": "Model",
        "architecture": "Architecture",
        "num_parameters": "Parameters",
        "text": "Text",
        "num_tokens": "Tokens",
        "num_windows": "Windows",
        "window_length": "Tokens in a window",
        "positions": "Positions evaluated",
        "tolerance": "Tolerance of tolerance-ESS",
        "dtype": "Number format",
        "device": "Device",
        "seed": "Seed",
        "created": "Created",
    }
    rows = [(label, _setting(meta[key])) for key, label in names.items() if meta.get(key) is not None]
    if finite(meta.get("seconds")) is not None:
        rows.append(("Time taken", duration(meta["seconds"])))
    versions: dict[str, Any] = meta.get("versions") or {}
    return rows + [(visible(name, 60), visible(value, 60)) for name, value in versions.items()]


def _setting(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else visible(value)
