"""State modulation: whether a model lets go of its state where the text ends a unit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay._errors import InputError

CLEARANCE = 2  # a matched position is further than this from every delimiter's boundary
MAX_SHIFT = 4  # how far the matched pair may move outwards to get clear


class Comparison(NamedTuple):
    """The three positions at which ESS is read for one delimiter; `at` is `delimiter + 1`, in the middle."""

    delimiter: int
    left: int
    at: int
    right: int


def positions_needed(
    length: int,
    delimiters: Sequence[int],
    distance: int = 8,
    limit: int | None = None,
    avoid: Sequence[int] = (),
) -> list[Comparison]:
    """Positions at which ESS must be known to compare each delimiter with its surroundings.

    ESS at position i is the state carried from the tokens before i to token i and those after it. The state carried
    across a delimiter at token t is thus read at the boundary `at = t + 1`, and matched with `left = at - d` and
    `right = at + d`. d is the smallest of distance..distance+4 for which neither lies within 2 of a delimiter's
    boundary. A delimiter without such a d, or with `left` < 1 or `right` > length - 1, is left out (ESS is zero by
    definition at 0).

    `length`: tokens in the text. `delimiters`: token indices, in any order; doubles count once. `limit`: keep at most
    this many, evenly spread over those that can be used, where each ESS is costly. `avoid`: delimiters of other kinds,
    near which no matched position may lie either. Returns the comparisons in the
    order of the text.

    Raises `InputError` where a delimiter is outside 0..length-1, `distance` < 3, or `limit` < 1. O(n log n) for n
    delimiters.

    >>> positions_needed(40, [15])
    [Comparison(delimiter=15, left=8, at=16, right=24)]
    """
    _check(length, [*delimiters, *avoid], distance, limit)
    tokens = sorted({int(t) for t in delimiters})
    boundaries = sorted(t + 1 for t in {*tokens, *avoid})
    found = [pair for t in tokens if (pair := _match(t, boundaries, length, distance)) is not None]
    if limit is None or len(found) <= limit:
        return found
    return [found[(2 * k + 1) * len(found) // (2 * limit)] for k in range(limit)]


def delimiter_fall(
    ess: ArrayLike,
    delimiters: Sequence[int],
    *,
    distance: int = 8,
    limit: int | None = None,
    avoid: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Relative fall of the state at each delimiter, against matched positions on both sides.

    `fall = 1 - ess[at] / ((ess[left] + ess[right]) / 2)` with the positions of `positions_needed`: 1 is a state
    emptied, 0 no change, negative a rise. Both sides at the same distance, so that a trend along the text cancels.
    After "state modulation" of the effective state-size paper (Parnichkun et al. 2025, arXiv 2504.19561), which shows
    curves; this statistic is assay's own.

    The statistic is unbiased to first order: each of the three positions is fixed before the curve is seen. No
    minimum over a window around the delimiter is taken, since a minimum shows a fall in pure noise. What remains is
    the bias of any ratio: noise of relative size c lowers the mean fall by c^2 / 2 (0.5 % at c = 10 %).

    `ess`: (L,), NaN where it was not evaluated. A comparison with a NaN, or whose matched mean is not above zero, is
    left out. Returns (n,), float64, one fall for each usable delimiter in the order of the text; `bootstrap_mean` of
    it gives the interval. Falls of neighbouring delimiters may share a matched position; where many do, the interval
    is too narrow.

    `distance`, `limit`, `avoid`: as in `positions_needed`, which chooses by the text alone and not by the curve.

    Raises `InputError` where `ess` is not one-dimensional or holds infinity, and as `positions_needed` does.
    O(L + n log n).

    >>> curve = np.full(40, 10.0)
    >>> curve[16] = 6.0
    >>> delimiter_fall(curve, [15]).tolist()
    [0.4]
    """
    curve = np.asarray(ess, dtype=np.float64)
    if curve.ndim != 1:
        raise InputError(f"ess has shape {curve.shape}; expected one dimension")
    if np.isinf(curve).any():
        raise InputError("ess holds infinity; expected numbers, or NaN where it was not evaluated")
    wanted = np.array(positions_needed(len(curve), delimiters, distance, limit, avoid), dtype=np.int64).reshape(-1, 4)
    _, left, at, right = wanted.T
    matched = (curve[left] + curve[right]) / 2
    usable = ~np.isnan(curve[at]) & (matched > 0)  # a NaN is not above zero
    return 1 - curve[at][usable] / matched[usable]


def _match(token: int, boundaries: list[int], length: int, distance: int) -> Comparison | None:
    at = token + 1
    for d in range(distance, distance + MAX_SHIFT + 1):
        left, right = at - d, at + d
        if left < 1 or right > length - 1:
            return None
        if _is_clear(left, boundaries) and _is_clear(right, boundaries):
            return Comparison(token, left, at, right)
    return None


def _is_clear(position: int, boundaries: list[int]) -> bool:
    nearest = bisect_left(boundaries, position - CLEARANCE)
    return nearest == len(boundaries) or boundaries[nearest] > position + CLEARANCE


def _check(length: int, delimiters: Sequence[int], distance: int, limit: int | None) -> None:
    if distance <= CLEARANCE:
        raise InputError(f"distance is {distance}; expected at least {CLEARANCE + 1}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1, or None for all")
    outside = [t for t in delimiters if not 0 <= t < length]
    if outside:
        raise InputError(f"delimiters has the token {outside[0]}; expected indices in 0..{length - 1}")
