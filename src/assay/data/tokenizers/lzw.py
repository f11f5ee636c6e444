"""LZW dictionaries: the phrases of a Lempel-Ziv parsing, and greedy longest match."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from assay._errors import InputError
from assay.data.tokenizers._dictionary import Tokenizer, check_size, check_symbols


class LZWTokenizer(Tokenizer):
    """Tokens that grow by one symbol where the text shows a known token and what follows it. Made by `train`.

    Encoding takes the longest token at each place, which needs one step for each symbol, as each prefix of a token is a
    token. Rajaraman, Jiao & Ramchandran 2024 (arXiv 2404.08335) show that a unigram model of such tokens comes near the
    entropy rate; the parsing is that of Ziv & Lempel 1978, starting with all symbols.
    """

    def __init__(self, vocab: tuple[tuple[int, ...], ...], alphabet: int, children: list[int]) -> None:
        super().__init__(vocab, alphabet)
        self._children = children  # [token A + symbol]: the token that is longer by this symbol, or -1

    @classmethod
    def train(cls, symbols: Tensor, *, alphabet: int, num_tokens: int) -> LZWTokenizer:
        """The dictionary of d = `num_tokens` tokens that the start of a text (N,) gives.

        Again and again, the longest known token that the rest of the text starts with is cut off together with the next
        symbol, and both together are a new token. O(N), and it stops reading at d tokens.
        Raises `InputError` for symbols outside 0..alphabet-1, d below A, and texts that are too short for d tokens.
        """
        check_size(num_tokens, alphabet)
        text = check_symbols("symbols", symbols, alphabet).tolist()
        vocab: list[tuple[int, ...]] = [(symbol,) for symbol in range(alphabet)]
        children = [-1] * (num_tokens * alphabet)
        token = -1  # the empty string
        for symbol in text:
            if len(vocab) == num_tokens:
                break
            longer = symbol if token < 0 else children[token * alphabet + symbol]
            if longer < 0:
                children[token * alphabet + symbol] = len(vocab)
                vocab.append((*vocab[token], symbol))
            token = longer  # -1 behind a new token: the next one starts
        if len(vocab) < num_tokens:
            raise InputError(
                f"num_tokens is {num_tokens}; {len(text)} symbols give {len(vocab)}: expected fewer, or a longer text"
            )
        return cls(tuple(vocab), alphabet, children)

    def _tokens(self, symbols: NDArray[np.int64]) -> NDArray[np.int64]:
        text, children, alphabet = symbols.tolist(), self._children, self.alphabet
        tokens, token = [], text[0]
        for symbol in text[1:]:
            longer = children[token * alphabet + symbol]
            if longer < 0:
                tokens.append(token)
                token = symbol
            else:
                token = longer
        return np.array([*tokens, token], dtype=np.int64)
