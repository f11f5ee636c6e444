"""A progress bar with time left, for runs of more than two seconds at a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

Progress = Callable[[float, str], None]
DELAY = 2.0
"""Seconds before the bar is shown: a short run needs none."""


@contextlib.contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Progress | None]:
    """Give a callable (fraction done, what is being done); None where stderr is no terminal or it is not wanted."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, redirect_stdout=False)
    task = bar.add_task("opening the model (downloading it where needed)", total=None)

    def show(fraction: float, words: str) -> None:
        bar.update(task, total=1.0 if fraction > 0 else None, completed=fraction, description=escape(words))

    timer = threading.Timer(DELAY, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield show
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
