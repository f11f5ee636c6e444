"""Muon on single matrices and on a small associative memory: no text, no attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import AdamW, Muon, Optimizer

from assay.data import zipf_classes, zipf_probabilities
from assay.lab.training import train
from assay.optim.newton_schulz import CLASSICAL, MUON, newton_schulz

Row = dict[str, Any]


def orthogonalisation(*, size: int, matrices: int, condition: float, device: str) -> list[Row]:
    """What five steps make of random matrices with singular values between 1 / condition and 1, in float64."""
    U, V = (torch.linalg.qr(torch.randn(matrices, size, size, dtype=torch.float64))[0].to(device) for _ in range(2))
    sigma = condition ** -torch.rand(matrices, size, dtype=torch.float64).to(device)
    sigma[:, 0], sigma[:, -1] = 1, 1 / condition
    G = (U * sigma[:, None]) @ V.mT
    rows = []
    for name, coefficients in {"Muon": MUON, "classical": CLASSICAL}.items():
        O = newton_schulz(G, coefficients=coefficients)  # noqa: E741
        core = U.mT @ O @ V  # diagonal where the singular vectors are kept
        values = core.diagonal(dim1=-2, dim2=-1)
        turned = newton_schulz(G.mT, coefficients=coefficients).mT - O
        scaled = newton_schulz(1e3 * G, coefficients=coefficients) - O
        rows.append({
            "coefficients": name,
            "smallest": values.min().item(),
            "largest": values.max().item(),
            "least_cosine": (values / core.norm(dim=-1)).min().item(),
            "off_by_transposition": turned.abs().max().item(),
            "off_by_scale": scaled.abs().max().item(),
        })  # fmt: skip
    return rows


def bound(*, shape: tuple[int, int], lr: float, weight_decay: float, steps: int, device: str) -> list[Row]:
    """The largest ||W_t||_2 on gradients that all point the same way, as a multiple of max(||W_0||_2, c / wd)."""
    start, gradient = (torch.randn(shape, device=device) for _ in range(2))
    start = 0.1 * start / torch.linalg.matrix_norm(start, 2)
    c = max(1.0, shape[0] / shape[1]) ** 0.5
    limit = max(torch.linalg.matrix_norm(start, 2).item(), c / weight_decay)
    makers: dict[str, Callable[[nn.Parameter], Optimizer]] = {
        "Muon": lambda W: Muon([W], lr=lr, weight_decay=weight_decay),
        "Muon without decay": lambda W: Muon([W], lr=lr, weight_decay=0.0),
        "AdamW": lambda W: AdamW([W], lr=lr, weight_decay=weight_decay),
    }
    rows = []
    for name, make in makers.items():
        W = nn.Parameter(start.clone())
        optimizer, norms = make(W), []
        for _ in range(steps):
            W.grad = gradient + 0.1 * torch.randn(shape, device=device)
            optimizer.step()
            norms.append(torch.linalg.matrix_norm(W.detach(), 2))
        rows += [
            {"optimizer": name, "step": step, "norm": norm.item() / limit}
            for step, norm in enumerate(norms, 1) if step % max(1, steps // 50) == 0
        ]  # fmt: skip
    return rows


class AssociativeMemory(nn.Module):
    """`logits_c = scale <e_c, W_2 tanh(W_1 x)>`: from a class's fixed vector x to the class."""

    def __init__(self, classes: int, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.first, self.second = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.register_buffer("keys", normalize(torch.randn(classes, width), dim=-1) * width**0.5)
        self.register_buffer("values", normalize(torch.randn(classes, width), dim=-1))

    keys: Tensor
    values: Tensor

    def forward(self, classes: Tensor) -> Tensor:
        return self.scale * self.second(self.first(self.keys[classes]).tanh()) @ self.values.mT


def make_optimizer(name: str, parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """Adam, Muon, or Muon without its Newton-Schulz steps: momentum, normalised by Frobenius."""
    if name == "Adam":
        return AdamW(parameters, lr, betas=(0.9, 0.95), weight_decay=0.0)
    return Muon(parameters, lr, weight_decay=0.0, ns_steps=5 if name == "Muon" else 0)


def associations(
    *, optimizer: str, lr: float, batch: int, targets: tuple[float, ...], steps: int, seed: int, device: str
) -> list[Row]:
    """Steps until the loss over all 96 classes of Zipf frequency is at the targets, NaN where it never is."""
    model = AssociativeMemory(96, 48, 8.0).to(device)
    p = zipf_probabilities(96).float().to(device)
    everything = torch.arange(96, device=device)

    def exact_loss(model: nn.Module) -> Row:
        return {"exact": (p * cross_entropy(model(everything), everything, reduction="none")).sum().item()}

    rows = train(
        model, lambda generator: zipf_classes(batch, generator=generator), steps=steps, seed=seed, warmup=0.0,
        clip=float("inf"), loss=lambda model, classes: cross_entropy(model(classes), classes), every=1,
        measure=exact_loss, optimizers=[make_optimizer(optimizer, list(model.parameters()), lr)],
        stop=lambda row: row["exact"] <= min(targets),
    )  # fmt: skip
    reached = {t: next((row["step"] for row in rows if row.get("exact", t + 1) <= t), float("nan")) for t in targets}
    return [{"target": target, "steps_needed": float(steps)} for target, steps in reached.items()]
