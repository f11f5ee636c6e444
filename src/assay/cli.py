"""The command line: it parses, calls the library, and prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay._errors import AssayError, InputError, OutputError
from assay.study_cli import app as study_app

if TYPE_CHECKING:
    from assay.report import Report

DEFAULT_OUT = Path("assay-report")
app = typer.Typer(
    name="assay",
    help="What a neural sequence model does with its memory, measured.",
    epilog="Try: assay measure builtin:attention",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(study_app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=arguments, prog_name="assay", standalone_mode=False)
        sys.stdout.flush()
    except AssayError as error:
        return _fail(str(error))
    except typer.TyperException as error:
        return _fail(f"{error.format_message()} (see `{_help_command(arguments)}`)")
    except BrokenPipeError:  # `assay … | head`: the reader has gone, and nobody waits for the rest
        _silence(sys.stdout)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        return _fail("stopped", code=130)
    return code if isinstance(code, int) else 0


def _option(metavar: str, words: str) -> Any:
    return typer.Option(metavar=metavar, help=words, show_default=False)


def _flag(name: str, words: str) -> Any:
    return typer.Option(name, help=words, show_default=False)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"assay {version('assay')}")
        raise typer.Exit


@app.callback()
def _assay(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Measure a model on a text; write the report as HTML and JSON.")
def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="builtin:attention, builtin:mamba, folder or hub id")],
    text: Annotated[str, _option("FILE", "UTF-8 text, or - for standard input [builtin:text]")] = "builtin:text",
    out: Annotated[Path | None, _option("DIR", "folder of the report [assay-report; none with --json]")] = None,
    max_tokens: Annotated[int, _option("N", "length of the text in tokens, 16 or more [2048]")] = 2048,
    positions: Annotated[str, _option("HOW", "tokens with ESS: all, every K-th, adaptive [adaptive]")] = "adaptive",
    layers: Annotated[str | None, _option("LIST", "layers to measure, such as 0-3,7 [all]")] = None,
    delimiter: Annotated[
        list[str] | None, _option("STR", "string that ends a part of the text; repeatable [none]")
    ] = None,
    device: Annotated[str, _option("NAME", "cpu, cuda, cuda:N or mps [auto: cuda, mps, cpu]")] = "auto",
    dtype: Annotated[str, _option("NAME", "float32, float64, bfloat16, float16 [auto: float32]")] = "auto",
    tolerance: Annotated[float, _option("X", "least singular value counted, no unit [0.001]")] = 1e-3,
    seed: Annotated[int, _option("N", "of the random numbers of the intervals [0]")] = 0,
    json: Annotated[bool, _flag("--json", "print the report as JSON, and nothing else [off]")] = False,
    force: Annotated[bool, _flag("--force", "replace the report in DIR [off]")] = False,
    quiet: Annotated[bool, _flag("--quiet", "no progress bar, no summary [off]")] = False,
    trust_remote_code: Annotated[
        bool, _flag("--trust-remote-code", "run Python code that comes with the model [off]")
    ] = False,
    allow_pickle: Annotated[bool, _flag("--allow-pickle", "load .bin weights if there is nothing safer [off]")] = False,
) -> None:
    """Measure what a model remembers on a text. In brackets: the defaults."""
    every, chosen = _positions(positions), _layers(layers)
    _check_numbers(max_tokens, tolerance, seed)
    folder = out if out is not None or json else DEFAULT_OUT
    if folder is not None:
        from assay.report._files import check_free

        check_free(folder, force=force)
    from assay.models.text import read_text

    content, text_name = read_text(text)
    from assay._progress import progress_bar

    with progress_bar(enabled=not (quiet or json)) as progress:
        from assay._measure import measure as run

        report = run(
            model,
            content,
            text_name=text_name,
            max_tokens=max_tokens,
            positions=every,
            layers=chosen,
            delimiters=[_unescape(string) for string in delimiter or []],
            device=device,
            dtype=dtype,
            tolerance=tolerance,
            seed=seed,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    _hand_over(report, folder, force=force, json=json, quiet=quiet)


@app.command(short_help="List built-in models and supported architectures.")
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="architectures for --coverage [all]")
    ] = None,
    coverage: Annotated[bool, _flag("--coverage", "measure a tiny model of every architecture [off]")] = False,
    markdown: Annotated[bool, _flag("--markdown", "print the coverage as Markdown [off]")] = False,
) -> None:
    """List built-in models and what is read; or, with --coverage, what of transformers can be measured."""
    if coverage:
        _coverage(names, markdown=markdown)
    elif names or markdown:
        raise InputError(f"{names[0] if names else '--markdown'} needs --coverage; try: assay models --coverage")
    else:
        _list_models()


def _list_models() -> None:
    from assay.models.adapters import registered
    from assay.models.load import builtin_models

    lines = ["Built-in models:"]
    lines += [f"  {name:<18} {words}" for name, words in builtin_models().items()]
    lines += [
        "",
        "Any causal language model of transformers can be opened, by folder or hub id. Its layers are read by:",
    ]
    lines += [f"  {name:<28} {words}" for name, words in registered()]
    lines += ["A layer that none of them reads is reported as not supported; the others are still measured."]
    typer.echo("\n".join(lines))


def _coverage(names: list[str] | None, *, markdown: bool) -> None:
    from assay._progress import progress_bar

    with progress_bar() as progress:
        if progress is not None:
            progress(0.0, "loading transformers")
        from assay.models.coverage import coverage, print_table, to_markdown

        rows = coverage(names, progress=progress)
    if markdown:
        sys.stdout.write(to_markdown(rows))
    else:
        from rich.console import Console

        print_table(rows, Console())


def _hand_over(report: Report, folder: Path | None, *, force: bool, json: bool, quiet: bool) -> None:
    """Save the report, and print what was asked for."""
    page = report.save(folder, force=force) if folder is not None else None
    try:
        if json:
            sys.stdout.write(report.to_json() + "\n")
        elif not quiet:
            from rich.console import Console

            from assay.report.terminal import summary

            summary(report, Console())
        if page is not None:
            (sys.stderr if json else sys.stdout).write("" if quiet and json else f"{page}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(sys.stdout)
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from None


def _check_numbers(max_tokens: int, tolerance: float, seed: int) -> None:
    if max_tokens < 16:
        raise InputError(f"--max-tokens {max_tokens}: give 16 or more")
    if not 0 < tolerance < float("inf"):
        raise InputError(f"--tolerance {tolerance}: give a number above 0, such as 1e-3")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2^32 - 1")


def _positions(words: str) -> str | int:
    if words in ("adaptive", "all"):
        return words
    if not words.isdecimal() or int(words) < 1:
        raise InputError(f"--positions {words!r}: give adaptive, all, or a whole number K (every K-th token)")
    return int(words)


def _layers(words: str | None) -> list[int] | None:
    """'0-3,7' -> [0, 1, 2, 3, 7]."""
    if words is None:
        return None
    found: set[int] = set()
    for part in words.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        stop = last if dash else first
        if not (first.isdecimal() and stop.isdecimal()) or not int(first) <= int(stop) < 100_000:
            raise InputError(f"--layers {words!r}: give layers counted from 0, such as 0-3,7")
        found.update(range(int(first), int(stop) + 1))
    return sorted(found)


def _unescape(string: str) -> str:
    r"""What a shell cannot easily pass: \n, \t and \r."""
    return string.replace(r"\n", "\n").replace(r"\t", "\t").replace(r"\r", "\r")


def _help_command(arguments: Sequence[str]) -> str:
    command = next((word for word in arguments if word in ("measure", "models", "study")), "")
    return " ".join(["assay", *([command] if command else []), "--help"])


def _fail(message: str, *, code: int = 2) -> int:
    """One line on stderr, whatever the message holds (a file name may contain line breaks and ANSI escapes)."""
    line = " ".join(message.split())
    sys.stderr.write("assay: " + "".join(char if char.isprintable() else "\ufffd" for char in line) + "\n")
    return code


def _silence(stream: object) -> None:
    """Keep Python from complaining once more when it flushes a broken stream at exit."""
    import os

    if sys.__stdout__ is not None and stream is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())


if __name__ == "__main__":
    sys.exit(main())
