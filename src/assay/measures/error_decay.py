"""How an error falls with the number of steps: exponentially, or by a power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay._errors import InputError


class ErrorDecay(NamedTuple):
    """`rate`: the error falls as exp(-rate step). `r2_exponential`, `r2_power`: the part of the variance of the log
    error that is a line in the step, and in the log of the step; the larger one tells the law. `points`: how many
    were used."""

    rate: float
    r2_exponential: float
    r2_power: float
    points: int


def fit_error_decay(
    steps: Sequence[float], errors: Sequence[float], *, window: tuple[float, float] = (1e-3, 0.4)
) -> ErrorDecay:
    """Least-squares lines through the log errors, of those with `window[0] < error < window[1]` at a step above 0.

    The window leaves out the plateau before the error falls, and what is left of it at the end: a floor of the task, or
    counts of a few errors in a finite test set. NaN with fewer than three points left.
    Raises `InputError` where steps and errors differ in number, and for a window that is not 0 <= low < high.

    >>> fit_error_decay([1, 2, 3, 4], [0.36, 0.09, 0.0225, 0.005625]).rate
    1.3862943611198906
    """
    low, high = window
    if not 0 <= low < high:
        raise InputError(f"window is {window}; expected 0 <= low < high")
    step, error = (np.asarray(values, dtype=np.float64) for values in (steps, errors))
    if step.shape != error.shape or step.ndim != 1:
        raise InputError(f"steps has shape {step.shape} and errors {error.shape}; expected the same (n,)")
    used = (low < error) & (error < high) & (step > 0)
    step, log_error = step[used], np.log(error[used])
    if len(np.unique(step)) < 3:
        return ErrorDecay(float("nan"), float("nan"), float("nan"), len(step))
    slope = np.polyfit(step, log_error, 1)[0]
    correlations = [np.corrcoef(x, log_error)[0, 1] for x in (step, np.log(step))]
    return ErrorDecay(float(-slope), float(correlations[0] ** 2), float(correlations[1] ** 2), len(step))
