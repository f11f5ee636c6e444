"""Studies are found in assay, in other packages and in files, and each mistake is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from toy import STUDY, calls, edit, write_toy

from assay import InputError
from assay.lab import find_study, known_studies, run_study
from assay.lab.discovery import load_study


@pytest.fixture
def package(folder: Path) -> Path:
    """What `pip install` leaves behind of a package that ships a study: its code and its entry point."""
    code, info = folder / "memory_lab", folder / "memory_lab-1.0.dist-info"
    code.mkdir()
    info.mkdir()
    (code / "__init__.py").write_text("")
    (code / "scaling.py").write_text("def scale_of(n):\n    return 2.0 * n\n")
    (code / "studies.py").write_text(
        STUDY.format(helper="memory_lab.scaling").replace('slug = "toy"', 'slug = "theirs"')
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[assay.studies]\ntheirs = memory_lab.studies:Toy\n")
    return code


def test_a_study_of_another_package_is_found_and_runs(package: Path) -> None:
    assert ("theirs", "memory-lab") in [(source.slug, source.family) for source in known_studies()]

    study = find_study("theirs")
    assert run_study(study, study.config("smoke")).ran == 12
    assert run_study(study, study.config("smoke")).ran == 0
    assert (package.parent / "cache" / "assay" / "studies" / "theirs" / "runs").is_dir()


def test_its_own_modules_count_as_its_code(package: Path) -> None:
    from assay.lab.fingerprint import fingerprint

    study = find_study("theirs")
    first = study.seeded_units(study.config("smoke"))[0].experiment
    before = fingerprint(first)
    edit(package / "scaling.py", "2.0", "3.0")
    del sys.modules["memory_lab.scaling"]
    assert fingerprint(first) != before


def test_all_built_in_studies_are_named_as_their_files() -> None:
    for source in known_studies():
        study = load_study(source)
        assert study.slug == source.slug
        assert type(study).__module__ == f"assay.studies.{source.family}.{source.slug}".replace("-", "_")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no study 'efective-state-size' \(did you mean 'effective-state-size'\?\)"):
        find_study("efective-state-size")
    with pytest.raises(InputError, match="no study 'zzz'; see: assay study list"):
        find_study("zzz")


def test_a_study_that_cannot_be_imported_says_why(package: Path) -> None:
    edit(package / "studies.py", "import random", "import no_such_module")

    with pytest.raises(InputError, match="theirs of memory-lab cannot be loaded: ModuleNotFoundError: No module named"):
        find_study("theirs")
    assert "theirs" in [source.slug for source in known_studies()]  # the list of names does not import it


def test_a_missing_extra_says_what_to_install(package: Path) -> None:
    edit(
        package / "studies.py", '    slug = "theirs"', '    slug = "theirs"\n    requires = ("json", "no_such_module")'
    )

    with pytest.raises(InputError, match=r"needs no_such_module; install it by: pip install 'assay\[studies\]'"):
        find_study("theirs")


def test_a_file_is_a_study(folder: Path) -> None:
    study = find_study(str(write_toy(folder)))

    assert run_study(study, study.config("smoke")).ran == len(calls(folder)) == 12
    with pytest.raises(InputError, match=r"no file nothing\.py"):
        find_study("nothing.py")
    (folder / "json.py").write_text("")
    with pytest.raises(InputError, match="'json' is no free name for a module; rename the file"):
        find_study("json.py")
    (folder / "empty_study.py").write_text("")
    with pytest.raises(InputError, match="empty_study defines 0 studies; expected one subclass of Study"):
        find_study("empty_study.py")


@pytest.mark.parametrize("name", ["slug", "paper", "claims", "scales"])
def test_a_study_that_lacks_a_part_says_which(toy: Path, name: str) -> None:
    edit(toy, f"    {name} = ", f"    other_{name} = ")
    for module in ("toy_study", "toy_helper"):
        sys.modules.pop(module, None)
    with pytest.raises(InputError, match=f"study toy-study of file has no {name}; see docs/studies.md"):
        find_study(str(toy))
