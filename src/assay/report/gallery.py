"""The results of studies as pages: an index that can be filtered, and one page for each study; a folder, no network.

Claims, verdicts, intervals and settings are plain HTML and SVG, readable without scripts; figures and the table of rows
are drawn in the browser from a JSON block. Nothing that a record contains becomes markup.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from assay.lab.config import written
from assay.lab.study import SCALES
from assay.report._files import write_folder
from assay.report._text import duration, finite, visible
from assay.report.gallery_interval import in_words, picture, short
from assay.report.gallery_runs import Shown, changed_settings, find_runs, harmless
from assay.report.html import read_asset, script_json

VERDICTS = {
    "holds": "the whole interval is on the right side of every threshold, and no control passes",
    "fails": "for some check it is on the wrong side",
    "inconclusive": "an interval covers its threshold, or too little was measured",
    "void": "a control passes as well, so the check cannot tell",
}
MOST_ROWS = 20_000  # in the table of a page; all of them are in the files beside it
GENERATOR = '<meta name="generator" content="assay study report">'
REPOSITORY = Path(__file__).parents[3]  # of a checkout; the pages of an installed package are not there
SCRIPTS = ("gallery.js", "gallery_figures.js", "gallery_rows.js")
COPIED = ("d3.min.js", "plot.umd.min.js", "LICENSES.txt", *SCRIPTS)


def write_gallery(root: Path, folder: Path, *, slugs: Sequence[str] = (), force: bool = False) -> list[Shown]:
    """Write the runs stored under `root` as pages into `folder`; a gallery that is there already is replaced.

    Raises `InputError` where there are no such runs; `OutputError` where `folder` holds anything but a gallery (unless
    `force`), or cannot be written.
    """
    shown = find_runs(root, slugs)
    files = {name: read_asset(name) for name in COPIED} | {
        "gallery.css": read_asset("report.css") + read_asset("gallery.css")
    }
    for one in shown:
        if one.record is not None:
            files |= _files_of(one, one.record)
    files["index.html"] = render_index(shown)
    write_folder(folder, files, force=force or _is_gallery(folder))
    for page in folder.glob("*.html"):  # of a study that is not in this gallery
        if page.name not in files and GENERATOR in page.read_text("utf-8", errors="replace")[:2_000]:
            for suffix in (".html", ".csv", ".rows.jsonl"):
                page.with_suffix(suffix).unlink(missing_ok=True)
    return shown


def _is_gallery(folder: Path) -> bool:
    index = folder / "index.html"
    return index.is_file() and GENERATOR in index.read_text("utf-8", errors="replace")[:2_000]


def _files_of(one: Shown, record: dict[str, Any]) -> dict[str, str]:
    return {
        f"{one.slug}.html": render_study(one, record),
        f"{one.slug}.rows.jsonl": one.text,
        f"{one.slug}.csv": _csv(one.rows),
    }


def render_index(shown: Sequence[Shown]) -> str:
    """The index: every study with the verdicts on its claims; those that were never run come last."""
    cards = [_card(one, one.record) for one in shown if one.record is not None]
    verdicts = Counter(claim["verdict"] for card in cards for claim in card["claims"])
    return _render(
        "gallery_index.html.j2",
        cards=cards,
        never=[one for one in shown if one.record is None],
        counts=[(name, verdicts[name], words) for name, words in VERDICTS.items()],
        families=sorted({card["family"] for card in cards}),
        years=sorted({card["year"] for card in cards if card["year"]}, reverse=True),
    )


def render_study(one: Shown, record: dict[str, Any]) -> str:
    """The page of one study."""
    data = {"figures": record["figures"], "rows": _tables(one.rows[:MOST_ROWS])}
    about = record["about"]
    changed = changed_settings(record)
    verdicts = Counter(claim["verdict"] for claim in record["claims"])
    return _render(
        "gallery_study.html.j2",
        card=_card(one, record),
        idea=about.get("idea", ""),
        claims=[_claim(claim, about) for claim in record["claims"]],
        counts=[(name, verdicts[name], words) for name, words in VERDICTS.items() if verdicts[name]],
        figures=[figure["title"] for figure in record["figures"]],
        rows=len(one.rows),
        cut=len(one.rows) > MOST_ROWS,
        settings=[
            (name, value, about.get("settings", {}).get(name, ""), _value(changed[name]) if name in changed else "")
            for name, value in record["config"].items()
        ],
        provenance=_provenance(record),
        command=_command(one.slug, record, changed),
        failed=record.get("failed", 0),
        page=f"docs/studies/{one.slug}.md" if (REPOSITORY / "docs" / "studies" / f"{one.slug}.md").is_file() else "",
        data=script_json(harmless(data)),
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(read_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": _value, "short": short, "code": _code}
    environment.globals |= {"generator": GENERATOR, "verdicts": VERDICTS}
    return environment


def _card(one: Shown, record: dict[str, Any]) -> dict[str, Any]:
    """What the index and the head of the page say of a study."""
    paper = record["about"].get("paper", {})
    return {
        "slug": one.slug,
        "family": one.family,
        "title": paper.get("title") or one.slug,
        "authors": paper.get("authors") or "",
        "year": paper.get("year") or "",
        "venue": paper.get("venue") or "",
        "arxiv": paper.get("arxiv") or "",
        "scale": record["scale"],
        "date": str(record["created"])[:10],
        "seeds": record["config"].get("seeds"),
        "computing": duration(record.get("unit_seconds")),
        "claims": record["claims"],
    }


def _claim(claim: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """A claim with its checks drawn."""
    drawn = {
        name: [check | {"numbers": in_words(check), "picture": picture(check)} for check in claim[name]]
        for name in ("checks", "controls")
    }
    return claim | drawn | {"run": about.get("experiments", {}).get(claim["claim"], "")}


def _provenance(record: dict[str, Any]) -> list[tuple[str, str]]:
    machine = record.get("machine") or {}
    commit = record.get("commit") or ""
    cores, memory = machine.get("cores"), machine.get("memory_gib")
    rows = [
        ("Run on", str(record["created"])[:16].replace("T", " ") + " UTC"),
        ("Commit", commit.removesuffix("+")[:12] + (", with changes" if commit.endswith("+") else "")),
        ("Processor", ", ".join(filter(None, [machine.get("processor"), f"{cores} cores" if cores else ""]))),
        ("Accelerator", machine.get("accelerator", "")),
        ("Memory", f"{memory} GiB" if memory else ""),
        ("Device", record.get("device", "")),
        ("Units", f"{record.get('units', '–')}, {record.get('failed', 0)} of them failed"),
        ("Computing", f"{duration(record.get('unit_seconds'))}, all units together"),
        *(record.get("versions") or {}).items(),
    ]
    return [(name, visible(value)) for name, value in rows if value]


def _command(slug: str, record: dict[str, Any], changed: dict[str, Any]) -> str:
    """What runs the same again; empty for a run from Python, whose scale the study does not have."""
    if record["scale"] not in SCALES:
        return ""
    given = [shlex.quote(f"{name}={written(record['config'][name])}") for name in changed]
    device = [] if record.get("device", "cpu") == "cpu" else ["--device", shlex.quote(record["device"])]
    scale = ["--scale", shlex.quote(record["scale"])]
    return " ".join(["assay study run", shlex.quote(slug), *scale, *given, *device])


def _code(words: str) -> Markup:
    """Escaped, with what is between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(words))))


def _value(value: Any) -> str:
    """A setting as one types it."""
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _tables(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table for each experiment, of the columns that it has; numbers with 6 significant digits."""
    own: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own.setdefault(str(row.get("experiment", "rows")), []).append(row)
    tables = []
    for name, group in own.items():
        columns = list(dict.fromkeys(column for row in group for column in row if column != "experiment"))
        cells = [[_rounded(row.get(column)) for column in columns] for row in group]
        tables.append({"name": name, "columns": columns, "rows": cells})
    return tables


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    known = finite(value)
    return None if known is None else float(f"{known:.6g}")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """All rows with all columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(column for row in rows for column in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(harmless(list(rows)))
    return text.getvalue()
