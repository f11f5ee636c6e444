"""An agent in words, with an endpoint that is not one; and networks as players."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from assay.models.small_transformer import SmallTransformer
from assay.online.agents import TextAgent, build_prompt, parse_policy
from assay.online.network_policy import NetworkPolicy
from assay.online.players import FTL
from assay.online.regret import regret
from assay.online.sequences import LossSequence, play


@pytest.mark.parametrize(
    ("reply", "policy"),
    [
        ("[0.25, 0.75]", [0.25, 0.75]),
        ("Losses were [5, 0], so I answer:\n**[0.1; 0.9]**", [0.1, 0.9]),
        ("first [0.5, 0.5], on reflection (0.2, 0.8)", [0.2, 0.8]),
        ("[20 %, 80%]", [0.2, 0.8]),
        ("[33, 67]", [0.33, 0.67]),
        ("[0.333, 0.666]", [1 / 3, 2 / 3]),
        ("[1e-1, .9]", [0.1, 0.9]),
        ("I choose action 2.", [0.0, 1.0]),
        ("Action: 1", [1.0, 0.0]),
        ("2", [0.0, 1.0]),
        ("[1.2, -0.2]", None),
        ("[0.5, 0.4]", None),
        ("[0.3, 0.3, 0.4]", None),
        ("action 3", None),
        ("[]", None),
        ("", None),
        ("both are bad", None),
    ],
)
def test_replies_are_read(reply: str, policy: list[float] | None) -> None:
    found = parse_policy(reply, 2)
    assert found == (policy if policy is None else pytest.approx(policy))


def greedy_endpoint(prompt: str) -> str:
    """Adds up the losses in the prompt, as a language model might, and follows the leader."""
    rounds = re.findall(r"^round \d+: ([\d.]+), ([\d.]+)$", prompt, re.M)
    totals = [sum(float(row[a]) for row in rounds) for a in range(2)]
    return (
        f"The totals are {totals}. [{1.0 if totals[0] <= totals[1] else 0.0}, {1.0 if totals[0] > totals[1] else 0.0}]"
    )


def test_an_endpoint_plays_as_what_it_computes() -> None:
    sequence = LossSequence("alternating", T=12)
    generator = torch.Generator().manual_seed(0)
    losses, policies = play(TextAgent(greedy_endpoint, 2), sequence, batch=2, generator=generator)

    torch.testing.assert_close(policies, FTL().policies(losses))
    assert regret(losses, policies)[0, -1] == 60
    prompt = build_prompt(losses[0, :2], 2)
    assert "round 1: 5, 0\nround 2: 0, 10" in prompt
    assert "For round 3" in prompt
    assert "none, this is the first round" in build_prompt(losses[0, :0], 2)


def test_what_cannot_be_read_is_asked_again_and_then_refused() -> None:
    replies = iter(["hm", "let me think", "[0.5, 0.5]"])
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return next(replies)

    assert TextAgent(ask, 2)(torch.zeros(1, 0, 2)).tolist() == [[0.5, 0.5]]
    assert "could not be read" not in prompts[0]
    assert "could not be read" in prompts[1]
    with pytest.raises(ValueError, match="the agent replied 'hm'; expected 2 probabilities"):
        TextAgent(lambda _: "hm", 2)(torch.zeros(1, 0, 2))
    with pytest.raises(ValueError, match=r"losses has shape \(1, 3\)"):
        TextAgent(greedy_endpoint, 2)(torch.zeros(1, 1, 3))


def small(max_len: int) -> NetworkPolicy:
    torch.manual_seed(0)
    read_in = nn.Linear(2, 8)
    return NetworkPolicy(SmallTransformer(read_in, 2, d_model=8, num_layers=1, num_heads=2, max_len=max_len))


@torch.no_grad()
def test_a_transformer_is_a_causal_player() -> None:
    policy = small(10)
    losses = LossSequence("symmetric", 2, 10).sample(3, generator=torch.Generator().manual_seed(0))
    policies = policy.policies(losses)
    changed = losses.clone()
    changed[:, 5:] += 3
    one_by_one = torch.stack([policy(losses[:, :t]) for t in range(10)], 1)

    torch.testing.assert_close(policies, one_by_one, rtol=0, atol=1e-5)
    torch.testing.assert_close(policy.policies(changed)[:, :6], policies[:, :6], rtol=0, atol=1e-6)
    assert (policy.policies(changed)[:, 6:] - policies[:, 6:]).abs().max() > 1e-4


def test_what_a_network_cannot_play_is_refused() -> None:
    with pytest.raises(ValueError, match="max_len = 3"):
        small(3).policies(torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match=r"network gave shape \(1, 4, 3\)"):
        NetworkPolicy(nn.Linear(2, 3)).policies(torch.zeros(1, 4, 2))
