"""Every architecture of the installed transformers, measured; writes docs/coverage.md."""

import time
from pathlib import Path

from assay.models.coverage import coverage, summary, to_markdown

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
TEXT = """## Coverage

{summary} It took {seconds:.0f} s; the table is on the page about [coverage](coverage.md).
"""


def table() -> str:
    """The summary; the table itself goes to its page."""
    started = time.perf_counter()
    rows = coverage()
    seconds = time.perf_counter() - started
    PAGE.write_text(to_markdown(rows), encoding="utf-8")
    return TEXT.format(summary=summary(rows), seconds=seconds)
