"""The whole measure on a model of the shape of Mamba 130M with random weights, against one plain forward pass."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import MambaConfig, MambaForCausalLM

import assay
from assay.models.load import load, quiet_transformers
from assay.models.text import read_text

LENGTH = 1024
LAYERS = 24
COMPARED = 12  # the layer whose full profile is computed too
RUNS = 3
TEXT = """## Mamba 130M's shape ({layers} x {channels:,} recurrences of state 16, random weights, L = {length:,})

Everything that `assay measure --positions adaptive` computes, on the built-in text, against one forward pass of that
model with the code of transformers for the CPU (median of {runs}; the measure once). Each runs in a process of its own,
whose largest resident set is the memory. Target: at most 10 forward passes.

| | forward | measure | ratio |
|---|---:|---:|---:|
| seconds | {forward:.1f} | {measure:.0f} | **{ratio:.1f}** |
| processor seconds, all cores | {forward_cpu:.1f} | {measure_cpu:.0f} | {ratio_cpu:.1f} |
| peak memory of the process, MB | {forward_mb:,.0f} | {measure_mb:,.0f} | {memory:.2f} |

Positions evaluated: {positions:.0f} of {all_positions:,} in each channel. Mean entropy-ESS of the adaptive against the
full profile, over the {groups} groups of channels in layer {compared}: root mean square **{rms:.2%}**, worst
{worst:.2%}. The report had promised {promised:.2%}.
"""


def table() -> str:
    """Each row from processes of their own, one after the other."""
    forward, measure, full = (_run(what) for what in ("forward", "measure", "full"))
    pairs = zip(measure["heads"], full["heads"], strict=True)
    errors = torch.tensor([found / true - 1 for found, true in pairs], dtype=torch.float64).abs()
    return TEXT.format(
        layers=LAYERS,
        channels=MambaConfig().intermediate_size,
        length=LENGTH,
        runs=RUNS,
        forward=forward["seconds"],
        measure=measure["seconds"],
        ratio=measure["seconds"] / forward["seconds"],
        forward_cpu=forward["cpu"],
        measure_cpu=measure["cpu"],
        ratio_cpu=measure["cpu"] / forward["cpu"],
        forward_mb=forward["mb"],
        measure_mb=measure["mb"],
        memory=measure["mb"] / forward["mb"],
        positions=measure["positions"],
        all_positions=LENGTH - 1,
        groups=len(errors),
        compared=COMPARED,
        rms=float(errors.square().mean().sqrt()),
        worst=float(errors.max()),
        promised=measure["promised"],
    )


def _run(what: str) -> dict[str, float | list[float]]:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "benchmarks.mamba", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _do(what: str) -> None:
    torch.manual_seed(0)
    with quiet_transformers():
        model = MambaForCausalLM(MambaConfig(num_hidden_layers=LAYERS)).eval()
    text, tokenizer = read_text("builtin:text")[0] * 4, load("builtin:attention").tokenizer
    ids = torch.tensor([tokenizer(text, verbose=False).input_ids[:LENGTH]])
    result: dict[str, float | list[float]] = {}
    with torch.no_grad():
        model(ids[:, :2])
        if what == "forward":
            times = [_timed(lambda: model(ids)) for _ in range(RUNS)]
            result = {name: statistics.median(t[k] for t in times) for k, name in enumerate(("seconds", "cpu"))}
    if what != "forward":
        options = {"layers": [COMPARED], "positions": "all"} if what == "full" else {}
        seconds, cpu, report = _timed(lambda: assay.measure(model, text, tokenizer, max_tokens=LENGTH, **options))
        heads = report.heads[report.heads["layer"] == COMPARED]
        result = {
            "seconds": seconds,
            "cpu": cpu,
            "positions": len(report.state_size) / len(report.heads),
            "promised": report.meta["summary"]["interpolation_error"],
            "heads": heads["entropy_ess"].tolist(),
        }
    status = Path("/proc/self/status").read_text()  # of this program alone; getrusage counts the parent's fork too
    result["mb"] = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    print(json.dumps(result))


def _timed(work):  # type: ignore[no-untyped-def]
    """Wall-clock seconds, processor seconds, result."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started, time.process_time() - cpu, result


if __name__ == "__main__":
    _do(sys.argv[1])
