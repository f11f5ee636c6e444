"""One forward pass of a model, and what it left behind: an operator for every mixer, the hidden states, the logits.

Nothing of the model's code is copied or patched. Forward hooks record what goes into and out of a mixer and its
sub-modules; a torch function mode, active only inside a mixer, sees the product of softmax weights and values. An
adapter turns that record into an operator while the mixer's tensors are still alive, so one layer's attention weights
are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from assay._errors import AssayError, InputError, ModelError
from assay.models._memory import first_line
from assay.models.adapters import Adapter, MixerCall, NotMeasuredError, Reading, adapter_for
from assay.models.adapters._calls import record_calls
from assay.operators import DenseOperator

FIDELITY_LIMIT = 1e-3
HALF_PRECISION_LIMIT = 3e-2  # bfloat16 keeps 8 bits: a sum of rounded products is off by about 1 %


@dataclass
class MixerTrace:
    """One mixer in one forward pass. `reading` is None where it was not measured, and `reason` says why."""

    layer: int
    module: str
    mixer: str
    reading: Reading | None = None
    fidelity: float = float("nan")
    reason: str = ""


@dataclass
class Trace:
    """What one forward pass left behind. Shapes: B batch, L length, D width, V vocabulary.

    `hidden_states`: the embeddings and every decoder layer's output, (B, L, D) each (empty when consumed on the way).
    `logits`: (B, L, V).
    """

    mixers: list[MixerTrace]
    logits: Tensor
    hidden_states: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def trace(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    on_mixer: Callable[[MixerTrace], None] | None = None,
    on_hidden_states: Callable[[int, Tensor], None] | None = None,
) -> Trace:
    """Run `model` once on `input_ids` (B, L) and read the operator of every mixer.

    Args:
        attention_mask: (B, L), 1 for tokens and 0 for padding. `MixerTrace.reading.sample` cuts the padding off.
        layers: indices of the decoder layers to read; None for all.
        on_mixer: is given each mixer's trace as soon as it is there; its reading is dropped afterwards, so that
            no more than one layer's attention weights exist at any time. Without it all readings are kept.
        on_hidden_states: is given (n, hidden states) for the embeddings (n = 0) and the n-th decoder layer.

    Raises `ModelError` for a model without decoder layers, or where a layer fails or its activations are NaN or
    infinite (naming the layer); `InputError` for layers that the model does not have.
    """
    blocks = decoder_layers(model)
    chosen = check_layers(layers, len(blocks))
    result = Trace(mixers=[], logits=input_ids.new_empty(0))
    forward = _Forward()

    def finished(found: MixerTrace, adapter: Adapter | None, call: MixerCall) -> None:
        forward.ours = True
        _read(found, call, adapter, attention_mask)
        if on_mixer is not None:
            on_mixer(found)
            found.reading = None
        result.mixers.append(found)
        forward.ours = False

    def hidden(index: int, states: Tensor) -> None:
        forward.ours = True
        _check_activations(index, states, attention_mask)
        if on_hidden_states is not None:
            on_hidden_states(index, states)
        else:
            result.hidden_states.append(states)
        forward.ours = False

    with _failures_named(forward, blocks), ExitStack() as stack:
        stack.enter_context(_eager(model))
        for index, block in enumerate(blocks):
            stack.enter_context(_watch_hidden_states(block, index, hidden, forward.running))
            if index in chosen:
                for path, module, adapter in find_mixers(block):
                    found = MixerTrace(index, path, type(module).__name__)
                    stack.enter_context(record_calls(module, partial(finished, found, adapter)))
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        result.logits = model(input_ids=input_ids, use_cache=False, **masks).logits
    result.mixers.sort(key=lambda mixer: mixer.layer)
    return result


def _read(found: MixerTrace, call: MixerCall, adapter: Adapter | None, attention_mask: Tensor | None) -> None:
    """Fill in the reading and its fidelity, or the reason why there is none."""
    if adapter is None:
        found.reason = f"not supported: {found.mixer}"
        return
    call.attention_mask = attention_mask
    try:
        reading = adapter.read(call)
        found.fidelity = fidelity(reading, attention_mask)
    except NotMeasuredError as error:
        found.reason = str(error)
        return
    except InputError as error:  # an operator that is not causal or not finite
        found.reason = f"{found.mixer}: {error}"
        return
    limit = HALF_PRECISION_LIMIT if reading.output.dtype.itemsize < 4 else FIDELITY_LIMIT
    if found.fidelity <= limit:
        found.reading = reading
    else:
        found.reason = f"fidelity {found.fidelity:.1e} is above {limit:.0e}: the operator does not explain the output"


@torch.no_grad()
def fidelity(reading: Reading, attention_mask: Tensor | None = None) -> float:
    """`|T v - y| / |y|` over all tokens that are not padding: the output rebuilt in float64 against the mixer's own."""
    real = 1.0 if attention_mask is None else attention_mask[:, None, :, None].to(reading.output.device)
    error = total = 0.0
    for heads in _groups(reading):
        part = reading.heads(heads)
        output = part.output.double() * real
        error += float((part.rebuilt() * real - output).square().sum())
        total += float(output.square().sum())
    return math.sqrt(error / total) if total else math.sqrt(error)


