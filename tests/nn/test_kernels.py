"""The switch to fused kernels: when it turns, and that tensors arrive in the other package's layout and conventions.

Where there is no accelerator, small modules stand in for `fla` and `mamba_ssm`. They have the signatures, layouts and
conventions of fla-core 0.6.0 and mamba-ssm 2.3.2, and compute the recurrence token by token.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.nn import _kernels
from assay.nn._delta import delta_rule
from assay.nn._kernels import fused, use_fused
from assay.nn._linear_attention import linear_attention
from assay.nn._selective_scan import selective_scan
from assay.nn.deltanet import DeltaNet, GatedDeltaNet
from assay.nn.rwkv7 import RWKV7

calls: Counter[str] = Counter()


def recurrence(q: Tensor, v: Tensor, transition: Callable[[int, Tensor], Tensor], scale: float | None) -> Tensor:
    """fla's layout: (batch, time, heads, channels), with o = scale * S^T q."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    S = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=torch.float64)
    outputs = []
    for t in range(q.shape[1]):
        S = transition(t, S)
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t].double(), S))
    return torch.stack(outputs, dim=1).to(v.dtype)


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k.double()[..., :, None] * v.double()[..., None, :]


def chunk_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float | None = None) -> tuple[Tensor, None]:
    calls["chunk_gla"] += 1
    assert q.shape == k.shape == g.shape
    return recurrence(q, v, lambda t, S: g[:, t].double().exp()[..., None] * S + outer(k[:, t], v[:, t]), scale), None


def chunk_simple_gla(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, g_gamma: Any = None, scale: float | None = None
) -> tuple[Tensor, None]:
    calls["chunk_simple_gla"] += 1
    assert g_gamma is None
    assert g is None or g.shape == q.shape[:3]
    decay = torch.ones(q.shape[:3]) if g is None else g.exp()
    return recurrence(q, v, lambda t, S: decay[:, t, :, None, None] * S + outer(k[:, t], v[:, t]), scale), None


def chunk_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None
) -> tuple[Tensor, None]:
    calls["chunk_gated_delta_rule"] += 1
    assert g.shape == beta.shape == q.shape[:3]

    def transition(t: int, S: Tensor) -> Tensor:
        S = g[:, t].double().exp()[..., None, None] * S
        held = torch.einsum("bhk,bhkv->bhv", k[:, t].double(), S)
        return S + outer(k[:, t], beta[:, t, :, None] * (v[:, t] - held))

    return recurrence(q, v, transition, scale), None


def chunk_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, scale: float | None = None) -> tuple[Tensor, None]:
    calls["chunk_delta_rule"] += 1
    assert q.dtype == k.dtype == v.dtype != torch.float32
    return chunk_gated_delta_rule(q, k, v, torch.zeros_like(beta), beta, scale)


def chunk_dplr_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, gk: Tensor, scale: float | None = None
) -> tuple[Tensor, None]:
    """S_t = diag(exp(gk)) S_{t-1} + b (a^T S_{t-1}) + k v^T."""
    calls["chunk_dplr_delta_rule"] += 1

    def transition(t: int, S: Tensor) -> Tensor:
        through = outer(b[:, t], torch.einsum("bhk,bhkv->bhv", a[:, t].double(), S))
        return gk[:, t].double().exp()[..., None] * S + through + outer(k[:, t], v[:, t])

    return recurrence(q, v, transition, scale), None


def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """u, delta (batch, D, L), A (D, N), B and C (batch, N, L)."""
    calls["selective_scan_fn"] += 1
    h, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        h = torch.exp(delta[..., t, None] * A) * h + (delta * u)[..., t, None] * B[:, None, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(outputs, dim=-1)


def mamba_chunk_scan_combined(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int) -> Tensor:
    """x (batch, L, H, P), dt (batch, L, H), A (H,), B and C (batch, L, groups, N)."""
    calls["mamba_chunk_scan_combined"] += 1
    assert chunk_size > 0
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], dim=2) for t in (B, C))
    decay = (dt * A).exp()
    write = dt[..., None] * B
    return recurrence(C, x, lambda t, S: decay[:, t, :, None, None] * S + outer(write[:, t], x[:, t]), 1.0)


