"""Length generalisation: what has a short program in RASP-L is learned at all lengths, and what has none is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.attention_theory._rasp_claims import CLAIMS
from assay.studies.attention_theory._rasp_exact import REPEATS, TASKS, programs, restrictions
from assay.studies.attention_theory._rasp_training import trained

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Task = Literal[
    "copy", "copy-repeats", "sort", "mode", "parity", "parity, hints", "parity, scratchpad",
    "addition", "addition, reversed", "addition, hints", "addition, hints, reversed",
]  # fmt: skip


class RaspLengthGeneralization(Study):
    """A task is learned at lengths that were not trained if a short RASP-L program does it."""

    slug = "rasp-length-generalization"
    paper = Paper(
        "What Algorithms can Transformers Learn? A Study in Length Generalization",
        "Zhou, Bradley, Littwin, Razin, Saremi, Susskind, Bengio, Nakkiran", 2023, "2310.16028", "ICLR"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        lengths: list[Size] = Field(default=[5, 20, 80], description="of the problems that programs are given")
        prompts: Size = Field(default=100, description="for each program and length")
        tasks: list[Task] = Field(default=[], description="that are trained, besides counting")
        longest: Size = Field(default=12, description="length in training")
        count_longest: list[Size] = Field(default=[], description="length in training, for counting")
        beyond: Size = Field(default=4, description="lengths above those of training that are tested")
        context: Size = Field(default=64, description="positions of the transformer")
        width: Size = Field(default=64, description="of the transformer")
        layers: Size = Field(default=2, description="of the transformer")
        heads: Size = Field(default=4, description="of each layer")
        steps: Size = Field(default=3000, description="of training at most; it ends at 99 % on fresh examples")
        batch: Size = Field(default=32, description="examples in each step")
        lr: Rate = Field(default=3e-3, description="of AdamW")
        tested_on: Size = Field(default=300, description="fresh examples, and examples at each length")

    scales = {
        "smoke": Config(lengths=[5, 20], prompts=20),
        "laptop": Config(tasks=["copy", "copy-repeats", "sort", "mode"], count_longest=[12, 30]),
        "paper": Config(
            tasks=["copy", "copy-repeats", "sort", "mode", "parity", "parity, scratchpad", "addition",
                   "addition, hints, reversed"],
            longest=40, count_longest=[40, 60], beyond=10, context=320, width=512, layers=6, heads=8, steps=50_000,
            batch=64, lr=1e-4,
        ),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 590, "paper": 500_000}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(programs, task=[*TASKS, REPEATS], length=config.lengths, prompts=config.prompts)
        yield from grid(restrictions, length=12)
        training = {
            "beyond": config.beyond, "context": config.context, "width": config.width, "layers": config.layers,
            "heads": config.heads, "steps": config.steps, "batch": config.batch, "lr": config.lr,
            "tested_on": config.tested_on,
        }  # fmt: skip
        yield from grid(trained, task="count", longest=config.count_longest, **training)
        yield from grid(trained, task=config.tasks, longest=config.longest, **training)  # the short ones at the end

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not trained:
            return Resources(memory=0.4e9 + 5 * 8 * 6 * (6 * given["length"] + 9) ** 2)
        return training_resources(
            tokens=given["batch"] * given["context"], width=given["width"], layers=given["layers"]
        )

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        share, legend = {"label": "exact match", "domain": [0, 1]}, {"legend": True}
        figures = []
        if "trained" in of:
            seen = of["trained"].assign(over=of["trained"].length - of["trained"].longest)
            seen["task"] = seen.task + ", up to " + seen.longest.astype(int).astype(str)
            curves = seen.groupby(["task", "over"], as_index=False)[["em"]].mean()
            figures.append(
                plot("Trained transformers", mark("ruleX", [0]),
                     mark("line", curves, x="over", y="em", stroke="task", marker=True),
                     x={"label": "length above the largest of training, symbols"}, y=share, color=legend)
            )  # fmt: skip
        exact = of["programs"].groupby(["task", "length"], as_index=False)[["em"]].mean()
        figures.append(
            plot("Programs", mark("line", exact, x="length", y="em", stroke="task", marker=True),
                 x={"label": "length, symbols", "type": "log"}, y=share, color=legend)
        )  # fmt: skip
        return figures
