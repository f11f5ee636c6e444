"""Which bytes of a text each token covers, exactly, for any tokenizer of transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece writes a single byte
_LOOKAHEAD = 64  # characters in which a slow tokenizer's next token must be found


def token_ends(text: str, ids: Sequence[int], tokenizer: Any) -> list[int]:
    """The byte of `text` where each token ends; a token begins where the one before it ended.

    What a tokenizer skips (such as a space before a word) belongs to the token after it. Tokens that share a character
    share its bytes: by their own count where the tokenizer writes bytes (byte-level BPE, byte fallback), else evenly.
    """
    spans = _offsets(text, ids, tokenizer)
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(ids))]
    bytes_before = np.concatenate([[0], np.cumsum([len(char.encode()) for char in text])])
    byte_level = _is_byte_level(tokenizer)
    ends: list[int] = []
    group: list[str] = []
    begin = reach = 0
    for k, (_, stop) in enumerate(spans):
        reach = max(reach, stop)
        group.append(names[k])
        if k + 1 < len(spans) and _shares(spans[k + 1], reach):
            continue
        size = int(bytes_before[reach]) - begin
        ends += [begin + part for part in _share_out(group, size, byte_level)]
        begin, group = begin + size, []
    return ends


def _shares(span: tuple[int, int], reach: int) -> bool:
    """Whether a token starts inside what is already covered; one that covers nothing stands for itself."""
    start, stop = span
    return start < reach and stop > start


def _share_out(names: Sequence[str], size: int, byte_level: bool) -> list[int]:
    """Running ends of the tokens of a group that covers `size` bytes together."""
    if len(names) == 1:
        return [size]
    claims = [1 if _BYTE.fullmatch(name) else len(name) if byte_level else -1 for name in names]
    if min(claims) > 0 and sum(claims) == size:
        return [int(end) for end in np.cumsum(claims)]
    return [round(size * (k + 1) / len(names)) for k in range(len(names))]


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether a token's name has one character for each of its bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


def _offsets(text: str, ids: Sequence[int], tokenizer: Any) -> list[tuple[int, int]]:
    if not getattr(tokenizer, "is_fast", False):
        return _search(text, [str(tokenizer.decode([token])) for token in ids])
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(int(start), int(stop)) for start, stop in encoded["offset_mapping"]]


def _search(text: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where a tokenizer gives no offsets: each token's text, looked for from left to right.

    A token that is not found (part of a character) covers nothing; its text falls to the next one that is.
    """
    spans: list[tuple[int, int]] = []
    cursor = 0
    for piece in pieces:
        wanted = piece.strip() or piece
        at = text.find(wanted, cursor, cursor + _LOOKAHEAD + len(wanted)) if wanted else -1
        if at >= 0 and "\ufffd" not in wanted:
            spans.append((at, at + len(wanted)))
            cursor = at + len(wanted)
        else:
            spans.append((cursor, cursor))
    return spans