PACKAGES: dict[str, list[Any]] = {
    "fla.ops.gla": [chunk_gla],
    "fla.ops.simple_gla": [chunk_simple_gla],
    "fla.ops.delta_rule": [chunk_delta_rule],
    "fla.ops.gated_delta_rule": [chunk_gated_delta_rule],
    "fla.ops.generalized_delta_rule": [chunk_dplr_delta_rule],
    "mamba_ssm.ops.selective_scan_interface": [selective_scan_fn],
    "mamba_ssm.ops.triton.ssd_combined": [mamba_chunk_scan_combined],
}


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the CPU were an accelerator."""
    monkeypatch.setattr(_kernels, "_suits", lambda _name, _like: True)
    _kernels._verified.cache_clear()
    calls.clear()
    yield
    _kernels._verified.cache_clear()


@pytest.fixture
def packages(anywhere: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """As if fla and mamba-ssm were installed."""
    for name, functions in PACKAGES.items():
        module = ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)


NAMES = tuple(_kernels._KERNELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("packages")
def test_every_kernel_agrees_with_its_recurrence(name: str, dtype: torch.dtype) -> None:
    """Values and gradients: the conversion to the package's layout and conventions is right, in each dtype."""
    kernel = fused(name, torch.zeros(1, dtype=dtype))
    assert kernel is not None
    assert calls.total() >= 1


OURS: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "linear_attention": (linear_attention, ["chunk_gla", "chunk_simple_gla"]),
    "selective_scan": (selective_scan, ["selective_scan_fn"]),
    "diagonal_plus_rank_one": (delta_rule, ["chunk_dplr_delta_rule"]),
    "delta_rule": (
        lambda q, key, v, beta, g=None: delta_rule(q, beta * key, v, key if g is None else g.exp() * key, log_decay=g),
        ["chunk_gated_delta_rule"],
    ),
    "state_space_dual": (
        lambda C, B, x, delta, A: linear_attention(C, delta * B, x, delta * A[:, None, None]),
        ["mamba_chunk_scan_combined"],
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("packages")
def test_every_kernel_agrees_with_our_chunked_form(name: str) -> None:
    kernel = fused(name, torch.zeros(1))
    assert kernel is not None
    ours, functions = OURS[name]
    for inputs in _kernels._examples(name, torch.device("cpu"), torch.float32):
        calls.clear()
        with use_fused(False):
            expected = ours(*inputs)
        assert calls.total() == 0
        y = kernel(*inputs)
        assert sum(calls[f] for f in functions) == 1
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("packages")
def test_shapes_that_are_broadcast() -> None:
    """Keys shared by the heads, a decay that does not depend on time, decays of 0, more batch dimensions than two."""
    kernel = fused("linear_attention", torch.zeros(1))
    assert kernel is not None
    q, k, v = torch.randn(2, 1, 9, 4), torch.randn(2, 1, 9, 4), torch.randn(2, 3, 9, 5)
    for log_decay in (-torch.rand(3, 1, 1), -torch.rand(3, 1, 4), torch.full((2, 3, 9, 1), -math.inf)):
        torch.testing.assert_close(kernel(q, k, v, log_decay), linear_attention(q, k, v, log_decay))
    v = torch.randn(2, 2, 3, 9, 5)
    torch.testing.assert_close(kernel(q, k, v), linear_attention(q, k, v))
    scan = fused("selective_scan", torch.zeros(1))
    assert scan is not None
    x, delta, A, B = torch.randn(2, 2, 9, 3), torch.rand(2, 2, 9, 3), -torch.rand(3, 4), torch.randn(2, 2, 9, 4)
    torch.testing.assert_close(scan(x, delta, A, B, B), selective_scan(x, delta, A, B, B))
    torch.testing.assert_close(scan(x[0, 0], delta[0, 0], A, B[0, 0], B[0, 0]), scan(x, delta, A, B, B)[0, 0])


@pytest.mark.parametrize(
    ("make", "function"),
    [
        (DeltaNet, "chunk_gated_delta_rule"),
        (GatedDeltaNet, "chunk_gated_delta_rule"),
        (RWKV7, "chunk_dplr_delta_rule"),
    ],
)
@pytest.mark.usefixtures("packages")
def test_mixers_use_them(make: Any, function: str) -> None:
    torch.manual_seed(0)
    mixer, x = make(32), torch.randn(2, 40, 32)
    with use_fused(False):
        expected = mixer(x)
    assert calls[function] == 0
    torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-5)
    assert calls[function] >= 1
    if make is DeltaNet:  # its kernel takes half precision only
        mixer.bfloat16()(x.bfloat16())
        assert calls["chunk_delta_rule"] >= 1


