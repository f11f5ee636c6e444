"""Recording one call of a mixer: what went in and out of it and its sub-modules, and products with softmax weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass
class MixerCall:
    """One forward call of a mixer.

    `inputs` and `outputs` hold, for every sub-module that ran (by its path), its first tensor argument (all of them in
    `arguments`) and its first output tensor, in the order of the calls; the last call wins where a sub-module ran
    twice. `products` holds (weights, values) for every product of softmax weights with values; `gate` is what the
    result of the last one was multiplied with afterwards, (B, H, L, C), or None; `behind` the tensor of its size that
    entered a sub-module next, or None. `attention_mask` is that of the whole model, (B, L), 0 for padding, or None.
    """

    module: Any  # an nn.Module whose attributes its adapter knows
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    arguments: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gate: Tensor | None = None
    behind: Tensor | None = None
    attention_mask: Tensor | None = None

    @property
    def hidden_states(self) -> Tensor:
        """What went into the mixer, (B, L, D)."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]


class _SeeProducts(TorchFunctionMode):
    """Notes `weights @ values` where weights came out of a softmax since the last product, and gates on its result."""

    def __init__(self, call: MixerCall) -> None:
        super().__init__()
        self.call = call
        self.after_softmax = False
        self.result: Tensor | None = None  # of the last product and the gates since, (B, H, L, C)
        self.size = 0  # of that result, until it has entered a sub-module

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "softmax":
            dim = kwargs["dim"] if kwargs and "dim" in kwargs else args[1]
            self.after_softmax = result.shape[-1] > 1 and result.ndim >= 3 and dim in (-1, result.ndim - 1)
        elif self.after_softmax and name in _PRODUCTS and len(args) >= 2:
            weights, values = args[0], args[1]
            # queries may be fewer than keys only with a cache, which is off
            if isinstance(values, Tensor) and weights.ndim >= 3 and weights.shape[-1] == values.shape[-2]:
                self.call.products.append((weights, values))
                self.after_softmax = False
                self.call.gate = self.call.behind = None
                self.size, self.result = result.numel(), result if result.ndim == 4 else None
        elif self.result is not None and name in _MULTIPLICATIONS and len(args) == 2:
            self._see_gate(args[0], args[1], result) or self._see_gate(args[1], args[0], result)
        return result

    def see_input(self, x: Any) -> None:
        """A sub-module begins: the first input of the result's size, other than the mixer's own, is taken for it."""
        if self.size and isinstance(x, Tensor) and x.numel() == self.size and x is not self.call.hidden_states:
            self.call.behind, self.size, self.result = x, 0, None

    def _see_gate(self, y: Any, gate: Any, gated: Tensor) -> bool:
        """Whether `y` is the result so far, laid out in one of the usual ways; then `gate` is a gate on it."""
        assert self.result is not None
        if not isinstance(y, Tensor) or not isinstance(gate, Tensor) or y.numel() != self.result.numel():
            return False
        heads = self.result.shape[1]
        for layout, back in _LAYOUTS:
            if y.shape == layout(self.result).shape and torch.equal(y, layout(self.result)):
                found = back(gate.broadcast_to(y.shape), heads)
                self.call.gate = found if self.call.gate is None else self.call.gate * found
                self.result = back(gated, heads)
                return True
        return False


_PRODUCTS = {"matmul", "__matmul__", "bmm"}
_MULTIPLICATIONS = {"mul", "__mul__", "__rmul__", "multiply"}
# (B, H, L, C) in the layouts in which a mixer may multiply it, and the way back
_LAYOUTS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]], ...] = (
    (lambda y: y, lambda y, _: y),
    (lambda y: y.transpose(1, 2), lambda y, _: y.transpose(1, 2)),
    (lambda y: y.transpose(1, 2).flatten(2), lambda y, heads: flat_heads(y, heads)),
)


@contextmanager
def record_calls(module: nn.Module, finished: Callable[[MixerCall], None]) -> Iterator[None]:
    """While open, every forward call of `module` is recorded and handed to `finished` when it ends."""
    running: list[tuple[MixerCall, _SeeProducts]] = []

    def start(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = MixerCall(module, args, kwargs)
        mode = _SeeProducts(call)
        mode.__enter__()  # type: ignore[no-untyped-call]
        running.append((call, mode))

    def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        call, mode = running.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        call.output = output
        finished(call)

    def arrive(_: nn.Module, args: tuple[Any, ...]) -> None:
        if running and args:
            running[-1][1].see_input(args[0])

    def watch(path: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not running:
                return
            call = running[-1][0]
            call.arguments.pop(path, None)  # a later call moves to the end
            call.arguments[path] = args
            for store, value in ((call.inputs, args[0] if args else None), (call.outputs, _first(output))):
                if isinstance(value, Tensor):
                    store[path] = value

        return note

    handles = [
        module.register_forward_pre_hook(start, with_kwargs=True),
        module.register_forward_hook(stop),
        *(child.register_forward_pre_hook(arrive) for path, child in module.named_modules() if path),
        *(child.register_forward_hook(watch(path)) for path, child in module.named_modules() if path),
    ]
    try:
        yield
    finally:
        for _, mode in reversed(running):  # the forward raised: leave no mode behind
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        for handle in handles:
            handle.remove()


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def flat_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """(B, L, H * C) -> (B, H, L, C)."""
    return tensor.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def at_least_float32(tensor: Tensor) -> Tensor:
    """As it is in float32 and float64, widened from half precision: the precision that models keep states in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
