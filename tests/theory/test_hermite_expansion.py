"""Hermite coefficients against numpy's series, known expansions and scipy's quadrature; the information exponent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from scipy.integrate import quad
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context_tasks import SingleIndexTasks
from assay.theory.hermite import check_information_exponent, hermite_coefficients, information_exponent


def test_a_polynomial_has_the_coefficients_of_numpy() -> None:
    powers = [0.3, -1.0, 2.0, 0.5, -0.7]
    found = hermite_coefficients(lambda z: sum(c * z**k for k, c in enumerate(powers)), 6)  # type: ignore[arg-type,return-value]

    series = [*hermite_e.poly2herme(powers), 0, 0]
    expected = [c * math.sqrt(math.factorial(k)) for k, c in enumerate(series)]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_an_exponential_has_those_of_its_generating_function() -> None:
    found = hermite_coefficients(lambda z: (0.5 * z).exp(), 8)

    np.testing.assert_allclose(
        found, [math.exp(1 / 8) * 0.5**k / math.sqrt(math.factorial(k)) for k in range(9)], atol=1e-12
    )


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_a_kink_costs_a_thousandth(k: int) -> None:
    basis = hermite_e.HermiteE.basis(k)
    exact = quad(lambda z: z * float(basis(z)) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0, 12)[0]

    found = hermite_coefficients(torch.relu, 4)[k].item()
    assert found == pytest.approx(exact / math.sqrt(math.factorial(k)), abs=2e-3)


@pytest.mark.parametrize(
    ("link", "exponent"),
    [
        (torch.relu, 1),
        (lambda z: z**2, 2),
        (torch.abs, 2),
        (lambda z: z**3, 1),
        (lambda z: z**3 - 3 * z, 3),
        (torch.cos, 2),
        (lambda z: z**4 - 6 * z**2, 4),
    ],
)
def test_information_exponents(link: object, exponent: int) -> None:
    assert information_exponent(link) == exponent  # type: ignore[arg-type]


@pytest.mark.parametrize("coefficients", [(0.0, 0.0, 1.0), (0.5, 0.0, 0.0, 1.0, 0.2)])
def test_links_of_single_index_tasks_have_the_coefficients_that_were_given(coefficients: tuple[float, ...]) -> None:
    tasks = SingleIndexTasks(1, 1, coefficients)

    def link(z: Tensor) -> Tensor:
        return tasks.values(z.new_ones(1, 1), z[None, :, None])[0][0]

    np.testing.assert_allclose(hermite_coefficients(link, len(coefficients) - 1), coefficients, atol=1e-12)


def test_a_link_without_the_required_exponent_is_a_mistake() -> None:
    check_information_exponent(torch.cos, 2)
    with pytest.raises(InputError, match="link has information exponent 1; expected at least 2"):
        check_information_exponent(torch.relu, 2)
    with pytest.raises(InputError, match="link has no Hermite coefficient of degree 1 to 10"):
        information_exponent(torch.ones_like)
    with pytest.raises(InputError, match="no Hermite coefficient of degree 1 to 3"):
        information_exponent(lambda z: z**4 - 6 * z**2, max_degree=3)
    with pytest.raises(InputError, match=r"link gives \(\)"):
        information_exponent(torch.sum)
    with pytest.raises(InputError, match="max_degree is 60; expected at most 50"):
        hermite_coefficients(torch.cos, 60)
