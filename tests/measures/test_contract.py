"""Every measure on tensors passes the measure contract; and the contract can fail."""

import pytest
import torch
from torch import Generator, Tensor

from assay import InputError
from assay.measures.attention import (
    attention_entropy,
    first_token_mass,
    normalised_attention_entropy,
    previous_token_mass,
)
from assay.measures.contract import Measure, check_measure
from assay.measures.geometry import eigenspectrum, rankme
from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.measures.uncertainty import predictive_entropy
from assay.operators import DenseOperator


def spectra(g: Generator) -> Tensor:
    return torch.rand(3, 9, generator=g, dtype=torch.float64).sort(descending=True).values


def attention(g: Generator) -> Tensor:
    logits = torch.randn(3, 7, 7, generator=g).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    return torch.softmax(logits, -1)


def more_positions(weights: Tensor) -> Tensor:
    """Two later queries, and keys that nobody attended to."""
    padded = torch.nn.functional.pad(weights, (0, 2, 0, 2))
    padded[:, -2:, :] = 1 / padded.shape[-1]
    padded[:, -2, -1] = 0
    return padded


def first_row(result: Tensor) -> Tensor:
    return torch.arange(result.shape[-1]).expand(result.shape) == 0


def scale_invariance(function, x: Tensor) -> None:
    assert torch.allclose(function(4 * x), function(x), rtol=1e-9)


def between(low: float, high):
    def law(function, x: Tensor) -> None:
        result = function(x)
        result = result[~result.isnan()]
        assert (result >= low - 1e-5).all(), "below its range"
        assert (result <= high(x) + 1e-5).all(), "above its range"

    return law


def ess_of_blocks(weights: Tensor) -> Tensor:
    """Entropy-ESS along attention, padded with queries that carry nothing new."""
    return entropy_ess(DenseOperator(weights).hankel_singular_values(range(1, weights.shape[-1])))


MEASURES = [
    Measure(
        "entropy-ESS",
        entropy_ess,
        spectra,
        padded=lambda s: torch.nn.functional.pad(s, (0, 4)),
        laws={"scale invariance": scale_invariance, "range": between(1, lambda x: x.shape[-1])},
    ),
    Measure(
        "tolerance-ESS",
        tolerance_ess,
        spectra,
        padded=lambda s: torch.nn.functional.pad(s, (0, 4)),
        laws={"range": between(0, lambda x: x.shape[-1])},
    ),
    Measure("ESS of attention", ess_of_blocks, attention, laws={"range": between(1, lambda x: x.shape[-1] / 2)}),
    Measure(
        "attention entropy",
        attention_entropy,
        attention,
        padded=more_positions,
        laws={"range": between(0, lambda x: torch.tensor(float(x.shape[-1])).log())},
    ),
    Measure(
        "normalised attention entropy",
        normalised_attention_entropy,
        attention,
        missing=first_row,
        padded=more_positions,
        laws={"range": between(0, lambda _: 1)},
    ),
    Measure("first token mass", first_token_mass, attention, padded=more_positions),
    Measure("previous token mass", previous_token_mass, attention, missing=first_row, padded=more_positions),
    Measure(
        "RankMe", rankme, lambda g: torch.randn(3, 12, 5, generator=g), laws={"scale invariance": scale_invariance}
    ),
    Measure("eigenspectrum", eigenspectrum, lambda g: torch.randn(3, 12, 5, generator=g)),
    Measure(
        "predictive entropy",
        predictive_entropy,
        lambda g: torch.randn(3, 6, 11, generator=g),
        missing=first_row,
        padded=lambda x: torch.nn.functional.pad(x, (0, 0, 0, 2)),
        laws={"range": between(0, lambda x: torch.tensor(float(x.shape[-1])).log2())},
    ),
]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_the_measure_contract_holds(measure: Measure) -> None:
    check_measure(measure)


@pytest.mark.parametrize(
    ("function", "check"),
    [
        (lambda x: x.mean() * torch.ones(len(x)), "batch"),
        (lambda x: x.nan_to_num().sum(-1), "refuses NaN"),
        (lambda x: x.sum(-1) / 0, "finite"),
        (lambda x: x.sum(-1) + torch.rand(()), "batch"),
        (lambda x: x.clamp_(max=0.5).sum(-1), "repeatable"),
        (lambda x: x.sum(-1) * (1 if x.dtype == torch.float64 else 1.01), "precision"),
    ],
)
def test_a_broken_measure_fails_its_check(function, check: str) -> None:
    with pytest.raises(AssertionError, match=f"broken, '{check}'"):
        check_measure(Measure("broken", function, spectra))


def test_exceptions_stay_true() -> None:
    measure = Measure("sum", lambda x: x.sum(-1), spectra)
    with pytest.raises(AssertionError, match="take its exception out"):
        check_measure(measure, exceptions={"batch": "never"})
    with pytest.raises(ValueError, match="no check 'lawful'"):
        check_measure(measure, exceptions={"lawful": "never"})
    with pytest.raises(InputError):
        tolerance_ess(torch.ones(2), -1)
