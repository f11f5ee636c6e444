"""What `icl_linear_attention_h3` runs without training: closed forms against draws, least squares, and descent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay.data.in_context import AlignedInputs, GaussianInputs, InContext, Inputs, Prompts, RetrievedInputs
from assay.data.in_context_tasks import LinearTasks
from assay.icl.linear_layers import PreconditionedStep, fit_pgd
from assay.lab import Row
from assay.theory.linear_risks import (
    DriftRisks,
    icl_alignment_risk,
    icl_linear_risk,
    icl_lora_risk,
    icl_lowrank_risk,
    icl_pgd_risk,
    icl_rag_risk,
    icl_weighted_risk,
)

ALPHA, RHO = 0.5, 0.85


def low(d: int) -> int:
    """The rank that weights and updates are restricted to."""
    return max(1, d // 3)


class Setting(NamedTuple):
    """A law of prompts; the best W and w and their risk, by formula; and the risk of who overlooks what it is about."""

    name: str
    tasks: LinearTasks
    inputs: Inputs
    W: Tensor
    w: Tensor
    formula: float
    wrong: float


def drift_risks(d: int, n: int, rho: float, noise: float) -> DriftRisks:
    """For tasks that are an AR(1) process over the prompt."""
    at = torch.arange(n + 1, dtype=torch.float64)
    correlations = rho ** (at[:, None] - at).abs()
    return icl_weighted_risk(correlations[:-1, :-1], correlations[:-1, -1], d, noise)


def settings(d: int, n: int, noise: float) -> list[Setting]:
    eye, even = torch.eye(d, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    lam = 2.0 ** (-6 / d * torch.arange(d, dtype=torch.float64))  # as wide for any d
    Sx, inputs, tasks = lam.flip(0).sqrt(), GaussianInputs(), LinearTasks(d, scale=lam.sqrt())
    isotropic, anisotropic = icl_linear_risk(eye, eye, n, noise).risk, icl_linear_risk(eye, lam.diag(), n, noise)
    independent = icl_linear_risk(Sx.diag(), lam.diag(), n, noise)
    perturbed = icl_pgd_risk(1.5 * independent.weights, Sx.diag(), lam.diag(), n, noise).item()
    rag, aligned = icl_rag_risk(d, n, ALPHA, noise), icl_alignment_risk(d, n, ALPHA, noise)
    drift, rank = drift_risks(d, n, RHO, noise), low(d)
    restricted = icl_lowrank_risk(lam, n, noise, rank)
    before, after = (icl_linear_risk(eye, one.diag(), n, noise).weights.diagonal() for one in (lam.flip(0), lam))
    costs = (after - before).square() * ((n + 1) * lam + lam.sum() + noise**2)
    adapted = torch.where(costs >= costs.sort(descending=True).values[rank - 1], after, before)
    lora, frozen = (icl_lora_risk(lam.flip(0), lam, n, noise, r) for r in (rank, 0))
    gain = (ALPHA**2 * d + 1) ** -0.5
    return [
        Setting("independent", tasks, GaussianInputs(Sx.sqrt().diag()), *independent[:1], even, independent.risk,
                perturbed),
        Setting("retrieval", LinearTasks(d), RetrievedInputs(ALPHA), rag.weights * eye, even, rag.risk, isotropic),
        Setting("alignment", LinearTasks(d, gain=gain), AlignedInputs(ALPHA), aligned.weights * eye, even, aligned.risk,
                isotropic),
        Setting("drift", LinearTasks(d, rho=RHO), inputs, eye, drift.weights, drift.weighted, drift.equal),
        Setting("low rank", tasks, inputs, anisotropic.weights * (torch.arange(d) < rank), even, restricted,
                anisotropic.risk),
        Setting("LoRA", tasks, inputs, adapted.diag(), even, lora, frozen),
    ]  # fmt: skip


def fit(name: str, prompts: Prompts) -> PreconditionedStep | None:
    """The best step for given prompts, by least squares; none for the two that are restricted in rank."""
    xs, ys = prompts.xs, prompts.ys
    n, d = xs.shape[1] - 1, xs.shape[2]
    if name in ("low rank", "LoRA"):
        return None
    if name != "drift":
        return PreconditionedStep(fit_pgd(prompts), torch.ones(n).to(xs))
    products = (xs[:, :-1] * xs[:, -1:]).sum(-1) * ys[:, :-1]  # <x, x_i> y_i
    return PreconditionedStep(torch.eye(d).to(xs), torch.linalg.lstsq(products, ys[:, -1:]).solution[:, 0])


def closed_forms(*, d: int, n: int, noise: float, batches: int, batch: int, seed: int, device: str) -> list[Row]:
    """For each setting: the risk by formula; the mean square error of its weights on draws, and of weights that were
    fitted to other draws; and the risk of who overlooks the setting."""
    generator = torch.Generator(device).manual_seed(seed)
    rows: list[Row] = []
    for one in settings(d, n, noise):
        sampler = InContext(one.tasks, one.inputs, noise=noise, dtype=torch.float64)
        steps = {
            "measured": PreconditionedStep(one.W.to(device), one.w.to(device)),
            "fitted": fit(one.name, sampler.sample(batch, n + 1, generator=generator)),
        }
        row: Row = {"setting": one.name, "formula": one.formula, "wrong": one.wrong}
        for name, step in steps.items():
            draws = (sampler.sample(batch, n + 1, generator=generator) for _ in range(batches if step else 0))
            squares = [(step.predict(p.xs, p.ys) - p.ys[:, -1]).square().mean().item() for p in draws if step]
            row[name] = sum(squares) / len(squares) if squares else None
        rows.append(row)
    return rows


def more_examples(*, cases: tuple[tuple[int, int, float], ...]) -> list[Row]:
    """Risks over d, without noise, of n examples that are retrieved or aligned: exact; of k n independent ones,
    k = alpha^2 d + 1, where d is large; of k^2 n; and of n."""
    rows: list[Row] = []
    for d, n, alpha in cases:
        k = alpha**2 * d + 1
        for kind, risk in (("retrieval", icl_rag_risk), ("alignment", icl_alignment_risk)):
            counted = {name: d / (times * n + d) for name, times in (("k", k), ("k^2", k**2), ("1", 1))}
            setting = {"kind": kind, "d": d, "n": n, "alpha": alpha, "exact": risk(d, n, alpha, 0.0).risk / d}
            rows.append(setting | counted)
    return rows


def factors(*, d: int, n: int, noise: float, rank: int, seed: int) -> list[Row]:
    """The least risk of a W of low rank, or of a low-rank update of a frozen W: by formula from the spectra, and as
    found by descent on the factors for two laws that share the spectra and nothing else; and by factors of one rank
    less."""
    generator = torch.Generator().manual_seed(seed)
    before, lam = (4 * torch.rand(d, generator=generator, dtype=torch.float64) ** 2 for _ in range(2))
    rows: list[Row] = []
    for kind, old in (("low rank", torch.zeros_like(lam)), ("LoRA", before)):
        found = [least_risk(old, lam, n, noise, r, generator) for r in (rank, rank, rank - 1)]
        names = ("found", "found_elsewhere", "found_by_less")
        formula = icl_lora_risk(old, lam, n, noise, rank)
        flat = torch.full_like(lam, float(lam.mean()))
        rows.append(
            {"kind": kind, "rank": rank, "formula": formula, "flat": icl_lora_risk(old, flat, n, noise, rank)}
            | dict(zip(names, found, strict=True))
        )
    return rows


def least_risk(old: Tensor, new: Tensor, n: int, noise: float, rank: int, generator: torch.Generator) -> float:
    """The least risk of `W_old + U V` that L-BFGS finds, rank columns in U, for a random Sx and random eigenvectors."""
    d = len(new)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    basis, vectors = (torch.linalg.qr(normal(d, d)).Q for _ in range(2))
    scales = 0.5 + torch.rand(d, generator=generator, dtype=torch.float64)
    root, inverse = ((basis * scales**power) @ basis.mT for power in (1, -1))  # of Sx = root root
    Sx, Sb, old_Sb = root @ root, *(inverse @ (vectors * lam) @ vectors.mT @ inverse for lam in (new, old))
    W = icl_linear_risk(Sx, old_Sb, n, noise).weights
    U, V = (0.1 * normal(*shape) for shape in ((d, rank), (rank, d)))
    parameters = [U.requires_grad_(), V.requires_grad_()]
    descent = torch.optim.LBFGS(parameters, max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> Tensor:
        descent.zero_grad()
        risk = icl_pgd_risk(W + U @ V, Sx, Sb, n, noise)
        risk.backward()
        return risk

    if rank > 0:
        descent.step(closure)
    return icl_pgd_risk(W + U @ V, Sx, Sb, n, noise).item()
