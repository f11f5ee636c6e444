import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from assay._errors import InputError
from assay.measures import attention
from assay.measures.attention import (
    attention_entropy,
    entropy_regime,
    first_token_mass,
    max_attention_entropy,
    normalised_attention_entropy,
    previous_token_mass,
)


def causal(
    length: int, *, window: int | None = None, seed: int = 0, scale: float = 2.0, batch: tuple[int, ...] = ()
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*batch, length, length, generator=generator, dtype=torch.float64)
    return logits.masked_fill(~reach(length, window), -torch.inf).softmax(-1)


def reach(length: int, window: int | None = None) -> Tensor:
    gap = torch.arange(length)[:, None] - torch.arange(length)
    return (gap >= 0) & (gap < (window or length))


def uniform(length: int, window: int | None = None) -> Tensor:
    mask = reach(length, window).double()
    return mask / mask.sum(-1, keepdim=True)


def test_doctests() -> None:
    assert doctest.testmod(attention).failed == 0


def test_entropy_agrees_with_scipy() -> None:
    weights = causal(20, batch=(2, 3))
    torch.testing.assert_close(attention_entropy(weights).numpy(), stats.entropy(weights.numpy(), axis=-1))


@pytest.mark.parametrize("window", [None, 1, 5])
def test_uniform_rows_have_the_largest_entropy(window: int | None) -> None:
    weights, keys = uniform(12, window), torch.arange(1, 13, dtype=torch.float64).clamp(max=window or 12)
    torch.testing.assert_close(attention_entropy(weights), keys.log())
    torch.testing.assert_close(max_attention_entropy(12, window), keys.log())
    expected = torch.where(keys > 1, 1.0, torch.nan).double()
    torch.testing.assert_close(normalised_attention_entropy(weights, window), expected, equal_nan=True)


def test_one_hot_rows_have_exactly_no_entropy() -> None:
    weights = torch.eye(6)
    assert (attention_entropy(weights) == 0).all()
    assert (normalised_attention_entropy(weights)[1:] == 0).all()


def test_dropped_sink_column_renormalises_the_row() -> None:
    with_sink = causal(10)
    kept = with_sink[:, 1:]
    expected = stats.entropy(kept[2:].numpy(), axis=-1)  # scipy renormalises too
    torch.testing.assert_close(attention_entropy(kept)[2:].numpy(), expected)
    assert attention_entropy(kept)[0].isnan()  # row 0 had all its mass on the dropped column


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 24), st.integers(0, 10_000), st.floats(0, 30), st.sampled_from([None, 2, 7]))
def test_entropy_lies_between_its_bounds(length: int, seed: int, scale: float, window: int | None) -> None:
    weights = causal(length, seed=seed, scale=scale, window=window)
    entropy = attention_entropy(weights)
    # min-entropy and Rényi-2 entropy are lower bounds, the logarithm of the reach is the upper one
    collision = -weights.square().sum(-1).log()
    assert (entropy >= collision - 1e-12).all()
    assert (entropy >= -weights.amax(-1).log() - 1e-12).all()
    assert (entropy <= max_attention_entropy(length, window) + 1e-12).all()
    ratio = normalised_attention_entropy(weights, window)
    assert ratio[0].isnan()
    assert ((ratio[1:] >= 0) & (ratio[1:] <= 1)).all()


