"""Realisation and truncation: the state is as small as theory says, and the error is what is stated."""

import numpy as np
import pytest
import scipy.linalg
import torch

from assay import InputError
from assay.operators import ConvolutionOperator, DenseOperator, RecurrentOperator, SequenceOperator


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recurrence(seed: int, length: int, n: int, *batch: int) -> RecurrentOperator:
    """Dense transitions that shrink the state a little."""
    A = draw(seed, *batch, length, n, n) / (1.2 * n**0.5)
    return RecurrentOperator(A, *draw(seed + 100, 2, *batch, length, n), draw(seed + 200, *batch, length))


def padded(core: RecurrentOperator, extra: int) -> RecurrentOperator:
    """The same operator with `extra` states that no input reaches and `extra` that no output sees."""
    n, length = core.B.shape[-1], core.length
    size = n + 2 * extra
    A = draw(1, length, size, size) / size**0.5
    A[:, :n, n + extra :] = 0  # the unseen do not feed the core,
    A[:, n : n + extra, :n] = A[:, n : n + extra, n + extra :] = 0  # and nothing feeds the unreached
    A[:, :n, :n] = core.A
    B, C = draw(2, 2, length, size)
    B[:, :n], C[:, :n] = core.B, core.C
    B[:, n : n + extra] = 0
    C[:, n + extra :] = 0
    return RecurrentOperator(A, B, C, core.D)


def ranks(T: torch.Tensor, tolerance: float) -> list[int]:
    """scipy's, of each block."""
    return [int((scipy.linalg.svdvals(T[i:, :i].numpy()) > tolerance).sum()) for i in range(1, len(T))]


def forms(operator: RecurrentOperator) -> list[SequenceOperator]:
    return [operator, DenseOperator(operator.to_dense())]


def test_a_minimal_realisation_drops_the_states_that_do_nothing() -> None:
    """Experiment A of the specification: 5 states, 3 unreached and 3 unseen ones; ESS is 5 at positions 5..L-5."""
    core = recurrence(0, 40, 5)
    for operator in forms(padded(core, 3)):
        assert torch.allclose(operator.to_dense(), core.to_dense(), atol=1e-9)
        found = operator.realise()
        assert found.state_sizes.tolist() == [min(i, 40 - i, 5) for i in range(40)]
        assert found.operator.B.shape[-1] == 5
        assert torch.allclose(found.operator.to_dense(), core.to_dense(), atol=1e-10)
        assert float(found.error) < 1e-10

        one_less = operator.truncate(4)
        assert (one_less.operator.to_dense() - core.to_dense()).norm() > 1e-3
        assert one_less.state_sizes.max() == 4


def test_noise_of_full_rank_needs_every_state() -> None:
    """The control of experiment A: with noise below the diagonal the state grows to min(i, L - i)."""
    T = recurrence(0, 40, 5).to_dense() + 0.1 * draw(3, 40, 40).tril(-1)
    found = DenseOperator(T).realise()
    assert found.state_sizes.tolist() == [min(i, 40 - i) for i in range(40)]
    assert torch.allclose(found.operator.to_dense(), T, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 1, 3, 6, 8])
def test_the_error_of_a_truncation_is_known_exactly(rank: int) -> None:
    """Frobenius error as stated, spectral error within its bound, and neither below what any such state must leave."""
    for operator in forms(recurrence(5, 33, 8, 2)):
        T = operator.to_dense()
        found = operator.truncate(rank)
        wrong = found.operator.to_dense() - T
        assert torch.allclose(found.error, torch.linalg.matrix_norm(wrong), rtol=1e-8, atol=1e-10)
        assert (torch.linalg.matrix_norm(wrong, 2) <= found.error_bound + 1e-10).all()
        assert (found.error_bound <= found.error + 1e-10).all()
        assert (found.state_sizes <= rank).all()
        for k in range(2):
            least = max(np.square(scipy.linalg.svdvals(T[k, i:, :i].numpy())[rank:]).sum() for i in range(1, 33))
            assert float(found.error[k]) >= least**0.5 - 1e-10
            if rank < 8:  # and not far from it: nothing better than one step's loss can be had, all steps' are close
                assert float(found.error[k]) <= 3 * least**0.5


def test_a_worse_choice_of_states_makes_a_larger_error() -> None:
    """The control: keeping the last states instead of the most important ones, as dropping by index would."""
    operator = recurrence(5, 33, 8)
    T = operator.to_dense()
    naive = RecurrentOperator(operator.A[:, 5:, 5:], operator.B[:, 5:], operator.C[:, 5:], operator.D)
    assert torch.linalg.matrix_norm(naive.to_dense() - T) > 2 * operator.truncate(3).error


def test_a_tolerance_drops_what_lies_below_it() -> None:
    T = recurrence(6, 30, 6).to_dense()
    sizes = DenseOperator(T).realise(tolerance=0.3).state_sizes[1:]
    assert all(kept <= rank for kept, rank in zip(sizes.tolist(), ranks(T, 0.3), strict=True))
    assert sizes.max() < 6
    assert sizes.max() > 0


def test_known_answers() -> None:
    """A delay by 3 needs its last 3 inputs; a cumulative sum one number; the identity none."""
    delay = ConvolutionOperator(torch.eye(8, dtype=torch.float64)[3]).realise()
    assert delay.state_sizes.tolist() == [0, 1, 2, 3, 3, 3, 2, 1]
    assert DenseOperator(torch.ones(6, 6).tril()).realise().state_sizes.tolist() == [0, 1, 1, 1, 1, 1]
    identity = DenseOperator(torch.eye(4, dtype=torch.float64)).realise()
    assert identity.state_sizes.tolist() == [0] * 4
    assert torch.equal(identity.operator.to_dense(), torch.eye(4, dtype=torch.float64))


def test_gates_that_close_empty_the_state() -> None:
    """Where the transition is 0 nothing is carried on, and the state starts anew."""
    operator = recurrence(7, 20, 4)
    operator.A = operator.A.clone()
    operator.A[10] = 0
    for form in forms(operator):
        assert form.realise().state_sizes[10] == 0
        assert form.realise().state_sizes[14] == 4


def test_float32_rounding_is_not_taken_for_state() -> None:
    T = recurrence(8, 60, 4).to_dense()
    assert DenseOperator(T.float()).realise().state_sizes.max() <= 6
    assert DenseOperator(T.float().double()).realise().state_sizes.max() > 20  # the control: as if it were exact


def test_batches_and_lengths_of_one() -> None:
    one = DenseOperator(torch.ones(2, 3, 1, 1)).realise()
    assert one.state_sizes.tolist() == [[[0]] * 3] * 2
    assert one.operator.to_dense().shape == (2, 3, 1, 1)
    batch = recurrence(9, 12, 3, 2, 2)
    for form in forms(batch):
        assert torch.allclose(form.truncate(2).error[1, 0], form[1, 0].truncate(2).error)


def test_bad_input() -> None:
    operator = DenseOperator(torch.eye(4))
    with pytest.raises(InputError, match="rank is -1; expected 0 or more"):
        operator.truncate(-1)
    with pytest.raises(InputError, match=r"tolerance is -0\.1; expected 0 or more"):
        operator.realise(tolerance=-0.1)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made() -> None:
    long = RecurrentOperator(*torch.ones(3, 1, 1).expand(3, 10**7, 1))
    with pytest.raises(InputError, match=r"T of shape \(10000000, 10000000\) would take 400,000 GB, and .* are free"):
        long.to_dense()
    with pytest.raises(InputError, match="T of shape"):
        ConvolutionOperator(torch.ones(1).expand(10**7)).to_dense()
