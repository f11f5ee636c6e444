"""Which delimiters of a text are compared with their surroundings: chosen by the text alone, before ESS is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assay.measures.modulation import Comparison, delimiter_fall, positions_needed
from assay.models.text import TokenisedText

KINDS = ("document", "paragraph", "sentence", "user")
COMPARED = 12  # of each kind in the whole text, where positions are adaptive: each costs three evaluations


def compared(tokens: TokenisedText, window: int, kind: str, *, every: bool) -> list[Comparison]:
    """The delimiters of one kind in one window, each with its matched positions; all of them where `every`."""
    where, others, length = _delimiters(tokens, window, kind)
    return positions_needed(length, where, limit=None if every else _limit(tokens), avoid=others)


def falls(
    curve: NDArray[np.float64], tokens: TokenisedText, window: int, kind: str, *, every: bool
) -> NDArray[np.float64]:
    """The relative fall of an ESS curve, (L,), at each of them."""
    where, others, _ = _delimiters(tokens, window, kind)
    return delimiter_fall(curve, where, limit=None if every else _limit(tokens), avoid=others)


def _limit(tokens: TokenisedText) -> int:
    return -(-COMPARED // len(tokens.windows))


def _delimiters(tokens: TokenisedText, window: int, kind: str) -> tuple[list[int], list[int], int]:
    """(positions of this kind, positions of the other kinds, length) in a window."""
    start, stop = tokens.windows[window]
    kinds = tokens.delimiters[start:stop]
    return (
        [t for t, found in enumerate(kinds) if found == kind],
        [t for t, found in enumerate(kinds) if found not in ("", kind)],
        stop - start,
    )
