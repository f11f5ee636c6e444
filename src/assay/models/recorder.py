"""Effective state-size over anyone's own training: a curve for each mixer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.measures.state_size import check_tolerance, state_size_profile
from assay.models.adapters import Adapter, MixerCall, Reading
from assay.models.adapters._calls import record_calls
from assay.models.trace import MixerTrace, _read, find_mixers

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("entropy_ess", "tolerance_ess", "tss", "utilisation")


class ScalarWriter(Protocol):
    """Such as `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


class ESSRecorder:
    """Hooks into a model, and measures the effective state-size of its mixers while it is trained.

        with ESSRecorder(model, every=100, writer=SummaryWriter("runs/a")) as recorder:
            ...                      # train as usual
        recorder.table()             # step, mixer, entropy_ess, tolerance_ess, tss, utilisation

    Args:
        model: any module with mixers of `assay.nn`, or of transformers, or others that have an adapter. It must be what
            the training loop calls.
        every: forward passes in training mode between two measurements; the first is before the first pass. Where
            gradients are accumulated over several passes for a step, count them all.
        samples: sequences that are measured: the first ones of the first batch, the same ones all the time, so that
            a curve shows what changes in the model and not in the data.
        tolerance: absolute, of tolerance-ESS.
        writer: its `add_scalar(tag, value, step)` is given every number as soon as it is there, with tags such as
            "ess/layers.1.mixer/entropy_ess".

    Numbers are means over heads (channels, where each has an operator), sequences and positions 1..L-1; `utilisation`
    is that of entropy-ESS over that of the largest one possible, min(TSS, i, L - i), as in `assay measure`. Padding is
    cut off where the model is given an `attention_mask` (B, L) by name. `skipped` says of mixers that could not be
    measured why: their operator is checked against their output, as by `assay measure`.

    Training is not changed: the model is run once more, without gradients and autocast, in evaluation mode, and the
    random generators and the modes of its modules are put back. A measurement costs a forward pass of a few sequences,
    and their spectra, O(L N^2 + P N^3) for a recurrence and O(L^3) for attention.
    Raises `InputError` for a model without mixers that can be read, and for numbers below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        samples: int = 2,
        tolerance: float = 1e-3,
        writer: ScalarWriter | None = None,
    ) -> None:
        for name, value in (("every", every), ("samples", samples)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected at least 1")
        check_tolerance(tolerance)
        found = find_mixers(model)
        self._mixers = [(path, module, adapter) for path, module, adapter in found if adapter is not None]
        if not self._mixers:
            raise InputError(f"{type(model).__name__} has no mixer that can be read; `assay models` lists those known")
        self.model, self.every, self.samples, self.tolerance, self.writer = model, every, samples, tolerance, writer
        self.rows: list[dict[str, Any]] = []
        self.skipped = {path: f"not supported: {type(module).__name__}" for path, module, a in found if a is None}
        self.steps = 0
        self._probe: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._hook = model.register_forward_pre_hook(self._before, with_kwargs=True)

    def table(self) -> pd.DataFrame:
        """A row for each measurement of each mixer: `step`, the training passes before it, `mixer`, and numbers."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["step", "mixer", *MEASURES])

    def close(self) -> None:
        """Let go of the model. What was recorded stays."""
        self._hook.remove()

    def __enter__(self) -> ESSRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        if self._probe is None:
            self._probe = tuple(map(self._first, args)), {name: self._first(value) for name, value in kwargs.items()}
        if self.steps % self.every == 0:
            self._measure(*self._probe)
        self.steps += 1

    def _first(self, value: Any) -> Any:
        return value[: self.samples].detach().clone() if isinstance(value, Tensor) and value.ndim else value

    def _measure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        with ExitStack() as stack:
            stack.enter_context(_aside(self.model))
            for path, module, adapter in self._mixers:
                found = MixerTrace(0, path, type(module).__name__)
                stack.enter_context(record_calls(module, partial(self._note, found, adapter, mask)))
            self.model.forward(*args, **kwargs)  # not by a call, which would come here again

    def _note(self, found: MixerTrace, adapter: Adapter, mask: Tensor | None, call: MixerCall) -> None:
        _read(found, call, adapter, mask)
        if found.reading is None:
            self.skipped[found.module] = found.reason
            return
        profiles = [self._profile(part) for part in _without_padding(found.reading, mask)]
        means = torch.stack(profiles).mean(0).tolist()
        found.reading = None
        row = {"step": self.steps, "mixer": found.module, **dict(zip(MEASURES, means, strict=True))}
        self.rows.append(row)
        if self.writer is not None:
            for name in MEASURES:
                self.writer.add_scalar(f"ess/{found.module}/{name}", row[name], self.steps)

    def _profile(self, reading: Reading) -> Tensor:
        """The numbers of `MEASURES`, (4,)."""
        operator = reading.operator
        profile = state_size_profile(operator, positions="adaptive", tolerance=self.tolerance)
        at = torch.arange(1, operator.length)
        tss = operator.state_size(at.tolist())
        attainable = torch.minimum(tss, torch.minimum(at, operator.length - at)).double().mean()
        entropy, tolerance = (
            profile.interpolate(values.double(), operator.length)[..., 1:].mean()
            for values in (profile.entropy_ess, profile.tolerance_ess)
        )
        return torch.stack([entropy, tolerance, tss.double().mean(), entropy / attainable])


def _without_padding(reading: Reading, mask: Tensor | None) -> list[Reading]:
    """All sequences at once, or one by one where some have padding; those of one token carry nothing."""
    if mask is None or mask.ndim != 2 or bool((mask != 0).all()):
        return [reading]
    ends = [(int(real[0]), int(real[-1]) + 1) for real in (row.nonzero()[:, 0] for row in mask) if len(real) > 1]
    return [reading.sample(index, *span) for index, span in enumerate(ends)]


@contextmanager
def _aside(model: nn.Module) -> Iterator[None]:
    """A run that leaves no traces: without gradients, in evaluation mode and full precision, with attention that
    computes its weights; then modes, attention and random generators are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    attention = [(config, config._attn_implementation) for config in configs.values() if _has_fused(config)]
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        model.eval()
        for config, _ in attention:
            config._attn_implementation = "eager"
        with torch.no_grad(), torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for config, before in attention:
            config._attn_implementation = before


def _has_fused(config: Any) -> bool:
    return getattr(config, "_attn_implementation", None) not in (None, "eager")
