"""The bound on the excess risk of in-context learning as multitask learning, as remembered."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import minimize_scalar

from assay._errors import InputError
from assay.data._checks import check_counts, check_number


def mtl_bound(
    log_covering: Callable[[float], float],
    *,
    loss_bound: float,
    stability: float,
    lipschitz: float,
    n: int,
    M: int,
    T: int,
    delta: float,
) -> float:
    """`min over eps of 4 L eps + 2 (B + K ln n) sqrt((log_covering(eps) + ln(1 / delta)) / (n M T))`.

    Excess risk, with probability 1 - 2 delta, of the algorithm that fits T tasks best, M prompts of n examples each:
    a prompt counts as n examples, up to ln n. **From memory**: form and rate are those of Li et al. 2023 (arXiv
    2301.07067); an unknown constant before n M T is taken as 1, so use it for how it scales, not for its value.

    Args:
        log_covering: eps -> log of the covering number of the algorithms at radius eps, falling in eps.
        loss_bound: B, the largest loss.
        stability: K of the curve K / i (see `assay.icl.stability`).
        lipschitz: L, of the loss.
        delta: in (0, 1).

    eps is searched between 1e-12 and 1e3. Raises `InputError` for sizes below 1, negative constants and delta.
    """
    check_counts(n=n, M=M, T=T)
    for name, value in (("loss_bound", loss_bound), ("stability", stability), ("lipschitz", lipschitz)):
        check_number(name, value)
        if value < 0:
            raise InputError(f"{name} is {value}; expected at least 0")
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}; expected between 0 and 1")

    def at(log_eps: float) -> float:
        eps = math.exp(log_eps)
        inside = (log_covering(eps) + math.log(1 / delta)) / (n * M * T)
        return 4 * lipschitz * eps + 2 * (loss_bound + stability * math.log(n)) * math.sqrt(inside)

    return float(minimize_scalar(at, bounds=(math.log(1e-12), math.log(1e3)), method="bounded").fun)
