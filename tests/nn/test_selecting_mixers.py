"""Mixers of Zoology that choose by the input where to look, and when."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.nn.attention import SoftmaxAttention
from assay.nn.autocorrelation_conv import AutocorrelationConv
from assay.nn.contract import check_mixer
from assay.nn.selective_attention import SelectiveAttention


def test_contract():
    check_mixer(lambda: AutocorrelationConv(16))
    check_mixer(lambda: SelectiveAttention(16, num_heads=2))


# ---- one tap at the peak of the autocorrelation


def slow_lags(x: Tensor) -> list[int]:
    """By the definition: the latest of the most similar earlier tokens, and the one behind it."""
    unit = x / x.norm(dim=-1, keepdim=True)
    lags = [-1]
    for t in range(1, len(x)):
        alike = [float(unit[t] @ unit[j]) for j in range(t)]
        peak = max(j for j in range(t) if alike[j] >= max(alike) - 1e-5)
        lags.append(t - peak - 1)
    return lags


def test_it_looks_behind_the_most_similar_token():
    torch.manual_seed(0)
    mixer, x = AutocorrelationConv(6).double(), torch.randn(2, 30, 6, dtype=torch.double)
    features = mixer.features(x)

    for b in range(2):
        assert features.lag[b].tolist() == slow_lags(x[b])
        y = torch.zeros(30, 6, dtype=torch.double)
        for t, lag in enumerate(slow_lags(x[b])):
            if lag >= 0:
                y[t] = x[b, t - lag]
        torch.testing.assert_close(mixer(x)[b], mixer.gate_proj(x[b]) * (y + mixer.bias))


def test_a_repeated_token_reads_what_followed_it_last():
    """a v b w a: the last a reads v. With a v a w a it reads w."""
    torch.manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    mixer = AutocorrelationConv(32)
    for tokens, lag in (([0, 1, 2, 3, 0], 3), ([0, 1, 0, 3, 0], 1), ([4, 4, 4], 0)):
        x = table[torch.tensor(tokens)][None] * torch.rand(1, len(tokens), 1).add(0.5)  # lengths do not matter
        assert mixer.features(x).lag[0, -1] == lag
    assert mixer.features(table[torch.tensor([0, 1, 2, 0, 1])][None]).lag[0].tolist()[3:] == [2, 2]


def test_the_operator_has_one_tap_for_each_token():
    torch.manual_seed(0)
    x = torch.randn(2, 30, 6)
    T = AutocorrelationConv(6).operator(x).to_dense()

    assert T.shape == (2, 1, 30, 30)
    assert (T[:, :, 0] == 0).all()
    assert (T[:, :, 1:].sum(-1) == 1).all()
    assert ((T == 0) | (T == 1)).all()
    assert not torch.equal(T[0], T[1])  # it depends on the input


# ---- attention where it is asked for


def test_a_position_that_is_not_selected_gets_nothing():
    torch.manual_seed(0)
    mixer, x = SelectiveAttention(8, num_heads=2), torch.randn(3, 40, 8)
    torch.nn.init.zeros_(mixer.select.bias)
    plain = SoftmaxAttention(8, num_heads=2)
    plain.load_state_dict({name: value for name, value in mixer.state_dict().items() if "select" not in name})
    chosen = mixer.select(x)[..., 0] > 0

    y = mixer(x)

    assert 0.2 < chosen.float().mean() < 0.8
    torch.testing.assert_close(y[chosen], plain(x)[chosen])
    assert (y[~chosen] == 0).all()
    assert mixer.share is not None
    assert mixer.share.item() == pytest.approx(chosen.float().mean().item())


def test_the_share_can_be_trained():
    torch.manual_seed(0)
    mixer, x = SelectiveAttention(8, num_heads=2), torch.randn(3, 40, 8)
    optimizer = torch.optim.SGD(mixer.select.parameters(), lr=1.0)
    shares = []
    for _ in range(50):
        mixer(x)
        assert mixer.share is not None
        shares.append(mixer.share.item())
        torch.relu(mixer.share - 0.1).backward()
        optimizer.step()
        optimizer.zero_grad()

    assert shares[0] > 0.5
    assert shares[-1] <= 0.1


def test_it_can_be_copied_and_saved_after_a_forward(tmp_path):
    torch.manual_seed(0)
    mixer, x = SelectiveAttention(8, num_heads=2), torch.randn(1, 9, 8)
    y = mixer(x)

    again = deepcopy(mixer)
    assert again.share is None
    assert torch.equal(again(x), y)
    torch.save(mixer, tmp_path / "mixer.pt")


def test_bad_input():
    with pytest.raises(InputError, match="num_heads is 0"):
        SelectiveAttention(8, num_heads=0)
