"""Hankel singular values from Gramians, and the scan, against loops that follow the definitions one step at a time."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.operators import _gramians
from assay.operators._gramian_forms import GRAM
from assay.operators._gramians import approximate_hankel_singular_values, hankel_singular_values
from assay.operators._scan import scan

KINDS = ("diagonal", "rank one", "dense")
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]


def recurrence(kind: str, length: int, n: int, *, batch: tuple[int, ...] = (), seed: int = 0) -> Parts:
    """Random A, B, C and the rank-one part; stable enough for the blocks to stay of size one or so."""
    g = torch.Generator().manual_seed(seed)
    B, C = (torch.randn(*batch, length, n, generator=g, dtype=torch.float64) for _ in range(2))
    if kind == "dense":
        return torch.randn(*batch, length, n, n, generator=g, dtype=torch.float64) / n**0.5, B, C, None
    A = torch.rand(*batch, length, n, generator=g, dtype=torch.float64)
    if kind == "diagonal":
        return A, B, C, None
    u, w = (torch.randn(*batch, length, n, generator=g, dtype=torch.float64) / n for _ in range(2))
    return A, B, C, (u, w)


def definition(parts: Parts, values: np.ndarray, *, pre_update: bool) -> np.ndarray:
    """One recurrence, (L, V), in numpy, a step at a time."""
    A, B, C, pair = ([t.double().numpy() for t in p] if isinstance(p, tuple) else p for p in parts)
    A, B, C = (t.double().numpy() for t in (A, B, C))
    state = np.zeros((B.shape[1], values.shape[1]))
    outputs = []
    for t in range(len(B)):
        transition = np.diag(A[t]) if A.ndim == 2 else A[t]
        if pair is not None:
            transition = transition + np.outer(pair[0][t], pair[1][t])
        before, state = state, transition @ state + np.outer(B[t], values[t])
        outputs.append(C[t] @ (before if pre_update else state))
    return np.array(outputs)


def matrix(parts: Parts, *, pre_update: bool = True) -> np.ndarray:
    return definition(parts, np.eye(len(parts[1])), pre_update=pre_update)


def direct(T: np.ndarray, positions: list[int], n: int) -> np.ndarray:
    """scipy's SVD of every block, cut or padded to n: (P, n)."""
    spectra = [scipy.linalg.svdvals(T[i:, :i])[:n] for i in positions]
    return np.stack([np.pad(s, (0, n - len(s))) for s in spectra])


def part(parts: Parts, index: int) -> Parts:
    A, B, C, pair = parts
    return A[index], B[index], C[index], None if pair is None else (pair[0][index], pair[1][index])


@pytest.fixture(params=["wide tasks", "narrow tasks"])
def task_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same results however the work is cut."""
    if request.param == "narrow tasks":
        monkeypatch.setattr(_gramians, "_CACHE", 2**10)
        monkeypatch.setattr(_gramians, "_TASK", 2**13)
        monkeypatch.setattr(_gramians, "_KEPT", 2**13)


@pytest.mark.usefixtures("task_size")
@pytest.mark.parametrize("pre_update", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_spectra_are_those_of_the_blocks(kind: str, pre_update: bool) -> None:
    """At a few positions and at many, both conventions, lengths around the length of a stretch, a batch."""
    for length, n in ((2, 3), (31, 3), (32, 3), (65, 5), (97, 4)):
        parts = recurrence(kind, length, n, batch=(3,), seed=length)
        for positions in ([length - 1, 1, length // 2 or 1], list(range(1, length))):
            found = hankel_singular_values(*parts[:3], positions, parts[3], pre_update=pre_update)
            for k in range(3):
                expected = direct(matrix(part(parts, k), pre_update=pre_update), positions, n)
                assert np.abs(found[k].numpy() - expected).max() <= 1e-12 * expected.max()
            other = hankel_singular_values(*parts[:3], positions, parts[3], pre_update=not pre_update)
            assert (found - other).abs().max() > 1e-3 * found.max()  # the control: the wrong convention is seen


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_of_going_through_the_sequence_agree(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches that end at every position, and stretches that step side by side."""
    parts = recurrence(kind, 100, 4, batch=(2,))
    positions = [*range(1, 80), 91]
    many = hankel_singular_values(*parts[:3], positions, parts[3])
    monkeypatch.setattr(_gramians._Work, "at_many", _gramians._Work.at_few)
    few = hankel_singular_values(*parts[:3], positions, parts[3])

    assert (many - few).abs().max() <= 1e-12 * many.max()


