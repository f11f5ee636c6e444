"""The command line: what it prints, what it leaves behind, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, make_gpt2

from assay import cli

KILL_WHILE_SAVING = """
import os, signal, sys
from assay import cli
from assay.report import _files
_files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(sys.argv[1:]))
"""
KILL_WHILE_MEASURING = """
import os, signal, sys
from assay import _measure, cli
_measure.surprisal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a text that is long enough."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line on stderr of a command that must end with code 2, say nothing else and leave nothing behind."""
    before = sorted(Path.cwd().rglob("*"))
    capfd.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()

    assert code == 2
    assert out == ""
    assert err.startswith("assay: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert sorted(Path.cwd().rglob("*")) == before
    return err


def test_help_fits_a_screen_and_imports_nothing_heavy() -> None:
    code = """
import sys
from assay import cli
assert cli.main(sys.argv[1:]) == 0
heavy = {"torch", "transformers", "pandas", "numpy", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    for arguments, lines in (["--help"], 24), ([], 24), (["measure", "--help"], 32), (["--version"], 1):
        shown = python(code, *arguments, env={**os.environ, "COLUMNS": "80"})

        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""
        assert len(shown.stdout.splitlines()) <= lines
        assert max(map(len, shown.stdout.splitlines())) <= 80


def test_every_option_has_a_line_of_help_with_its_default(capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["measure", "--help"])
    lines = [line for line in capfd.readouterr().out.splitlines() if line.strip().startswith("--")]

    assert len(lines) == 15
    assert all(line.endswith("]") for line in lines)


def test_models_lists_builtins_and_adapters(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0

    out = capfd.readouterr().out
    assert "builtin:attention" in out
    assert "builtin:mamba" in out
    assert "softmax attention" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measur", "x"], "Did you mean 'measure'"),
        (["measure"], "Missing argument 'MODEL'"),
        (["measure", "x", "--layer", "2"], "No such option: --layer"),
        (["measure", "x", "--max-tokens", "many"], "--max-tokens"),
        (["measure", "x", "--max-tokens", "3"], "give 16 or more"),
        (["measure", "x", "--positions", "some"], "give adaptive, all, or a whole number"),
        (["measure", "x", "--positions", "0"], "give adaptive, all, or a whole number"),
        (["measure", "x", "--layers", "3-1"], "such as 0-3,7"),
        (["measure", "x", "--layers", "a"], "such as 0-3,7"),
        (["measure", "x", "--tolerance", "-1"], "give a number above 0"),
        (["measure", "x", "--tolerance", "nan"], "give a number above 0"),
        (["measure", "x", "--seed", "-1"], "--seed -1"),
        (["measure", "builtin:mambo"], "did you mean 'builtin:mamba'?"),
        (["measure", "./nowhere"], "no folder at './nowhere'"),
        (["measure", "."], "has no config.json"),
        (["measure", "x", "--text", "txt.txt"], "did you mean 'text.txt'?"),
        (["measure", "x\n\x1b[31m\udc80/y/z"], "no folder at"),
    ],
)
def test_mistakes_get_one_line(capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in refused(capfd, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"!" * 15, "too short: 15 tokens"), (b"a\0b", "binary"), (b"\xff\xfe", "not UTF-8")],
)
def test_unusable_texts(
    capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path, content: bytes, message: str
) -> None:
    (here / "bad.txt").write_bytes(content)

    assert message in refused(capfd, "measure", tiny_gpt2_folder, "--text", "bad.txt", "--device", "cpu")


def test_cuda_without_one(
    capfd: pytest.CaptureFixture[str], tiny_gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert "give --device cpu" in refused(capfd, "measure", tiny_gpt2_folder, "--device", "cuda")


def test_a_layer_that_is_not_there(capfd: pytest.CaptureFixture[str], tiny_gpt2_folder: Path) -> None:
    assert "layer" in refused(capfd, "measure", tiny_gpt2_folder, "--layers", "0,7", "--device", "cpu")


def test_models_that_need_a_permission_or_a_tokenizer(
    capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path
) -> None:
    pickled = shutil.copytree(tiny_gpt2_folder, here / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    remote = shutil.copytree(tiny_gpt2_folder, here / "remote")
    (remote / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    make_gpt2(here / "bare", None)

    assert "--allow-pickle" in refused(capfd, "measure", "./pickled")
    assert "--trust-remote-code" in refused(capfd, "measure", "./remote")
    assert "tokenizer.json" in refused(capfd, "measure", "./bare")


def test_a_model_that_would_not_fit(capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path) -> None:
    huge = shutil.copytree(tiny_gpt2_folder, here / "huge")
    config = json.loads((huge / "config.json").read_text()) | {"n_embd": 12288, "n_layer": 96, "n_head": 96}
    (huge / "config.json").write_text(json.dumps(config))

    assert "are free on cpu" in refused(capfd, "measure", "./huge", "--device", "cpu")


def test_an_output_that_is_taken_is_told_before_the_model_is_opened(
    capfd: pytest.CaptureFixture[str], here: Path
) -> None:
    (here / "report").mkdir()
    (here / "report" / "thesis.tex").write_text("years of work")

    assert "cannot read" in refused(capfd, "measure", "./nowhere", "--out", "x" * 300)
    assert "is a file" in refused(capfd, "measure", "./nowhere", "--out", "text.txt")
    assert "--force" in refused(capfd, "measure", "./nowhere", "--out", "report")
    assert "no folder at './nowhere'" in refused(capfd, "measure", "./nowhere", "--out", "report", "--force")


def test_nan_weights_are_named(capfd: pytest.CaptureFixture[str], here: Path, tiny_tokenizer: Any) -> None:
    from transformers import GPT2LMHeadModel

    folder = make_gpt2(here / "broken", tiny_tokenizer)
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.transformer.h[1].mlp.c_fc.weight.data[:] = float("nan")
    model.save_pretrained(folder)

    assert "1" in refused(capfd, "measure", "./broken", "--text", "text.txt", "--device", "cpu")


def test_no_space_for_the_report(capfd: pytest.CaptureFixture[str], tiny_gpt2_folder: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs the file size limits of Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        line = refused(capfd, "measure", tiny_gpt2_folder, "--text", "text.txt", "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "cannot write the report to assay-report: File too large" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_no_space_for_standard_output(tiny_gpt2_folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "assay.cli", "measure", str(tiny_gpt2_folder), "--text", "text.txt", "--json"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)

    assert ended.returncode == 2
    assert ended.stderr == "assay: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("code", [KILL_WHILE_MEASURING, KILL_WHILE_SAVING])
def test_a_killed_run_leaves_nothing_that_looks_finished(here: Path, tiny_gpt2_folder: Path, code: str) -> None:
    ended = python(code, "measure", tiny_gpt2_folder, "--text", "text.txt", "--device", "cpu")

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (here / "assay-report").exists()


def test_ctrl_c_is_one_line(
    capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay._measure.measure", lambda *_, **__: signal.raise_signal(signal.SIGINT))

    assert cli.main(["measure", str(tiny_gpt2_folder)]) == 130
    assert capfd.readouterr().err == "assay: stopped\n"
    assert not (here / "assay-report").exists()


def test_a_mistake_of_the_library_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay._measure.measure", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        cli.main(["measure", "builtin:attention"])


def test_options_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(model: str, text: str, **options: Any) -> None:
        seen.update(options, model=model, text=text)
        raise KeyboardInterrupt

    monkeypatch.setattr("assay._measure.measure", record)
    line = (
        "measure M --text text.txt --positions 8 --layers 0-2,5 --delimiter \\n --delimiter ; --max-tokens 99 --seed 3"
    )
    cli.main(line.split())

    assert (seen["model"], seen["text"], seen["text_name"]) == ("M", TEXT, "text.txt")
    assert (seen["positions"], seen["layers"], seen["delimiters"]) == (8, [0, 1, 2, 5], ["\n", ";"])
    assert (seen["max_tokens"], seen["seed"], seen["tolerance"]) == (99, 3, 1e-3)
    assert seen["progress"] is None


def test_measures_a_folder(capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path) -> None:
    assert cli.main(["measure", str(tiny_gpt2_folder), "--text", "text.txt", "--device", "cpu"]) == 0

    out, err = capfd.readouterr()
    assert err == ""
    assert "assay-report/report.html" in out
    assert sorted(file.name for file in (here / "assay-report").iterdir()) == ["report.html", "report.json"]


def test_json_goes_to_stdout_alone(capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path) -> None:
    assert cli.main(["measure", str(tiny_gpt2_folder), "--text", "text.txt", "--device", "cpu", "--json"]) == 0

    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["meta"]["text"] == "text.txt"
    assert not (here / "assay-report").exists()


def test_harmful_tokens_reach_neither_terminal_nor_page(
    capfd: pytest.CaptureFixture[str], here: Path, tiny_gpt2_folder: Path
) -> None:
    (here / "evil\x1b[31m.txt").write_text("<script>alert(1)</script>\x1b]0;owned\x07 & </style>\u202e" * 8)

    assert cli.main(["measure", str(tiny_gpt2_folder), "--text", "evil\x1b[31m.txt", "--device", "cpu"]) == 0
    out = capfd.readouterr().out
    page = (here / "assay-report" / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page


def test_coverage_of_some_architectures(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--coverage", "llama", "mamba"]) == 0
    out, err = capfd.readouterr()

    assert err == ""
    assert ["llama", "2/2"] in [line.split()[:2] for line in out.splitlines()]
    assert "MambaMixer (recurrence)" in out
    assert "2 of 2 architectures are measured in full" in " ".join(out.split())
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "text.txt"]


def test_coverage_as_markdown(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--coverage", "--markdown", "gpt2"]) == 0
    out, err = capfd.readouterr()

    assert err == ""
    assert out.startswith("# ")
    assert out.splitlines()[-1].startswith("| `gpt2` | `GPT2Attention` (attention) | 2/2 | ")


def test_help_of_models_imports_nothing_heavy_and_fits_a_screen() -> None:
    code = "import sys; from assay import cli; cli.main(['models', '--help']); assert 'torch' not in sys.modules"
    shown = python(code, env={**os.environ, "COLUMNS": "80"})

    assert shown.returncode == 0, shown.stderr
    options = [line for line in shown.stdout.splitlines() if line.strip().startswith("--")]
    assert len(options) == 2
    assert all(line.endswith("[off]") and len(line) <= 80 for line in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "llama"], "llama needs --coverage"),
        (["models", "--markdown"], "--markdown needs --coverage"),
        (["models", "--coverage", "llama", "lama"], "did you mean 'llama'?"),
        (["models", "--coverage", "no\n\x1b[31m"], "no causal language model"),
    ],
)
def test_mistakes_about_coverage(capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in refused(capfd, *arguments)
