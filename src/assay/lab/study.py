"""A paper's claims as code: what a study file is made of."""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from assay._errors import InputError
from assay.lab.claims import Claim
from assay.lab.config import StudyConfig

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""Column: number, text, truth value or None."""
Experiment = Callable[..., "Row | list[Row]"]
SCALES = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class Paper:
    """Where the claims come from."""

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    venue: str | None = None


@dataclass(frozen=True)
class Resources:
    """What a unit takes: CPUs, GPUs where the device is one (a part of one is shared), and bytes of main memory.

    Without `memory` it is assumed to be little.
    """

    cpus: float = 1
    gpus: float = 1
    memory: float = 0


@dataclass(frozen=True)
class Unit:
    """One call of an experiment with its settings, and with `seed`, `device` and `scratch` if it takes them."""

    experiment: Experiment
    settings: Mapping[str, Any]
    seed: int = 0
    scratch: Path | None = None
    resources: Resources = Resources()

    @property
    def name(self) -> str:
        return self.experiment.__name__

    def uses(self, argument: str) -> bool:
        """Whether the experiment has a parameter of this name."""
        return argument in inspect.signature(self.experiment).parameters

    def call(self, device: str) -> Row | list[Row]:
        given = {"seed": self.seed, "device": device, "scratch": self.scratch}
        if self.scratch is not None and self.uses("scratch"):
            self.scratch.mkdir(parents=True, exist_ok=True)
        return self.experiment(**self.settings, **{name: value for name, value in given.items() if self.uses(name)})


def grid(experiment: Experiment, **settings: Any) -> Iterator[Unit]:
    """A unit for every combination: a setting that is a list is an axis, anything else is passed on as it is.

    >>> [unit.settings for unit in grid(print, n=[1, 2], kv=(4, 8))]
    [{'n': 1, 'kv': (4, 8)}, {'n': 2, 'kv': (4, 8)}]
    """
    axes = [value if isinstance(value, list) else [value] for value in settings.values()]
    for values in itertools.product(*axes):
        yield Unit(experiment, dict(zip(settings, values, strict=True)))


class Study(ABC):
    """One file for each paper. A subclass says what is claimed, and what is run to find out.

    An *experiment* is a function at the top level of a file that takes settings, and `seed`, `device` and `scratch` if
    it needs them, and returns one row or several: dicts of numbers, strings and truth values. Before each call the
    global generators of Python, numpy and torch are seeded with the seed, the same for all units that have it.
    `scratch` is a folder of the unit's own for checkpoints: what is in it is there again when a killed run goes on, and
    gone once the unit is finished. Results are kept until the code changes: what the experiment uses of its own file,
    and the modules that this imports from the study's package and from assay.

    `parts`: modules that experiments use without importing them by name. `requires`: importable names of packages
    that assay does not bring along, and `extra` the command that installs them. `seconds`: about how long each
    scale takes on two cores.
    """

    slug: ClassVar[str]
    paper: ClassVar[Paper]
    claims: ClassVar[Sequence[Claim]]
    Config: ClassVar[type[StudyConfig]] = StudyConfig
    scales: ClassVar[Mapping[str, StudyConfig]]
    seconds: ClassVar[Mapping[str, float]] = {}
    parts: ClassVar[Sequence[str]] = ()
    requires: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = "pip install 'assay[studies]'"

    @abstractmethod
    def units(self, config: Any) -> Iterable[Unit]:
        """The grid, without seeds, which the laboratory adds. Nothing of `config` reaches an experiment but what is put
        into a unit's settings; so a field changes the results of those units only that have it."""

    def resources(self, unit: Unit) -> Resources:  # noqa: ARG002
        """What a unit takes; one CPU, and one GPU where the device is one, where a study does not say more."""
        return Resources()

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:  # noqa: ARG002
        """Figures of all rows, each made by `assay.lab.plot`; at a small scale some rows may be missing."""
        return []

    def config(self, scale: str) -> StudyConfig:
        """The settings of a scale; raises `InputError` where the study does not have it."""
        if scale not in self.scales:
            raise InputError(f"--scale {scale}: {self.slug} has {', '.join(self.scales)}")
        return self.scales[scale]

    def seeded_units(self, config: StudyConfig) -> list[Unit]:
        """Every unit with every seed, in the order of the rows."""
        return [
            Unit(unit.experiment, unit.settings, seed, resources=self.resources(unit))
            for unit in self.units(config)
            for seed in range(config.seeds)
        ]
