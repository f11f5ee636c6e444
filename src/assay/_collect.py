"""Gathering one measurement: every mixer's operator is measured while it is there, then let go."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.measures.attention import (
    attention_entropy,
    entropy_regime,
    first_token_mass,
    max_attention_entropy,
    previous_token_mass,
)
from assay.measures.state_size import StateSizeProfile, state_size_profile
from assay.models.adapters import Reading
from assay.models.cache import CacheSize
from assay.models.text import TokenisedText
from assay.models.trace import MixerTrace
from assay.operators import DenseOperator

CHANNEL_GROUPS = 16
QUERIES_KEPT = 256  # rows of the attention table for each head and window; means use all queries
POSITIONS_KEPT = 256  # likewise of the table of state sizes where positions are adaptive, besides the required ones

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What is asked of every mixer."""

    positions: str | int
    tolerance: float


@dataclass
class MixerRecord:
    """What is known of one mixer after the windows so far. Lists have one entry a window; shapes: H heads, L length."""

    layer: int
    module: str
    mixer: str
    first_head: int = 0  # heads of a second mixer in the same layer go on counting
    kind: str = ""
    reason: str = ""
    fidelity: float = float("nan")
    channels: Array = field(default_factory=lambda: np.zeros(0))  # (H,) value channels of each head
    entropy: list[Array] = field(default_factory=list)  # (H, L) entropy-ESS, interpolated
    tolerance: list[Array] = field(default_factory=list)  # (H, L)
    tss: list[Array] = field(default_factory=list)  # (L,)
    attainable: list[Array] = field(default_factory=list)  # (L,)
    evaluated: list[Array] = field(default_factory=list)  # (L,) ESS in floats, NaN where not evaluated
    error: list[float] = field(default_factory=list)  # estimated relative error of the interpolated mean
    attention: list[dict[str, Array]] = field(default_factory=list)  # (H, L) each

    @property
    def measured(self) -> bool:
        return not self.reason

    @property
    def num_heads(self) -> int:
        return len(self.channels)


