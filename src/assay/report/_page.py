"""What the page draws, made small: thinned curves, rounded and integer-coded numbers, harmless texts.

A long report has millions of rows; the page gets a fixed number of points. Curves are stored as 16-bit integers in
base64 with a scale of their own, and decoded in the browser when they are looked at.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from assay.report._text import finite, visible

if TYPE_CHECKING:
    from assay.report._report import Report

Array = npt.NDArray[Any]

POINTS = 300_000  # of all heads' state-size curves together
ENTROPY_POINTS = 150_000  # of all heads' attention-entropy curves together
LAYER_POINTS = 30_000  # of the means over each layer's heads together
FEWEST, MOST = 48, 512  # points of one head's curve
TEXT_TOKENS, TEXT_BYTES = 24_000, 500_000  # tokens shown as text on hover, and the room that they may take
STRIP = 2_048  # tokens in the surprisal strip
MISSING = 65_535
DELIMITERS = ("document", "paragraph", "sentence", "user")
REGIMES = ("collapse", "low", "high", "overload")
HEAD_QUANTITIES = (
    "utilisation",
    "entropy_ess",
    "tolerance_ess",
    "normalised_entropy",
    "first_token_mass",
    "previous_token_mass",
    "attention_entropy",
)


def page_data(report: Report) -> dict[str, Any]:
    """The plain dictionary that the page's scripts read."""
    tokens = report.tokens.sort_values("token")
    marks = tokens.loc[tokens["delimiter"].isin(DELIMITERS), "token"].to_numpy()
    return {
        "tokens": _tokens(tokens),
        "layers": _layers(report.layers),
        "heads": _heads(report.heads),
        "curves": _curves(report.state_size, tokens, marks),
        "entropy": _entropy_curves(report.attention, marks),
        "memory": _memory(report.memory, marks),
        "modulation": _modulation(report.modulation),
        "geometry": {str(name): rounded(report.geometry[name]) for name in report.geometry.columns},
        "uncertainty": _uncertainty(report.uncertainty),
        "recall": recall_bins(report.recall),
    }


def rounded(values: pd.Series[Any] | Array) -> list[float | int | None]:
    """Numbers with 4 significant digits, whole ones as integers, missing ones as None."""
    result: list[float | int | None] = []
    for value in numeric(values).tolist():
        amount = finite(value)
        short = None if amount is None else float(f"{amount:.4g}")
        result.append(int(short) if short is not None and short.is_integer() else short)
    return result


def numeric(values: pd.Series[Any] | Array) -> Array:
    """Floats, with NaN for whatever is not a number (a loaded table has None)."""
    array = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"))
    return array.astype(np.float64) if array.dtype == object else array


def pack(values: Array) -> list[Any]:
    """`[scale, base64]`: value = integer * scale, little-endian 16-bit, 65535 = missing."""
    known = np.isfinite(values)
    largest = float(values[known].max()) if known.any() else 0.0
    scale = float(f"{max(largest, 1e-9) / (MISSING - 1):.7g}")
    codes = np.full(values.shape, MISSING, dtype="<u2")
    codes[known] = np.clip(np.rint(values[known] / scale), 0, MISSING - 1)
    return [scale, base64.b64encode(codes.tobytes()).decode("ascii")]


def thin(tokens: Array, budget: int, marks: Array) -> Array:
    """Indices of at most `budget` tokens: evenly spread, and the delimiters, where state is expected to fall."""
    if len(tokens) <= budget:
        return np.arange(len(tokens))
    marked = _spread(np.flatnonzero(np.isin(tokens, marks)), budget // 3)
    even = _spread(np.arange(len(tokens)), budget - len(marked))
    return np.union1d(marked, even)


def _spread(indices: Array, count: int) -> Array:
    if len(indices) <= count:
        return indices
    chosen: Array = indices[np.unique(np.linspace(0, len(indices) - 1, count).astype(int))]
    return chosen


def _tokens(tokens: pd.DataFrame) -> dict[str, Any]:
    """Texts as codes into their own vocabulary; windows by their first token; delimiters by kind."""
    vocabulary: dict[str, int] = {}
    codes: list[int] = []
    room = TEXT_BYTES
    for text in tokens["text"].head(TEXT_TOKENS):
        shown = visible(text, limit=32)
        if shown not in vocabulary:
            room -= 4 + sum(6 if c in "<>&" else len(c.encode()) for c in shown)
            if room < 0:
                break
            vocabulary[shown] = len(vocabulary)
        codes.append(vocabulary[shown])
    token, window = tokens["token"].to_numpy(), tokens["window"].to_numpy()
    starts = token[np.flatnonzero(np.diff(window, prepend=-1))] if len(token) else token
    delimiters = {
        kind: token[(tokens["delimiter"] == kind).to_numpy()].tolist()
        for kind in DELIMITERS
        if (tokens["delimiter"] == kind).any()
    }
    return {
        "count": len(tokens),
        "vocabulary": list(vocabulary),
        "codes": codes,
        "windows": starts.tolist(),
        "delimiters": {kind: _spread(np.array(at), 4_000).tolist() for kind, at in delimiters.items()},
    }


def _layers(layers: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "layer": int(str(row.layer)),
            "mixer": visible(row.mixer, 80),
            "kind": visible(row.kind, 20),
            "measured": bool(row.measured),
            "reason": visible(row.reason, 200),
        }
        for row in layers.itertuples()
    ]


