"""Layers of a transformer that learned linear regression in context, matched to steps of Newton's iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.attention_theory._newton_algorithms import matching
from assay.studies.attention_theory._newton_claims import BAND, CLAIMS, Inputs
from assay.studies.attention_theory._newton_layers import trained

Size = Annotated[int, Field(ge=1)]


class ICLNewton(Study):
    """Does a transformer that learns in context step by gradient descent, or by something of second order?"""

    slug = "icl-newton"
    paper = Paper(
        "Transformers Learn Higher-Order Optimization Methods for In-Context Learning: A Study with Linear Models",
        "Fu, Chen, Jia and Sharan", 2023, arxiv="2310.17086", venue="NeurIPS 2024",
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        d: int = Field(default=20, ge=2, description="of the inputs, algorithm against algorithm")
        points: int = Field(default=40, ge=2, description="of a prompt, algorithm against algorithm")
        prompts: Size = Field(default=64, description="of them")
        trained_inputs: list[Inputs] = Field(default=["isotropic"], description="that transformers are trained on")
        trained_d: int = Field(default=5, ge=2, description="of the inputs in training")
        trained_points: int = Field(default=11, ge=2, description="of a prompt in training, the query included")
        layers: Size = Field(default=6, description="of the transformer")
        width: Size = Field(default=32, description="of the transformer")
        heads: Size = Field(default=2, description="of the transformer")
        steps: Size = Field(default=4000, description="of training")
        batch: Size = Field(default=64, description="prompts a step")
        lr: float = Field(default=2e-3, gt=0, description="of AdamW")
        tested_on: int = Field(
            default=1024, ge=32, description="prompts on which layers are matched; probes see twice as many"
        )

    scales = {
        "smoke": Config(prompts=16, trained_inputs=[]),
        "laptop": Config(),
        "paper": Config(trained_inputs=["isotropic", "ill-conditioned"], trained_d=20, trained_points=41, layers=12,
                        width=256, heads=8, steps=500_001, lr=1e-4,
                        tested_on=320),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 560, "paper": 4e6}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(matching, inputs=list(BAND), d=config.d, points=config.points, prompts=config.prompts)
        yield from grid(
            trained, inputs=list(config.trained_inputs), d=config.trained_d, points=config.trained_points,
            layers=config.layers, width=config.width, heads=config.heads, steps=config.steps, batch=config.batch,
            lr=config.lr, tested_on=config.tested_on,
        )  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not trained:
            return Resources()
        tokens = 2 * given["points"] * max(given["batch"], given["tested_on"] // 4)  # tests keep no gradients
        return training_resources(tokens=tokens, width=given["width"], layers=given["layers"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        log, legend = {"type": "log"}, {"legend": True}
        steps = rows[rows.experiment == "matching"]
        newton = steps[steps.algorithm == "Newton"]
        matched = newton.groupby(["inputs", "step"], as_index=False)[["match", "mse"]].mean()
        figures = [
            plot("Gradient descent needs root two times the steps for each of Newton's",
                 mark("line", matched, x="step", y="match", stroke="inputs", marker=True),
                 x={"label": "step of Newton's iteration"}, y={**log, "label": "most similar step of gradient descent"},
                 color=legend),
        ]  # fmt: skip
        found = rows[(rows.experiment == "trained") & (rows.stage == "trained")] if "stage" in rows else rows[:0]
        if len(found):
            kinds = {"newton": "Newton", "gd": "gradient descent"}
            best = found.melt(["layer", "inputs"], list(kinds), "algorithm", "best").replace({"algorithm": kinds})
            best = best.groupby(["inputs", "algorithm", "layer"], as_index=False)[["best"]].mean()
            figures += [
                plot(f"Most similar step of each algorithm, {inputs} inputs",
                     mark("line", own, x="layer", y="best", stroke="algorithm", marker=True),
                     x={"label": "layer"}, y={**log, "label": "most similar step"}, color=legend)
                for inputs, own in best.groupby("inputs")
            ]  # fmt: skip
        return figures
