import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assay._errors import InputError
from assay.measures import interval
from assay.measures.interval import Interval, bootstrap_difference, bootstrap_mean


def test_doctests() -> None:
    assert doctest.testmod(interval).failed == 0


def test_ends_agree_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean(), rel=1e-12)
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    assert ours.n == 80


def test_difference_of_large_normal_samples_has_the_normal_interval() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(2, 1, 400), rng.normal(1, 3, 500)
    half = 1.96 * math.sqrt(a.var() / 400 + b.var() / 500)
    found = bootstrap_difference(a, b, resamples=10_000)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.06)
    assert found.mean - found.low == pytest.approx(half, rel=0.06)
    assert found.n == 400


def test_level_is_the_share_of_intervals_that_cover_the_truth() -> None:
    covered = 0
    for seed in range(300):
        found = bootstrap_mean(np.random.default_rng(seed).normal(5, 2, 40), seed=seed, resamples=500, level=0.9)
        covered += found.low <= 5 <= found.high
    assert 0.84 <= covered / 300 <= 0.95


def test_same_seed_same_numbers_and_other_seed_other_numbers() -> None:
    values = np.arange(30.0)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4).low != bootstrap_mean(values, seed=5).low
    assert bootstrap_difference(values, values, seed=4) == bootstrap_difference(values, values, seed=4)


def test_blocks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_mean(values)
    monkeypatch.setattr(interval, "_BLOCK", 70)
    assert bootstrap_mean(values) == whole


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.floats(0.1, 100), st.floats(-1e6, 1e6))
def test_interval_moves_and_stretches_with_the_values(values: list[float], scale: float, shift: float) -> None:
    plain = bootstrap_mean(values, resamples=50)
    moved = bootstrap_mean(np.array(values) * scale + shift, resamples=50)
    size = scale * 1e6 + 1e6
    for name in ("mean", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name) * scale + shift, abs=1e-9 * size)
    assert min(values) - 1e-6 <= plain.low <= plain.high <= max(values) + 1e-6


def test_too_few_values_have_no_interval() -> None:
    none, one = bootstrap_mean([]), bootstrap_mean([2.5])
    assert none.n == 0
    assert all(math.isnan(x) for x in (none.mean, none.low, none.high))
    assert (one.n, one.mean) == (1, 2.5)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    both = bootstrap_difference([2.5], [1.0, 2.0])
    assert (both.n, both.mean) == (1, 1.0)
    assert math.isnan(both.low)
    assert math.isnan(bootstrap_difference([], [1.0, 2.0]).mean)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([1, 1, 1, 1]) == Interval(1.0, 1.0, 1.0, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_missing_values_are_refused_by_name(bad: float) -> None:
    with pytest.raises(InputError, match="values holds NaN or infinity"):
        bootstrap_mean([1.0, bad])
    with pytest.raises(InputError, match=r"^b holds NaN"):
        bootstrap_difference([1.0], [1.0, bad])


def test_other_mistakes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"values has shape \(1, 2\)"):
        bootstrap_mean([[1.0, 2.0]])
    with pytest.raises(InputError, match="resamples is 0"):
        bootstrap_mean([1.0], resamples=0)
    with pytest.raises(InputError, match="level is 95"):
        bootstrap_difference([1.0], [1.0], level=95)
