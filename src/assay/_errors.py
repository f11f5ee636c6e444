"""Errors that assay raises for a user's mistake.

AssayError            any of them; the command line prints it as one line and exits with code 2
├── InputError        an argument, text or file is not usable (also a ValueError)
├── ModelError        a model cannot be found, loaded, run or fitted into memory (also a RuntimeError)
└── OutputError       the result cannot be written (also an OSError)
"""

import difflib
from collections.abc import Iterable


class AssayError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what to do instead."""


class InputError(AssayError, ValueError):
    """An argument, text or file is not usable."""


class ModelError(AssayError, RuntimeError):
    """A model cannot be found, loaded, run or fitted into memory."""


class OutputError(AssayError, OSError):
    """The result cannot be written."""


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean 'gla'?)`, for a message about a name that is not known; nothing where none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix + matches[0]!r}?)" if matches else ""
