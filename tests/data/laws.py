"""What the tests of the generators share: readers that follow a sequence by hand, and tests of distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

import numpy as np
from scipy.stats import chi2_contingency, chisquare

# Draws are seeded, so a test either always passes or never does: a p-value is no matter of luck from run to run.
ACCEPT = 1e-3
REJECT = 1e-9


def uniform(outcomes: Iterable[Hashable]) -> dict[Hashable, float]:
    """All outcomes equally likely."""
    listed = list(outcomes)
    return dict.fromkeys(listed, 1 / len(listed))


def p_of_law(samples: Iterable[Hashable], law: Mapping[Hashable, float]) -> float:
    """p-value of the hypothesis that the samples have this law; 0 where one is impossible under it."""
    counts = Counter(samples)
    if not set(counts) <= set(law):
        return 0.0
    observed = np.array([counts[outcome] for outcome in law])
    expected = np.array(list(law.values())) * observed.sum()
    assert expected.min() >= 5, "too few samples for the chi-square approximation"
    return float(chisquare(observed, expected, sum_check=False).pvalue)


def p_of_same(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """p-value of the hypothesis that two samples have one law; outcomes seen fewer than 10 times are put together."""
    first, second = Counter(a), Counter(b)
    common = [x for x in first.keys() | second.keys() if first[x] + second[x] >= 10]
    table = np.array([[counts[x] for x in common] for counts in (first, second)])
    rest = np.array([[counts.total()] for counts in (first, second)]) - table.sum(axis=1, keepdims=True)
    if rest.any():
        table = np.hstack([table, rest])
    return float(chi2_contingency(table).pvalue)


def asked(inputs: list[int], targets: list[int]) -> dict[int, int]:
    """position -> target, where there is one."""
    assert len(inputs) == len(targets)
    return {t: target for t, target in enumerate(targets) if target != -100}
