import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay._errors import InputError
from assay.measures import modulation
from assay.measures.interval import bootstrap_mean
from assay.measures.modulation import delimiter_fall, positions_needed

FAR = list(range(20, 1180, 29))  # 40 delimiters, none near another's matched positions
LENGTH = 1200


def dips(depth: float, width: int, level: float = 50.0) -> np.ndarray:
    """A constant state with a V at every boundary: `depth` of it gone there, whole again `width` tokens away."""
    gap = np.min(np.abs(np.arange(LENGTH)[:, None] - (np.array(FAR) + 1)), axis=1)
    return level * (1 - depth * np.clip(1 - gap / width, 0, None))


def test_doctests() -> None:
    assert doctest.testmod(modulation).failed == 0


def test_interval_on_white_noise_covers_zero_as_often_as_it_says() -> None:
    covered, means = 0, []
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(50, 2.5, LENGTH)
        found = bootstrap_mean(delimiter_fall(noise, FAR), seed=seed, resamples=1000)
        assert found.n == len(FAR)
        covered += found.low <= 0 <= found.high
        means.append(found.mean)
    assert 0.90 <= covered / 200 <= 0.985
    # no fall is seen in noise; a minimum over a window would show about 5 % here
    assert abs(np.mean(means)) < 4 * np.std(means) / math.sqrt(200) + 0.05**2 / 2


def test_dips_are_found_at_their_depth() -> None:
    assert delimiter_fall(dips(0.4, 8), FAR) == pytest.approx(np.full(len(FAR), 0.4))
    noisy = dips(0.4, 6) + np.random.default_rng(0).normal(0, 2.5, LENGTH)
    found = bootstrap_mean(delimiter_fall(noisy, FAR))
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.06


def test_dips_elsewhere_than_at_the_boundary_are_not_credited_to_it() -> None:
    moved = np.roll(dips(0.4, 3), 4)
    assert delimiter_fall(moved, FAR) == pytest.approx(np.zeros(len(FAR)), abs=1e-12)


def test_state_is_read_behind_the_delimiter() -> None:
    curve = np.full(40, 10.0)
    curve[21] = 4.0  # the state carried over token 20 to token 21
    assert delimiter_fall(curve, [20]) == pytest.approx([0.6])
    assert delimiter_fall(curve, [21]) == pytest.approx([0.0])


@settings(deadline=None)
@given(st.floats(-0.04, 0.04), st.floats(0.1, 100))
def test_linear_trend_and_scale_cancel(slope: float, scale: float) -> None:
    trend = scale * (50 + slope * np.arange(LENGTH))
    assert delimiter_fall(trend, FAR) == pytest.approx(np.zeros(len(FAR)), abs=1e-12)
    assert delimiter_fall(scale * dips(0.3, 5), FAR) == pytest.approx(np.full(len(FAR), 0.3))


@settings(deadline=None)
@given(st.lists(st.integers(0, 119), max_size=25), st.integers(3, 12))
def test_positions_keep_their_promises(delimiters: list[int], distance: int) -> None:
    found = positions_needed(120, delimiters, distance)
    boundaries = {t + 1 for t in delimiters}

    def free(at: int, d: int) -> bool:
        return all(abs(p - b) > 2 for p in (at - d, at + d) for b in boundaries)

    for delimiter, left, at, right in found:
        assert delimiter in delimiters
        assert at == delimiter + 1
        d = right - at
        assert at - left == d
        assert distance <= d <= distance + 4
        assert left >= 1
        assert right <= 119
        assert free(at, d)
        assert not any(free(at, nearer) for nearer in range(distance, d))
    for t in set(delimiters) - {c.delimiter for c in found}:
        at = t + 1
        assert not any(free(at, d) and at - d >= 1 and at + d <= 119 for d in range(distance, distance + 5))
    assert [c.delimiter for c in found] == sorted({c.delimiter for c in found})


def test_matched_pair_moves_outwards_on_both_sides_or_is_given_up() -> None:
    # the boundary of 40 lies at 41; a second one at 50 blocks 48..52 on the right
    assert positions_needed(100, [40, 49])[0] == (40, 29, 41, 53)
    assert positions_needed(100, [40, 50], distance=5) == [(40, 36, 41, 46), (50, 46, 51, 56)]
    assert positions_needed(100, list(range(10, 90, 4))) == []


def test_ends_of_the_text_are_left_out() -> None:
    assert [c.delimiter for c in positions_needed(60, [7, 8, 50, 51])] == [8, 50]
    assert positions_needed(60, [0, 59]) == []
    assert positions_needed(5, [2]) == []


@pytest.mark.parametrize("limit", [1, 2, 7, 39, 40, 41])
def test_limit_keeps_an_evenly_spread_part(limit: int) -> None:
    whole, part = positions_needed(LENGTH, FAR), positions_needed(LENGTH, FAR, limit=limit)
    assert len(part) == min(limit, 40)
    kept = [whole.index(c) for c in part]
    steps = np.diff([-(kept[0] + 1), *kept, 2 * 40 - kept[-1] - 1])
    assert steps.max() - steps.min() <= 1 + (limit < 40)


def test_what_was_not_evaluated_is_left_out() -> None:
    whole = dips(0.4, 8)
    part = np.full(LENGTH, math.nan)
    needed = positions_needed(LENGTH, FAR, limit=10)
    for _, *positions in needed:
        part[positions] = whole[positions]
    assert delimiter_fall(part, FAR) == pytest.approx(np.full(10, 0.4))
    for position in needed[3][1:]:
        holed = part.copy()
        holed[position] = math.nan
        assert len(delimiter_fall(holed, FAR)) == 9


def test_state_of_zero_around_has_no_relative_fall() -> None:
    assert delimiter_fall(np.zeros(LENGTH), FAR).shape == (0,)
    assert delimiter_fall(np.ones(LENGTH), []).shape == (0,)


def test_mistakes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"ess has shape \(2, 2\)"):
        delimiter_fall(np.ones((2, 2)), [])
    with pytest.raises(InputError, match="ess holds infinity"):
        delimiter_fall([1.0, math.inf], [])
    with pytest.raises(InputError, match=r"delimiters has the token 10; expected indices in 0\.\.9"):
        delimiter_fall(np.ones(10), [3, 10])
    with pytest.raises(InputError, match="distance is 2; expected at least 3"):
        delimiter_fall(np.ones(10), [3], distance=2)
    with pytest.raises(InputError, match="limit is 0"):
        positions_needed(10, [3], limit=0)
