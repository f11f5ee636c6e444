"""Multi-query associative recall (MQAR): pairs of key and value, then keys that ask for their values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number
from assay.data._distinct import distinct
from assay.data._queries import ask, fill_at_random


class Recall(NamedTuple):
    """B sequences of recall with D pairs each.

    `inputs`, `targets`: (B, L), int64; a target is the value that the key at its position stands for, -100 elsewhere.
    `keys`, `values`: (B, D) in the order of the context, (B, D, 2) for keys of two tokens.
    `query_positions`: (B, D), where key j is asked for.
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor
    values: Tensor
    query_positions: Tensor


def mqar(
    num_examples: int,
    *,
    seq_len: int,
    num_kv_pairs: int,
    vocab_size: int = 8192,
    power_a: float = 0.01,
    random_non_queries: bool = False,
    num_passes: int = 1,
    generator: torch.Generator,
) -> Recall:
    """MQAR as in Zoology (Arora et al. 2023, arXiv 2312.04927), identical in distribution to the published generator.

    `k_1 v_1 .. k_D v_D`, then the same keys once more, each at an even distance from the context's end, with filler (id
    0) in between. Keys are distinct ids of 1..V/2-1, values distinct ids of V/2..V-1. Of the S = (L - 2D) / 2 places
    for queries, s = 1..S, D are drawn one after the other with `p_s ∝ s^(a-1)` among those left, and the j-th is key
    j's: keys at the beginning of the context tend to be asked for earlier.

    Published: V = 8192, a = 0.01, (L, D) = (64, 4), (128, 8), (256, 16), (512, 64), filler zeros, 100,000 examples to
    train and 3,000 to test (Fig. 2); a = 0.1 in studies of effective state-size (arXiv 2504.19561). There V > L is
    asked for too, which nothing here needs.

    Args:
        seq_len: L, even, at least 2 D num_passes + 2 D.
        num_kv_pairs: D.
        vocab_size: V, with V/2 - 1 keys to choose from.
        power_a: a. 1 is uniform; the smaller, the nearer the queries. Far below 0, at -1e6, the slots are 1..D in
            order, which is recall at the fixed distance 2 D.
        random_non_queries: filler is replaced by ids drawn from the whole vocabulary. The published class does so by
            default, the published experiments do not. Filler can then repeat a key, followed by something else.
        num_passes: how often the context is written, in the same order.
        generator: draws, and says on which device.

    Raises `InputError` for sizes that do not fit. O(B (L + D log D)), as long as D is below V/8.
    """
    check_counts(num_examples=num_examples, seq_len=seq_len, num_kv_pairs=num_kv_pairs, num_passes=num_passes)
    check_counts(4, vocab_size=vocab_size)
    check_number("power_a", power_a)
    check_generator(generator)
    check_room(seq_len, 2 * num_kv_pairs * num_passes, num_kv_pairs)
    keys = draw_keys(num_examples, num_kv_pairs, vocab_size, generator)
    values = draw_values(num_examples, num_kv_pairs, vocab_size, generator)
    context = torch.stack([keys, values], dim=-1).flatten(1).repeat(1, num_passes)
    inputs, targets, asked = ask(context, keys.unsqueeze(-1), values, seq_len, power_a, generator)
    if random_non_queries:
        inputs = fill_at_random(inputs, vocab_size, generator)
    return Recall(inputs, targets, keys, values, asked)


def check_room(seq_len: int, context: int, num_queries: int) -> None:
    """An even length with room for the context and, behind it, two places for each query."""
    needed = context + 2 * num_queries
    if seq_len % 2 or seq_len < needed:
        raise InputError(
            f"seq_len is {seq_len}; expected an even number of at least {needed}: "
            f"{context} tokens of context and 2 for each of {num_queries} queries"
        )


def draw_keys(num_examples: int, count: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Distinct ids of 1..V/2-1, (num_examples, count)."""
    half = vocab_size // 2
    if count > half - 1:
        raise InputError(
            f"vocab_size is {vocab_size}, with {half - 1} keys; expected at least {2 * count + 2}, for {count} keys"
        )
    return 1 + distinct(num_examples, count, half - 1, generator)


def draw_values(num_examples: int, count: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Distinct ids of V/2..V-1, (num_examples, count)."""
    half = vocab_size // 2
    if count > vocab_size - half:
        raise InputError(
            f"vocab_size is {vocab_size}, with {vocab_size - half} values; expected at least {2 * count - 1}, "
            f"for {count} values"
        )
    return half + distinct(num_examples, count, vocab_size - half, generator)
