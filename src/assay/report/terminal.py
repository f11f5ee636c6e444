"""What somebody sees in the terminal at the end of `assay measure`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assay.report._report import Report
from assay.report._text import decimal, duration, finite, float_bytes, number, percent, size, visible

MAX_FINDINGS = 7
MAX_ROWS = 40
MAX_REASONS = 6
BAR = 6
EIGHTHS = " ▏▎▍▌▋▊▉█"


def summary(report: Report, console: Console) -> None:
    """Print header, findings and a table of layers; plain where the console has no colours or no UTF-8."""
    plain = not (console.encoding or "").lower().startswith("utf")
    say = _Printer(console, plain)
    say.line(_header(report.meta, say))
    headline = _headline(report)
    if headline:
        say.line(headline)
    if report.findings:
        console.print()
        findings = Table.grid(padding=(0, 1))
        findings.add_column(justify="right", style="bold cyan")
        findings.add_column(overflow="fold")
        for i, finding in enumerate(report.findings[:MAX_FINDINGS], start=1):
            findings.add_row(str(i), say.safe(finding.text, 600))
        console.print(Padding(findings, (0, 0, 0, 1)))
    for warning in (report.meta.get("warnings") or [])[:MAX_FINDINGS]:
        say.line(f"[yellow]![/] {say.safe(warning)}")
    if len(report.layers):
        console.print()
        _layers(report, say)


class _Printer:
    """Text from models and users made harmless for one console."""

    def __init__(self, console: Console, plain: bool) -> None:
        self.console, self.plain = console, plain

    def safe(self, text: Any, limit: int = 200) -> str:
        """Control characters as symbols, no rich markup, nothing that the console's encoding lacks."""
        return escape(self.encodable(visible(text, limit)))

    def encodable(self, text: str) -> str:
        if not self.plain:
            return text
        known = {"–": "-", "·": "|", "…": "...", "×": "x", "−": "-"}
        text = "".join(known.get(c, c) for c in text)
        return text.encode("ascii", "backslashreplace").decode("ascii")

    def line(self, markup: str) -> None:
        self.console.print(self.encodable(markup), highlight=False, soft_wrap=False)

    def bar(self, share: float | None) -> str:
        """A share from 0 to 1 as a bar of `BAR` characters; anything above nothing is seen."""
        if share is None:
            return ""
        share = min(max(share, 0.0), 1.0)
        if self.plain:
            return "#" * round(share * BAR)
        filled = max(round(share * BAR * 8), 1 if share > 0 else 0)
        return "█" * (filled // 8) + EIGHTHS[filled % 8].strip()


def _header(meta: dict[str, Any], say: _Printer) -> str:
    windows = meta.get("num_windows")
    parts = [
        f"[bold]{say.safe(meta['model'], 80)}[/]",
        f"{meta['num_tokens']:,} tokens" if isinstance(meta.get("num_tokens"), int) else "",
        f"{windows} windows" if isinstance(windows, int) and windows > 1 else "",
        f"{duration(meta['seconds'])}" if finite(meta.get("seconds")) is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def _headline(report: Report) -> str:
    """The numbers that sum up the model; only those that are known."""
    summary: dict[str, Any] = report.meta.get("summary") or {}
    state, cache = finite(summary.get("total_ess_floats")), finite(summary.get("total_cache_floats"))
    width = float_bytes(report.meta.get("dtype"))
    parts = []
    if finite(summary.get("utilisation")) is not None:
        parts.append(f"uses {percent(summary['utilisation'])} of attainable state")
    if state is not None and cache is not None:
        amounts = (size(state * width), size(cache * width)) if width else (number(state), f"{number(cache)} floats")
        parts.append(f"carries {amounts[0]} of {amounts[1]}")
    if finite(summary.get("bits_per_byte")) is not None:
        parts.append(f"{number(summary['bits_per_byte'])} bits/byte")
    return " · ".join(parts)


def _layers(report: Report, say: _Printer) -> None:
    rows = report.layers.to_dict("records")
    shown = _thinned(rows)
    entropy = _mean_entropy(report)
    has_entropy = any(row["layer"] in entropy for row in rows)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", collapse_padding=True)
    cut: dict[str, Any] = {"no_wrap": True, "overflow": "crop" if say.plain else "ellipsis"}  # "…" needs UTF-8
    table.add_column("layer", justify="right", **cut)
    table.add_column("mixer", **cut, max_width=16)
    wide = say.console.width >= 78
    for name in ("heads", "entropy-\nESS", "tolerance-\nESS", "used") if wide else ("heads", "entropy-\nESS", "used"):
        table.add_column(name, justify="right", **cut)
    if wide:
        table.add_column("", **cut, width=BAR, style="cyan")
    if has_entropy:
        table.add_column("attention\nentropy", justify="right", **cut)
    table.add_column("fidelity", justify="right", **cut)
    for row in shown:
        used, fidelity = finite(row["utilisation"]), finite(row["fidelity"])
        measured = bool(row["measured"])
        cells = [str(row["layer"]), say.safe(row["mixer"], 60), number(row["num_heads"])]
        ess, tolerance = decimal(row["entropy_ess"]), decimal(row["tolerance_ess"])
        cells += [ess, tolerance, percent(used), say.bar(used)] if wide else [ess, percent(used)]
        if has_entropy:
            cells.append(percent(entropy.get(row["layer"])))
        cells.append("–" if fidelity is None else f"{fidelity:.0e}")
        table.add_row(*(say.encodable(cell) for cell in cells), style="" if measured else "dim")
    say.console.print(table)
    if len(shown) < len(rows):
        say.line(f"[dim]{len(shown)} of {len(rows)} layers shown; all are in the report[/]")
    _reasons(rows, say)


def _thinned(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """At most `MAX_ROWS` rows: evenly spread, first and last among them."""
    if len(rows) <= MAX_ROWS:
        return rows
    step = (len(rows) - 1) / (MAX_ROWS - 1)
    return [rows[round(i * step)] for i in range(MAX_ROWS)]


def _mean_entropy(report: Report) -> dict[Any, float]:
    """Normalised attention entropy of every layer that has one, mean over heads."""
    known = report.heads[report.heads["normalised_entropy"].notna()]
    return {layer: float(own["normalised_entropy"].astype(float).mean()) for layer, own in known.groupby("layer")}


def _reasons(rows: list[dict[Any, Any]], say: _Printer) -> None:
    """Which layers were not measured and why, layers with the same reason together."""
    layers: dict[str, list[Any]] = {}
    for row in rows:
        if not row["measured"]:
            layers.setdefault(str(row["reason"] or "no reason given"), []).append(row["layer"])
    for reason, which in list(layers.items())[:MAX_REASONS]:
        names = ", ".join(map(str, which[:8])) + (f" and {len(which) - 8} more" if len(which) > 8 else "")
        text = Text.from_markup(
            f"[yellow]not measured[/]: layer{'s' * (len(which) > 1)} {names}: {say.safe(reason, 160)}"
        )
        say.console.print(text)
    if len(layers) > MAX_REASONS:
        say.line(f"[dim]and {len(layers) - MAX_REASONS} more reasons, in the report[/]")
