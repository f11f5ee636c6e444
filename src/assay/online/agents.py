"""An agent is any callable from the losses so far to a policy; here one that answers in words, as a language model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*%?"
LIST = re.compile(rf"[\[(]\s*({NUMBER}(?:\s*[,;]\s*{NUMBER})*)\s*[\])]")
ACTION = re.compile(r"\b(?:action|option|arm|choose|pick|play)\W{0,3}(?:action|option|arm|number)?\W{0,3}(\d+)\b", re.I)
AGAIN = "\n\nThe answer could not be read. Give only the list of {d} probabilities in square brackets."


@dataclass(frozen=True)
class TextAgent:
    """An agent for d actions that is asked in words: `ask` takes a prompt and gives the reply of your endpoint.

        agent = TextAgent(lambda prompt: client.complete(prompt), d=2)
        losses, policies = play(agent, LossSequence("alternating", T=25), generator=torch.Generator())

    Each sequence of a batch is asked by itself, once a round. Where a reply cannot be read it is asked again,
    `attempts` times in all; then `InputError` with the reply. Prompt and reading are ours; the prompts of Park et al.
    2025 are not known here.
    """

    ask: Callable[[str], str]
    d: int
    attempts: int = 3

    def __call__(self, history: Tensor) -> Tensor:
        return torch.stack([history.new_tensor(self._one(losses)) for losses in history])

    def _one(self, losses: Tensor) -> list[float]:
        prompt = build_prompt(losses, self.d)
        reply = ""
        for attempt in range(self.attempts):
            reply = self.ask(prompt + AGAIN.format(d=self.d) * (attempt > 0))
            policy = parse_policy(reply, self.d)
            if policy is not None:
                return policy
        raise InputError(
            f"the agent replied {reply[:200]!r}; expected {self.d} probabilities, or an action 1..{self.d}"
        )


def build_prompt(losses: Tensor, d: int) -> str:
    """The game and the losses (t, d) so far, in words. Raises `InputError` where losses have another shape."""
    if losses.ndim != 2 or losses.shape[-1] != d:
        raise InputError(f"losses has shape {tuple(losses.shape)}; expected (t, {d})")
    lines = [f"round {t}: {', '.join(f'{loss:g}' for loss in row)}" for t, row in enumerate(losses.tolist(), 1)]
    return (
        f"You choose among {d} actions, numbered 1 to {d}, round after round. In each round you give a probability for "
        "every action; then you are told the loss of every action. Keep your total expected loss small.\n\n"
        f"Losses so far, of actions 1 to {d}:\n" + ("\n".join(lines) or "none, this is the first round") + "\n\n"
        f"For round {len(lines) + 1}, end your answer with {d} probabilities in square brackets, such as "
        f"[{', '.join([f'{1 / d:.2f}'] * d)}]."
    )


def parse_policy(reply: str, d: int) -> list[float] | None:
    """The policy that a reply ends with; None where there is none.

    It is the last bracketed list of d numbers from 0 that add up to 1, or to 100, within 2 % (and is normalised);
    failing that, the last action that is named ("action 2"), or a reply that is a number only.

    >>> parse_policy("I think action 1 is bad: [20%, 80%]", 2), parse_policy("Action 2.", 2), parse_policy("no", 2)
    ([0.2, 0.8], [0.0, 1.0], None)
    """
    for found in reversed(LIST.findall(reply)):
        values = [float(part.strip().rstrip("%")) for part in re.split("[,;]", found)]
        total = sum(values)
        near_one = abs(total - 1) <= 0.02 or abs(total - 100) <= 2
        if len(values) == d and min(values) >= 0 and near_one:
            return [value / total for value in values]
    named = ACTION.findall(reply) or re.findall(r"^\W*(\d+)\W*$", reply)
    if named and 1 <= int(named[-1]) <= d:
        return [float(action == int(named[-1])) for action in range(1, d + 1)]
    return None
