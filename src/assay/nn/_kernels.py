"""Fused GPU kernels of other packages behind our own signatures, where they are installed.

`flash-linear-attention` (`fla`) and `mamba-ssm` have Triton and CUDA kernels for what our chunked forms compute. One
line sends a mixer there:

    if kernel := fused("linear_attention", v):
        return kernel(q, k, v, log_decay)

A kernel is used only once it has agreed with the plain recurrence, values and gradients, on a small example on this
device and in this dtype; so a package whose conventions have changed costs speed, not truth.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from assay.nn._delta import delta_rule_step

TOLERANCE = 5e-2  # relative: what half precision may cost; a wrong convention costs far more
MIN_LOG_DECAY = -100.0  # smaller is 0 in float32; the kernels' sums must be finite
_enabled = ContextVar("fused kernels", default=True)


@contextmanager
def use_fused(enabled: bool) -> Iterator[None]:
    """Turn fused kernels on or off inside the block. Where the environment has `ASSAY_FUSED=0` they stay off."""
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def fused(name: str, like: Tensor) -> Callable[..., Tensor] | None:
    """The kernel for tensors on the device and in the dtype of `like`, with the signature of our own; None for none.

    name: "linear_attention", "delta_rule", "diagonal_plus_rank_one", "selective_scan" or "state_space_dual".
    None on the CPU, in float64, and where its package is missing or its result is wrong (`RuntimeWarning`, once). The
    Triton kernels multiply float32 in TF32, so they take float32 only if the user has allowed that with
    `torch.set_float32_matmul_precision("high")`.
    """
    if not _suits(name, like) or not _enabled.get() or os.environ.get("ASSAY_FUSED") == "0":
        return None
    return _verified(name, like.device, like.dtype)


def _suits(name: str, like: Tensor) -> bool:
    if not like.is_cuda:
        return False
    if like.dtype != torch.float32:
        return like.dtype in (torch.bfloat16, torch.float16)
    return name == "selective_scan" or torch.get_float32_matmul_precision() != "highest"


@cache
def _verified(name: str, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    kernel, reference = _KERNELS[name]
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            worst = max(_difference(kernel, reference, inputs) for inputs in _examples(name, device, dtype))
    except ModuleNotFoundError:
        return None
    except Exception as error:  # whatever another package's kernel may raise, ours still works
        reason = f"{type(error).__name__}: {error}"
    else:
        if worst <= TOLERANCE:
            return kernel
        reason = f"it differs from the recurrence by {worst:.1e}"
    warnings.warn(f"fused kernel {name!r} is not used for {dtype} on {device}: {reason}", RuntimeWarning, stacklevel=4)
    return None


Inputs = tuple[Tensor | None, ...]


def _difference(kernel: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Inputs) -> float:
    """The largest relative difference of the outputs and of the gradients of a random projection of them."""
    results = []
    for function, dtype in ((kernel, None), (reference, torch.float64)):
        leaves = [None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in inputs]
        y = function(*leaves)
        weights = (17 * torch.arange(y.numel(), device=y.device, dtype=torch.float64)).sin().view_as(y)
        given = [t for t in leaves if t is not None]
        results.append([y.detach(), *torch.autograd.grad((y * weights).sum(), given)])
    pairs = [(one.double(), other) for one, other in zip(*results, strict=True)]
    differences = torch.stack([(one - other).norm() / other.norm() for one, other in pairs])
    return float(differences.nan_to_num(torch.inf).max())


# The kernels, with our signatures. fla takes (batch, L, heads, channels) and log decays, and divides by sqrt(N) unless
# told otherwise. Each of our heads is a batch entry of its own there, so nothing needs to be transposed.


def _linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """As `assay.nn._linear_attention.linear_attention`."""
    chunk_gla = import_module("fla.ops.gla").chunk_gla
    chunk_simple_gla = import_module("fla.ops.simple_gla").chunk_simple_gla

    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (q, k, v) + (() if log_decay is None else (log_decay,))))
    length, dtype = v.shape[-2], v.dtype
    q, k, v = (_for_fla(t.to(dtype), batch, length) for t in (q, k, v))
    g = None if log_decay is None else _log_decay_for_fla(log_decay, batch, length)
    if g is not None and g.shape[-1] > 1:
        y = chunk_gla(q, k, v, g, scale=1.0)[0]
    else:
        y = chunk_simple_gla(q, k, v, None if g is None else g[..., 0], scale=1.0)[0]
    return _from_fla(y, batch, dtype)


def _delta_rule(q: Tensor, key: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """(Gated) delta rule: q, key (..., L, N), v (..., L, C), beta and log_decay (..., L, 1)."""
    chunk_delta_rule = import_module("fla.ops.delta_rule").chunk_delta_rule
    chunk_gated_delta_rule = import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule

    batch, length, dtype = v.shape[:-2], v.shape[-2], v.dtype
    q, key, v, beta = (_for_fla(t.to(dtype), batch, length) for t in (q, key, v, beta))
    if log_decay is None and dtype != torch.float32:  # which chunk_delta_rule refuses
        return _from_fla(chunk_delta_rule(q, key, v, beta[..., 0], scale=1.0)[0], batch, dtype)
    g = torch.zeros_like(beta) if log_decay is None else _log_decay_for_fla(log_decay, batch, length)
    return _from_fla(chunk_gated_delta_rule(q, key, v, g[..., 0], beta[..., 0], scale=1.0)[0], batch, dtype)


def _diagonal_plus_rank_one(q: Tensor, k: Tensor, v: Tensor, read: Tensor, write: Tensor, log_decay: Tensor) -> Tensor:
    """As `assay.nn._delta.delta_rule`, with a decay for each key channel."""
    chunk_dplr_delta_rule = import_module("fla.ops.generalized_delta_rule").chunk_dplr_delta_rule

    batch, length, dtype = v.shape[:-2], v.shape[-2], v.dtype
    q, k, v, read, write = (_for_fla(t.to(dtype), batch, length) for t in (q, k, v, read, write))
    g = _log_decay_for_fla(log_decay, batch, length)
    return _from_fla(chunk_dplr_delta_rule(q, k, v, read, -write, g, scale=1.0)[0], batch, dtype)


def _selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """As `assay.nn._selective_scan.selective_scan`; the kernel takes (batch, channels, L), and float32 exactly."""
    selective_scan_fn = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    u, dt, B, C = (
        t.float().expand(*x.shape[:-2], *t.shape[-2:]).reshape(-1, *t.shape[-2:]).mT for t in (x, delta, B, C)
    )
    y = selective_scan_fn(u.contiguous(), dt.contiguous(), A.float(), B.contiguous(), C.contiguous())
    return y.mT.reshape(x.shape)


def _state_space_dual(C: Tensor, B: Tensor, x: Tensor, delta: Tensor, A: Tensor) -> Tensor:
    """Mamba-2: C, B (batch, G, L, N), x (batch, H, L, P), delta (batch, H, L, 1), A (H,), negative."""
    mamba_chunk_scan_combined = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined

    values, B, C = (t.to(x.dtype).transpose(1, 2) for t in (x, B, C))
    dt = delta[..., 0].transpose(1, 2).float()
    return mamba_chunk_scan_combined(values, dt, A.float(), B, C, chunk_size=256).transpose(1, 2)


def _for_fla(x: Tensor, batch: torch.Size, length: int) -> Tensor:
    """(..., L or 1, N) -> (heads of all entries, L, 1, N)."""
    return x.expand(*batch, length, -1).reshape(-1, length, 1, x.shape[-1])


def _log_decay_for_fla(log_decay: Tensor, batch: torch.Size, length: int) -> Tensor:
    return _for_fla(log_decay.float().clamp(min=MIN_LOG_DECAY), batch, length)


def _from_fla(y: Tensor, batch: torch.Size, dtype: torch.dtype) -> Tensor:
    return y[:, :, 0].unflatten(0, batch).to(dtype)


# What each kernel must agree with: the recurrence, token by token


def _recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, read: Tensor | None = None, write: Tensor | None = None
) -> Tensor:
    read = torch.zeros_like(k) if read is None else read
    state, outputs = None, []
    for t in range(v.shape[-2]):
        now = None if write is None else write[..., t, :]
        decay = None if log_decay is None else log_decay[..., t, :]
        y, state = delta_rule_step(q[..., t, :], k[..., t, :], v[..., t, :], read[..., t, :], now, decay, state)
        outputs.append(y)
    return torch.stack(outputs, dim=-2)


def _delta_recurrence(q: Tensor, key: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None) -> Tensor:
    return _recurrence(q, beta * key, v, log_decay, key if log_decay is None else log_decay.exp() * key)


def _rank_one_recurrence(q: Tensor, k: Tensor, v: Tensor, read: Tensor, write: Tensor, log_decay: Tensor) -> Tensor:
    return _recurrence(q, k, v, log_decay, read, write)


def _scan_recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    dt = delta.mT[..., None]  # a head for each channel
    return _recurrence(C[:, None], dt * B[:, None], x.mT[..., None], dt * A[:, None])[..., 0].mT


def _dual_recurrence(C: Tensor, B: Tensor, x: Tensor, delta: Tensor, A: Tensor) -> Tensor:
    return _recurrence(C, delta * B, x, delta * A[:, None, None])


def _examples(name: str, device: torch.device, dtype: torch.dtype) -> list[Inputs]:
    """Inputs for each way in which a kernel is called: 2 entries, 2 heads, 70 tokens, 32 channels."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, precise: bool = False) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.float32 if precise else dtype)

    q, k, v = (draw(2, 2, 70, 32) for _ in range(3))
    key, beta = normalize(k.float(), dim=-1).to(dtype), draw(2, 2, 70, 1).sigmoid()
    by_channel, by_head = (-0.3 * softplus(draw(2, 2, 70, n, precise=True)) for n in (32, 1))
    dt, A = softplus(draw(2, 2, 70, 1, precise=True)), -softplus(draw(2, precise=True))
    steps, A_by_channel = softplus(draw(2, 70, 32, precise=True)), -softplus(draw(32, 8, precise=True))
    cases: dict[str, list[Inputs]] = {
        "linear_attention": [(q, key, v, by_channel), (q, key, v, by_head), (q, key, v, None)],
        "delta_rule": [(q, key, v, beta, by_head), (q, key, v, beta, None)],
        "diagonal_plus_rank_one": [(q, k, v, key, beta * key, by_channel)],
        "selective_scan": [(v[:, 0], steps, A_by_channel, q[:, 0, :, :8], k[:, 0, :, :8])],
        "state_space_dual": [(q[:, :1], key[:, :1], v, dt, A)],
    }
    return cases[name]


_KERNELS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "linear_attention": (_linear_attention, _recurrence),
    "delta_rule": (_delta_rule, _delta_recurrence),
    "diagonal_plus_rank_one": (_diagonal_plus_rank_one, _rank_one_recurrence),
    "selective_scan": (_selective_scan, _scan_recurrence),
    "state_space_dual": (_state_space_dual, _dual_recurrence),
}
