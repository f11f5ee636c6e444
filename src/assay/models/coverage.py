"""Which architectures can be measured: a tiny random model of each one in transformers, measured mixer by mixer.

Nothing is downloaded and nothing is trained. What fails or hangs becomes a row with its reason; the others go on.
"""

from __future__ import annotations

import math
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from assay.models._tiny import architectures, check_architecture, tiny_input, tiny_model
from assay.models.adapters import adapter_for
from assay.models.trace import MixerTrace, decoder_layers, trace

TARGET = 1e-5
"""The fidelity that every mixer is to reach in float32."""
TIME_LIMIT = 60.0
"""Seconds for one architecture; most take a tenth of one."""


@dataclass(frozen=True)
class Row:
    """One architecture. `mixers`: class name and kind, each once. `measured` of `layers` layers were measured in full.

    `fidelity` is the worst in float32, NaN where nothing was measured; `fidelity64` the worst in float64, taken only
    where that in float32 is above `TARGET`: rounding shrinks with the precision, a mistake in an adapter does not.
    `reason` says what was not measured, and why; empty where all was.
    """

    architecture: str
    mixers: tuple[str, ...] = ()
    measured: int = 0
    layers: int = 0
    fidelity: float = math.nan
    fidelity64: float | None = None
    reason: str = ""

    @property
    def reached(self) -> bool:
        """Whether every layer was measured, to `TARGET` in float32."""
        return not self.reason and self.fidelity <= TARGET


def coverage(names: Sequence[str] | None = None, *, progress: Callable[[float, str], None] | None = None) -> list[Row]:
    """One row for each architecture (all of them by default), in the order of `names`; a fraction of a second each.

    Raises `InputError` for a name that transformers does not have.
    """
    chosen = list(dict.fromkeys(names)) if names else architectures()
    for name in chosen:
        check_architecture(name)
    rows = []
    for done, name in enumerate(chosen):
        if progress is not None:
            progress(done / len(chosen), name)
        rows.append(measure_architecture(name))
    return rows


def measure_architecture(name: str) -> Row:
    """Build a tiny model of one architecture and measure every mixer; whatever goes wrong is the row's reason."""
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        try:
            stack.enter_context(_time_limit(TIME_LIMIT))
            torch.manual_seed(0)
            model = tiny_model(name)
        except Exception as error:
            return Row(name, reason=f"cannot be built: {_words(error)}")
        try:
            return _measure(name, model)
        except Exception as error:
            return Row(name, reason=_words(error))


def _measure(name: str, model: nn.Module) -> Row:
    found: list[MixerTrace] = []
    kinds: dict[str, None] = {}
    reasons: dict[str, None] = {}

    def look(mixer: MixerTrace) -> None:
        found.append(mixer)
        reading = mixer.reading
        kinds[mixer.mixer if reading is None else f"{mixer.mixer} ({reading.kind})"] = None
        if mixer.reason:
            reasons[mixer.reason] = None
        elif reading is not None and not bool(reading.output.any()):
            reasons[f"{mixer.mixer}: its output is zero"] = None

    with _mixers_elsewhere(model) as elsewhere:
        trace(model, tiny_input(), on_mixer=look)
    if elsewhere:
        reasons["ran outside the decoder layers: " + ", ".join(elsewhere)] = None
    layers = {mixer.layer for mixer in found}
    if not layers:
        reasons["no mixer of its decoder layers ran"] = None
    failed = {mixer.layer for mixer in found if mixer.reason}
    worst = _worst(found)
    return Row(
        name,
        mixers=tuple(kinds),
        measured=len(layers - failed),
        layers=len(layers),
        fidelity=worst,
        fidelity64=_worst(trace(model.double(), tiny_input()).mixers) if worst > TARGET else None,
        reason="; ".join(reasons),
    )


