import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay._errors import InputError
from assay.measures import recall
from assay.measures.recall import bigram_recall, gap_share

texts = st.lists(st.integers(-3, 4), max_size=60)


def by_dict(tokens: list[int], counts: dict[tuple[int, int], int] | None, max_count: int) -> list[int]:
    """Distance of each token, -1 for no hit: one pass with a dictionary, as the definition reads."""
    last: dict[tuple[int, int], int] = {}
    distances = []
    for t in range(len(tokens)):
        bigram = (tokens[t - 1], tokens[t])
        common = counts is not None and counts.get(bigram, 0) > max_count
        distances.append(t - last[bigram] if t and bigram in last and not common else -1)
        if t:
            last[bigram] = t
    return distances


def test_doctests() -> None:
    assert doctest.testmod(recall).failed == 0


@settings(deadline=None)
@given(texts)
def test_agrees_with_a_dictionary(tokens: list[int]) -> None:
    hit, distance = bigram_recall(np.array(tokens, dtype=np.int64))
    assert distance.tolist() == by_dict(tokens, None, 0)
    assert hit.tolist() == [d > 0 for d in distance]
    assert (hit.dtype, distance.dtype) == (np.bool_, np.int64)


@settings(deadline=None)
@given(texts, st.dictionaries(st.tuples(st.integers(-3, 4), st.integers(-3, 4)), st.integers(0, 5)), st.integers(0, 4))
def test_frequent_bigrams_are_no_hits_but_are_still_remembered(tokens, counts, max_count: int) -> None:
    _, distance = bigram_recall(np.array(tokens, dtype=np.int64), counts, max_count)
    assert distance.tolist() == by_dict(tokens, counts, max_count)


@settings(deadline=None)
@given(texts)
def test_renaming_tokens_and_adding_a_later_text_change_nothing(tokens: list[int]) -> None:
    ids = np.array(tokens, dtype=np.int64)
    _, distance = bigram_recall(ids)
    _, renamed = bigram_recall(ids * -(2**50) + 17)  # far apart: no arithmetic on the ids themselves may overflow
    _, longer = bigram_recall(np.concatenate([ids, ids[::-1]]))
    assert renamed.tolist() == distance.tolist()
    assert longer[: len(ids)].tolist() == distance.tolist()


def test_overlapping_occurrences_count() -> None:
    hit, distance = bigram_recall([5, 5, 5, 5])
    assert hit.tolist() == [False, False, True, True]
    assert distance.tolist() == [-1, -1, 1, 1]


def test_repeating_a_text_of_distinct_tokens_hits_all_of_it_at_its_length() -> None:
    hit, distance = bigram_recall(np.tile(np.arange(50), 3))
    assert hit.tolist() == [t >= 51 for t in range(150)]
    assert set(distance[51:].tolist()) == {50}


def test_distinct_tokens_are_never_hits() -> None:
    assert not bigram_recall(np.arange(100))[0].any()


def test_count_at_the_limit_still_counts_as_rare() -> None:
    text = [1, 2, 1, 2]
    assert bigram_recall(text, {(1, 2): 1250})[0].tolist() == [False, False, False, True]
    assert not bigram_recall(text, {(1, 2): 1251})[0].any()


def test_rows_of_a_batch_are_contexts_of_their_own_and_tensors_are_read() -> None:
    batch = torch.randint(4, (2, 3, 30), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    hit, distance = bigram_recall(batch)
    assert hit.shape == distance.shape == (2, 3, 30)
    for b in range(2):
        for h in range(3):
            assert distance[b, h].tolist() == by_dict(batch[b, h].tolist(), None, 0)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_texts_have_no_hits(length: int) -> None:
    hit, distance = bigram_recall([9] * length)
    assert hit.shape == distance.shape == (length,)
    assert not hit.any()


def test_the_share_of_a_gap_is_a_ratio_of_sums() -> None:
    generator = np.random.default_rng(0)
    reference, better, hit = generator.random((4, 50)), generator.random((4, 50)), generator.random((4, 50)) < 0.3
    loss = reference + better
    on_hits = sum(better[i, j] for i in range(4) for j in range(50) if hit[i, j])

    assert gap_share(loss, reference, hit) == pytest.approx(on_hits / better.sum())
    assert gap_share(2 * loss, 2 * reference, hit) == pytest.approx(gap_share(loss, reference, hit))
    assert gap_share(loss, reference, hit) + gap_share(loss, reference, ~hit) == pytest.approx(1)
    assert gap_share(loss, reference, np.ones_like(hit)) == pytest.approx(1)
    assert gap_share(loss.ravel(), reference.ravel(), np.zeros(200, dtype=bool)) == 0


def test_a_share_can_exceed_one_and_is_undefined_without_a_gap() -> None:
    hit = np.array([True, False])
    assert gap_share([3.0, 1.0], [1.0, 2.0], hit) == 2  # better elsewhere: 2 of a total of 1
    assert np.isnan(gap_share([1.0, 1.0], [1.0, 1.0], hit))
    assert np.isnan(gap_share([2.0, 0.0], [1.0, 2.0], hit))  # the reference is worse in total


def test_mistakes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"shapes \(2,\), \(2,\), \(3,\); expected one shape"):
        gap_share([1.0, 2.0], [1.0, 2.0], [True, False, True])
    with pytest.raises(InputError, match="hit has dtype int64; expected bool"):
        gap_share([1.0, 2.0], [1.0, 2.0], [1, 0])
    with pytest.raises(InputError, match="tokens has dtype float64"):
        bigram_recall([1.0, float("nan")])
    with pytest.raises(InputError, match="tokens has dtype bool"):
        bigram_recall([True, False])
    with pytest.raises(InputError, match="tokens is a single number"):
        bigram_recall(3)
