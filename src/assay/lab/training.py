"""One plain training loop for every study: AdamW, warm-up and cosine, clipping, early stop; the same for its seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from assay._errors import InputError
from assay.data._queries import IGNORED

if TYPE_CHECKING:
    from assay.lab.study import Row


class Labelled(Protocol):
    """A batch as the generators of `assay.data` make it: `inputs` and `targets`, (B, L), int64; -100 for no target."""

    @property
    def inputs(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...


def token_loss(model: nn.Module, batch: Labelled) -> Tensor:
    """Cross-entropy in nats, the mean over the positions that have a target. A target is not shifted: it is what the
    logits at its own position should predict."""
    asked = batch.targets != IGNORED
    return nn.functional.cross_entropy(logits_at(model, batch.inputs, asked).float(), batch.targets[asked])


@torch.no_grad()
def token_accuracy(model: nn.Module, batch: Labelled) -> float:
    """Share of the targets that are the most likely token at their position."""
    asked = batch.targets != IGNORED
    return (logits_at(model, batch.inputs, asked).argmax(-1) == batch.targets[asked]).double().mean().item()


def logits_at(model: nn.Module, inputs: Tensor, positions: Tensor) -> Tensor:
    """Logits (N, V) of the tokens (B, L) where `positions`, (B, L) and boolean, is true.

    `model` returns logits (B, L, V), or something that has them as `.logits`. A `Backbone` computes no others: with a
    vocabulary of thousands and few targets, its head is most of the work.
    """
    from assay.models.backbone import Backbone

    if isinstance(model, Backbone):
        return model(inputs, logits_to_keep=positions).logits
    output = model(inputs)
    return getattr(output, "logits", output)[positions]


def train(
    model: nn.Module,
    draw: Callable[[torch.Generator], Any],
    *,
    steps: int,
    seed: int,
    loss: Callable[[nn.Module, Any], Tensor] = token_loss,
    lr: float = 2e-3,
    weight_decay: float = 0.1,
    warmup: float = 0.1,
    clip: float = 1.0,
    optimizers: Sequence[Optimizer] | None = None,
    every: int | None = None,
    measure: Callable[[nn.Module], Row] | None = None,
    stop: Callable[[Row], bool] | None = None,
    checkpoint: Path | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    compiled: bool = False,
) -> list[Row]:
    """Train `model` in place, on its device; what was measured on the way.

        train(model, lambda generator: mqar(64, seq_len=64, num_kv_pairs=4, generator=generator), steps=600, seed=0)

    Args:
        draw: a batch. Its generator, on the model's device, is seeded anew at each step, and so are torch's own (for
            dropout): a step depends on the seed and its number alone. For a fixed set of examples, draw indices.
        loss: (model, batch) -> the scalar to descend; a penalty is added here.
        lr, weight_decay: of AdamW (Loshchilov & Hutter 2019) with torch's defaults and its fused kernel, on all
            parameters.
        warmup: part of the steps during which the rate rises linearly; all the while it falls as a cosine to 0.
        clip: largest norm of the gradient of all parameters.
        optimizers: in the place of AdamW; their rates follow the same schedule.
        every: steps between two rows; by default there are rows before the first step and after the last.
        measure: model -> a row, without gradients, with the model in eval mode.
        stop: whether a row is good enough to stop.
        checkpoint: a safetensors file, written with every row; training goes on from it where it is there. It must
            be of the same model and settings. Whoever does not need it any more removes it.
        precision: "bfloat16" computes the loss under autocast where the device has it; parameters stay as they are.
        compiled: the model runs through `torch.compile`.

    Each row has `step`, and `loss`, the mean since the row before (None in the first), besides what `measure` gives.
    Where the loss is not finite the rows end with one that says so by `loss` = NaN, and training stops.
    Raises `InputError` for steps or `every` below 1, and for a checkpoint of something else.
    """
    for name, value in (("steps", steps), ("every", every)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    device = next(model.parameters()).device
    if optimizers is None:
        fused = not any(p.is_complex() for p in model.parameters())  # it is much faster where a model is small
        optimizers = [AdamW(model.parameters(), lr, weight_decay=weight_decay, fused=fused)]
    used = list(optimizers)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in used]
    about: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "every": every,
        "warmup": warmup,
        "clip": clip,
        "rates": rates,
    }
    about |= {"weight_decay": weight_decay, "precision": precision}
    rows = _resume(checkpoint, model, used, about) if checkpoint is not None and checkpoint.exists() else []
    if compiled:
        model.compile()

    generator, total = torch.Generator(device), torch.zeros((), dtype=torch.float64, device=device)
    first = int(rows[-1]["step"]) if rows else 0
    autocast = precision == "bfloat16" and _has_bfloat16(device)
    # `torch.manual_seed` asks every kind of device, for half a millisecond a step
    seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(first, steps + 1):
            last = rows[-1]["step"] if rows else None
            if step != last and (step in (0, steps) or (every is not None and step % every == 0)):
                mean = None if last is None else total.item() / (step - last)
                if mean is not None and not math.isfinite(mean):
                    return [*rows, {"step": step, "loss": math.nan}]
                rows.append({"step": step, "loss": mean} | _measured(model, measure))
                total.zero_()
                if checkpoint is not None:
                    _save(checkpoint, model, used, about, rows)
            if step == steps or (stop is not None and rows[-1]["step"] == step and stop(rows[-1])):
                break
            generator.manual_seed(_seed(seed, step))
            seed_all(_seed(seed, step))
            model.zero_grad()  # it may have parameters that no optimizer has, and they the other way
            for optimizer, starts in zip(used, rates, strict=True):
                optimizer.zero_grad()
                for group, rate in zip(optimizer.param_groups, starts, strict=True):
                    group["lr"] = rate * schedule(step, steps, warmup)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                current = loss(model, draw(generator))
            current.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            for optimizer in used:
                optimizer.step()
            total += current.detach()
    return rows


def schedule(step: int, steps: int, warmup: float) -> float:
    """The part of the learning rate that is used at a step, 0..steps-1: a linear rise times half a cosine.

    >>> [round(schedule(step, 10, 0.2), 3) for step in (0, 1, 5, 9)]
    [0.5, 0.976, 0.5, 0.024]
    """
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**63


def _has_bfloat16(device: torch.device) -> bool:
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu"


@torch.no_grad()
def _measured(model: nn.Module, measure: Callable[[nn.Module], Row] | None) -> Row:
    if measure is None:
        return {}
    with _evaluating(model):
        return measure(model)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """All that changes in training, by name; views of it."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return found


def _save(
    file: Path, model: nn.Module, optimizers: Sequence[Optimizer], about: dict[str, Any], rows: list[Row]
) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().clone().contiguous() for name, value in _tensors(model, optimizers).items()}
    part = file.with_name(f".{file.name}.part")
    save_file(tensors, part, {"about": json.dumps(about), "rows": json.dumps(rows)})
    part.replace(file)


def _resume(file: Path, model: nn.Module, optimizers: Sequence[Optimizer], about: dict[str, Any]) -> list[Row]:
    """The rows so far, with model and optimizers as they were then."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as found:  # each goes to the device of its parameter when it is loaded
        metadata = found.metadata() or {}
        tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118  (not a mapping)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    saved = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    same = json.loads(metadata.get("about", "null")) == about
    if not same or shapes != {name: value.shape for name, value in saved.items()}:
        raise InputError(f"checkpoint {file} is of another model or other settings; remove it, or name another file")
    model.load_state_dict(saved)
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            owner, _, rest = rest.partition(".")
            if kind == "optimizer" and owner == str(number):
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return json.loads(metadata["rows"])
