"""Temperatures of heads and queries."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from assay._errors import InputError
from assay.measures.head_entropy import mean_head_entropy
from assay.nn.attention import SoftmaxAttention
from assay.nn.contract import check_mixer
from assay.nn.temperature_attention import TemperatureAttention

VARIANTS: dict[str, Any] = {
    "a head": TemperatureAttention,
    "a head and query": partial(TemperatureAttention, max_length=150, temperature=0.5),
    "all options": partial(TemperatureAttention, num_kv_heads=2, window=5, positions="alibi", temperature=2.0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_mixer_contract(name: str) -> None:
    check_mixer(lambda: VARIANTS[name](32))


def test_at_one_it_is_softmax_attention() -> None:
    torch.manual_seed(0)
    plain, warm, x = SoftmaxAttention(16), TemperatureAttention(16), torch.randn(2, 9, 16)
    warm.load_state_dict(plain.state_dict() | {"softness": warm.softness})
    torch.testing.assert_close(warm.temperature, torch.ones(4, 1))
    torch.testing.assert_close(warm(x), plain(x))


def test_logits_are_divided_head_by_head_and_query_by_query() -> None:
    torch.manual_seed(0)
    mixer, x = TemperatureAttention(16, positions="none", max_length=6), torch.randn(1, 6, 16)
    with torch.no_grad():
        mixer.softness.copy_(torch.randn(4, 6))
        q, k = ((x[0] @ w.weight.T).unflatten(-1, (4, 4)) for w in (mixer.q, mixer.k))
        weights = mixer.operator(x).to_dense()[0]
        for h in range(4):
            for i in range(6):
                t = (1 + mixer.softness[h, i].exp()).log()
                expected = (q[i, h] @ k[: i + 1, h].T / (2 * t)).softmax(0)
                torch.testing.assert_close(weights[h, i, : i + 1], expected)


def test_hot_heads_are_flat_and_cold_heads_sharp() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 30, 16)
    entropies = []
    for t in (0.01, 1.0, 100.0):
        torch.manual_seed(1)
        mixer = TemperatureAttention(16, temperature=t)
        assert mixer.temperature.unique().item() == pytest.approx(t, rel=1e-4)
        with torch.no_grad():
            entropies.append(mean_head_entropy(mixer.operator(x).to_dense(), normalised=True))
    cold, plain, hot = entropies
    assert bool((cold < plain).all())
    assert bool((plain < hot).all())
    assert float(hot.min()) > 0.999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"positions": "learned"}, "positions is 'learned'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TemperatureAttention(16, **options)


def test_more_tokens_than_temperatures() -> None:
    mixer = TemperatureAttention(16, max_length=3)
    with pytest.raises(InputError, match="there are 4 tokens; expected at most max_length = 3"):
        mixer(torch.randn(1, 4, 16))
    _, state = mixer.step(torch.randn(1, 16))
    for _ in range(2):
        _, state = mixer.step(torch.randn(1, 16), state)
    with pytest.raises(InputError, match="there are 4 tokens"):
        mixer.step(torch.randn(1, 16), state)
