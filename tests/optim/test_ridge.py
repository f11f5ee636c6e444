"""Ridge regression, against the normal equations and against leaving out one row after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.ridge import ridge_regression

WIDE, TALL = (12, 30), (40, 15)


def problem(n: int, p: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(n, p, generator=generator, dtype=torch.float64)
    weights = torch.randn(p, generator=generator, dtype=torch.float64)
    return features, features @ weights + noise * torch.randn(n, generator=generator, dtype=torch.float64)


def direct(features: Tensor, targets: Tensor, penalty: float) -> Tensor:
    gram = features.mT @ features + penalty * torch.eye(features.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, features.mT @ targets)


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("ridge", [1e-4, 0.1, 10.0])
def test_it_solves_the_normal_equations(shape: tuple[int, int], ridge: float) -> None:
    features, targets = problem(*shape)
    penalty = ridge * features.square().sum().item() / shape[0]

    found = ridge_regression(features, targets, [ridge])

    assert found.ridge == ridge
    torch.testing.assert_close(found.weights, direct(features, targets, penalty), rtol=1e-8, atol=1e-10)
    assert not torch.allclose(found.weights, direct(features, targets, 2 * penalty), rtol=1e-6)


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("noise", [0.01, 3.0, 100.0])
def test_it_chooses_what_leaves_the_least_error_on_a_row_left_out(shape: tuple[int, int], noise: float) -> None:
    features, targets = problem(*shape, noise=noise)
    ridges = [1e-4, 1e-2, 0.1, 1.0, 10.0]
    unit = features.square().sum().item() / shape[0]

    def left_out(ridge: float) -> float:
        total = 0.0
        for i in range(shape[0]):
            rest = torch.arange(shape[0]) != i
            weights = direct(features[rest], targets[rest], ridge * unit)
            total += (targets[i] - features[i] @ weights).square().item()
        return total

    assert ridge_regression(features, targets, ridges).ridge == min(ridges, key=left_out)


def test_more_noise_asks_for_more_ridge() -> None:
    chosen = [ridge_regression(*problem(*TALL, noise=noise)).ridge for noise in (0.01, 100.0)]

    assert chosen[0] < chosen[1]


def test_features_that_are_all_zero_give_no_weights() -> None:
    found = ridge_regression(torch.zeros(3, 2), torch.ones(3))

    assert found.weights.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("features", "targets", "ridge", "words"),
    [
        (torch.ones(3, 2), torch.ones(4), [1.0], r"features has shape \(3, 2\) and targets \(4,\)"),
        (torch.ones(0, 2), torch.ones(0), [1.0], "expected"),
        (torch.ones(3, 2), torch.ones(3), [], "ridge is"),
        (torch.ones(3, 2), torch.ones(3), [0.0], "above 0"),
        (torch.full((3, 2), torch.nan), torch.ones(3), [1.0], "not finite"),
    ],
)
def test_mistakes(features: Tensor, targets: Tensor, ridge: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ridge_regression(features, targets, ridge)
