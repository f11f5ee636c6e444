"""Texts: reading them from a file, and cutting them into tokens, windows and delimiters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay._errors import InputError, nearest
from assay.models._source import PREFIX
from assay.models._spans import token_ends

BUILTIN_TEXT = Path(__file__).parent / "builtin" / "text.txt"
MIN_TOKENS = 16

_PARAGRAPH = re.compile(r"\n[ \t\r]*\n(?:[ \t\r]*\n)*")
_SENTENCE = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s|$)|[。！？]+[」』”’）]*""")


@dataclass(frozen=True)
class TokenisedText:
    """A text as a model sees it. All lists run over the same tokens, and the windows tile them without gap.

    A tokenizer's own opening token (such as `<s>`) stands at the start of every window, so that each window looks to
    the model like a text of its own.
    """

    ids: list[int]
    pieces: list[str]
    """Each token as text; the bytes of a character that is split over tokens are written as \\xf0."""
    num_bytes: np.ndarray[Any, np.dtype[np.int64]]
    """UTF-8 bytes of the text that each token covers; 0 for a token that is not in the text."""
    delimiters: list[str]
    """'user', 'document', 'paragraph' or 'sentence' where the token ends one, else ''."""
    windows: list[tuple[int, int]]
    """(start, stop) of each window."""
    dropped_tokens: int
    """Tokens at the end that were left out because their window would have been shorter than 16 tokens."""
    truncated: bool
    """Whether the text goes on after `max_tokens`."""


def read_text(source: str | Path) -> tuple[str, str]:
    """(text, name) of a UTF-8 file, of standard input (`-`), or of `builtin:text`.

    Raises `InputError` where there is no such file, or it is binary, not UTF-8, or empty.
    """
    name = str(source)
    if name == "-":
        return _decode(sys.stdin.buffer.read(), "standard input"), "standard input"
    if name.startswith(PREFIX) and name != PREFIX + "text":
        raise InputError(f"no built-in text {name!r}; give a file, - for standard input, or builtin:text")
    path = BUILTIN_TEXT if name == PREFIX + "text" else Path(source).expanduser()
    if path.is_dir():
        raise InputError(f"the text {name!r} is a folder; give a UTF-8 text file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no text file {name!r}{_nearest_file(path)}; give a UTF-8 text file, or -") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the text {name!r} cannot be read: {reason}; give a UTF-8 text file, or -") from None
    return _decode(data, name), name


def clean_text(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD, so that it has a UTF-8 form."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def tokenise(
    text: str,
    tokenizer: Any,
    *,
    max_tokens: int,
    window_length: int | None = None,
    delimiters: Sequence[str] = (),
) -> TokenisedText:
    """The first `max_tokens` tokens of the text, in consecutive windows of at most `window_length` tokens.

    `window_length` None means one window. Raises `InputError` for an empty text, one of fewer than 16 tokens, or
    windows shorter than that.
    """
    text = clean_text(text)
    if not text.strip():
        raise InputError(f"the text is empty; give one of at least {MIN_TOKENS} tokens")
    length = min(window_length or max_tokens, max_tokens)
    if length < MIN_TOKENS:
        cause = f"--max-tokens is {max_tokens}" if max_tokens <= length else f"the model takes {length} positions"
        raise InputError(f"{cause}, too few to measure; at least {MIN_TOKENS} are needed")
    opening, ids, ends, data = _encode(text, tokenizer, max_tokens)
    if len(ids) < MIN_TOKENS:
        raise InputError(f"the text is too short: {len(ids)} tokens; give one of at least {MIN_TOKENS}")
    kinds = _delimiters(ids, ends, data, tokenizer, delimiters)
    order, windows, dropped = _windows(len(ids), len(opening), length, max_tokens)
    begins = np.concatenate([[0], ends[:-1]])
    names = tokenizer.convert_ids_to_tokens(opening)

    def piece(k: int) -> str:
        return data[begins[k] : ends[k]].decode("utf-8", "backslashreplace") or _name(tokenizer, ids[k])

    return TokenisedText(
        ids=[ids[k] if k >= 0 else opening[~k] for k in order],
        pieces=[piece(k) if k >= 0 else str(names[~k]) for k in order],
        num_bytes=np.array([ends[k] - begins[k] if k >= 0 else 0 for k in order], dtype=np.int64),
        delimiters=[kinds[k] if k >= 0 else "" for k in order],
        windows=windows,
        dropped_tokens=dropped,
        truncated=len(ids) > sum(k >= 0 for k in order) + dropped,
    )


