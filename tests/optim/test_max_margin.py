"""The hard-margin solver against scipy's general one, and its proofs that there is no solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError, dual_of_gram, max_margin


def separable(m: int, size: int, seed: int) -> Tensor:
    """Rows on one side of a plane."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(m, size, dtype=torch.float64, generator=generator)
    side = a @ torch.randn(size, dtype=torch.float64, generator=generator)
    return a * side.sign()[:, None]


def by_scipy(a: Tensor, b: Tensor, equality: Tensor | None = None) -> Tensor:
    """The primal problem by sequential quadratic programming, which shares nothing with the dual methods."""
    rows, ends = a.numpy(), b.numpy()
    constraints = [{"type": "ineq", "fun": lambda w: rows @ w - ends, "jac": lambda _: rows}]
    if equality is not None:
        fixed = equality.numpy()
        constraints.append({"type": "eq", "fun": lambda w: fixed @ w, "jac": lambda _: fixed})
    found = minimize(
        lambda w: w @ w / 2, np.zeros(rows.shape[1]), jac=lambda w: w, constraints=constraints, method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
    )  # fmt: skip
    assert found.success
    return torch.as_tensor(found.x)


@pytest.mark.parametrize(("m", "size"), [(8, 20), (30, 12), (12, 4), (60, 6)])  # more constraints than unknowns, too
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_smallest_vector(m: int, size: int, seed: int) -> None:
    a, b = separable(m, size, seed), torch.ones(m, dtype=torch.float64)
    found = max_margin(a)

    torch.testing.assert_close(found.w, by_scipy(a, b), rtol=1e-6, atol=1e-8)
    assert found.margin == pytest.approx(1 / float(found.w.norm()))
    assert float((a @ found.w).min()) >= 1 - 1e-9
    torch.testing.assert_close((a @ found.w)[found.support], b[found.support])  # multipliers only where it is tight
    torch.testing.assert_close(a.mT @ found.dual, found.w)
    assert float(found.dual.min()) >= 0


def test_equalities_and_other_sides() -> None:
    a = separable(10, 12, 5)
    b = torch.tensor([1.0, 0.0] * 5, dtype=torch.float64)
    equality = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    doubled = torch.cat([equality, equality[:1]])  # a constraint that is there twice does no harm
    found = max_margin(a, b, equality=doubled)

    torch.testing.assert_close(found.w, by_scipy(a, b, equality), rtol=1e-6, atol=1e-8)
    assert float((equality @ found.w).abs().max()) < 1e-12
    assert not torch.allclose(found.w, max_margin(a).w, atol=1e-2)  # the control: they matter


def test_a_gram_matrix_is_enough() -> None:
    a = separable(20, 8, 7)

    torch.testing.assert_close(
        a.mT @ dual_of_gram(a @ a.mT, torch.ones(20, dtype=torch.float64)), max_margin(a).w, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_where_there_is_none_it_is_proved(seed: int) -> None:
    a = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    with pytest.raises(InfeasibleError, match="no vector satisfies all 40 constraints") as error:
        max_margin(a)
    y = error.value.certificate
    assert float(y.min()) >= 0
    assert float((a.mT @ y).norm()) < 1e-9
    assert float(y.sum()) == pytest.approx(1)


def test_mistakes() -> None:
    a = separable(4, 3, 0)
    with pytest.raises(InputError, match="expected \\(m, P\\) and \\(m,\\)"):
        max_margin(a, torch.ones(3))
    with pytest.raises(InputError, match=r"expected \(q, 3\)"):
        max_margin(a, equality=torch.ones(1, 2))
    with pytest.raises(InputError, match="not finite"):
        max_margin(a * torch.nan)
