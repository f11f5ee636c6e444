"""Shares of heads in each part of the entropies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from assay._errors import InputError
from assay.measures.attention import REGIMES, entropy_regime
from assay.measures.head_entropy import head_entropy_histogram, mean_head_entropy


def test_the_quarters_are_those_of_the_regimes() -> None:
    entropies = torch.rand(7, 11, dtype=torch.float64).square()
    names = entropy_regime(entropies)
    expected = [(names == name).mean() for name in REGIMES]
    np.testing.assert_allclose(head_entropy_histogram(entropies), expected)
    assert not np.allclose(head_entropy_histogram(entropies, largest=2.0), expected)


def test_bins_and_their_ends() -> None:
    assert head_entropy_histogram([0.0, 0.5, 0.75, 1.0], largest=1.0).tolist() == [0.25, 0, 0.25, 0.5]
    assert head_entropy_histogram([0.0, 0.49, 0.5, 1.0], bins=2, largest=1.0).tolist() == [0.5, 0.5]
    assert head_entropy_histogram([0.3, 0.6], largest=6.0).tolist() == [1, 0, 0, 0]
    assert head_entropy_histogram([0.0, 0.0]).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("entropies", "options", "message"),
    [
        ([], {}, "empty"),
        ([math.nan], {}, "NaN"),
        ([-1.0], {}, "negative"),
        ([2.0], {"largest": 1.0}, "holds 2; expected at most largest, 1"),
        ([1.0], {"bins": 0}, "bins is 0"),
        ([1.0], {"largest": 0.0}, "largest 0.0"),
    ],
)
def test_what_cannot_be(entropies: list[float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_entropy_histogram(entropies, **options)


def test_the_mean_of_a_head() -> None:
    uniform = torch.ones(5, 5, dtype=torch.float64).tril()
    uniform /= uniform.sum(-1, keepdim=True)
    weights = torch.stack([uniform, torch.eye(5, dtype=torch.float64)]).expand(3, 2, 5, 5)
    flat = sum(math.log(i) for i in range(1, 6)) / 5
    torch.testing.assert_close(mean_head_entropy(weights), torch.tensor([flat, 0], dtype=torch.float64))
    torch.testing.assert_close(mean_head_entropy(weights, normalised=True), torch.tensor([1.0, 0], dtype=torch.float64))
