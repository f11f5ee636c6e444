"""What `regret_loss` computes without training: the best linear attention, its identity with FTRL, noisy choices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.lab import Row
from assay.online.attention_policy import linear_attention
from assay.online.decisions import Ball, Simplex
from assay.online.optimal_values import fit_values, optimal_values, regret_features
from assay.online.players import FTL, FTPL, FTRL, Hedge
from assay.online.sequences import LossSequence


def optimum(*, variances: tuple[float, ...], horizon: int, samples: int, device: str) -> Row:
    """Least squares beside the closed form, for zero-mean losses and for others; and the mean square of the regret
    under the closed form, its negative and no policy at all."""
    deviations = torch.tensor(variances, dtype=torch.float64, device=device).sqrt()
    losses = torch.randn(samples, horizon, len(variances), dtype=torch.float64, device=device) * deviations
    best, fitted = optimal_values(deviations.square().diag(), horizon), fit_values(losses)
    features, target = regret_features(losses)
    squares = [(features @ (factor * best).flatten() - target).square().mean() for factor in (1, -1, 0)]
    return {
        "variances": ", ".join(f"{v:g}" for v in variances),
        "isotropic": len(set(variances)) == 1,
        "off": _off(fitted, best),
        "rate_off": abs(fitted.trace() / best.trace() - 1),
        "off_with_mean": min(_off(fit_values(losses + mean), best) for mean in (0.5, 1.0)),
        "square": squares[0] / squares[2],
        "square_flipped": squares[1] / squares[2],
    }


def _off(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@torch.no_grad()
def identity(*, d: int, horizon: int, batch: int, device: str, seed: int) -> list[Row]:
    """Largest difference of the policies of linear attention with V = -eta I from those of FTRL; the same with keys
    that see the losses, and from FTL's."""
    generator = torch.Generator(device).manual_seed(seed)
    rows: list[Row] = []
    for kind in ("uniform", "symmetric", "alternating"):
        losses = LossSequence(kind, d, horizon).sample(batch, generator=generator)
        eta = 1 / (losses.std().item() * math.sqrt(horizon))
        ball, values = Ball(1.0), -eta * torch.eye(d, dtype=torch.float64, device=device)
        for decisions, player in ((Simplex(), Hedge(eta)), (ball, FTRL(eta, ball))):
            attention, policies = linear_attention(values, decisions), player.policies(losses)
            row: Row = {"kind": kind, "set": type(decisions).__name__.lower()}
            row["difference"] = (attention.policies(losses) - policies).abs().max()
            row["from_ftl"] = (FTL(decisions).policies(losses) - policies).abs().max()
            attention.keys.normal_(std=0.1)
            row["with_keys"] = (attention.policies(losses) - policies).abs().max()
            rows.append(row)
    return rows


def hidden_means(batch: int, rounds: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Losses (B, T, d) with noise N(0, I) around means N(0, I), and the actions (B,) of least mean: whoever samples the
    means from what the losses tell of them chooses as FTPL does with rate 1 / sqrt(t) in round t."""
    means = torch.randn(batch, 1, d, dtype=torch.float64, device=generator.device, generator=generator)
    noise = torch.randn(batch, rounds, d, dtype=torch.float64, device=generator.device, generator=generator)
    return means + noise, means[:, 0].argmin(-1)


def choices(*, d: int, rounds: int, batch: int, device: str, seed: int) -> list[Row]:
    """How well players foretell which action is the best one, in nats: cross-entropy less their own entropy, 0 where
    chances are as foretold, and cross-entropy less that of FTPL with rate 1."""
    losses, best = hidden_means(batch, rounds, d, torch.Generator(device).manual_seed(seed))
    players = {"FTPL": FTPL(1, True), "half": FTPL(0.5, True), "twice": FTPL(2, True), "fixed": FTPL(0.3)}
    rows: list[Row] = []
    for name, player in players.items():
        log = player.policies(losses).clamp(min=1e-300).log()
        cross = -log.gather(-1, best[:, None, None].expand(-1, rounds, 1)).mean().item()
        calibration = abs(cross + (log.exp() * log).sum(-1).mean().item())
        rows.append({"player": name, "calibration": calibration, "cross_entropy": cross})
        rows[-1]["excess"] = cross - rows[0]["cross_entropy"]
    return rows
