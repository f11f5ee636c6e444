"""MQAR with keys of two tokens, neither of which tells the value alone."""

from __future__ import annotations

import math

import torch

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number
from assay.data._distinct import distinct, shuffled
from assay.data._queries import ask, fill_at_random
from assay.data.mqar import Recall


def compositional_mqar(
    num_examples: int,
    *,
    seq_len: int,
    num_kv_pairs: int,
    vocab_size: int = 8192,
    power_a: float = 0.01,
    random_non_queries: bool = False,
    generator: torch.Generator,
) -> Recall:
    """MQAR whose keys are all pairs (a, b) of g first and g second halves, in random order, with D = g² values.

    `a_1 b_1 v_1 .. a_D b_D v_D`, then queries `a b` in places of three tokens, spread like those of `mqar`; the value
    is asked for at b. First halves are ids of 1..V/3-1, second halves of V/3..2V/3-1, values of 2V/3..V-1.

    The task of Zoology's repository (Arora et al., github.com/HazyResearch/zoology); there by default D = 4.

    Arguments as for `mqar`; `num_kv_pairs` is a square and `seq_len` at least 6 D. In the result `keys` is (B, D, 2).
    Raises `InputError` for sizes that do not fit. O(B (L + D log D)), as long as D is below V/12.
    """
    check_counts(num_examples=num_examples, seq_len=seq_len, num_kv_pairs=num_kv_pairs)
    check_counts(6, vocab_size=vocab_size)
    check_number("power_a", power_a)
    check_generator(generator)
    grid, third = math.isqrt(num_kv_pairs), vocab_size // 3
    if grid**2 != num_kv_pairs:
        raise InputError(f"num_kv_pairs is {num_kv_pairs}; expected a square number, such as {grid**2}")
    if seq_len < 6 * num_kv_pairs:
        raise InputError(f"seq_len is {seq_len}; expected at least 6 num_kv_pairs, {6 * num_kv_pairs}")
    if third - 1 < grid or vocab_size - 2 * third < num_kv_pairs:
        raise InputError(
            f"vocab_size is {vocab_size}; expected for example {3 * max(grid + 1, num_kv_pairs)}: a third of it is for "
            f"each half of the keys, and for {num_kv_pairs} values"
        )
    first = 1 + distinct(num_examples, grid, third - 1, generator)
    second = third + distinct(num_examples, grid, third, generator)
    values = 2 * third + distinct(num_examples, num_kv_pairs, vocab_size - 2 * third, generator)
    cells = torch.arange(num_kv_pairs, device=generator.device).expand(num_examples, -1)
    order = shuffled(cells, generator)
    keys = torch.stack([first.gather(1, order // grid), second.gather(1, order % grid)], dim=-1)  # (B, D, 2)
    context = torch.cat([keys, values.unsqueeze(-1)], dim=-1).flatten(1)
    inputs, targets, asked = ask(context, keys, values, seq_len, power_a, generator)
    if random_non_queries:
        inputs = fill_at_random(inputs, vocab_size, generator)
    return Recall(inputs, targets, keys, values, asked)
