"""What `icl_single_index` runs: a network that finds the subspace of the tasks, and an attention fitted on it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import SingleIndexTasks
from assay.icl.single_index import InContextMLPAttention
from assay.lab import Row
from assay.measures.similarity import subspace_overlap
from assay.theory.hermite import check_information_exponent

QUERIES = 20  # in each test prompt


def two_stages(
    *, d: int, r: int, coefficients: tuple[float, ...], noise: float, tasks: int, examples: int, neurons: int,
    fitted_tasks: int, fitted_examples: int, fitted_neurons: int, lengths: tuple[int, ...], test: int, seed: int,
    device: str,
) -> list[Row]:  # fmt: skip
    """First a row on the subspace that one step finds, for tasks in a subspace and for tasks in all directions. Then
    the error of each learner at prompts of each length: squared, over the variance of the values without noise."""
    link = SingleIndexTasks(1, 1, coefficients)
    check_information_exponent(lambda z: link.values(z.new_ones(1, 1), z[None, :, None])[0][0], least=2)
    generator = torch.Generator(device).manual_seed(seed)

    def source(dimension: int) -> InContext:
        tasks = SingleIndexTasks(d, dimension, coefficients, subspace_seed=seed)
        return InContext(tasks, GaussianInputs(), noise=noise, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float64)

    basis = SingleIndexTasks(d, r, coefficients, subspace_seed=seed).basis.to(device)
    rows: list[Row] = []
    for kind, dimension in (("isotropic", d), ("subspace", r)):
        first = InContextMLPAttention(normal(neurons, d), spread=0.1, generator=generator)
        step = first.stage1_step(prompts(source(dimension), tasks, examples + 1, generator))
        along = (first.weight.detach() @ basis).norm(dim=-1).mean()
        rows.append({"part": "step", "tasks": kind, "d": d, "overlap": subspace_overlap(step, basis, r), "rows": along})

    fit = source(r).sample(fitted_tasks, fitted_examples + 1, generator=generator)
    seen = source(r).sample(test, max(lengths) + QUERIES, generator=generator)
    queries, values = seen.xs[:, -QUERIES:], seen.clean[:, -QUERIES:]
    directions = torch.linalg.svd(step).Vh[:r]
    start = normal(fitted_neurons, d)
    found = {"in the span": start[:, :r] @ directions, "rows of the step": first.weight[:fitted_neurons],
             "random": start}  # fmt: skip
    models = {
        name: InContextMLPAttention(own, spread=math.log(d), generator=generator).fit_attention_ridge(fit.xs, fit.ys)
        for name, own in found.items()
    }

    def error(predicted: Tensor) -> float:
        return ((predicted - values).square().mean() / values.var()).item()

    for length in lengths:
        given = seen.xs[:, :length], seen.ys[:, :length]
        errors = {name: error(model.predict(*given, queries)) for name, model in models.items()}
        degree = len(coefficients) - 1
        errors["kernel ridge"] = min(error(kernel_ridge(*given, queries, degree, ridge)) for ridge in RIDGES)
        rows += [
            {"part": "error", "learner": name, "d": d, "length": length, "error": one} for name, one in errors.items()
        ]
    return rows


RIDGES = (1e-3, 1e-2, 0.1, 1.0)  # of the kernel's mean diagonal; the best on the test is taken, in its favour


def prompts(source: InContext, total: int, points: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """All prompts of the first stage, a thousand at a time."""
    for start in range(0, total, 1000):
        drawn = source.sample(min(1000, total - start), points, generator=generator)
        yield drawn.xs, drawn.ys


def kernel_ridge(xs: Tensor, ys: Tensor, queries: Tensor, degree: int, ridge: float) -> Tensor:
    """(B, Q): ridge regression with the kernel (1 + <x, x'>)^degree on each prompt alone."""
    kernel = (1 + xs @ xs.mT) ** degree
    penalty = ridge * kernel.diagonal(dim1=-2, dim2=-1).mean() * torch.eye(xs.shape[1]).to(xs)
    return ((1 + queries @ xs.mT) ** degree @ torch.linalg.solve(kernel + penalty, ys[..., None]))[..., 0]
