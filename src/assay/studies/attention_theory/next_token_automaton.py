"""Mechanics of next-token prediction: a layer of attention as an automaton that its data's priority graphs define."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, model_validator

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._nta_claims import CLAIMS
from assay.studies.attention_theory._nta_experiments import path, trained

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Natural = Annotated[float, Field(ge=0)]


class NextTokenAutomaton(Study):
    """Attention that is trained to predict the next token retrieves one component of a graph, and mixes in it."""

    slug = "next-token-automaton"
    paper = Paper(
        "Mechanics of Next Token Prediction with Self-Attention", "Li, Huang, Ildiz, Rawat, Oymak", 2024, "2403.08081",
        "AISTATS"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        problems: Count = Field(default=12, description="data sets for each seed, trained together")
        tokens: Annotated[int, Field(ge=2)] = Field(default=6, description="K")
        width: Annotated[int, Field(ge=2)] = Field(default=8, description="of the embeddings, at least K")
        samples: list[Count] = Field(default=[6, 18], description="prompts of a data set")
        length: Annotated[int, Field(ge=2)] = Field(default=4, description="of a prompt")
        starts: list[Natural] = Field(default=[0.0, 0.5], description="size of the entries of W at first")
        lr: Positive = Field(default=0.01, description="length of a step")
        steps: tuple[Count, ...] = Field(default=(1000, 4000, 16_000), description="after which W is compared")
        contexts: Count = Field(default=50, description="new contexts for each data set")
        radii: tuple[Positive, ...] = Field(default=(1.0, 4.0, 16.0, 64.0), description="of the balls of the path")
        path_steps: Count = Field(default=2000, description="of projected descent in each ball")

        @model_validator(mode="after")
        def independent(self) -> NextTokenAutomaton.Config:
            if self.width < self.tokens:
                raise ValueError(f"width is {self.width}; expected at least tokens, {self.tokens}")
            return self

    scales = {
        "smoke": Config(problems=12, samples=[6], starts=[0.0], steps=(500, 4000), contexts=10, radii=(1.0, 64.0),
                        path_steps=1000),
        "laptop": Config(),
        "paper": Config(problems=2, tokens=50, width=64, samples=[500], length=8, steps=(1000, 10_000, 100_000)),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 100, "paper": 20_000}

    def units(self, config: Config) -> Iterator[Unit]:
        sizes = {"problems": config.problems, "tokens": config.tokens, "width": config.width, "length": config.length}
        yield from grid(trained, **sizes, samples=config.samples, start=config.starts, lr=config.lr, steps=config.steps,
                        contexts=config.contexts)  # fmt: skip
        yield from grid(path, **sizes, samples=config.samples, radii=config.radii, steps=config.path_steps)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        constraints = given["samples"] * given["length"]
        inputs = given["problems"] * constraints * given["width"]
        return Resources(memory=PROCESS + 8 * (4 * constraints**2 + 6 * inputs))

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        course = of["trained"].assign(
            run=of["trained"].samples.astype(str) + " prompts, start " + of["trained"].start.astype(str)
        )
        course = course.groupby(["run", "step"], as_index=False)[["direction", "mass"]].mean()
        ball = of["path"].assign(prompts=of["path"].samples.astype(str))
        ball = ball.groupby(["prompts", "radius"], as_index=False)[["direction"]].mean()
        return [
            plot("Direction of trained attention",
                 mark("line", course, x="step", y="direction", stroke="run", marker=True),
                 x={**log, "label": "steps"}, y={"label": "correlation with the graph SVM"}, color=legend),
            plot("Hard retrieval", mark("line", course, x="step", y="mass", stroke="run", marker=True),
                 x={**log, "label": "steps"}, y={"label": "least attention on the label's component"}, color=legend),
            plot("Regularisation path", mark("line", ball, x="radius", y="direction", stroke="prompts", marker=True),
                 x={**log, "label": "radius of the ball"}, y={"label": "correlation with the graph SVM"},
                 color={**legend, "label": "prompts:"}),
        ]  # fmt: skip
