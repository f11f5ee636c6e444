"""Profiles: what the adaptive one leaves out can be trusted to the error it states."""

import pytest
import torch

from assay.measures.state_size import state_size_profile
from assay.operators import DenseOperator, RecurrentOperator


def random_attention(seed: int, heads: int, length: int, sharpness: float) -> DenseOperator:
    q, k = torch.randn(2, heads, length, 16, generator=torch.Generator().manual_seed(seed))
    logits = (sharpness * q @ k.mT / 4).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    return DenseOperator(torch.softmax(logits, -1))


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
def test_the_adaptive_profile_is_within_one_percent_of_the_full_one(sharpness: float) -> None:
    operator = random_attention(0, 4, 200, sharpness)
    full = state_size_profile(operator, positions="all")
    adaptive = state_size_profile(operator, positions="adaptive")
    mean = full.interpolate(full.entropy_ess, 200).mean(-1)

    assert len(adaptive.positions) < 0.6 * len(full.positions)
    assert torch.allclose(adaptive.interpolate(adaptive.entropy_ess, 200).mean(-1), mean, rtol=0.01)
    assert 0 < adaptive.error <= 0.0075
    assert full.error == 0


def test_the_adaptive_profile_evaluates_what_is_required_and_is_exact_there() -> None:
    operator = random_attention(1, 2, 100, 1.0)
    full = state_size_profile(operator, positions="all")
    adaptive = state_size_profile(operator, positions="adaptive", required=[37, 38])

    assert {37, 38} <= set(adaptive.positions.tolist())
    assert torch.allclose(adaptive.entropy_ess, full.entropy_ess[..., adaptive.positions - 1], rtol=1e-9)


def test_a_jagged_profile_is_not_taken_for_a_smooth_one() -> None:
    """The control: where ESS jumps at random, few positions cannot do and the profile asks for many."""
    g = torch.Generator().manual_seed(2)
    gates = torch.where(torch.rand(200, 1, generator=g) < 0.3, 1e-6, 0.99).double()
    operator = RecurrentOperator(gates, *torch.randn(2, 200, 8, generator=g).double())
    smooth = RecurrentOperator(torch.tensor([[0.99]]).double(), operator.B, operator.C)
    count = [len(state_size_profile(o, positions="adaptive").positions) for o in (operator, smooth)]

    assert count[0] > 1.5 * count[1]


def test_every_kth_position_and_the_caps() -> None:
    operator = DenseOperator(random_attention(3, 1, 30, 1.0).matrix, window=5)
    profile = state_size_profile(operator, positions=7)

    assert profile.positions.tolist() == [1, 8, 15, 22, 29]
    assert profile.tss.tolist() == [1, 4, 4, 4, 4]  # a window of 5 keeps 4 past positions
    assert profile.attainable.tolist() == [1, 4, 4, 4, 1]


def test_an_svd_is_used_where_the_tolerance_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gram spectra end at 1e-6 of the largest singular value: a smaller tolerance must not use them alone."""
    operator = random_attention(4, 1, 20, 1.0)
    calls = []
    exact = DenseOperator.hankel_singular_values
    monkeypatch.setattr(DenseOperator, "hankel_singular_values", lambda self, p: calls.append(len(p)) or exact(self, p))

    state_size_profile(operator, tolerance=1e-3)
    assert calls == []
    state_size_profile(operator, tolerance=1e-8)
    assert calls == [19]
