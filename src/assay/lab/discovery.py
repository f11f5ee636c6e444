"""Which studies there are: one for each file in `assay/studies/FAMILY/`, the entry points of the group `assay.studies`
of other packages, and any Python file given by its path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from assay._errors import InputError, nearest
from assay.lab.study import Study

GROUP = "assay.studies"


@dataclass(frozen=True)
class Source:
    """A study that is known by name, and not imported yet. `family`: its folder, or the package that it comes from."""

    slug: str
    family: str
    load: Callable[[], type[Study]]


def known_studies() -> list[Source]:
    """All by family and slug, none of them imported. A built-in study goes before another of its name."""
    found = {source.slug: source for source in [*_from_packages(), *_built_in()]}
    return sorted(found.values(), key=lambda source: (source.family, source.slug))


def find_study(name: str) -> Study:
    """The study with this slug, or that of a Python file (`./first_study.py`).

    Raises `InputError` where there is none (naming the nearest), it cannot be imported, or it lacks a package.
    """
    source = _from_file(Path(name)) if name.endswith(".py") else _by_slug(name)
    return load_study(source)


def load_study(source: Source) -> Study:
    """Import it and make it. Raises `InputError` where that fails, with the reason in one line."""
    try:
        study = source.load()()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"study {source.slug} of {source.family} cannot be loaded: {reason}") from error
    if missing := [name for name in ("slug", "paper", "claims", "scales") if not hasattr(study, name)]:
        raise InputError(f"study {source.slug} of {source.family} has no {', '.join(missing)}; see docs/studies.md")
    if missing := [name for name in study.requires if importlib.util.find_spec(name) is None]:
        raise InputError(f"study {source.slug} needs {', '.join(missing)}; install it by: {study.extra}")
    return study


def _by_slug(slug: str) -> Source:
    known = {source.slug: source for source in known_studies()}
    if slug not in known:
        raise InputError(f"no study {slug!r}{nearest(slug, known)}; see: assay study list")
    return known[slug]


def _built_in() -> list[Source]:
    folder = Path(__file__).parents[1] / "studies"
    return [
        _of_module(f"assay.studies.{file.parent.name}.{file.stem}", file.parent.name.replace("_", "-"))
        for file in sorted(folder.glob("*/[!_]*.py"))
    ]


def _of_module(module: str, family: str) -> Source:
    slug = module.rpartition(".")[2].replace("_", "-")
    return Source(slug, family, lambda: _study_in(module))


def _study_in(module: str) -> type[Study]:
    """The one study that a module defines."""
    content = vars(importlib.import_module(module)).values()
    found = [one for one in content if isinstance(one, type) and issubclass(one, Study) and one.__module__ == module]
    if len(found) != 1:
        raise InputError(f"{module} defines {len(found)} studies; expected one subclass of Study")
    return found[0]


def _from_packages() -> list[Source]:
    return [
        Source(entry.name, entry.dist.name if entry.dist else entry.value.partition(".")[0], entry.load)
        for entry in entry_points(group=GROUP)
    ]


def _from_file(file: Path) -> Source:
    """Its folder goes to the front of the path of this process, and so of those that run its units."""
    if not file.is_file():
        raise InputError(f"no file {file}; give the name of a study (see: assay study list) or a Python file")
    if not file.stem.isidentifier() or (file.stem in sys.modules and not _is_loaded_from(file)):
        raise InputError(f"{file}: {file.stem!r} is no free name for a module; rename the file")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return _of_module(file.stem, "file")


def _is_loaded_from(file: Path) -> bool:
    origin = getattr(sys.modules[file.stem], "__file__", None)
    return origin is not None and Path(origin).resolve() == file.resolve()
