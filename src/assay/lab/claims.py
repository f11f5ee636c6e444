"""Claims, the inequalities that decide them, and the verdict, from rows alone."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["holds", "fails", "inconclusive", "void"]
Relation = Literal[">", ">=", "<", "<="]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Check:
    """An inequality, `measure(rows of one seed) relation threshold`.

    `words` say what is measured. It holds where the whole bootstrap interval of the mean over seeds is on the right
    side, fails where it is all on the wrong side, and is inconclusive otherwise. `every_seed`: it holds where each
    seed's value is on the right side, and fails otherwise: for theorems, and for criteria of the form "in 5 of 5".
    A value that is undefined (NaN, as a correlation with a constant) is on the wrong side.
    """

    words: str
    measure: Callable[[pd.DataFrame], float]
    relation: Relation
    threshold: float
    every_seed: bool = False


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and what decides it on the rows of one experiment.

    It holds where all of `checks` hold. `controls` are the same criteria where they must fail: on data built so, or
    with another quantity in the place of the claimed one. Where a control holds, the claim's verdict is void.
    """

    slug: str
    text: str
    source: str
    experiment: Callable[..., Any]
    checks: Sequence[Check]
    controls: Sequence[Check]


@dataclass(frozen=True)
class CheckResult:
    """What a check came to. `low`, `high`: the 95 % interval of the mean; None with fewer than two seeds, or where a
    value is undefined. `values`: one for each seed, None where undefined."""

    words: str
    relation: Relation
    threshold: float
    every_seed: bool
    verdict: Verdict
    mean: float | None
    low: float | None
    high: float | None
    values: dict[int, float | None]

    @property
    def numbers(self) -> str:
        """Such as `0.957 [0.954, 0.961] >= 0.9, 5 seeds`."""
        value = "undefined" if self.mean is None else f"{self.mean:.4g}"
        if self.low is not None:
            value += f" [{self.low:.4g}, {self.high:.4g}]"
        every = ", each" if self.every_seed else ""
        return f"{value} {self.relation} {self.threshold:.4g}, {len(self.values)} seeds{every}"


@dataclass(frozen=True)
class ClaimResult:
    """The verdict on a claim, why, and the numbers."""

    claim: str
    text: str
    source: str
    verdict: Verdict
    reason: str
    checks: tuple[CheckResult, ...]
    controls: tuple[CheckResult, ...]


def judge(claim: Claim, rows: pd.DataFrame, *, failed: int = 0) -> ClaimResult:
    """The verdict on a claim, from the rows of its experiment (with a column `seed`).

    `failed`: units of the experiment that gave no rows; with any, the claim is inconclusive, since what is missing is
    perhaps not missing by chance. A claim of which nothing was measured is inconclusive, too.
    """
    if rows.empty:
        return _result(
            claim, "inconclusive", "nothing was measured at this scale" if not failed else "all units failed"
        )
    try:
        checks = tuple(_evaluate(check, rows) for check in claim.checks)
        controls = tuple(_evaluate(check, rows) for check in claim.controls)
    except Exception as error:  # with settings of the user's own, rows may be missing that a check reads
        return _result(claim, "inconclusive", f"a check cannot be computed: {type(error).__name__}: {error}")
    verdict, reason = _decide(checks, controls, failed)
    return _result(claim, verdict, reason, checks, controls)


def _decide(checks: Sequence[CheckResult], controls: Sequence[CheckResult], failed: int) -> tuple[Verdict, str]:
    if failed:
        return "inconclusive", f"{failed} units failed"
    if passed := [one.words for one in controls if one.verdict == "holds"]:
        return "void", f"the control holds: {passed[0]}"
    if wrong := [one.words for one in checks if one.verdict == "fails"]:
        return "fails", wrong[0]
    if unsure := [one.words for one in checks if one.verdict == "inconclusive"]:
        return "inconclusive", f"the interval covers the threshold: {unsure[0]}"
    if unsure := [one.words for one in controls if one.verdict == "inconclusive"]:
        return "inconclusive", f"the control does not clearly fail: {unsure[0]}"
    return "holds", "all checks hold, and no control does"


def _result(
    claim: Claim,
    verdict: Verdict,
    reason: str,
    checks: tuple[CheckResult, ...] = (),
    controls: tuple[CheckResult, ...] = (),
) -> ClaimResult:
    return ClaimResult(claim.slug, claim.text, claim.source, verdict, reason, checks, controls)


def _evaluate(check: Check, rows: pd.DataFrame) -> CheckResult:
    from assay.measures.interval import bootstrap_mean

    values = {seed: float(check.measure(rows[rows.seed == seed])) for seed in sorted({int(seed) for seed in rows.seed})}
    defined = all(math.isfinite(value) for value in values.values())
    interval = bootstrap_mean(list(values.values())) if defined else None
    mean, low, high = (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)
    return CheckResult(
        words=check.words,
        relation=check.relation,
        threshold=check.threshold,
        every_seed=check.every_seed,
        verdict=_verdict(check, values, low, high),
        mean=mean,
        low=_known(low),
        high=_known(high),
        values={seed: _known(value) for seed, value in values.items()},
    )


def _verdict(check: Check, values: Mapping[int, float], low: float | None, high: float | None) -> Verdict:
    right = _COMPARE[check.relation]
    sides = [right(value, check.threshold) for value in values.values()]  # NaN is on the wrong side
    if check.every_seed:
        return "holds" if all(sides) else "fails"
    if low is None or high is None:  # some value is undefined
        return "inconclusive" if any(sides) else "fails"
    ends = [right(low, check.threshold), right(high, check.threshold)]
    if math.isnan(low) or ends[0] != ends[1]:
        return "inconclusive"
    return "holds" if all(ends) else "fails"


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
