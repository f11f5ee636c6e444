"""The iteration against what it does to singular values, one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.newton_schulz import CLASSICAL, MUON, newton_schulz


def on_singular_values(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """U p(..p(S / ||S||)) V^T by a decomposition."""
    a, b, c = coefficients
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    S = S / (S.norm(dim=-1, keepdim=True) + 1e-7)
    for _ in range(steps):
        S = a * S + b * S**3 + c * S**5
    return (U * S[..., None, :]) @ Vh


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 6), (4, 2, 5, 7)])
@pytest.mark.parametrize("coefficients", [MUON, CLASSICAL])
def test_singular_values_go_through_the_polynomial(
    shape: tuple[int, ...], coefficients: tuple[float, float, float]
) -> None:
    torch.manual_seed(0)
    G = torch.randn(shape, dtype=torch.float64)
    for steps in (0, 1, 5):
        expected = on_singular_values(G, coefficients, steps)
        torch.testing.assert_close(newton_schulz(G, steps=steps, coefficients=coefficients), expected)


def test_another_coefficient_is_seen() -> None:
    """The control of the comparison above."""
    G = torch.randn(4, 4, dtype=torch.float64)
    off = newton_schulz(G) - on_singular_values(G, (3.4445, -4.7750, 2.0), 5)
    assert float(off.norm()) > 1e-2


def test_a_converging_iteration_finds_the_polar_factor() -> None:
    torch.manual_seed(0)
    G = torch.randn(3, 6, 4, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(newton_schulz(G, steps=40, coefficients=CLASSICAL), U @ Vh)


def test_it_is_the_iteration_of_torch() -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    torch.manual_seed(0)
    G = torch.randn(24, 40)
    theirs = _zeropower_via_newtonschulz(G, MUON, 5, 1e-7).float()

    def off(ours: Tensor) -> float:
        return float((ours.float() - theirs).norm() / theirs.norm())

    assert off(newton_schulz(G)) < 0.03  # theirs rounds to bfloat16, of which each step is accurate to 0.004
    assert off(newton_schulz(G.bfloat16())) < 0.06
    assert off(newton_schulz(G, coefficients=(3.4445, -4.7750, 2.1))) > 0.1
    assert off(newton_schulz(G, steps=4)) > 0.1


def test_zeros_stay_zeros_and_gradients_pass() -> None:
    assert newton_schulz(torch.zeros(2, 3, 3)).abs().max() == 0
    G = torch.randn(3, 4, requires_grad=True)
    newton_schulz(G).sum().backward()
    assert G.grad is not None
    assert torch.isfinite(G.grad).all()


@pytest.mark.parametrize("matrix", [torch.ones(3), torch.ones(3, 3, dtype=torch.int64)])
def test_what_is_no_matrix(matrix: Tensor) -> None:
    with pytest.raises(InputError, match="expected"):
        newton_schulz(matrix)
