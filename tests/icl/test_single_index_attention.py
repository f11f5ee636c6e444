"""The two stages of single-index learning in context: the gradient and the fit, against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import SingleIndexTasks
from assay.icl.single_index import InContextMLPAttention
from assay.measures.similarity import subspace_overlap

D, M = 4, 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(count: int, points: int, d: int = D, r: int = 2, seed: int = 1) -> Prompts:
    source = InContext(SingleIndexTasks(d, r), GaussianInputs(), noise=0.1, dtype=torch.float64)
    return source.sample(count, points, generator=generator(seed))


def model(width: int = M, d: int = D, spread: float = 0.5) -> InContextMLPAttention:
    rows = torch.randn(width, d, generator=generator(2), dtype=torch.float64)
    return InContextMLPAttention(rows, spread=spread, generator=generator(3))


def test_prediction_is_that_of_the_definition() -> None:
    own, prompts = model(), draw(3, 7)
    with torch.no_grad():
        own.gamma.copy_(torch.randn(M, M, generator=generator(4), dtype=torch.float64))

    def phi(x: Tensor) -> Tensor:
        return torch.stack([(own.weight[j] @ x + own.bias[j]).clamp(min=0) for j in range(M)])

    found = own.predict(prompts.xs[:, :5], prompts.ys[:, :5], prompts.xs[:, 5:])
    assert found.shape == (3, 2)
    for b in range(3):
        h = sum(prompts.ys[b, i] * phi(prompts.xs[b, i]) for i in range(5)) / 5
        for q in range(2):
            expected = phi(prompts.xs[b, 5 + q]) @ own.gamma @ h
            torch.testing.assert_close(found[b, q], expected.detach())


def test_rows_are_normalised_and_biases_within_their_spread() -> None:
    own = model(width=2000, spread=0.7)

    torch.testing.assert_close(own.weight.norm(dim=-1), torch.ones(2000, dtype=torch.float64))
    assert 0.69 < own.bias.abs().max() <= 0.7
    assert abs(own.bias.mean()) < 0.05


def test_the_step_is_the_formula_of_the_gradient_and_ends_on_the_sphere() -> None:
    own, prompts = model(), draw(230, 6)
    weight, bias = own.weight.detach().clone(), own.bias.detach()
    expected = torch.zeros(M, D, dtype=torch.float64)
    for xs, ys in zip(prompts.xs, prompts.ys, strict=True):
        z = xs @ weight.mT + bias  # (points, M)
        phi, on = z.clamp(min=0), (z > 0).double()
        h = (ys[:-1, None] * phi[:-1]).mean(0)
        turned = (ys[:-1, None, None] * on[:-1, :, None] * xs[:-1, None]).mean(0)  # (M, D)
        expected += ys[-1] * (phi[-1][:, None] * turned + (h * on[-1])[:, None] * xs[-1]) / len(prompts.xs)

    step = own.stage1_step([(prompts.xs[:100], prompts.ys[:100]), (prompts.xs[100:], prompts.ys[100:])])

    torch.testing.assert_close(step, expected)
    torch.testing.assert_close(own.weight.detach(), step / step.norm(dim=-1, keepdim=True))


def test_the_step_descends_the_squared_error_of_a_small_gamma() -> None:
    own, prompts = model(), draw(50, 6)
    with torch.no_grad():
        own.gamma.mul_(1e-6)
    left = own(prompts.xs[:, :-1], prompts.ys[:, :-1], prompts.xs[:, -1:])[:, 0] - prompts.ys[:, -1]
    (gradient,) = torch.autograd.grad(left.square().mean(), own.weight)

    torch.testing.assert_close(gradient, -2e-6 * own.stage1_step([(prompts.xs, prompts.ys)]), rtol=1e-4, atol=1e-9)


def test_the_step_finds_the_subspace_of_the_tasks_where_there_is_one() -> None:
    basis = SingleIndexTasks(8, 2).basis
    found = []
    for r in (2, 8):  # tasks in all directions are the control
        prompts = draw(4000, 33, d=8, r=r)
        found.append(subspace_overlap(model(32, 8).stage1_step([(prompts.xs, prompts.ys)]), basis, 2))

    assert found[0] > 0.85
    assert found[1] < 0.6


def test_the_fit_solves_its_normal_equations() -> None:
    own, prompts = model(), draw(40, 9)
    own.fit_attention_ridge(prompts.xs, prompts.ys, ridge=[0.1])

    h = own.summary(prompts.xs[:, :-1], prompts.ys[:, :-1])
    phi = own.features(prompts.xs[:, -1])
    F = torch.stack([torch.outer(phi[b], h[b]).flatten() for b in range(40)]).detach()
    gram = F.mT @ F + 0.1 * F.square().sum() / 40 * torch.eye(M * M)
    expected = torch.linalg.solve(gram, F.mT @ prompts.ys[:, -1]).view(M, M)
    torch.testing.assert_close(own.gamma.detach(), expected)


def test_neurons_in_the_subspace_learn_in_context_and_others_do_not() -> None:
    tasks = SingleIndexTasks(8, 2)
    fit, test = draw(1500, 65, d=8), draw(300, 65, d=8, seed=5)
    errors = []
    for rows in (torch.randn(12, 2, generator=generator(), dtype=torch.float64) @ tasks.basis.mT, torch.eye(8)):
        own = InContextMLPAttention(rows, spread=math.log(8), generator=generator(3))
        own.fit_attention_ridge(fit.xs, fit.ys)
        left = own.predict(test.xs[:, :-1], test.ys[:, :-1], test.xs[:, -1:])[:, 0] - test.ys[:, -1]
        errors.append((left.square().mean() / test.ys[:, -1].var()).item())

    assert errors[0] < 0.5
    assert errors[1] > 0.8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: model().stage1_step([]), "prompts are empty"),
        (lambda p: model().predict(p.xs[..., :2], p.ys, p.xs), r"expected \(B, N, 4\) and \(B, N\)"),
        (lambda p: model().predict(p.xs, p.ys[:, 1:], p.xs), "ys"),
        (lambda _: model(spread=math.nan), "spread"),
        (lambda _: InContextMLPAttention(torch.zeros(2, 3), spread=1.0, generator=generator()), "rows has shape"),
    ],
)
def test_mistakes(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(draw(2, 5))
