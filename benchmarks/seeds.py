"""Training of several seeds of a small model: one after the other, and stacked into one by torch.func.vmap."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.data import GaussianInputs, InContext, LinearTasks, stack_prompt
from assay.icl.linear_layers import H3Layer, LinearAttention
from assay.icl.regressor import InContextRegressor

SEEDS = 5
TEXT = """## Seeds stacked into one model

{seeds} seeds trained one after the other, and stacked: forward, backward and AdamW in float32 on fresh prompts. Times
are of CPU, for a step of all seeds, the better of two runs. A ratio above 1 means that stacking is faster. Stacked
attention is two matrix products and a softmax, since the fused kernel has no batching rule on CPUs.

| model | prompts a seed | one by one | stacked | ratio |
|---|---:|---:|---:|---:|
{rows}

So studies train seed by seed: each is a unit that is kept by itself, two run at once on two cores, and stacking gains
little. Where nothing is trained, or a run has no state but a matrix (descent on attention, regret of players), all runs
of a unit are one batch.
"""


def table() -> str:
    """Two models on stacked prompts, and the small transformer on interleaved ones."""
    linear = InContext(LinearTasks(6), GaussianInputs(), noise=0.7)
    toy = InContext(LinearTasks(5), GaussianInputs(), noise=0.5)

    def stacked_prompts(g: torch.Generator) -> tuple[Tensor, Tensor]:
        prompts = linear.sample(256, 16, generator=g)
        return stack_prompt(prompts.xs, prompts.ys), prompts.ys[:, -1]

    def pairs(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        prompts = toy.sample(64, 11, generator=g)
        return prompts.xs, prompts.ys, prompts.ys

    transformer = partial(InContextRegressor, 5, 11, d_model=64, num_layers=3, num_heads=2)
    cases: list[tuple[str, int, Callable[[], nn.Module], Callable[[torch.Generator], Any], int]] = [
        ("linear attention, d = 6", 256, partial(LinearAttention, 6), stacked_prompts, 100),
        ("H3, d = 6", 256, partial(H3Layer, 6, 16), stacked_prompts, 100),
        ("transformer, 3 layers of width 64", 64, transformer, pairs, 6),
    ]
    rows = []
    for name, batch, make, draw, steps in cases:
        alone, together = (min(way(make, draw, steps) for _ in range(2)) for way in (one_by_one, stacked))
        rows.append(f"| {name} | {batch} | {alone:.1f} ms | {together:.1f} ms | **{alone / together:.1f}** |")
    return TEXT.format(seeds=SEEDS, rows="\n".join(rows))


def one_by_one(make: Callable[[], nn.Module], draw: Callable[[torch.Generator], Any], steps: int) -> float:
    """Milliseconds of CPU for a step of all seeds."""
    models = [make() for _ in range(SEEDS)]
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-3) for model in models]
    generator, start = torch.Generator().manual_seed(0), time.process_time()
    for model, optimizer in zip(models, optimizers, strict=True):
        for _ in range(steps):
            optimizer.zero_grad()
            *inputs, y = draw(generator)
            (model(*inputs) - y).square().mean().backward()
            optimizer.step()
    return 1000 * (time.process_time() - start) / steps


def stacked(make: Callable[[], nn.Module], draw: Callable[[torch.Generator], Any], steps: int) -> float:
    """The same with one model whose parameters have an axis of seeds."""
    models = [make() for _ in range(SEEDS)]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(own: Any, fixed: Any, y: Tensor, *inputs: Tensor) -> Tensor:
        return (functional_call(base, (own, fixed), inputs) - y).square().mean()

    optimizer = torch.optim.AdamW(parameters.values(), 1e-3)
    generator, start = torch.Generator().manual_seed(0), time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        *inputs, y = (torch.stack(part) for part in zip(*(draw(generator) for _ in range(SEEDS)), strict=True))
        with sdpa_kernel(SDPBackend.MATH):
            vmap(loss)(parameters, buffers, y, *inputs).sum().backward()
        optimizer.step()
    return 1000 * (time.process_time() - start) / steps
