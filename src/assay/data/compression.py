"""Compression: a sequence that must fit into what the mixer says at its last position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay.data._checks import check_counts, check_generator


class Compression(NamedTuple):
    """`inputs`, `targets`: (B, L), int64. The target at each position is the input there."""

    inputs: Tensor
    targets: Tensor


def compression(
    num_examples: int, *, seq_len: int = 32, vocab_size: int = 16, generator: torch.Generator
) -> Compression:
    """Compression as in MAD (Poli et al. 2024, arXiv 2403.17844): L - 1 ids of 0..V-2, uniform, then the token V-1.

    The model is an auto-encoder: it may keep only its output at the last position, to which a position code is added
    and from which an MLP decodes every input. All positions are targets, the last token included, as published. To be
    solved exactly it takes (L - 1) log2(V - 1) bits.

    Published: the defaults; V in {8, .., 128} in the study of effective state-size (arXiv 2504.19561).

    Raises `InputError` for `seq_len` or `vocab_size` below 2. O(B L).
    """
    check_counts(num_examples=num_examples)
    check_counts(2, seq_len=seq_len, vocab_size=vocab_size)
    check_generator(generator)
    inputs = torch.randint(vocab_size - 1, (num_examples, seq_len), device=generator.device, generator=generator)
    inputs[:, -1] = vocab_size - 1
    return Compression(inputs, inputs.clone())
