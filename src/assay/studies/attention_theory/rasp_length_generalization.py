"""Length generalisation: what has a short program in RASP-L is learned at all lengths, and what has none is not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.attention_theory._rasp_exact import REPEATS, TASKS, programs, restrictions
from assay.studies.attention_theory._rasp_training import trained

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
ForAll = partial(Check, every_seed=True)
HARD = "copy-repeats"


def beyond(rows: pd.DataFrame, task: str, longest: int | None = None) -> float:
    """Mean exact match at the lengths above those of training; for the largest `longest` where none is given."""
    own = _of(rows, task, longest)
    return float(own[own.length > own.longest].em.mean())


def known(rows: pd.DataFrame, task: str, longest: int | None = None) -> float:
    """Exact match on problems as in training."""
    return float(_of(rows, task, longest).known.mean())


def fewest(rows: pd.DataFrame) -> int:
    return int(rows[rows.task == "count"].longest.min())


def _of(rows: pd.DataFrame, task: str, longest: int | None) -> pd.DataFrame:
    own = rows[rows.task == task]
    return own[own.longest == (own.longest.max() if longest is None else longest)]


def against(task: str, text: str, hard: str = HARD) -> Claim:
    """The criterion of the spec: exact match beyond the lengths of training, of a task with a short program less that
    of one without. The comparison is void unless both know their training lengths."""
    return Claim(
        task.partition(", ")[2] or task,
        text,
        source="section 5 and figure 1; sizes and criterion are ours",
        experiment=trained,
        checks=(
            Check(f"beyond training: {task} less {hard}", lambda rows: beyond(rows, task) - beyond(rows, hard), ">=",
                  0.4),
        ),
        controls=(
            Check(f"the less known of {task} and {hard} at training lengths",
                  lambda rows: float(np.minimum(known(rows, task), known(rows, hard))), "<", 0.95),
            Check(f"at training lengths: {task} less {hard}", lambda rows: known(rows, task) - known(rows, hard), ">=",
                  0.4),
        ),
    )  # fmt: skip


CLAIMS = (
    Claim(
        "programs",
        "One short program in RASP-L does each task at every length.",
        source="section 4 and appendix (programs); the authors' code for counting and adding",
        experiment=programs,
        checks=(
            ForAll("exact match of the program that does worst",
                   lambda rows: rows[rows.task != REPEATS].em.min(), ">=", 0.99),
            ForAll("copying repeats by the program for copying, longest prompts",
                   lambda rows: rows[rows.task == REPEATS].sort_values("length").em.iloc[-1], "<=", 0.1),
        ),
        controls=(
            ForAll("copying repeats: exact match at its worst", lambda rows: rows[rows.task == REPEATS].em.min(), ">=",
                   0.99),
        ),
    ),
    Claim(
        "restrictions",
        "RASP-L refuses arithmetic with indices, unbounded numbers and looking ahead; nothing that the programs do.",
        source="section 4 (the restrictions of RASP-L), from memory",
        experiment=restrictions,
        checks=(
            ForAll("share refused of programs outside", lambda rows: rows[~rows.published].refused.mean(), ">=", 1),
            ForAll("share refused of the published", lambda rows: rows[rows.published].refused.mean(), "<=", 0),
        ),
        controls=(
            ForAll("share refused of all", lambda rows: rows.refused.mean(), ">=", 1),
        ),
    ),
    against("sort", "A transformer that learns to sort also sorts longer lists; one that learns to copy repeated "
            "symbols, for which there is no short program, does not copy longer ones."),
    against("mode", "The same for finding the most frequent symbol."),
    against("count", "The same for counting, after training on many lengths."),
    against("copy", "The same for copying distinct symbols."),
    Claim(
        "diverse-lengths",
        "Counting is learned beyond the lengths of training if these are diverse, and not if they are few.",
        source="section 5 (counting, by the largest length of training); sizes and criterion are ours",
        experiment=trained,
        checks=(
            Check("beyond training: count up to the most, less up to the fewest",
                  lambda rows: beyond(rows, "count") - beyond(rows, "count", fewest(rows)), ">=", 0.3),
        ),
        controls=(
            Check("the less known of the two at training lengths",
                  lambda rows: float(np.minimum(known(rows, "count"), known(rows, "count", fewest(rows)))), "<",
                  0.95),
            Check("at training lengths: the same difference",
                  lambda rows: known(rows, "count") - known(rows, "count", fewest(rows)), ">=", 0.3),
        ),
    ),
)  # fmt: skip


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
        tasks: list[str] = Field(default=[], description="that are trained, besides counting")
        longest: Size = Field(default=12, description="length in training")
        count_longest: list[Size] = Field(default=[], description="length in training, for counting")
        beyond: Size = Field(default=4, description="lengths above those of training that are tested")
        context: Size = Field(default=64, description="positions of the transformer")
        width: Size = Field(default=64, description="of the transformer")
        layers: Size = Field(default=2, description="of the transformer")
        heads: Size = Field(default=4, description="of each layer")
        steps: Size = Field(default=3000, description="of training at most; it ends at 99 % on fresh examples")
        batch: Size = Field(default=48, description="examples in each step")
        lr: Rate = Field(default=3e-3, description="of AdamW")
        tested_on: Size = Field(default=300, description="fresh examples, and examples at each length")

    scales = {
        "smoke": Config(lengths=[5, 20], prompts=20),
        "laptop": Config(tasks=["copy", "copy-repeats", "sort", "mode"], count_longest=[12, 30]),
        "paper": Config(
            tasks=["copy", "copy-repeats", "sort", "mode", "parity", "parity, scratchpad", "addition",
                   "addition, hints", "addition, hints, reversed"],
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
            return Resources(memory=0.4e9 + 20 * 8 * 6 * (6 * given["length"] + 9) ** 2)
        return training_resources(
            tokens=given["batch"] * given["context"], width=given["width"], layers=given["layers"]
        )

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        share, legend = {"label": "exact match", "domain": [0, 1]}, {"legend": True}
        figures = []
        if "trained" in of:
            seen = of["trained"].assign(over=of["trained"].length - of["trained"].longest)
            seen["task"] = seen.task + ", up to " + seen.longest.astype(str)
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