def _groups(reading: Reading) -> Iterator[slice]:
    """Heads that are rebuilt together, so that no float64 copy of a whole layer's attention is made."""
    (batch, heads), length = reading.operator.batch_shape, reading.operator.length
    each = batch * length * (length if isinstance(reading.operator, DenseOperator) else reading.values.shape[-1])
    step = max(1, 2**22 // each)
    return (slice(h, h + step) for h in range(0, heads, step))


def find_mixers(block: nn.Module) -> list[tuple[str, nn.Module, Adapter | None]]:
    """(path, module, adapter) of the mixers in a decoder layer; the adapter is None where none is registered."""
    found: list[tuple[str, nn.Module, Adapter | None]] = []
    for path, module in block.named_modules():
        inside = any(path.startswith(f"{other}.") for other, _, _ in found)
        if path and not inside and (adapter := adapter_for(module)) is not None:
            found.append((path, module, adapter))
    rest = [
        (path, module)
        for path, module in block.named_children()
        if not any(other == path or other.startswith(f"{path}.") for other, _, _ in found) and _may_mix(module)
    ]
    unknown = [item for item in rest if _is_called_a_mixer(item[1])] or (rest[:1] if not found else [])
    return found + [(path, module, None) for path, module in unknown]


_DO_NOT_MIX = ("norm", "mlp", "feedforward", "ffn", "moe", "moeblock", "experts", "router", "dropout", "linear",
               "identity", "embedding", "activation")  # fmt: skip
_MIX = ("mixer", "mamba", "ssm", "deltanet", "recurrent", "shortconv", "rwkv", "xlstm", "lru", "hyena")


def _may_mix(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return any(True for _ in module.parameters()) and not name.endswith(_DO_NOT_MIX)


def _is_called_a_mixer(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return any(word in name for word in _MIX)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers: the shallowest `ModuleList` with the number of layers that the config states, of the
    part that the model calls its decoder (a model of images and text has other layers too).

    A model may keep the parts of its layers in parallel lists (XLM: attention, norm, feed-forward, norm). A layer is
    then the `ModuleList` of its parts in the order of the lists.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_hidden_layers", None)
    lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    decoder: Any = model.get_decoder() if callable(getattr(model, "get_decoder", None)) else None  # type: ignore[operator]
    inside = {id(m) for m in decoder.modules()} if isinstance(decoder, nn.Module) else set()
    lists.sort(key=lambda item: (id(item[1]) not in inside, len(item[1]) != count, item[0].count(".")))
    for _, candidate in lists:
        if any(find_mixers(block) for block in candidate):
            return candidate
    for path, candidate in lists:
        if adapter_for(candidate[0]) is not None:
            beside = model.get_submodule(path.rpartition(".")[0]).children()
            parallel = [m for m in beside if isinstance(m, nn.ModuleList) and len(m) == len(candidate)]
            return nn.ModuleList(nn.ModuleList(parts) for parts in zip(*parallel, strict=True))
    raise ModelError(f"{type(model).__name__} has no list of decoder layers; expected a causal language model")


def check_layers(layers: Sequence[int] | None, count: int) -> set[int]:
    """The chosen layer indices; raises `InputError` for one that the model does not have."""
    if layers is None:
        return set(range(count))
    if not layers:
        raise InputError("layers is empty; expected at least one index")
    if wrong := [i for i in layers if not 0 <= i < count]:
        raise InputError(f"layer {wrong[0]} is not in the model; expected 0 to {count - 1}")
    return set(layers)


def _check_activations(index: int, states: Tensor, attention_mask: Tensor | None) -> None:
    if attention_mask is not None:
        states = states[attention_mask.bool().to(states.device)]
    if not torch.isfinite(states).all():
        where = "the embeddings" if index == 0 else f"layer {index - 1}"
        raise ModelError(f"activations are NaN or infinite after {where}; try --dtype float32, or check the weights")


@dataclass
class _Forward:
    """Which layers run, and whether the code that runs is an adapter's or a consumer's and not the model's."""

    running: list[int] = field(default_factory=list)
    ours: bool = False


@contextmanager
def _failures_named(forward: _Forward, blocks: nn.ModuleList) -> Iterator[None]:
    """What the model raises becomes a `ModelError` with the layer that it was raised in."""
    try:
        yield
    except Exception as error:
        if forward.ours or isinstance(error, AssayError):
            raise
        layers = [f"in layer {index} ({type(blocks[index]).__name__})" for index in forward.running]
        where = (layers or ["outside its layers"])[-1]
        raise ModelError(f"the model fails {where}: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def _watch_hidden_states(
    block: nn.Module, index: int, report: Callable[[int, Tensor], None], running: list[int]
) -> Iterator[None]:
    """A layer of parallel lists (`decoder_layers`) begins with its first part and ends with its last."""
    first, last = (block[0], block[-1]) if isinstance(block, nn.ModuleList) else (block, block)

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        if index == 0:
            report(0, args[0] if args else kwargs["hidden_states"])
        running.append(index)

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        running.pop()
        report(index + 1, output if isinstance(output, Tensor) else output[0])

    handles = [
        first.register_forward_pre_hook(before, with_kwargs=True),
        last.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and attention that computes its weights, for the time of the trace."""
    training = model.training
    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    model.eval()
    if before not in (None, "eager"):
        config._attn_implementation = "eager"  # type: ignore[union-attr]  # read anew by every forward
    try:
        yield
    finally:
        model.train(training)
        if before not in (None, "eager"):
            config._attn_implementation = before  # type: ignore[union-attr]
