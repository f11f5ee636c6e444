"""The pattern of a backbone: "attention,gla*3" is one layer of attention, three of gla; "(a,b)*2" is a,b,a,b."""

from __future__ import annotations

import re
from collections.abc import Collection

from assay._errors import InputError, nearest

MAX_LAYERS = 10_000


def parse_pattern(pattern: str, known: Collection[str]) -> list[str]:
    """The layers' names, first to last. Spaces are ignored.

    Raises `InputError` for a pattern that cannot be read, and for a name that is not in `known`, naming the nearest.
    """
    tokens = re.findall(r"[\w.-]+|\S", pattern)
    layers, rest = _sequence(pattern, tokens)
    if rest:
        raise _unreadable(pattern, rest)
    if wrong := [name for name in layers if name not in known]:
        hint = nearest(wrong[0].lower(), known)
        raise InputError(f"there is no mixer {wrong[0]!r} for the pattern{hint}; there are {', '.join(sorted(known))}")
    return layers


def _sequence(pattern: str, tokens: list[str]) -> tuple[list[str], list[str]]:
    """Items between commas -> their layers, and what follows."""
    layers: list[str] = []
    while True:
        item, tokens = _item(pattern, tokens)
        layers += item
        if len(layers) > MAX_LAYERS:
            raise InputError(f"pattern {pattern!r} has more than {MAX_LAYERS:,} layers")
        if tokens[:1] != [","]:
            return layers, tokens
        tokens = tokens[1:]


def _item(pattern: str, tokens: list[str]) -> tuple[list[str], list[str]]:
    """A name or a sequence in parentheses, then perhaps `*n`."""
    if tokens[:1] == ["("]:
        layers, tokens = _sequence(pattern, tokens[1:])
        if tokens[:1] != [")"]:
            raise _unreadable(pattern, tokens)
        tokens = tokens[1:]
    elif tokens and re.fullmatch(r"[\w.-]+", tokens[0]):
        layers, tokens = tokens[:1], tokens[1:]
    else:
        raise _unreadable(pattern, tokens)
    if tokens[:1] != ["*"]:
        return layers, tokens
    times = tokens[1] if len(tokens) > 1 else ""
    if not times.isdecimal() or not 1 <= int(times) <= MAX_LAYERS:
        raise _unreadable(pattern, tokens[1:])
    return layers * int(times), tokens[2:]


def _unreadable(pattern: str, rest: list[str]) -> InputError:
    where = f"at {' '.join(rest[:3])!r}" if rest else "at its end"
    return InputError(
        f"pattern {pattern!r} cannot be read {where}; expected names, such as 'attention,(gla*3,mamba)*2'"
    )
