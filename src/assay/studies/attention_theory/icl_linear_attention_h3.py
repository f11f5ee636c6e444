"""Linear attention and H3 as one step of preconditioned descent in context: what the best of them risk, by formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._h3_claims import BEYOND, CLAIMS, NEAR, ROUGH
from assay.studies.attention_theory._h3_risks import closed_forms, factors, more_examples
from assay.studies.attention_theory._h3_training import trained_layers, trained_settings

Size = Annotated[int, Field(ge=2)]


class IclLinearAttentionH3(Study):
    """Linear attention makes one preconditioned step of descent on its prompt, and H3 one that weighs the examples."""

    slug = "icl-linear-attention-h3"
    paper = Paper(
        "Fine-grained Analysis of In-context Linear Estimation: Data, Architecture, and Beyond",
        "Li, Rawat, Oymak", 2024, "2407.10005", "NeurIPS"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        d: Size = Field(default=6, description="of the inputs")
        n: Size = Field(default=15, description="examples in a prompt")
        noise: Annotated[float, Field(ge=0)] = Field(default=0.5**0.5, description="standard deviation of y")
        batches: Annotated[int, Field(ge=1)] = Field(default=4, description="of draws for each risk")
        batch: Annotated[int, Field(ge=1000)] = Field(default=50_000, description="draws in each, and for each fit")
        ranks: list[Annotated[int, Field(ge=1)]] = Field(
            default=[1, 2, 4], description="of weights and updates, up to d"
        )
        layers: list[Literal["attention", "H3"]] = Field(default=["attention", "H3"], description="that are trained")
        settings: list[Literal["retrieval", "alignment", "low rank", "LoRA"]] = Field(
            default=["retrieval", "alignment", "low rank", "LoRA"], description="that linear attention is trained in"
        )
        steps: Annotated[int, Field(ge=1)] = Field(default=3000, description="of training")
        prompts: Annotated[int, Field(ge=1)] = Field(default=256, description="in each step")
        lr: Annotated[float, Field(gt=0)] = Field(default=0.01, description="Adam's learning rate")

    scales = {
        "smoke": Config(d=4, n=8, batches=3, batch=30_000, ranks=[2], layers=[], settings=[]),
        "laptop": Config(),
        "paper": Config(d=20, n=100, ranks=[1, 5, 10, 15], steps=20_000, prompts=1024, lr=0.003),
    }
    seconds = {"smoke": 15, "laptop": 190, "paper": 9000}

    def units(self, config: Config) -> Iterator[Unit]:
        sizes = {"d": config.d, "n": config.n, "noise": config.noise}
        grown = tuple((100, n, alpha) for alpha in (0.0, 0.2, 0.4) for n in (10, 25, 50, 100, 200, 400))
        yield from grid(closed_forms, **sizes, batches=config.batches, batch=config.batch)
        yield from grid(more_examples, cases=tuple(dict.fromkeys((NEAR, ROUGH, BEYOND, *grown))))
        yield from grid(factors, **sizes, rank=[rank for rank in config.ranks if rank <= config.d])
        training = {"steps": config.steps, "batch": config.prompts, "lr": config.lr}
        yield from grid(trained_layers, layer=config.layers, tasks=["one", "drifting"], **sizes, **training)
        yield from grid(trained_settings, setting=config.settings, **sizes, **training)

    def resources(self, unit: Unit) -> Resources:
        if unit.experiment in (factors, more_examples):
            return Resources(memory=PROCESS)
        given = unit.settings
        draws = 6 * given["batch"] if unit.experiment is closed_forms else 2 * max(20_000, given["batch"])  # of 8 bytes
        return Resources(memory=PROCESS + 8 * draws * (given["n"] + 1) * given["d"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        curves = of["more_examples"].query("d == 100 and alpha in (0, 0.2, 0.4) and seed == 0")
        figures = [
            plot(f"Risk with {kind}, d = 100",
                 mark("line", own, x="n", y="exact", stroke="alpha", marker=True),
                 mark("line", own, x="n", y="k", stroke="alpha", strokeWidth=1),
                 x={**log, "label": "examples"}, y={**log, "label": "risk over d"},
                 color={**legend, "label": "alpha", "type": "categorical"},
                 caption="thin, without symbols: (alpha^2 d + 1) n independent examples")
            for kind, own in ((name, curves[curves.kind == name]) for name in ("retrieval", "alignment"))
        ]  # fmt: skip
        if "trained_layers" in of:
            seen = of["trained_layers"].groupby(["layer", "tasks"], as_index=False).mean(numeric_only=True)
            best = seen.melt("tasks", ["equal", "weighted"], var_name="weights", value_name="mse").drop_duplicates()
            figures.append(
                plot("Trained layers, and the best with equal or free weights",
                     mark("tickX", best, x="mse", y="tasks", stroke="weights"),
                     mark("dot", seen, x="risk", y="tasks", stroke="layer", r=6),
                     x={"label": "mean squared error"}, y={"label": "tasks"}, color=legend)
            )  # fmt: skip
        return figures
