"""Selective copying: a few tokens among blanks, to be repeated in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator
from assay.data._queries import IGNORED


class Copying(NamedTuple):
    """`inputs`, `targets`: (B, L), int64, -100 where ignored. `content`, `positions`: (B, c), what is where."""

    inputs: Tensor
    targets: Tensor
    content: Tensor
    positions: Tensor


def selective_copying(
    num_examples: int,
    *,
    seq_len: int = 256,
    num_tokens_to_copy: int = 16,
    vocab_size: int = 16,
    generator: torch.Generator,
) -> Copying:
    """Selective copying as in MAD (Poli et al. 2024, arXiv 2403.17844).

    c content ids of 0..V-3, with replacement, with L - 2c - 1 blanks (id V-2) among them; then the copy token (V-1) and
    c blanks, at which the content is asked for in order. As published, every blank chooses one of the c places *before*
    a content token, independently: the last content token stands right before the copy token, and gaps are multinomial
    (not a uniformly random choice of positions). The published code draws these places from numpy's global generator,
    not from the one that it is given; here all is drawn from `generator`.

    Published: the defaults; in the study of effective state-size (arXiv 2504.19561) V = 8192, c in {8, .., 128} and L
    in {64, .., 2048}.

    Args:
        seq_len: L, above 2 c + 1.
        num_tokens_to_copy: c.
        vocab_size: V, at least 3.

    Raises `InputError` for sizes that do not fit. O(B L).
    """
    check_counts(num_examples=num_examples, seq_len=seq_len, num_tokens_to_copy=num_tokens_to_copy)
    check_counts(3, vocab_size=vocab_size)
    check_generator(generator)
    count, device = num_tokens_to_copy, generator.device
    num_blanks = seq_len - 2 * count - 1
    if num_blanks < 1:
        raise InputError(f"seq_len is {seq_len}; expected more than 2 num_tokens_to_copy + 1, {2 * count + 1}")
    content = torch.randint(vocab_size - 2, (num_examples, count), device=device, generator=generator)
    place = torch.randint(count, (num_examples, num_blanks), device=device, generator=generator)
    blanks_before = torch.zeros_like(content).scatter_add_(1, place, torch.ones_like(place)).cumsum(dim=1)
    positions = blanks_before + torch.arange(count, device=device)
    inputs = content.new_full((num_examples, seq_len), vocab_size - 2).scatter_(1, positions, content)
    inputs[:, -count - 1] = vocab_size - 1
    targets = torch.full_like(inputs, IGNORED)
    targets[:, -count:] = content
    return Copying(inputs, targets, content, positions)
