"""Numbers that many checks need, taken from the rows of one seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation with ties at their mean rank; NaN where x or y is constant. Shapes (n,).

    >>> spearman([1, 2, 3], [10, 20, 15])
    0.5
    """
    ranks = [rankdata(values) for values in (x, y)]
    if ranks[0].size < 2:
        return float("nan")
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt(np.square(centred[0]).sum() * np.square(centred[1]).sum())
    return float(centred[0] @ centred[1] / scale) if scale > 0 else float("nan")


def smallest_step(values: ArrayLike) -> float:
    """The smallest difference of neighbours, (n,): above 0 where the values strictly increase; NaN for fewer than two.

    >>> smallest_step([1.0, 3.0, 4.0])
    1.0
    """
    steps = np.diff(np.asarray(values, dtype=np.float64))
    return float(steps.min()) if steps.size else float("nan")


class Line(NamedTuple):
    """`slope x + intercept`, and r2, the part of the variance of y that it explains."""

    slope: float
    intercept: float
    r2: float


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """The least-squares line, (n,) each; pairs that are not finite (the log of 0) are left out. NaN for fewer than two
    different x. For a power law give logs of both, for an exponential one the log of y.

    >>> fit_line([0, 1, 2], [1, 3, 5])
    Line(slope=2.0, intercept=1.0, r2=1.0)
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(np.unique(x)) < 2:
        return Line(float("nan"), float("nan"), float("nan"))
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left = float(np.square(dy - slope * dx).sum())
    total = float(dy @ dy)
    return Line(slope, float(y.mean() - slope * x.mean()), 1 - left / total if total > 0 else 1.0)
