"""What `effective_state_size` trains with two mixers, and how much of the state each of them uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, Field, PositiveFloat

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.lab.training import token_accuracy, train
from assay.measures.state_size import entropy_ess
from assay.studies.memory._ess_collapse import Task, make_model
from assay.studies.memory._ess_recall import operators

MIXERS = ("LA", "GLA", "WLA")


def two_mixers(
    *, mixer: str, options: tuple[tuple[str, Any], ...], task: tuple[int, ...], width: int, steps: int, lr: float,
    seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """One row for each layer: ESS at the middle for each pair, before training and after; one head, TSS `width`."""
    data = Task(*task)
    model = make_model(f"ess-{mixer.lower()}*2", data, width, 1, **dict(options)).to(device)
    test = data.draw(256, torch.Generator(device).manual_seed(2**40 + seed))
    middle = test.inputs.shape[1] // 2

    @torch.no_grad()
    def per_pair() -> list[float]:
        found = [T.hankel_singular_values([middle]) for _, T in operators(model, test.inputs[:8])]
        return [float(entropy_ess(sigma).mean()) / data.pairs for sigma in found]

    before = per_pair()
    train(model, data.draw_batch, steps=steps, seed=seed, lr=lr)
    accuracy = token_accuracy(model, test)
    return [
        {"layer": layer, "initial": initial, "ess_per_pair": ess, "accuracy": accuracy}
        for layer, (initial, ess) in enumerate(zip(before, per_pair(), strict=True))
    ]


def second_over_first(mixer: str, words: str) -> Check:
    def measure(rows: pd.DataFrame) -> float:
        ess = rows[rows.mixer == mixer].set_index("layer").ess_per_pair
        return float(ess[1] / ess[0])

    return Check(f"{mixer}: {words}", measure, "<", 1)


CLAIMS = (
    Claim(
        "second-layer-uses-less",
        "Of two layers of GLA or WLA that were trained to recall, the second has less ESS/kv than the first.",
        source="figure of ESS/kv by layer, in the section on the regulariser",
        experiment=two_mixers,
        checks=(second_over_first("GLA", "ESS/kv of the second layer over the first"),
                second_over_first("WLA", "the same")),
        controls=(second_over_first("LA", "the same"),),
    ),
)  # fmt: skip


class LayersConfig(BaseModel):
    """Fields of the study's config."""

    layers_steps: int = Field(default=1000, ge=0, description="of training models of two mixers; 0: none")
    layers_pairs: int = Field(default=8, ge=4, description="that these recall")
    layers_room: int = Field(default=4, ge=4, description="tokens for each of the pairs")
    layers_vocab: int = Field(default=64, ge=10, description="tokens of these")
    layers_batch: int = Field(default=16, ge=1, description="sequences of all these pairs in a step")
    layers_width: int = Field(default=32, ge=2, description="of these models, and their TSS")
    layers_betas: list[PositiveFloat] = Field(
        default=[0.25, 2], min_length=2, max_length=2, description="of GLA and WLA in these"
    )
    layers_lr: float = Field(default=2e-2, gt=0, description="learning rate of these")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"layers_steps": 0},
    "laptop": {},
    "paper": {
        "layers_steps": 140_000, "layers_pairs": 128, "layers_room": 32, "layers_vocab": 8192, "layers_batch": 64,
        "layers_width": 128, "layers_betas": [16, 16], "layers_lr": 2e-3,
    },
}  # fmt: skip


def units(config: LayersConfig) -> Iterator[Unit]:
    if not config.layers_steps:
        return
    task = Task(config.layers_pairs, config.layers_room, config.layers_vocab, config.layers_batch)
    betas: list[tuple[tuple[str, float], ...]] = [(), *((("beta", beta),) for beta in config.layers_betas)]
    for mixer, options in zip(MIXERS, betas, strict=True):
        yield from grid(
            two_mixers, mixer=mixer, options=options, task=tuple(task), width=config.layers_width,
            steps=config.layers_steps, lr=config.layers_lr,
        )  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "two_mixers"]
    if own.empty:
        return []
    own = own.assign(layer=own.layer.map({0: "first", 1: "second"}))
    return [
        plot("ESS for each pair, in two layers", mark("dot", own, x="ess_per_pair", y="mixer", stroke="layer"),
             x={"label": "ESS / kv at the middle"}, y={"label": None}, color={"legend": True, "label": "layer"})
    ]  # fmt: skip
