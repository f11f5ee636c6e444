"""Hermite expansions of functions of one Gaussian variable, and the information exponent."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts

NODES = 100
"""Of the quadrature, exact for polynomials of degree below 200."""
ZERO = 1e-8
"""A coefficient below this part of the norm of the link is none."""


def hermite_coefficients(link: Callable[[Tensor], Tensor], max_degree: int = 10) -> Tensor:
    """`c_k = E[link(z) He_k(z)] / sqrt(k!)`, z ~ N(0, 1), for k = 0..max_degree: (max_degree + 1,), float64.

    He_k are the probabilists' Hermite polynomials; divided by sqrt(k!) they are orthonormal, so
    `link(z) = sum_k c_k He_k(z) / sqrt(k!)` and `E[link^2] = sum_k c_k^2`. The link gets a float64 tensor (n,).

    By Gauss-Hermite quadrature of 100 nodes: exact to rounding for polynomials of degree 199 - k and less, about 1e-3
    for a link with a kink, 1e-1 for one with a jump, but for parity, which is kept: an even link has no odd ones.
    Raises `InputError` where max_degree is no whole number from 0 to 50, and where the link gives another shape than
    (n,), or numbers that are not finite.
    """
    check_counts(0, max_degree=max_degree)
    if max_degree > NODES // 2:
        raise InputError(f"max_degree is {max_degree}; expected at most {NODES // 2}")
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(NODES))
    values = link(nodes).double()
    if values.shape != nodes.shape or not values.isfinite().all():
        raise InputError(f"link gives {tuple(values.shape)} for (n,) numbers, or is not finite; expected finite (n,)")
    measure = values * weights / math.sqrt(2 * math.pi)
    coefficients, before, current = [], torch.zeros_like(nodes), torch.ones_like(nodes)
    for k in range(max_degree + 1):  # of the orthonormal polynomials, which stay small
        coefficients.append((measure * current).sum())
        before, current = current, (nodes * current - math.sqrt(k) * before) / math.sqrt(k + 1)
    return torch.stack(coefficients)


def information_exponent(link: Callable[[Tensor], Tensor], max_degree: int = 10) -> int:
    """The smallest k >= 1 with `c_k` not 0: how flat a single-index function looks to one step of gradient descent.

    1 for a line or relu, 2 for z^2 or |z|, 3 for z^3 - 3 z. Raises `InputError` where there is none up to max_degree,
    as for a constant. Source: Ben Arous, Gheissari & Jagannath 2021 (arXiv 2003.10409), definition 1.2.
    """
    coefficients = hermite_coefficients(link, max_degree)
    found = coefficients[1:].abs() > ZERO * coefficients.norm()
    if not found.any():
        raise InputError(f"link has no Hermite coefficient of degree 1 to {max_degree}; expected one that is not 0")
    return int(found.int().argmax()) + 1


def check_information_exponent(link: Callable[[Tensor], Tensor], least: int, max_degree: int = 10) -> None:
    """Raise `InputError` for a link whose information exponent is below `least`: with 1 a single step of regression
    finds the direction, and nothing needs to be learned before."""
    exponent = information_exponent(link, max_degree)
    if exponent < least:
        raise InputError(f"link has information exponent {exponent}; expected at least {least}")
