"""The pages tell the truth: their code runs, their links lead somewhere, and they name every column."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.report.schema import TABLES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *(ROOT / "docs").rglob("*.md")]
)
MEASURES = sorted((ROOT / "docs" / "measures").glob("*.md"))

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|tmp|root|home)\b")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(line of the page before the code, code) of every block that is to be run."""
    return [
        (text[: found.start("code")].count("\n"), textwrap.dedent(found["code"]))
        for found in FENCE.finditer(text)
        if found["info"].split() == ["python"]
    ]


def targets(text: str) -> list[str]:
    """Where the links and images of a page lead, outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [found["target"] for found in LINK.finditer(prose)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def registry() -> Iterator[None]:
    """Adapters that a page registers are gone after it."""
    from assay.models.adapters._registry import _REGISTRY

    before = list(_REGISTRY)
    yield
    _REGISTRY[:] = before


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page.read_text("utf-8"))], ids=_name)
@pytest.mark.usefixtures("registry")
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page share one namespace, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    for line, code in python_blocks(page.read_text("utf-8")):
        exec(compile("\n" * line + code, _name(page), "exec"), namespace)  # tracebacks show the page's own lines


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in targets(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = page.parent / file if file else page
        if not found.exists() or (anchor and anchor not in anchors(found.read_text("utf-8"))):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_named_in_a_page_about_measures(table: str) -> None:
    named = {name for page in MEASURES for name in re.findall(r"`(\w+)`", page.read_text("utf-8"))}

    assert table in named
    assert set(TABLES[table]) - named == set()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_page_speaks_of_one_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(page.read_text("utf-8")) == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target).resolve() for target in targets(index.read_text("utf-8"))}

    assert {page for page in PAGES if index.parent in page.parents} - {index} - listed == set()


def test_the_checks_can_fail() -> None:
    """The controls: a block is found also where it is indented, other fences are passed over, and a path is seen."""
    page = "1. so\n\n   ```python\n   x = 1\n   ```\n\n```python no-run\nopen('x')\n```\n\n[a](b.md#c) ![i](j.png)\n"

    assert python_blocks(page) == [(3, "x = 1\n")]
    assert targets(page) == ["b.md#c", "j.png"]
    assert anchors("## What `measure` does\n") == {"what-measure-does"}
    assert MACHINE_PATH.search("in /tmp/x") is not None
    assert MACHINE_PATH.search("and/work src/home") is None
