"""What every generator asks of its arguments."""

from __future__ import annotations

import math

import torch

from assay._errors import InputError


def check_counts(minimum: int = 1, **counts: int) -> None:
    """Whole numbers of at least `minimum`, by the names of the arguments."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least {minimum}")


def check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; expected a finite number")


def check_generator(generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator is {generator!r}; expected a torch.Generator, for example torch.Generator().manual_seed(0)"
        )


def check_ids(name: str, ids: torch.Tensor) -> None:
    """Token ids: an int64 tensor of at least one dimension, the last of them not empty."""
    if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.ndim == 0 or ids.shape[-1] == 0:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else repr(ids)
        raise InputError(f"{name} is {found}; expected an int64 tensor (..., L) with L at least 1")
