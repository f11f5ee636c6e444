"""Softmax attention and latent attention against their definitions, and what they keep between steps."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from assay._errors import InputError
from assay.nn._mixer import Mixer
from assay.nn.attention import SoftmaxAttention
from assay.nn.contract import check_mixer
from assay.nn.latent_attention import LatentAttention

VARIANTS: dict[str, Any] = {
    "multi-head": SoftmaxAttention,
    "grouped": partial(SoftmaxAttention, num_kv_heads=2),
    "one key head, alibi": partial(SoftmaxAttention, num_kv_heads=1, positions="alibi"),
    "window": partial(SoftmaxAttention, window=5),
    "window, grouped, alibi": partial(SoftmaxAttention, num_kv_heads=2, window=5, positions="alibi"),
    "no positions": partial(SoftmaxAttention, positions="none"),
    "latent": LatentAttention,
    "latent queries": partial(LatentAttention, q_lora_rank=8, kv_lora_rank=12, qk_rope_head_dim=4),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_mixer_contract(name: str) -> None:
    check_mixer(lambda: VARIANTS[name](32))


@pytest.mark.parametrize("name", VARIANTS)
def test_in_mixed_precision(name: str) -> None:
    torch.manual_seed(0)
    mixer, x = VARIANTS[name](32), torch.randn(2, 40, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
        _, state = mixer.step(x[:, 0])
        z, _ = mixer.step(x[:, 1], state)
    exact = mixer(x).detach()
    assert float((y.float() - exact).norm() / exact.norm()) < 5e-2
    assert float((z.float() - exact[:, 1]).norm() / exact[:, 1].norm()) < 5e-2


def turned(x: Tensor, position: int) -> Tensor:
    """Rotary embedding as a complex number for each pair (c, c + C / 2)."""
    half = len(x) // 2
    angles = position * 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag])


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_attention_pair_by_pair(positions: str, window: int | None) -> None:
    """The whole mixer from its weights, with loops over heads and pairs of tokens."""
    torch.manual_seed(0)
    mixer = SoftmaxAttention(16, num_heads=4, num_kv_heads=2, window=window, positions=positions).double()
    x = torch.randn(9, 16, dtype=torch.float64)
    q, k, v = x @ mixer.q.weight.T, x @ mixer.k.weight.T, x @ mixer.v.weight.T
    mixed = torch.zeros(9, 16, dtype=torch.float64)
    for h in range(4):
        own, shared = slice(4 * h, 4 * h + 4), slice(4 * (h // 2), 4 * (h // 2) + 4)
        for i in range(9):
            seen = range(0 if window is None else max(0, i - window + 1), i + 1)
            logits = []
            for j in seen:
                a, b = q[i, own], k[j, shared]
                if positions == "rope":
                    a, b = turned(a, i), turned(b, j)
                bias = 2.0 ** (-8 * (h + 1) / 4) * (i - j) if positions == "alibi" else 0.0
                logits.append(a @ b / 2 - bias)
            mixed[i, own] = torch.stack(logits).softmax(0) @ torch.stack([v[j, shared] for j in seen])
    torch.testing.assert_close(mixer(x[None])[0], mixed @ mixer.out.weight.T)


def test_another_window_is_seen() -> None:
    """The control of the comparison above."""
    torch.manual_seed(0)
    mixer, x = SoftmaxAttention(16, window=3), torch.randn(1, 9, 16)
    wide = SoftmaxAttention(16, window=4)
    wide.load_state_dict(mixer.state_dict())
    assert float((wide(x) - mixer(x)).detach().norm()) > 1e-2 * float(mixer(x).detach().norm())


@pytest.mark.parametrize("window", [1, 63, 64, 65, 100, 199, 200, 300])
@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_windows_of_any_width_in_blocks(window: int, positions: str) -> None:
    """Blocks against the operator, for windows narrower and wider than a block and than the sequence."""
    torch.manual_seed(0)
    mixer = SoftmaxAttention(16, window=window, positions=positions).double()
    for length in (64, 65, 128, 200):
        features = mixer.features(torch.randn(2, length, 16, dtype=torch.float64))
        torch.testing.assert_close(mixer.mix(features), mixer.to_operator(features).apply(features.values))


def test_groups_are_heads_that_share() -> None:
    """One key head for all equals four key heads with the same weights."""
    torch.manual_seed(0)
    one, all_heads = SoftmaxAttention(16, num_kv_heads=1), SoftmaxAttention(16)
    with torch.no_grad():
        for name in ("q", "k", "v", "out"):
            weight = getattr(one, name).weight
            getattr(all_heads, name).weight.copy_(weight.repeat(4, 1) if name in ("k", "v") else weight)
    x = torch.randn(1, 20, 16)
    torch.testing.assert_close(one(x), all_heads(x))


def test_the_operator_has_the_window() -> None:
    x = torch.randn(1, 20, 16)
    with torch.no_grad():
        operator = SoftmaxAttention(16, window=5).operator(x)
    assert operator.state_size([2, 10]).tolist() == [2, 4]
    assert float(operator.to_dense().tril(-5).abs().max()) == 0
    assert SoftmaxAttention(16).operator(x).state_size([10]).tolist() == [10]


def floats_kept(mixer: Mixer, tokens: int) -> int:
    """The numbers in the state after so many tokens, for one sequence."""
    state = None
    with torch.no_grad():
        for _ in range(tokens):
            _, state = mixer.step(torch.randn(1, mixer.d_model), state)
    assert isinstance(state, tuple)
    return sum(part.numel() for part in state if isinstance(part, Tensor))


@pytest.mark.parametrize(
    ("mixer", "a_token", "at_most"),
    [
        (SoftmaxAttention(32), 2 * 32, None),
        (SoftmaxAttention(32, num_kv_heads=2), 2 * 16, None),
        (SoftmaxAttention(32, num_kv_heads=1), 2 * 8, None),
        (SoftmaxAttention(32, window=7), 2 * 32, 6),
        (SoftmaxAttention(32, window=1), 2 * 32, 0),
        (LatentAttention(32), 32 + 4, None),
        (LatentAttention(32, kv_lora_rank=8, qk_rope_head_dim=2), 8 + 2, None),
    ],
)
def test_how_many_numbers_the_cache_holds(mixer: Mixer, a_token: int, at_most: int | None) -> None:
    for tokens in (3, 20):
        assert floats_kept(mixer, tokens) == a_token * (tokens if at_most is None else min(tokens, at_most))


def test_the_cache_shares_no_memory_with_what_was_dropped() -> None:
    """A window's cache must not keep the longer tensor alive of which it is a part."""
    _, state = (mixer := SoftmaxAttention(32, window=4)).step(torch.randn(1, 32))
    for _ in range(50):
        _, state = mixer.step(torch.randn(1, 32), state)
    assert state[0].untyped_storage().nbytes() <= 4 * 32 * state[0].element_size()


