"""`J v` and `J^T w` of a module, by whatever kind of automatic differentiation it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from assay._errors import InputError

Module = Callable[[Tensor], Any]
Route = Callable[[Module, Tensor, Tensor], Tensor]


class Products:
    """Of a function from (B, L, D) to (B, L, E), or to a tuple that begins with it, computed for each sample alone."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._route: Route | None = None

    def output(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, E), without derivatives."""
        with torch.no_grad():
            return _first(self.module(x.clone()))  # modules may write into what they are given

    def reverse(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """`J^T w`: (B, L, D), (B, L, E) -> (B, L, D)."""
        with torch.inference_mode(False):
            return _reverse(self.module, x.clone(), cotangents.clone())

    def forward(self, x: Tensor, tangents: Tensor) -> Tensor:
        """`J v`: (B, L, D), (B, L, D) -> (B, L, E)."""
        with torch.inference_mode(False):
            x, tangents = x.clone(), tangents.clone()
            if self._route is None:
                self._route = _find_route(self.module, x[:1].clone())
            return self._route(self.module, x, tangents)


def _find_route(module: Module, x: Tensor) -> Route:
    """The first way to `J v` that there is and that agrees with reverse mode: `w^T J v = |v|^2` for `v = J^T w`."""
    output = _first(module(x.clone()))
    w = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(x)
    v = _reverse(module, x.clone(), w)
    expected, reason = float(v.double().square().sum()), "it disagrees with the reverse-mode one"
    for route in (_forward_mode, _forward_mode_plainly, _two_reverses):
        try:
            found = float((route(module, x.clone(), v).double() * w.double()).sum())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # includes NotImplementedError
            reason = str(error).splitlines()[0]
            continue
        if abs(found - expected) <= max(1e-2, 16 * torch.finfo(x.dtype).eps) * expected:
            return route
    name = type(module).__name__ if isinstance(module, nn.Module) else getattr(module, "__name__", "module")
    raise InputError(f"{name} has no forward-mode derivative that could be used: {reason}")


def _reverse(module: Module, x: Tensor, cotangents: Tensor) -> Tensor:
    try:
        return _gradient(module, x, cotangents)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # such as cuDNN's LSTM, which has a derivative in training mode alone
        with _plain_kernels():
            return _gradient(module, x, cotangents)


def _gradient(module: Module, x: Tensor, cotangents: Tensor) -> Tensor:
    with torch.enable_grad():
        output = _first(module(x.requires_grad_().clone()))
        if not output.requires_grad:
            raise InputError("module's output has no derivative; expected one that is not computed under no_grad")
        (gradient,) = torch.autograd.grad(output, x, cotangents, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _forward_mode(module: Module, x: Tensor, tangents: Tensor) -> Tensor:
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.unpack_dual(_first(module(forward_ad.make_dual(x, tangents))))
        return torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent


def _forward_mode_plainly(module: Module, x: Tensor, tangents: Tensor) -> Tensor:
    with _plain_kernels():
        return _forward_mode(module, x, tangents)


def _two_reverses(module: Module, x: Tensor, tangents: Tensor) -> Tensor:
    """The derivative of `v^T J^T w` with respect to w, in which it is linear."""
    with torch.enable_grad(), _plain_kernels():
        x = x.requires_grad_()
        output = _first(module(x.clone()))
        w = torch.zeros_like(output).requires_grad_()
        (gradient,) = torch.autograd.grad(output, x, w, create_graph=True)
        (product,) = torch.autograd.grad(gradient, w, tangents)
    return product


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and recurrent layers in simple operations, which have derivatives of every kind."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _first(found: Any) -> Tensor:
    tensor: Tensor = found[0] if isinstance(found, tuple | list) else found
    return tensor
