"""The laboratory: a paper's claims as code, run on this machine, and judged from what was measured.

    study = find_study("effective-state-size")
    run = run_study(study, study.config("smoke"))
    run.results, run.table(), run.folder

docs/studies.md shows how to write one. Importing this is cheap; what a name needs is imported with it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.lab.claims import Check as Check
    from assay.lab.claims import CheckResult as CheckResult
    from assay.lab.claims import Claim as Claim
    from assay.lab.claims import ClaimResult as ClaimResult
    from assay.lab.claims import judge as judge
    from assay.lab.config import StudyConfig as StudyConfig
    from assay.lab.discovery import find_study as find_study
    from assay.lab.discovery import known_studies as known_studies
    from assay.lab.executor import Executor as Executor
    from assay.lab.executor import Outcome as Outcome
    from assay.lab.executor import in_processes as in_processes
    from assay.lab.executor import in_this_process as in_this_process
    from assay.lab.executor import run_unit as run_unit
    from assay.lab.figure import mark as mark
    from assay.lab.figure import plot as plot
    from assay.lab.ray import on_ray as on_ray
    from assay.lab.runner import StudyRun as StudyRun
    from assay.lab.runner import run_study as run_study
    from assay.lab.statistics import smallest_step as smallest_step
    from assay.lab.statistics import spearman as spearman
    from assay.lab.study import Paper as Paper
    from assay.lab.study import Resources as Resources
    from assay.lab.study import Row as Row
    from assay.lab.study import Study as Study
    from assay.lab.study import Unit as Unit
    from assay.lab.study import grid as grid

_WHERE = {
    "Check": "claims",
    "CheckResult": "claims",
    "Claim": "claims",
    "ClaimResult": "claims",
    "judge": "claims",
    "StudyConfig": "config",
    "find_study": "discovery",
    "known_studies": "discovery",
    "Executor": "executor",
    "Outcome": "executor",
    "in_processes": "executor",
    "in_this_process": "executor",
    "run_unit": "executor",
    "mark": "figure",
    "plot": "figure",
    "on_ray": "ray",
    "StudyRun": "runner",
    "run_study": "runner",
    "smallest_step": "statistics",
    "spearman": "statistics",
    "Paper": "study",
    "Resources": "study",
    "Row": "study",
    "Study": "study",
    "Unit": "study",
    "grid": "study",
}
__all__ = [
    "Check",
    "CheckResult",
    "Claim",
    "ClaimResult",
    "Executor",
    "Outcome",
    "Paper",
    "Resources",
    "Row",
    "Study",
    "StudyConfig",
    "StudyRun",
    "Unit",
    "find_study",
    "grid",
    "in_processes",
    "in_this_process",
    "judge",
    "known_studies",
    "mark",
    "on_ray",
    "plot",
    "run_study",
    "run_unit",
    "smallest_step",
    "spearman",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'assay.lab' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"assay.lab.{_WHERE[name]}"), name)
