"""What `effective_state_size` trains on longer sequences: as much to recall, with more tokens in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.lab.training import token_accuracy, train
from assay.models import Backbone
from assay.nn.recording import recorded_operators
from assay.operators import RecurrentOperator
from assay.studies.memory._ess_collapse import Task, make_model, middle_ess


def longer(
    *, mixer: str, options: tuple[tuple[str, Any], ...], room: int, pairs: int, vocab_size: int, width: int, steps: int,
    batch: int, lr: float, seed: int, device: str,
) -> Row:  # fmt: skip
    """ESS at the middle for each pair, and the norm of the product of a sequence's A, after training with `room` tokens
    for each pair; one head."""
    data = Task(pairs, room, vocab_size, batch)
    model = make_model(f"ess-{mixer.lower()}", data, width, 1, **dict(options)).to(device)
    test = data.draw(256, torch.Generator(device).manual_seed(2**40 + seed))
    train(model, data.draw_batch, steps=steps, seed=seed, lr=lr)
    return {
        "length": pairs * room,
        "ess_per_pair": middle_ess(model, test) / pairs,
        "product_norm": product_norm(model, test.inputs[:8]),
        "accuracy": token_accuracy(model, test),
    }


@torch.no_grad()
def product_norm(model: Backbone, ids: Tensor) -> float:
    """||A_1 A_2 .. A_L||_F for tokens (B, L), the mean over sequences and heads; of the only mixer, a diagonal one."""
    with recorded_operators(*model.layers[0].modules()) as operators:
        model(ids)
    (T,) = operators
    assert isinstance(T, RecurrentOperator)
    return float(T.A.double().prod(dim=-2).norm(dim=-1).mean())


def kept(rows: pd.DataFrame, mixer: str, column: str = "ess_per_pair") -> float:
    """What the longest sequences have over what the shortest have."""
    own = rows[rows.mixer == mixer].set_index("length")[column]
    return float(own[own.index.max()] / own[own.index.min()])


CLAIMS = (
    Claim(
        "length-costs-memory",
        "With the same decays and the same pairs, the longer the sequence the less ESS a pair has in GLA and WLA.",
        source="figure of ESS/kv over the length, in the section on the regulariser",
        experiment=longer,
        checks=(
            Check("GLA: ESS/kv in the longest sequences over the shortest", lambda rows: kept(rows, "GLA"), "<=", 0.8),
            Check("WLA: the same", lambda rows: kept(rows, "WLA"), "<=", 0.8),
        ),
        controls=(Check("LA: the same", lambda rows: kept(rows, "LA"), "<=", 0.8),),
    ),
    Claim(
        "decays-multiply",
        "The longer the sequence, the less of a state is left at its end in GLA and WLA: the product of all A has a "
        "smaller norm.",
        source="figure of ||prod A||_F over the length, in the section on the regulariser",
        experiment=longer,
        checks=(
            Check("GLA: the norm in the longest sequences over the shortest",
                  lambda rows: kept(rows, "GLA", "product_norm"), "<=", 0.8),
            Check("WLA: the same", lambda rows: kept(rows, "WLA", "product_norm"), "<=", 0.8),
        ),
        controls=(Check("LA: the same", lambda rows: kept(rows, "LA", "product_norm"), "<=", 0.8),),
    ),
)  # fmt: skip


class LengthConfig(BaseModel):
    """Fields of the study's config."""

    length_rooms: list[PositiveInt] = Field(
        default=[4, 16], description="tokens for each pair, shortest and longest; []: none"
    )
    length_pairs: int = Field(default=8, ge=4, description="to recall at every length")
    length_width: int = Field(default=32, ge=2, description="of these models, and their TSS")
    length_steps: int = Field(default=1000, ge=1, description="of training at every length")
    length_betas: list[PositiveFloat] = Field(
        default=[0.25, 2], min_length=2, max_length=2, description="of GLA and WLA at every length"
    )
    length_vocab: int = Field(default=64, ge=10, description="tokens at every length")
    length_lr: float = Field(default=2e-2, gt=0, description="learning rate at every length")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"length_rooms": []},
    "laptop": {},
    "paper": {
        "length_rooms": [8, 32, 64], "length_pairs": 64, "length_width": 128, "length_steps": 140_000,
        "length_betas": [16, 16], "length_vocab": 8192, "length_lr": 2e-3,
    },
}  # fmt: skip


def units(config: LengthConfig) -> Iterator[Unit]:
    common = {
        "room": config.length_rooms, "pairs": config.length_pairs, "vocab_size": config.length_vocab,
        "width": config.length_width, "steps": config.length_steps, "batch": 16, "lr": config.length_lr,
    }  # fmt: skip
    gla, wla = config.length_betas
    models: list[tuple[str, tuple[tuple[str, float], ...]]] = [
        ("LA", ()), ("GLA", (("beta", gla),)), ("WLA", (("beta", wla),))
    ]  # fmt: skip
    for mixer, options in models:
        yield from grid(longer, mixer=mixer, options=options, **common)


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "longer"]
    if own.empty:
        return []
    mean = own.groupby(["mixer", "length"], as_index=False)[["ess_per_pair"]].mean()
    return [
        plot("ESS for each pair, by the length of the sequence",
             mark("line", mean, x="length", y="ess_per_pair", stroke="mixer", marker=True),
             x={"type": "log", "label": "tokens"}, y={"label": "ESS / kv"}, color={"legend": True})
    ]  # fmt: skip
