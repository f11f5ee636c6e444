"""`assay.compress`: a mixer on one text replaced by the smallest recurrence that does the same.

This is what effective state-size means, made executable: the state that the mixer needs. The recurrence is made for
this text and knows what follows in it, so it bounds from below what a recurrence that works on any text must keep.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from assay._errors import InputError
from assay.models.adapters import Reading
from assay.models.trace import MixerTrace
from assay.operators import DenseOperator, Realisation, RecurrentOperator, SequenceOperator
from assay.operators._realise import realise

STEPS = 5  # of the search for the largest threshold


@dataclass(frozen=True)
class Compressed:
    """A recurrence in place of an operator with batch shape `...` (for a mixer: batch, heads) and length L.

    Attributes:
        operator: the recurrence, pre-update, states padded with zeros.
        state_sizes: (..., L), entries of the state that each value channel carries into each position.
        error: (...), `|y' - y| / |y|` over the text; y is the mixer's T v, or T itself where no values are known.
        error_by_position: (..., L), `|y'_i - y_i|` over the root mean square of `|y_i|`.
        floats: (..., L), numbers kept from position to position for all value channels.
        original_floats: (..., L), what the original keeps: keys and values of the same width for attention, each query
            head with its own; the state for a recurrence.
    """

    operator: RecurrentOperator
    state_sizes: Tensor
    error: Tensor
    error_by_position: Tensor
    floats: Tensor
    original_floats: Tensor

    def table(self) -> pd.DataFrame:
        """A row for each operator: error, mean and largest state, mean floats kept, and their share of the original."""
        shape = self.error.shape
        index = list(itertools.product(*(range(n) for n in shape)))
        names = ["batch", "head"] if len(shape) == 2 else [f"axis_{k}" for k in range(len(shape))]
        sizes, floats, original = (
            t.double().reshape(-1, t.shape[-1]).cpu() for t in (self.state_sizes, self.floats, self.original_floats)
        )
        columns = {
            "error": self.error.reshape(-1).tolist(),
            "mean_state_size": sizes.mean(-1).tolist(),
            "max_state_size": sizes.amax(-1).long().tolist(),
            "mean_floats": floats.mean(-1).tolist(),
            "mean_original_floats": original.mean(-1).tolist(),
            "share": (floats.sum(-1) / original.sum(-1)).tolist(),
        }
        return pd.DataFrame(index, columns=names, index=range(len(index))).assign(**columns)


@torch.no_grad()
def compress(
    layer_or_operator: SequenceOperator | Reading | MixerTrace,
    *,
    state_size: int | None = None,
    tolerance: float | None = None,
) -> Compressed:
    """The smallest recurrence that reproduces an operator, or a mixer of a traced model, on this text.

    Args:
        layer_or_operator: an operator, or an entry of `assay.trace(model, ids).mixers` (or its reading). A mixer's
            heads are compressed each on its own, and errors are those of their outputs `T v` on the text.
        state_size: of each value channel, at most; or
        tolerance: relative error `|y' - y| / |y|` that each head may make, above 0 and below 1. The state at each
            position is then as large as it must be, and one threshold on singular values serves the whole sequence.

    Complexity: O(L^2 n^2) for each head with n the state kept, and about 6 times O(L n^3) where a tolerance is given.
    Raises `InputError` unless exactly one of the two is given, and for a mixer that was not measured.
    """
    if (state_size is None) == (tolerance is None):
        raise InputError("compress needs either state_size or tolerance; give exactly one, such as tolerance=0.01")
    if tolerance is not None and not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; expected a relative error above 0 and below 1, such as 0.01")
    if state_size is not None and state_size < 0:
        raise InputError(f"state_size is {state_size}; expected 0 or more")
    operator, values = _parts(layer_or_operator)
    output = operator.double().to_dense() if values is None else operator.double().apply(values.double())
    if state_size is not None:
        found = operator.truncate(state_size)
    else:
        assert tolerance is not None
        found = _smallest(operator, values, output, tolerance)
    wrong = _output(found, values) - output
    power = output.square().sum((-2, -1))
    nonzero = torch.where(power == 0, 1, power)
    by_position = wrong.square().sum(-1)
    channels = 1 if values is None else values.shape[-1]
    kept = operator.state_size(range(1, operator.length)).to(output.device)
    keys = 2 if isinstance(operator, DenseOperator) else 1  # a cache holds keys besides values
    original = torch.cat([kept.new_zeros(1), kept]).expand_as(found.state_sizes)
    return Compressed(
        found.operator,
        found.state_sizes,
        error=(by_position.sum(-1) / nonzero).sqrt(),
        error_by_position=(by_position * operator.length / nonzero[..., None]).sqrt(),
        floats=found.state_sizes * channels,
        original_floats=original * keys * channels,
    )


def _parts(source: SequenceOperator | Reading | MixerTrace) -> tuple[SequenceOperator, Tensor | None]:
    if isinstance(source, MixerTrace):
        if source.reading is None:
            raise InputError(f"{source.mixer} of layer {source.layer} was not measured: {source.reason}")
        source = source.reading
    return (source.operator, source.values) if isinstance(source, Reading) else (source, None)


def _output(found: Realisation, values: Tensor | None) -> Tensor:
    return found.operator.to_dense() if values is None else found.operator.apply(values.double())


def _smallest(operator: SequenceOperator, values: Tensor | None, output: Tensor, tolerance: float) -> Realisation:
    """The largest threshold on singular values, for each operator, with which the error stays within the tolerance.

    Sought between one that is small enough and one that drops everything, where a power law puts it.
    """
    size = output.square().sum((-2, -1)).sqrt()
    size = torch.where(size == 0, 1, size)

    def error(found: Realisation) -> Tensor:
        return (_output(found, values) - output).square().sum((-2, -1)).sqrt() / size

    high = operator.double().to_dense().square().sum((-2, -1)).sqrt()  # no singular value is larger: keeps nothing
    low = tolerance * high / math.sqrt(operator.length)
    best = realise(operator, tolerance=low)
    while not bool((error(best) <= tolerance).all()) and bool((low > 1e-14 * high).any()):
        low = low / 3
        best = realise(operator, tolerance=low)
    start = best.operator  # close enough, and small: what follows is cheaper on it
    at_low, at_high = error(best).clamp(min=1e-16), torch.ones_like(high)
    high = high.clamp(min=1e-300)
    low = low.clamp(min=1e-300)
    found: Realisation | None = best
    for _ in range(STEPS):
        share = (math.log(0.98 * tolerance) - at_low.log()) / (at_high.log() - at_low.log())
        middle = low * (high / low) ** share.nan_to_num(0.5).clamp(0.05, 0.95)
        tried = realise(start, tolerance=middle)
        made = error(tried).clamp(min=1e-16)
        good = made <= tolerance
        low, at_low = torch.where(good, middle, low), torch.where(good, made, at_low)
        high, at_high = torch.where(good, high, middle), torch.where(good, at_high, made)
        found = tried if bool(good.all()) else None
    return found or realise(start, tolerance=low)
