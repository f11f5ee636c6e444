"""Profiles: what the adaptive one leaves out can be trusted to the error it states."""

from typing import Any

import pytest
import torch

from assay.measures import _evaluate
from assay.measures.state_size import StateSizeProfile, state_size_profile
from assay.operators import DenseOperator, JacobianOperator, RecurrentOperator
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


def float32_recurrence(channels: int, length: int, **changes: torch.Tensor) -> RecurrentOperator:
    g = torch.Generator().manual_seed(6)
    A = 1 - 0.3 * torch.rand(channels, length, 8, generator=g)
    B, C = torch.randn(2, channels, length, 8, generator=g)
    return RecurrentOperator(**{"A": A, "B": B, "C": C} | changes)


def test_adaptive_recurrences_in_float32_go_by_their_gramians(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as the factors for what is asked for; the channels for which they are too coarse go by factors."""
    operator = float32_recurrence(6, 200)
    full = state_size_profile(operator, positions="all")
    exact, calls = RecurrentOperator.hankel_singular_values, []
    monkeypatch.setattr(
        RecurrentOperator,
        "hankel_singular_values",
        lambda self, where: calls.append(tuple(self.batch_shape)) or exact(self, where),
    )
    adaptive = state_size_profile(operator, positions="adaptive")
    assert calls == []
    assert torch.allclose(adaptive.entropy_ess, full.entropy_ess[:, adaptive.positions - 1], rtol=1e-4)
    assert torch.equal(adaptive.tolerance_ess, full.tolerance_ess[:, adaptive.positions - 1])

    loud = operator.B.clone()
    loud[2] *= 1e5  # its Gramians do not resolve the tolerance, which is absolute
    mixed = float32_recurrence(6, 200, B=loud)
    adaptive = state_size_profile(mixed, positions="adaptive")
    assert set(calls) == {(1,)}
    full = state_size_profile(mixed, positions="all")
    assert torch.equal(adaptive.tolerance_ess, full.tolerance_ess[:, adaptive.positions - 1])

    state_size_profile(operator.double(), positions="adaptive")
    assert calls[-1] == (6,)  # float64 entries are taken at their word


def test_a_closed_gate_carries_nothing_in_either_way() -> None:
    A = float32_recurrence(2, 120).A.clone()
    A[:, 60] = 0
    profile = state_size_profile(float32_recurrence(2, 120, A=A), positions="adaptive", required=[59, 60, 61])
    at = profile.positions.tolist().index(60)
    assert profile.entropy_ess[:, at].tolist() == [0, 0]
    assert profile.tolerance_ess[:, at].tolist() == [0, 0]
    assert (profile.entropy_ess[:, at + 1] > 0).all()


def test_means_of_groups_need_fewer_positions_than_every_channel() -> None:
    """What is shown of 64 jagged channels is 4 means, which are smoother; their error is what is stated."""
    operator = float32_recurrence(64, 300)
    groups = [slice(k, k + 16) for k in range(0, 64, 16)]
    grouped = state_size_profile(operator, positions="adaptive", groups=groups)
    single = state_size_profile(operator, positions="adaptive")
    full = state_size_profile(operator, positions="all")

    def means(profile: StateSizeProfile) -> torch.Tensor:
        curves = profile.interpolate(profile.entropy_ess, 300)
        return torch.stack([curves[group].mean() for group in groups])

    assert len(grouped.positions) < len(single.positions)
    off = (means(grouped) / means(full) - 1).square().mean().sqrt()
    assert off <= 0.0075
    assert off <= 3 * grouped.error


def test_a_jacobian_may_carry_all_its_channels() -> None:
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    profile = state_size_profile(
        JacobianOperator(lambda x: x.cumsum(-2) @ mix, torch.zeros(5, 3, dtype=torch.float64)), tolerance=1e-6
    )
    assert profile.attainable.tolist() == [3, 6, 6, 3]
    assert profile.tolerance_ess.tolist() == [3, 3, 3, 3]


def test_a_recurrence_begins_with_enough_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation goes through the sequence anew: one is enough for means of channels, and for one channel not."""
    operator, calls = float32_recurrence(64, 600), []
    gramian = RecurrentOperator.gramian_singular_values
    monkeypatch.setattr(
        RecurrentOperator, "gramian_singular_values", lambda self, where: calls.append(where) or gramian(self, where)
    )
    profile = state_size_profile(operator, positions="adaptive", groups=[slice(0, 64)], required=[100, 101])
    assert len(calls) == 1
    assert {100, 101} <= set(calls[0])
    assert profile.positions.diff().max() <= 16

    calls.clear()
    state_size_profile(operator[:1], positions="adaptive")
    assert len(calls) > 1
