"""The measure contract: what must be true of every measure on tensors, as checks that anybody can run on theirs.

from assay.measures.contract import Measure, check_measure
check_measure(Measure("entropy-ESS", entropy_ess, example=lambda g: torch.rand(3, 5, generator=g)))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from assay._errors import InputError

Law = Callable[[Callable[[Tensor], Tensor], Tensor], None]


@dataclass(frozen=True)
class Measure:
    """A measure and what is needed to check it.

    `function`: (B, ...) -> (B, ...), with the batch in front. `example`: draws an input with a batch of at least 2.
    `missing`: entries of the result that are NaN by definition, as a boolean mask of its shape without the batch.
    `padded`: appends padding to an input; the result's leading entries must stay. `laws`: {name: law}, each raising
    `AssertionError` where it does not hold for (function, input).
    """

    name: str
    function: Callable[[Tensor], Tensor]
    example: Callable[[Generator], Tensor]
    missing: Callable[[Tensor], Tensor] | None = None
    padded: Callable[[Tensor], Tensor] | None = None
    laws: Mapping[str, Law] = field(default_factory=dict)


def check_measure(measure: Measure, *, exceptions: Mapping[str, str] | None = None, draws: int = 5) -> None:
    """Run every check and law on `draws` inputs; raise `AssertionError` that names the first one which fails.

    `exceptions` is {check: reason}; a name that is no check, or an exception whose check passes, is an error too.
    """
    checks: dict[str, Callable[[Measure, Tensor], None]] = CHECKS | {
        name: _as_check(law) for name, law in measure.laws.items()
    }
    inputs = [measure.example(Generator().manual_seed(seed)) for seed in range(draws)]

    def on_every_input(check: Callable[[Measure, Tensor], None]) -> Callable[[], None]:
        def run() -> None:
            for x in inputs:
                check(measure, x.clone())

        return run

    run_checks(
        f"measure contract, {measure.name}", {name: on_every_input(check) for name, check in checks.items()}, exceptions
    )


def run_checks(what: str, checks: Mapping[str, Callable[[], None]], exceptions: Mapping[str, str] | None) -> None:
    """Run every check; the first that fails without an exception, or passes in spite of one, is an `AssertionError`.

    Raises `ValueError` for an exception that names no check.
    """
    exceptions = dict(exceptions or {})
    if unknown := set(exceptions) - set(checks):
        raise ValueError(f"no check {sorted(unknown)[0]!r}; there are {', '.join(checks)}")
    for name, check in checks.items():
        try:
            check()
        except AssertionError as error:
            if name not in exceptions:
                raise AssertionError(f"{what}, {name!r}: {error}") from None
        else:
            if name in exceptions:
                raise AssertionError(f"{what}: {name!r} passes; take its exception out")


def _as_check(law: Law) -> Callable[[Measure, Tensor], None]:
    return lambda measure, x: law(measure.function, x)


def _finite(measure: Measure, x: Tensor) -> None:
    """Finite, or missing exactly where the definition says so."""
    result = measure.function(x)
    missing = torch.zeros_like(result, dtype=torch.bool)
    if measure.missing is not None:
        missing |= measure.missing(result)
    assert torch.isfinite(result[~missing]).all(), "not finite"
    assert result[missing].isnan().all(), "a number where the measure has no value"


def _batch(measure: Measure, x: Tensor) -> None:
    """Each entry of a batch as if it were alone."""
    assert len(x) > 1, "the example needs a batch of at least 2"
    together = measure.function(x)
    for k in range(len(x)):
        _same(measure.function(x[k : k + 1]), together[k : k + 1])


def _precision(measure: Measure, x: Tensor) -> None:
    """float32 and float64 input agree."""
    if x.is_floating_point():
        x = x.float()
        _same(measure.function(x), measure.function(x.double()), 1e-4)


def _repeatable(measure: Measure, x: Tensor) -> None:
    """The same input twice gives the same numbers, and stays as it was."""
    before = x.clone()
    assert torch.equal(measure.function(x).nan_to_num(), measure.function(x).nan_to_num()), "not repeatable"
    assert torch.equal(x, before), "the input was changed"


def _padding(measure: Measure, x: Tensor) -> None:
    """Padding changes nothing before it."""
    if measure.padded is not None:
        alone, padded = measure.function(x), measure.function(measure.padded(x))
        _same(padded[tuple(slice(n) for n in alone.shape)], alone)


def _device(measure: Measure, x: Tensor) -> None:
    """The same numbers on an accelerator, where there is one."""
    if torch.cuda.is_available():
        _same(measure.function(x.cuda()).cpu(), measure.function(x), 1e-5)


def _refuses_nan(measure: Measure, x: Tensor) -> None:
    """An input with NaN is refused, or gives NaN: never a number by accident."""
    if not x.is_floating_point():
        return
    broken = x.clone()
    broken.view(-1)[0] = torch.nan
    try:
        result = measure.function(broken)
    except InputError:
        return
    assert result[0].isnan().any(), "NaN in the input gave a number"


CHECKS: dict[str, Callable[[Measure, Tensor], None]] = {
    "finite": _finite,
    "batch": _batch,
    "precision": _precision,
    "repeatable": _repeatable,
    "padding": _padding,
    "device": _device,
    "refuses NaN": _refuses_nan,
}


def _same(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> None:
    assert one.shape == other.shape, f"shapes {tuple(one.shape)} and {tuple(other.shape)}"
    one, other = one.double(), other.double()
    assert torch.equal(one.isnan(), other.isnan()), "missing in different places"
    difference = ((one - other).abs() / other.abs().clamp(min=1)).nan_to_num(0)
    assert float(difference.max()) <= tolerance, f"differs by {float(difference.max()):.1e}"
