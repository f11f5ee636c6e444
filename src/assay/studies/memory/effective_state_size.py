"""Effective state-size: what a mixer remembers, what that predicts, and what makes it more or less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from assay.lab import Paper, Resources, Study, StudyConfig, Unit
from assay.lab.resources import PROCESS, training_resources
from assay.studies.memory import _ess_collapse_claims as collapse
from assay.studies.memory import _ess_course as course
from assay.studies.memory import _ess_distilled as distilled
from assay.studies.memory import _ess_grid as grid_claims
from assay.studies.memory import _ess_hybrids as hybrids
from assay.studies.memory import _ess_layers as layers
from assay.studies.memory import _ess_length as length
from assay.studies.memory import _ess_modulation as modulation
from assay.studies.memory import _ess_public_models as public
from assay.studies.memory import _ess_recall_claims as recall
from assay.studies.memory import _ess_without_training as untrained
from assay.studies.memory._ess_recall import length_of

# each has CLAIMS, a config, SETTINGS, units and figures
PARTS = (untrained, recall, hybrids, collapse, length, layers, distilled, modulation, public)


def settings(scale: str) -> dict[str, Any]:
    """What differs from the defaults, of all parts."""
    return {name: value for part in PARTS for name, value in part.SETTINGS[scale].items()}


class EffectiveStateSize(Study):
    """Quantifying how much of its memory a model uses, by the rank of what it carries across a position."""

    slug = "effective-state-size"
    paper = Paper(
        "Quantifying Memory Utilization with Effective State-Size",
        "Parnichkun, Tumma, Thomas, Moro, An, Suzuki, Yamashita, Poli, Massaroli", 2025, "2504.19561", "ICML"
    )  # fmt: skip
    claims = tuple(claim for part in (*PARTS, course, grid_claims) for claim in part.CLAIMS)

    class Config(
        untrained.UntrainedConfig, recall.RecallConfig, hybrids.HybridConfig, collapse.CollapseConfig,
        length.LengthConfig, layers.LayersConfig, distilled.DistilledConfig, modulation.ModulationConfig,
        public.PublicConfig, StudyConfig,
    ):  # fmt: skip
        """All parts' fields."""

    scales = {
        "smoke": Config(**settings("smoke")),
        "laptop": Config(**settings("laptop")),
        "paper": Config(**settings("paper")),
    }
    seconds = {"smoke": 20, "laptop": 2070, "paper": 2_000_000}

    def units(self, config: Config) -> Iterator[Unit]:
        for part in reversed(PARTS):  # the longest units are in the last ones, and come first
            yield from part.units(config)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is public.public_models:
            return Resources(memory=PROCESS + 4e9 * public.BILLIONS.get(given["model"], 8))
        if "steps" not in given:
            return Resources()
        task, vocabulary = given.get("task", "recall"), given.get("vocab_size", 0)
        if isinstance(task, str):
            tokens = given["batch"] * length_of(task, given["size"] if "size" in given else given["pairs"])
            tokens *= 4 if unit.experiment is modulation.trained_modulation else given.get("room", 4) // 4
        else:
            pairs, room, vocabulary, batch = task
            tokens = batch * pairs * room
        return training_resources(
            tokens=tokens, width=given["width"], layers=given.get("layers", 2), vocab_size=vocabulary
        )

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        return [figure for part in (*PARTS, course) for figure in part.figures(rows)]
