"""One layer of linear attention, or of H3, that reads a stacked prompt: what it computes as an in-context learner.

Both are trained on `assay.data.in_context.stack_prompt(xs, ys)`, (B, n + 1, d + 1): rows (x_i, y_i), the last of which
is the query (x, 0). Its 0 must stay 0, or the label is there to be read. Source: Li, Rawat & Oymak 2024 (arXiv
2407.10005).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data._checks import check_counts
from assay.data.in_context import Prompts, stack_prompt

START = 0.1  # standard deviation of weights at first; the layers are cubic in them, and larger ones diverge


class PreconditionedStep(NamedTuple):
    """The learner `x^T W X^T (w * y)`: one step of descent from 0, W (d, d), with weights w (n,) for the examples."""

    W: Tensor
    w: Tensor

    def predict(self, xs: Tensor, ys: Tensor) -> Tensor:
        """(B,): y of the last of the points xs (B, n + 1, d), from those before it. ys: (B, n + 1)."""
        if xs.shape[1] != len(self.w) + 1:
            raise InputError(f"xs has {xs.shape[1]} points; expected {len(self.w) + 1}, w has {len(self.w)} weights")
        step = ((self.w * ys[:, :-1])[..., None] * xs[:, :-1]).sum(1)  # X^T (w * y)
        return (xs[:, -1] @ self.W * step).sum(-1)


class _PromptLayer(nn.Module):
    """Queries, keys and values of a prompt's rows, all d + 1 wide, and a read-out h."""

    def __init__(self, d: int) -> None:
        super().__init__()
        check_counts(d=d)
        self.d = d
        self.Wq, self.Wk, self.Wv = (nn.Parameter(START * torch.randn(d + 1, d + 1)) for _ in range(3))
        self.h = nn.Parameter(START * torch.randn(d + 1))

    def _check(self, prompt: Tensor) -> None:
        if prompt.ndim != 3 or prompt.shape[-1] != self.d + 1:
            raise InputError(f"prompt has shape {tuple(prompt.shape)}; expected (B, n + 1, {self.d + 1})")


class LinearAttention(_PromptLayer):
    """`f(Z) = [(Z Wq) (Z Wk)^T (Z Wv)]_last h`: attention without a softmax. O(B n d^2)."""

    def forward(self, prompt: Tensor) -> Tensor:
        """(B,): y of the query. prompt: (B, n + 1, d + 1), any n."""
        self._check(prompt)
        scores = prompt @ self.Wk @ (prompt[:, -1] @ self.Wq)[..., None]
        return (scores * (prompt @ (self.Wv @ self.h))[..., None]).sum((1, 2))

    def to_pgd(self, n: int) -> PreconditionedStep:
        """The part of f that is bilinear in the query and in sum_i x_i y_i, for n examples: all of them weigh the same.

        What else f has, terms in y^2 and in x alone, is 0 at the best weights for data that are symmetric in x.
        """
        Q, u = self.Wq @ self.Wk.mT, self.Wv @ self.h
        W = u[-1] * Q[:-1, :-1] + torch.outer(Q[:-1, -1], u[:-1])
        return PreconditionedStep(W.detach(), torch.ones(n).to(W))


class H3Layer(_PromptLayer):
    """`f(Z) = [(Z Wq) * (phi conv (Z Wk * Z Wv))]_last h`, `*` by element, phi one causal filter for all channels.

    phi_0 weighs the query's own row, phi_n the first of n examples. Of the shift state space of H3 (`assay.nn.h3`) the
    identity is used. Filter entries start at 1, which is linear attention's sum. O(B n d^2).

    Args:
        length: of the filter, at least n + 1. A longer prompt raises `InputError`.
    """

    def __init__(self, d: int, length: int) -> None:
        super().__init__(d)
        check_counts(2, length=length)
        self.phi = nn.Parameter(torch.ones(length))

    def forward(self, prompt: Tensor) -> Tensor:
        """(B,): y of the query. prompt: (B, n + 1, d + 1)."""
        self._check(prompt)
        weights = self._weights(prompt.shape[1])
        mixed = (weights[:, None] * (prompt @ self.Wk) * (prompt @ self.Wv)).sum(1)
        return (prompt[:, -1] @ self.Wq * mixed) @ self.h

    def to_pgd(self, n: int) -> PreconditionedStep:
        """The part of f that is linear in each x_i y_i, for n examples; what else it has is as in `LinearAttention`."""
        x, y = slice(None, -1), -1
        keys_with_values = self.Wk[x] * self.Wv[y] + self.Wv[x] * self.Wk[y]
        W = (self.Wq[x] * self.h) @ keys_with_values.mT
        return PreconditionedStep(W.detach(), self._weights(n + 1)[:-1].detach())

    def _weights(self, points: int) -> Tensor:
        """Of the rows of a prompt, (points,)."""
        if points > len(self.phi):
            raise InputError(f"prompt has {points} rows; expected at most {len(self.phi)}, the length of the filter")
        return self.phi[:points].flip(0)


def query_mse(model: nn.Module, prompts: Prompts) -> Tensor:
    """Mean squared error of `model(stack_prompt(xs, ys))` at the query: a `loss` for `assay.lab.training.train`."""
    return (model(stack_prompt(prompts.xs, prompts.ys)) - prompts.ys[:, -1]).square().mean()


def fit_pgd(prompts: Prompts) -> Tensor:
    """The W (d, d), float64, of least squared error at the queries of the prompts: the best linear attention for them.

    `x^T W X^T y` is linear in W, so this is least squares on the d^2 features x (X^T y)^T, by normal equations; of the
    W that fit equally, the smallest. O(B (n d + d^4)).
    """
    xs, ys = prompts.xs.double(), prompts.ys.double()
    step = (ys[:, :-1, None] * xs[:, :-1]).sum(1)
    features = (xs[:, -1, :, None] * step[:, None]).flatten(1)
    inverse = torch.linalg.pinv(features.mT @ features, hermitian=True, rtol=1e-12)
    return (inverse @ (features.mT @ ys[:, -1])).unflatten(0, (xs.shape[-1], -1))
