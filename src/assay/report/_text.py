"""Text from models and users made harmless, and numbers made readable: shared by the page and the terminal."""

from __future__ import annotations

import math
from typing import Any

_INVISIBLE = {0x61C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x2070)}
_ESCAPED = {*range(0x80, 0xA0), *range(0xD800, 0xE000), *_INVISIBLE}
_VISIBLE: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20)}
_VISIBLE |= {0x0A: "⏎", 0x7F: "␡"}
_VISIBLE |= {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ESCAPED}


def visible(text: Any, limit: int = 400) -> str:
    """`text` with control characters, lone surrogates and direction marks shown as symbols: `␛`, `⏎`, `\\ud800`."""
    shown = str(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return shown.translate(_VISIBLE)


def finite(value: Any) -> float | None:
    """`value` as a float; None where it is missing or not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def float_bytes(dtype: Any) -> int | None:
    """Bytes of one number of a dtype given by name; None where the name is not known."""
    return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}.get(str(dtype).removeprefix("torch."))


def number(value: Any, missing: str = "–") -> str:
    """Three significant digits, thousands as k, M, G: `1.23 k`."""
    amount = finite(value)
    if amount is None:
        return missing
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(amount) >= size:
            return f"{_digits(amount / (1e3 if unit == 'k' else size))} {unit}"
    return _digits(amount)


def decimal(value: Any, missing: str = "–") -> str:
    """Three significant digits, zeros kept, so that columns line up: `9.60`, `17.0`, `128`."""
    amount = finite(value)
    return missing if amount is None else f"{amount:#.3g}".rstrip(".") if abs(amount) < 1e4 else number(amount)


def size(value: Any, missing: str = "–") -> str:
    """Bytes with a binary unit: `4.7 MiB`."""
    amount = finite(value)
    if amount is None:
        return missing
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{_digits(amount)} {unit}"
        amount /= 1024
    return f"{_digits(amount)} TiB"


def percent(value: Any, missing: str = "–") -> str:
    """A share as a percentage: `43 %`, `0.7 %`."""
    amount = finite(value)
    if amount is None:
        return missing
    if 0 < abs(amount) < 0.00995:
        return f"{100 * amount:.2g} %"
    return f"{100 * amount:.{0 if abs(amount) >= 0.0995 or amount == 0 else 1}f} %"


def duration(value: Any, missing: str = "–") -> str:
    """Seconds as `3.2 s`, `4 min 10 s`, `1 h 5 min`."""
    seconds = finite(value)
    if seconds is None:
        return missing
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _digits(amount: float) -> str:
    if amount == 0 or 1e-3 <= abs(amount) < 1e6:
        return f"{amount:.3g}" if abs(amount) < 1000 else f"{amount:,.0f}"
    return f"{amount:.2e}"
