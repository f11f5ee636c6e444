"""Prefix linear attention against its formula, token by token, and against its own recurrence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.nn.prefix_linear_attention import PrefixLinearAttention, set_prefix_len, taylor_exp_features


def layer(prefix_len: int, *, num_heads: int = 2) -> PrefixLinearAttention:
    torch.manual_seed(0)
    return PrefixLinearAttention(12, num_heads=num_heads, feature_dim=3, prefix_len=prefix_len).double()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def similarity(q: Tensor, k: Tensor) -> Tensor:
    z = q @ k / math.sqrt(len(q))
    return 1 + z + z**2 / 2


def slow(own: PrefixLinearAttention, x: Tensor) -> Tensor:
    """The formula, with the similarity and not its features: (L, d) -> (L, d)."""
    length = len(x)
    q, k, ke, v, ve = (
        project(x).view(length, own.num_heads, -1) for project in (own.q, own.k, own.encoder_k, own.v, own.encoder_v)
    )
    rows = []
    for i in range(length):
        parts = []
        for h in range(own.num_heads):
            seen = [(similarity(q[i, h], k[j, h]), v[j, h]) for j in range(i + 1)]
            seen += [(similarity(q[i, h], ke[j, h]), ve[j, h]) for j in range(min(own.prefix_len, length))]
            parts.append(sum(w * value for w, value in seen) / sum(w for w, _ in seen))
        rows.append(own.out(torch.cat(parts)))
    return torch.stack(rows)


def test_the_features_multiply_to_the_taylor_series() -> None:
    q, k = 3 * draw(50, 5), draw(50, 5, seed=1)
    products = (taylor_exp_features(q) * taylor_exp_features(k)).sum(-1)

    assert taylor_exp_features(q).shape == (50, 31)
    assert taylor_exp_features(draw(16)).shape == (273,)  # as published
    assert torch.allclose(products, torch.stack([similarity(*pair) for pair in zip(q, k, strict=True)]))
    assert float(products.min()) >= 0.5


@pytest.mark.parametrize("prefix_len", [0, 1, 6, 11, 20])
@torch.no_grad()
def test_it_is_its_formula(prefix_len: int) -> None:
    own, x = layer(prefix_len), draw(2, 11, 12)
    expected = torch.stack([slow(own, one) for one in x])

    assert torch.allclose(own(x), expected, atol=1e-12)
    set_prefix_len(own, 3)
    assert not torch.allclose(own(x), expected, atol=1e-3)  # the control: another prefix is another thing


@pytest.mark.parametrize("prefix_len", [0, 1, 40, 70])
@torch.no_grad()
def test_decoding_from_the_state_is_the_parallel_form(prefix_len: int) -> None:
    own, x = layer(prefix_len), draw(2, 150, 12)
    start = max(prefix_len, 1)
    y, state = own.prefill(x[:, :start])
    outputs = [y]
    for t in range(start, 150):
        y_t, state = own.step(x[:, t], state)
        outputs.append(y_t[:, None])

    assert torch.allclose(torch.cat(outputs, 1), own(x), atol=1e-12)
    assert state.shape == (2, 2, 13, 7)  # whatever the prefix is
    float_own, float_x = own.float(), x.float()
    y, state = float_own.prefill(float_x[:, :start])
    y_t, _ = float_own.step(float_x[:, start], state)
    assert torch.allclose(y_t, float_own(float_x)[:, start], atol=1e-5)


@torch.no_grad()
def test_the_prefix_is_seen_by_all_and_the_rest_only_by_what_follows() -> None:
    own, x = layer(4), draw(1, 9, 12)
    for j in range(9):
        changed = x.clone()
        changed[:, j] += 1
        moved = (own(changed) - own(x))[0].abs().amax(-1) > 1e-9

        assert moved.tolist() == [True] * 9 if j < 4 else [i >= j for i in range(9)]


def test_the_length_of_the_prefix_is_set_in_the_whole_model() -> None:
    model = torch.nn.Sequential(layer(0), torch.nn.Linear(12, 12), torch.nn.Sequential(layer(2)))
    set_prefix_len(model, 5)

    assert [m.prefix_len for m in model.modules() if isinstance(m, PrefixLinearAttention)] == [5, 5]


def test_every_parameter_gets_a_gradient() -> None:
    own = layer(4)
    own(draw(2, 9, 12)).square().sum().backward()

    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in own.parameters())


def test_without_a_prefix_it_begins_with_a_token() -> None:
    own, x = layer(0), draw(2, 1, 12)

    assert torch.allclose(own.step(x[:, 0])[0], own(x)[:, 0])
    with pytest.raises(InputError, match="state is None with prefix_len = 3; expected that of prefill"):
        layer(3).step(x[:, 0])


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="d_model is 12; expected a positive multiple of num_heads = 5"):
        layer(0, num_heads=5)
    with pytest.raises(InputError, match="prefix_len is -1; expected at least 0"):
        layer(-1)
    with pytest.raises(InputError, match="prefix_len is -2; expected at least 0"):
        set_prefix_len(layer(0), -2)
    with pytest.raises(InputError, match="feature_dim is 0; expected at least 1"):
        PrefixLinearAttention(12, feature_dim=0)
