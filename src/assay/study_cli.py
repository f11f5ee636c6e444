"""`assay study`: it parses, calls the laboratory, and prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay._errors import InputError

if TYPE_CHECKING:
    from assay.lab.runner import StudyRun
    from assay.lab.study import Study

app = typer.Typer(
    name="study",
    help="Run the claims of published papers on this machine.",
    epilog="Try: assay study run effective-state-size --scale smoke",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _study(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _option(metavar: str, words: str) -> Any:
    return typer.Option(metavar=metavar, help=words, show_default=False)


Out = Annotated[Path | None, _option("DIR", "where results are kept [~/.cache/assay/studies]")]


@app.command("list", short_help="List the studies, with the last verdicts here.")
def list_studies(
    family: Annotated[str | None, _option("NAME", "only of this family [all]")] = None, out: Out = None
) -> None:
    """List the studies, with the last verdicts here and the time that each scale takes."""
    from rich.console import Console

    from assay.lab.discovery import known_studies
    from assay.lab.store import default_root
    from assay.lab.terminal import print_list

    known = known_studies()
    chosen = [source for source in known if family in (None, source.family)]
    if not chosen:
        raise InputError(f"--family {family}: expected one of {', '.join(sorted({source.family for source in known}))}")
    print_list(chosen, out or default_root(), Console())


@app.command(short_help="Show a paper, its claims, and what decides them.")
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="name of a study, or a Python file")], out: Out = None
) -> None:
    """Show a paper, its claims, what is run, what the controls are, and what can be set."""
    from rich.console import Console

    from assay.lab.discovery import find_study
    from assay.lab.store import default_root
    from assay.lab.terminal import print_study

    print_study(find_study(slug), out or default_root(), Console())


@app.command(short_help="Run studies; print the verdicts on their claims.")
def run(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="SLUG|KEY=VALUE", help="studies (or files), and settings")
    ] = None,
    scale: Annotated[str, _option("NAME", "smoke, laptop or paper [laptop]")] = "laptop",
    seeds: Annotated[int | None, _option("N", "seeds of each unit; short for seeds=N [as the scale has it]")] = None,
    jobs: Annotated[int | None, _option("N", "processes [as many as there are cores]")] = None,
    device: Annotated[str, _option("NAME", "cpu, cuda, cuda:N, mps or auto [cpu]")] = "cpu",
    ray: Annotated[str | None, _option("ADDRESS", "run on this Ray cluster: HOST:PORT or auto [this machine]")] = None,
    every: Annotated[bool, typer.Option("--all", help="run all studies [off]", show_default=False)] = False,
    json: Annotated[bool, typer.Option("--json", help="print the results as JSON [off]", show_default=False)] = False,
    out: Out = None,
) -> int:
    """Run studies; print the verdicts on their claims. In brackets: the defaults.

    Results are kept unit by unit: what has run is not run again, and an interrupted command goes on where it was.
    The exit code is 1 where units failed. A claim that does not hold is a result, not an error.
    """
    words = what or []
    names = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word] + ([] if seeds is None else [f"seeds={seeds}"])
    if bool(names) == every:
        raise InputError("give the names of studies, or --all; see: assay study list")
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: give 1 or more")
    if jobs is not None and ray is not None:
        raise InputError("--jobs and --ray: give one of them; Ray runs as many units as its nodes have room for")
    if ray is not None:
        from assay.lab.ray import check_address

        check_address(ray)
    try:
        runs = list(_run(_chosen(names), settings, scale, jobs, ray, device, out, quiet=json))
    except KeyboardInterrupt:
        sys.stderr.write("assay: stopped; finished units are kept, the same command goes on\n")
        raise SystemExit(130) from None
    if json:
        _print_json(runs)
    return 1 if any(run.failures for run in runs) else 0


@app.command(short_help="Write the stored results as a gallery of pages.")
def report(
    slugs: Annotated[list[str] | None, typer.Argument(metavar="SLUG", help="only of these studies [all]")] = None,
    results: Annotated[Path | None, _option("DIR", "where results are kept [~/.cache/assay/studies]")] = None,
    out: Annotated[Path, _option("DIR", "folder of the gallery [assay-gallery]")] = Path("assay-gallery"),
    force: Annotated[
        bool, typer.Option("--force", help="write into a folder that holds something else [off]", show_default=False)
    ] = False,
) -> None:
    """Write the stored results as a gallery of pages, to be opened from disk. In brackets: the defaults.

    Of each study it shows the newest run of the largest scale. A gallery that is there already is replaced.
    """
    from assay.lab.store import default_root
    from assay.report.gallery import write_gallery

    shown = write_gallery(results or default_root(), out, slugs=slugs or (), force=force)
    studies = sum(one.record is not None for one in shown)
    typer.echo(f"{studies} {'study' if studies == 1 else 'studies'}: {out / 'index.html'}")


def _chosen(names: Sequence[str]) -> list[Study]:
    """Those with these names, or all that can be loaded here; which cannot is said."""
    from assay.lab.discovery import find_study, known_studies, load_study

    if names:
        return [find_study(name) for name in names]
    found = []
    for source in known_studies():
        try:
            found.append(load_study(source))
        except InputError as error:
            sys.stderr.write(f"assay: left out: {error}\n")
    return found


def _run(
    studies: Sequence[Study],
    settings: Sequence[str],
    scale: str,
    jobs: int | None,
    ray: str | None,
    device: str,
    out: Path | None,
    *,
    quiet: bool,
) -> Iterator[StudyRun]:
    """All settings are checked before anything runs, and whether the largest units fit."""
    from contextlib import redirect_stdout

    from joblib import cpu_count  # type: ignore[import-untyped]
    from rich.console import Console

    from assay._progress import progress_bar
    from assay.lab.config import with_settings
    from assay.lab.executor import fitting, in_processes
    from assay.lab.ray import on_ray
    from assay.lab.runner import run_study, units_of
    from assay.lab.terminal import print_run
    from assay.models.load import resolve_device

    where = device if ray and device == "cuda" else str(resolve_device(device))  # the nodes may have what is not here
    if ray and where not in ("cpu", "cuda"):
        raise InputError(f"--device {device} with --ray: give cpu or cuda; Ray says which GPU")
    configs = [with_settings(study.config(scale), settings) for study in studies]
    if not ray and len(studies) > 1:  # the executor looks at one for itself
        fitting([unit for study, config in zip(studies, configs, strict=True) for unit in units_of(study, config)], 1)
    console = Console(file=sys.stdout)  # what Ray and experiments print goes elsewhere
    with redirect_stdout(sys.stderr), on_ray(ray) if ray else in_processes(jobs or cpu_count()) as executor:
        for study, config in zip(studies, configs, strict=True):
            with progress_bar(enabled=not quiet) as progress:
                run = run_study(
                    study, config, scale=scale, root=out, executor=executor, device=where, progress=progress
                )
            if not quiet:
                print_run(run, console)
            yield run


def _print_json(runs: Sequence[StudyRun]) -> None:
    from json import dumps

    found = [
        run.record | {"ran": run.ran, "kept": run.kept, "failures": run.failures, "folder": str(run.folder)}
        for run in runs
    ]
    sys.stdout.write(dumps(found, allow_nan=False, indent=1) + "\n")
