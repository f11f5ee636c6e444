"""What `effective_state_size` trains: recall, copying and compression with little state and with much.

Models are backbones of width 64 with the paper's own classes. The paper's have two mixers, 140,000 steps, and a
vocabulary of 8,192; here a convolution of three tokens takes the place of the first, without which none gets beyond
guessing in the few hundred steps that there are, and sequences are as short as they can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from assay.data import compression, mqar, selective_copying
from assay.lab import Row
from assay.lab.training import Labelled, token_accuracy, train
from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.models import Backbone, BackboneConfig
from assay.nn import BaseConv
from assay.operators import SequenceOperator


def draw(task: str, examples: int, size: int, vocab_size: int, generator: torch.Generator) -> Labelled:
    """A batch of recall of `size` pairs (a = 0.1, with no more room than it needs), of copying `size` tokens from among
    as many blanks, or of compressing 16 of `size` tokens, whatever `vocab_size` is."""
    length = length_of(task, size)
    if task == "recall":
        return mqar(
            examples, seq_len=length, num_kv_pairs=size, vocab_size=vocab_size, power_a=0.1, generator=generator
        )
    if task == "copying":
        return selective_copying(
            examples, seq_len=length, num_tokens_to_copy=size, vocab_size=vocab_size, generator=generator
        )
    return compression(examples, seq_len=length, vocab_size=size, generator=generator)


def length_of(task: str, size: int) -> int:
    """Tokens of a sequence of `draw`."""
    return {"recall": 4 * size, "copying": 3 * size + 1, "compression": 16}[task]


def decay(mixer: str, length: int) -> dict[str, float]:
    """The paper's beta is 16, at lengths from 64 to 2048, 362 in the geometric mean. Here it is in proportion to the
    length, so that as large a part of a sequence is remembered."""
    return {"beta": 16 * length / 362} if mixer in ("GLA", "WLA") else {}


def trained_memory(
    *, task: str, size: int, vocab_size: int, mixer: str, state: int, pattern: str, width: int, steps: int,
    measured: int, batch: int, lr: float, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """Accuracy and mean entropy-ESS of a head, `measured` times in the course of training. `size`: pairs to recall,
    tokens to copy, or the vocabulary to compress; `state`: TSS of a channel."""
    name = f"ess-{mixer.lower()}"
    model = Backbone(
        BackboneConfig(
            pattern.format(mixer=name), vocab_size=max(size, vocab_size), d_model=width,
            mixers={name: {"num_heads": width // state} | decay(mixer, length_of(task, size))}, mlp_ratio=2,
        )
    )  # fmt: skip
    learner = (AutoEncoder(model, size) if task == "compression" else model).to(device)
    test = draw(task, 256, size, vocab_size, torch.Generator(device).manual_seed(2**40 + seed))

    def measure(_: nn.Module) -> Row:
        found = [mean_ess(T) for mixer, T in operators(model, test.inputs[:8]) if not isinstance(mixer, BaseConv)]
        return {"accuracy": token_accuracy(learner, test), "ess": sum(found) / len(found)}

    rows = train(
        learner, lambda generator: draw(task, batch, size, vocab_size, generator), steps=steps, seed=seed, lr=lr,
        every=steps // measured, measure=measure,
    )  # fmt: skip
    known = {"task": task, "size": size, "mixer": mixer, "state": state}
    return [known | {"last": row is rows[-1]} | row for row in rows]


class AutoEncoder(nn.Module):
    """MAD's reader of compression: the body's output at the last token, plus a position code, through an MLP."""

    def __init__(self, backbone: Backbone, vocab_size: int) -> None:
        super().__init__()
        width = backbone.config.d_model
        self.backbone = backbone
        self.read = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, vocab_size))

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens (B, L) -> logits (B, L, V) for the same tokens."""
        x = self.backbone.embedding(ids)
        for layer in self.backbone.layers:
            x = layer(x)
        last = self.backbone.norm(x)[:, -1:]
        rate = torch.exp(torch.arange(0, last.shape[-1], 2, device=ids.device) * (-math.log(1e4) / last.shape[-1]))
        angle = torch.arange(ids.shape[1], device=ids.device)[:, None] * rate
        read: Tensor = self.read(last + torch.cat([angle.sin(), angle.cos()], dim=-1))
        return read


def operators(model: Backbone, ids: Tensor) -> Iterator[tuple[nn.Module, SequenceOperator]]:
    """Each mixer of a backbone with its operator for the tokens (B, L)."""
    x = model.embedding(ids)
    layer: Any
    for layer in model.layers:
        yield layer.mixer, layer.mixer.operator(layer.mixer_norm(x))
        x = layer(x)


def mean_ess(T: SequenceOperator, *, tolerance: float | None = None) -> float:
    """Mean over batch, heads and every eighth of the positions: entropy-ESS, or tolerance-ESS at a tolerance."""
    every = max(1, T.length // 8)
    sigma = T.hankel_singular_values(range(every, T.length, every))
    return float((entropy_ess(sigma) if tolerance is None else tolerance_ess(sigma, tolerance)).mean())
