"""Transformers as algorithms: how stable the learners are that they imitate, and how risk falls with tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS, training_resources
from assay.studies.attention_theory._taa_claims import CLAIMS
from assay.studies.attention_theory._taa_learners import dynamics, multitask, references, stability, transfer
from assay.studies.attention_theory._taa_transformer import transformer

Size = Annotated[int, Field(ge=1)]
MOST = 1600  # tasks


class TransformersAsAlgorithms(Study):
    """In-context learning is an algorithm: stable in each example, the best for its tasks, and good for new ones."""

    slug = "transformers-as-algorithms"
    paper = Paper(
        "Transformers as Algorithms: Generalization and Stability in In-context Learning",
        "Li, Ildiz, Papailiopoulos, Oymak", 2023, "2301.07067", "ICML"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        d: Annotated[int, Field(ge=4)] = Field(default=20, description="of inputs, for learners without a transformer")
        prompts: Size = Field(default=300, description="for stability and reference learners")
        draws: Size = Field(default=100, description="of sets of tasks")
        total: Annotated[int, Field(ge=MOST, multiple_of=MOST)] = Field(
            default=3200, description="prompts of all tasks together, as many of each"
        )
        systems: Size = Field(default=40, description="linear systems that are forecast")
        priors: list[Literal["equal", "power"]] = Field(
            default=["equal", "power"], description="that a transformer is trained on"
        )
        toy_d: Size = Field(default=5, description="of inputs of the transformer")
        points: Annotated[int, Field(ge=2)] = Field(default=11, description="in its prompts")
        noise: Annotated[float, Field(gt=0)] = Field(default=0.5, description="in its prompts, standard deviation")
        width: Size = Field(default=64, description="of the transformer")
        layers: Size = Field(default=3, description="its layers")
        heads: Size = Field(default=2, description="its heads")
        steps: Size = Field(default=2000, description="of training")
        batch: Size = Field(default=64, description="prompts in each step")
        lr: Annotated[float, Field(gt=0)] = Field(default=2e-3, description="learning rate")

    scales = {
        "smoke": Config(d=8, prompts=200, draws=40, total=1600, systems=10, priors=[]),
        "laptop": Config(),
        "paper": Config(prompts=1500, draws=1000, systems=1000, toy_d=20, points=41, noise=1.0, width=256, layers=12,
                        heads=8, steps=500_000, lr=1e-4),
    }  # fmt: skip
    seconds = {"smoke": 15, "laptop": 580, "paper": 2_000_000}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(stability, d=config.d, points=5 * config.d + 1, prompts=config.prompts)
        yield from grid(transfer, sizes=(5, 10, 20), times=(1, 4, 16), draws=config.draws, noise=1.0)
        yield from grid(multitask, d=5, n=10, noise=0.5, total=config.total, tasks=(25, 100, 400, MOST),
                        draws=config.draws)  # fmt: skip
        yield from grid(references, d=config.d, prompts=config.prompts)
        yield from grid(dynamics, d=8, observed=2, length=200, windows=(1, 2, 3, 4), systems=config.systems)
        yield from grid(transformer, prior=config.priors, d=config.toy_d, points=config.points, noise=config.noise,
                        width=config.width, layers=config.layers, heads=config.heads, steps=config.steps,
                        batch=config.batch, lr=config.lr)  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is transformer:
            return training_resources(
                tokens=2 * given["points"] * given["batch"], width=given["width"], layers=given["layers"]
            )
        if unit.experiment is stability:
            return Resources(memory=PROCESS + 4 * 8 * given["prompts"] * given["points"] * given["d"] ** 2)
        return Resources(memory=PROCESS)

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        curves = of["stability"].groupby(["learner", "examples"], as_index=False)[["change"]].mean()
        excess = of["transfer"].groupby(["d", "times"], as_index=False)[["excess"]].mean()
        figures = [
            plot("What one wrong example changes", mark("line", curves, x="examples", y="change", stroke="learner"),
                 x={**log, "label": "examples"}, y={**log, "label": "mean change of the squared error"}, color=legend),
            plot("Excess risk on new tasks", mark("line", excess, x="times", y="excess", stroke="d", marker=True),
                 x={**log, "label": "tasks over d^2"}, y={**log, "label": "excess risk"},
                 color={**legend, "label": "d", "type": "categorical"}),
        ]  # fmt: skip
        if "transformer" in of:
            seen = of["transformer"].rename(columns={"to_ridge": "ridge", "to_weighted": "weighted ridge"})
            seen = seen.groupby(["prior", "tested"], as_index=False)[["ridge", "weighted ridge"]].mean()
            seen = seen.assign(setting="trained on " + seen.prior + ", tested on " + seen.tested)
            seen = seen.melt("setting", ["ridge", "weighted ridge"], var_name="learner", value_name="distance")
            figures.append(
                plot("How far a transformer is from two learners",
                     mark("dot", seen, x="distance", y="setting", stroke="learner", r=6),
                     x={"label": "mean squared distance of predictions"}, y={"label": None}, color=legend)
            )  # fmt: skip
        return figures
