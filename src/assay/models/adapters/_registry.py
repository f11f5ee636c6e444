"""Which adapter reads which mixer, and what an adapter hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall
from assay.operators import SequenceOperator


class NotMeasuredError(Exception):
    """Raised by an adapter that cannot read this call; the message becomes the reason in the report."""


@dataclass(frozen=True)
class Reading:
    """What an adapter found. Shapes: B batch, H heads (or channels with an operator each), L length, C channels.

    `operator`: batch shape (B, H). `values`: (B, H, L, C). `output`: (B, H, L, C), the mixer's own output, read where
    it can be told apart from T's by a mistake: after T, before the output projection. `gate`: what the mixer multiplies
    the output of T with before that place, (B, H, L, C), or None. `kind`: "attention" where T holds attention weights
    (their entropy is then measured too), "recurrence", "convolution", or any other word for the report.
    """

    operator: SequenceOperator
    values: Tensor
    output: Tensor
    gate: Tensor | None = None
    kind: str = "recurrence"

    def rebuilt(self) -> Tensor:
        """The output as the operator makes it, (B, H, L, C), float64."""
        y = self.operator.apply(self.values.double())
        return y if self.gate is None else y * self.gate

    def heads(self, chosen: slice) -> Reading:
        """The same for some of the heads."""
        gate = None if self.gate is None else self.gate[:, chosen]
        parts = {
            "operator": self.operator[:, chosen],
            "values": self.values[:, chosen],
            "output": self.output[:, chosen],
        }
        return replace(self, **parts, gate=gate)  # type: ignore[arg-type]

    def sample(self, index: int, start: int = 0, stop: int | None = None) -> Reading:
        """One sequence of the batch, without the padding outside start..stop; batch dimension 1."""
        stop = self.operator.length if stop is None else stop

        def cut(tensor: Tensor) -> Tensor:
            return tensor[index : index + 1, :, start:stop]

        gate = None if self.gate is None else cut(self.gate)
        operator = self.operator[index : index + 1].window(start, stop)
        return replace(self, operator=operator, values=cut(self.values), output=cut(self.output), gate=gate)


@dataclass(frozen=True)
class Adapter:
    """How to read one kind of mixer. `matches` decides by the module alone."""

    name: str
    description: str
    matches: Callable[[nn.Module], bool]
    read: Callable[[MixerCall], Reading]


_REGISTRY: list[Adapter] = []


def adapter(
    name: str, description: str = "", *, matches: Callable[[nn.Module], bool] | None = None
) -> Callable[[Callable[[MixerCall], Reading]], Callable[[MixerCall], Reading]]:
    """Register a function as the adapter of the mixers with this class name (or those that `matches` accepts).

    The one that was registered last is asked first, so a user's adapter takes precedence over assay's own.
    """

    def register(read: Callable[[MixerCall], Reading]) -> Callable[[MixerCall], Reading]:
        accepts = matches or (lambda module: type(module).__name__ == name)
        _REGISTRY.append(Adapter(name, description, accepts, read))
        return read

    return register


def adapter_for(module: nn.Module) -> Adapter | None:
    """The adapter that reads this module, or None."""
    return next((found for found in reversed(_REGISTRY) if found.matches(module)), None)


def registered() -> list[tuple[str, str]]:
    """(name, description) of every adapter."""
    return [(found.name, found.description) for found in _REGISTRY]
