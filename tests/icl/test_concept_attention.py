"""The classifier with one attention: its forward against loops, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch

from assay._errors import InputError
from assay.data.multi_concept import MultiConceptPrompts
from assay.icl.concept_attention import (
    ConceptAttentionClassifier,
    concept_error,
    concept_loss,
    concept_projections,
)

PROMPTS = MultiConceptPrompts(num_demonstrations=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(width: int = 6) -> ConceptAttentionClassifier:
    return ConceptAttentionClassifier(PROMPTS.d, width, generator=generator())


def test_forward_loss_and_error_are_those_of_the_definition() -> None:
    batch, own = PROMPTS.sample(20, generator=generator(1)), model()
    with torch.no_grad():
        own.attention.copy_(torch.randn(20, 20, generator=generator(2), dtype=torch.float64))
        f = own(batch.words, batch.labels, batch.query)
        losses, wrong = [], 0
        for b in range(20):
            scores = [math.exp(x @ own.attention @ batch.query[b]) for x in batch.words[b]]
            retrieved = sum(s * y for s, y in zip(scores, batch.labels[b], strict=True)) / sum(scores)
            hidden = [max(float(row @ retrieved), 0.0) for row in own.output]
            value = (sum(hidden[:3]) - sum(hidden[3:])) / 6
            assert f[b].item() == pytest.approx(value, rel=1e-9)
            losses.append(math.log(1 + math.exp(-batch.targets[b].item() * value)))
            wrong += value * batch.targets[b].item() <= 0
        assert concept_loss(own, batch).item() == pytest.approx(sum(losses) / 20)
        assert concept_error(own, batch) == pytest.approx(wrong / 20)


def test_projections_are_the_coefficients_of_a_matrix_over_the_features() -> None:
    d = PROMPTS.dictionary
    features = torch.cat([d.sign, d.topic, d.irrelevant])
    coefficients = torch.arange(1.0, 11.0, dtype=torch.float64)
    found = concept_projections((features.mT * coefficients) @ features, d)

    torch.testing.assert_close(torch.cat(found), coefficients)


def test_attention_along_the_signs_and_an_output_that_reads_them_err_as_rarely_as_the_floor() -> None:
    """Built by hand: attention of 40 along sign features, the two halves of the output along +sign and -sign of labels.
    Attention without it is a control."""
    own, d = model(width=2 * PROMPTS.num_concepts), PROMPTS.dictionary
    with torch.no_grad():
        own.attention.copy_(40 * d.sign.mT @ d.sign)
        own.output.copy_(torch.cat([d.label_sign, -d.label_sign]))
    batch = PROMPTS.sample(20_000, generator=generator(3))

    assert concept_error(own, batch) == pytest.approx(PROMPTS.floor, abs=0.002)
    with torch.no_grad():
        own.attention.zero_()
    assert concept_error(own, batch) > 0.3


def test_the_gradient_grows_attention_along_the_signs() -> None:
    own, d = model(width=2 * PROMPTS.num_concepts), PROMPTS.dictionary
    with torch.no_grad():
        own.output.copy_(torch.cat([d.label_sign, -d.label_sign]))
    concept_loss(own, PROMPTS.sample(5000, generator=generator(4))).backward()

    grown = concept_projections(-own.attention.grad, d)
    assert grown.sign.min() > 10 * torch.cat([grown.topic, grown.irrelevant]).abs().max()


def test_mistakes() -> None:
    with pytest.raises(InputError, match="width is 5; expected an even number"):
        model(width=5)
    with pytest.raises(InputError, match=r"attention has shape \(3, 3\); expected \(20, 20\)"):
        concept_projections(torch.eye(3), PROMPTS.dictionary)
