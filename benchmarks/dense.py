"""Effective state-size of attention at every position, against an SVD of every block."""

import argparse
import inspect
import math

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from assay.measures.state_size import entropy_ess, state_size_profile, tolerance_ess
from assay.models.load import load, quiet_transformers
from assay.models.trace import MixerTrace, trace
from assay.operators import DenseOperator
from benchmarks._timing import timed

LENGTHS = (256, 512, 1024, 2048, 4096)
HEADS = {256: 8, 512: 4, 1024: 2, 2048: 2, 4096: 2}
DIRECT_UP_TO, FULL_UP_TO = 1024, 1024  # beyond, positions that miss 1e-6 take seconds each
TOLERANCE = 1e-3
TEXT = """## Attention heads: effective state-size at every position

The direct method is `torch.linalg.svdvals` of every block `T[i:, :i]` in float64, with the number of threads that is
fastest (of 1 and all). *Counts* is tolerance-ESS at 1e-3 alone (`count_singular_values`); *full* is both kinds of ESS
at all positions, entropy-ESS to 1e-6; *adaptive* is both at all positions with the mean of entropy-ESS within the
error stated. Seconds for each head of {heads}. The heads are spread over the layers of the built-in model, reading the
source of a Python module (beyond 512 tokens it reads further than it was trained for), and of GPT-2 small's shape with
random weights. Targets at L = 1,024: counts 30 times, full 3.5 times, adaptive 20 times; time as the third power of L.

| heads of | L | direct, s | counts, s | full, s | adaptive, s | counts | full | adaptive |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{speed}

The three columns on the right are ratios to the direct method. Exponents of L over the last three lengths: {exponents}.

| heads of | L | wrong counts | full: largest relative difference | adaptive: mean, worst head | its stated error |
|---|---:|---:|---:|---:|---:|
{accuracy}

Against the direct method at all positions up to L = {direct:,}; beyond, counts against it at {sampled} positions of
each head. The adaptive mean is set against that of the full profile.

One head of linear attention with 16 features in its dense form, L = 1,024, float64, so that every block has rank 16:
all its spectra by shared cores in {cores:.2f} s, directly in {cores_direct:.1f} s: **{cores_ratio:.0f}** times; largest
difference / largest singular value {cores_off:.0e}.
"""
SAMPLED = 3


@torch.no_grad()
def table() -> str:
    """About five minutes on two cores, half of it for the direct method."""
    speed, accuracy = [], []
    seconds: dict[tuple[str, str], dict[int, float]] = {}
    for name in ("built-in model", "random weights"):
        for length in LENGTHS:
            T = _heads(name, length)
            row, off = _measured(DenseOperator(T))
            for what, value in row.items():
                seconds.setdefault((name, what), {})[length] = value
            direct = row.get("direct")
            ratios = [f"**{direct / row[what]:,.0f}**" if direct else "" for what in ("counts", "full", "adaptive")]
            times = [f"{row[what]:.3f}" if what in row else "" for what in ("counts", "full", "adaptive")]
            speed.append(_row(name, f"{length:,}", f"{direct:.2f}" if direct else "", *times, *ratios))
            accuracy.append(_row(name, f"{length:,}", *off))
    exponents = ", ".join(
        f"{what} {math.log(times[LENGTHS[-1]] / times[LENGTHS[-3]], LENGTHS[-1] / LENGTHS[-3]):.2f} ({name})"
        for (name, what), times in seconds.items()
        if what in ("counts", "adaptive")
    )
    return TEXT.format(
        heads=", ".join(f"{heads} at {length:,}" for length, heads in HEADS.items()),
        speed="\n".join(speed),
        exponents=exponents,
        accuracy="\n".join(accuracy),
        direct=DIRECT_UP_TO,
        sampled=SAMPLED,
        **_low_rank(),
    )


