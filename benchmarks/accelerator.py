"""The same work on an accelerator, where there is one, as a share of what its memory or its matrix units can do."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from assay.nn._delta import delta_rule
from assay.nn._kernels import use_fused
from assay.nn._linear_attention import linear_attention
from assay.operators import DenseOperator, RecurrentOperator

LENGTH, HEADS, SIZE = 4096, 32, 64
NONE = """## On an accelerator

Not run: there is no accelerator on this machine.
"""
TEXT = """## On an accelerator

{name}: copies {copy:.0f} GB/s, float32 matrix products {matrix:.1f} TFLOP/s, float64 {double:.1f} TFLOP/s, measured in
this run. The share is that of the one which bounds the work: the bytes that must be read and written at least, or the
operations that the method needs, over the time that it took. L = {length:,}, {heads} heads, N = C = {size}.

| work | seconds | bound by | share |
|---|---:|---|---:|
"""


def table() -> str:
    """Kernels forward and backward, and spectra; empty without an accelerator."""
    return measured(torch.device("cuda"), LENGTH, HEADS) if torch.cuda.is_available() else NONE


def measured(device: torch.device, length: int, heads: int) -> str:
    """The table for a device."""
    copy, matrix, double = _copy_rate(device), _matrix_rate(device, torch.float32), _matrix_rate(device, torch.float64)
    rows = [
        f"| {name} | {seconds:.4f} | {bound} | {amount / seconds / rate:.0%} |"
        for name, seconds, bound, amount, rate in (
            *_mixers(device, length, heads, copy),
            *_spectra(device, length, heads, double),
        )
    ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rates = {"copy": copy / 1e9, "matrix": matrix / 1e12, "double": double / 1e12}
    return TEXT.format(name=name, length=length, heads=heads, size=SIZE, **rates) + "\n".join(rows) + "\n"


def _mixers(device: torch.device, length: int, heads: int, copy: float) -> list[tuple[str, float, str, float, float]]:
    q, k, v = (torch.randn(heads, length, SIZE, device=device).requires_grad_() for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1).detach().requires_grad_()
    decay = torch.nn.functional.logsigmoid(torch.randn(heads, length, 1, device=device))
    least = 3 * 2 * 4.0 * q.numel() + 2 * 4.0 * v.numel()  # q, k, v and their gradients; y and its gradient
    found = []
    for name, work in (
        ("linear attention, forward and backward", lambda: linear_attention(q, k, v, decay)),
        ("delta rule, forward and backward", lambda: delta_rule(q, 0.5 * k, v, k)),
    ):
        for fused in (False, True):
            with use_fused(fused):
                seconds = _time(lambda: work().sum().backward(), device)  # noqa: B023
            found.append((name + (", fused where installed" if fused else ""), seconds, "copies", least, copy))
    return found


def _spectra(device: torch.device, length: int, heads: int, rate: float) -> list[tuple[str, float, str, float, float]]:
    middle = [length // 2]
    weights = torch.randn(heads, length, length, device=device).masked_fill(
        torch.ones(length, length, dtype=torch.bool, device=device).triu(1), -torch.inf
    )
    dense = DenseOperator(weights.softmax(-1))
    A = torch.rand(heads, length, SIZE, device=device, dtype=torch.float64)
    B, C = torch.randn(2, heads, length, SIZE, device=device, dtype=torch.float64)
    recurrent = RecurrentOperator(A, B, C)
    gram = heads * (length // 2) ** 3 * (1 + 4 / 3)  # a symmetric product, then a tridiagonal form
    factors = heads * 2 * length * SIZE**2  # triangular factors of the rows before L / 2 and of those from there on
    return [
        ("attention: spectrum at L / 2", _time(lambda: dense.approximate_singular_values(middle), device),
         "float64 products", gram, rate),
        ("recurrence: spectrum at L / 2", _time(lambda: recurrent.hankel_singular_values(middle), device),
         "float64 products", factors, rate),
    ]  # fmt: skip


def _time(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds, best of three, after a first run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written in a second."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    target: Tensor = torch.empty_like(source)
    return 2 * 4 * source.numel() / _time(lambda: target.copy_(source), device)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations in a second."""
    size = 8192 if device.type == "cuda" else 256
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _time(lambda: a @ a, device)
