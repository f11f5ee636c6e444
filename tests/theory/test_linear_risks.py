"""Closed-form risks against draws, least squares, and descent on factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import AlignedInputs, GaussianInputs, InContext, Inputs, Prompts, RetrievedInputs
from assay.data.in_context_tasks import LinearTasks
from assay.theory.linear_risks import (
    icl_alignment_risk,
    icl_linear_risk,
    icl_lora_risk,
    icl_lowrank_risk,
    icl_pgd_risk,
    icl_rag_risk,
    icl_weighted_risk,
)

NOISE = 0.5**0.5
MANY = 60_000
SPECTRUM = torch.tensor([3.0, 1.5, 0.7, 0.2], dtype=torch.float64)


def draws(tasks: LinearTasks, inputs: Inputs, n: int, many: int = MANY) -> Prompts:
    sampler = InContext(tasks, inputs, noise=NOISE, dtype=torch.float64)
    return sampler.sample(many, n + 1, generator=torch.Generator().manual_seed(0))


def features(prompts: Prompts) -> Tensor:
    """x (y_i x_i)^T for each example: (B, n, d, d), by einsum."""
    return torch.einsum("ba,bnc,bn->bnac", prompts.xs[:, -1], prompts.xs[:, :-1], prompts.ys[:, :-1])


def measured(prompts: Prompts, W: Tensor, w: Tensor | float = 1.0) -> float:
    n, d = prompts.xs.shape[1] - 1, prompts.xs.shape[2]
    weights = torch.as_tensor(w, dtype=torch.float64).expand(n)
    predictions = torch.einsum("bnac,ac,n->b", features(prompts), W.double().expand(d, d), weights)
    return (predictions - prompts.ys[:, -1]).square().mean().item()


def least_squares(columns: Tensor, targets: Tensor) -> float:
    """Least mean square of what is left of the targets: (B, p) and (B,)."""
    solution = torch.linalg.lstsq(columns, targets[:, None], rcond=1e-9, driver="gelsd").solution
    return (targets - (columns @ solution)[:, 0]).square().mean().item()


def covariances(d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Sx with its root, and Sb diagonal."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64) + torch.eye(d)
    return root @ root.mT, root, torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)


def test_independent_data() -> None:
    Sx, root, variances = covariances()
    prompts = draws(LinearTasks(3, scale=variances.sqrt()), GaussianInputs(root), 8, 4 * MANY)
    W, risk = icl_linear_risk(Sx, variances.diag(), 8, NOISE)

    assert risk == pytest.approx(measured(prompts, W), rel=0.02)
    assert risk == pytest.approx(least_squares(features(prompts).sum(1).flatten(1), prompts.ys[:, -1]), rel=0.02)
    assert icl_pgd_risk(W, Sx, variances.diag(), 8, NOISE).item() == pytest.approx(risk, rel=1e-10)
    worse = W + 0.2 * torch.eye(3) * W.norm()
    of_worse = icl_pgd_risk(worse, Sx, variances.diag(), 8, NOISE).item()
    assert of_worse == pytest.approx(measured(prompts, worse), rel=0.03)
    assert measured(prompts, 1.2 * W) > 1.05 * risk  # the oracle can tell


def test_isotropic_data_by_the_formula_of_scalars() -> None:
    W, risk = icl_linear_risk(torch.eye(5), torch.eye(5), 15, NOISE)

    torch.testing.assert_close(W, torch.eye(5, dtype=torch.float64) / (15 + 5 + 1 + 0.5))
    assert risk == pytest.approx(5 + 0.5 - 15 * 5 / (15 + 5 + 1 + 0.5), rel=1e-12)


def test_singular_covariances() -> None:
    variances = torch.tensor([1.0, 1.0, 0.0, 0.0])

    W, risk = icl_linear_risk(torch.eye(4), variances.diag(), 10, 0.0)
    small = icl_linear_risk(torch.eye(2), torch.eye(2), 10, 0.0)
    assert risk == pytest.approx(small.risk, rel=1e-12)
    torch.testing.assert_close(W[:2, :2], small.weights)
    assert W[2:].abs().max() == 0
    flat = icl_linear_risk(variances.diag(), torch.eye(4), 10, 0.0)
    assert flat.risk == pytest.approx(small.risk, rel=1e-12)
    assert flat.weights.isfinite().all()
    assert icl_linear_risk(torch.eye(2), torch.zeros(2, 2), 10, 0.0).risk == 0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_retrieval(alpha: float) -> None:
    c, risk = icl_rag_risk(4, 10, alpha, NOISE)
    prompts = draws(LinearTasks(4), RetrievedInputs(alpha), 10)

    assert risk == pytest.approx(measured(prompts, c * torch.eye(4)), rel=0.02)
    assert risk == pytest.approx(least_squares(features(prompts).sum(1).flatten(1), prompts.ys[:, -1]), rel=0.02)


def test_retrieval_without_it_and_in_many_dimensions() -> None:
    none = icl_linear_risk(torch.eye(6), torch.eye(6), 15, NOISE)
    assert icl_rag_risk(6, 15, 0.0, NOISE).risk == pytest.approx(none.risk, rel=1e-12)
    assert icl_rag_risk(6, 15, 0.5, NOISE).risk < 0.8 * none.risk
    for risk in (icl_rag_risk, icl_alignment_risk):
        errors = []
        for d in (100, 10_000):
            exact, rough = (risk(d, d // 2, (2 / d) ** 0.5, 1.0, exact=exact) for exact in (True, False))
            errors.append(abs(rough.risk / exact.risk - 1))
            assert rough.weights == pytest.approx(exact.weights.item(), rel=0.1)
        assert errors[1] < 0.02 * errors[0] * 1.5 + 1e-9  # a limit: falls as 1 / d


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alignment(alpha: float) -> None:
    c, risk = icl_alignment_risk(4, 10, alpha, NOISE)
    prompts = draws(LinearTasks(4, gain=(alpha**2 * 4 + 1) ** -0.5), AlignedInputs(alpha), 10)

    assert risk == pytest.approx(measured(prompts, c * torch.eye(4)), rel=0.03)
    assert risk == pytest.approx(least_squares(features(prompts).sum(1).flatten(1), prompts.ys[:, -1]), rel=0.03)


def test_drifting_tasks() -> None:
    at = torch.arange(11).double()
    correlations = 0.8 ** (at[:, None] - at).abs()
    R, r = correlations[:-1, :-1], correlations[:-1, -1]
    w, weighted, equal = icl_weighted_risk(R, r, 4, NOISE)
    prompts = draws(LinearTasks(4, rho=0.8), GaussianInputs(), 10)

    assert weighted == pytest.approx(measured(prompts, torch.eye(4), w), rel=0.02)
    examples = features(prompts).diagonal(dim1=-2, dim2=-1).sum(-1)  # <x, x_i> y_i: (B, n)
    assert weighted == pytest.approx(least_squares(examples, prompts.ys[:, -1]), rel=0.02)
    assert equal == pytest.approx(least_squares(examples.sum(1, keepdim=True), prompts.ys[:, -1]), rel=0.02)
    assert weighted < 0.95 * equal
    steady = icl_weighted_risk(torch.ones(10, 10), torch.ones(10), 4, NOISE)
    assert steady.weighted == pytest.approx(icl_linear_risk(torch.eye(4), torch.eye(4), 10, NOISE).risk, rel=1e-10)
    assert steady.equal == pytest.approx(steady.weighted, rel=1e-10)


def best_of_factors(rank: int, old: Tensor) -> float:
    """The least risk of `old + U V` that descent finds, for tasks of SPECTRUM."""
    generator = torch.Generator().manual_seed(2)
    U = (0.1 * torch.randn(4, rank, generator=generator, dtype=torch.float64)).requires_grad_()
    V = (0.1 * torch.randn(rank, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    A, M, n = SPECTRUM.diag(), SPECTRUM.sum() + NOISE**2, 10
    descent = torch.optim.LBFGS([U, V], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def risk() -> Tensor:
        W = old + U @ V
        return M - 2 * n * (W @ A).trace() + n * (W @ ((n + 1) * A + M * torch.eye(4)) @ W.mT).trace()

    def closure() -> Tensor:
        descent.zero_grad()
        value = risk()
        value.backward()
        return value

    descent.step(closure)
    return risk().item()


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_factors_of_low_rank(rank: int) -> None:
    risk = icl_lowrank_risk(SPECTRUM, 10, NOISE, rank)
    assert risk == pytest.approx(best_of_factors(rank, torch.zeros(4, 4, dtype=torch.float64)), rel=1e-6)

    before = torch.tensor([0.1, 1.5, 2.0, 0.5], dtype=torch.float64)
    old = icl_linear_risk(torch.eye(4), before.diag(), 10, NOISE).weights
    adapted = icl_lora_risk(before, SPECTRUM, 10, NOISE, rank)
    assert adapted == pytest.approx(best_of_factors(rank, old), rel=1e-6)
    assert adapted < icl_lora_risk(before, SPECTRUM, 10, NOISE, rank - 1)


def test_no_rank_and_all_of_it() -> None:
    before, best = SPECTRUM.flip(0), icl_linear_risk(torch.eye(4), SPECTRUM.diag(), 10, NOISE).risk
    old = icl_linear_risk(torch.eye(4), before.diag(), 10, NOISE).weights

    assert icl_lowrank_risk(SPECTRUM, 10, NOISE, 0) == pytest.approx(SPECTRUM.sum().item() + 0.5)
    assert icl_lowrank_risk(SPECTRUM, 10, NOISE, 4) == pytest.approx(best, rel=1e-12)
    frozen = icl_pgd_risk(old, torch.eye(4), SPECTRUM.diag(), 10, NOISE).item()
    assert icl_lora_risk(before, SPECTRUM, 10, NOISE, 0) == pytest.approx(frozen, rel=1e-12)
    assert icl_lora_risk(before, SPECTRUM, 10, NOISE, 4) == pytest.approx(best, rel=1e-12)


I2 = torch.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl_linear_risk(torch.zeros(2, 3), I2, 5, 1.0), "Sx has shape"),
        (lambda: icl_linear_risk(I2, torch.eye(3), 5, 1.0), r"Sb has shape \(3, 3\); expected \(2, 2\)"),
        (lambda: icl_linear_risk(I2, torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 5, 1.0), "Sb is not finite and symmetric"),
        (lambda: icl_linear_risk(-I2, I2, 5, 1.0), "Sx has the eigenvalue -1"),
        (lambda: icl_linear_risk(I2, I2, 0, 1.0), "n is 0"),
        (lambda: icl_linear_risk(I2, I2, 5, -1.0), "noise is -1"),
        (lambda: icl_pgd_risk(torch.eye(3), I2, I2, 5, 1.0), r"W has shape \(3, 3\)"),
        (lambda: icl_rag_risk(3, 5, 1.1, 1.0), "alpha is 1.1; expected at least 0 and at most 1"),
        (lambda: icl_alignment_risk(3, 5, -0.1, 1.0), "alpha is -0.1"),
        (lambda: icl_weighted_risk(I2, torch.ones(3), 3, 1.0), "R has shape"),
        (lambda: icl_weighted_risk(2 * I2, torch.zeros(2), 3, 1.0), "R has diagonal entries other than 1"),
        (lambda: icl_weighted_risk(I2, torch.ones(2), 3, 1.0), "the matrix of R and r has the eigenvalue"),
        (lambda: icl_lowrank_risk(SPECTRUM, 5, 1.0, 5), "rank is 5; expected a whole number from 0 to 4"),
        (lambda: icl_lora_risk(SPECTRUM, -SPECTRUM, 5, 1.0, 1), "spec_new is"),
        (lambda: icl_lora_risk(SPECTRUM, SPECTRUM[:2], 5, 1.0, 1), "spec_old has shape"),
    ],
)
def test_a_mistake_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
