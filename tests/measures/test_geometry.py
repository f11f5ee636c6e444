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
from assay.measures import geometry
from assay.measures.geometry import PowerLawFit, alpha_req, eigenspectrum, rankme


def features_with(eigenvalues: Tensor, samples: int, width: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Features whose covariance has exactly these eigenvalues: orthonormal factors, the left one orthogonal to 1."""
    generator = torch.Generator().manual_seed(seed)
    k = len(eigenvalues)
    left = torch.randn(samples, k + 1, generator=generator, dtype=torch.float64)
    left[:, 0] = 1
    left = torch.linalg.qr(left).Q[:, 1:]
    right = torch.linalg.qr(torch.randn(width, k, generator=generator, dtype=torch.float64)).Q
    return (left * (samples * eigenvalues).sqrt()) @ right.mT + mean


def powers(alpha: float, count: int) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) ** -alpha


def rank_of_equal(k: int, components: int) -> float:
    """RankMe of k equal values among `components`, with the 1e-7 written out."""
    high, low = 1 / k + 1e-7, 1e-7
    return math.exp(-k * high * math.log(high) - (components - k) * low * math.log(low))


def test_doctests() -> None:
    assert doctest.testmod(geometry).failed == 0


@pytest.mark.parametrize(("samples", "width"), [(300, 150), (150, 300)])
def test_spectrum_is_the_one_put_in_whatever_the_mean(samples: int, width: int) -> None:
    expected = powers(1.3, 120)
    found = eigenspectrum(features_with(expected, samples, width, mean=5.0))
    assert found.shape == (150,)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[:120], expected, rtol=1e-8, atol=0)
    assert (found[120:] < 1e-20).all()


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_spectrum_agrees_with_numpys_covariance(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 3
    oracle = np.linalg.eigvalsh(np.cov(features.numpy(), rowvar=False, bias=True))[::-1][:12].copy()
    torch.testing.assert_close(eigenspectrum(features).numpy(), oracle, rtol=1e-9, atol=1e-12)


def test_small_eigenvalues_survive_a_massive_activation() -> None:
    # a float32 Gram matrix would lose everything below 1e-7 of the largest
    expected = torch.tensor([1e6, 1.0, 1e-2, 1e-4, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(eigenspectrum(features_with(expected, 60, 20))[:5], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 4, 17])
def test_rankme_of_k_equal_eigenvalues_is_k_up_to_the_epsilon(k: int) -> None:
    equal = features_with(torch.full((k,), 0.7, dtype=torch.float64), 80, 30, mean=2.0)
    assert rankme(equal).item() == pytest.approx(rank_of_equal(k, 30), rel=1e-9)
    assert rankme(equal).item() == pytest.approx(k, rel=1e-4)


def test_both_conventions_against_closed_form() -> None:
    eigenvalues = powers(2.0, 40)
    features = features_with(eigenvalues, 100, 40)
    for spectrum, values in (("eigenvalues", eigenvalues), ("singular_values", eigenvalues.sqrt())):
        q = values / values.sum() + 1e-7
        expected = math.exp(-float((q * q.log()).sum()))
        assert rankme(features, spectrum).item() == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]
    assert rankme(features, "singular_values") > rankme(features)


def test_only_the_singular_values_see_the_mean() -> None:
    features = features_with(powers(1.0, 20), 50, 20)
    torch.testing.assert_close(rankme(features + 100), rankme(features), rtol=1e-6, atol=0)
    assert rankme(features + 100, "singular_values") < 2 < rankme(features, "singular_values")


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from(["eigenvalues", "singular_values"])
)
def test_rankme_laws(samples: int, width: int, seed: int, spectrum) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    rank = rankme(features, spectrum)
    most = min(samples - (spectrum == "eigenvalues"), width)
    assert 1 - 2e-7 <= rank <= max(1, most) * (1 + 1e-4)
    order = torch.randperm(samples, generator=generator)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    for same in (features * 1e-3, features * -1e5, features[order], features @ turn):
        torch.testing.assert_close(rankme(same, spectrum), rank, rtol=1e-7, atol=0)


@pytest.mark.parametrize("row", [torch.zeros(5), torch.tensor([0.1, -3.3, 1e4, 7.7, 0.3], dtype=torch.float64)])
@pytest.mark.parametrize("samples", [1, 2, 7, 1000])
def test_identical_rows_use_one_dimension(row: Tensor, samples: int) -> None:
    rows = row.expand(samples, 5)
    assert (eigenspectrum(rows) == 0).all()
    assert rankme(rows).item() == 1.0
    assert rankme(rows, "singular_values").item() == pytest.approx(1.0, abs=1e-5)


def test_batch_gives_what_each_item_gives_and_half_precision_is_widened() -> None:
    features = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0))
    for i in range(3):
        torch.testing.assert_close(eigenspectrum(features)[i], eigenspectrum(features[i]))
        torch.testing.assert_close(rankme(features)[i], rankme(features[i]))
    half = features.to(torch.float16)
    torch.testing.assert_close(rankme(half * 1000), rankme((half * 1000).double()))


def test_solver_that_does_not_converge_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [(eigenspectrum(x), rankme(x, "singular_values")) for x in (wide, wide.mT)]

    def fail(_: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svdvals", fail)
    for x, (values, rank) in zip((wide, wide.mT), expected, strict=True):
        torch.testing.assert_close(eigenspectrum(x), values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rankme(x, "singular_values"), rank, rtol=1e-6, atol=0)


@settings(deadline=None)
@given(st.just(0.0) | st.floats(1e-4, 3), st.floats(1e-8, 1e8), st.integers(20, 300))  # r2 of a flat line is rounding
def test_exact_power_law_is_recovered_exactly(alpha: float, scale: float, count: int) -> None:
    fit = alpha_req(scale * powers(alpha, count))
    assert fit.alpha == pytest.approx(alpha, abs=1e-9)
    assert fit.intercept == pytest.approx(math.log(scale), abs=1e-9)
    assert fit.r2 == pytest.approx(1, abs=1e-9)
    assert (fit.first, fit.last) == (12, min(100, count))


def test_fit_agrees_with_numpys_weighted_polynomial_and_scipys_r() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(np.exp(-1.1 * np.log(np.arange(1, 201)) + 0.3 * rng.normal(size=200)))[::-1]
    rank = np.arange(12, 101)
    x, y = np.log(rank), np.log(values[11:100])
    slope, intercept = np.polyfit(x, y, 1, w=rank**-0.5)  # numpy weighs residuals, not their squares
    fit = alpha_req(values)
    assert (fit.alpha, fit.intercept) == (pytest.approx(-slope), pytest.approx(intercept))
    best = stats.linregress(x, y).rvalue ** 2
    expected = 1 - np.sum((y - intercept - slope * x) ** 2) / np.sum((y - y.mean()) ** 2)
    assert fit.r2 == pytest.approx(expected)
    assert fit.r2 <= best
    shuffled = alpha_req(rng.permutation(values) * 7)
    assert (shuffled.alpha, shuffled.r2) == (pytest.approx(fit.alpha), pytest.approx(fit.r2))


@pytest.mark.parametrize(
    ("count", "ranks"),
    [(100, (12, 100)), (99, (12, 99)), (20, (12, 20)), (19, (11, 19)), (9, (1, 9)), (8, (1, 8)), (4, (1, 4))],
)
def test_range_shrinks_to_what_is_there_and_says_so(count: int, ranks: tuple[int, int]) -> None:
    with_tail = torch.cat([powers(1.5, count), torch.full((60,), 1e-15), torch.zeros(60)])
    fit = alpha_req(with_tail)
    assert (fit.first, fit.last) == ranks
    assert fit.alpha == pytest.approx(1.5, abs=1e-9)


def test_chosen_ranks_are_kept_where_they_exist() -> None:
    assert alpha_req(powers(1.0, 50), first=2, last=5) == PowerLawFit(
        pytest.approx(1.0), pytest.approx(0.0, abs=1e-12), pytest.approx(1.0), 2, 5
    )


def test_features_to_exponent() -> None:
    fit = alpha_req(eigenspectrum(features_with(powers(0.8, 150), 400, 150)))
    assert fit.alpha == pytest.approx(0.8, abs=1e-8)
    assert (fit.first, fit.last) == (12, 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_are_refused_by_name(bad: float) -> None:
    features = torch.ones(3, 2)
    features[1, 1] = bad
    for measure in (eigenspectrum, rankme):
        with pytest.raises(InputError, match="features holds NaN or infinity"):
            measure(features)
    with pytest.raises(InputError, match="eigenvalues holds NaN or infinity"):
        alpha_req([1.0, 0.5, 0.2, 0.1, bad])


def test_other_mistakes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"features has shape \(0, 4\)"):
        eigenspectrum(torch.ones(0, 4))
    with pytest.raises(InputError, match=r"features has shape \(4,\)"):
        rankme(torch.ones(4))
    with pytest.raises(InputError, match=r"features has dtype torch\.int64"):
        rankme(torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="spectrum is 'eigen'; expected 'eigenvalues' or 'singular_values'"):
        rankme(torch.ones(4, 4), "eigen")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="eigenvalues has 3 above zero; expected at least 4"):
        alpha_req([1.0, 0.5, 0.2, 0.0, -1e-18])
    with pytest.raises(InputError, match=r"eigenvalues has shape \(2, 2\)"):
        alpha_req(torch.ones(2, 2))
    for first, last in ((0, 100), (12, 14)):
        with pytest.raises(InputError, match=f"first is {first} and last is {last}"):
            alpha_req(powers(1.0, 200), first, last)
