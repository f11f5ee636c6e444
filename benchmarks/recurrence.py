"""Singular values of recurrences of state 16 and 64 at every position, against an SVD of every block."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from assay.operators import RecurrentOperator
from benchmarks._timing import timed

CHANNELS = 64
DIRECT = 1024
TARGETS = {16: 200, 64: 20}
LENGTHS = (4096, 16384, 65536)
TEXT = """## Recurrences of state 16 and 64: singular values at every position, exact

The direct method is `torch.linalg.svdvals` of every block `T[i:, :i]` in float64, with all threads, and takes as long
for every operator: it is timed on one channel of each state size, against the time of assay for {channels} channels
divided by {channels}. Targets at L = {direct:,}: at least 200 times faster with state 16, 20 times with state 64, all
results within 1e-6 of the largest singular value.

| state | assay, s a channel | microseconds a position | direct, s a channel | ratio | largest error / largest value |
|---:|---:|---:|---:|---:|---:|
{short}

One channel, at every position. Memory is the largest resident set of a process of its own, above what it had with the
operator made. Targets: time linear in L, memory that does not grow with L squared (T itself has 34 GB at L = 65,536).

| state | L | assay, s | microseconds a position | memory, MB | result, MB |
|---:|---:|---:|---:|---:|---:|
{long}

A transition that is diagonal plus rank one (DeltaNet, RWKV-7) of state 64, one channel at every position of
L = {direct:,}: {rank_one:.0f} microseconds a position; **{rank_one_ratio:,.0f}** times faster than the direct method.
Gramians instead of their factors, at 64 positions of {channels} channels of state 16, as for operators that came in
float32: **{gram:.1f}** times faster than exact; largest difference / largest singular value {gram_error:.0e}.
"""


@torch.no_grad()
def table() -> str:
    """Square-root Gramians at L = 1,024 to 65,536; the direct method at 1,024 only (it grows with L to the fourth)."""
    short, direct = [], 0.0
    for state, target in TARGETS.items():
        operator = _recurrence(DIRECT, state, CHANNELS)
        operator.hankel_singular_values([1, 66])  # warm-up
        seconds, spectra = timed(lambda op=operator: op.hankel_singular_values(range(1, DIRECT)))
        direct, blocks = timed(lambda op=operator, n=state: _direct(op[0].to_dense(), n))
        difference = (spectra[0] - blocks).abs().max() / blocks.max()
        each = seconds / CHANNELS
        short.append(
            f"| {state} | {each:.3f} | {1e6 * each / DIRECT:.0f} | {direct:.1f} | **{direct / each:,.0f}** "
            f"(target {target}) | {difference:.0e} |"
        )
    long = [_long(length, state) for state in TARGETS for length in LENGTHS]
    seconds, _ = timed(lambda: _recurrence(DIRECT, 64, 1, rank_one=True).hankel_singular_values(range(1, DIRECT)))
    gram, error = _gram()
    return TEXT.format(
        channels=CHANNELS,
        direct=DIRECT,
        short="\n".join(short),
        long="\n".join(long),
        rank_one=1e6 * seconds / DIRECT,
        rank_one_ratio=direct / seconds,
        gram=gram,
        gram_error=error,
    )


def _recurrence(length: int, state: int, channels: int, *, rank_one: bool = False) -> RecurrentOperator:
    g = torch.Generator().manual_seed(0)
    decay = 0.8 + 0.2 * torch.rand(channels, length, state, generator=g, dtype=torch.float64)
    B, C, u = torch.randn(3, channels, length, state, generator=g, dtype=torch.float64)
    if not rank_one:
        return RecurrentOperator(decay, B, C)
    key = torch.nn.functional.normalize(u, dim=-1)
    return RecurrentOperator(torch.ones_like(B), key, C, rank_one=(-0.5 * key, key))  # DeltaNet with beta = 1/2


def _direct(T: torch.Tensor, state: int) -> torch.Tensor:
    spectra = T.new_zeros(len(T) - 1, state)
    for i in range(1, len(T)):
        values = torch.linalg.svdvals(T[i:, :i])[:state]
        spectra[i - 1, : len(values)] = values
    return spectra


def _long(length: int, state: int) -> str:
    """One row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.recurrence", str(length), str(state)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, before, peak = json.loads(done.stdout.splitlines()[-1])
    result = 8 * length * state / 1e6
    return (
        f"| {state} | {length:,} | {seconds:.2f} | {1e6 * seconds / length:.0f} | {(peak - before) / 1024:.0f} "
        f"| {result:.0f} |"
    )


@torch.no_grad()
def _do(length: int, state: int) -> None:
    operator = _recurrence(length, state, 1)
    _recurrence(256, state, 1).hankel_singular_values(range(1, 256))  # warm-up
    before = _status("VmRSS")
    seconds, _ = timed(lambda: operator.hankel_singular_values(range(1, length)))
    print(json.dumps([seconds, before, _status("VmHWM")]))


def _status(what: str) -> int:
    """In KB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what)))


def _gram() -> tuple[float, float]:
    """How much faster Gramians are at some positions, and their largest error."""
    from assay.operators._gramians import approximate_hankel_singular_values, hankel_singular_values

    operator = _recurrence(DIRECT, 16, CHANNELS)
    parts = [tensor.float() for tensor in (operator.A, operator.B, operator.C)]
    positions = range(8, DIRECT, 16)
    approximate_hankel_singular_values(*parts, positions)  # warm-up
    exact_seconds, exact = timed(lambda: hankel_singular_values(*parts, positions))
    seconds, (found, _) = timed(lambda: approximate_hankel_singular_values(*parts, positions))
    return exact_seconds / seconds, float(((found - exact).abs() / exact[..., :1]).max())


if __name__ == "__main__":
    _do(int(sys.argv[1]), int(sys.argv[2]))
