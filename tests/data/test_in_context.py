"""The laws of prompts, against the moments that they are defined by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import (
    AlignedInputs,
    GaussianInputs,
    InContext,
    RetrievedInputs,
    ill_conditioned,
    interleave,
    stack_prompt,
)
from assay.data.in_context_tasks import LinearTasks, MLPTasks, SingleIndexTasks, linear_dynamics

MANY = 40_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(a: Tensor, b: Tensor) -> Tensor:
    return a.mT @ b / len(a)


def test_values_are_what_the_task_makes_of_the_inputs() -> None:
    prompts = InContext(LinearTasks(3), GaussianInputs(), noise=0.5, dtype=torch.float64).sample(
        2000, 6, generator=seeded()
    )

    truth = torch.einsum("bnd,bd->bn", prompts.xs, prompts.tasks)
    torch.testing.assert_close(prompts.clean, truth)
    noise = prompts.ys - prompts.clean
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean().item()) < 0.02
    assert prompts.xs.dtype == torch.float64
    assert prompts.hidden == ()


def test_linear_tasks() -> None:
    draw = {"num_points": 5, "generator": seeded(), "dtype": torch.float64}
    power = LinearTasks(4, scale="power").draw(MANY, **draw)
    torch.testing.assert_close(power.std(0), 1 / torch.arange(1, 5).double(), rtol=0.02, atol=0)
    given = LinearTasks(2, scale=torch.tensor([3.0, 0.0])).draw(MANY, **draw)
    assert given.std(0).tolist() == pytest.approx([3, 0], rel=0.02)
    pool = LinearTasks(4, num_tasks=3, pool_seed=7).draw(1000, **draw)
    assert len(pool.unique(dim=0)) == 3
    again = LinearTasks(4, num_tasks=3, pool_seed=7).draw(1000, num_points=5, generator=seeded(9), dtype=torch.float64)
    assert torch.equal(pool.unique(dim=0), again.unique(dim=0))  # the same tasks for other prompts
    drift = LinearTasks(2, rho=0.8).draw(MANY, **draw)
    law = 0.8 ** (torch.arange(5)[:, None] - torch.arange(5)).abs().double()
    torch.testing.assert_close(covariance(drift[..., 0], drift[..., 0]), law, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance(drift[..., 0], drift[..., 1]), 0 * law, rtol=0, atol=0.03)
    xs = torch.randn(MANY, 5, 2, dtype=torch.float64)
    values, _ = LinearTasks(2, rho=0.8, gain=2.0).values(drift, xs)
    torch.testing.assert_close(values[:, 3], 2 * (xs[:, 3] * drift[:, 3]).sum(-1))


def test_inputs() -> None:
    def sample(inputs: object) -> tuple[Tensor, Tensor]:
        prompts = InContext(LinearTasks(3), inputs, dtype=torch.float64).sample(MANY, 4, generator=seeded())  # type: ignore[arg-type]
        return prompts.xs, prompts.tasks

    eye = torch.eye(3, dtype=torch.float64)
    root = torch.tensor([[1.0, 0, 0], [2, 1, 0], [0, 0, 3]]).double()
    xs, _ = sample(GaussianInputs(root))
    torch.testing.assert_close(covariance(xs[:, 1], xs[:, 1]), root @ root.mT, rtol=0.03, atol=0.1)
    xs, _ = sample(RetrievedInputs(0.6))
    torch.testing.assert_close(covariance(xs[:, 0], xs[:, 0]), eye, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance(xs[:, 0], xs[:, -1]), 0.6 * eye, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance(xs[:, 0], xs[:, 1]), 0.36 * eye, rtol=0, atol=0.03)
    xs, beta = sample(AlignedInputs(0.5))
    torch.testing.assert_close(covariance(xs[:, 0], beta), 0.5 * eye, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance(xs[:, 0], xs[:, 1]), 0.25 * eye, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance(xs[:, 0], xs[:, 0]), 1.25 * eye, rtol=0, atol=0.04)


def test_ill_conditioned_inputs() -> None:
    root = ill_conditioned(20).root
    assert root is not None
    values = torch.linalg.eigvalsh(root @ root.mT)
    assert (values[-1] / values[0]).item() == pytest.approx(100)
    assert values.sum().item() == pytest.approx(20)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_networks_show_their_activations(layers: int, activation: str) -> None:
    tasks = MLPTasks(5, 3, layers=layers, activation=activation)
    prompts = InContext(tasks, GaussianInputs(), dtype=torch.float64).sample(4, 6, generator=seeded())

    act = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[activation]
    for b in range(4):
        state, weights = prompts.xs[b].numpy(), prompts.tasks[b].numpy()
        for layer in range(layers - 1):
            rows = state.shape[1]
            matrix, weights = weights[: rows * 3].reshape(rows, 3), weights[rows * 3 :]
            state = math.sqrt(2 / 3) * act(state @ matrix)
            np.testing.assert_allclose(prompts.hidden[layer][b].numpy(), state, rtol=1e-12)
        np.testing.assert_allclose(prompts.clean[b].numpy(), state @ weights, rtol=1e-12)
        assert weights.shape == (3,)


def test_functions_of_one_direction() -> None:
    c = (0.0, 0.5, 1.0, -2.0)
    tasks = SingleIndexTasks(8, 2, coefficients=c, subspace_seed=3)
    prompts = InContext(tasks, GaussianInputs(), dtype=torch.float64).sample(500, 100, generator=seeded())

    assert prompts.tasks.norm(dim=1).tolist() == pytest.approx([1] * 500)
    assert torch.linalg.matrix_rank(prompts.tasks) == 2
    outside = prompts.tasks - prompts.tasks @ tasks.basis @ tasks.basis.mT
    assert outside.abs().max() < 1e-12
    z = torch.einsum("bnd,bd->bn", prompts.xs, prompts.tasks).numpy()
    scaled = [c[i] / math.sqrt(math.factorial(i)) for i in range(4)]
    np.testing.assert_allclose(
        prompts.clean.numpy(), np.polynomial.hermite_e.hermeval(z, scaled), rtol=1e-10, atol=1e-10
    )
    assert prompts.clean.var().item() == pytest.approx(0.25 + 1 + 4, rel=0.1)


def test_dynamics() -> None:
    seen = linear_dynamics(200, 300, d=3, observed=3, radius=0.9, noise=0.1, generator=seeded())
    assert seen.shape == (200, 300, 3)
    assert (seen[:, 0] == 0).all()
    # fully observed, the next observation is linear in this one: what is left is noise, C^T C 0.01 in each prompt
    for prompt in seen[:5].double():
        before, after = prompt[1:-1], prompt[2:]
        step = torch.linalg.lstsq(before, after).solution
        assert torch.linalg.eigvals(step).abs().max() < 1.02
        left = (after - before @ step).var() / after.var()
        assert left < 0.9
    still = linear_dynamics(2, 5, d=3, observed=2, noise=0.0, generator=seeded())
    assert (still == 0).all()


def test_layouts() -> None:
    xs, ys = torch.arange(12.0).view(1, 3, 4), torch.tensor([[100.0, 200, 300]])
    tokens = interleave(xs, ys)
    assert tokens[0, 2].tolist() == [4, 5, 6, 7]
    assert tokens[0, 3].tolist() == [200, 0, 0, 0]
    assert tokens.shape == (1, 6, 4)
    stacked = stack_prompt(xs, ys)
    assert stacked[0, :, -1].tolist() == [100, 200, 0]
    assert torch.equal(stacked[..., :-1], xs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearTasks(0), "d is 0"),
        (lambda: LinearTasks(3, scale="flat"), "scale is 'flat'"),
        (lambda: LinearTasks(3, scale=torch.ones(2)), r"scale has shape \(2,\)"),
        (lambda: LinearTasks(3, rho=1.0), "rho is 1.0"),
        (lambda: MLPTasks(3, 2, layers=1), "layers is 1"),
        (lambda: MLPTasks(3, 2, activation="gelu"), "activation is 'gelu'"),
        (lambda: SingleIndexTasks(3, 4), "r is 4"),
        (lambda: SingleIndexTasks(3, 2, coefficients=(0.0,)), "coefficients"),
        (lambda: RetrievedInputs(1.5), "alpha is 1.5"),
        (lambda: InContext(LinearTasks(2), GaussianInputs(), noise=-1), "noise is -1"),
        (lambda: linear_dynamics(1, 5, radius=1.0, generator=seeded()), "radius is 1.0"),
        (
            lambda: InContext(MLPTasks(3, 2), AlignedInputs(0.5)).sample(2, 3, generator=seeded()),
            "expected one vector of weights",
        ),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
