"""Classes of which few are frequent and many rare."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.data._checks import check_counts, check_generator, check_number


def zipf_probabilities(num_classes: int, exponent: float = 1.2) -> Tensor:
    """`p_c ∝ c^-s` for c = 1..num_classes: (num_classes,), float64."""
    check_counts(num_classes=num_classes)
    check_number("exponent", exponent)
    return (-exponent * torch.arange(1, num_classes + 1, dtype=torch.float64).log()).softmax(dim=0)


def zipf_classes(
    num_examples: int, *, num_classes: int = 96, exponent: float = 1.2, generator: torch.Generator
) -> Tensor:
    """Classes 0..num_classes-1 with Zipf's frequencies, the most frequent first: (num_examples,), int64.

    What an associative memory with unequal frequencies is trained on: each class has an input of its own, for example
    a random vector. The defaults are those of assay's small comparison of Muon with Adam.
    """
    check_counts(num_examples=num_examples)
    check_generator(generator)
    probabilities = zipf_probabilities(num_classes, exponent).to(generator.device)
    return torch.multinomial(probabilities, num_examples, replacement=True, generator=generator)