def test_the_rank_one_part_matters_and_equals_dense_transitions() -> None:
    A, B, C, pair = recurrence("rank one", 50, 4)
    assert pair is not None
    positions = [10, 25, 49]
    dense = torch.diag_embed(A) + pair[0][:, :, None] * pair[1][:, None, :]
    found = hankel_singular_values(A, B, C, positions, pair)

    assert torch.allclose(found, hankel_singular_values(dense, B, C, positions), atol=1e-12)
    swapped = hankel_singular_values(A, B, C, positions, (pair[1], pair[0]))
    assert (found - swapped).abs().max() > 1e-3


def test_batches_positions_in_any_order_float32_and_nothing_at_all() -> None:
    parts = recurrence("diagonal", 40, 3, batch=(2, 1, 3))
    found = hankel_singular_values(*parts[:3], [7, 3, 7])

    assert found.shape == (2, 1, 3, 3, 3)
    assert torch.equal(found[..., 0, :], found[..., 2, :])
    assert torch.allclose(found[..., 1, :], hankel_singular_values(*parts[:3], [3])[..., 0, :], atol=1e-14)
    single = [t.float() for t in parts[:3]]
    exactly = hankel_singular_values(*(t.double() for t in single), [3, 7])
    assert torch.equal(hankel_singular_values(*single, [3, 7]), exactly)  # float64 from the first product on
    assert hankel_singular_values(*parts[:3], []).shape == (2, 1, 3, 0, 3)
    assert approximate_hankel_singular_values(*(t[:0] for t in parts[:3]), [3])[0].shape == (0, 1, 3, 1, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [[5, 50, 90], range(1, 100)])
def test_gramians_are_off_by_no_more_than_they_say(kind: str, positions: list[int]) -> None:
    parts = recurrence(kind, 100, 6, batch=(4,))
    exact = hankel_singular_values(*parts[:3], positions, parts[3])
    found, resolution = approximate_hankel_singular_values(*parts[:3], positions, parts[3])

    assert ((found.square() - exact.square()).abs().amax(-1) <= 2 * resolution.square()).all()
    assert (resolution <= 1e-5 * exact[..., 0]).all()
    assert torch.allclose(entropy_ess(found), entropy_ess(exact), rtol=1e-4)
    assert torch.equal(tolerance_ess(found, 1e-3), tolerance_ess(exact, 1e-3))


def test_gramians_say_where_they_are_worse() -> None:
    """Two states that all but cancel: the resolution must be far above 1e-6 of the largest singular value."""
    length = 64
    A = torch.tensor([0.9, 0.9 + 1e-7], dtype=torch.float64).expand(length, 2)
    B = torch.ones(length, 2, dtype=torch.float64)
    C = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(length, 2)
    exact = hankel_singular_values(A, B, C, [32])
    found, resolution = approximate_hankel_singular_values(A, B, C, [32])

    assert np.allclose(exact.numpy(), direct(matrix((A, B, C, None)), [32], 2), rtol=1e-6, atol=1e-14)
    assert resolution.item() > 1e-2 * exact[0, 0]
    assert ((found.square() - exact.square()).abs() <= 2 * resolution.square()).all()