def _heads(heads: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {name: rounded(heads[name]) for name in ("layer", "head", *HEAD_QUANTITIES)}
    columns["regime"] = [REGIMES.index(value) if value in REGIMES else None for value in heads["regime"]]
    return columns


def _groups(frame: pd.DataFrame) -> Iterator[tuple[int, int, slice]]:
    """Layer, head and rows of each head; the frame must be sorted by them."""
    layer, head = frame["layer"].to_numpy(), frame["head"].to_numpy()
    if not len(layer):
        return
    starts = np.flatnonzero((np.diff(layer, prepend=layer[0] - 1) != 0) | (np.diff(head, prepend=head[0] - 1) != 0))
    for start, stop in zip(starts, [*starts[1:], len(layer)], strict=True):
        yield int(layer[start]), int(head[start]), slice(int(start), int(stop))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorted by layer, head, token; without a copy where it already is, since it can have millions of rows."""
    layer, head, token = (frame[name].to_numpy() for name in ("layer", "head", "token"))
    down = (np.diff(layer) < 0) | ((np.diff(layer) == 0) & (np.diff(head) < 0))
    down |= (np.diff(layer) == 0) & (np.diff(head) == 0) & (np.diff(token) < 0)
    return frame.iloc[np.lexsort((token, head, layer))] if down.any() else frame


class _Shared:
    """Arrays that many curves share (token grids, attainable state), each stored once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self._index: dict[bytes, int] = {}

    def add(self, array: Array, *, packed: bool) -> int:
        key = array.tobytes()
        if key not in self._index:
            self._index[key] = len(self.arrays)
            self.arrays.append(pack(array) if packed else array.tolist())
        return self._index[key]


def _budget(points: int, heads: int) -> int:
    """Points for one head; 0 where there are so many heads that only the means over a layer's heads are kept."""
    each = int(np.clip(points // max(heads, 1), FEWEST, MOST))
    return each if each * heads <= 1.2 * points else 0


def _curves(frame: pd.DataFrame, tokens: pd.DataFrame, marks: Array) -> dict[str, Any]:
    """Entropy-ESS, tolerance-ESS and the attainable state of each head, and their means over a layer's heads."""
    frame = _sorted(frame)
    lengths = np.bincount(tokens["window"].to_numpy().astype(int)) if len(tokens) else np.zeros(1)
    token, window, position = (frame[name].to_numpy() for name in ("token", "window", "position"))
    entropy, tolerance, tss = (numeric(frame[name]) for name in ("entropy_ess", "tolerance_ess", "tss"))
    groups = list(_groups(frame))
    budget = _budget(POINTS, len(groups))
    grids, limits = _Shared(), _Shared()
    heads, layers, measured = [], [], sorted({group[0] for group in groups})
    most = int(np.clip(LAYER_POINTS // max(len(measured), 1), FEWEST, MOST))

    def attainable(rows: Array) -> Array:
        reach = np.minimum(position[rows], lengths[window[rows].astype(int)] - position[rows])
        return np.asarray(np.minimum(tss[rows], reach), dtype=np.float64)

    for layer, head, rows in groups if budget else []:
        keep = thin(token[rows], budget, marks) + rows.start
        grid, limit = grids.add(token[keep], packed=False), limits.add(attainable(keep), packed=True)
        heads.append([layer, head, grid, limit, pack(entropy[keep]), pack(tolerance[keep])])
    for layer in measured:
        own = [group[2] for group in groups if group[0] == layer]
        span = np.arange(own[0].start, own[-1].stop)
        at, inverse = np.unique(token[span], return_inverse=True)
        keep = thin(at, most, marks)
        means = [_mean_by(inverse, v, len(at))[keep] for v in (attainable(span), entropy[span], tolerance[span])]
        grid = grids.add(at[keep], packed=False)
        layers.append([layer, -1, grid, limits.add(means[0], packed=True), pack(means[1]), pack(means[2])])
    return {"grids": grids.arrays, "limits": limits.arrays, "heads": heads, "layers": layers}


def _mean_by(inverse: Array, values: Array, count: int) -> Array:
    known = np.isfinite(values)
    total = np.bincount(inverse[known], weights=values[known], minlength=count)
    n = np.bincount(inverse[known], minlength=count)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _entropy_curves(frame: pd.DataFrame, marks: Array) -> dict[str, Any]:
    """Normalised attention entropy of each head, and the mean over a layer's heads."""
    frame = _sorted(frame)
    token, entropy = frame["token"].to_numpy(), numeric(frame["normalised_entropy"])
    groups = list(_groups(frame))
    budget = _budget(ENTROPY_POINTS, len(groups))
    grids = _Shared()
    heads, layers, measured = [], [], sorted({group[0] for group in groups})
    most = int(np.clip(LAYER_POINTS // max(len(measured), 1), FEWEST, MOST))
    for layer, head, rows in groups if budget else []:
        keep = thin(token[rows], budget, marks) + rows.start
        heads.append([layer, head, grids.add(token[keep], packed=False), pack(entropy[keep])])
    for layer in measured:
        own = [group[2] for group in groups if group[0] == layer]
        span = np.arange(own[0].start, own[-1].stop)
        at, inverse = np.unique(token[span], return_inverse=True)
        keep = thin(at, most, marks)
        mean = _mean_by(inverse, entropy[span], len(at))[keep]
        layers.append([layer, -1, grids.add(at[keep], packed=False), pack(mean)])
    return {"grids": grids.arrays, "heads": heads, "layers": layers}


def _memory(memory: pd.DataFrame, marks: Array) -> dict[str, Any]:
    keep = thin(memory["token"].to_numpy(), STRIP, marks)
    return {str(name): rounded(memory[name].iloc[keep]) for name in memory.columns}


def _modulation(modulation: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in modulation.to_dict("records"):
        scope = str(row["scope"])
        layer = int(scope.removeprefix("layer ")) if scope.removeprefix("layer ").isdecimal() else None
        numbers = {name: finite(row[name]) for name in ("n", "fall", "low", "high")}
        if numbers["fall"] is not None and row["delimiter"] in DELIMITERS and (layer is not None or scope == "model"):
            short = {name: None if v is None else float(f"{v:.4g}") for name, v in numbers.items()}
            rows.append({"layer": layer, "delimiter": row["delimiter"], **short})
    return rows


def _uncertainty(uncertainty: pd.DataFrame) -> dict[str, Any]:
    strip = uncertainty.sort_values("token").head(STRIP)
    return {str(name): rounded(strip[name]) for name in strip.columns}


def recall_bins(recall: pd.DataFrame) -> dict[str, Any]:
    """Mean surprisal with 95 % intervals: hits by distance in powers of two, and all other tokens."""
    surprisal, distance = numeric(recall["surprisal"]), numeric(recall["distance"])
    hit = recall["hit"].to_numpy().astype(bool)
    known = np.isfinite(surprisal)
    level = np.floor(np.log2(np.maximum(np.nan_to_num(distance, nan=1.0), 1.0))).astype(int)
    chosen = hit & known & np.isfinite(distance)
    bins = [
        {"from": 2 ** int(k), "to": 2 ** int(k + 1) - 1, **mean_interval(surprisal[chosen & (level == k)])}
        for k in np.unique(level[chosen])
    ]
    return {"hits": bins, "hit": mean_interval(surprisal[hit & known]), "other": mean_interval(surprisal[~hit & known])}


def mean_interval(values: Array) -> dict[str, Any]:
    """Mean, 95 % t-interval (none under 4 values, never below 0: surprisal is not negative) and n."""
    n = len(values)
    if n == 0:
        return {"n": 0, "mean": None, "low": None, "high": None}
    mean = float(values.mean())
    if n < 4:
        return {"n": n, "mean": round(mean, 4), "low": None, "high": None}
    t = 1.95996 + 2.37228 / (n - 1) + 2.82250 / (n - 1) ** 2  # Cornish-Fisher: within 4 % of the exact t from n = 4
    half = t * float(values.std(ddof=1)) / n**0.5
    return {"n": n, "mean": round(mean, 4), "low": round(max(mean - half, 0.0), 4), "high": round(mean + half, 4)}
