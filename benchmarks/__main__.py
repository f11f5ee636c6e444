"""Run every benchmark, print its table, and write them all to docs/benchmarks.md."""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import accelerator, coverage, dense, gpt2, mamba, mixers, recurrence, start, training

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEADER = """# Benchmarks

Ratios within one run on one machine; `make bench` writes this page. Absolute times are of this run only.

{machine}.
"""


def main() -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores ({platform.machine()}), {device}, torch "
        f"{torch.__version__} with {torch.get_num_threads()} threads, Python {platform.python_version()}"
    )
    parts = [HEADER.format(machine=machine)]
    for benchmark in (start, dense, recurrence, gpt2, mamba, mixers, training, accelerator, coverage):
        print(f"… {benchmark.__name__}", file=sys.stderr, flush=True)
        parts.append(benchmark.table())
        print(parts[-1], flush=True)
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
