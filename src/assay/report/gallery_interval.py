"""A check as a small picture: its threshold, the interval of its mean, and every seed, on one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from assay.report._text import finite

RELATIONS = {">": ">", ">=": "≥", "<": "<", "<=": "≤"}
MARGIN = 0.1  # of the width, at both ends
DECADES = 3.0  # from which on a logarithmic axis shows more


def short(value: Any) -> str:
    """Three significant digits: `0.957`, `-12`, `2.3e-15`; `undefined` for what is no finite number."""
    amount = finite(value)
    return "undefined" if amount is None else f"{amount:.3g}".replace("e-0", "e-").replace("e+0", "e")


def in_words(check: dict[str, Any]) -> str:
    """Such as `0.957 [0.954, 0.961] ≥ 0.9, 5 seeds, each`."""
    words = short(check["mean"])
    if check["low"] is not None:
        words += f" [{short(check['low'])}, {short(check['high'])}]"
    seeds = len(check["values"])
    words += f" {RELATIONS.get(check['relation'], check['relation'])} {short(check['threshold'])}"
    words += f", {seeds} seed{'s' * (seeds != 1)}" + (", each" if check["every_seed"] else "")
    undefined = sum(value is None for value in check["values"].values())
    return words + (f", {undefined} undefined" if 0 < undefined < seeds else "")


def picture(check: dict[str, Any]) -> dict[str, Any] | None:
    """Where everything is, in per cent of the width; None where no value is defined.

    `seeds`: (place, "seed 3: 0.951"); `start`, `stop`: of the side on which the check holds; `low`, `high`, `mean`:
    places or None. `log`: the axis is logarithmic, which it is where all is above 0 and over three decades wide.
    """
    values = {seed: number for seed, value in check["values"].items() if (number := finite(value)) is not None}
    if not values:
        return None
    numbers = {name: finite(check[name]) for name in ("mean", "low", "high", "threshold")}
    place, log = _axis([*values.values(), *(number for number in numbers.values() if number is not None)])
    found: dict[str, Any] = {name: None if number is None else place(number) for name, number in numbers.items()}
    right = str(check["relation"]).startswith(">")
    return found | {
        "seeds": [(place(number), f"seed {seed}: {short(number)}") for seed, number in values.items()],
        "start": found["threshold"] if right else 0.0,
        "stop": 100.0 if right else found["threshold"],
        "log": log,
    }


def _axis(numbers: list[float]) -> tuple[Callable[[float], float], bool]:
    """From a number to its place in per cent, and whether the axis is logarithmic."""
    log = min(numbers) > 0 and math.log10(max(numbers)) - math.log10(min(numbers)) > DECADES
    scaled: Callable[[float], float] = math.log10 if log else float
    low, high = scaled(min(numbers)), scaled(max(numbers))
    low, room = (low, high - low) if high > low else (low - 0.5, 1.0)
    return lambda number: round(100 * (MARGIN + (1 - 2 * MARGIN) * (scaled(number) - low) / room), 2), log
