"""Fixed-length dictionary: all strings of r symbols."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from assay._errors import InputError
from assay.data._checks import check_counts
from assay.data.tokenizers._dictionary import Tokenizer

LARGEST = 2**24


class FixedLengthTokenizer(Tokenizer):
    """Cuts a text into pieces of r symbols. There is a token for each of the A^r pieces and, for the end of a text, for
    each symbol. With r = 1 the tokens are the symbols.

    The baseline of Rajaraman, Jiao & Ramchandran 2024 (arXiv 2404.08335). For a stationary source a unigram model of
    these tokens needs H(X_1..X_r) / r nats for a symbol, for order 1 `(H(pi) + (r - 1) H_inf) / r`.

    Raises `InputError` for r or A below 1 and for more than 2^24 tokens.
    """

    def __init__(self, length: int, alphabet: int) -> None:
        check_counts(length=length, alphabet=alphabet)
        if alphabet**length > LARGEST:
            raise InputError(f"length is {length}; expected at most 2^24 tokens of {alphabet} symbols")
        vocab = tuple(itertools.product(range(alphabet), repeat=length))
        super().__init__(vocab if length == 1 else vocab + tuple((a,) for a in range(alphabet)), alphabet)
        self.length = length

    def _tokens(self, symbols: NDArray[np.int64]) -> NDArray[np.int64]:
        whole = len(symbols) // self.length * self.length
        digits = self.alphabet ** np.arange(self.length - 1, -1, -1)
        pieces = symbols[:whole].reshape(-1, self.length) @ digits
        return np.concatenate([pieces, self.alphabet**self.length + symbols[whole:]])
