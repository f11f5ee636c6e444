"""The smallest vector that satisfies given margins: `min ||w||` subject to `A w >= b` and `C w = 0`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError

ROUNDS = 50
"""Of the active-set method; it takes about five where it converges."""
TINY = 1e-6
"""A margin below this is none."""


class InfeasibleError(InputError):
    """No vector satisfies the constraints. `certificate` (m,) proves it: `y >= 0`, `A^T y = 0`, `b^T y = 1` (Farkas);
    the constraints where it is positive contradict each other."""

    def __init__(self, message: str, certificate: Tensor) -> None:
        super().__init__(message)
        self.certificate = certificate


@dataclass(frozen=True)
class MaxMargin:
    """The solution `w` (P,), its multipliers `dual` (m,), and the margin `1 / ||w||`, the distance of the nearest
    constraint in units of its b. `w = A^T dual` (projected on `C w = 0`), and `dual` is positive only where
    `A w = b`. float64."""

    w: Tensor
    dual: Tensor

    @property
    def margin(self) -> float:
        return 1 / self.w.norm().item()

    @property
    def support(self) -> Tensor:
        """(m,), boolean: the constraints that w rests on."""
        return self.dual > 0


def max_margin(a: Tensor, b: Tensor | None = None, *, equality: Tensor | None = None) -> MaxMargin:
    """Solve `min ||w||_2` subject to `a w >= b`, `equality w = 0`: the hard-margin problem without an intercept.

    a: (m, P); b: (m,), all ones by default; equality: (q, P). For cost see `dual_of_gram`. Raises `InfeasibleError`,
    with a certificate, where there is no such w, and `InputError` for entries that are not finite and shapes that
    disagree.
    """
    a = a.double()
    b = torch.ones(len(a), dtype=a.dtype, device=a.device) if b is None else b.double()
    if a.ndim != 2 or b.shape != a.shape[:1]:
        raise InputError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected (m, P) and (m,)")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise InputError("a or b has entries that are not finite; expected finite numbers")
    if equality is not None and len(equality):
        if equality.ndim != 2 or equality.shape[1] != a.shape[1]:
            raise InputError(f"equality has shape {tuple(equality.shape)}; expected (q, {a.shape[1]})")
        a = a - a @ row_space(equality)
    dual = dual_of_gram(a @ a.mT, b)
    return MaxMargin(a.mT @ dual, dual)


def row_space(c: Tensor) -> Tensor:
    """The orthogonal projector (P, P) on the span of the rows of c (q, P)."""
    _, sigma, v = torch.linalg.svd(c.double(), full_matrices=False)
    basis = v[sigma > 1e-12 * sigma.max().clamp(min=1e-300)]
    return basis.mT @ basis


def dual_of_gram(gram: Tensor, b: Tensor) -> Tensor:
    """Multipliers (m,) of the hard-margin problem, given `gram = A A^T` (m, m) and b (m,): `min y^T G y / 2 - b^T y`
    over y >= 0. For rows that are outer products, the Gram matrix is a product of two small ones, and A is not needed.

    A primal-dual active-set method (Hintermueller, Ito and Kunisch 2002): solve for the rows that are thought tight,
    drop those with negative multipliers, add those that are violated, until nothing changes. O(m^3) at most, a few
    rounds; not guaranteed to end, so whatever it does not solve goes to non-negative least squares (Lawson and Hanson
    1974, ch. 23), which always ends, and finds the certificate where there is no solution.

    Raises `InfeasibleError`.
    """
    if gram.shape != (len(b), len(b)):
        raise InputError(f"gram has shape {tuple(gram.shape)}; expected ({len(b)}, {len(b)})")
    if not (torch.isfinite(gram).all() and torch.isfinite(b).all()):
        raise InputError("gram or b has entries that are not finite; expected finite numbers")
    gram, b = gram.double(), b.double()
    dual = _active_set(gram, b)
    return _least_distance(gram, b) if dual is None else dual


def _active_set(gram: Tensor, b: Tensor) -> Tensor | None:
    slack = 1e-12 * b.abs().max().clamp(min=1)
    tight = b > 0
    for _ in range(ROUNDS):
        index = tight.nonzero().squeeze(1)
        factor, info = torch.linalg.cholesky_ex(gram[index][:, index])
        if int(info) != 0:  # dependent rows
            return None
        dual = torch.zeros_like(b)
        dual[index] = torch.cholesky_solve(b[index, None], factor).squeeze(1)
        short = b - gram @ dual
        if not bool(torch.isfinite(dual).all()):
            return None
        again = torch.where(tight, dual > 0, short > slack)
        if torch.equal(again, tight):
            return dual if bool(short.max() <= 1e-9 * b.abs().max().clamp(min=1)) else None
        tight = again
    return None


def _least_distance(gram: Tensor, b: Tensor) -> Tensor:
    from scipy.optimize import nnls

    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-13 * values.max().clamp(min=1e-300)
    root = values[kept].sqrt()[:, None] * vectors[:, kept].mT  # root^T root = gram
    system = torch.cat([root, b[None]]).cpu().numpy()
    goal = torch.zeros(len(system), dtype=torch.float64).numpy()
    goal[-1] = 1
    found, _ = nnls(system, goal, maxiter=30 * len(b))
    gap = 1 - float(system[-1] @ found)  # 1 / (1 + ||w||^2)
    y = torch.as_tensor(found, dtype=torch.float64, device=gram.device)
    if gap < TINY**2:
        y = y / (b @ y)
        worst = y.argsort(descending=True)[: int((y > TINY * y.max()).sum())][:5].tolist()
        raise InfeasibleError(f"no vector satisfies all {len(b)} constraints; among others {worst} contradict", y)
    return y / gap
