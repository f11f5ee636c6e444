"""The operators of mixers while a model runs, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from assay._errors import InputError
from assay.nn._mixer import Mixer
from assay.operators import SequenceOperator


@contextmanager
def recorded_operators(*mixers: nn.Module) -> Iterator[list[SequenceOperator]]:
    """While open, the operator of every call of these mixers, in the order of the calls.

        with recorded_operators(*model.layers[1].modules()) as operators:
            loss = token_loss(model, batch)
        loss = loss + 0.5 * identity_decay_penalty(*operators)

    Modules that are no `Mixer` are passed over. Operators carry gradients where the model's run does, so that losses
    can be made of them. The mixer's features are computed twice, once for its output and once for the operator.
    Raises `InputError` where none of the modules is a `Mixer`.
    """
    found: list[SequenceOperator] = []

    def note(mixer: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(mixer, Mixer)
        found.append(mixer.operator(args[0]))

    handles = [mixer.register_forward_pre_hook(note) for mixer in mixers if isinstance(mixer, Mixer)]
    if not handles:
        names = ", ".join(type(mixer).__name__ for mixer in mixers) or "nothing"
        raise InputError(f"mixers is {names}; expected at least one mixer of assay.nn")
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
