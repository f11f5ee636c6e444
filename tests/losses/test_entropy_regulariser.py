"""The penalty on the entropies of heads, query by query, and where its gradient leads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.losses.entropy_regulariser import EntropyRegulariser
from assay.measures.attention import attention_entropy


def random_attention(*shape: int, scale: float = 3.0) -> Tensor:
    logits = scale * torch.randn(*shape, shape[-1], dtype=torch.float64)
    return logits.masked_fill(torch.ones(shape[-1], shape[-1]).triu(1).bool(), -torch.inf).softmax(-1)


def with_loops(attentions: list[Tensor], regulariser: EntropyRegulariser) -> float:
    """The definition, query by query."""
    layers, heads = regulariser.threshold.shape
    total = 0.0
    for layer, weights in enumerate(attentions):
        batch, _, length, _ = weights.shape
        for h in range(heads):
            for b in range(batch):
                for i in range(length):
                    row = weights[b, h, i].tolist()
                    entropy = -sum(p * math.log(p) for p in row if p > 0)
                    largest = math.log(i + 1 if regulariser.max_entropy == "row" else length)
                    off = entropy - regulariser.threshold[layer, h].item() * largest
                    if abs(off) > regulariser.margin * largest:
                        total += off**2 / (batch * length if regulariser.reduction == "mean" else 1)
    return regulariser.coef * total / (layers * heads)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("max_entropy", ["row", "length"])
def test_query_by_query(reduction: str, max_entropy: str) -> None:
    torch.manual_seed(0)
    regulariser = EntropyRegulariser(2, 3, coef=0.7, reduction=reduction, max_entropy=max_entropy).double()
    with torch.no_grad():
        regulariser.threshold.uniform_(0.2, 0.8)
    attentions = [random_attention(2, 3, 6) for _ in range(2)]
    assert regulariser(attentions).item() == pytest.approx(with_loops(attentions, regulariser), rel=1e-12)
    regulariser.margin = 0.5
    wider = with_loops(attentions, regulariser)
    regulariser.margin = 0.2
    assert regulariser(attentions).item() != pytest.approx(wider, rel=1e-2)  # the control


def uniform_over(keys: int, length: int) -> Tensor:
    """All queries look alike at the first keys that they can reach: (1, 1, length, length)."""
    weights = torch.ones(length, length).tril()[:, :keys]
    weights = torch.nn.functional.pad(weights, (0, length - keys))
    return (weights / weights.sum(-1, keepdim=True))[None, None]


def test_nothing_inside_the_margin_and_a_square_outside() -> None:
    """Entropy ln 16 of ln 16 and thresholds at known distances."""
    weights = uniform_over(16, 16)[..., -1:, :].expand(1, 1, 16, 16)  # each row as the last one
    regulariser = EntropyRegulariser(1, 1, coef=1.0, margin=0.2, max_entropy="length")
    for threshold, expected in [(0.85, 0.0), (1.0, 0.0), (0.7, 0.09), (0.4, 0.36)]:
        regulariser.threshold.data.fill_(threshold)
        assert regulariser([weights]).item() == pytest.approx(expected * math.log(16) ** 2, rel=1e-5)


@pytest.mark.parametrize(("logit", "lower"), [(0.1, True), (12.0, False)])
def test_flat_heads_are_pushed_down_and_sharp_heads_up(logit: float, lower: bool) -> None:
    logits = (logit * torch.eye(8, dtype=torch.float64)).expand(1, 1, 8, 8).clone().requires_grad_()
    weights = logits.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1)
    before = attention_entropy(weights).mean()
    EntropyRegulariser(1, 1, coef=1.0)([weights]).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    with torch.no_grad():
        after = (logits - 10 * logits.grad).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1)
        assert bool(attention_entropy(after).mean() < before) is lower


def test_sum_depends_on_the_number_of_queries_and_mean_does_not() -> None:
    weights = uniform_over(8, 8)
    mean, total = (EntropyRegulariser(1, 1, reduction=r, threshold=0.3) for r in ("mean", "sum"))
    for batch in (1, 5):
        many = [weights.expand(batch, 1, 8, 8)]
        assert total(many).item() == pytest.approx(8 * batch * mean(many).item(), rel=1e-5)


def test_early_queries_of_causal_attention_look_collapsed_against_ln_length() -> None:
    """Uniform attention is as flat as can be: a threshold of 1 is met by rows, and not by ln L."""
    weights = [uniform_over(32, 32)]
    assert EntropyRegulariser(1, 1, threshold=1.0, max_entropy="row")(weights).item() == pytest.approx(0, abs=1e-9)
    assert EntropyRegulariser(1, 1, threshold=1.0, max_entropy="length")(weights).item() > 1e-3


def test_thresholds_are_learned() -> None:
    regulariser = EntropyRegulariser(2, 1)
    regulariser([uniform_over(8, 8), uniform_over(8, 8)]).backward()
    assert regulariser.threshold.grad is not None
    assert bool((regulariser.threshold.grad < 0).all())  # descending raises them to the heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction is 'max'"),
        ({"max_entropy": "logT"}, "max_entropy 'logT'"),
        ({"margin": -1.0}, "margin is -1"),
        ({"threshold": 1.5}, "threshold 1.5"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EntropyRegulariser(1, 1, **options)  # type: ignore[arg-type]


def test_weights_of_another_model() -> None:
    with pytest.raises(InputError, match="expected 2 layers of"):
        EntropyRegulariser(2, 1)([uniform_over(4, 4)])
    with pytest.raises(InputError, match=r"expected 1 layers of \(B, 3, L, L\)"):
        EntropyRegulariser(1, 3)([uniform_over(4, 4)])
    with pytest.raises(InputError, match="attend to nothing; expected attention without dropout"):
        EntropyRegulariser(1, 1)([torch.zeros(1, 1, 4, 4)])
