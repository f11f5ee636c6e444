"""Plausible reports without a model: what the tests of the page and of the terminal look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from assay.report import Finding, Report
from assay.report.schema import TABLES

WORDS = (
    "def return self the state of a model is carried over every position and what it keeps can be read from the rank "
    "import class for in if not None True value text token layer head memory (x) = 0 [i] + 1 : raise open file path"
)


def synthetic_report(
    num_layers: int = 12,
    num_heads: int = 12,
    length: int = 512,
    evaluated: int | None = None,
    seed: int = 0,
    *,
    windows: int = 1,
    kind: str = "attention",
    unmeasured: dict[int, str] | None = None,
    hostile: list[str] | None = None,
) -> Report:
    """A report of a model of this shape on `windows * length` tokens.

    `evaluated` positions of each window are measured (None: all). `unmeasured` maps a layer to its reason; `hostile`
    texts replace the first tokens, the name of the model and the first reason.
    """
    rng = np.random.default_rng(seed)
    unmeasured, hostile = unmeasured or {}, hostile or []
    tokens = _tokens(rng, length, windows, hostile)
    measured = [layer for layer in range(num_layers) if layer not in unmeasured]
    positions = np.unique(np.linspace(0, length - 1, evaluated or length).astype(np.int32))
    token = (np.arange(windows, dtype=np.int32)[:, None] * length + positions).ravel()
    state, heads = _states(rng, tokens, token, length, measured, num_layers, num_heads, kind)
    attention = _attention(rng, token, length, measured, num_heads) if kind == "attention" else _empty("attention")
    heads = _head_attention(heads, attention)
    layers = _layers(rng, heads, num_layers, num_heads, kind, unmeasured, length)
    memory = _memory(state, token, length, kind)
    meta: dict[str, Any] = {
        "model": hostile[0] if hostile else f"synthetic-{kind}",
        "architecture": "SyntheticForCausalLM",
        "text": "held-out.txt",
        "num_tokens": windows * length,
        "num_windows": windows,
        "window_length": length,
        "num_parameters": 124_439_808,
        "dtype": "float32",
        "device": "cpu",
        "tolerance": 1e-3,
        "positions": "all" if evaluated is None else "adaptive",
        "seed": seed,
        "versions": {"assay": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "seconds": 83.2,
        "created": "2026-11-21T00:30:00+00:00",
        "warnings": ["The text is longer than the model's positions: measured in windows."] if windows > 1 else [],
        "summary": {
            "bits_per_byte": 1.234,
            "total_ess_floats": float(memory["ess_floats"].mean()) if len(memory) else None,
            "total_cache_floats": float(memory["cache_floats"].mean()) if len(memory) else None,
            "utilisation": float(heads["utilisation"].mean()) if len(heads) else None,
            "hit_loss": {"mean": 2.31, "low": 2.08, "high": 2.55, "n": 301},
            "other_loss": {"mean": 5.72, "low": 5.41, "high": 6.01, "n": 1201},
        },
    }
    findings = [
        Finding("utilisation", "Layer 3 uses 9 % of the state it could [8, 10]; layers 0-2 use 64 % (n = 144 heads)."),
        Finding("sink", "Head 5.2 attends to the first token with 93 % of its mass (n = 512 queries)."),
        Finding("modulation", "ESS falls by 41 % [35, 47] at paragraph ends (n = 23)."),
        Finding("recall", "Repeated bigrams cost 2.3 bits [2.1, 2.6] a token, all others 5.7 bits [5.4, 6.0]."),
        Finding("bits", "The model needs 1.23 bits per byte of this text (n = 2,048 tokens)."),
    ]
    uncertainty = _uncertainty(rng, tokens)
    return Report(
        meta=meta,
        findings=findings,
        tokens=tokens,
        layers=layers,
        heads=heads,
        state_size=state,
        memory=memory,
        modulation=_modulation(rng, measured),
        attention=attention,
        geometry=_geometry(rng, num_layers, windows * length),
        uncertainty=uncertainty,
        recall=_recall(rng, tokens, uncertainty),
    )


def _empty(table: str) -> pd.DataFrame:
    return pd.DataFrame({column: [] for column in TABLES[table]})


def _tokens(rng: np.random.Generator, length: int, windows: int, hostile: list[str]) -> pd.DataFrame:
    count, words = length * windows, WORDS.split()
    text = [" " + words[i] for i in rng.integers(0, len(words), count)]
    delimiter = np.full(count, "", dtype=object)
    sentence = np.cumsum(rng.integers(12, 30, count))
    for i, at in enumerate(sentence[sentence < count]):
        delimiter[at], text[at] = ("paragraph", ".\n\n") if i % 5 == 4 else ("sentence", ".")
    if count > 40:
        delimiter[count // 2], text[count // 2] = "document", "<|endoftext|>"
    text[1 : 1 + len(hostile)] = hostile
    token = np.arange(count)
    columns = {"token": token, "window": token // length, "position": token % length, "text": text}
    return pd.DataFrame(columns | {"delimiter": delimiter})


def _states(
    rng: np.random.Generator,
    tokens: pd.DataFrame,
    token: np.ndarray,
    length: int,
    measured: list[int],
    num_layers: int,
    num_heads: int,
    kind: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """State size falls at delimiters and comes back with a head's own half-life."""
    position = token % length
    reach = np.minimum(position, length - position).astype(np.float32)
    attainable = np.minimum(reach, 16) if kind == "recurrence" else reach
    delimiters = np.flatnonzero(np.append(True, tokens["delimiter"].to_numpy() != "")) - 1  # one before the text
    since = token - delimiters[np.searchsorted(delimiters, token, side="right") - 1]
    blocks, rows = [], []
    for layer in measured:
        depth = layer / max(num_layers - 1, 1)
        for head in range(num_heads):
            share = np.clip(rng.beta(2, 5) * (1.4 - depth), 0.01, 0.95)
            dip = 1 - rng.uniform(0.1, 0.6) * np.exp(-since / rng.uniform(2, 10))
            noise = np.exp(np.convolve(rng.normal(0, 0.15, len(token)), np.ones(5) / 5, mode="same"))
            power = 1.0 if kind == "recurrence" else 0.7
            entropy = np.minimum(1 + share * attainable**power, attainable) * dip * noise
            entropy = np.minimum(entropy, attainable).astype(np.float32)
            tolerance = np.floor(np.minimum(entropy * 1.8 + 1, attainable)).astype(np.float32)
            with np.errstate(invalid="ignore"):
                used = np.where(attainable > 0, entropy / np.maximum(attainable, 1), np.nan).astype(np.float32)
            blocks.append((np.int16(layer), np.int16(head), entropy, tolerance, used))
            rows.append([layer, head, entropy.mean(), tolerance.mean(), attainable.mean(), used[attainable > 0].mean()])
    if not blocks:
        return _empty("state_size"), _empty("heads")
    n = len(token)
    tss = np.full(n, 16, np.float32) if kind == "recurrence" else reach
    columns = {
        "layer": np.repeat(np.array([b[0] for b in blocks]), n),
        "head": np.repeat(np.array([b[1] for b in blocks]), n),
        "token": np.tile(token, len(blocks)),
        "window": np.tile((token // length).astype(np.int16), len(blocks)),
        "position": np.tile(position, len(blocks)),
        "entropy_ess": np.concatenate([b[2] for b in blocks]),
        "tolerance_ess": np.concatenate([b[3] for b in blocks]),
        "tss": np.tile(tss, len(blocks)),
        "utilisation": np.concatenate([b[4] for b in blocks]),
    }
    names = ["layer", "head", "entropy_ess", "tolerance_ess", "tss", "utilisation"]
    return pd.DataFrame(columns), pd.DataFrame(rows, columns=names).astype({"layer": int, "head": int})


def _attention(
    rng: np.random.Generator, token: np.ndarray, length: int, measured: list[int], num_heads: int
) -> pd.DataFrame:
    if not measured:
        return _empty("attention")
    n, position = len(token), token % length
    largest = np.log(position + 1).astype(np.float32)
    parts: dict[str, list[np.ndarray]] = {"normalised_entropy": [], "first_token_mass": [], "previous_token_mass": []}
    for _ in range(len(measured) * num_heads):
        parts["normalised_entropy"].append(np.clip(rng.beta(3, 3) + rng.normal(0, 0.08, n), 0.01, 0.99))
        first = np.clip(rng.beta(0.6, 1.5) + rng.normal(0, 0.05, n), 0, 1)
        parts["first_token_mass"].append(first)
        parts["previous_token_mass"].append((1 - first) * rng.beta(0.5, 4))
    columns = {name: np.concatenate(values).astype(np.float32) for name, values in parts.items()}
    pairs = len(measured) * num_heads
    return pd.DataFrame(
        {
            "layer": np.repeat(np.array(measured, np.int16), num_heads * n),
            "head": np.repeat(np.tile(np.arange(num_heads, dtype=np.int16), len(measured)), n),
            "token": np.tile(token, pairs),
            "entropy": columns["normalised_entropy"] * np.tile(largest, pairs),
            **columns,
        }
    )


def _head_attention(heads: pd.DataFrame, attention: pd.DataFrame) -> pd.DataFrame:
    columns = list(TABLES["heads"])
    if not len(attention):
        return heads.reindex(columns=columns)
    means = attention.groupby(["layer", "head"], as_index=False)[
        ["entropy", "normalised_entropy", "first_token_mass", "previous_token_mass"]
    ].mean()
    joined = heads.merge(means.rename(columns={"entropy": "attention_entropy"}), on=["layer", "head"])
    quarter = np.minimum(joined["attention_entropy"] / joined["attention_entropy"].max() * 4, 3).astype(int)
    joined["regime"] = np.array(["collapse", "low", "high", "overload"])[quarter]
    return joined[columns]


def _layers(
    rng: np.random.Generator,
    heads: pd.DataFrame,
    num_layers: int,
    num_heads: int,
    kind: str,
    unmeasured: dict[int, str],
    length: int,
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for layer in range(num_layers):
        own = heads[heads["layer"] == layer]
        measured = layer not in unmeasured
        row: dict[str, Any] = dict.fromkeys(TABLES["layers"], float("nan"))
        row |= {"layer": layer, "module": f"model.layers.{layer}.mixer", "num_heads": num_heads}
        row |= {"mixer": "GPT2Attention" if kind == "attention" else "MambaMixer", "num_channels": num_heads * 64}
        row |= {"kind": kind if measured else "", "measured": measured, "reason": unmeasured.get(layer, "")}
        row["fidelity"] = float(10 ** rng.uniform(-7, -6)) if measured else float("nan")
        if measured:
            row |= {name: float(own[name].mean()) for name in ("entropy_ess", "tolerance_ess", "tss", "utilisation")}
            row["ess_floats"] = row["entropy_ess"] * num_heads * 64
            row["cache_floats"] = float(num_heads * 64 * (length if kind == "attention" else 16))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TABLES["layers"]))


def _memory(state: pd.DataFrame, token: np.ndarray, length: int, kind: str) -> pd.DataFrame:
    if not len(state):
        return _empty("memory")
    total = state["entropy_ess"].to_numpy().reshape(-1, len(token)).sum(axis=0).astype(float) * 64
    pairs = len(state) / len(token)
    cache = pairs * 64 * 2.0 * (token % length + 1) if kind == "attention" else np.full(len(token), pairs * 64 * 16.0)
    columns = {"token": token, "ess_floats": total, "ess_bytes": 4 * total}
    return pd.DataFrame(columns | {"cache_floats": cache, "cache_bytes": 4 * cache})


def _modulation(rng: np.random.Generator, measured: list[int]) -> pd.DataFrame:
    rows = []
    for scope in ["model", *(f"layer {layer}" for layer in measured)]:
        for n, (kind, fall) in zip(
            (3, 23, 96), (("document", 0.6), ("paragraph", 0.41), ("sentence", 0.12)), strict=True
        ):
            middle, half = fall + rng.normal(0, 0.05), 0.5 / np.sqrt(n)
            rows.append([scope, kind, n, middle, middle - half, middle + half])
    return pd.DataFrame(rows if measured else [], columns=list(TABLES["modulation"]))


def _geometry(rng: np.random.Generator, num_layers: int, num_samples: int) -> pd.DataFrame:
    layer = np.arange(num_layers + 1)
    shape = np.exp(-(((layer / num_layers) - 0.45) ** 2) * 6)
    return pd.DataFrame(
        {
            "layer": layer,
            "rankme_eigenvalues": 40 + 160 * shape + rng.normal(0, 4, len(layer)),
            "rankme_singular_values": 180 + 260 * shape + rng.normal(0, 6, len(layer)),
            "alpha_req": 1.4 - 0.5 * shape + rng.normal(0, 0.02, len(layer)),
            "alpha_r2": np.clip(0.97 + rng.normal(0, 0.015, len(layer)), 0, 1),
            "fit_first": 11,
            "fit_last": 50,
            "num_samples": num_samples,
            "dimension": 768,
        }
    )


def _uncertainty(rng: np.random.Generator, tokens: pd.DataFrame) -> pd.DataFrame:
    surprisal = rng.gamma(1.3, 3.0, len(tokens))
    missing = (tokens["position"] == 0).to_numpy()
    entropy = np.where(missing, np.nan, surprisal * 0.5 + rng.gamma(2, 1.0, len(tokens)))
    surprisal = np.where(missing, np.nan, surprisal)
    return pd.DataFrame({"token": tokens["token"], "surprisal": surprisal, "predictive_entropy": entropy})


def _recall(rng: np.random.Generator, tokens: pd.DataFrame, uncertainty: pd.DataFrame) -> pd.DataFrame:
    own = tokens[tokens["position"] >= 2]
    hit = rng.random(len(own)) < 0.3
    distance = np.where(hit, np.floor(2 ** rng.uniform(1, 8, len(own))), np.nan)
    surprisal = uncertainty["surprisal"].to_numpy()[own["token"].to_numpy()]
    surprisal = np.where(hit, surprisal * 0.25 * (1 + 0.2 * np.log2(np.nan_to_num(distance, nan=2.0))), surprisal)
    return pd.DataFrame({"token": own["token"], "hit": hit, "distance": distance, "surprisal": surprisal})