@pytest.mark.usefixtures("packages")
def test_checked_once_and_in_whatever_mode_the_caller_is() -> None:
    state = torch.random.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert fused("delta_rule", torch.zeros(1)) is not None
    before = calls.total()
    assert fused("delta_rule", torch.zeros(1)) is not None
    assert calls.total() == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("packages")
def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.zeros(1)
    assert fused("delta_rule", like) is not None
    with use_fused(False):
        assert fused("delta_rule", like) is None
        with use_fused(True):
            assert fused("delta_rule", like) is not None
        assert fused("delta_rule", like) is None
    assert fused("delta_rule", like) is not None
    monkeypatch.setenv("ASSAY_FUSED", "0")
    assert fused("delta_rule", like) is None
    with use_fused(True):
        assert fused("delta_rule", like) is None


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **_: Any) -> tuple[Tensor, None]:
    """What a package would do that no longer knows the argument `scale`."""
    return chunk_gated_delta_rule(q, k, v, g, beta)


def wrong_gradient(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float) -> tuple[Tensor, None]:
    """Right values, but beta has no gradient of the right size."""
    return chunk_gated_delta_rule(q, k, v, g, 2 * beta - beta.detach(), scale)


def not_a_number(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float) -> tuple[Tensor, None]:
    return chunk_gated_delta_rule(q, k, v, g, beta, scale)[0] * torch.nan, None


def failing(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of shared memory")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (wrong_scale, "differs from the recurrence"),
        (wrong_gradient, "differs from the recurrence"),
        (not_a_number, "differs from the recurrence by inf"),
        (failing, "RuntimeError: out of shared memory"),
    ],
)
@pytest.mark.usefixtures("packages")
def test_a_kernel_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, kernel: Any, reason: str) -> None:
    module = ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", module)
    with pytest.warns(RuntimeWarning, match=f"'delta_rule' is not used for torch.float32 on cpu: .*{reason}"):
        assert fused("delta_rule", torch.zeros(1)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert fused("delta_rule", torch.zeros(1)) is None
    assert GatedDeltaNet(16)(torch.randn(1, 5, 16)).shape == (1, 5, 16)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("anywhere")
def test_without_the_packages_there_are_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)  # import fails
    assert fused(name, torch.zeros(1)) is None


@pytest.mark.parametrize("name", NAMES)
def test_none_on_the_cpu(name: str) -> None:
    assert fused(name, torch.zeros(1)) is None


class OnGPU:
    """The little that is asked of a tensor."""

    is_cuda = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def test_float32_only_where_it_stays_exact_or_the_user_allows_tf32() -> None:
    single: Any = OnGPU(torch.float32)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert not _kernels._suits("delta_rule", single)
        assert _kernels._suits("selective_scan", single)
        torch.set_float32_matmul_precision("high")
        assert _kernels._suits("delta_rule", single)
    finally:
        torch.set_float32_matmul_precision(before)
    for name in NAMES:
        assert _kernels._suits(name, OnGPU(torch.bfloat16))  # type: ignore[arg-type]
        assert not _kernels._suits(name, OnGPU(torch.float64))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_the_real_kernels(name: str) -> None:
    """On a GPU with the packages installed: a kernel that is refused is a failure here (warnings are errors)."""
    package = "mamba_ssm" if name in ("selective_scan", "state_space_dual") else "fla"
    pytest.importorskip(package, reason=f"{package} is not installed")
    kernel = fused(name, torch.zeros(1, device="cuda", dtype=torch.bfloat16))
    assert kernel is not None
    ours, _ = OURS[name]
    for inputs in _kernels._examples(name, torch.device("cuda"), torch.bfloat16):
        with use_fused(False):
            expected = ours(*inputs).float()
        assert float((kernel(*inputs).float() - expected).norm() / expected.norm()) < 2e-2
