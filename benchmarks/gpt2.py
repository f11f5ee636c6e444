"""The whole measure on a model of the shape of GPT-2 small with random weights, against one plain forward pass."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import assay
from assay.models.load import load, quiet_transformers
from assay.models.text import read_text

LENGTH = 1024
RUNS = 3
TEXT = """## GPT-2 small's shape (12 x 12 heads, random weights, L = {length:,}): the whole measure

Everything that `assay measure --positions adaptive` computes, on the built-in text, against one forward pass of that
model with eager attention (median of {runs} passes; the measure once). Memory is the largest resident set of a process
of its own that does only this. Targets: at most 10 forward passes, entropy-ESS within 0.5 % of the full profile, at
most 2.5 times the memory.

| | forward | measure | ratio |
|---|---:|---:|---:|
| seconds | {forward:.2f} | {measure:.1f} | **{ratio:.1f}** |
| peak memory of the process, MB | {forward_mb:,.0f} | {measure_mb:,.0f} | **{memory:.2f}** |
| above the loaded model, MB | {forward_extra:,.0f} | {measure_extra:,.0f} | {memory_extra:.2f} |

Mean entropy-ESS of the adaptive against the full profile (to 1e-6), over {heads} heads: root mean square {rms:.2%},
worst head **{worst:.2%}**, whole model {total:.2%}. The report had promised {promised:.2%}. The full profile takes
{full:.0f} s.
"""


def table() -> str:
    """Time in this process; memory in three others."""
    model, text, tokenizer = _setting()
    ids = torch.tensor([tokenizer(text, verbose=False).input_ids[:LENGTH]])
    with torch.no_grad():
        model(ids)
        forward = _median(lambda: model(ids))
    started = time.perf_counter()
    adaptive = assay.measure(model, text, tokenizer, max_tokens=LENGTH)
    measure = time.perf_counter() - started
    started = time.perf_counter()
    full = assay.measure(model, text, tokenizer, max_tokens=LENGTH, positions="all")
    seconds = time.perf_counter() - started
    error = (adaptive.heads["entropy_ess"] / full.heads["entropy_ess"] - 1).abs()
    total = adaptive.heads["entropy_ess"].sum() / full.heads["entropy_ess"].sum() - 1
    memory = {what: _peak(what) for what in ("nothing", "forward", "measure")}
    extra = {what: peak - memory["nothing"] for what, peak in memory.items()}
    return TEXT.format(
        runs=RUNS,
        length=LENGTH,
        forward=forward,
        measure=measure,
        ratio=measure / forward,
        forward_mb=memory["forward"],
        measure_mb=memory["measure"],
        memory=memory["measure"] / memory["forward"],
        forward_extra=extra["forward"],
        measure_extra=extra["measure"],
        memory_extra=extra["measure"] / extra["forward"],
        heads=len(error),
        rms=float((error**2).mean() ** 0.5),
        worst=float(error.max()),
        total=abs(float(total)),
        promised=adaptive.meta["summary"]["interpolation_error"],
        full=seconds,
    )


def _setting() -> tuple[GPT2LMHeadModel, str, object]:
    torch.manual_seed(0)
    with quiet_transformers():
        model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager")).eval()
    return model, read_text("builtin:text")[0], load("builtin:attention").tokenizer


def _median(work) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _peak(what: str) -> float:
    """Largest resident set of a process that makes the model and then does `what`, in MB (Linux)."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpt2", what], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]) / 1024


def _do(what: str) -> None:
    model, text, tokenizer = _setting()
    ids = torch.tensor([tokenizer(text, verbose=False).input_ids[:LENGTH]])  # type: ignore[operator]
    with torch.no_grad():
        model(ids[:, :2])
        if what == "forward":
            model(ids)
    if what == "measure":
        assay.measure(model, text, tokenizer, max_tokens=LENGTH)
    status = Path("/proc/self/status").read_text()  # of this program alone; getrusage counts the parent's fork too
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    _do(sys.argv[1])
