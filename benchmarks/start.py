"""How long the command line takes to answer."""

import subprocess
import sys
import time

TEXT = """## Start

`assay --help`, a whole process, best of ten: **{seconds:.2f} s** (target: under 0.5 s).
`import torch` alone: {torch:.1f} s.
"""


def table() -> str:
    """Whole processes, from outside."""
    return TEXT.format(seconds=_best("-m", "assay.cli", "--help", runs=10), torch=_best("-c", "import torch", runs=3))


def _best(*arguments: str, runs: int) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)
