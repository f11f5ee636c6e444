"""A step of Muon: matrices one after the other, and stacked by shape."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from assay.models.small_transformer import SmallTransformer
from assay.optim import StackedMuon, split_muon_params

TEXT = """## Muon on small models

Steps of optimizers alone, on the matrices of a transformer's hidden layers: `torch.optim.Muon`, which takes them one
after the other, in bfloat16, and `assay.optim.StackedMuon`, which stacks those of one shape. Milliseconds of CPU, the
better of three. Where a CPU has no bfloat16 of its own, the first is slower still on wider layers. For comparison AdamW
on the same parameters, and with its fused kernel, which `assay.lab.training.train` uses.

| layers | width | torch.optim.Muon | StackedMuon | ratio | AdamW | fused | ratio |
|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}
"""


def table() -> str:
    rows = []
    for layers, width in ((3, 32), (6, 64)):
        torch.manual_seed(0)
        model = SmallTransformer(
            nn.Linear(4, width), 1, d_model=width, num_layers=layers, num_heads=2, max_len=8
        )  # fmt: skip
        matrices = split_muon_params(model.layers).matrices
        ways = (Muon, StackedMuon, AdamW, partial(AdamW, fused=True))
        alone, stacked, adamw, fused = (milliseconds(make(matrices)) for make in ways)
        rows.append(
            f"| {layers} | {width} | {alone:.1f} ms | {stacked:.1f} ms | **{alone / stacked:.1f}** | {adamw:.2f} ms | "
            f"{fused:.2f} ms | **{adamw / fused:.1f}** |"
        )
    return TEXT.format(rows="\n".join(rows))


def milliseconds(optimizer: Optimizer, steps: int = 5) -> float:
    """Of CPU for a step on gradients that stay as they are, the better of three runs."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for _ in range(steps):
            optimizer.step()
        best = min(best, time.process_time() - start)
    return 1000 * best / steps
