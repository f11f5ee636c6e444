"""Numbers that many checks need, taken from the rows of one seed."""

from __future__ import annotations

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
