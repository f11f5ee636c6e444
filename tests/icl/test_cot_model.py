from __future__ import annotations

import pytest
import torch

from assay import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import MLPTasks
from assay.icl.cot_model import CoTPromptModel, cot_loss
from assay.lab.training import train

SAMPLER = InContext(MLPTasks(3, 2, layers=3), GaussianInputs())


def prompts(num: int = 4, num_points: int = 5) -> Prompts:
    return SAMPLER.sample(num, num_points, generator=torch.Generator().manual_seed(0))


def model(in_steps: int, out_steps: int, *, shared_embed: bool = True) -> CoTPromptModel:
    torch.manual_seed(1)
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2}
    return CoTPromptModel(3, 2, in_steps, out_steps, 5, shared_embed=shared_embed, **sizes)


@pytest.mark.parametrize(("in_steps", "out_steps"), [(0, 0), (2, 0), (2, 2)])
@pytest.mark.parametrize("shared_embed", [True, False])
def test_what_is_predicted_at_a_position_has_not_been_read(in_steps: int, out_steps: int, shared_embed: bool) -> None:
    p, net = prompts(), model(in_steps, out_steps, shared_embed=shared_embed)
    before = net.rollout(p.xs, p.hidden, p.ys)
    assert before.shape == (4, 5)
    hidden, ys = [state.clone() for state in p.hidden], p.ys.clone()
    for one in (*hidden, ys):
        one[:, 3:] = 9.0
    after = net.rollout(p.xs, hidden, ys)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4], before[:, 4])


def test_without_own_steps_a_rollout_is_one_pass() -> None:
    p, net = prompts(), model(2, 0)
    loss = net(p.xs, p.hidden, p.ys)
    assert loss.shape == (1,)
    assert (net.rollout(p.xs, p.hidden, p.ys) - p.ys).square().mean().item() == pytest.approx(loss.item(), rel=1e-4)


def test_a_rollout_uses_the_models_own_steps_one_after_the_other() -> None:
    """Against a loop that changes one token at a time; the prompts are not changed."""
    p, net = prompts(), model(2, 2)
    kept = [state.clone() for state in p.hidden]
    found = net.rollout(p.xs, p.hidden, p.ys)
    assert all(torch.equal(a, b) for a, b in zip(kept, p.hidden, strict=True))
    for i in range(5):
        tokens = net._tokens(p.xs, list(p.hidden), p.ys)
        for j in range(2):
            out = net.transformer(tokens)[:, 4 * i + j, :-1]
            tokens = tokens.clone()
            tokens[:, 4 * i + j + 1, 6:8] = out
        torch.testing.assert_close(found[:, i], net.transformer(tokens)[:, 4 * i + 2, -1])
    forced = net.transformer(net._tokens(p.xs, list(p.hidden), p.ys))[:, 2::4, -1]
    assert not torch.allclose(found, forced, atol=1e-3)  # true steps would be optimistic


@pytest.mark.parametrize("shared_embed", [True, False])
def test_each_kind_of_token_is_read_by_a_map_of_its_own(shared_embed: bool) -> None:
    p, net = prompts(), model(2, 2, shared_embed=shared_embed)
    read, weight = net.transformer.read_in(net._tokens(p.xs, list(p.hidden), p.ys)), net.transformer.read_in.weight
    torch.testing.assert_close(read[:, ::4], p.xs @ weight[:, :3].mT + weight[:, 3])
    torch.testing.assert_close(read[:, 3::4], p.ys[..., None] * weight[:, 4] + weight[:, 5])
    torch.testing.assert_close(read[:, 1::4], p.hidden[0] @ weight[:, 6:8].mT + weight[:, 8])
    second = weight[:, 6:9] if shared_embed else weight[:, 9:12]
    torch.testing.assert_close(read[:, 2::4], p.hidden[1] @ second[:, :2].mT + second[:, 2])
    assert weight.shape[1] == (9 if shared_embed else 12)


def test_losses_sum_over_coordinates_and_average_over_positions() -> None:
    p, net = prompts(), model(2, 2)
    out = net.transformer(net._tokens(p.xs, list(p.hidden), p.ys))
    first = sum((out[:, 4 * i, c] - p.hidden[0][:, i, c]).square().mean() for i in range(5) for c in range(2)) / 5
    last = (out[:, 2::4, -1] - p.ys).square().mean()
    losses = net(p.xs, p.hidden, p.ys)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses[0], first)
    torch.testing.assert_close(losses[2], last)
    torch.testing.assert_close(cot_loss(net, p), losses.sum())


def test_it_trains() -> None:
    p, net = prompts(200), model(2, 2)
    before = cot_loss(net, p).item()
    train(net, lambda g: SAMPLER.sample(32, 5, generator=g), steps=40, seed=0, loss=cot_loss, lr=3e-3)
    assert cot_loss(net, p).item() < 0.9 * before


def test_bad_input() -> None:
    with pytest.raises(InputError, match="out_steps is 1"):
        model(2, 1)
    with pytest.raises(InputError, match="out_steps is 2"):
        model(0, 2)
    p, net = prompts(), model(2, 2)
    long = SAMPLER.sample(2, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="at most the 5 points"):
        net(long.xs, long.hidden, long.ys)
    with pytest.raises(InputError, match="hidden has shapes"):
        net.rollout(p.xs, p.hidden[:1], p.ys)
