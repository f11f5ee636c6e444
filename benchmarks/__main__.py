"""Run every benchmark, or those that are named, print their tables, and put them into docs/benchmarks.md.

python -m benchmarks                  # all
python -m benchmarks mamba training   # these; the page keeps the other sections
"""

import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import accelerator, coverage, dense, gpt2, mamba, mixers, muon, recurrence, seeds, start, svm, training

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (start, dense, recurrence, gpt2, mamba, mixers, training, muon, svm, seeds, accelerator, coverage)
}
HEADER = """# Benchmarks

Ratios within one run on one machine; `make bench` writes this page. Absolute times are of that run only.

"""
SECTION = re.compile(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", re.DOTALL)


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in BENCHMARKS]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores ({platform.machine()}), {device}, torch "
        f"{torch.__version__} with {torch.get_num_threads()} threads, Python {platform.python_version()}"
    )
    sections = dict(SECTION.findall(PAGE.read_text("utf-8"))) if names else {}
    for name in names or BENCHMARKS:
        print(f"… {name}", file=sys.stderr, flush=True)
        sections[name] = f"{BENCHMARKS[name].table().rstrip()}\n\n*{machine}.*\n\n"
        print(sections[name], flush=True)
        kept = [f"<!-- {one} -->\n{sections[one]}" for one in BENCHMARKS if one in sections]
        PAGE.write_text(HEADER + "".join(kept).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
