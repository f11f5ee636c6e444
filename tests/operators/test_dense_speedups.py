"""Elimination at all positions and shared cores against an SVD of every block."""

import numpy as np
import pytest
import scipy.linalg
import torch

from assay import InputError
from assay.measures.state_size import entropy_ess
from assay.operators import DenseOperator, _inertia
from assay.operators._cores import low_rank_spectra
from assay.operators._determinants import coarse, fine, spectral_entropies
from assay.operators._everywhere import everywhere
from assay.operators._halving import Eliminated, Elimination, HankelBlocks
from assay.operators._inertia import count_above


def attention(seed: int, length: int, sharpness: float, heads: int = 1, width: int = 8) -> torch.Tensor:
    """Softmax attention of random queries and keys, float64 (heads, L, L); jagged where it is sharp."""
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, heads, length, width, generator=g, dtype=torch.float64)
    above = torch.ones(length, length).triu(1).bool()
    return torch.softmax((sharpness * q @ k.mT).masked_fill(above, -torch.inf), -1)


def spectra(T: torch.Tensor) -> list[np.ndarray]:
    """scipy's, at positions 1..L-1."""
    return [scipy.linalg.svdvals(T[i:, :i].double().numpy()) for i in range(1, len(T))]


def signed(seed: int, length: int) -> torch.Tensor:
    """A matrix with entries of both signs and sizes from 1e-3 to 1e3."""
    g = torch.Generator().manual_seed(seed)
    size = 10 ** (6 * torch.rand(length, 1, generator=g, dtype=torch.float64) - 3)
    return (size * torch.randn(length, length, generator=g, dtype=torch.float64)).tril()


@pytest.mark.parametrize("length", [2, 3, 5, 8, 13, 24, 37, 64, 101])
@pytest.mark.parametrize("kind", ["flat", "sharp", "signed"])
def test_counts_are_those_of_the_spectra(kind: str, length: int) -> None:
    T = signed(0, length) if kind == "signed" else attention(1, length, 0.2 if kind == "flat" else 4.0)[0]
    truth = spectra(T)
    for tolerance in (1e3, 30.0, 1.0, 3e-2) if kind == "signed" else (3e-1, 1e-2, 1e-3, 1e-4):
        found = count_above(HankelBlocks(T[None]), tolerance)[0]
        assert found[1:length].tolist() == [int((sigma > tolerance).sum()) for sigma in truth]
        assert found[[0, length]].tolist() == [0, 0]
        assert found.diff().abs().max() <= 1


def test_a_batch_is_counted_like_its_parts_whatever_their_scale() -> None:
    T = attention(2, 30, 2.0, heads=3)
    together = count_above(HankelBlocks(T * torch.tensor([1.0, 1e-7, 1e5])[:, None, None]), 1e-3)
    for k, scale in enumerate((1.0, 1e-7, 1e5)):
        assert torch.equal(together[k], count_above(HankelBlocks(scale * T[k : k + 1]), 1e-3)[0])
    assert together[1].max() == 0