def check_vocabulary(tokens: TokenisedText, model: Any) -> None:
    """Raise `InputError` where the tokenizer has ids that the model's embedding does not have."""
    size = int(model.get_input_embeddings().weight.shape[0])
    if max(tokens.ids) >= size:
        raise InputError(
            f"the tokenizer does not belong to the model: it gives token {max(tokens.ids)}, and the model knows {size}"
        )


def _decode(data: bytes, name: str) -> str:
    if b"\0" in data:
        raise InputError(f"the text {name!r} is binary or UTF-16 (it holds NUL bytes); give a UTF-8 text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the text {name!r} is binary or not UTF-8 (byte {error.start:,}); give a UTF-8 text file"
        ) from None
    if not text.strip():
        raise InputError(f"the text {name!r} is empty; give one of at least {MIN_TOKENS} tokens")
    return text


def _nearest_file(path: Path) -> str:
    try:
        return nearest(path.name, [file.name for file in path.parent.iterdir() if file.is_file()])
    except OSError:
        return ""


def _encode(text: str, tokenizer: Any, max_tokens: int) -> tuple[list[int], list[int], list[int], bytes]:
    """Opening special tokens, ids, the byte of the text where each token ends, and the text's bytes.

    Only as much of a long text is tokenised as is needed: its tokens do not depend on what comes far behind them.
    """
    size = 16 * max_tokens
    while True:
        part = text[:size]
        ids = [int(i) for i in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]]
        if len(part) == len(text) or len(ids) > max_tokens + 256:
            break
        size *= 4
    ends = token_ends(part, ids, tokenizer)
    kept = len(ids) if len(part) == len(text) else max_tokens + 1
    return _opening(tokenizer), ids[:kept], ends[:kept], part.encode()


def _opening(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before every text."""
    whole = [int(i) for i in tokenizer("a")["input_ids"]]
    bare = [int(i) for i in tokenizer("a", add_special_tokens=False)["input_ids"]]
    starts = (k for k in range(len(whole) - len(bare) + 1) if whole[k : k + len(bare)] == bare)
    return whole[: next(starts, 0)]


def _windows(
    num_tokens: int, num_opening: int, length: int, max_tokens: int
) -> tuple[list[int], list[tuple[int, int]], int]:
    """The order of tokens (k, or ~k for opening token k), the windows in that order, and how many were dropped."""
    order: list[int] = []
    windows: list[tuple[int, int]] = []
    k = 0
    while k < num_tokens and len(order) < max_tokens:
        size = min(length - num_opening, num_tokens - k, max_tokens - len(order) - num_opening)
        if size + num_opening < MIN_TOKENS:
            return order, windows, max(size, 0)
        windows.append((len(order), len(order) + num_opening + size))
        order += [~i for i in range(num_opening)] + list(range(k, k + size))
        k += size
    return order, windows, 0


def _delimiters(ids: list[int], ends: list[int], data: bytes, tokenizer: Any, user: Sequence[str]) -> list[str]:
    """The kind of each token; where one ends several things, the first of user, document, paragraph, sentence."""
    kinds = [""] * (len(ids) + 1)  # the last one takes what ends behind the last token
    for kind, pattern in (("sentence", _SENTENCE), ("paragraph", _PARAGRAPH)):
        for stop in _byte_stops(data.decode(), pattern):
            kinds[int(np.searchsorted(ends, stop))] = kind
    special = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    for k, token in enumerate(ids):
        if token in special:
            kinds[k] = "document"
    for k in _user_tokens(ends, data, [d.encode("utf-8", "replace") for d in user if d]):
        kinds[k] = "user"
    return kinds[:-1]


def _byte_stops(text: str, pattern: re.Pattern[str]) -> Iterator[int]:
    """Where each match ends, in bytes of UTF-8."""
    chars = stops = 0
    for match in pattern.finditer(text):
        stops += len(text[chars : match.end()].encode())
        chars = match.end()
        yield stops


def _user_tokens(ends: list[int], data: bytes, wanted: Sequence[bytes]) -> Iterator[int]:
    """Tokens that end an occurrence of a wanted string which begins and ends with a token, spaces aside."""
    begins = [0, *ends[:-1]]
    for string in wanted:
        for match in re.finditer(re.escape(string), data[: ends[-1]]):
            first = int(np.searchsorted(ends, match.start(), side="right"))
            last = int(np.searchsorted(ends, match.end()))
            before, after = data[begins[first] : match.start()], data[match.end() : ends[last]]
            if not before.strip() and not after.strip():
                yield last


def _name(tokenizer: Any, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens([token])[0])
