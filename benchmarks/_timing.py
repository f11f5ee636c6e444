"""How long something takes."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Wall-clock seconds, and the result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
