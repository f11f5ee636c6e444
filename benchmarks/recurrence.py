"""The full exact ESS profile of one recurrence of state 16, against an SVD of every block."""

import time

import torch

from assay.operators import RecurrentOperator

STATE = 16
DIRECT = 1024
LENGTHS = (1024, 4096, 16384, 65536)
TEXT = """## One recurrence of state 16: singular values at every position, exact

The direct method is `torch.linalg.svdvals` of every block `T[i:, :i]` in float64, with all threads. Target: at least
100 times faster at L = 1,024, and time linear in L.

| L | assay, s | microseconds a position | direct, s | ratio | largest difference / largest singular value |
|---:|---:|---:|---:|---:|---:|
"""


@torch.no_grad()
def table() -> str:
    """Square-root Gramians at L = 1,024 to 65,536; the direct method at 1,024 only (it grows with L to the fourth)."""
    rows = []
    for length in LENGTHS:
        operator = _recurrence(length)
        operator.hankel_singular_values(range(1, 66))  # warm-up
        seconds, spectra = _timed(lambda op=operator, n=length: op.hankel_singular_values(range(1, n)))
        row = f"| {length:,} | {seconds:.2f} | {1e6 * seconds / length:.0f} "
        if length == DIRECT:
            direct, blocks = _timed(lambda op=operator: _direct(op.to_dense()))
            n = min(STATE, blocks.shape[-1])
            difference = (spectra[:, :n] - blocks[:, :n]).abs().max() / blocks.max()
            row += f"| {direct:.1f} | **{direct / seconds:,.0f}** | {difference:.0e} |"
        else:
            row += "| | | |"
        rows.append(row)
    return TEXT + "\n".join(rows) + "\n"


def _recurrence(length: int) -> RecurrentOperator:
    g = torch.Generator().manual_seed(0)
    decay = 0.8 + 0.2 * torch.rand(length, STATE, generator=g, dtype=torch.float64)
    return RecurrentOperator(decay, *torch.randn(2, length, STATE, generator=g, dtype=torch.float64))


def _direct(T: torch.Tensor) -> torch.Tensor:
    spectra = T.new_zeros(len(T) - 1, STATE)
    for i in range(1, len(T)):
        values = torch.linalg.svdvals(T[i:, :i])[:STATE]
        spectra[i - 1, : len(values)] = values
    return spectra


def _timed(work):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
