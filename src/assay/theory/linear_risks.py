"""Closed-form risks of one layer that learns linear functions in context, as one step of preconditioned descent.

A prompt shows n examples `y_i = <x_i, beta> + noise` and asks for the y of another x. One layer of linear attention
computes `x^T W X^T y`, one layer of H3 `x^T W X^T (w * y)` with a weight w_i for each place in the prompt; X is (n, d).
Risk is the mean squared error against the query's own y, noise included, in units of y^2; its floor is noise^2.

Source: Li, Rawat & Oymak 2024 (arXiv 2407.10005) for the settings and the approximation by n_effective; the exact
expressions are derived from Gaussian moments. Gaussian inputs are assumed throughout: "n + 1" is their fourth moment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_number

SINGULAR = 1e-12
"""Eigenvalues below this part of the largest count as 0."""


class LinearRisk(NamedTuple):
    """The best weights of a class, float64, and the risk that they have."""

    weights: Tensor
    risk: float


class DriftRisks(NamedTuple):
    """weights w (n,), float64: the best of H3 beside W = I; its risk; and the risk of the best equal weights."""

    weights: Tensor
    weighted: float
    equal: float


def icl_linear_risk(Sx: Tensor, Sb: Tensor, n: int, noise: float) -> LinearRisk:
    """The best W (d, d) of `x^T W X^T y` for independent x ~ N(0, Sx) and beta ~ N(0, Sb), and its risk.

    With lam the eigenvalues of `A = Sx^1/2 Sb Sx^1/2` and `M = tr A + noise^2`:
    `W = Sx^-1/2 ((n + 1) I + M A^-1)^-1 Sx^-1/2`, `risk = M - sum_i n lam_i^2 / ((n + 1) lam_i + M)`.
    Only the eigenvalues are inverted, so Sx and Sb may be singular. The same W is the best of all weights w_i.

    >>> weights, risk = icl_linear_risk(torch.eye(4), torch.eye(4), n=10, noise=1.0)
    >>> round(risk, 3), round(1 / weights[0, 0].item(), 3)  # d + 1 - n d / (n + d + 2), n + d + 2
    (2.5, 16.0)

    Sx, Sb: (d, d), symmetric and positive semidefinite; noise: standard deviation. Raises `InputError` otherwise.
    O(d^3). Source: the module's; independent data.
    """
    root = _root(Sx, "Sx")
    lam, vectors = _spectrum(root @ _covariance(Sb, "Sb", len(root)) @ root)
    M = _total(lam, n, noise)
    gains = _gains(lam, n, M)
    inverse = torch.linalg.pinv(root, hermitian=True, rtol=SINGULAR**0.5)
    W = inverse @ (vectors * gains) @ vectors.mT @ inverse
    return LinearRisk(W, float(M - n * (lam * gains).sum()))


def icl_pgd_risk(W: Tensor, Sx: Tensor, Sb: Tensor, n: int, noise: float) -> Tensor:
    """The risk of any W (d, d), in the setting of `icl_linear_risk`: shape (), float64, differentiable in W.

    With `V = Sx^1/2 W Sx^1/2`: `M - 2 n tr(V A) + n tr(V ((n + 1) A + M I) V^T)`. Sb may be the second moment of any
    finite set of tasks: the risk depends on beta by that alone. O(d^3).
    Raises `InputError` where W, Sx and Sb are not (d, d) all three, Sx or Sb is not finite, symmetric and positive
    semidefinite, n is no whole number of at least 1, or noise is negative or not finite.
    """
    root = _root(Sx, "Sx")
    A = root @ _covariance(Sb, "Sb", len(root)) @ root
    if W.shape != A.shape:
        raise InputError(f"W has shape {tuple(W.shape)}; expected {tuple(A.shape)}, as Sx")
    V = root @ W.to(A) @ root
    M = _total(A.diagonal(), n, noise)
    return M - 2 * n * (V * A).sum() + n * ((n + 1) * (V @ A * V).sum() + M * V.square().sum())


def icl_rag_risk(d: int, n: int, alpha: float, noise: float, *, exact: bool = True) -> LinearRisk:
    """Retrieval: x ~ N(0, I), beta ~ N(0, I), and examples near the query, `x_i | x ~ N(alpha x, (1 - alpha^2) I)`.

    The best W is a multiple c of I; `weights` is c, shape (). With `q = alpha^2 (d + 1) + 1`: `c = q / D`,
    `risk = d + noise^2 - n d q^2 / D`, D the mean square of the step. `exact=False`: the paper's approximation, where
    retrieval is worth more examples, n_effective = (alpha^2 d + 1) n: good for d in the hundreds and n_effective no
    larger than d, and far too low otherwise. Raises `InputError` unless 0 <= alpha <= 1.
    """
    _check_setting(d, n, noise)
    _check_alpha(alpha, 1.0)
    if not exact:
        return _more_examples(d, (alpha**2 * d + 1) * n, noise, 1.0)
    a, s = alpha**2, noise**2
    q = a * (d + 1) + 1
    own = (d + 2) * (a * (d + 3) + 1)  # of an example with itself, then of two of them
    pairs = a**2 * (d**2 + 4 * d + 5) + 2 * a * (d + 1) + 1
    D = own + (n - 1) * pairs + s * q
    return LinearRisk(_scalar(q / D), d + s - n * d * q**2 / D)


def icl_alignment_risk(d: int, n: int, alpha: float, noise: float, *, exact: bool = True) -> LinearRisk:
    """Inputs that know the task: beta ~ N(0, I), all x ~ N(alpha beta, I), `y = g <x, beta> + noise`,
    `g^2 = 1 / (alpha^2 d + 1)`.

    `weights` is c, shape (), of W = c I, the best W. Exact by moments of chi-square. `exact=False`: the limit of large
    d at fixed alpha^2 d and n / d, which has the form of `icl_rag_risk` with n_effective = (alpha^2 d + 1)^2 n: derived
    here, and the square of the factor that is reported of the paper (from memory). Raises `InputError` for alpha < 0.
    """
    _check_setting(d, n, noise)
    _check_alpha(alpha, float("inf"))
    if not exact:
        return _more_examples(d, (alpha**2 * d + 1) ** 2 * n, noise, alpha**2 * d + 1)
    a, s = alpha**2, noise**2
    g2 = 1 / (a * d + 1)
    E1 = d  # E ||beta||^2, then of its 4th, 6th, 8th power
    E2 = E1 * (d + 2)
    E3 = E2 * (d + 4)
    E4 = E3 * (d + 6)
    N = n * g2 * (E1 + 2 * a * E2 + a**2 * E3)
    D = n * (n - 1) * g2 * (E1 + 3 * a * E2 + 3 * a**2 * E3 + a**3 * E4)
    D += n * g2 * ((d + 2) * E1 + a * (d + 2 + 6) * E2 + 7 * a**2 * E3 + a**3 * E4)
    D += n * s * (d + 2 * a * E1 + a**2 * E2)
    return LinearRisk(_scalar(N / D), g2 * (a * E2 + E1) + s - N**2 / D)


def icl_weighted_risk(R: Tensor, r: Tensor, d: int, noise: float) -> DriftRisks:
    """Tasks that drift over the prompt, x ~ N(0, I): what weights for the examples are worth.

    `E[beta_i beta_j^T] = R_ij I`, `E[beta_i beta^T] = r_i I`, beta the query's, all of variance 1. With
    `K = R + (d + 1 + noise^2) I`: `w = K^-1 r`, risk `d + noise^2 - d r^T K^-1 r`; with equal weights
    `d + noise^2 - d (1^T r)^2 / (1^T K 1)`.

    R: (n, n), with ones on its diagonal; r: (n,). Raises `InputError` unless they are correlations. O(n^3).
    """
    R, r = R.double(), r.double()
    if R.ndim != 2 or R.shape[0] != R.shape[1] or r.shape != R.shape[:1]:
        raise InputError(f"R has shape {tuple(R.shape)} and r {tuple(r.shape)}; expected (n, n) and (n,)")
    _check_setting(d, len(r), noise)
    joint = torch.cat([torch.cat([R, r[:, None]], dim=1), torch.cat([r, r.new_ones(1)])[None]])
    _covariance(joint, "the matrix of R and r", len(joint))
    if not torch.allclose(R.diagonal(), torch.ones_like(r)):
        raise InputError("R has diagonal entries other than 1; expected the correlations of tasks of variance 1")
    K = R + (d + 1 + noise**2) * torch.eye(len(r)).to(R)
    w = torch.linalg.solve(K, r)
    whole = d + noise**2
    return DriftRisks(w, float(whole - d * (r @ w)), float(whole - d * r.sum() ** 2 / K.sum()))


def icl_lowrank_risk(spectrum: Tensor, n: int, noise: float, rank: int) -> float:
    """The least risk of a W of rank at most `rank`: `M - sum over the largest n lam_i^2 / ((n + 1) lam_i + M)`.

    spectrum: the eigenvalues lam (d,) of A, in any order (see `icl_linear_risk`). O(d log d).
    """
    return icl_lora_risk(torch.zeros_like(spectrum), spectrum, n, noise, rank)


def icl_lora_risk(spec_old: Tensor, spec_new: Tensor, n: int, noise: float, rank: int) -> float:
    """W is the best for an old law of tasks, then frozen but for an update of rank at most `rank`: the least risk on a
    new law.

    Where both A have the same eigenvectors, with eigenvalues spec_old and spec_new (d,) in the same order, and
    `v_i = lam_i / ((n + 1) lam_i + M)` for each: the best risk on the new law, plus n times the sum of all but the
    `rank` largest of `(v_i^new - v_i^old)^2 ((n + 1) lam_i^new + M_new)`. rank 0: no adaptation; d: the best risk.

    Raises `InputError` for shapes that differ, negative eigenvalues and a rank that is not in 0..d. O(d log d).
    """
    old, new = spec_old.double(), spec_new.double()
    if old.ndim != 1 or old.shape != new.shape:
        raise InputError(f"spec_old has shape {tuple(old.shape)} and spec_new {tuple(new.shape)}; expected (d,) both")
    for name, lam in (("spec_old", old), ("spec_new", new)):
        if not (lam.isfinite().all() and (lam >= 0).all()):
            raise InputError(f"{name} is {lam.tolist()}; expected finite eigenvalues of at least 0")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= len(new):
        raise InputError(f"rank is {rank!r}; expected a whole number from 0 to {len(new)}")
    M = _total(new, n, noise)
    kept, best = _gains(old, n, _total(old, n, noise)), _gains(new, n, M)
    costs = n * (best - kept).square() * ((n + 1) * new + M)
    return float(M - n * (new * best).sum() + costs.sort(descending=True).values[rank:].sum())


def _gains(lam: Tensor, n: int, M: float) -> Tensor:
    """`lam / ((n + 1) lam + M)`, 0 where lam is."""
    return torch.where(lam > 0, lam / ((n + 1) * lam + M).clamp(min=torch.finfo(lam.dtype).tiny), 0)


def _total(variances: Tensor, n: int, noise: float) -> float:
    """M: what predicting 0 costs."""
    _check_setting(len(variances), n, noise)
    return float(variances.sum()) + noise**2


def _spectrum(A: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(A)
    return torch.where(values > SINGULAR * values.max(), values, 0), vectors


def _root(S: Tensor, name: str) -> Tensor:
    values, vectors = _spectrum(_covariance(S, name, len(S)))
    return vectors * values.sqrt() @ vectors.mT


def _covariance(S: Tensor, name: str, d: int) -> Tensor:
    """S in float64, if it is one."""
    if S.shape != (d, d):
        raise InputError(f"{name} has shape {tuple(S.shape)}; expected ({d}, {d})")
    S = S.double()
    if not S.isfinite().all() or not torch.allclose(S, S.mT, atol=1e-8 * float(S.abs().max())):
        raise InputError(f"{name} is not finite and symmetric; expected a covariance")
    values = torch.linalg.eigvalsh(S)
    if values[0] < -1e-6 * values[-1].abs():
        raise InputError(f"{name} has the eigenvalue {float(values[0]):.3g}; expected none below 0")
    return S


def _more_examples(d: int, n_effective: float, noise: float, step: float) -> LinearRisk:
    """The risk of so many independent examples where d is large, and c as a multiple of theirs."""
    D = n_effective + d + noise**2
    return LinearRisk(_scalar(step / D), d + noise**2 - n_effective * d / D)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _check_setting(d: int, n: int, noise: float) -> None:
    check_counts(d=d, n=n)
    check_number("noise", noise)
    if noise < 0:
        raise InputError(f"noise is {noise}; expected a standard deviation of at least 0")


def _check_alpha(alpha: float, largest: float) -> None:
    check_number("alpha", alpha)
    if not 0 <= alpha <= largest:
        raise InputError(f"alpha is {alpha}; expected at least 0{' and at most 1' if largest == 1 else ''}")