def _worst(mixers: Sequence[MixerTrace]) -> float:
    return max((mixer.fidelity for mixer in mixers if not math.isnan(mixer.fidelity)), default=math.nan)


@contextmanager
def _mixers_elsewhere(model: nn.Module) -> Iterator[dict[str, None]]:
    """Class names of mixers that run although they are in none of the decoder layers that are measured."""
    inside = {id(module) for block in decoder_layers(model) for module in block.modules()}
    seen: dict[str, None] = {}

    def note(module: nn.Module, *_: Any) -> None:
        seen[type(module).__name__] = None

    others = [m for m in model.modules() if id(m) not in inside and adapter_for(m) is not None]
    handles = [module.register_forward_hook(note) for module in others]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def to_markdown(rows: Sequence[Row]) -> str:
    """The table as a page of documentation."""
    import transformers

    head = f"""# Coverage: every architecture, measured

`assay models --coverage --markdown` made this page, with transformers {transformers.__version__}: for each architecture
that it maps to a causal language model, a tiny model with random weights, built from the config alone, on
{tiny_input().shape[1]} random tokens. Every kind of layer that the default config has is in it at least once.

{summary(rows)}

*Mixers* are the classes that were found, with the kind of operator where they were measured. *Layers* are those whose
mixers were all measured, of those that have mixers. *Fidelity* is the worst of all mixers in float32; where it is above
{TARGET:.0e}, the one in float64 follows: rounding shrinks with the precision, a mistake does not. What cannot be built
from its config alone says why, in the words of transformers.

| architecture | mixers | layers | fidelity | not measured, because |
|---|---|---|---|---|
"""
    lines = []
    for row in rows:
        mixers = ", ".join(f"`{name}`{kind}" for name, kind in map(_split, row.mixers))
        cells = (f"`{row.architecture}`", mixers, _layers(row), _fidelity(row), row.reason.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines)


def print_table(rows: Sequence[Row], console: Any) -> None:
    """The table for a terminal; `console` is a `rich.console.Console`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("architecture", no_wrap=True)
    table.add_column("layers", justify="right", no_wrap=True)
    table.add_column("fidelity", justify="right", no_wrap=True)
    table.add_column("mixers, and what was not measured", overflow="fold")
    for row in rows:
        words = Text(", ".join(row.mixers))
        if row.reason:
            words.append(("\n" if row.mixers else "") + row.reason, style="yellow")
        table.add_row(Text(row.architecture), Text(_layers(row)), Text(_fidelity(row)), words)
    console.print(table)
    console.print(Text(summary(rows)))


def summary(rows: Sequence[Row]) -> str:
    """The table in a sentence or two."""
    reached = sum(row.reached for row in rows)
    ran = sum(row.layers > 0 for row in rows)
    return (
        f"{reached} of {len(rows)} architectures are measured in full, to a fidelity of {TARGET:.0e} or better. "
        f"{ran - reached} are measured in part or not at all; {len(rows) - ran} could not be built or run."
    )


def _split(mixer: str) -> tuple[str, str]:
    name, space, kind = mixer.partition(" ")
    return name, space + kind


def _layers(row: Row) -> str:
    return f"{row.measured}/{row.layers}" if row.layers else "-"


def _fidelity(row: Row) -> str:
    if math.isnan(row.fidelity):
        return "-"
    return f"{row.fidelity:.0e}" + (f" (float64: {row.fidelity64:.0e})" if row.fidelity64 is not None else "")


def _words(error: Exception) -> str:
    """An error's message on one line, without what transformers puts around it."""
    message = " ".join(str(error).split()) or type(error).__name__
    if missing := re.search(r"requires the (\S+) library but it was not found", message):
        return f"needs the {missing[1]} package"
    message = re.sub(r"^Class validation error for validator '\w+': \w+: ", "", message)
    return message if len(message) <= 160 else message[:159] + "…"


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about tiny configs."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` after so long, where the system can: in the main thread of a Unix process."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
