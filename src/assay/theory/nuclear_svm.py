"""The smallest matrix in nuclear norm that satisfies given margins: `min ||W||_*` subject to `l_j^T W r_j >= b_j`."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import dual_of_gram

NEWTON_STEPS = 500
"""At most; it takes 40 to 150."""
FEW = 200
"""As many constraints are solved at once."""


def nuclear_max_margin(left: Tensor, right: Tensor, b: Tensor, *, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """W (d, e) of least nuclear norm with `left_j^T W right_j >= b_j`, and its multipliers y (m,). float64.

    left: (m, d), right: (m, e), b: (m,), positive. `tolerance` bounds the relative gap between `||W||_*` and `b^T y`,
    with `||sum_j y_j left_j right_j^T||_2 <= 1` and y >= 0: no W that satisfies the constraints has a norm below
    `b^T y`. Singular values that are 0 come out as small as the gap. Raises `InfeasibleError`, with its certificate,
    where there is no W.

    An interior-point method on that dual problem, of m unknowns: with `M = sum_j y_j left_j right_j^T`, it maximises
    `t b^T y + log det(I - M M^T) + sum log y` by Newton's method for growing t. At each optimum
    `W = 2 (I - M M^T)^-1 M / t` has the margins b + 1 / (t y), and the gap falls as 1 / t (Boyd & Vandenberghe 2004,
    ch. 11). As constraints have rank one, the Hessian is made of entrywise products: O(m^3 + m^2 d) a step. Where there
    are many constraints, those on which the solution of the Frobenius norm rests are solved first, and those that are
    then violated are added until there are none; the others have the multiplier 0.
    """
    left, right, b = left.double(), right.double(), b.double()
    if not bool((b > 0).all()):
        raise InputError(f"b has the entry {float(b.min()):g}; expected positive ones")
    dual = dual_of_gram((left @ left.mT) * (right @ right.mT), b)  # raises where there is no solution
    used = dual > 0 if len(b) > FEW else torch.ones_like(b, dtype=torch.bool)
    while True:
        W, y = _interior_point(left[used], right[used], b[used], tolerance)
        violated = ((left @ W) * right).sum(-1) < b
        if not bool((violated & ~used).any()):
            return W, torch.zeros_like(b).masked_scatter(used, y)
        used |= violated


def _interior_point(left: Tensor, right: Tensor, b: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """`nuclear_max_margin` with all constraints at once; there must be a solution."""
    y = torch.full_like(b, 0.5 / float(torch.linalg.matrix_norm(left.mT @ right, ord=2)))
    t = 1 / float(b @ y)
    for _ in range(NEWTON_STEPS):
        W, step, length = _newton(left, right, b, y, t)
        if length >= 0.5:
            y = y + _longest(left, right, b, y, t, step) * step
            continue
        norm = float(torch.linalg.svdvals(W).sum())
        if norm - float(b @ y) <= tolerance * norm:
            return W, y
        t *= 10
    raise InputError(f"tolerance is {tolerance:g}; it cannot be reached in float64 for these constraints")


def _newton(left: Tensor, right: Tensor, b: Tensor, y: Tensor, t: float) -> tuple[Tensor, Tensor, float]:
    """W with the margins `b + (1 - step / y) / (t y)`; the Newton step of y; its length in the norm of the Hessian."""
    u, sigma, vh = torch.linalg.svd(left.mT @ (y[:, None] * right), full_matrices=False)
    rho = 1 / ((1 - sigma) * (1 + sigma))
    plus, lu, rv = rho * sigma.square(), left @ u, right @ vh.mT
    outer = left @ left.mT + (lu * plus) @ lu.mT  # left (I - M M^T)^-1 left^T
    inner = right @ right.mT + (rv * plus) @ rv.mT
    mixed = (lu * (rho * sigma)) @ rv.mT
    gradient = t * b - 2 * mixed.diagonal() + 1 / y
    scaled = 2 * y[:, None] * (outer * inner + mixed * mixed.mT) * y
    scaled.diagonal().add_(1)
    factor, info = torch.linalg.cholesky_ex(scaled)
    if int(info) != 0:
        raise InputError("tolerance cannot be reached in float64 for these constraints; expected a larger one")
    step = y * torch.cholesky_solve((y * gradient)[:, None], factor).squeeze(1)
    N = (u * (rho * sigma)) @ vh
    H = left.mT @ (step[:, None] * right)
    H_outer = H + (u * plus) @ (u.mT @ H)
    W = N + H_outer + (H_outer @ vh.mT * plus) @ vh + N @ H.mT @ N
    return 2 / t * W, step, float(gradient @ step) ** 0.5


def _longest(left: Tensor, right: Tensor, b: Tensor, y: Tensor, t: float, step: Tensor) -> float:
    """How much of the Newton step to take: 1, 0.6, 0.36, ... until it is worse to take less."""

    def value(length: float) -> float:
        moved = y + length * step
        sigma = torch.linalg.svdvals(left.mT @ (moved[:, None] * right))
        if float(moved.min()) <= 0 or float(sigma.max()) >= 1:
            return -torch.inf
        return t * length * float(b @ step) + float(torch.log1p(-sigma.square()).sum() + moved.log().sum())

    length, best = 1.0, value(1.0)
    while length > 1e-4 and ((less := value(0.6 * length)) > best or best == -torch.inf):
        length, best = 0.6 * length, less
    return length