def test_strong_decay_and_closed_gates() -> None:
    """Products of decays that underflow leave what the last tokens carry; a zero transition leaves nothing."""
    length = 300
    g = torch.Generator().manual_seed(1)
    B, C = torch.rand(2, length, 3, generator=g, dtype=torch.float64)
    A = torch.full((length, 3), 1e-4, dtype=torch.float64)
    A[150] = 0
    positions = [100, 150, 151, 299]
    expected = direct(matrix((A, B, C, None)), positions, 3)
    exact = hankel_singular_values(A, B, C, positions)
    found, _ = approximate_hankel_singular_values(A, B, C, positions)

    assert expected[1].max() > 0  # the gate that closes during step 150 is between positions 150 and 151 ...
    assert entropy_ess(exact)[1] == 1  # ... so only C_150 sees what came before
    for spectra in (exact, found):
        assert torch.isfinite(spectra).all()
        assert np.allclose(spectra.numpy(), expected, rtol=1e-6, atol=1e-6 * expected.max())
    closed = torch.zeros(20, 2, dtype=torch.float64)
    C[:20:2] = 0
    blank = hankel_singular_values(closed, B[:20, :2], C[:20, :2], [10])
    assert blank.count_nonzero() == 0
    assert approximate_hankel_singular_values(closed, B[:20, :2], C[:20, :2], [10])[0].count_nonzero() == 0


