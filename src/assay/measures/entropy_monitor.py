"""The entropy of every attention head of a model while it runs, in anybody's own training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from assay._errors import InputError
from assay.measures.attention import attention_entropy


class EntropyMonitor(TorchFunctionMode):
    """While open, notes the mean entropy of each attention head, in nats, of the model's last forward pass.

        with EntropyMonitor(model) as monitor:
            loss = model(batch)
        monitor.entropy                              # {"layers.0.attention": tensor([2.1, 0.4]), …}

    An entropy that falls towards 0 announces instability (Zhai et al. 2023, arXiv 2303.06296). The weights are those
    of every softmax over the last dimension of (B, H, L, K), and of every call of `scaled_dot_product_attention` and
    `nn.MultiheadAttention`, whose weights are computed a second time: O(B H L K) memory while that layer runs. The
    model's own numbers and gradients do not change. Softmaxes within compiled code, and torch's fused encoder layers in
    eval mode, are not seen.

    `entropy` has, by the name of the module that computed the weights, (H,) means over batch and queries, on the
    model's device, float32 or float64. A module that attends more than once in a forward pass keeps the last.
    Raises `InputError` where it is already open.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.entropy: dict[str, Tensor] = {}
        self._running: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> EntropyMonitor:
        if self._handles:
            raise InputError("this EntropyMonitor is already open; expected one for each `with`")
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
            self._handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], []

    def _leave(self) -> None:
        self._running.pop()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        if self._running and name in _WEIGHTS:  # this mode is off in here, so what is called is not noted
            with torch.no_grad():
                weights = _WEIGHTS[name](func, args, kwargs, result)
                if weights is not None and weights.ndim == 4:
                    self.entropy[self._running[-1]] = attention_entropy(weights).mean((0, 2))
        return result


def _of_softmax(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor | None:
    """The result, where it is over the last dimension."""
    dim = kwargs["dim"] if "dim" in kwargs else args[1] if len(args) > 1 else None
    return result if dim in (-1, result.ndim - 1) else None


def _of_product(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], __: Tensor) -> Tensor:
    return _product_weights(*args, **kwargs)


def _of_module(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> Tensor:
    """Those of `nn.MultiheadAttention`, without dropout; it attends in a function of its own, out of our sight."""
    asked = {"training": False, "need_weights": True, "average_attn_weights": False}
    return func(*args, **(kwargs | asked))[1]


_WEIGHTS = {
    "softmax": _of_softmax,
    "scaled_dot_product_attention": _of_product,
    "multi_head_attention_forward": _of_module,
}


def _product_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` multiplies values with, without dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    query, key = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (query, key))
    logits = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1)
