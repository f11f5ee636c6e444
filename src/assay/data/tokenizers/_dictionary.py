"""What all tokenizers share: a dictionary of strings of symbols, and the way back from tokens to symbols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_ids


class Tokenizer(ABC):
    """Token ids are the places in `vocab`, of which each entry is the string of symbols that the token stands for.

    The first `alphabet` tokens of LZW and BPE are the symbols themselves. `decode(encode(symbols))` is `symbols`, for
    every text of symbols 0..alphabet-1.
    """

    def __init__(self, vocab: tuple[tuple[int, ...], ...], alphabet: int) -> None:
        self.vocab = vocab
        self.alphabet = alphabet

    def encode(self, symbols: Tensor) -> Tensor:
        """Symbols (N,) -> tokens (T,), int64, on the device of the symbols. Raises `InputError` for other symbols."""
        found = self._tokens(check_symbols("symbols", symbols, self.alphabet))
        return torch.from_numpy(found.astype(np.int64)).to(symbols.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (T,) -> symbols (N,), int64. Raises `InputError` for tokens outside the vocabulary. O(N)."""
        ids = check_symbols("tokens", tokens, len(self.vocab))
        flat, starts, lengths = self._table
        count = lengths[ids]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return torch.from_numpy(flat[np.repeat(starts[ids], count) + within]).to(tokens.device)

    def lengths(self, tokens: Tensor) -> Tensor:
        """The number of symbols in each token, of the shape of `tokens`, int64. Raises as `decode`."""
        check_symbols("tokens", tokens.flatten(), len(self.vocab))
        return torch.from_numpy(self._table[2]).to(tokens.device)[tokens]

    @abstractmethod
    def _tokens(self, symbols: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of symbols (N,)."""

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All tokens in a row, and where each of them starts, and its length."""
        lengths = np.array([len(token) for token in self.vocab], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(self.vocab), dtype=np.int64, count=int(lengths.sum()))
        return flat, np.cumsum(lengths) - lengths, lengths


def check_symbols(name: str, symbols: Tensor, alphabet: int) -> NDArray[np.int64]:
    """Symbols (N,) as an array; `InputError` where there are others than 0..alphabet-1."""
    check_counts(alphabet=alphabet)
    check_ids(name, symbols)
    if symbols.ndim != 1:
        raise InputError(f"{name} has shape {tuple(symbols.shape)}; expected (N,)")
    low, high = int(symbols.min()), int(symbols.max())
    if low < 0 or high >= alphabet:
        raise InputError(f"{name} has values {low}..{high}; expected 0..{alphabet - 1}")
    found: NDArray[np.int64] = symbols.cpu().numpy()
    return found


def check_size(num_tokens: int, alphabet: int) -> None:
    check_counts(alphabet=alphabet)
    check_counts(alphabet, num_tokens=num_tokens)
