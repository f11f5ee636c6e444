"""Normalised attention against its formula, and against the two mixers that it stands between."""

from functools import partial

import pytest
import torch
from torch.nn.functional import softplus

from assay._errors import InputError
from assay.nn.contract import check_mixer
from assay.nn.linear_attention import LinearAttention
from assay.nn.normalised_attention import NORMALISERS, NormalisedAttention
from assay.operators.equivalence import normalised_attention

ALL = [*NORMALISERS, "sum"]


@pytest.mark.parametrize("normaliser", ALL)
@pytest.mark.parametrize("key_size", [None, 3])
def test_contract(normaliser, key_size):
    check_mixer(lambda: NormalisedAttention(16, num_heads=2, key_size=key_size, normaliser=normaliser))


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_it_is_its_formula(normaliser):
    """`y_t = sum_j (q_t . k_j) v_j / f(w . x_t)`, one token after the other."""
    torch.manual_seed(0)
    mixer = NormalisedAttention(8, num_heads=2, key_size=3, normaliser=normaliser).double()
    f = {"exp": torch.exp, "softplus": softplus, "sigmoid": torch.sigmoid}[normaliser]
    x = torch.randn(1, 20, 8, dtype=torch.double)
    q, k, v = (mixer.qkv(x)[0, :, a:b].unflatten(-1, (2, -1)) for a, b in ((0, 6), (6, 12), (12, 20)))
    expected = torch.zeros(20, 2, 4, dtype=torch.double)
    for t in range(20):
        for head in range(2):
            eta = f(mixer.eta.weight[head] @ x[0, t])
            expected[t, head] = sum((q[t, head] @ k[j, head]) * v[j, head] for j in range(t + 1)) / eta

    torch.testing.assert_close(mixer(x)[0], mixer.out(expected.flatten(1)), rtol=1e-10, atol=1e-12)
    assert mixer.operator(x).state_size([7]).tolist() == [3]
    # the control: rows that sum to 1 are something else
    T = mixer.operator(x).to_dense()
    assert (T.sum(-1) - 1).abs().min() > 1e-3


def test_its_operator_is_that_of_the_framework():
    torch.manual_seed(0)
    mixer = NormalisedAttention(8, num_heads=2).double()
    x = torch.randn(2, 30, 8, dtype=torch.double)
    features = mixer.features(x)

    framework = normalised_attention(features.q, features.k, features.normaliser[..., 0].log())

    torch.testing.assert_close(mixer.operator(x).to_dense(), framework.to_dense(), rtol=1e-9, atol=1e-12)


def test_with_the_sum_it_is_linear_attention():
    torch.manual_seed(0)
    one, other = NormalisedAttention(12, num_heads=3, normaliser="sum"), LinearAttention(12, num_heads=3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 50, 12)

    torch.testing.assert_close(one(x), other(x))
    assert (one.operator(x).to_dense().sum(-1) - 1).abs().max() < 1e-5


def test_the_normaliser_does_not_see_the_past():
    torch.manual_seed(0)
    x = torch.randn(1, 20, 8)
    changed = torch.cat([-x[:, :10], x[:, 10:]], dim=1)
    for normaliser in ALL:
        mixer = NormalisedAttention(8, num_heads=2, normaliser=normaliser)
        before, after = (mixer.features(t).normaliser[:, :, 10:] for t in (x, changed))
        assert torch.equal(before, after) == (normaliser != "sum")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "d_model is 8; expected a positive multiple of num_heads = 3"),
        ({"num_heads": 3, "key_size": 4}, "d_model is 8; expected a positive multiple of num_heads = 3"),
        ({"key_size": 0}, "key_size is 0; expected at least 1"),
        ({"normaliser": "softmax"}, "normaliser is 'softmax'; expected one of 'exp', 'softplus', 'sigmoid', 'sum'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        partial(NormalisedAttention, 8)(**options)
