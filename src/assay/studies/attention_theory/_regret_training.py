"""Networks trained with the regret loss, or on choices, and then met by every sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.lab import Row
from assay.lab.training import train
from assay.losses.regret_loss import RegretLoss
from assay.models.small_transformer import SmallTransformer
from assay.online.attention_policy import LinearAttentionPolicy, ftrl_equivalent
from assay.online.decisions import Ball, Simplex
from assay.online.network_policy import NetworkPolicy
from assay.online.optimal_values import isotropic_rate
from assay.online.players import FTL, FTPL, Hedge
from assay.online.regret import regret
from assay.online.sequences import LARGEST, LossSequence
from assay.studies.attention_theory._regret_play import BOUNDED, Player, meet
from assay.studies.attention_theory._regret_theory import hidden_means

H: dict[str, Callable[[Tensor], Tensor]] = {"square": torch.square, "identity": lambda regrets: regrets}


def ball(*, d: int, horizon: int, h: str, steps: int, batch: int, lr: float, device: str, seed: int) -> Row:
    """Linear attention on a ball, trained without projection on standard normal losses; then its V beside -I."""
    policy, loss, decisions = LinearAttentionPolicy(d, Ball()).to(device), RegretLoss(H[h]), Ball()

    def objective(model: LinearAttentionPolicy, losses: Tensor) -> Tensor:
        return loss(regret(losses, model.scores(losses), decisions)[:, -1])

    _train(policy, objective, d, horizon, steps=steps, batch=batch, lr=lr, seed=seed)
    return {"h": h, "d": d, "horizon": horizon} | _weights(policy, isotropic_rate(d, horizon))


def simplex(
    *, d: int, horizon: int, h: str, group: int, steps: int, batch: int, lr: float, device: str, seed: int
) -> list[Row]:
    """Linear attention with a softmax, the same; `group`: N sequences in a term of the loss. Rows: one a sequence."""
    policy = LinearAttentionPolicy(d).to(device)
    loss = RegretLoss(H[h], sharpness=float(group > 1), n_sequences=group)
    _train(policy, _objective(loss), d, horizon, steps=steps, batch=batch, lr=lr, seed=seed)
    about = {"h": h, "group": group, "d": d, "horizon": horizon} | _weights(policy)
    return [about | row for row in against_all(policy, d, horizon, device, seed)]


def transformer(
    *, d: int, horizon: int, width: int, layers: int, steps: int, batch: int, lr: float, device: str, seed: int
) -> list[Row]:
    """A small transformer with a softmax, before ("untrained") and after. A row for each sequence."""
    policy = _transformer(d, horizon, width, layers).to(device)
    before = against_all(policy, d, horizon, device, seed)
    _train(policy, _objective(RegretLoss()), d, horizon, steps=steps, batch=batch, lr=lr, seed=seed)
    after = against_all(policy, d, horizon, device, seed)
    return [new | {"untrained": old["trained"]} for old, new in zip(before, after, strict=True)]


def pretraining(
    *, d: int, rounds: int, width: int, layers: int, steps: int, batch: int, lr: float, device: str, seed: int
) -> Row:
    """A small transformer that learns to tell the best action from noisy losses, by cross-entropy; then the mean total
    variation between its policies and those of FTPL, at three rates, on fresh losses."""
    policy = _transformer(d, rounds, width, layers).to(device)

    def objective(_: nn.Module, drawn: tuple[Tensor, Tensor]) -> Tensor:
        chance = policy.policies(drawn[0]).clamp(min=1e-30)
        return -chance.gather(-1, drawn[1][:, None, None].expand(-1, rounds, 1)).log().mean()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return hidden_means(batch, rounds, d, generator)

    train(policy, draw, steps=steps, seed=seed, loss=objective, lr=lr, weight_decay=0)
    losses, _ = hidden_means(1000, rounds, d, torch.Generator(device).manual_seed(seed + 1000))
    with torch.no_grad():
        found = policy.policies(losses)
    names = {1.0: "distance", 0.5: "distance_half", 2.0: "distance_twice"}
    return {
        name: (FTPL(rate, anytime=True).policies(losses) - found).abs().sum(-1).mean() / 2
        for rate, name in names.items()
    } | {"distance_ftl": (FTL().policies(losses) - found).abs().sum(-1).mean() / 2}


@torch.no_grad()
def against_all(policy: Player, d: int, horizon: int, device: str, seed: int, batch: int = 64) -> list[Row]:
    """Regret_T / T of a network, of Hedge and of FTL on every sequence, means over `batch` of them. The network reads
    losses moved from [0, 10] to [-1, 1]: it was trained on losses of mean 0 and deviation 1."""
    hedge = Hedge(Hedge.best_rate(d, LARGEST), anytime=True)
    players: dict[str, Player] = {"trained": _Scaled(policy), "hedge": hedge, "ftl": FTL()}
    rows: list[Row] = []
    for kind in BOUNDED:
        row: Row = {"kind": kind}
        for name, player in players.items():
            course = regret(*meet(player, LossSequence(kind, d, horizon), batch, device, seed))
            row[name] = course[:, -1].mean() / horizon
        rows.append(row)
    return rows


class _Scaled:
    def __init__(self, policy: Player) -> None:
        self.policy = policy

    def __call__(self, history: Tensor) -> Tensor:
        return self.policy(2 * history / LARGEST - 1)

    def policies(self, losses: Tensor) -> Tensor:
        return self.policy.policies(2 * losses / LARGEST - 1)


def _train(policy: nn.Module, objective: Callable[..., Tensor], d: int, horizon: int, *, steps: int, batch: int,
           lr: float, seed: int) -> None:  # fmt: skip
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(batch, horizon, d, device=generator.device, generator=generator)

    train(policy, draw, steps=steps, seed=seed, loss=objective, lr=lr, weight_decay=0)


def _objective(loss: RegretLoss) -> Callable[[Player, Tensor], Tensor]:
    return lambda model, losses: loss(regret(losses, model.policies(losses))[:, -1])


def _transformer(d: int, horizon: int, width: int, layers: int) -> NetworkPolicy:
    read_in = nn.Linear(d, width)
    return NetworkPolicy(
        SmallTransformer(read_in, d, d_model=width, num_layers=layers, num_heads=2, max_len=horizon + 1)
    )


@torch.no_grad()
def _weights(policy: LinearAttentionPolicy, rate: float | None = None) -> Row:
    """Cosine of V with -I, how much of it is not FTRL, its rate (over the one of the theorem), and how much weights
    depend on losses."""
    found = ftrl_equivalent(policy.total_values, simplex=isinstance(policy.decisions, Simplex))
    cosine = max(0.0, 1 - found.distance**2) ** 0.5 * (1 if found.eta > 0 else -1)
    row: Row = {"cosine": cosine, "eta": found.eta}
    row["keys"] = policy.weight_on_losses.norm() / policy.weight.abs()
    return row if rate is None else row | {"rate_ratio": found.eta / rate}
