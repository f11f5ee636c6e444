"""Layers of `icl_linear_attention_h3`, trained on fresh prompts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.linear_layers import H3Layer, LinearAttention, query_mse
from assay.lab import Row
from assay.lab.training import train
from assay.studies.attention_theory._h3_risks import RHO, drift_risks, low, settings
from assay.theory.linear_risks import icl_linear_risk


class Factors(nn.Module):
    """`x^T (W + U V) X^T y`: W (d, d) is frozen, U has `rank` columns."""

    W: Tensor

    def __init__(self, W: Tensor, rank: int) -> None:
        super().__init__()
        self.register_buffer("W", W.float())
        self.U, self.V = (nn.Parameter(0.1 * torch.randn(size)) for size in ((len(W), rank), (rank, len(W))))

    def forward(self, prompt: Tensor) -> Tensor:
        """(B,): y of the query. prompt: (B, n + 1, d + 1)."""
        xs, ys = prompt[..., :-1], prompt[..., -1:]
        return (xs[:, -1] @ (self.W + self.U @ self.V) * (ys * xs).sum(1)).sum(-1)


def trained_on(
    model: nn.Module, sampler: InContext, n: int, *, steps: int, batch: int, lr: float, seed: int, device: str
) -> float:
    """The risk of a model, trained with Adam on prompts of n examples, on 100,000 new ones."""
    train(
        model.to(device),
        lambda generator: sampler.sample(batch, n + 1, generator=generator),
        steps=steps,
        seed=seed,
        loss=query_mse,
        lr=lr,
        weight_decay=0.0,
    )
    generator = torch.Generator(device).manual_seed(10**6 + seed)
    with torch.no_grad():
        return sum(query_mse(model, sampler.sample(20_000, n + 1, generator=generator)).item() for _ in range(5)) / 5


def trained_layers(
    *, layer: str, tasks: str, d: int, n: int, noise: float, steps: int, batch: int, lr: float, seed: int, device: str
) -> Row:
    """The risk of one layer, trained, and the best risks by formula. `tasks`: "one" for the whole prompt, or
    "drifting"."""
    sampler = InContext(LinearTasks(d, rho=RHO if tasks == "drifting" else None), GaussianInputs(), noise=noise)
    model = LinearAttention(d) if layer == "attention" else H3Layer(d, n + 1)
    risk = trained_on(model, sampler, n, steps=steps, batch=batch, lr=lr, seed=seed, device=device)
    if tasks == "drifting":
        best = drift_risks(d, n, RHO, noise)
        equal, weighted = best.equal, best.weighted
    else:
        equal = weighted = icl_linear_risk(torch.eye(d), torch.eye(d), n, noise).risk
    return {"layer": layer, "tasks": tasks, "risk": risk, "equal": equal, "weighted": weighted}


def trained_settings(
    *, setting: str, d: int, n: int, noise: float, steps: int, batch: int, lr: float, seed: int, device: str
) -> Row:
    """The risk of linear attention, trained in one of `settings`; of factors in its place where a rank is restricted;
    and the risks by formula: the best, and that of who overlooks what the setting is about."""
    one = next(each for each in settings(d, n, noise) if each.name == setting)
    model: nn.Module = LinearAttention(d)
    if setting in ("low rank", "LoRA"):
        assert isinstance(one.tasks.scale, Tensor)
        before = one.tasks.scale.square().flip(0) * (setting == "LoRA")  # spectrum that the frozen W is the best for
        model = Factors(icl_linear_risk(torch.eye(d), before.diag(), n, noise).weights, low(d))
    risk = trained_on(
        model, InContext(one.tasks, one.inputs, noise=noise), n,
        steps=steps, batch=batch, lr=lr, seed=seed, device=device,
    )  # fmt: skip
    return {"setting": setting, "risk": risk, "formula": one.formula, "wrong": one.wrong}
