"""A verdict follows from rows alone: where the interval lies, what the control does, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from assay.lab import Check, Claim, judge, smallest_step, spearman
from assay.lab.claims import ClaimResult, Relation

RNG = np.random.default_rng(0)


def column(name: str, relation: Relation = ">=", threshold: float = 1.0, *, every_seed: bool = False) -> Check:
    return Check(name, lambda rows: rows[name].mean(), relation, threshold, every_seed=every_seed)


def decide(
    checks: Sequence[Check], controls: Sequence[Check] = (), *, failed: int = 0, **columns: Sequence[float]
) -> ClaimResult:
    """Two rows for each seed, whose mean is the value given."""
    rows = pd.DataFrame(
        [
            {"seed": seed, **{name: values[seed] + shift for name, values in columns.items()}}
            for shift in (-0.5, 0.5)
            for seed in range(len(next(iter(columns.values()), ())))
        ]
    )
    return judge(Claim("c", "text", "source", print, checks, controls), rows, failed=failed)


@pytest.mark.parametrize(
    ("values", "relation", "verdict"),
    [
        ([1.2, 1.3, 1.4], ">=", "holds"),
        ([1.2, 1.3, 1.4], "<=", "fails"),
        ([0.6, 0.7, 0.8], ">=", "fails"),
        ([0.6, 0.7, 0.8], "<=", "holds"),
        ([0.5, 1.0, 1.8], ">=", "inconclusive"),
        ([0.5, 1.0, 1.8], "<", "inconclusive"),
        ([1.0, 1.0, 1.0], ">=", "holds"),
        ([1.0, 1.0, 1.0], ">", "fails"),
        ([2.0], ">=", "inconclusive"),  # one seed has no interval
        ([2.0, 2.0, math.nan], ">=", "inconclusive"),
        ([math.nan, math.nan], ">=", "fails"),
        ([0.5, math.nan], ">=", "fails"),
    ],
)
def test_a_check_goes_by_its_whole_interval(values: list[float], relation: Relation, verdict: str) -> None:
    result = decide([column("x", relation)], x=values)

    assert result.verdict == verdict
    assert result.checks[0].verdict == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1.0, 1.0], "holds"), ([5.0, 5.0, 0.9], "fails"), ([math.nan, 2], "fails"), ([1.5], "holds")],
)
def test_every_seed_means_each_of_them(values: list[float], verdict: str) -> None:
    assert decide([column("x", every_seed=True)], x=values).verdict == verdict


@pytest.mark.parametrize(
    ("check", "control", "verdict"),
    [
        (2.0, 0.0, "holds"),
        (2.0, 2.0, "void"),
        (0.0, 2.0, "void"),  # a check that cannot tell its control from the truth says nothing at all
        (0.0, 0.0, "fails"),
    ],
)
def test_a_control_that_holds_makes_the_claim_void(check: float, control: float, verdict: str) -> None:
    result = decide([column("x")], [column("y")], x=[check] * 3, y=[control] * 3)

    assert result.verdict == verdict
    assert [one.mean for one in (*result.checks, *result.controls)] == [check, control]


def test_a_control_in_doubt_leaves_the_claim_in_doubt() -> None:
    result = decide([column("x")], [column("y")], x=[2.0] * 3, y=[0.5, 1.0, 1.8])

    assert result.verdict == "inconclusive"
    assert result.reason == "the control does not clearly fail: y"


def test_all_checks_must_hold() -> None:
    good, bad, unsure = [2.0] * 3, [0.0] * 3, [0.5, 1.0, 1.8]

    assert decide([column("x"), column("y")], x=good, y=bad).verdict == "fails"
    assert decide([column("x"), column("y")], x=good, y=unsure).verdict == "inconclusive"
    assert decide([column("x"), column("y")], x=bad, y=unsure).verdict == "fails"


def test_what_is_missing_is_not_taken_for_a_result() -> None:
    assert decide([column("x")], x=[2.0] * 3, failed=1).verdict == "inconclusive"
    assert decide([column("x")]).reason == "nothing was measured at this scale"
    assert decide([column("no")], x=[2.0] * 3).reason.startswith("a check cannot be computed: KeyError")


def test_the_interval_is_that_of_the_mean_over_seeds() -> None:
    """Against resampling written out; the two differ by their draws alone."""
    values = RNG.normal(size=12)
    means = sorted(RNG.choice(values, size=12).mean() for _ in range(20_000))
    found = decide([column("x")], x=values.tolist()).checks[0]

    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(means[500], abs=0.05)
    assert found.high == pytest.approx(means[-500], abs=0.05)
    assert list(found.values.values()) == pytest.approx(values.tolist())
    assert found.numbers == f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}] >= 1, 12 seeds"


def test_spearman_agrees_with_scipy_and_knows_the_undefined() -> None:
    x, y = RNG.integers(0, 5, 30), RNG.normal(size=30)

    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([], []))


def test_the_smallest_step_is_positive_only_where_values_increase() -> None:
    assert smallest_step([1, 2, 4]) == 1
    assert smallest_step([1, 3, 2]) == -1
    assert smallest_step([1, 1]) == 0
    assert math.isnan(smallest_step([1]))
