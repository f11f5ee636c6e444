"""Prompts as one layer of attention without positions sees them: how often each token occurs, and the last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError


@dataclass(frozen=True)
class CountedPrompts:
    """n examples of (prompt, next token) over K tokens.

    counts: (n, K), float64, how often each token occurs in the prompt, or the sum of its position weights; queries:
    (n,), int64, the token that attends, usually the prompt's last; labels: (n,), int64, the next token. Since such a
    layer can only say what it has read, a label must occur in its prompt. Raises `InputError`.
    """

    counts: Tensor
    queries: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or 0 in self.counts.shape:
            raise InputError(f"counts has shape {tuple(self.counts.shape)}; expected (n, K) with n and K at least 1")
        if not (torch.isfinite(self.counts).all() and (self.counts >= 0).all()):
            raise InputError("counts has entries that are negative or not finite; expected how often each token occurs")
        for name, ids in (("queries", self.queries), ("labels", self.labels)):
            if ids.shape != self.counts.shape[:1] or ids.dtype != torch.int64:
                expected = f"expected an int64 tensor ({len(self.counts)},)"
                raise InputError(f"{name} is {ids.dtype} of shape {tuple(ids.shape)}; {expected}")
            check_tokens(name, ids, self.vocab_size)
        absent = self.counts.gather(1, self.labels[:, None]).squeeze(1) == 0
        if absent.any():
            i = int(absent.nonzero()[0])
            token = int(self.labels[i])
            raise InputError(f"labels[{i}] is token {token}, which prompt {i} does not contain; expected one it does")

    @property
    def vocab_size(self) -> int:
        return self.counts.shape[1]

    def with_query(self, query: int) -> CountedPrompts:
        """The examples of one query; there must be some."""
        own = self.queries == query
        return CountedPrompts(self.counts[own], self.queries[own], self.labels[own])


def count_prompts(
    prompts: Tensor | Sequence[Sequence[int]],
    labels: Tensor | Sequence[int],
    vocab_size: int,
    *,
    queries: Tensor | Sequence[int] | None = None,
) -> CountedPrompts:
    """Count the tokens of prompts, a tensor (n, L) or n sequences of any lengths, of ids in [0, vocab_size).

    labels: (n,), the next tokens; queries: (n,), the last tokens by default. Raises `InputError` for no prompts, empty
    prompts, ids outside the vocabulary, and labels that do not occur in their prompts. O(n K).
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    if not rows:
        raise InputError("prompts is empty; expected at least one")
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.numel() == 0 or row.dtype != torch.int64:
            raise InputError(f"prompts[{i}] is {row.dtype} of shape {tuple(row.shape)}; expected one or more token ids")
    tokens = torch.cat(rows)
    check_tokens("prompts", tokens, vocab_size)
    index = torch.arange(len(rows), device=tokens.device)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    counts = torch.zeros(len(rows), vocab_size, dtype=torch.float64, device=tokens.device)
    counts.index_put_((index.repeat_interleave(lengths), tokens), counts.new_ones(()), accumulate=True)
    last = tokens[lengths.cumsum(0) - 1] if queries is None else torch.as_tensor(queries, device=tokens.device)
    return CountedPrompts(counts, last, torch.as_tensor(labels, device=tokens.device))


def token_counts(prompts: Tensor, vocab_size: int, weights: Tensor | None = None) -> Tensor:
    """How often each token occurs: (..., L), int64, to (..., K), float64. weights: (..., L), what each position counts,
    1 by default."""
    check_tokens("prompts", prompts, vocab_size)
    ones = torch.ones(prompts.shape, dtype=torch.float64, device=prompts.device) if weights is None else weights
    return ones.new_zeros(*prompts.shape[:-1], vocab_size).scatter_add_(-1, prompts, ones.expand(prompts.shape))


def check_tokens(name: str, ids: Tensor, vocab_size: int) -> None:
    """Raises `InputError` where an id is outside [0, vocab_size)."""
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        raise InputError(f"{name} contains token {int(ids[outside][0])}; expected ids from 0 to {vocab_size - 1}")
