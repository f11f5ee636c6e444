"""Muon: an optimizer that makes every step of a matrix orthogonal; with latent attention and mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.memory._muon_cache import cache
from assay.studies.memory._muon_claims import CLAIMS, DENSE, HALF, LATENT, MOST, UNPLACED
from assay.studies.memory._muon_matrices import associations, bound, orthogonalisation
from assay.studies.memory._muon_text import text_model

Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class MuonMlaMoe(Study):
    """Muon against AdamW, and beside latent attention and mixtures of experts."""

    slug = "muon-mla-moe"
    paper = Paper(
        "Muon: Training and Trade-offs with Latent Attention and MoE", "Mehta, Dandekar, Dandekar, Panat", 2025,
        "2509.24406"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        matrices: Size = Field(default=100, description="random matrices that are made orthogonal")
        bound_steps: Size = Field(default=600, description="steps on the matrix whose norm is followed")
        adam_rates: list[Positive] = Field(default=[0.002, 0.005, 0.01, 0.02, 0.05, 0.1], description="on the memory")
        muon_rates: list[Positive] = Field(default=[0.02, 0.05, 0.1, 0.2, 0.5, 1.0], description="on the memory")
        momentum_rates: list[Positive] = Field(default=[0.1, 0.2, 0.5, 1.0, 2.0, 5.0], description="on the memory")
        targets: list[Positive] = Field(default=[1.0, 0.3, 0.1], description="losses on the memory; 1 decides")
        steps: int = Field(default=240, ge=0, description="of AdamW on text; 0 for no text")
        adamw_text: list[Positive] = Field(
            default=[0.01], min_length=1, description="rates of AdamW on text; the first elsewhere"
        )
        muon_text: list[Positive] = Field(
            default=[0.06], min_length=1, description="of Muon on text; the first with experts"
        )
        momentum_text: list[Positive] = Field(default=[1.0], description="of normalised momentum on text")
        rest_rate: Positive = Field(default=0.02, description="of AdamW for what Muon does not train, on text")
        width: Annotated[int, Field(ge=32, multiple_of=32)] = Field(default=64, description="of the language models")
        layers: Size = Field(default=2, description="of the language models")
        batch: Size = Field(default=16, description="windows of text in a step")
        length: Annotated[int, Field(ge=2)] = Field(default=64, description="characters in a window")

    scales = {
        "smoke": Config(matrices=20, bound_steps=300, targets=[1.0], adam_rates=[0.01, 0.02], muon_rates=[0.05, 0.1],
                        momentum_rates=[0.2, 0.5], steps=0),
        "laptop": Config(),
        "paper": Config(steps=20_000, width=512, layers=12, batch=64, length=512),
    }  # fmt: skip
    seconds = {"smoke": 15, "laptop": 370, "paper": 400_000}

    def units(self, config: Config) -> Iterator[Unit]:
        if config.steps:
            yield from self.text(config)
        yield from grid(orthogonalisation, size=16, matrices=config.matrices, condition=100.0)
        yield from grid(bound, shape=(32, 16), lr=0.02, weight_decay=0.5, steps=config.bound_steps)
        rates = {"Adam": config.adam_rates, "Muon": config.muon_rates, "normalised momentum": config.momentum_rates}
        for name, lr in rates.items():
            yield from grid(
                associations, optimizer=name, lr=lr, batch=[64, 512], targets=tuple(config.targets), steps=200
            )
        yield from grid(cache, width=512, heads=8, latent=256, rope=64, tokens=16)

    def text(self, config: Config) -> Iterator[Unit]:
        """The language models, the slowest first."""
        sizes = {"width": config.width, "layers": config.layers, "batch": config.batch, "length": config.length}
        text = partial(grid, text_model, rest_lr=config.rest_rate, **sizes)
        parts = [round(part * config.steps) for part in (MOST, HALF)]
        dense: dict[str, Any] = {"mixer": DENSE, "balance": None}
        best = {"optimizer": "AdamW", "lr": config.adamw_text[0], "steps": config.steps}
        yield from text(**best | {"optimizer": "Muon", "lr": config.muon_text[0]}, mixer=LATENT, balance="loss")
        yield from text(optimizer="Muon", lr=config.muon_text, steps=parts, **dense)
        yield from text(**best, mixer=LATENT, balance="loss")
        yield from text(**best, mixer=DENSE, balance=["loss", "bias", "none"])
        yield from text(**best, mixer=[LATENT, UNPLACED], balance=None)
        yield from text(optimizer="AdamW", lr=config.adamw_text, steps=config.steps, **dense)
        yield from text(optimizer="normalised momentum", lr=config.momentum_text, steps=parts, **dense)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not text_model:
            return Resources()
        tokens = given["batch"] * given["length"]
        return training_resources(tokens=tokens, width=given["width"], layers=given["layers"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        memory = of["associations"]
        memory = memory.assign(case=memory.optimizer + ", batch " + memory.batch.astype(int).astype(str))
        memory = memory.groupby(["case", "target", "seed"], as_index=False)[["steps_needed"]].min()
        memory = memory.groupby(["case", "target"], as_index=False)[["steps_needed"]].mean()
        norms = of["bound"].query("seed == 0")
        legend, log = {"legend": True}, {"type": "log"}
        figures = [
            plot("Steps to a loss, associative memory",
                 mark("line", memory, x="target", y="steps_needed", stroke="case", marker=True),
                 x={**log, "reverse": True, "label": "loss in nats"}, y={**log, "label": "steps, best rate"},
                 color=legend),
            plot("Spectral norm where gradients all point one way",
                 mark("ruleY", [1.25]), mark("line", norms, x="step", y="norm", stroke="optimizer"),
                 x={"label": "step"}, y={**log, "label": "norm over max(‖W₀‖, c / wd)"}, color=legend),
        ]  # fmt: skip
        if "text_model" in of:
            text = of["text_model"]
            text = text.assign(model=text.optimizer + ", " + text.mixer + text.balance.map(
                lambda balance: f", experts ({balance})" if isinstance(balance, str) else ""))  # fmt: skip
            text = text.groupby(["model", "steps", "seed"], as_index=False)[["test_loss"]].min()
            figures.append(plot("Held-out text, best rate", mark("dot", text, x="test_loss", y="model", stroke="steps"),
                                x={"label": "test loss, nats a character", "ticks": 4}, y={"label": None},
                                color={**legend, "label": "steps"}))  # fmt: skip
        return figures
