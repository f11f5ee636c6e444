"""Where the tasks of associative recall put their queries."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100  # the target that torch's cross-entropy leaves out
FILLER = 0


def query_slots(num_examples: int, num_slots: int, count: int, power_a: float, generator: torch.Generator) -> Tensor:
    """Distinct slots, drawn one after the other with p_s ∝ s^(a-1) among those left: (num_examples, count).

    Slot s = 1..num_slots is returned as s - 1. The order is that of drawing, so early entries tend to be small. Done by
    the exponential race (Gumbel top-k), which has exactly this distribution; in logarithms, so any a will do.
    """
    race = torch.empty(num_examples, num_slots, dtype=torch.float64, device=generator.device)
    slots = torch.arange(1, num_slots + 1, dtype=torch.float64, device=generator.device)
    scores = (power_a - 1) * slots.log() - race.exponential_(generator=generator).log()
    return scores.topk(count, dim=-1).indices


def ask(
    context: Tensor, queries: Tensor, answers: Tensor, seq_len: int, power_a: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of a context, then queries at random distances with filler in between.

    A query of k tokens has k + 1 places, so that the answer could follow it. `context`: (B, C). `queries`: (B, D, k).
    `answers`: (B, D). Returns inputs and targets, (B, seq_len), and the position of the last token of each query,
    where its answer is the target, (B, D).
    """
    num_examples, num_queries, width = queries.shape
    start = context.shape[1]
    slots = query_slots(num_examples, (seq_len - start) // (width + 1), num_queries, power_a, generator)
    first = start + slots * (width + 1)
    inputs = context.new_full((num_examples, seq_len), FILLER)
    inputs[:, :start] = context
    for i in range(width):
        inputs.scatter_(1, first + i, queries[..., i])
    asked = first + width - 1
    targets = torch.full_like(inputs, IGNORED).scatter_(1, asked, answers)
    return inputs, targets, asked


def fill_at_random(inputs: Tensor, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Every filler replaced by an id from the whole vocabulary; it can be a key, a value or the filler again."""
    noise = torch.randint(vocab_size, inputs.shape, device=inputs.device, generator=generator)
    return torch.where(inputs == FILLER, noise, inputs)
