"""Byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from assay._errors import InputError
from assay.data.tokenizers._dictionary import Tokenizer, check_size, check_symbols

Pair = tuple[int, int]


class BPETokenizer(Tokenizer):
    """Token A + m stands for the pair of tokens `merges[m]`. Made by `train`, or from merges of another trainer.

    Encoding makes the merges in their order, each from left to right. Gage 1994; Sennrich, Haddow & Birch 2016
    (arXiv 1508.07909). For text of a language there is the package `tokenizers`, which splits at spaces first and works
    on bytes; here symbols are symbols, and nothing is split.

    Raises `InputError` where a merge is not of tokens that are there before it.
    """

    def __init__(self, merges: Sequence[Pair], alphabet: int) -> None:
        vocab: list[tuple[int, ...]] = [(symbol,) for symbol in range(alphabet)]
        for left, right in merges:
            if not (0 <= left < len(vocab) and 0 <= right < len(vocab)):
                raise InputError(f"merges has {left, right} for token {len(vocab)}; expected two tokens below that")
            vocab.append(vocab[left] + vocab[right])
        super().__init__(tuple(vocab), alphabet)
        self.merges = tuple(merges)

    @classmethod
    def train(cls, symbols: Tensor, *, alphabet: int, num_tokens: int) -> BPETokenizer:
        """A + M = `num_tokens` tokens from a text (N,). Of pairs that are equally frequent the first by token ids is
        merged. In a row such as "aaa" the pair "aa" counts twice, as in the package `tokenizers`.

        Counts are kept: a merge reads the text once, in numpy, and changes them only around the places that it merges.
        O(N M) reads; 2e5 symbols and 2048 tokens take about half a second.
        Raises `InputError` for symbols outside 0..alphabet-1, fewer tokens than symbols, and where no pair is left.
        """
        check_size(num_tokens, alphabet)
        text = check_symbols("symbols", symbols, alphabet)
        counts: Counter[Pair] = Counter()
        _count(counts, text, np.arange(len(text) - 1), 1)
        heap = [(-count, pair) for pair, count in counts.items()]
        heapq.heapify(heap)
        merges: list[Pair] = []
        while len(merges) < num_tokens - alphabet:
            while heap and -heap[0][0] != counts[heap[0][1]]:  # counted before a change
                heapq.heappop(heap)
            if not heap or not heap[0][0]:
                raise InputError(
                    f"num_tokens is {num_tokens}; the text is one token after {len(merges)} merges: expected at most "
                    f"{alphabet + len(merges)}, or a longer text"
                )
            pair = heap[0][1]
            places, new = _places(text, pair), alphabet + len(merges)
            merges.append(pair)
            touched = _count(counts, text, _around(places, (-1, 0, 1), len(text)), -1)
            text = _merged(text, places, new)
            touched |= _count(counts, text, _around(places - np.arange(len(places)), (-1, 0), len(text)), 1)
            for one in touched:
                heapq.heappush(heap, (-counts[one], one))
        return cls(merges, alphabet)

    def _tokens(self, symbols: NDArray[np.int64]) -> NDArray[np.int64]:
        for m, pair in enumerate(self.merges):
            symbols = _merged(symbols, _places(symbols, pair), self.alphabet + m)
        return symbols


def _places(text: NDArray[np.int64], pair: Pair) -> NDArray[np.int64]:
    """Where the pair starts; of overlapping places, in a row of one token, every other from the left."""
    left, right = pair
    places = np.flatnonzero((text[:-1] == left) & (text[1:] == right))
    if left == right and len(places):
        starts = np.diff(places, prepend=-2) > 1
        order = np.arange(len(places))
        places = places[(order - np.maximum.accumulate(np.where(starts, order, 0))) % 2 == 0]
    return places


def _merged(text: NDArray[np.int64], places: NDArray[np.int64], new: int) -> NDArray[np.int64]:
    if not len(places):
        return text
    text = text.copy()
    text[places] = new
    kept = np.ones(len(text), dtype=bool)
    kept[places + 1] = False
    return text[kept]


def _around(places: NDArray[np.int64], offsets: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """The neighbours' pairs that merges at these places touch, each once."""
    near = np.unique(np.add.outer(places, offsets))
    return near[(near >= 0) & (near < length - 1)]


def _count(counts: Counter[Pair], text: NDArray[np.int64], starts: NDArray[np.int64], sign: int) -> set[Pair]:
    """Add (or take away) the pairs that start there; which they are."""
    if not len(starts):
        return set()
    base = int(text.max()) + 1
    keys, times = np.unique(text[starts] * base + text[starts + 1], return_counts=True)
    pairs = [divmod(key, base) for key in keys.tolist()]
    for pair, count in zip(pairs, times.tolist(), strict=True):
        counts[pair] += sign * count
    return set(pairs)
