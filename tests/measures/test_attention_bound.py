"""The lower bound of attention entropy: against the softmax itself, and against a search for sharper rows."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from assay._errors import InputError
from assay.measures import attention_bound
from assay.measures.attention_bound import attention_entropy_lower_bound, extremal_logits


def entropy(logits: np.ndarray) -> float:
    return float(stats.entropy(np.exp(logits - logits.max())))


def test_doctests() -> None:
    assert doctest.testmod(attention_bound).failed == 0


@pytest.mark.parametrize("length", [2, 3, 8, 100])
@pytest.mark.parametrize("sb", [0.0, 0.3, 2.0, 9.0])
def test_it_is_attained(length: int, sb: float) -> None:
    logits = extremal_logits(sb, length)

    assert float(logits.norm()) == pytest.approx(sb)
    assert float(logits.sum()) == pytest.approx(0, abs=1e-12)
    assert float(attention_entropy_lower_bound(sb, length)) == pytest.approx(entropy(logits.numpy()), abs=1e-12)


@pytest.mark.parametrize(("length", "sb"), [(2, 1.0), (3, 2.5), (5, 4.0), (7, 1.0)])
def test_no_search_finds_a_sharper_row(length: int, sb: float) -> None:
    bound = float(attention_entropy_lower_bound(sb, length))
    rng = np.random.default_rng(0)

    def of(x: np.ndarray) -> float:
        return entropy(sb * x / np.linalg.norm(x))

    found = min(optimize.minimize(of, rng.normal(size=length), method="Nelder-Mead", tol=1e-12).fun for _ in range(8))

    assert found >= bound - 1e-12
    assert found <= bound + 1e-3  # the search is not blind


def test_without_the_root_it_would_be_no_bound() -> None:
    """The control: sqrt(T / (T - 1)) left out of beta."""
    for length in (2, 3, 4, 8, 16):
        for sb in (1.0, 3.0):
            others = (length - 1) * math.exp(-sb)
            wrong = math.log1p(others) + sb * math.sqrt(length / (length - 1)) * others / (1 + others)
            assert entropy(extremal_logits(sb, length).numpy()) < wrong - 1e-6


def test_shapes_limits_and_large_norms() -> None:
    sb = torch.tensor([[0.0, 40.0], [700.0, 1e4]])
    bound = attention_entropy_lower_bound(sb, 16)

    assert bound.shape == (2, 2)
    assert extremal_logits(sb, 16).shape == (2, 2, 16)
    assert float(bound[0, 0]) == pytest.approx(math.log(16))
    assert (bound >= 0).all()
    ratio = math.sqrt(16 / 15)
    assert float(bound[0, 1]) == pytest.approx(15 * (1 + 40 * ratio) * math.exp(-40 * ratio), rel=1e-9)
    assert float(bound[1, 1]) == 0


@pytest.mark.parametrize(
    ("sb", "length", "message"),
    [
        (1.0, 1, "length is 1; expected at least 2"),
        (-1.0, 4, "logit_norm holds -1; expected numbers of at least 0"),
        (math.nan, 4, "logit_norm holds nan; expected"),
    ],
)
def test_what_does_not_fit_is_refused(sb: float, length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attention_entropy_lower_bound(sb, length)
    with pytest.raises(InputError, match=message):
        extremal_logits(sb, length)