def test_zhais_lower_bound_holds_and_is_tight_at_its_extreme_logits() -> None:
    # Zhai et al. 2023, Theorem: logits of norm s have at least this entropy, attained by one high and equal low ones
    T, s = 16, 3.0
    beta = math.exp(-s * math.sqrt(T / (T - 1)))
    bound = math.log(1 + (T - 1) * beta) + s * math.sqrt(T * (T - 1)) * beta / (1 + (T - 1) * beta)
    extreme = torch.full((1, T), -s / math.sqrt(T * (T - 1)), dtype=torch.float64)
    extreme[0, 0] = s * math.sqrt((T - 1) / T)
    assert attention_entropy(extreme.softmax(-1)).item() == pytest.approx(bound, rel=1e-12)
    logits = torch.randn(500, T, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = s * logits / logits.norm(dim=-1, keepdim=True)
    assert (attention_entropy(logits.softmax(-1)) >= bound).all()


def test_entropy_ignores_the_order_of_keys_and_the_scale_of_rows() -> None:
    weights = causal(15)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(attention_entropy(weights[:, order]), attention_entropy(weights))
    torch.testing.assert_close(attention_entropy(weights * 0.3), attention_entropy(weights))


@pytest.mark.parametrize(
    "measure", [attention_entropy, normalised_attention_entropy, first_token_mass, previous_token_mass]
)
def test_batch_gives_what_each_item_gives(measure) -> None:
    weights = causal(9, batch=(2, 3))
    together = measure(weights)
    assert together.shape == (2, 3, 9)
    for b in range(2):
        for h in range(3):
            torch.testing.assert_close(together[b, h], measure(weights[b, h]), equal_nan=True)


def test_half_precision_weights_are_computed_in_float32() -> None:
    weights = uniform(512).to(torch.bfloat16)
    entropy = attention_entropy(weights)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy.double(), max_attention_entropy(512), atol=1e-5, rtol=0)


def test_masses_read_the_first_column_and_the_subdiagonal() -> None:
    weights = causal(8)
    first, previous = first_token_mass(weights), previous_token_mass(weights)
    for i in range(8):
        assert first[i] == weights[i, 0]
        assert previous[i] == weights[i, i - 1] if i else previous[i].isnan()


@pytest.mark.parametrize("length", [0, 1])
def test_short_texts(length: int) -> None:
    weights = torch.ones(2, length, length)
    for measure in (attention_entropy, normalised_attention_entropy, first_token_mass, previous_token_mass):
        if length or measure is not first_token_mass:
            assert measure(weights).shape == (2, length)


def test_gradients_are_right_and_finite_through_a_causal_mask() -> None:
    logits = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = ~reach(5)

    def entropy(x: Tensor) -> Tensor:
        return attention_entropy(x.masked_fill(mask, -torch.inf).softmax(-1))

    def ratio(x: Tensor) -> Tensor:
        return normalised_attention_entropy(x.masked_fill(mask, -torch.inf).softmax(-1))[..., 1:]

    assert torch.autograd.gradcheck(attention_entropy, (logits.detach().softmax(-1).requires_grad_(),))
    assert torch.autograd.gradcheck(entropy, (logits,))
    assert torch.autograd.gradcheck(ratio, (logits,))


def test_regimes_are_quarters_of_the_largest_and_closed_below() -> None:
    entropies = torch.tensor([[0.0, 0.999, 1.0, 1.999], [2.0, 2.999, 3.0, 4.0]])
    expected = [["collapse", "collapse", "low", "low"], ["high", "high", "overload", "overload"]]
    assert entropy_regime(entropies).tolist() == expected
    assert entropy_regime(entropies.numpy() * 0.01).tolist() == expected
    assert entropy_regime(torch.zeros(2)).tolist() == ["collapse", "collapse"]
    assert entropy_regime([]).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_bad_numbers_are_refused_by_name(bad: float) -> None:
    weights = uniform(4)
    weights[2, 1] = bad
    for measure in (attention_entropy, normalised_attention_entropy, first_token_mass, previous_token_mass):
        with pytest.raises(InputError, match="weights lies between"):
            measure(weights)
    with pytest.raises(InputError, match="head_entropy holds"):
        entropy_regime(np.array([1.0, bad]))


def test_other_mistakes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"weights has shape \(3,\)"):
        attention_entropy(torch.ones(3))
    with pytest.raises(InputError, match=r"weights has shape \(2, 0\)"):
        first_token_mass(torch.ones(2, 0))
    with pytest.raises(InputError, match=r"weights has shape \(2, 3\); expected \(\.\.\., L, L\)"):
        previous_token_mass(torch.ones(2, 3))
    with pytest.raises(InputError, match=r"weights has dtype torch\.int64"):
        attention_entropy(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="window is 0"):
        max_attention_entropy(3, window=0)
    with pytest.raises(InputError, match="length is -1"):
        max_attention_entropy(-1)
    with pytest.raises(InputError, match="expected causal attention"):
        normalised_attention_entropy(torch.full((3, 3), 1 / 3))
    with pytest.raises(InputError, match="window = 2"):
        normalised_attention_entropy(uniform(6), window=2)
