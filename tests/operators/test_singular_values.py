"""ESS of every form against a direct SVD of every block, written here on its own."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import InputError
from assay.measures.state_size import entropy_ess, state_size_profile, tolerance_ess
from assay.operators import ConvolutionOperator, DenseOperator, RecurrentOperator, SequenceOperator, _spectrum


def direct(T: torch.Tensor, positions: list[int]) -> list[np.ndarray]:
    """scipy's SVD of each block of one matrix."""
    T = T.double().numpy()
    return [scipy.linalg.svdvals(T[i:, :i]) for i in positions]


def direct_entropy_ess(sigma: np.ndarray) -> float:
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def random_recurrence(seed: int, length: int, n: int, *, dense: bool, pre_update: bool, batch: tuple[int, ...] = ()):
    g = torch.Generator().manual_seed(seed)
    shape = (*batch, length, n)
    if dense:
        A = torch.randn(*shape, n, generator=g, dtype=torch.float64) / n**0.5
    else:
        A = torch.rand(shape, generator=g, dtype=torch.float64)
    B, C = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    D = torch.randn(shape[:-1], generator=g, dtype=torch.float64)
    return (RecurrentOperator.pre_update if pre_update else RecurrentOperator)(A, B, C, D)


def slow_dense(operator: RecurrentOperator, pre_update: bool) -> torch.Tensor:
    """T_ij by the definition, one entry at a time."""
    A, B, C, D = operator.A, operator.B, operator.C, operator.D
    length, n = B.shape
    T = torch.zeros(length, length, dtype=torch.float64)
    for i in range(length):
        T[i, i] = D[i] if pre_update else C[i] @ B[i] + D[i]
        for j in range(i):
            product = torch.eye(n, dtype=torch.float64)
            for k in range(j + 1, i if pre_update else i + 1):
                product = (torch.diag(A[k]) if A.ndim == 2 else A[k]) @ product
            T[i, j] = C[i] @ product @ B[j]
    return T


