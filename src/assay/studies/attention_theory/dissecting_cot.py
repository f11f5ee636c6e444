"""Chain-of-thought prompts for random networks: filter a step, learn it in context, compose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.attention_theory._cot_claims import CLAIMS
from assay.studies.attention_theory._cot_risks import filtering, risk
from assay.studies.attention_theory._cot_trained import MODES, trained

Size = Annotated[int, Field(ge=1)]


class DissectingCoT(Study):
    """Why showing intermediate steps makes a function easier to learn from a prompt."""

    slug = "dissecting-cot"
    paper = Paper(
        "Dissecting Chain-of-Thought: Compositionality through In-Context Filtering and Learning",
        "Li, Sreenivasan, Giannou, Papailiopoulos and Oymak", 2023, arxiv="2305.18869", venue="NeurIPS",
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        d: int = Field(default=10, ge=2, description="inputs of the networks learned without a transformer")
        widths: list[Size] = Field(default=[4, 8], min_length=2, description="of them, k; the second twice the first")
        examples: list[Size] = Field(
            default=[20, 25, 30, 50, 80, 125, 200], description="in a prompt, without a transformer"
        )
        prompts: int = Field(default=16, ge=2, description="over which the median is taken")
        restarts: Size = Field(default=3, description="of the direct fit, of which the best on the prompt is kept")
        fit_steps: Size = Field(default=1500, description="of Adam in the direct fit")
        fit_lr: float = Field(default=0.03, gt=0, description="of it")
        trained_d: Size = Field(default=3, description="inputs of the networks in training")
        trained_k: list[Size] = Field(default=[2], description="width of the networks in training")
        points: Size = Field(default=10, description="of a prompt in training, the query included")
        depth: Size = Field(default=3, description="layers of the transformer")
        width: Size = Field(default=64, description="of the transformer")
        heads: Size = Field(default=2, description="of the transformer")
        steps: Size = Field(default=1500, description="of training")
        batch: Size = Field(default=32, description="prompts a step")
        optimizer: Literal["muon", "adamw"] = Field(default="muon", description="of matrices; AdamW has the rest")
        lr: float = Field(default=1e-2, gt=0, description="of that")
        tested_on: Size = Field(default=1000, description="prompts")

    scales = {
        "smoke": Config(examples=[20, 30, 60], prompts=4, restarts=2, fit_steps=100, trained_k=[]),
        "laptop": Config(),
        "paper": Config(widths=[4, 8, 16], examples=[20, 25, 30, 50, 80, 100, 125, 160, 200, 300, 400], fit_steps=5000,
                        trained_d=10, trained_k=[4, 8, 16], points=101, depth=6, width=128, heads=4, steps=500_001,
                        batch=64, optimizer="adamw", lr=1e-4, tested_on=320),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 570, "paper": 8e6}

    def units(self, config: Config) -> Iterator[Unit]:  # long ones first
        yield from grid(
            trained, k=list(config.trained_k), mode=list(MODES), d=config.trained_d, layers=2, points=config.points,
            depth=config.depth, width=config.width, heads=config.heads, steps=config.steps, batch=config.batch,
            optimizer=config.optimizer, lr=config.lr, tested_on=config.tested_on,
        )  # fmt: skip
        yield from grid(filtering, d=config.d, k=list(config.widths), layers=3, examples=200, prompts=10,
                        sharpness=1000.0)  # fmt: skip
        yield from grid(
            risk, d=config.d, k=list(config.widths), examples=list(config.examples), prompts=config.prompts,
            restarts=config.restarts, steps=config.fit_steps, lr=config.fit_lr,
        )  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not trained:
            return Resources()
        tokens = 3 * given["points"] * max(given["batch"], given["tested_on"] // 4)  # tests keep no gradients
        return training_resources(tokens=tokens, width=given["width"], layers=given["depth"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        log, legend = {"type": "log"}, {"legend": True}
        ways = {"step_by_step": "step by step", "direct": "direct", "shuffled": "step by step, shuffled"}
        fits = rows[rows.experiment == "risk"].melt(["k", "examples", "seed"], list(ways), "way", "nmse")
        fits = fits.replace({"way": ways}).groupby(["k", "examples", "way"], as_index=False)[["nmse"]].mean()
        fits["nmse"] = fits.nmse.clip(lower=1e-6)
        figures = [
            plot(f"Networks of width {k} learned from one prompt",
                 mark("line", own, x="examples", y="nmse", stroke="way", marker=True),
                 x={**log, "label": "examples"}, y={**log, "label": "error over variance, from 1e-6"}, color=legend)
            for k, own in fits.groupby("k")
        ]  # fmt: skip
        found = rows[rows.experiment == "trained"]
        if len(found):
            for k, one in found.groupby("k"):
                mean = one.groupby(["mode", "position"], as_index=False)[["risk"]].mean()
                figures.append(
                    plot(f"Transformers, networks of width {k:.0f}",
                         mark("line", mean, x="position", y="risk", stroke="mode", marker=True),
                         x={"label": "position in the prompt"}, y={"label": "error over variance"}, color=legend)
                )  # fmt: skip
        return figures
