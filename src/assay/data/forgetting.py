"""MQAR in which some keys are given a new value before they are asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number
from assay.data._distinct import distinct
from assay.data._queries import ask, fill_at_random
from assay.data.mqar import check_room, draw_keys, draw_values


class ForgettingRecall(NamedTuple):
    """As `Recall`: `values` are the last ones, which the targets ask for, and `forgotten` the first ones, (B, D).

    `updated`: (B, D), bool, the keys whose value changed; elsewhere `forgotten` equals `values`.
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor
    values: Tensor
    query_positions: Tensor
    forgotten: Tensor
    updated: Tensor


def forgetting_mqar(
    num_examples: int,
    *,
    seq_len: int,
    num_kv_pairs: int,
    num_updates: int,
    vocab_size: int = 8192,
    power_a: float = 0.01,
    random_non_queries: bool = False,
    generator: torch.Generator,
) -> ForgettingRecall:
    """MQAR with `num_updates` more pairs at the end of the context: keys chosen at random, with new values.

    The task of Zoology's repository (Arora et al., github.com/HazyResearch/zoology); there by default 8 pairs and 4
    updates. Here all D + U values of a sequence are distinct, so an update is always seen; there a new value could
    repeat an old one, with a probability of the order of 1/V. Random filler is the default there.

    Arguments as for `mqar`; `seq_len` is even and at least 4 D + 2 U. Raises `InputError` for sizes that do not fit.
    O(B (L + D log D)), as long as D + U is below V/8.
    """
    check_counts(num_examples=num_examples, seq_len=seq_len, num_kv_pairs=num_kv_pairs, num_updates=num_updates)
    check_counts(4, vocab_size=vocab_size)
    check_number("power_a", power_a)
    check_generator(generator)
    if num_updates > num_kv_pairs:
        raise InputError(f"num_updates is {num_updates}; expected at most num_kv_pairs, {num_kv_pairs}")
    check_room(seq_len, 2 * (num_kv_pairs + num_updates), num_kv_pairs)
    keys = draw_keys(num_examples, num_kv_pairs, vocab_size, generator)
    written = draw_values(num_examples, num_kv_pairs + num_updates, vocab_size, generator)
    first, new = written[:, :num_kv_pairs], written[:, num_kv_pairs:]
    which = distinct(num_examples, num_updates, num_kv_pairs, generator)
    values = first.scatter(1, which, new)
    context = torch.stack([torch.cat([keys, keys.gather(1, which)], dim=1), written], dim=-1).flatten(1)
    inputs, targets, asked = ask(context, keys.unsqueeze(-1), values, seq_len, power_a, generator)
    if random_non_queries:
        inputs = fill_at_random(inputs, vocab_size, generator)
    return ForgettingRecall(inputs, targets, keys, values, asked, first, values != first)
