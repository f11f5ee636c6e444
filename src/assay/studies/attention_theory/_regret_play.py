"""Players on sequences, with regret and both checks; and players against each other."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from assay.lab import Row
from assay.online.checks import regression_check, trend_check
from assay.online.decisions import Simplex
from assay.online.games import RepeatedMatrixGame, zero_sum_equilibrium
from assay.online.players import FTL, FTPL, Agent, Hedge
from assay.online.regret import regret
from assay.online.sequences import ADAPTIVE, KINDS, LARGEST, LossSequence, play

BOUNDED = tuple(kind for kind in KINDS if kind != "symmetric")


class Player(Protocol):
    def __call__(self, history: Tensor) -> Tensor: ...
    def policies(self, losses: Tensor) -> Tensor: ...


def meet(player: Player, sequence: LossSequence, batch: int, device: str, seed: int) -> tuple[Tensor, Tensor]:
    """Losses and policies (B, T, d): of `batch` sequences, at once, or of the one that the adaptive adversary makes."""
    generator = torch.Generator(device).manual_seed(seed)
    if sequence.kind == ADAPTIVE:
        return play(player, sequence, generator=generator)
    losses = sequence.sample(batch, generator=generator)
    return losses, player.policies(losses)


def behaviour(*, d: int, horizon: int, batch: int, device: str, seed: int) -> list[Row]:
    """Means over `batch` sequences of each kind, of average regret and what the checks say; NaN slopes are left out."""
    rate = Hedge.best_rate(d, LARGEST)
    players: dict[str, Player] = {"FTL": FTL(), "Hedge": Hedge(rate, anytime=True), "FTPL": FTPL(rate, anytime=True)}
    rows: list[Row] = []
    for kind in BOUNDED:
        for name, player in players.items():
            course = regret(*meet(player, LossSequence(kind, d, horizon), batch, device, seed))
            trend, regression = trend_check(course), regression_check(course)
            rows.append(
                {
                    "player": name,
                    "kind": kind,
                    "d": d,
                    "horizon": horizon,
                    "average": regression.average.mean(),
                    "slope": regression.slope.nanmean(),
                    "p_slope": regression.p.nanmean(),
                    "p_trend": trend.p.mean(),
                }
            )
    return rows


def games(*, size: int, rounds: int, number: int, zero_sum: bool, device: str, seed: int) -> list[Row]:
    """Random payoffs from U[-1, 1]; both sides play Hedge, or answer best to the other's last move. Means over games
    after so many rounds: the duality gap of average play, the gap to a coarse correlated equilibrium, and what differs
    between the latter and the largest average regret, and between the payoff of average play and the exact value."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (2, number, size, size)
    first, second = 2 * torch.rand(shape, dtype=torch.float64, device=device, generator=generator) - 1
    game = RepeatedMatrixGame(first) if zero_sum else RepeatedMatrixGame(first, second)
    players: dict[str, Agent] = {"Hedge": Hedge(Hedge.best_rate(size, 2), anytime=True), "greedy": _greedy}
    rows: list[Row] = []
    for name, player in players.items():
        played = game.play(player, player, rounds)
        courses = regret(played.row_losses, played.row), regret(played.column_losses, played.column)
        T = 100
        while rounds >= T:
            x, y = played.row[:, :T], played.column[:, :T]
            cce, average = game.cce_gap(x, y), (x.mean(1), y.mean(1))
            largest = torch.maximum(*(course[:, T - 1] for course in courses)) / T
            row: Row = {"player": name, "zero_sum": zero_sum, "rounds": T, "cce": cce.mean()}
            row |= {"gap": game.duality_gap(*average).mean(), "differs": (cce - largest).abs().max()}
            if zero_sum:
                values = first.new_tensor([zero_sum_equilibrium(payoffs).value for payoffs in first])
                row["off_value"] = (torch.einsum("gm,gmn,gn->g", average[0], first, average[1]) - values).abs().mean()
            rows.append(row)
            T *= 10
    return rows


def _greedy(history: Tensor) -> Tensor:
    """The best answer to the last losses; at first the first action."""
    return Simplex().best(history[:, -1] if history.shape[1] else history.new_zeros(history[:, :0].sum(1).shape))
