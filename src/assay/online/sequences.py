"""Losses to play against, in [0, 10] mostly: drawn beforehand, or given by an adversary who sees the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.online.decisions import Decisions, Simplex
from assay.online.players import Agent

LARGEST = 10.0
Draw = Callable[[int, int, int, torch.Generator], Tensor]


def _uniform(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    return LARGEST * torch.rand(batch, T, d, dtype=torch.float64, device=generator.device, generator=generator)


def _symmetric(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, T, d, dtype=torch.float64, device=generator.device, generator=generator)


def _around(means: Tensor, generator: torch.Generator, spread: float = 1.0) -> Tensor:
    batch, T, d = means.shape
    return (means + spread * _symmetric(batch, T, d, generator)).clamp(0, LARGEST)


def _gaussian(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    return _around(_uniform(batch, 1, d, generator).expand(-1, T, -1), generator, 2.0)


def _linear(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    time = torch.linspace(0, 1, T, dtype=torch.float64, device=generator.device)[:, None]
    first, last = _uniform(batch, 2, d, generator).split(1, dim=1)
    return _around(first + (last - first) * time, generator)


def _sine(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    time = torch.linspace(0, 1, T, dtype=torch.float64, device=generator.device)[:, None]
    cycles, phase = _uniform(batch, 2, d, generator).split(1, dim=1)
    return _around(LARGEST / 2 * (1 + torch.sin(2 * math.pi * ((1 + cycles / 2) * time + phase))), generator)


def _gradual(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    walk = (_uniform(batch, 1, d, generator) + _symmetric(batch, T, d, generator).cumsum(1) / 2) % (2 * LARGEST)
    return torch.where(walk > LARGEST, 2 * LARGEST - walk, walk)  # reflected at both ends


def _abrupt(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    phase = (5 * torch.arange(T, device=generator.device)) // T
    return _around(_uniform(batch, 5, d, generator)[:, phase], generator)


def _alternating(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    total = torch.zeros(batch, d, dtype=torch.float64, device=generator.device)
    total[:, 0] = LARGEST / 2
    losses = [total]
    for _ in range(T - 1):
        losses.append(LARGEST * Simplex().best(total))
        total = total + losses[-1]
    return torch.stack(losses, 1)


def _noisy_alternating(batch: int, T: int, d: int, generator: torch.Generator) -> Tensor:
    rounds = torch.arange(1, T + 1, device=generator.device)
    good = torch.nn.functional.one_hot(rounds % d, d).bool()
    low = (25 / rounds).clamp(max=LARGEST).double()[:, None]
    return torch.where(good, low, 9 + _uniform(batch, T, d, generator) / LARGEST)


DRAWN: dict[str, Draw] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "linear": _linear,
    "sine": _sine,
    "gradual": _gradual,
    "abrupt": _abrupt,
    "alternating": _alternating,
    "noisy-alternating": _noisy_alternating,
    "symmetric": _symmetric,
}
ADAPTIVE = "adaptive"
KINDS = (*DRAWN, ADAPTIVE)


@dataclass(frozen=True)
class LossSequence:
    """Losses of d actions over T rounds, of one of `KINDS`:

    uniform            each from U[0, 10]
    gaussian           around a mean from U[0, 10] for each action, deviation 2, clipped
    linear, sine       a trend for each action, between two values from U[0, 10], or one to six cycles; noise 1, clipped
    gradual, abrupt    a reflected random walk with steps of 1/2; five phases, each with means of its own and noise 1
    alternating        (5, 0, ...), and then 10 on the action that FTL takes
    noisy-alternating  min(25 / t, 10) on the actions in turn, U[9, 10] on the others
    adaptive           10 on the likeliest action of the policy that is played (the first of several), 0 elsewhere
    symmetric          standard normal: to train on

    The names are those of Park et al. 2025 (arXiv 2403.16843), as is the law of the three that are made against greedy
    players (from memory); the constants of the others are ours. float64. Raises `InputError` for another kind or d < 2.
    """

    kind: str
    d: int = 2
    T: int = 200

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.d < 2 or self.T < 1:
            raise InputError(f"d is {self.d} and T is {self.T}; expected at least 2 actions and 1 round")

    def sample(self, batch: int, *, generator: torch.Generator) -> Tensor:
        """(batch, T, d), on the generator's device. The adaptive kind has no losses before it is played."""
        if self.kind == ADAPTIVE:
            raise InputError("kind is 'adaptive', whose losses depend on the player; expected play(agent, sequence)")
        return DRAWN[self.kind](batch, self.T, self.d, generator)


def answer(policy: Tensor) -> Tensor:
    """The adaptive adversary's losses for a policy (B, d): 10 on its largest entry."""
    return LARGEST * torch.nn.functional.one_hot(policy.argmax(-1), policy.shape[-1]).to(policy)


def play(
    agent: Agent,
    sequence: LossSequence,
    *,
    batch: int = 1,
    generator: torch.Generator,
    decisions: Decisions | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses and policies, (B, T, d) each, of an agent that meets `batch` sequences round by round.

    Each policy is checked: a wrong shape, or a policy outside `decisions` (the simplex by default), raises `InputError`
    with the round. The agent is called T times with the history so far. For players with `policies` and losses drawn
    beforehand, `player.policies(sequence.sample(...))` gives the same at once.
    """
    drawn = None if sequence.kind == ADAPTIVE else sequence.sample(batch, generator=generator)
    shape = (batch, sequence.T, sequence.d)
    losses = torch.zeros(shape, dtype=torch.float64, device=generator.device)
    policies = torch.zeros_like(losses)
    for t in range(sequence.T):
        policies[:, t] = checked(agent(losses[:, :t]), (batch, sequence.d), t + 1, decisions or Simplex())
        losses[:, t] = answer(policies[:, t]) if drawn is None else drawn[:, t]
    return losses, policies


def checked(policy: Tensor, shape: tuple[int, ...], round_: int, decisions: Decisions) -> Tensor:
    """The policy, if it is of that shape and in the set."""
    if policy.shape != shape:
        raise InputError(f"the agent's policy in round {round_} has shape {tuple(policy.shape)}; expected {shape}")
    inside = decisions.contains(policy)
    if not bool(inside.all()):
        worst = [round(value, 4) for value in policy[~inside][0].tolist()]
        raise InputError(f"the agent's policy in round {round_} is {worst}; expected one in {decisions}")
    return policy
