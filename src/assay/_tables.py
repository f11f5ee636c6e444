"""From a measurement to the tables of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay._collect import Array, Measurement, MixerRecord
from assay._delimiters import KINDS, falls
from assay._errors import InputError
from assay.measures.geometry import alpha_req, effective_rank, eigenspectrum, rankme
from assay.measures.interval import Interval, bootstrap_mean
from assay.measures.recall import bigram_recall
from assay.measures.uncertainty import bits_per_byte
from assay.models.cache import CacheSize
from assay.models.text import TokenisedText
from assay.operators._spectrum import in_parallel
from assay.report import Report
from assay.report.findings import find
from assay.report.schema import TABLES


def make_report(
    measurement: Measurement, caches: list[CacheSize] | None, meta: dict[str, Any], *, element_size: int, seed: int
) -> Report:
    """All tables, the headline numbers and the findings. `element_size`: bytes of a number in the model's dtype."""
    tokens, collector = measurement.tokens, measurement.collector
    records = [record for record in collector.ordered() if record.measured]
    tables = {
        "tokens": _tokens(tokens),
        "layers": collector.layers(caches),
        "heads": collector.heads(),
        "state_size": collector.state_size(),
        "memory": _memory(records, tokens, caches, element_size),
        "modulation": _modulation(records, tokens, every=collector.settings.positions == "all", seed=seed),
        "attention": collector.attention(),
        "geometry": _geometry(measurement),
        "uncertainty": {
            "token": np.arange(len(tokens.ids)),
            "surprisal": measurement.surprisal,
            "predictive_entropy": measurement.predictive_entropy,
        },
        "recall": _recall(tokens, measurement.surprisal),
    }
    frames = {name: pd.DataFrame(rows, columns=list(TABLES[name])) for name, rows in tables.items()}
    meta = meta | {"summary": _summary(frames, records, tokens, measurement.surprisal, seed)}
    report = Report(meta=meta, findings=[], **frames)
    report.findings.extend(find(report))
    return report


def _tokens(tokens: TokenisedText) -> dict[str, Any]:
    window, position = _by_window(tokens, lambda index, n: (np.full(n, index), np.arange(n)))
    return {
        "token": np.arange(len(tokens.ids)),
        "window": window,
        "position": position,
        "text": tokens.pieces,
        "delimiter": tokens.delimiters,
    }


