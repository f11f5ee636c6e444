"""Forward and backward of the chunked kernels, against the recurrence token by token and against other packages."""

import time
from collections.abc import Callable

import torch
from mambapy.pscan import pscan
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from assay.nn._delta import delta_rule
from assay.nn._linear_attention import linear_attention
from assay.nn._selective_scan import selective_scan

BATCH, HEADS, SIZE = 2, 4, 64  # N = C = SIZE
CHANNELS, STATE = 256, 16  # of the selective scan
NAIVE = 512
LENGTHS = (512, 2048, 8192)
TEXT = """## Mixers: forward and backward on a CPU

{batch} sequences, {heads} heads of {size} key and {size} value channels (selective scan: {channels} channels with a
state of {state}), float32, best of three. *Naive* is the recurrence token by token under autograd, at L = {naive} only,
as it keeps a state for each token. *Other* is the fastest implementation for a CPU that we know of; for linear
attention without decay or with a decay for each key channel we know of none. Ratios above 1 mean that assay is faster.
Outputs agree to {difference:.0e}, relative.

| kernel (mixers) | L | assay, s | microseconds a token | naive / assay | other / assay | other |
|---|---:|---:|---:|---:|---:|---|
"""

Kernel = Callable[..., Tensor]


def table() -> str:
    """Every kernel at every length; the other implementations too."""
    rows, differences = [], [0.0]
    for name, ours, naive, peers, source, make in _kernels():
        for length in LENGTHS:
            inputs = make(length)
            seconds, y = _time(ours, inputs)
            row = f"| {name} | {length:,} | {seconds:.3f} | {1e6 * seconds / (BATCH * length):.0f} |"
            others = [(naive, 1)] if length == NAIVE else []
            for function, repeats in others:
                taken, theirs = _time(function, inputs, repeats)
                differences.append(_difference(y, theirs))
                row += f" **{taken / seconds:,.0f}** |"
            row += "" if others else " |"
            if peers:
                results = [_time(peer, inputs) for peer in peers]
                differences += [_difference(y, theirs) for _, theirs in results]
                row += f" **{min(taken for taken, _ in results) / seconds:.1f}** | {source} |"
            else:
                row += " | |"
            rows.append(row)
    settings = {"batch": BATCH, "heads": HEADS, "size": SIZE, "channels": CHANNELS, "state": STATE, "naive": NAIVE}
    return TEXT.format(difference=max(differences), **settings) + "\n".join(rows) + "\n"


def _kernels() -> list[tuple[str, Kernel, Kernel, list[Kernel], str, Callable[[int], list[Tensor]]]]:
    """(name, ours, naive, other implementations, where those come from, inputs for a length)."""
    return [
        ("no decay (LinearAttention)", linear_attention, _recurrence, [], "", lambda n: _qkv(n, 0)),
        (
            "a decay a head (Mamba2, Retention)",
            linear_attention,
            _recurrence,
            [lambda *inputs, c=chunk: _mamba2(*inputs, chunk=c) for chunk in (64, 256)],
            "transformers, Mamba-2",
            lambda n: _qkv(n, 1),
        ),
        (
            "a decay a key channel (GatedLinearAttention, RWKV6)",
            linear_attention,
            _recurrence,
            [],
            "",
            lambda n: _qkv(n, SIZE),
        ),
        (
            "selective scan (Mamba)",
            selective_scan,
            _selective,
            [_mambapy],
            "mambapy",
            _scan_inputs,
        ),
        (
            "gated delta rule (GatedDeltaNet)",
            _delta,
            _delta_recurrence,
            [_qwen],
            "transformers, Qwen3-Next",
            _delta_inputs,
        ),
    ]


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _qkv(length: int, decays: int) -> list[Tensor]:
    q, k, v = _draw(3, BATCH, HEADS, length, SIZE).unbind(0)
    inputs = [q / SIZE**0.5, k, v]
    return [*inputs, -0.05 * _draw(BATCH, HEADS, length, decays).abs()] if decays else inputs


def _recurrence(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    S = torch.zeros(BATCH, HEADS, SIZE, SIZE)
    outputs = []
    for t in range(v.shape[-2]):
        S = S if log_decay is None else log_decay[..., t, :, None].exp() * S
        S = S + k[..., t, :, None] * v[..., t, None, :]
        outputs.append(q[..., t, None, :] @ S)
    return torch.cat(outputs, dim=-2)


def _mamba2(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, chunk: int) -> Tensor:
    """With a step size of 1 in the values and the decays as they are."""
    q, k, v, delta = (t.transpose(1, 2) for t in (q, k, v, -log_decay))
    values = v / delta  # which it multiplies with the step size
    y = mamba2_chunk_scan(values, delta[..., 0], -torch.ones(HEADS), k, q, chunk)
    return (y[0] if isinstance(y, tuple) else y).transpose(1, 2)


def _scan_inputs(length: int) -> list[Tensor]:
    x, delta = _draw(2, BATCH, length, CHANNELS).unbind(0)
    B, C = _draw(2, BATCH, length, STATE).unbind(0)
    A = -torch.arange(1.0, STATE + 1).repeat(CHANNELS, 1)
    return [x, torch.nn.functional.softplus(delta - 3), A, B, C]


def _selective(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    h = torch.zeros(BATCH, CHANNELS, STATE)
    outputs = []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def _mambapy(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    h = pscan(torch.exp(delta[..., None] * A), (delta * x)[..., None] * B[..., None, :])
    return (h @ C[..., None])[..., 0]


def _delta_inputs(length: int) -> list[Tensor]:
    """q, unit keys, v, beta, log decay."""
    q, k, v = _draw(3, BATCH, HEADS, length, SIZE).unbind(0)
    beta, decay = _draw(2, BATCH, HEADS, length, 1).unbind(0)
    return [q, torch.nn.functional.normalize(k, dim=-1), v, beta.sigmoid(), -0.05 * decay.abs()]


def _delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Tensor:
    return delta_rule(q, beta * k, v, log_decay.exp() * k, log_decay=log_decay)


def _delta_recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Tensor:
    S = torch.zeros(BATCH, HEADS, SIZE, SIZE)
    outputs = []
    for t in range(v.shape[-2]):
        S = log_decay[..., t, :, None].exp() * S
        new = beta[..., t, None, :] * (v[..., t, None, :] - k[..., t, None, :] @ S)
        S = S + k[..., t, :, None] * new
        outputs.append(q[..., t, None, :] @ S)
    return torch.cat(outputs, dim=-2)


def _qwen(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Tensor:
    """It scales q by 1 / sqrt(N) itself."""
    q, k, v, beta, log_decay = (t.transpose(1, 2) for t in (q * SIZE**0.5, k, v, beta, log_decay))
    return torch_chunk_gated_delta_rule(q, k, v, log_decay[..., 0], beta[..., 0])[0].transpose(1, 2)


def _time(function: Kernel, inputs: list[Tensor], repeats: int = 3) -> tuple[float, Tensor]:
    """Best seconds of a forward and backward pass, and the output."""
    times = []
    for _ in range(repeats):
        leaves = [t.clone().requires_grad_() for t in inputs]
        started = time.perf_counter()
        y = function(*leaves)
        y.square().sum().backward()
        times.append(time.perf_counter() - started)
    return min(times), y.detach()


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
