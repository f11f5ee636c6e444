"""The rooms of the house: which folder knows which, without circles."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import assay

ROOT = Path(assay.__file__).parent


def rooms(file: Path) -> set[str]:
    """The folders of assay that a file imports from, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [f"{node.module}.{one.name}" for one in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("assay.")}
    return {name for name in found if (ROOT / name).is_dir()}


def known() -> dict[str, set[str]]:
    return {
        folder.name: set().union(*map(rooms, folder.rglob("*.py"))) - {folder.name}
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }


def test_there_are_no_circles() -> None:
    order = list(graphlib.TopologicalSorter(known()).static_order())  # raises CycleError, which names the circle

    assert order.index("operators") < order.index("nn") < order.index("models") < order.index("studies")


def test_data_knows_no_other_room() -> None:
    assert known()["data"] == set()


def test_the_page_names_every_room() -> None:
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text("utf-8")
    assert all(f"{name}/" in page for name in known())
