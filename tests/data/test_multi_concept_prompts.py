"""The language of concepts: what its dictionary and its prompts are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from assay._errors import InputError
from assay.data.multi_concept import ConceptPrompts, MultiConceptPrompts

PLAIN = MultiConceptPrompts(noise=0.0, irrelevant_share=0.0)


def draw(prompts: MultiConceptPrompts, count: int = 500, seed: int = 0) -> ConceptPrompts:
    return prompts.sample(count, generator=torch.Generator().manual_seed(seed))


def test_features_are_orthogonal_and_have_their_norms() -> None:
    d = MultiConceptPrompts(num_concepts=3, num_irrelevant=4, kappa=0.7).dictionary
    words = torch.cat([d.topic, d.sign, d.irrelevant])
    labels = torch.cat([d.label_topic, d.label_sign])

    squares = torch.tensor([1.0] * 3 + [0.49] * 3 + [1.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(words @ words.mT, squares.diag(), atol=1e-12, rtol=0)
    torch.testing.assert_close(labels @ labels.mT, squares[:6].diag(), atol=1e-12, rtol=0)


def test_without_noise_words_and_labels_are_those_of_concept_and_sign() -> None:
    found, d = draw(PLAIN), PLAIN.dictionary

    for b in range(50):
        k = int(found.concepts[b])
        torch.testing.assert_close(found.query[b], d.topic[k] + found.targets[b] * d.sign[k])
        for at in range(PLAIN.num_demonstrations):
            sign = found.signs[b, at]
            torch.testing.assert_close(found.words[b, at], d.topic[k] + sign * d.sign[k])
            torch.testing.assert_close(found.labels[b, at], d.label_topic[k] + sign * d.label_sign[k])


def test_words_of_a_concept_are_alike_and_of_two_concepts_are_not() -> None:
    d = PLAIN.dictionary
    plus, minus = d.topic + d.sign, d.topic - d.sign

    torch.testing.assert_close((plus * minus).sum(-1), torch.full((2,), 1 - 0.36, dtype=torch.float64))
    assert abs(plus[0] @ plus[1]) < 1e-12


def test_irrelevant_features_and_noise_are_as_often_and_as_large_as_asked() -> None:
    noisy, clean = draw(replace(PLAIN, noise=0.1), 2000), draw(replace(PLAIN, irrelevant_share=0.3), 2000)
    concept = PLAIN.dictionary.topic[noisy.concepts][:, None]
    off = noisy.words - concept - noisy.signs[..., None] * PLAIN.dictionary.sign[noisy.concepts][:, None]

    assert off.std().item() == pytest.approx(0.1, rel=0.02)
    active = clean.words @ PLAIN.dictionary.irrelevant.mT
    assert ((active - active.round()).abs() < 1e-9).all()
    assert active.mean().item() == pytest.approx(0.3, abs=0.01)


def test_signs_have_their_share_and_the_floor_is_how_often_none_is_the_query_s() -> None:
    short = replace(PLAIN, num_demonstrations=4, positive_share=0.2)
    found = draw(short, 40_000)
    without = (found.signs != found.targets[:, None]).all(-1).double().mean().item()

    assert (found.signs > 0).double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (found.targets > 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert short.floor == pytest.approx(without, abs=0.01)
    assert replace(short, positive_share=0.5).floor == 2**-4


def test_a_mixed_query_has_two_concepts() -> None:
    found, d = draw(replace(PLAIN, num_concepts=3, mixed=0.7)), PLAIN.dictionary
    d = replace(PLAIN, num_concepts=3).dictionary
    topics = found.query @ d.topic.mT

    torch.testing.assert_close(topics.sum(-1), torch.full((500,), 1.4, dtype=torch.float64))
    assert ((topics - 0.7).abs().lt(1e-9).sum(-1) == 2).all()
    own = (found.query * d.sign[found.concepts]).sum(-1)
    torch.testing.assert_close(own, 0.7 * 0.36 * found.targets)


def test_seeds_fix_the_prompts_and_another_seed_the_dictionary() -> None:
    one, same, other = draw(PLAIN), draw(PLAIN), draw(PLAIN, seed=1)

    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.words, other.words)
    assert not torch.equal(PLAIN.dictionary.topic, replace(PLAIN, dictionary_seed=1).dictionary.topic)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d": 9}, "d is 9; expected at least"),
        ({"kappa": 1.0}, "kappa is 1.0"),
        ({"num_concepts": 1, "mixed": 0.7}, "mixed is 0.7"),
        ({"positive_share": 1.2}, "positive_share is 1.2"),
        ({"num_demonstrations": 0}, "num_demonstrations is 0"),
        ({"noise": float("inf")}, "noise is inf"),
    ],
)
def test_mistakes(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MultiConceptPrompts(**changes)
