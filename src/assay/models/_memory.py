"""How much memory a measurement will take, known before any of it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay._errors import ModelError

if TYPE_CHECKING:
    import torch

WORKING_BYTES = 4 + 8  # one layer's attention weights (or scan states) are held once in float32 and once in float64
LOGIT_BYTES = 4 + 4  # logits and their log-softmax
MIN_TOKENS = 16


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a measurement will need, by what needs them."""

    weights: int
    operators: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.operators + self.logits


def estimate_memory(
    config: Any, dtype: torch.dtype, num_tokens: int, *, trust_remote_code: bool = False
) -> MemoryEstimate:
    """The memory of a model with this config on windows of `num_tokens` tokens; the weights are not allocated.

    Raises `ModelError` where no model can be built from the config.
    """
    return _estimate(config, _num_weights(config, trust_remote_code), dtype.itemsize, num_tokens)


def check_memory(
    name: str,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    max_tokens: int,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Raise `ModelError` with what would fit where the model and its window need more than is free on `device`."""
    available = available_memory(device)
    num_weights = _num_weights(config, trust_remote_code)
    needed = _estimate(config, num_weights, dtype.itemsize, max_tokens)
    if needed.total <= available:
        return

    def fitting(itemsize: int, lengths: Sequence[int]) -> list[int]:
        return [n for n in lengths if _estimate(config, num_weights, itemsize, n).total <= available][:1]

    shorter = [2**k for k in range(40, 3, -1) if MIN_TOKENS <= 2**k < max_tokens]
    fits = [f"--max-tokens {n}" for n in fitting(dtype.itemsize, shorter)]
    if dtype.itemsize > 2:
        fits += ["--dtype bfloat16" for _ in fitting(2, [max_tokens])]
        fits = fits or [f"--dtype bfloat16 --max-tokens {n}" for n in fitting(2, shorter)]
    advice = f"{' or '.join(fits)} would fit" if fits else "take a smaller model or a machine with more memory"
    raise ModelError(
        f"{name!r} needs about {human_bytes(needed.total)} (weights {human_bytes(needed.weights)}) in "
        f"{str(dtype).removeprefix('torch.')} for {max_tokens:,} tokens, and {human_bytes(available)} are free on "
        f"{device}; {advice}"
    )


def available_memory(device: torch.device) -> int:
    """Bytes free on the device, or in the machine's memory (or the container's share of it)."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _container_memory())


def human_bytes(size: float) -> str:
    """1_500_000 -> '1.5 MB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if size >= 99.5 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _estimate(config: Any, num_weights: int, itemsize: int, num_tokens: int) -> MemoryEstimate:
    vocabulary = _largest(getattr(config.get_text_config(), "vocab_size", None))
    return MemoryEstimate(
        weights=num_weights * itemsize,
        operators=_operator_size(config, num_tokens) * WORKING_BYTES,
        logits=num_tokens * vocabulary * LOGIT_BYTES,
    )


def _container_memory() -> int:
    """What a Linux container (cgroup 2) may still take; without one, no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 1 << 62
    return limit - used + int(stat.get("inactive_file", 0))


def _num_weights(config: Any, trust_remote_code: bool) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config is foreign data: whatever it breaks is told in one line
        raise ModelError(f"no model can be built from its config.json: {first_line(error)}") from error
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _operator_size(config: Any, num_tokens: int) -> int:
    """Entries of the largest layer's attention weights or scan states over one window."""
    text = config.get_text_config()
    heads = _largest(getattr(text, "num_attention_heads", None) or getattr(text, "num_query_heads", None))
    state = _largest(getattr(text, "state_size", None) or getattr(text, "mamba_d_state", None))
    hidden = _largest(getattr(text, "hidden_size", None))
    expand = _largest(getattr(text, "expand", None) or getattr(text, "mamba_expand", None)) or 2
    return max(heads * num_tokens**2, hidden * expand * state * num_tokens)


def _largest(value: Any) -> int:
    values = value if isinstance(value, list | tuple) else [value]
    return max((int(v) for v in values if isinstance(v, int | float)), default=0)
