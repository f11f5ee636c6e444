"""Exponential decay is told from a power law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress

from assay._errors import InputError
from assay.measures.error_decay import fit_error_decay

STEPS = np.arange(10, 310, 10)


def test_an_exponential_has_its_rate_and_all_of_the_variance() -> None:
    fit = fit_error_decay(STEPS.tolist(), (0.9 * np.exp(-0.02 * STEPS)).tolist())

    assert fit.rate == pytest.approx(0.02)
    assert fit.r2_exponential == pytest.approx(1)
    assert fit.r2_power < 0.98


def test_a_power_law_is_one() -> None:
    fit = fit_error_decay(STEPS.tolist(), (2.0 / STEPS).tolist())

    assert fit.r2_power == pytest.approx(1)
    assert fit.r2_exponential < 0.95


def test_it_is_the_regression_of_scipy_within_the_window() -> None:
    errors = np.exp(-0.02 * STEPS) * np.random.default_rng(0).uniform(0.5, 1.5, len(STEPS))
    errors[-3:] = 0
    used = (errors > 0.01) & (errors < 0.3)
    line = linregress(STEPS[used], np.log(errors[used]))
    power = linregress(np.log(STEPS[used]), np.log(errors[used]))

    fit = fit_error_decay(STEPS.tolist(), errors.tolist(), window=(0.01, 0.3))

    assert fit.points == used.sum() < len(STEPS)
    assert fit == pytest.approx((-line.slope, line.rvalue**2, power.rvalue**2, used.sum()))


def test_too_few_points_say_nothing() -> None:
    fit = fit_error_decay([0, 10, 20, 30], [0.5, 0.2, 0.1, 0.0])

    assert fit.points == 2
    assert np.isnan(fit.rate)


def test_mistakes() -> None:
    with pytest.raises(InputError, match="steps has shape"):
        fit_error_decay([1, 2], [0.1])
    with pytest.raises(InputError, match="window is"):
        fit_error_decay([1, 2], [0.1, 0.2], window=(0.5, 0.1))
