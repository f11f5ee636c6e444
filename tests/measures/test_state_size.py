"""Profiles: what the adaptive one leaves out can be trusted to the error it states."""

from typing import Any

import pytest
import torch

from assay.measures import _evaluate
from assay.measures.state_size import state_size_profile
from assay.operators import DenseOperator, RecurrentOperator
from assay.operators._everywhere import Everywhere


def random_attention(seed: int, heads: int, length: int, sharpness: float) -> DenseOperator:
    q, k = torch.randn(2, heads, length, 16, generator=torch.Generator().manual_seed(seed))
    logits = (sharpness * q @ k.mT / 4).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    return DenseOperator(torch.softmax(logits, -1))


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 8.0])
def test_the_adaptive_profile_is_within_the_error_that_it_states(sharpness: float) -> None:
    operator = random_attention(0, 4, 200, sharpness)
    full = state_size_profile(operator, positions="all", exact=True)
    adaptive = state_size_profile(operator, positions="adaptive")
    off = (
        adaptive.interpolate(adaptive.entropy_ess, 200).mean(-1) / full.interpolate(full.entropy_ess, 200).mean(-1) - 1
    )

    assert 0 < adaptive.error <= 0.005
    assert off.square().mean().sqrt() <= adaptive.error
    assert off.abs().max() > 1e-6  # the control: it is not the full one under another name
    assert torch.equal(adaptive.tolerance_ess, full.tolerance_ess)
    assert full.error == 0


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 8.0])
def test_the_full_profile_is_the_direct_one_to_six_digits(sharpness: float) -> None:
    operator = random_attention(1, 2, 160, sharpness)
    direct = state_size_profile(operator, positions="all", exact=True)
    full = state_size_profile(operator, positions="all")

    assert torch.allclose(full.entropy_ess, direct.entropy_ess, rtol=1e-6, atol=0)
    assert torch.equal(full.tolerance_ess, direct.tolerance_ess)


def test_blocks_of_low_rank_are_found_out_and_done_exactly() -> None:
    """Linear attention in its dense form: what its determinants leave open is most of it."""
    q, k = torch.randn(2, 2, 160, 5, generator=torch.Generator().manual_seed(5)).double()
    operator = DenseOperator((q @ k.mT).tril())
    direct = state_size_profile(operator, positions="all", exact=True, tolerance=1e-9)
    full = state_size_profile(operator, positions="all", tolerance=1e-9)
    adaptive = state_size_profile(operator, positions="adaptive", tolerance=1e-9)

    assert torch.allclose(full.entropy_ess, direct.entropy_ess, rtol=1e-6, atol=0)
    assert torch.equal(full.tolerance_ess, direct.tolerance_ess)
    assert torch.equal(full.tolerance_ess[0, 4:155], torch.full((151,), 5.0).double())
    filled = adaptive.interpolate(adaptive.tolerance_ess, 160)[..., 1:]
    assert (filled - direct.tolerance_ess).abs().max() <= 4  # every eighth is found, neighbours differ by at most 1


def test_an_estimate_that_spectra_contradict_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Determinants that are wrong without knowing it: the checked positions show it, and spectra take over."""
    operator = random_attention(6, 2, 150, 1.0)
    full = state_size_profile(operator, positions="all", exact=True)
    right = _evaluate.everywhere

    def wrong(*args: Any, **kwargs: Any) -> Everywhere:
        found = right(*args, **kwargs)
        return Everywhere(1.2 * found.effective_rank, found.error, found.counts)

    monkeypatch.setattr(_evaluate, "everywhere", wrong)
    monkeypatch.setattr(_evaluate, "pays", lambda where, *_, **__: len(where) == 149)
    adaptive = state_size_profile(operator, positions="adaptive")

    assert len(adaptive.positions) < 149
    assert torch.allclose(adaptive.entropy_ess, full.entropy_ess[..., adaptive.positions - 1], rtol=1e-6)


def test_what_is_interpolated_is_exact_where_it_was_evaluated() -> None:
    """A sequence too short for anything but spectra: some positions, the required ones among them."""
    operator = random_attention(1, 2, 60, 1.0)
    full = state_size_profile(operator, positions="all")
    adaptive = state_size_profile(operator, positions="adaptive", required=[37, 38])
    mean = full.interpolate(full.entropy_ess, 60).mean(-1)

    assert {37, 38} <= set(adaptive.positions.tolist())
    assert len(adaptive.positions) < len(full.positions)
    assert torch.allclose(adaptive.entropy_ess, full.entropy_ess[..., adaptive.positions - 1], rtol=1e-6)
    assert torch.allclose(adaptive.interpolate(adaptive.entropy_ess, 60).mean(-1), mean, rtol=0.01)
    assert 0 < adaptive.error <= 0.0075


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
    operator = DenseOperator(torch.randn(20, 20, generator=torch.Generator().manual_seed(4)).tril())
    calls = []
    exact = DenseOperator.hankel_singular_values
    monkeypatch.setattr(DenseOperator, "hankel_singular_values", lambda self, p: calls.append(len(p)) or exact(self, p))

    state_size_profile(operator, tolerance=1e-3)
    assert calls == []
    state_size_profile(DenseOperator(torch.ones(20, 20).tril()))  # rank 1: the rest of a Gram spectrum is rounding
    assert calls.pop() > 10
    state_size_profile(operator, tolerance=1e-8)
    assert calls == [19]
