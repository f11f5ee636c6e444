"""The mixture of experts token by token, and what keeps its load even."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.nn.moe import MoEFeedForward, expert_load, load_entropy


def token_by_token(moe: MoEFeedForward, x: Tensor) -> Tensor:
    """The definition with a loop, and sorting instead of top-k."""
    out = torch.zeros_like(x)
    for i, token in enumerate(x):
        logits = moe.router.weight @ token
        scores = logits.exp() / logits.exp().sum()
        chosen = sorted(range(len(scores)), key=lambda e: -(scores[e] + moe.bias[e]).item())[: moe.top_k]
        total = sum(scores[e] for e in chosen)
        out[i] = sum(scores[e] / total * moe.experts[e](token) for e in chosen)
        out[i] += sum((expert(token) for expert in moe.shared), torch.zeros_like(token))
    return out


@pytest.mark.parametrize(("experts", "k", "shared"), [(4, 1, 0), (5, 2, 1), (3, 3, 2), (1, 1, 0)])
def test_each_token_by_itself(experts: int, k: int, shared: int) -> None:
    torch.manual_seed(0)
    moe = MoEFeedForward(6, 5, num_experts=experts, top_k=k, num_shared=shared).eval()
    moe.bias.copy_(0.1 * torch.randn(experts))
    x = torch.randn(2, 7, 6)
    y, _ = moe(x)
    torch.testing.assert_close(y, token_by_token(moe, x.flatten(0, 1)).view_as(x))
    if experts > k:
        moe.bias.zero_()[-1] = 2.0  # the last one is always chosen: the control
        assert not torch.allclose(moe(x)[0], y)
        assert bool((moe.route(x.flatten(0, 1)).experts == experts - 1).any(-1).all())


def test_an_expert_is_the_gated_mlp() -> None:
    expert = MoEFeedForward(4, 3).experts[0]
    x = torch.randn(4)
    gate = expert.gate.weight @ x
    hidden = gate / (1 + (-gate).exp()) * (expert.up.weight @ x)
    torch.testing.assert_close(expert(x), expert.down.weight @ hidden)


def test_the_balance_loss() -> None:
    """E sum f P by counting, its minimum where all is even, E / k where k experts do everything."""
    torch.manual_seed(0)
    moe = MoEFeedForward(6, 5, num_experts=4, top_k=2, balance_weight=1.0)
    x = torch.randn(3, 20, 6)
    _, loss = moe(x)
    experts, _, scores = moe.route(x.flatten(0, 1))
    f = [sum(int(e == i) for e in experts.flatten().tolist()) / experts.numel() for i in range(4)]
    expected = 4 * sum(f[i] * scores[:, i].mean() for i in range(4))
    torch.testing.assert_close(loss, torch.as_tensor(expected))
    loss.backward()
    assert moe.router.weight.grad is not None
    assert float(moe.router.weight.grad.norm()) > 0
    with torch.no_grad():
        moe.router.weight.zero_()
        assert moe(x)[1].item() == pytest.approx(1)
        moe.router.weight[:2, 0] = 100.0
        assert moe(x.abs() + 1)[1].item() == pytest.approx(2, abs=1e-3)


def test_the_bias_moves_against_the_load() -> None:
    torch.manual_seed(0)
    moe = MoEFeedForward(6, 5, num_experts=4, top_k=1, balance="bias", balance_weight=0.01)
    with torch.no_grad():
        moe.router.weight[2] += 0.3
    x = torch.randn(1, 200, 6) + 1
    start = load_entropy(expert_load(moe.route(x[0]).experts, 4))
    assert moe(x)[1] == 0
    assert moe.bias[2] == -0.01
    moe.eval()(x)
    assert moe.bias[2] == -0.01  # nothing moves in evaluation
    moe.train()
    for _ in range(150):
        moe(x)
    assert float(load_entropy(expert_load(moe.route(x[0]).experts, 4))) > 0.9 > float(start)


def test_without_balance_nothing_pulls() -> None:
    moe = MoEFeedForward(6, 5, balance="none")
    _, loss = moe(torch.randn(2, 9, 6))
    assert loss == 0
    assert not moe.bias.any()


def test_load() -> None:
    load = expert_load(torch.tensor([[0, 1], [0, 3], [0, 1], [0, 1]]), 4)
    assert load.tolist() == [0.5, 0.375, 0, 0.125]
    expected = -sum(p * math.log(p) for p in (0.5, 0.375, 0.125)) / math.log(4)
    assert load_entropy(load).item() == pytest.approx(expected)
    assert load_entropy(torch.full((3, 8), 1 / 8)).tolist() == pytest.approx([1, 1, 1])


def test_every_expert_that_is_used_gets_a_gradient() -> None:
    torch.manual_seed(0)
    moe = MoEFeedForward(6, 5, num_experts=3, top_k=2)
    y, loss = moe(torch.randn(4, 30, 6))
    (y.square().sum() + loss).backward()
    for name, parameter in moe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_in_mixed_precision() -> None:
    torch.manual_seed(0)
    moe, x = MoEFeedForward(8, 8).eval(), torch.randn(2, 30, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y, _ = moe(x)
        assert moe.route(x[0]).scores.dtype == torch.float32
    exact = moe(x)[0].detach()
    assert float((y.float() - exact).norm() / exact.norm()) < 2e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 2, "top_k": 3}, "top_k is 3"),
        ({"num_shared": -1}, "num_shared -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"balance": "luck"}, "balance is 'luck'; expected one of 'loss'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MoEFeedForward(4, 4, **options)  # type: ignore[arg-type]