def test_counts_below_what_elimination_resolves_are_left_open_and_then_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Low-rank blocks have singular values of 0 and rounding: a tolerance of 1e-9 is not for inertia."""
    g = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 80, 4, generator=g, dtype=torch.float64)
    T = (q @ k.mT).tril() + 1e-8 * attention(3, 80, 1.0)[0]
    truth = [int((sigma > 1e-9).sum()) for sigma in spectra(T)]

    blocks = HankelBlocks(T[None])
    left_open = count_above(blocks, 1e-9)[0, 1:80]
    assert left_open.isnan().sum() > 40
    known = ~left_open.isnan()
    assert left_open[known].tolist() == torch.tensor(truth)[known].tolist()
    counts, method = DenseOperator(T).count_singular_values(1e-9, range(1, 80))
    assert counts.tolist() == truth
    assert "spectra" in method
    assert DenseOperator(T).count_singular_values(1e-2, range(1, 80)).method == "inertia"

    # the control: believing every sign gives wrong counts here
    monkeypatch.setattr(_inertia, "_CERTAIN", 0.0)
    believed = count_above(blocks, 1e-9)[0, 1:80]
    assert (believed != torch.tensor(truth)).sum() > 10


def test_a_tolerance_that_is_a_singular_value_is_left_open() -> None:
    """A delay has singular values of exactly 1."""
    delay = torch.diag(torch.ones(37, dtype=torch.float64), -3)

    assert count_above(HankelBlocks(delay[None]), 1.0).isnan().any()
    assert count_above(HankelBlocks(delay[None]), 0.999)[0].tolist() == [min(3, i, 40 - i) for i in range(41)]


@pytest.mark.parametrize("length", [2, 3, 9, 40, 90])
@pytest.mark.parametrize("kind", ["flat", "sharp", "signed"])
def test_entropies_are_within_the_stated_error(kind: str, length: int) -> None:
    T = signed(4, length) if kind == "signed" else attention(5, length, 0.2 if kind == "flat" else 4.0)[0]
    truth = np.array([np.log(entropy_ess(torch.from_numpy(sigma)).item()) for sigma in spectra(T)])
    for rule in (coarse(), fine()):
        found = spectral_entropies(HankelBlocks(T[None]), rule)
        off = np.abs(found.entropy[0, 1:length].numpy() - truth)
        assert (off <= found.error[0, 1:length].numpy()).all()
    if kind == "flat":
        assert (off <= 1e-6).all()


def test_few_shifts_are_not_enough_for_six_digits() -> None:
    """The control of the test above: its error is no decoration."""
    T = attention(5, 90, 4.0)
    off = spectral_entropies(HankelBlocks(T), coarse()).entropy - spectral_entropies(HankelBlocks(T), fine()).entropy

    assert off[0, 1:90].abs().max() > 1e-5


def test_an_empty_block_has_rank_zero() -> None:
    """A document that begins at 20 and looks at nothing before."""
    T = torch.block_diag(*attention(6, 20, 1.0, heads=2))
    found = everywhere(T, 1e-3, accuracy=1e-6)

    assert found.effective_rank[19] == 0
    assert found.counts[19] == 0
    assert found.effective_rank[[18, 20]].tolist() == pytest.approx([1, 1], rel=1e-5)
    assert everywhere(torch.zeros(9, 9), 1e-3, accuracy=1e-6).effective_rank.tolist() == [0] * 8


def test_the_determinant_of_every_block_is_that_of_its_definition() -> None:
    """The elimination itself, without any sums made of it."""

    def block(A: torch.Tensor, X: torch.Tensor, Z: torch.Tensor, _: torch.Tensor) -> Eliminated:
        inverse = torch.linalg.inv(A)
        return Eliminated(A.logdet(), X.mT @ inverse @ X, X.mT @ inverse @ Z, Z.mT @ inverse @ Z)

    T, length, shift = signed(7, 21), 21, 0.3
    blocks = HankelBlocks(T[None])
    found = blocks.eliminate(T.new_tensor([[shift]]), Elimination(block, lambda v: v.log().sum(-1), 1))[0, 0]
    for i in range(1, length):
        H = T[i:, :i].numpy() / blocks.scale.item()
        H = H if H.shape[0] >= H.shape[1] else H.T
        assert found[i].item() == pytest.approx(np.linalg.slogdet(H.T @ H + shift * np.eye(len(H.T)))[1], rel=1e-9)


def test_shared_cores_give_the_spectra_of_low_rank_blocks() -> None:
    """To rounding, also where a gate closes in the middle; and a matrix of full rank is refused."""
    length = 400
    step = torch.arange(length).double()
    lag = step[:, None] - step
    T = torch.stack([(0.97 ** lag.clamp(min=0) * torch.cos(0.3 * lag)).tril(), (0.9 ** lag.clamp(min=0)).tril()])
    T[1, 150:, :150] = 0
    positions = [*range(1, length, 3), 2]
    found = low_rank_spectra(T, positions)

    assert found is not None
    for k in range(2):
        for row, i in zip(found[k].numpy(), positions, strict=True):
            truth = scipy.linalg.svdvals(T[k, i:, :i].numpy())
            kept = min(len(truth), length // 2)
            assert np.allclose(row[:kept], truth[:kept], rtol=0, atol=1e-13 * max(truth[0], 1e-300))
            assert (row[kept:] == 0).all()
    assert torch.equal(DenseOperator(T).hankel_singular_values(positions), found)
    assert low_rank_spectra(attention(8, length, 1.0), positions) is None
    assert low_rank_spectra(T, positions[:5]) is None


def test_bad_tolerance_and_position_are_named() -> None:
    operator = DenseOperator(attention(9, 12, 1.0))
    with pytest.raises(InputError, match=r"tolerance is -1; expected a number above 0"):
        operator.count_singular_values(-1, [1])
    with pytest.raises(InputError, match="position 12 is outside"):
        operator.count_singular_values(1e-3, [12])