class Collector:
    """Takes the mixers' traces window by window and makes the tables of the report from them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records: dict[tuple[int, str], MixerRecord] = {}
        self._rows: list[tuple[MixerRecord, pd.DataFrame]] = []
        self._attention_rows: list[tuple[MixerRecord, pd.DataFrame]] = []

    def add(self, found: MixerTrace, window: int, start: int, required: list[int]) -> None:
        """Measure one mixer in one window that begins at token `start`; ESS is needed at the `required` positions."""
        record = self.records.setdefault(
            (found.layer, found.module), MixerRecord(found.layer, found.module, found.mixer)
        )
        if len(record.entropy) > window:
            return  # a layer that runs several times in a pass is measured the first time
        worst = np.fmax(record.fidelity, found.fidelity)
        record.fidelity = float(worst)
        if found.reading is None or not record.measured:
            record.reason = record.reason or found.reason
            return
        record.kind = found.reading.kind
        self._measure(record, found.reading, window, start, required)

    def _measure(self, record: MixerRecord, reading: Reading, window: int, start: int, required: list[int]) -> None:
        groups, record.channels = _groups(reading)
        profile = state_size_profile(
            reading.operator,
            positions=self.settings.positions,
            tolerance=self.settings.tolerance,
            required=required,
            groups=groups,
        )
        if bool(torch.isnan(profile.entropy_ess).any()):
            record.reason = "no singular value routine converged on a block of the operator"
            return
        length = reading.operator.length
        entropy, tolerance = (_by_group(t[0], groups) for t in (profile.entropy_ess, profile.tolerance_ess))
        every = range(1, length)
        tss = np.concatenate([[0.0], reading.operator.state_size(every).double().numpy()])
        position = np.arange(length)
        record.tss.append(tss)
        record.attainable.append(np.minimum(tss, np.minimum(position, length - position)))
        record.entropy.append(profile.interpolate(torch.from_numpy(entropy), length).numpy())
        record.tolerance.append(profile.interpolate(torch.from_numpy(tolerance), length).numpy())
        record.error.append(profile.error)
        floats = np.full(length, np.nan)
        floats[profile.positions.numpy()] = record.channels @ entropy
        record.evaluated.append(floats)
        kept = self._kept(profile.positions, required)
        self._rows.append((record, _state_size_rows(record, profile, entropy, tolerance, window, start, kept)))
        if record.kind == "attention" and isinstance(reading.operator, DenseOperator):
            self._measure_attention(record, reading.operator, start)

    def _kept(self, positions: Tensor, required: list[int]) -> NDArray[np.intp]:
        """Indices of the positions that enter the table."""
        if self.settings.positions != "adaptive" or len(positions) <= POSITIONS_KEPT:
            return np.arange(len(positions))
        spread = np.linspace(0, len(positions) - 1, POSITIONS_KEPT).astype(np.intp)
        return np.union1d(spread, np.flatnonzero(np.isin(positions.numpy(), required)))

    def _measure_attention(self, record: MixerRecord, operator: DenseOperator, start: int) -> None:
        weights = operator.matrix[0]
        most = max_attention_entropy(operator.length, operator.attention_window).numpy()
        entropy = _numpy(attention_entropy(weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            normalised = np.where(most > 0, np.minimum(entropy / most, 1), np.nan)
        kept = {
            "entropy": entropy,
            "normalised_entropy": normalised,
            "first_token_mass": _numpy(first_token_mass(weights)),
            "previous_token_mass": _numpy(previous_token_mass(weights)),
        }
        record.attention.append(kept)
        queries = np.unique(np.linspace(0, operator.length - 1, QUERIES_KEPT).astype(int))
        columns = _head_columns(record, len(queries)) | {"token": np.tile(start + queries, record.num_heads)}
        values = {name: array[:, queries].ravel() for name, array in kept.items()}
        self._attention_rows.append((record, pd.DataFrame(columns | values)))

    def state_size(self) -> pd.DataFrame | None:
        return self._of_measured(self._rows)

    def attention(self) -> pd.DataFrame | None:
        return self._of_measured(self._attention_rows)

    def _of_measured(self, rows: list[tuple[MixerRecord, pd.DataFrame]]) -> pd.DataFrame | None:
        """Without those of a mixer that failed in a later window; heads counted through a layer's mixers."""
        self.ordered()
        kept = [frame.assign(head=frame["head"] + record.first_head) for record, frame in rows if record.measured]
        return pd.concat(kept, ignore_index=True) if kept else None

    def ordered(self) -> list[MixerRecord]:
        """The mixers in the order of the layers, with their heads numbered."""
        records = sorted(self.records.values(), key=lambda record: record.layer)
        for before, after in itertools.pairwise(records):
            after.first_head = before.first_head + before.num_heads if before.layer == after.layer else 0
        return records

    def heads(self) -> list[dict[str, Any]]:
        """Rows of the table of heads."""
        rows = [row for record in self.ordered() if record.measured for row in _head_rows(record)]
        entropies = torch.tensor([row["attention_entropy"] for row in rows], dtype=torch.float64)
        known = ~torch.isnan(entropies)
        regimes = iter(entropy_regime(entropies[known])) if bool(known.any()) else iter(())
        for row, is_attention in zip(rows, known.tolist(), strict=True):
            row["regime"] = next(regimes) if is_attention else ""
        return rows

    def layers(self, caches: list[CacheSize] | None) -> list[dict[str, Any]]:
        """Rows of the table of layers."""
        return [_layer_row(record, None if caches is None else caches[record.layer]) for record in self.ordered()]


@dataclass
class Measurement:
    """What one run over all windows has gathered, before it becomes tables."""

    tokens: TokenisedText
    collector: Collector
    hidden_states: list[list[Tensor]]
    surprisal: Array
    predictive_entropy: Array