def _measured(operator: DenseOperator) -> tuple[dict[str, float], list[str]]:
    """Seconds a head, and the entries of the table of accuracy."""
    (heads,), length = operator.batch_shape, operator.length
    every = range(1, length)
    operator.window(0, 128).count_singular_values(TOLERANCE, range(1, 128))  # warm-up
    counting, found = timed(lambda: operator.count_singular_values(TOLERANCE, every))
    adapting, adaptive = timed(lambda: state_size_profile(operator, tolerance=TOLERANCE, positions="adaptive"))
    row = {"counts": counting / heads, "adaptive": adapting / heads}
    positions = list(every) if length <= DIRECT_UP_TO else [length // 3, length // 2, 3 * length // 4]
    direct, sigma = _direct(operator.matrix, positions)
    index = torch.tensor(positions) - 1
    counts, entropy = tolerance_ess(sigma, TOLERANCE), entropy_ess(sigma)
    wrong = int((found.counts[:, index] != counts).sum())
    checked = f"{wrong} of {counts.numel():,}" + ("" if found.method == "inertia" else f" ({found.method})")
    mean = adaptive.interpolate(adaptive.entropy_ess, length).mean(-1)
    if length <= DIRECT_UP_TO:
        row["direct"] = direct / heads
    if length > FULL_UP_TO:
        return row, [checked, "", "", f"{adaptive.error:.1e}"]
    entirely, full = timed(lambda: state_size_profile(operator, tolerance=TOLERANCE))
    row["full"] = entirely / heads
    wrong = int((full.tolerance_ess[:, index] != counts).sum())
    checked += f", {wrong} in the full profile"
    off = float((full.entropy_ess[:, index] / entropy - 1).abs().max())
    missed = float((mean / full.interpolate(full.entropy_ess, length).mean(-1) - 1).abs().max())
    return row, [checked, f"{off:.0e}", f"{missed:.1e}", f"{adaptive.error:.1e}"]


def _direct(T: Tensor, positions: list[int]) -> tuple[float, Tensor]:
    """Seconds for all heads with the best number of threads, and the singular values."""
    threads = torch.get_num_threads()
    block = T[0, T.shape[-1] // 2 :, : T.shape[-1] // 2].double()
    best = min({1, threads}, key=lambda n: _with_threads(n, lambda: torch.linalg.svdvals(block))[0])

    def blocks() -> Tensor:
        sigma = T.new_zeros(len(T), len(positions), T.shape[-1] // 2, dtype=torch.float64)
        for k, i in enumerate(positions):
            values = torch.linalg.svdvals(T[:, i:, :i].double())
            sigma[:, k, : values.shape[-1]] = values
        return sigma

    return _with_threads(best, blocks)


def _low_rank() -> dict[str, float]:
    q, k = torch.randn(2, 1, 1024, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator = DenseOperator((q @ k.mT).tril())
    every = list(range(1, 1024))
    seconds, found = timed(lambda: operator.hankel_singular_values(every))
    direct, sigma = _direct(operator.matrix, every)
    off = ((found - sigma).abs().amax(-1) / sigma[..., 0]).max()
    return {"cores": seconds, "cores_direct": direct, "cores_ratio": direct / seconds, "cores_off": float(off)}


def _heads(name: str, length: int) -> Tensor:
    """Some heads' attention weights, float32, from all depths."""
    loaded = load("builtin:attention")
    text = inspect.getsource(argparse)
    ids = torch.tensor([loaded.tokenizer(text, verbose=False).input_ids[:length]])
    model = loaded.model
    if name == "random weights":
        torch.manual_seed(0)
        with quiet_transformers():
            model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager", n_positions=length)).eval()
    depth = model.config.num_hidden_layers
    count = HEADS[length]
    layers = sorted({round((k + 0.5) * depth / count - 0.5) for k in range(count)})
    each = count // len(layers)
    found: list[Tensor] = []

    def keep(mixer: MixerTrace) -> None:
        assert mixer.reading is not None
        found.append(mixer.reading.operator.to_dense()[0, :each].clone())

    trace(model, ids, layers=layers, on_mixer=keep)
    return torch.cat(found)


def _row(*entries: str) -> str:
    return "| " + " | ".join(entries) + " |"


def _with_threads(count: int, work):  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return timed(work)
    finally:
        torch.set_num_threads(before)
