"""Losses per character against counting by hand, closed forms, and the entropy of known sources."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from assay._errors import InputError
from assay.data.markov import MarkovSource
from assay.data.tokenizers import BPETokenizer, FixedLengthTokenizer
from assay.measures.tokenization import end_to_end_loss, lzw_bound, unigram_cross_entropy


def test_unigram_cross_entropy_is_counting_by_hand() -> None:
    train, test = [0, 1, 1, 2, 1], [1, 2, 3, 3]
    counts = Counter(train)
    for smoothing in (1.0, 0.5):
        by_hand = -sum(math.log((counts[t] + smoothing) / (5 + 4 * smoothing)) for t in test) / 9
        found = unigram_cross_entropy(torch.tensor(train), torch.tensor(test), 9, vocab_size=4, smoothing=smoothing)
        assert math.isclose(found, by_hand, rel_tol=1e-12)
    unseen = unigram_cross_entropy(torch.tensor(train), torch.tensor(test), 9, vocab_size=4, smoothing=0)
    assert unseen == math.inf


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_fixed_length_tokens_cost_the_entropy_of_their_block(order: int, length: int) -> None:
    """H(X_1..X_r) / r of a switching source: the first k symbols of a piece are fair, the others cost H_inf."""
    source = MarkovSource.switching(order, 0.1)
    train, test = source.sample(2, 60_000, generator=torch.Generator().manual_seed(0))
    tokenizer = FixedLengthTokenizer(length, 2)
    loss = unigram_cross_entropy(
        tokenizer.encode(train), tokenizer.encode(test), len(test), vocab_size=len(tokenizer.vocab)
    )
    fair = min(order, length)

    assert math.isclose(loss, (fair * math.log(2) + (length - fair) * source.entropy_rate()) / length, rel_tol=0.015)


def test_no_tokens_cost_less_than_the_entropy_rate_and_learned_ones_come_near() -> None:
    source = MarkovSource.switching(1, 0.1)
    train, test = source.sample(2, 60_000, generator=torch.Generator().manual_seed(1))
    tokenizer = BPETokenizer.train(train, alphabet=2, num_tokens=64)
    loss = unigram_cross_entropy(tokenizer.encode(train), tokenizer.encode(test), len(test), vocab_size=64)

    assert 0.98 * source.entropy_rate() < loss < 1.3 * source.entropy_rate()
    assert loss < 0.7 * source.marginal_entropy()


def test_end_to_end_loss_is_by_characters_not_by_tokens() -> None:
    log_probs = torch.full((2, 3), math.log(0.25))

    assert math.isclose(end_to_end_loss(log_probs, 12), 6 * math.log(4) / 12, rel_tol=1e-6)
    assert end_to_end_loss(log_probs, 24) == end_to_end_loss(log_probs, 12) / 2


def test_the_bound_falls_with_the_dictionary_and_is_infinite_for_small_ones() -> None:
    found = [lzw_bound(d, 0.1) for d in (8, 128, 512, 2048)]

    assert found[0] == math.inf
    assert found[0] > found[1] > found[2] > found[3] > 1  # its constant is from memory, so no numbers
    assert lzw_bound(512, 0.01) > lzw_bound(512, 0.1)


def test_arguments_that_are_wrong_are_refused() -> None:
    ids = torch.tensor([0, 1])
    for train, test in ((ids, ids + 1), (ids - 1, ids), (ids[:0], ids), (ids, ids.float())):
        with pytest.raises(InputError, match="_tokens is not int64, empty, or outside"):
            unigram_cross_entropy(train, test, 2, vocab_size=2)
    with pytest.raises(InputError, match="num_chars"):
        unigram_cross_entropy(ids, ids, 0, vocab_size=2)
    with pytest.raises(InputError, match="smoothing"):
        unigram_cross_entropy(ids, ids, 2, vocab_size=2, smoothing=-1)
    with pytest.raises(InputError, match="num_tokens"):
        lzw_bound(1, 0.1)
    with pytest.raises(InputError, match="least_probability"):
        lzw_bound(8, 1.0)