def _by_window(tokens: TokenisedText, make: Callable[[int, int], tuple[Any, ...]]) -> list[Any]:
    parts = [make(index, stop - start) for index, (start, stop) in enumerate(tokens.windows)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _memory(
    records: list[MixerRecord], tokens: TokenisedText, caches: list[CacheSize] | None, element_size: int
) -> dict[str, Array]:
    """Per token: the state that the measured layers carry, beside what the model's cache allocates for them."""
    layers = {record.layer for record in records}

    def one(index: int, length: int) -> tuple[Array, Array]:
        ess = sum((record.channels @ record.entropy[index] for record in records), np.zeros(length))
        if caches is None:
            return ess, np.full(length, np.nan)
        return ess, sum((caches[layer].floats(length) for layer in layers), np.zeros(length))

    ess, cache = _by_window(tokens, one)
    return {
        "token": np.arange(len(tokens.ids)),
        "ess_floats": ess,
        "ess_bytes": ess * element_size,
        "cache_floats": cache,
        "cache_bytes": cache * element_size,
    }


def _modulation(records: list[MixerRecord], tokens: TokenisedText, *, every: bool, seed: int) -> list[dict[str, Any]]:
    """The fall of ESS (in floats) at each kind of delimiter: over the whole model, and in each layer."""
    curves: dict[str, list[Array]] = {}
    for layer in sorted({record.layer for record in records}):
        mixers = [record.evaluated for record in records if record.layer == layer]
        curves[f"layer {layer}"] = [np.sum(window, axis=0) for window in zip(*mixers, strict=True)]
    if records:
        curves = {"model": [np.sum(window, axis=0) for window in zip(*curves.values(), strict=True)]} | curves
    rows = []
    for scope, windows in curves.items():
        for kind in KINDS:
            found = [falls(curve, tokens, index, kind, every=every) for index, curve in enumerate(windows)]
            if len(together := np.concatenate(found)):
                interval = bootstrap_mean(together, seed=seed)
                rows.append({"scope": scope, "delimiter": kind, "n": interval.n, "fall": interval.mean}
                            | {"low": interval.low, "high": interval.high})  # fmt: skip
    return rows


@torch.no_grad()
def _geometry(measurement: Measurement) -> list[dict[str, Any]]:
    """RankMe and alpha-ReQ of the token states after each layer; every token is a sample."""
    layers = [layer for layer, windows in enumerate(measurement.hidden_states) if windows]
    return in_parallel(
        lambda layer: _geometry_row(layer, torch.cat(measurement.hidden_states[layer])),
        layers,
        device=torch.device("cpu"),
    )


def _geometry_row(layer: int, states: Tensor) -> dict[str, Any]:
    eigenvalues = eigenspectrum(states)
    row: dict[str, Any] = {
        "layer": layer,
        "rankme_eigenvalues": float(effective_rank(eigenvalues)),
        "rankme_singular_values": float(rankme(states, "singular_values")),
        "num_samples": states.shape[0],
        "dimension": states.shape[1],
    }
    try:
        fit = alpha_req(eigenvalues)
    except InputError:  # fewer than four directions: no power law to fit
        return row | {"alpha_req": np.nan, "alpha_r2": np.nan, "fit_first": None, "fit_last": None}
    return row | {"alpha_req": fit.alpha, "alpha_r2": fit.r2, "fit_first": fit.first, "fit_last": fit.last}


def _recall(tokens: TokenisedText, surprisal: Array) -> pd.DataFrame:
    parts = []
    for start, stop in tokens.windows:
        hit, distance = (np.asarray(x) for x in bigram_recall(torch.tensor(tokens.ids[start:stop])))
        frame = pd.DataFrame(
            {
                "token": np.arange(start, stop),
                "hit": hit.astype(bool),
                "distance": np.where(hit, distance.astype(float), np.nan),
                "surprisal": surprisal[start:stop],
            }
        )
        parts.append(frame.iloc[2:])  # the first two tokens of a window cannot complete a repeated bigram
    return pd.concat(parts, ignore_index=True)


def _summary(
    frames: dict[str, pd.DataFrame], records: list[MixerRecord], tokens: TokenisedText, surprisal: Array, seed: int
) -> dict[str, Any]:
    scored = np.isfinite(surprisal)  # infinite where a model rules a token out
    recall, memory = frames["recall"].replace(np.inf, np.nan).dropna(subset=["surprisal"]), frames["memory"]
    inside = frames["tokens"]["position"] > 0
    used = sum(float((r.channels @ r.entropy[w]).sum()) for r in records for w in range(len(r.entropy)))
    could = sum(float(r.channels.sum() * r.attainable[w].sum()) for r in records for w in range(len(r.entropy)))
    return {
        "bits_per_byte": _number(bits_per_byte(surprisal[scored], max(1, int(tokens.num_bytes[scored].sum())))),
        "total_ess_floats": _number(memory["ess_floats"][inside].mean()) if records else None,
        "total_cache_floats": _number(memory["cache_floats"][inside].mean()) if records else None,
        "utilisation": _number(used / could) if could else None,
        "interpolation_error": _number(max((e for r in records for e in r.error), default=np.nan)),
        "hit_loss": _interval(bootstrap_mean(recall["surprisal"][recall["hit"].astype(bool)], seed=seed)),
        "other_loss": _interval(bootstrap_mean(recall["surprisal"][~recall["hit"].astype(bool)], seed=seed)),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {k: _number(getattr(interval, k)) for k in ("mean", "low", "high")} | {"n": interval.n}


def _number(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
