"""Set disjointness: two sets with one element in common, which is asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator
from assay.data._distinct import distinct
from assay.data._queries import IGNORED

MASK, PREFIX, LIST_SEPARATOR, ANSWER = range(4)  # ids that are no elements


class SetDisjointness(NamedTuple):
    """`inputs`, `targets`: (B, |A| + |B| + 3), int64; only the last target counts. `answer`: (B,), the common element.

    `positions`: (B, 2), where the answer stands in A and in B.
    """

    inputs: Tensor
    targets: Tensor
    answer: Tensor
    positions: Tensor


def set_disjointness(
    num_examples: int, *, len_a: int, len_b: int, vocab_size: int = 2048, generator: torch.Generator
) -> SetDisjointness:
    """`<prefix> A <separator> B <answer>` -> the one token that is in both (Arora et al. 2024, arXiv 2407.05483).

    A and B are drawn disjoint, all elements distinct ids of 4..V-1; then a random element of B becomes a random one of
    A. Who reads causally must keep A, whatever B will be; so state is needed for |A|, not for the smaller set. Ids 0
    to 3 are mask, prefix, separator and answer.

    Published: V = 2048, (|A|, |B|) = (4, 16), (8, 32), (16, 64), (4, 128), (16, 256), (4, 256) and each the other way
    round, 20,000 examples of each. There A comes from one random half of the vocabulary and B from the other, which is
    the same distribution, but leaves less room: here |A| + |B| <= V - 4 is enough.

    Raises `InputError` for sizes that do not fit. O(B n log n), n = |A| + |B|, as long as n is below V/4.
    """
    check_counts(num_examples=num_examples, len_a=len_a, len_b=len_b, vocab_size=vocab_size)
    check_generator(generator)
    if len_a + len_b > vocab_size - 4:
        raise InputError(
            f"vocab_size is {vocab_size}; expected at least len_a + len_b + 4, {len_a + len_b + 4}: "
            "ids 0 to 3 are no elements"
        )
    device = generator.device
    elements = 4 + distinct(num_examples, len_a + len_b, vocab_size - 4, generator)
    a, b = elements[:, :len_a], elements[:, len_a:]
    in_a = torch.randint(len_a, (num_examples, 1), device=device, generator=generator)
    in_b = torch.randint(len_b, (num_examples, 1), device=device, generator=generator)
    answer = a.gather(1, in_a)
    special = torch.tensor([PREFIX, LIST_SEPARATOR, ANSWER], device=device).repeat(num_examples, 1)
    inputs = torch.cat([special[:, :1], a, special[:, 1:2], b.scatter(1, in_b, answer), special[:, 2:]], dim=1)
    targets = torch.full_like(inputs, IGNORED)
    targets[:, -1:] = answer
    return SetDisjointness(inputs, targets, answer[:, 0], torch.cat([1 + in_a, 2 + len_a + in_b], dim=1))
