"""Tokenizers against slow ones written from their definitions, and BPE against the package `tokenizers`."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from assay._errors import InputError
from assay.data.markov import MarkovSource
from assay.data.tokenizers import BPETokenizer, FixedLengthTokenizer, LZWTokenizer, Tokenizer


def text(length: int, *, alphabet: int = 2, seed: int = 0, order: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    laws = (2 * torch.randn([alphabet] * (order + 1), generator=generator)).double().softmax(-1)
    return MarkovSource(laws).sample(1, length, generator=generator)[0]


def slow_bpe(symbols: list[int], alphabet: int, num_tokens: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Count all pairs anew before each merge; ties to the smallest pair."""
    merges = []
    while alphabet + len(merges) < num_tokens:
        counts = Counter(itertools.pairwise(symbols))
        pair = min(counts, key=lambda one: (-counts[one], one))
        symbols, merges = merge(symbols, pair, alphabet + len(merges)), [*merges, pair]
    return merges, symbols


def merge(symbols: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def slow_lzw(symbols: list[int], alphabet: int, num_tokens: int) -> list[tuple[int, ...]]:
    """Cut off the shortest prefix that is not in the dictionary yet, and put it there."""
    vocab, rest = [(a,) for a in range(alphabet)], tuple(symbols)
    while len(vocab) < num_tokens:
        size = next(n for n in range(1, len(rest) + 1) if rest[:n] not in vocab)
        vocab.append(rest[:size])
        rest = rest[size:]
    return vocab


def greedy(symbols: list[int], vocab: list[tuple[int, ...]]) -> list[int]:
    """The longest token at each place."""
    tokens, rest = [], tuple(symbols)
    while rest:
        best = max((token for token in vocab if rest[: len(token)] == token), key=len)
        tokens.append(vocab.index(best))
        rest = rest[len(best) :]
    return tokens


CASES = [(2, 300, 12), (2, 1, 2), (3, 500, 30), (5, 200, 20), (1, 60, 5)]


@pytest.mark.parametrize(("alphabet", "length", "num_tokens"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_bpe_is_counting_anew_before_each_merge(alphabet: int, length: int, num_tokens: int, seed: int) -> None:
    symbols, other = text(length, alphabet=alphabet, seed=seed), text(97, alphabet=alphabet, seed=seed + 50)
    merges, tokens = slow_bpe(symbols.tolist(), alphabet, num_tokens)
    tokenizer = BPETokenizer.train(symbols, alphabet=alphabet, num_tokens=num_tokens)

    assert list(tokenizer.merges) == merges
    assert tokenizer.encode(symbols).tolist() == tokens
    applied = other.tolist()
    for m, pair in enumerate(merges):
        applied = merge(applied, pair, alphabet + m)
    assert tokenizer.encode(other).tolist() == applied


def test_bpe_learns_the_merges_of_the_package_tokenizers() -> None:
    from tokenizers import Tokenizer as Reference
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    symbols = text(3000, alphabet=4, seed=1, order=2)
    word = "".join("abcd"[i] for i in symbols.tolist())
    reference = Reference(BPE())
    reference.train_from_iterator([word], BpeTrainer(vocab_size=40, show_progress=False))
    tokenizer = BPETokenizer.train(symbols, alphabet=4, num_tokens=40)

    strings = ["".join("abcd"[i] for i in token) for token in tokenizer.vocab]
    assert {string: i for i, string in enumerate(strings)} == reference.get_vocab()
    assert tokenizer.encode(symbols).tolist() == reference.encode(word).ids


def test_ties_go_to_the_first_pair() -> None:
    assert BPETokenizer.train(torch.tensor([2, 1, 0, 2, 1, 0]), alphabet=3, num_tokens=4).merges == ((1, 0),)
    assert BPETokenizer.train(torch.tensor([1, 1, 1, 0, 0, 0]), alphabet=2, num_tokens=3).merges == ((0, 0),)


@pytest.mark.parametrize(("alphabet", "length", "num_tokens"), [(2, 300, 20), (3, 500, 30), (5, 200, 20), (1, 60, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_lzw_is_the_shortest_new_prefix_and_the_longest_match(
    alphabet: int, length: int, num_tokens: int, seed: int
) -> None:
    symbols, other = text(length, alphabet=alphabet, seed=seed), text(97, alphabet=alphabet, seed=seed + 50)
    vocab = slow_lzw(symbols.tolist(), alphabet, num_tokens)
    tokenizer = LZWTokenizer.train(symbols, alphabet=alphabet, num_tokens=num_tokens)

    assert list(tokenizer.vocab) == vocab
    assert tokenizer.encode(other).tolist() == greedy(other.tolist(), vocab)
    assert {token[:-1] for token in vocab if len(token) > 1} <= set(vocab)  # closed under prefixes


def test_fixed_length_cuts_into_pieces() -> None:
    tokenizer = FixedLengthTokenizer(3, 2)
    tokens = tokenizer.encode(torch.tensor([1, 0, 1, 0, 1, 1, 1, 0]))

    assert tokens.tolist() == [5, 3, 9, 8]
    assert [tokenizer.vocab[i] for i in tokens.tolist()] == [(1, 0, 1), (0, 1, 1), (1,), (0,)]
    assert FixedLengthTokenizer(1, 2).vocab == ((0,), (1,))


def of_each_kind(symbols: torch.Tensor) -> list[Tokenizer]:
    return [
        FixedLengthTokenizer(4, 3),
        LZWTokenizer.train(symbols, alphabet=3, num_tokens=40),
        BPETokenizer.train(symbols, alphabet=3, num_tokens=40),
    ]


def test_decoding_gives_the_text_back() -> None:
    for tokenizer in of_each_kind(text(2000, alphabet=3)):
        assert len(set(tokenizer.vocab[:40])) == 40
        for length in (1, 2, 3, 5, 500):
            for seed in range(3):
                symbols = torch.randint(3, (length,), generator=torch.Generator().manual_seed(seed))
                tokens = tokenizer.encode(symbols)
                assert torch.equal(tokenizer.decode(tokens), symbols)
                assert int(tokenizer.lengths(tokens).sum()) == length
                assert [s for t in tokens.tolist() for s in tokenizer.vocab[t]] == symbols.tolist()


def test_what_no_dictionary_has_is_refused() -> None:
    for tokenizer in of_each_kind(text(2000, alphabet=3)):
        for symbols in (torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([], dtype=torch.int64)):
            with pytest.raises(InputError, match="symbols"):
                tokenizer.encode(symbols)
        for read in (tokenizer.decode, tokenizer.lengths):
            with pytest.raises(InputError, match="tokens has values"):
                read(torch.tensor([0, len(tokenizer.vocab)]))
    with pytest.raises(InputError, match="expected \\(N,\\)"):
        FixedLengthTokenizer(2, 2).encode(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind", [BPETokenizer, LZWTokenizer])
def test_dictionaries_that_a_text_cannot_give_are_refused(kind: type[BPETokenizer] | type[LZWTokenizer]) -> None:
    with pytest.raises(InputError, match="num_tokens is 1;"):
        kind.train(text(100), alphabet=2, num_tokens=1)
    with pytest.raises(InputError, match=r"num_tokens is 50; .*longer text"):
        kind.train(text(20), alphabet=2, num_tokens=50)
    with pytest.raises(InputError, match="symbols has values"):
        kind.train(torch.tensor([0, 1, 2] * 9), alphabet=2, num_tokens=8)
    with pytest.raises(InputError, match="alphabet"):
        kind.train(text(100), alphabet=0, num_tokens=8)


def test_other_sizes_that_are_wrong_are_refused() -> None:
    with pytest.raises(InputError, match="length is 0"):
        FixedLengthTokenizer(0, 2)
    with pytest.raises(InputError, match="2\\^24"):
        FixedLengthTokenizer(30, 2)
    with pytest.raises(InputError, match="merges has \\(0, 2\\)"):
        BPETokenizer([(0, 2)], 2)