@pytest.mark.parametrize("pre_update", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_a_recurrence_becomes_the_matrix_of_its_definition(dense: bool, pre_update: bool) -> None:
    operator = random_recurrence(0, 11, 3, dense=dense, pre_update=pre_update)

    assert torch.allclose(operator.to_dense(), slow_dense(operator, pre_update), atol=1e-12)


@pytest.mark.parametrize("length", [2, 7, 40, 64, 81, 100])
@pytest.mark.parametrize("pre_update", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_the_spectrum_of_a_recurrence_is_that_of_its_blocks(dense: bool, pre_update: bool, length: int) -> None:
    """At all positions (the chunked form from 64 on) and at some (the segmented form)."""
    operator = random_recurrence(1, length, 4, dense=dense, pre_update=pre_update)
    T = operator.to_dense()
    for positions in (list(range(1, length)), sorted({1, length // 2, length - 1})):
        found = operator.hankel_singular_values(positions)
        for row, expected in zip(found.numpy(), direct(T, positions), strict=True):
            kept = min(4, len(expected))
            assert np.allclose(row[:kept], expected[:kept], rtol=1e-6, atol=1e-12 * expected[0])
            assert np.all(row[kept:] <= 1e-12 * expected[0])


def test_ess_agrees_with_the_direct_method_in_every_form() -> None:
    """Both kinds of ESS, to 1e-6, for dense, recurrent and convolutional operators."""
    g = torch.Generator().manual_seed(2)
    length = 33
    logits = torch.randn(length, length, generator=g, dtype=torch.float64) * 3
    attention = torch.softmax(logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf), -1)
    kernel = 0.9 ** torch.arange(length) * torch.cos(torch.arange(length).double())
    operators: list[SequenceOperator] = [
        DenseOperator(attention),
        random_recurrence(3, length, 5, dense=False, pre_update=False),
        ConvolutionOperator(kernel),
    ]
    for operator in operators:
        profile = state_size_profile(operator, tolerance=1e-3)
        for k, sigma in enumerate(direct(operator.to_dense(), list(range(1, length)))):
            assert profile.entropy_ess[k].item() == pytest.approx(direct_entropy_ess(sigma), rel=1e-6)
            assert profile.tolerance_ess[k].item() == (sigma > 1e-3).sum()


def test_gram_spectra_are_good_enough_for_what_came_in_float32() -> None:
    """Entropy-ESS from float64 Gram matrices: 1e-4; counts at 1e-3 exact. A float32 Gram matrix is worse."""
    g = torch.Generator().manual_seed(4)
    q, k = torch.randn(2, 96, 8, generator=g)
    scores = (q @ k.mT).masked_fill(torch.ones(96, 96).triu(1).bool(), -torch.inf)
    operator = DenseOperator(torch.softmax(scores, -1))
    positions = list(range(1, 96))
    found = operator.approximate_singular_values(positions)
    expected = [direct_entropy_ess(sigma) for sigma in direct(operator.matrix, positions)]
    counts = [int((sigma > 1e-3).sum()) for sigma in direct(operator.matrix, positions)]

    assert np.allclose(entropy_ess(found).numpy(), expected, rtol=1e-4)
    assert tolerance_ess(found, 1e-3).tolist() == counts

    block = operator.matrix[48:, :48]
    wrong = torch.linalg.eigvalsh(block.mT @ block).clamp(min=0).sqrt().flip(-1)
    truth = scipy.linalg.svdvals(block.double().numpy())
    assert np.abs(found[47].numpy() - truth).max() < 0.1 * np.abs(wrong.numpy() - truth).max()


def test_known_answers() -> None:
    """The golden values of the specification, each with a closed form."""
    length, steps = 8, torch.arange(8, dtype=torch.float64)

    delay = ConvolutionOperator(torch.eye(length, dtype=torch.float64)[3])
    sigma = delay.hankel_singular_values(range(1, length))
    assert entropy_ess(sigma).tolist() == pytest.approx([1, 2, 3, 3, 3, 2, 1])
    assert tolerance_ess(sigma, 0.5).tolist() == [1, 2, 3, 3, 3, 2, 1]

    uniform = DenseOperator(torch.ones(length, length, dtype=torch.float64).tril() / (steps + 1)[:, None])
    assert entropy_ess(uniform.hankel_singular_values(range(1, length))).tolist() == pytest.approx([1] * 7)
    assert uniform.hankel_singular_values([4])[0, 0].item() == pytest.approx(0.6443941, abs=1e-7)

    ones = torch.ones(length, 1, dtype=torch.float64)
    exponential = RecurrentOperator(0.5 * ones, ones, 2 * ones)  # T_ij = 2 * 0.5^(i-j) = 0.5^(i-j-1)
    expected = ((1 - 0.25**4) * (1 - 0.25**4)) ** 0.5 / (1 - 0.25)
    assert expected == pytest.approx(1.328125)
    assert exponential.hankel_singular_values([4])[0, 0].item() == pytest.approx(expected)

    two_poles = ConvolutionOperator(
        torch.cat([torch.zeros(1), 0.9 ** torch.arange(15) + 0.5 ** torch.arange(15)]).double()
    )
    assert two_poles.hankel_singular_values([8])[0, :3].tolist() == pytest.approx([5.1509083, 0.4702888, 0], abs=1e-6)
    assert entropy_ess(two_poles.hankel_singular_values([8])).item() == pytest.approx(1.3332598, abs=1e-6)

    identity = DenseOperator(torch.eye(length))
    assert entropy_ess(identity.hankel_singular_values(range(1, length))).tolist() == [0.0] * 7


def test_softmax_of_a_cosine() -> None:
    """Golden values of the specification: attention with logits cos(i j)."""
    steps = torch.arange(8, dtype=torch.float64)
    logits = torch.cos(steps[:, None] * steps).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    operator = DenseOperator(torch.softmax(logits, -1))
    sigma = operator.hankel_singular_values([2, 4, 6])

    assert sigma[0, :2].tolist() == pytest.approx([1.078598, 0.213301], abs=1e-6)
    assert sigma[1].tolist() == pytest.approx([0.792574, 0.233811, 0.134594, 0.000328], abs=1e-6)
    assert entropy_ess(sigma).tolist() == pytest.approx([1.565243, 2.305939, 1.580904], abs=1e-6)
    assert [tolerance_ess(sigma, t)[1].item() for t in (1e-1, 1e-2, 1e-3)] == [3, 3, 3]


def test_generic_operators_fill_what_they_can() -> None:
    """A recurrence of state n has min(n, i, L - i); linear attention with Gaussian keys min(i, L - i, d)."""
    length = 40
    recurrence = random_recurrence(5, length, 6, dense=True, pre_update=False)
    q, k = torch.randn(2, length, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    linear_attention = RecurrentOperator(torch.ones(1, 1, dtype=torch.float64), k, q)
    expected = [min(6, i, length - i) for i in range(1, length)]
    for operator in (recurrence, linear_attention):
        sigma = operator.hankel_singular_values(range(1, length))
        assert tolerance_ess(sigma / sigma[..., :1], 1e-9).tolist() == expected
    dense = linear_attention.to_dense()
    assert torch.allclose(dense, (q @ k.mT).tril(), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 18), st.floats(1e-6, 1e6), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_laws_of_ess(seed: int, length: int, scale: float, tolerance: float) -> None:
    """Scale invariance of entropy-ESS, 1-Lipschitz tolerance-ESS, bounds, and a recurrence equals its dense form."""
    operator = random_recurrence(seed, length, 3, dense=seed % 2 == 0, pre_update=seed % 3 == 0)
    positions = range(1, length)
    sigma = operator.hankel_singular_values(positions)
    dense = DenseOperator(operator.to_dense()).hankel_singular_values(positions)
    cap = torch.tensor([min(3, i, length - i) for i in positions], dtype=torch.float64)

    assert torch.allclose(entropy_ess(scale * sigma), entropy_ess(sigma), rtol=1e-9)
    assert (tolerance_ess(sigma, tolerance) <= cap).all()
    assert (entropy_ess(sigma) <= cap + 1e-9).all()
    assert (entropy_ess(sigma) >= 1 - 1e-9).all()
    assert (tolerance_ess(sigma, tolerance).diff().abs() <= 1).all()
    n = min(3, dense.shape[-1])
    assert torch.allclose(sigma[..., :n], dense[..., :n], rtol=1e-6, atol=1e-10 * float(sigma.max()))


def test_decay_that_underflows_is_carried_without_harm() -> None:
    """A product of 300 factors of 1e-3 is 0 in float64: the block's rank comes from the last tokens alone."""
    length = 300
    operator = RecurrentOperator(torch.full((length, 2), 1e-3).double(), *torch.rand(2, length, 2).double())
    sigma = operator.hankel_singular_values(range(1, length))

    assert torch.isfinite(sigma).all()
    assert sigma[150, 0].item() == pytest.approx(direct(operator.to_dense(), [151])[0][0], rel=1e-9)


def test_a_closed_gate_carries_nothing() -> None:
    """A zero transition makes the block empty: ESS 0, not NaN."""
    A = torch.full((9, 2), 0.9).double()
    A[4] = 0
    operator = RecurrentOperator(A, *torch.rand(2, 9, 2).double())

    assert entropy_ess(operator.hankel_singular_values([4])).item() == 0.0
    assert tolerance_ess(operator.hankel_singular_values([4])).item() == 0.0


def test_windows_batches_and_lengths_one_and_two() -> None:
    operator = random_recurrence(7, 12, 3, dense=False, pre_update=False, batch=(2, 3))
    dense = DenseOperator(operator.to_dense())

    assert torch.allclose(operator[1, 2].to_dense(), dense.matrix[1, 2])
    assert torch.allclose(operator.window(3, 9).to_dense(), dense.window(3, 9).matrix, atol=1e-12)
    assert operator.window(0, 1).hankel_singular_values([]).shape == (2, 3, 0, 3)
    assert dense.window(0, 2).hankel_singular_values([1]).shape == (2, 3, 1, 1)
    some, one = operator.hankel_singular_values([5, 2]), operator.hankel_singular_values([2])
    assert torch.allclose(some[..., 1, :], one[..., 0, :], atol=1e-14)  # in the order asked for


def test_apply_is_the_matrix_times_the_values() -> None:
    values = torch.randn(12, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    kernel = torch.randn(12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for operator in (random_recurrence(9, 12, 3, dense=True, pre_update=True), ConvolutionOperator(kernel)):
        assert torch.allclose(operator.apply(values), operator.to_dense() @ values, atol=1e-12)


def test_entropy_ess_can_be_differentiated() -> None:
    """gradcheck through the dense form and through a diagonal recurrence."""
    matrix = torch.rand(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(10)).requires_grad_()

    def check(T: torch.Tensor) -> torch.Tensor:
        return entropy_ess(DenseOperator(T.tril()).hankel_singular_values([2, 3]))

    assert torch.autograd.gradcheck(check, matrix)

    parts = torch.rand(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(11)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: entropy_ess(RecurrentOperator(*p).hankel_singular_values([2, 3])), parts)


def test_lapack_that_fails_is_retried_and_in_the_end_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder: divide and conquer, QR iteration, Gram; NaN only when all of them fail, never 0."""
    blocks = torch.rand(2, 5, 3, dtype=torch.float64)
    expected = torch.linalg.svdvals(blocks)

    def fails(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svdvals", fails)
    assert torch.allclose(_spectrum.singular_values(blocks), expected)
    monkeypatch.setattr(scipy.linalg, "svd", lambda *_, **__: (_ for _ in ()).throw(np.linalg.LinAlgError("no")))
    assert torch.allclose(_spectrum.singular_values(blocks), expected, atol=1e-7)
    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    lost = _spectrum.singular_values(blocks)
    assert lost.isnan().all()
    assert entropy_ess(lost).isnan().all()
    assert tolerance_ess(lost).isnan().all()
    assert _spectrum.singular_values(torch.zeros(4, 2)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseOperator(torch.ones(3, 4)), r"matrix has shape \(3, 4\); expected \(\.\.\., L, L\)"),
        (lambda: DenseOperator(torch.ones(3, 3)), "not causal"),
        (lambda: DenseOperator(torch.full((2, 2), torch.nan)), "matrix holds NaN"),
        (lambda: RecurrentOperator(torch.ones(5, 2), torch.ones(5, 3), torch.ones(5, 3)), r"A \(5, 2\)"),
        (lambda: RecurrentOperator(torch.ones(5, 2), torch.full((5, 2), torch.inf), torch.ones(5, 2)), "B holds NaN"),
        (lambda: ConvolutionOperator(torch.tensor(1.0)), "kernel has shape"),
        (lambda: DenseOperator(torch.eye(4)).hankel_singular_values([4]), "position 4 is outside .* expected 1 to 3"),
        (lambda: tolerance_ess(torch.ones(3), 0.0), "tolerance is 0.0; expected a number above 0"),
        (lambda: state_size_profile(DenseOperator(torch.eye(4)), positions="some"), "positions is 'some'; expected"),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("reach", [0, 1, 5, 19, 20, 30])
def test_a_short_kernel_has_the_spectrum_of_its_blocks(reach: int) -> None:
    """Whether it is taken from the small corner of the block that is not 0, or from T itself; gates included."""
    length, g = 40, torch.Generator().manual_seed(20)
    kernel = torch.zeros(2, length, dtype=torch.float64)
    kernel[:, : reach + 1] = torch.randn(2, reach + 1, generator=g, dtype=torch.float64)
    b, c = torch.randn(2, 3, 2, length, generator=g, dtype=torch.float64)
    positions = list(range(1, length))
    for operator in (ConvolutionOperator(kernel), ConvolutionOperator(kernel, input_gate=b, output_gate=c)[1]):
        found, T = operator.hankel_singular_values(positions)[1].numpy(), operator.to_dense()[1]
        for row, expected in zip(found, direct(T, positions), strict=True):
            size = max(len(row), len(expected))
            row, expected = np.pad(row, (0, size - len(row))), np.pad(expected, (0, size - len(expected)))
            assert np.allclose(row, expected, atol=1e-12)
