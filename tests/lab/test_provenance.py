"""The commit of a study's file, the class of the machine, and what a record says of its study."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from toy import load_toy

from assay.lab.provenance import about, commit, machine

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A new repository in tmp_path that reads nobody's configuration, as a function that runs git in it."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def run(*words: str) -> str:
        who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("init", "--quiet")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "study.py").write_text("SIZE = 1\n")
    (tmp_path / "other.py").write_text("SIZE = 2\n")
    (tmp_path / "notes.md").write_text("Nothing.\n")
    run("add", ".")
    run("commit", "--quiet", "--message", "first")
    return run


def test_clean_checkout_has_its_commit(tmp_path: Path, git: Git) -> None:
    found = commit(tmp_path / "inner" / "study.py")

    assert found == git("rev-parse", "HEAD")
    assert found is not None
    assert len(found) == 40


def test_changed_code_anywhere_in_the_checkout_is_marked(tmp_path: Path, git: Git) -> None:
    (tmp_path / "other.py").write_text("SIZE = 3\n")
    assert commit(tmp_path / "inner" / "study.py") == git("rev-parse", "HEAD") + "+"

    git("commit", "--quiet", "--all", "--message", "second")
    assert commit(tmp_path / "inner" / "study.py") == git("rev-parse", "HEAD")


def test_staged_changes_are_marked(tmp_path: Path, git: Git) -> None:
    (tmp_path / "inner" / "study.py").write_text("SIZE = 3\n")
    git("add", ".")

    assert commit(tmp_path / "inner" / "study.py") == git("rev-parse", "HEAD") + "+"


def test_what_is_no_code_or_not_tracked_does_not_count(tmp_path: Path, git: Git) -> None:
    (tmp_path / "notes.md").write_text("Something.\n")
    (tmp_path / "new.py").write_text("SIZE = 4\n")

    assert commit(tmp_path / "inner" / "study.py") == git("rev-parse", "HEAD")
    assert commit(tmp_path / "new.py") is None  # no commit has this file


def test_no_commit_outside_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "study.py").write_text("SIZE = 1\n")

    assert commit(tmp_path / "study.py") is None
    assert commit(tmp_path / "nowhere" / "study.py") is None


def test_no_commit_without_git(tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path / "inner" / "study.py") == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path / "inner"))

    assert commit(tmp_path / "inner" / "study.py") is None


def test_machine_says_what_it_is() -> None:
    found = machine("cpu")

    assert set(found) == {"processor", "cores", "memory_gib", "system"}
    assert isinstance(found["processor"], str)
    assert found["processor"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert abs(found["memory_gib"] * 2**30 - psutil.virtual_memory().total) <= 2**29
    assert found["system"] == platform.system()
    assert json.loads(json.dumps(found)) == found


def test_machine_names_its_accelerator_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"accelerator at {device}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "accelerator" not in machine("cuda")  # it is on another node

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine("cuda:1")["accelerator"] == "accelerator at cuda:1"
    assert "accelerator" not in machine("cpu")


def test_processor_where_linux_does_not_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(file: Path, encoding: str) -> str:
        raise FileNotFoundError(file, encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine("cpu")["processor"] == "aarch64"

    monkeypatch.setattr(Path, "read_text", lambda *_: "processor\t: 0\nmodel name\t: A: fast one\n")
    assert machine("cpu")["processor"] == "A: fast one"


def test_about_is_plain_data(toy: Path) -> None:
    found = about(load_toy(toy))

    assert found["paper"] == {"title": "A toy", "authors": "Nobody", "year": 2025, "arxiv": None, "venue": None}
    assert found["idea"] == ""  # and not that of its base class
    assert found["experiments"] == {"grows": "n, and a little noise."}
    assert set(found["settings"]) == {"seeds", "sizes", "pause", "unused"}
    assert found["scales"] == {"smoke": {"seeds": 2, "sizes": [1, 2, 3], "pause": 0.0, "unused": 0}}
    assert json.loads(json.dumps(found)) == found