def _groups(reading: Reading) -> tuple[list[slice], Array]:
    """Heads as they are; channels with an operator each in at most 16 groups of neighbours, and channels in each."""
    heads, channels = reading.operator.batch_shape[1], reading.values.shape[-1]
    if channels > 1 or heads <= CHANNEL_GROUPS:
        return [slice(h, h + 1) for h in range(heads)], np.full(heads, float(channels))
    edges = np.linspace(0, heads, CHANNEL_GROUPS + 1).astype(int).tolist()
    groups = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return groups, np.array([float(group.stop - group.start) for group in groups])


def _by_group(values: Tensor, groups: list[slice]) -> Array:
    """(heads, P) -> mean over the channels of each group, (H, P)."""
    return np.stack([values[group].mean(0).numpy() for group in groups])


def _numpy(values: Tensor) -> Array:
    return values.double().cpu().numpy()


def _head_columns(record: MixerRecord, each: int) -> dict[str, Any]:
    heads = np.repeat(np.arange(record.num_heads), each)
    return {"layer": np.full(len(heads), record.layer), "head": heads}


def _state_size_rows(
    record: MixerRecord,
    profile: StateSizeProfile,
    entropy: Array,
    tolerance: Array,
    window: int,
    start: int,
    kept: NDArray[np.intp],
) -> pd.DataFrame:
    positions, entropy, tolerance = profile.positions.numpy()[kept], entropy[:, kept], tolerance[:, kept]
    count = record.num_heads
    columns = _head_columns(record, len(positions))
    return pd.DataFrame(
        columns
        | {
            "token": np.tile(start + positions, count),
            "window": window,
            "position": np.tile(positions, count),
            "entropy_ess": entropy.ravel(),
            "tolerance_ess": tolerance.ravel(),
            "tss": np.tile(profile.tss.double().numpy()[kept], count),
            "utilisation": (entropy / profile.attainable.numpy()[kept]).ravel(),
        }
    )


def _head_rows(record: MixerRecord) -> list[dict[str, Any]]:
    # position 0 carries nothing and is left out of every mean
    entropy, tolerance = (np.concatenate([w[:, 1:] for w in v], axis=1) for v in (record.entropy, record.tolerance))
    tss, attainable = (np.concatenate([w[1:] for w in v]) for v in (record.tss, record.attainable))
    attention = {
        name: np.nanmean(np.concatenate([w[name][:, 1:] for w in record.attention], axis=1), axis=1)
        for name in (record.attention[0] if record.attention else ())
    }
    missing = np.full(record.num_heads, np.nan)
    return [
        {
            "layer": record.layer,
            "head": record.first_head + h,
            "entropy_ess": entropy[h].mean(),
            "tolerance_ess": tolerance[h].mean(),
            "tss": tss.mean(),
            "utilisation": entropy[h].sum() / attainable.sum(),
            "attention_entropy": attention.get("entropy", missing)[h],
            "normalised_entropy": attention.get("normalised_entropy", missing)[h],
            "first_token_mass": attention.get("first_token_mass", missing)[h],
            "previous_token_mass": attention.get("previous_token_mass", missing)[h],
        }
        for h in range(record.num_heads)
    ]


def _layer_row(record: MixerRecord, cache: CacheSize | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": record.layer,
        "module": record.module,
        "mixer": record.mixer,
        "kind": record.kind if record.measured else "",
        "num_heads": record.num_heads if record.measured else 0,
        "num_channels": int(record.channels.sum()) if record.measured else 0,
        "measured": record.measured,
        "reason": record.reason,
        "fidelity": record.fidelity,
    }
    if not record.measured:
        return row
    heads = pd.DataFrame(_head_rows(record))
    share = record.channels / record.channels.sum()
    lengths = [len(tss) for tss in record.tss]
    cached = [cache.floats(n)[1:] for n in lengths] if cache is not None else [np.full(1, np.nan)]
    return row | {
        "entropy_ess": float(heads["entropy_ess"] @ share),
        "tolerance_ess": float(heads["tolerance_ess"] @ share),
        "tss": float(heads["tss"].mean()),
        "utilisation": float(heads["utilisation"] @ share),
        "ess_floats": float(heads["entropy_ess"] @ record.channels),
        "cache_floats": float(np.concatenate(cached).mean()),
    }
