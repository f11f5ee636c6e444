"""What `assay study` prints."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from assay._errors import InputError
from assay.lab.config import describe, written
from assay.lab.discovery import Source, load_study
from assay.lab.store import Store, default_root
from assay.lab.study import SCALES, Study
from assay.models._memory import human_bytes

if TYPE_CHECKING:
    from assay.lab.runner import StudyRun

STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow", "void": "magenta"}


def print_list(sources: Sequence[Source], root: Path, console: Console) -> None:
    """For each family a table with a row for each study; one that cannot be loaded or read says why."""
    for family, members in itertools.groupby(sources, key=lambda source: source.family):
        table = Table(box=None, pad_edge=False, title=escape(family), title_justify="left")
        table.add_column("study", no_wrap=True)
        table.add_column(f"paper\ntime: {' | '.join(SCALES)}")
        table.add_column("last here", min_width=18)
        for source in members:
            try:
                study = load_study(source)
                left = f"{study.slug}\n{study.paper.year}, {len(study.claims)} claims"
                cells = (left, f"{study.paper.title}\n{_times(study)}\n", _last_of(study, root))
            except InputError as error:
                cells = (source.slug, str(error), "")
            table.add_row(*map(escape, cells))
        console.print(table)


def print_study(study: Study, root: Path, console: Console) -> None:
    """The paper, each claim with what decides it, and the settings of each scale."""

    def say(words: str = "", indent: int = 0) -> None:
        console.print(Padding(escape(words), (0, 0, 0, indent), expand=False), highlight=False)

    paper = study.paper
    where = (paper.authors, str(paper.year), paper.venue, f"arXiv {paper.arxiv}" if paper.arxiv else None)
    say(f"{study.slug}: {paper.title}")
    say(", ".join(part for part in where if part))
    say(f"{' | '.join(study.scales)} take {_times(study)} on two cores{_sizes(study)}")
    say(f"last verdicts here: {_last_of(study, root)}")
    for claim in study.claims:
        say()
        say(f"{claim.slug}: {claim.text} ({claim.source})")
        say(f"run: {_first_paragraph(claim.experiment.__doc__)}", 2)
        for label, checks in (("holds if", claim.checks), ("control, must not hold", claim.controls)):
            for check in checks:
                every = " for each seed" if check.every_seed else ""
                say(f"{label}: {check.words} {check.relation} {check.threshold:g}{every}", 2)
    say()
    say(f"settings, as key=value ({' | '.join(study.scales)}):")
    for name, field in study.Config.model_fields.items():
        say(f"{name}={' | '.join(written(getattr(config, name)) for config in study.scales.values())}", 2)
        say(describe(field) + (f": {field.description}" if field.description else ""), 6)


def print_run(run: StudyRun, console: Console) -> None:
    """The verdicts with their numbers, and where the rows are."""

    def say(words: str, indent: int = 0) -> None:
        console.print(Padding(words, (0, 0, 0, indent), expand=False), highlight=False)

    counts = f"{run.ran} units run, {run.kept} kept from before, {len(run.failures)} failed"
    say(escape(f"{run.study}, {run.scale}: {counts}; {_duration(run.record['unit_seconds'])} of computing"))
    for result in run.results:
        say("")
        reason = "" if result.verdict == "holds" else f" ({escape(result.reason)})"
        say(f"[{STYLES[result.verdict]}]{result.verdict}[/]: {escape(result.text)}{reason}")
        for label, checks in (("", result.checks), ("control ", result.controls)):
            for check in checks:
                say(escape(f"{label}{check.verdict}: {check.words}: {check.numbers}"), 4)
    if run.failures:
        say(f"\nthe first failure:\n{escape(run.failures[0])}")
    command = f"assay study report {shlex.quote(run.study)}{_results(run.folder)}"
    console.print(escape(f"\n{run.folder}\nfigures, in a page: {command}"), highlight=False, soft_wrap=True)


def _results(folder: Path) -> str:
    root = folder.parents[2]
    return "" if root == default_root() else f" --results {shlex.quote(str(root))}"


def _last_of(study: Study, root: Path) -> str:
    return _last(Store(root, study.slug).runs())


def _last(runs: Sequence[dict[str, Any]]) -> str:
    """Such as `5 holds, 1 fails (laptop)`."""
    if not runs:
        return "never run"
    counts = Counter(claim["verdict"] for claim in runs[0]["claims"])
    return ", ".join(f"{counts[name]} {name}" for name in STYLES if counts[name]) + f" ({runs[0]['scale']})"


def _times(study: Study) -> str:
    return " | ".join(_duration(study.seconds[scale]) if scale in study.seconds else "?" for scale in study.scales)


def _sizes(study: Study) -> str:
    """The memory of the largest unit of each scale, where the study says."""
    scales = [study.seeded_units(config.model_copy(update={"seeds": 1})) for config in study.scales.values()]
    memory = [max((unit.resources.memory for unit in units), default=0) for units in scales]
    return f", and {' | '.join(map(human_bytes, memory))} of memory a unit" if any(memory) else ""


def _duration(seconds: float) -> str:
    """
    >>> _duration(12.3), _duration(150), _duration(9000)
    ('12 s', '2.5 min', '2.5 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def _first_paragraph(words: str | None) -> str:
    return " ".join((words or "").partition("\n\n")[0].split())
