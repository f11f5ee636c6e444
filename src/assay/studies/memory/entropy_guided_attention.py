"""Entropy of attention as the sign of what norms and activations do, and a penalty on it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.memory._entropy_claims import CLAIMS, MARGIN, SOFTMAX_ONLY, SWALLOWS_ALL
from assay.studies.memory._entropy_penalty import free_heads, penalty_shape
from assay.studies.memory._entropy_text import text_model

Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
PENALTY = {True: ", penalty", False: ", fixed thresholds"}


class EntropyGuidedAttention(Study):
    """What norms and activations do to the entropy of attention, and a penalty that takes their place."""

    slug = "entropy-guided-attention"
    paper = Paper("Entropy-Guided Attention for Private LLMs", "Jha, Reagen", 2025, "2501.03489", "AAAI workshop PPAI")
    claims = CLAIMS

    class Config(StudyConfig):
        free_steps: Size = Field(default=300, description="steps of Adam on the free heads")
        steps: int = Field(default=300, ge=0, description="of the language models; 0 for none")
        lr: Positive = Field(default=0.01, description="of AdamW")
        coef: Positive = Field(default=0.1, description="lambda, for the mean over queries")
        temperature: Positive = Field(default=1.0, description="of all heads at the start, in softmax-only models")
        width: Annotated[int, Field(ge=8, multiple_of=8)] = Field(default=64, description="of the language models")
        layers: Size = Field(default=4, description="of the language models")
        heads: Size = Field(default=4, description="in each layer; a divisor of the width with an even quotient")
        batch: Size = Field(default=16, description="windows of text in a step")
        length: Annotated[int, Field(ge=2)] = Field(default=64, description="characters in a window")

    scales = {
        "smoke": Config(free_steps=150, steps=0),
        "laptop": Config(),
        "paper": Config(steps=30_000, lr=5e-4, width=768, layers=12, heads=12, batch=128, length=128),
    }
    seconds = {"smoke": 10, "laptop": 250, "paper": 400_000}

    def units(self, config: Config) -> Iterator[Unit]:
        margins = (MARGIN, SWALLOWS_ALL)
        yield from grid(penalty_shape, length=32, batch=3, margins=margins)
        yield from grid(free_heads, heads=12, length=32, margins=margins, steps=config.free_steps)
        if not config.steps:
            return
        sizes = {name: getattr(config, name) for name in ("steps", "lr", "width", "layers", "heads", "batch", "length")}
        text = partial(grid, text_model, temperature=config.temperature, **sizes)
        yield from text(variant=["SM+LN+G", "SM+LN+R", "SM+G", "SM+R", SOFTMAX_ONLY], coef=0.0, learned=True)
        yield from text(variant=SOFTMAX_ONLY, coef=config.coef, learned=[True, False])

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not text_model:
            return Resources()
        tokens = given["batch"] * given["length"]
        return training_resources(tokens=tokens, width=given["width"], layers=given["layers"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        shape = of["penalty_shape"].query("seed == 0").astype({"margin": str})
        legend = {"legend": True}
        figures = [
            plot("Penalty by deviation from the threshold",
                 mark("line", shape, x="off", y="penalty", stroke="margin"),
                 x={"label": "entropy minus threshold in nats"}, y={"label": "penalty"},
                 color={**legend, "label": "margin"})
        ]  # fmt: skip
        if "text_model" in of:
            heads = of["text_model"]
            heads = heads.assign(model=heads.variant.where(heads.coef == 0, heads.variant + heads.learned.map(PENALTY)))
            layers = heads.groupby(["model", "layer"], as_index=False)[["normalised"]].mean()
            losses = heads.groupby(["model", "seed"], as_index=False)[["test_loss"]].first()
            figures += [
                plot("Entropy of the heads by layer",
                     mark("line", layers, x="layer", y="normalised", stroke="model", marker=True),
                     x={"label": "layer", "ticks": sorted({int(layer) for layer in layers.layer})},
                     y={"label": "entropy / ln(i + 1)", "domain": [0, 1]}, color=legend),
                plot("Held-out text", mark("dot", losses, x="test_loss", y="model", stroke="model"),
                     x={"label": "test loss in nats a character"}, y={"label": None}),
            ]  # fmt: skip
        return figures