def test_states_that_repeat_each_other_do_not_stop_cholesky() -> None:
    """P of rank one, in which rounding leaves negative eigenvalues."""
    length = 200
    B = torch.randn(length, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64).expand(length, 8)
    A = torch.full((length, 8), 0.99, dtype=torch.float64)
    found, resolution = approximate_hankel_singular_values(A, B, B, [50, 100])

    assert np.allclose(found[:, 0].numpy(), direct(matrix((A, B, B, None)), [50, 100], 1)[:, 0], rtol=1e-9)
    assert (found[:, 1:] <= 2 * resolution[:, None]).all()

    P = torch.ones(8, 8, dtype=torch.float64) + 1e-11 * (1 - torch.eye(8, dtype=torch.float64))
    assert torch.linalg.cholesky_ex(P + 1e-12 * torch.eye(8, dtype=torch.float64)).info > 0
    sigma, _ = GRAM.spectrum(torch.eye(8, dtype=torch.float64), P)
    assert sigma[0].item() == pytest.approx(8**0.5)
    assert (sigma[1:] < 1e-5).all()


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_the_length_at_most(kind: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that is made, at every position or at some."""
    monkeypatch.setattr(_gramians, "_TASK", 2**16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # a dispatch mode sees its own thread only
    largest = {}
    for length in (512, 1024):
        parts = recurrence(kind, length, 4)
        with _Largest() as watched:
            hankel_singular_values(*parts[:3], range(1, length, every), parts[3])
        largest[length] = watched.numel

    assert largest[1024] <= 2.2 * largest[512]
    assert largest[1024] <= 16 * 1024 * 4


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest number of entries of any tensor made by an operation inside."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.numel = max([self.numel, *(t.untyped_storage().nbytes() // 8 for t in tensors if torch.is_tensor(t))])
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_spectra_can_be_differentiated(kind: str) -> None:
    A, B, C, pair = recurrence(kind, 6, 2)
    tensors = [t.requires_grad_() for t in (A, B, C, *(pair or ()))]

    def check(A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, *pair: torch.Tensor) -> torch.Tensor:
        return entropy_ess(hankel_singular_values(A, B, C, [2, 3], pair or None))  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(check, tensors)
    without = [t.detach() for t in tensors]
    assert torch.allclose(check(*tensors), check(*without), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_update", [True, False])
def test_the_scan_is_the_recurrence(kind: str, pre_update: bool) -> None:
    """In one run and in chunks, with a rest and without; values shared by a batch and not."""
    for length, n, width in ((1, 2, 3), (9, 3, 1), (64, 2, 3), (101, 3, 2)):
        parts = recurrence(kind, length, n, batch=(2,), seed=length)
        values = torch.randn(2, length, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        more = scan(
            *parts[:3], values[:, None].expand(2, 2, -1, -1), parts[3], pre_update=pre_update
        )  # more of a batch
        for v in (values, values[:1], values[0]):
            y = scan(*parts[:3], v, parts[3], pre_update=pre_update)
            assert v.ndim < 3 or len(v) < 2 or torch.equal(torch.stack([more[k, k] for k in range(2)]), y)
            for k in range(2):
                expected = definition(part(parts, k), v.expand(2, -1, -1)[k].numpy(), pre_update=pre_update)
                assert np.abs(y[k].numpy() - expected).max() <= 1e-12 * max(1, np.abs(expected).max())


def test_the_scan_runs_in_chunks_where_the_state_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers with chunks and without; the chunked one makes far fewer steps."""
    for kind in KINDS:
        A, B, C, pair = recurrence(kind, 400, 2)
        values = torch.ones(400, 1, dtype=torch.float64)
        with _Count() as chunked:
            y = scan(A, B, C, values, pair)
        monkeypatch.setattr("assay.operators._scan._WIDTH", 1)
        with _Count() as stepped:
            expected = scan(A, B, C, values, pair)
        monkeypatch.undo()
        assert torch.allclose(y, expected, atol=1e-12)
        assert chunked.calls < stepped.calls / 4


class _Count(torch.utils._python_dispatch.TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_the_scan_carries_strong_decay_and_takes_the_wider_dtype() -> None:
    length = 200
    A, B, C = torch.full((length, 2), 1e-20), torch.ones(length, 2), torch.ones(length, 2)
    values = torch.ones(length, 1, dtype=torch.float64)
    y = scan(A, B, C, values)

    assert y.dtype == torch.float64
    assert torch.allclose(y, torch.full_like(y, 2.0), rtol=1e-15)
    assert scan(A, B, C, values.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_scan_can_be_differentiated(kind: str) -> None:
    A, B, C, pair = recurrence(kind, 9, 2)
    values = torch.randn(9, 2, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (A, B, C, values, *(pair or ()))]
    assert torch.autograd.gradcheck(lambda A, B, C, v, *pair: scan(A, B, C, v, pair or None), tensors)


def test_positions_that_are_few_in_a_long_sequence() -> None:
    """Against a window around the position beyond which everything has decayed."""
    length = 5000
    A, B, C, _ = recurrence("diagonal", length, 3)
    A = 0.5 * A
    start, stop = 2400, 2600
    found = hankel_singular_values(A, B, C, [2500])
    window = hankel_singular_values(A[start:stop], B[start:stop], C[start:stop], [100])

    assert torch.allclose(found, window, rtol=1e-10, atol=1e-14)


def test_products_of_every_kind_agree_on_a_diagonal_recurrence() -> None:
    """Diagonal, diagonal with a zero rank-one part, and dense transitions of the same operator."""
    A, B, C, _ = recurrence("diagonal", 70, 4)
    zero = torch.zeros_like(B)
    forms = [(A, None), (A, (zero, B)), (torch.diag_embed(A), None)]
    for positions in ([5, 40], list(range(1, 70))):
        spectra = [hankel_singular_values(form, B, C, positions, pair) for form, pair in forms]
        for one, other in itertools.pairwise(spectra):
            assert torch.allclose(one, other, atol=1e-12)


def test_gramians_do_not_mind_the_scale_of_a_coordinate_of_the_state_nor_one_that_nothing_reaches() -> None:
    A, B, C, _ = recurrence("diagonal", 60, 4)
    B[:, 3] = 0
    scale = torch.tensor([1e9, 1.0, 1e-9, 1.0], dtype=torch.float64)
    exact = hankel_singular_values(A, B, C, [20, 40])
    found, resolution = approximate_hankel_singular_values(A, B * scale, C / scale, [20, 40])

    assert ((found.square() - exact.square()).abs().amax(-1) <= 2 * resolution.square()).all()
    assert (resolution <= 1e-5 * exact[..., 0]).all()
    assert (exact[..., 2] > 100 * resolution).all()  # so that three of the four count
