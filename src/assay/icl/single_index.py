"""A network and a linear attention that learn functions of one direction in context, in two stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data._checks import check_generator, check_number
from assay.optim.ridge import RIDGES, ridge_regression

CHUNK = 100  # prompts at a time in the first stage: their activations are (CHUNK, N, m)


class InContextMLPAttention(nn.Module):
    """`f(x) = <Gamma h, phi(x)>`, `phi(x) = relu(W x + b)`, `h = mean_i y_i phi(x_i)` over the examples of the prompt:
    linear attention on the features of a network.

        first = InContextMLPAttention(torch.randn(64, d), spread=0.5, generator=generator)
        first.stage1_step([(xs, ys)])  # W turns to the subspace in which the tasks differ
        model = InContextMLPAttention(first.weight, spread=math.log(d), generator=generator)
        model.fit_attention_ridge(xs, ys).predict(examples, values, queries)

    Args:
        rows: (m, d), the directions of the neurons: W is these, each divided by its norm.
        spread: biases are uniform in [-spread, spread].
        generator: draws the biases, on its device.

    Gamma (m, m) starts at I. Everything is in float64. Source: Oko, Song, Suzuki & Wu 2024 (arXiv 2411.02544), the
    architecture and its two stages.
    """

    def __init__(self, rows: Tensor, *, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        check_number("spread", spread)
        check_generator(generator)
        if rows.ndim != 2 or not rows.norm(dim=-1).min() > 0:
            raise InputError(f"rows has shape {tuple(rows.shape)}; expected (m, d), no row of them 0")
        weight = _unit(rows.detach().to(generator.device, torch.float64))
        uniform = torch.rand(len(weight), generator=generator, device=generator.device, dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(spread * (2 * uniform - 1))
        self.gamma = nn.Parameter(torch.eye(len(weight)).to(weight))

    def features(self, xs: Tensor) -> Tensor:
        """phi, (..., m), of xs (..., d)."""
        return (xs.double() @ self.weight.mT + self.bias).relu()

    def summary(self, xs: Tensor, ys: Tensor) -> Tensor:
        """h, (B, m), of the examples xs (B, N, d), ys (B, N)."""
        if xs.ndim != 3 or xs.shape[-1] != self.weight.shape[1] or ys.shape != xs.shape[:2] or not xs.shape[1]:
            raise InputError(
                f"xs has shape {tuple(xs.shape)} and ys {tuple(ys.shape)}; "
                f"expected (B, N, {self.weight.shape[1]}) and (B, N)"
            )
        return (ys.double()[..., None] * self.features(xs)).mean(1)

    def forward(self, xs: Tensor, ys: Tensor, queries: Tensor) -> Tensor:
        """(B, Q): values at the queries (B, Q, d), from the examples xs (B, N, d), ys (B, N)."""
        return (self.features(queries) @ (self.summary(xs, ys) @ self.gamma.mT)[..., None])[..., 0]

    @torch.no_grad()
    def predict(self, xs: Tensor, ys: Tensor, queries: Tensor) -> Tensor:
        """The same without a gradient."""
        return self(xs, ys, queries)

    def stage1_step(self, prompts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of gradient descent on W, so long that nothing is left of the start: W becomes the direction of the
        step. Returns G (m, d), the gradient of `mean y f(x)` before its rows are normalised.

        prompts: batches of xs (B, N + 1, d) and ys (B, N + 1), one after the other, so that they need not all be in
        memory; the last of the N + 1 points is x, y, the others are the examples. For a small Gamma = gamma I, f is
        much smaller than y, and the gradient of the squared error is -2 gamma G. Constants in y must be 0 in the mean,
        or they dominate it. In time O(B N m d).
        """
        weight, bias, total, count = self.weight, self.bias.detach(), torch.zeros_like(self.weight), 0
        for xs, ys in prompts:
            for x, y in zip(xs.double().split(CHUNK), ys.double().split(CHUNK), strict=True):
                phi = (x @ weight.mT + bias).relu()
                f = ((y[:, :-1, None] * phi[:, :-1]).mean(1) * phi[:, -1]).sum(-1)
                total += torch.autograd.grad((y[:, -1] * f).sum(), weight)[0]
            count += len(xs)
        if not count:
            raise InputError("prompts are empty; expected batches of (xs, ys)")
        with torch.no_grad():
            weight.copy_(_unit(total))
        return total / count

    @torch.no_grad()
    def fit_attention_ridge(self, xs: Tensor, ys: Tensor, ridge: Sequence[float] = RIDGES) -> Self:
        """Fit Gamma by ridge regression, `assay.optim.ridge.ridge_regression`: the last point of each prompt from the
        others. xs: (B, N + 1, d); ys: (B, N + 1). There are m^2 unknowns: the more prompts than these, the better.
        """
        h, phi = self.summary(xs[:, :-1], ys[:, :-1]), self.features(xs[:, -1])
        products = (phi[:, :, None] * h[:, None]).flatten(1)
        self.gamma.copy_(ridge_regression(products, ys[:, -1], ridge).weights.view_as(self.gamma))
        return self


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-300)
