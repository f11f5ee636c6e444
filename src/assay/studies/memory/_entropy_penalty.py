"""The penalty without a model: its shape, and what it does to heads that are free to move."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from assay.losses.entropy_regulariser import EntropyRegulariser
from assay.measures.head_entropy import head_entropy_histogram, mean_head_entropy

Row = dict[str, Any]


def penalty_shape(*, length: int, batch: int, margins: tuple[float, ...], device: str) -> list[Row]:
    """Of attention that is uniform over all keys, so that E = ln L, for thresholds from 0 to 1; float64."""
    weights = torch.full((batch, 1, length, length), 1 / length, dtype=torch.float64, device=device)
    largest = math.log(length)
    rows = []
    for margin in margins:
        mean, total = (
            EntropyRegulariser(1, 1, coef=1.0, margin=margin, reduction=reduction, max_entropy="length").to(device)
            for reduction in ("mean", "sum")
        )
        for step in range(41):
            threshold = step / 40 + 1e-6  # never on the margin itself
            for regulariser in (mean, total):
                regulariser.double().threshold.data.fill_(threshold)
            rows.append({
                "margin": margin,
                "off": (1 - threshold) * largest,
                "inside": abs(1 - threshold) <= 0.2,
                "penalty": mean([weights]).item(),
                "queries": total([weights]).item() / max(mean([weights]).item(), 1e-30),
                "all_queries": batch * length,
            })  # fmt: skip
    return rows


def free_heads(*, heads: int, length: int, margins: tuple[float, ...], steps: int, device: str) -> list[Row]:
    """Heads of free logits, half of them near uniform and half near one token, that descend the penalty by Adam with
    a threshold of 0.5: the share that is too flat and too sharp, before and after."""
    start = 0.3 * torch.randn(heads, length, length, device=device)
    start[heads // 2 :] += 12 * torch.eye(length, device=device)
    rows = []
    for margin in margins:
        logits = nn.Parameter(start.clone())
        penalty = EntropyRegulariser(1, heads, coef=1.0, margin=margin).to(device)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for step in range(steps + 1):
            weights = causal_softmax(logits)
            if step in (0, steps):
                share = head_entropy_histogram(mean_head_entropy(weights[None], normalised=True), largest=1.0)
                rows.append({"margin": margin, "step": step, "flat": 2 * share[-1], "sharp": 2 * share[0]})
            optimizer.zero_grad()
            penalty([weights[None]]).backward()
            optimizer.step()
    return rows


def causal_softmax(logits: Tensor) -> Tensor:
    """(..., L, L) -> the same; each row sums to 1 over the keys up to its own."""
    future = torch.ones_like(logits, dtype=torch.bool).triu(1)
    return logits.masked_fill(future, -torch.inf).softmax(-1)