def test_latent_attention_pair_by_pair() -> None:
    """From the paper's equations, with keys and values unpacked for each token."""
    torch.manual_seed(0)
    mixer = LatentAttention(16, num_heads=2, q_lora_rank=6, kv_lora_rank=5, qk_rope_head_dim=4).double()
    x = torch.randn(7, 16, dtype=torch.float64)
    latent = rms_norm(x @ mixer.kv_down.weight.T, (5,), eps=1e-6)
    c_q = rms_norm(x @ mixer.q_down[0].weight.T, (6,), eps=1e-6)
    q = (c_q @ mixer.q_up.weight.T).unflatten(-1, (2, 12))
    mixed = torch.zeros(7, 16, dtype=torch.float64)
    for h in range(2):
        part = slice(8 * h, 8 * h + 8)
        keys, values = latent @ mixer.k_up.weight[part].T, latent @ mixer.v_up.weight[part].T
        for i in range(7):
            logits = torch.stack(
                [
                    q[i, h, :8] @ keys[j] + turned(q[i, h, 8:], i) @ turned(x[j] @ mixer.k_rope.weight.T, j)
                    for j in range(i + 1)
                ]
            )
            mixed[i, part] = (logits / math.sqrt(12)).softmax(0) @ values[: i + 1]
    torch.testing.assert_close(mixer(x[None])[0], mixed @ mixer.out.weight.T)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxAttention(30), "d_model is 30"),
        (lambda: SoftmaxAttention(12), "d_model is 12; expected an even"),
        (lambda: SoftmaxAttention(32, num_kv_heads=3), "num_kv_heads is 3"),
        (lambda: SoftmaxAttention(32, num_kv_heads=0), "num_kv_heads is 0"),
        (lambda: SoftmaxAttention(32, window=0), "window is 0"),
        (lambda: SoftmaxAttention(32, positions="learned"), "positions is 'learned'; expected one of 'rope'"),
        (lambda: LatentAttention(30), "d_model is 30"),
        (lambda: LatentAttention(32, kv_lora_rank=0), "kv_lora_rank is 0"),
        (lambda: LatentAttention(32, q_lora_rank=0), "q_lora_rank is 0"),
        (lambda: LatentAttention(32, qk_rope_head_dim=3), "qk_rope_head_dim is 3"),
    ],
)
def test_options_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_odd_head_needs_no_pairs_without_rotations() -> None:
    assert SoftmaxAttention(12, positions="none")(torch.randn(1, 4, 12)).shape == (1, 4, 12)
