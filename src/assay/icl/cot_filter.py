"""Chain-of-thought filtering: of a prompt that shows every step, keep the input and the output of one.

A prompt of N examples of an L-layer network is x_1, s_1^1, ..., s_1^{L-1}, y_1, x_2, ...: `tokens_per_example` = L + 1
tokens each. Step l, 1..L, reads the token l - 1 of an example and writes the token l. With the others set to zero,
learning the step is learning one layer in context. Source: Li et al. 2023 (arXiv 2305.18869), section on filtering.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError


def filter_step(prompt: Tensor, step: int, tokens_per_example: int) -> Tensor:
    """The prompt (B, T, D) with all tokens zeroed but the inputs and outputs of a step. Same shape and dtype.

    Raises `InputError` for a step that an example does not have.
    """
    return prompt * _kept(prompt.shape[1], step, tokens_per_example, prompt.device)[:, None]


def step_pairs(prompt: Tensor, step: int, tokens_per_example: int) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of a step, (B, N, D) each: what an in-context learner of one layer is given.

    Raises `InputError` for a step that an example does not have, and for a prompt that ends within an example.
    """
    if prompt.shape[1] % tokens_per_example:
        raise InputError(f"prompt has {prompt.shape[1]} tokens; expected a multiple of {tokens_per_example}")
    filtered = filter_step(prompt, step, tokens_per_example)
    return filtered[:, step - 1 :: tokens_per_example], filtered[:, step::tokens_per_example]


def filter_attention(
    length: int, step: int, tokens_per_example: int, *, sharpness: float, device: torch.device | None = None
) -> Tensor:
    """One head of causal softmax attention that filters: weights (T, 1 + T), float64, of which column 0 is a token
    before the prompt whose value is 0. `filter_attention(...)[:, 1:] @ prompt` tends to `filter_step(prompt, ...)`.

    Queries and keys are linear in what a token can know of its place: its number i, i^2, and its number within its
    example, one-hot. With `q_i = (2 i, -1, i^2 -/+ 1)` and `k_j = (j, j^2, 0)`, `k_0 = (0, 0, 1)` for the token before,

        score(i, j) = i^2 - (i - j)^2,    score(i, before) = i^2 - 1 if token i is kept, i^2 + 1 if not

    so token i looks at itself if it is kept and at nothing otherwise, by a margin of `sharpness`, at any length. The
    error is at most 3 exp(-sharpness) times the largest entry of the prompt.

    Raises `InputError` for a step that an example does not have. The construction is this library's.
    """
    kept = _kept(length, step, tokens_per_example, device)
    i = torch.arange(length, dtype=torch.float64, device=device)
    zero, one = torch.zeros_like(i), torch.ones_like(i)
    queries = torch.stack([2 * i, -one, i**2 + torch.where(kept, -1.0, 1.0)], dim=-1)
    keys = torch.cat([torch.eye(3, dtype=torch.float64, device=device)[2:], torch.stack([i, i**2, zero], dim=-1)])
    future = i[:, None] < torch.cat([-one[:1], i])
    return (sharpness * (queries @ keys.mT)).masked_fill(future, -torch.inf).softmax(-1)


def _kept(length: int, step: int, tokens_per_example: int, device: torch.device | None) -> Tensor:
    """(T,), boolean: tokens that are the input or the output of a step."""
    if not 1 <= step < tokens_per_example:
        raise InputError(f"step is {step}; expected 1 to {tokens_per_example - 1}, tokens_per_example less 1")
    place = torch.arange(length, device=device) % tokens_per_example
    return (place == step - 1) | (place == step)
