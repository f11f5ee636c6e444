"""`assay.measure`: a model and a text in, a `Report` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay._collect import Collector, Measurement, Settings
from assay._delimiters import KINDS, compared
from assay._errors import InputError
from assay._tables import make_report
from assay.measures.state_size import check_tolerance
from assay.measures.uncertainty import predictive_entropy, surprisal
from assay.models.cache import cache_sizes
from assay.models.load import LoadedModel, load, load_tokenizer, max_positions, quiet_transformers
from assay.models.text import TokenisedText, check_vocabulary, read_text, tokenise
from assay.models.trace import MixerTrace, check_layers, decoder_layers, trace
from assay.report import Report

STATES_KEPT = 4096  # hidden states of a layer that enter its geometry

Progress = Callable[[float, str], None]


def measure(
    model: Any,
    text: str | None = None,
    tokenizer: Any = None,
    *,
    text_name: str = "text",
    max_tokens: int = 2048,
    positions: str | int = "adaptive",
    layers: Sequence[int] | None = None,
    delimiters: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    tolerance: float = 1e-3,
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure what a causal language model does with its memory on a text.

    Args:
        model: a name ("builtin:attention", a folder, a hub id) or a loaded `PreTrainedModel`, which stays as it is.
        text: the text itself; None for the built-in one.
        tokenizer: for a loaded model; None looks for the one that lies beside its weights.
        max_tokens: read at most this many tokens. A text longer than the model's positions is cut into windows.
        positions: where ESS is evaluated: "adaptive", "all", or every k-th position.
        layers: indices of the layers to measure; None for all.
        delimiters: strings that count as delimiters besides ends of documents, paragraphs and sentences.
        device, dtype: for a model given by name; "auto" takes a GPU if there is one, and float32.
        tolerance: absolute, for tolerance-ESS, above 0.
        text_name: what the report calls the text.
        seed: of the bootstrap intervals, 0 or more.
        trust_remote_code: let a model given by name run Python code that comes with it.
        allow_pickle: let a model given by name load `.bin` weights where it has no safetensors.
        progress: is called with the share done (0 to 1) and what is being done.

    Raises `InputError` for an argument or text that cannot be used, `ModelError` where the model cannot be opened or
    its activations are NaN or infinite.
    """
    started = time.perf_counter()
    report_progress = progress or (lambda _share, _what: None)
    settings = _check(positions, tolerance, max_tokens, seed)
    if text is None:
        text, text_name = read_text("builtin:text")
    report_progress(0.0, "opening the model")
    loaded = _open(model, tokenizer, max_tokens, device, dtype, trust_remote_code, allow_pickle)
    check_layers(layers, len(decoder_layers(loaded.model)))
    tokens = tokenise(
        text,
        loaded.tokenizer,
        max_tokens=max_tokens,
        window_length=max_positions(loaded.model),
        delimiters=delimiters,
    )
    check_vocabulary(tokens, loaded.model)
    with quiet_transformers():
        measurement = _run(loaded.model, tokens, settings, layers, report_progress)
        first = torch.tensor([tokens.ids[:4]], device=_device(loaded.model))
        caches = cache_sizes(loaded.model, first)
        if caches is not None and len(caches) != len(decoder_layers(loaded.model)):
            caches = None  # its entries cannot be told apart by layer
    report_progress(1.0, "writing down the findings")
    meta = _meta(loaded, text_name, tokens, settings, seed)
    meta["seconds"] = round(time.perf_counter() - started, 2)
    return make_report(measurement, caches, meta, element_size=_dtype(loaded.model).itemsize, seed=seed)


def _check(positions: str | int, tolerance: float, max_tokens: int, seed: int) -> Settings:
    if not (positions in ("adaptive", "all") or (isinstance(positions, int) and positions > 0)):
        raise InputError(f"positions is {positions!r}; expected 'adaptive', 'all' or a number k > 0 for every k-th")
    if max_tokens < 16:
        raise InputError(f"max_tokens is {max_tokens}; expected at least 16")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    check_tolerance(tolerance)
    return Settings(positions, tolerance)


def _open(
    model: Any, tokenizer: Any, max_tokens: int, device: str, dtype: str, trust_remote_code: bool, allow_pickle: bool
) -> LoadedModel:
    if isinstance(model, str):
        loaded = load(
            model,
            device=device,
            dtype=dtype,
            max_tokens=max_tokens,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
        found = tokenizer or loaded.tokenizer or load_tokenizer(model, trust_remote_code=trust_remote_code)
        return LoadedModel(loaded.model, found, loaded.name, loaded.folder)
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    if tokenizer is None:
        if not getattr(model, "name_or_path", ""):
            raise InputError("a loaded model needs its tokenizer; pass measure(model, text, tokenizer)")
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    return LoadedModel(model, tokenizer, name, None)


def _run(
    model: Any, tokens: TokenisedText, settings: Settings, layers: Sequence[int] | None, progress: Progress
) -> Measurement:
    """One forward pass for each window; every mixer is measured while its operator is there."""
    device = _device(model)
    collector = Collector(settings)
    depth = len(decoder_layers(model)) if layers is None else len(layers)
    states: list[list[Tensor]] = [[] for _ in range(len(decoder_layers(model)) + 1)]
    kept = max(1, STATES_KEPT // len(tokens.windows))
    missing = np.full(len(tokens.ids), np.nan)
    measurement = Measurement(tokens, collector, states, missing.copy(), missing.copy())
    for index, (start, stop) in enumerate(tokens.windows):
        ids = torch.tensor([tokens.ids[start:stop]], device=device)
        required = _required(tokens, index, settings)
        what = f"window {index + 1} of {len(tokens.windows)}"
        done = 0

        def on_mixer(found: MixerTrace) -> None:
            nonlocal done
            progress((index + done / depth) / len(tokens.windows), f"{what}, layer {found.layer}")  # noqa: B023
            collector.add(found, index, start, required)  # noqa: B023
            done += 1

        def on_hidden(layer: int, hidden: Tensor) -> None:
            if len(states[layer]) == index:  # noqa: B023  (a layer may run several times in a pass)
                states[layer].append(_thin(hidden[0].flatten(1), kept))  # some models carry several streams, (L, S, D)

        logits = trace(model, ids, layers=layers, on_mixer=on_mixer, on_hidden_states=on_hidden).logits[0]
        measurement.surprisal[start:stop] = surprisal(logits, ids[0]).double().cpu().numpy()
        measurement.predictive_entropy[start:stop] = predictive_entropy(logits).double().cpu().numpy()
    return measurement


def _required(tokens: TokenisedText, window: int, settings: Settings) -> list[int]:
    """Positions that the comparison of delimiters with their surroundings needs."""
    pairs = [pair for kind in KINDS for pair in compared(tokens, window, kind, every=settings.positions == "all")]
    return sorted({position for pair in pairs for position in (pair.left, pair.at, pair.right)})


def _thin(states: Tensor, kept: int) -> Tensor:
    chosen = torch.linspace(0, len(states) - 1, min(kept, len(states))).round().long()
    return states[chosen.to(states.device)].float().cpu()


def _device(model: Any) -> torch.device:
    return model.get_input_embeddings().weight.device


def _dtype(model: Any) -> torch.dtype:
    return model.get_input_embeddings().weight.dtype


def _meta(loaded: LoadedModel, text_name: str, tokens: TokenisedText, settings: Settings, seed: int) -> dict[str, Any]:
    import transformers

    from assay import __version__

    model = loaded.model
    warnings = []
    if len(tokens.windows) > 1:
        warnings.append(
            f"the text is measured in {len(tokens.windows)} separate windows: the model takes "
            f"{max_positions(model):,} positions"
        )
    if tokens.truncated:
        warnings.append(f"only the first {len(tokens.ids):,} tokens were measured; give --max-tokens for more")
    if tokens.dropped_tokens:
        warnings.append(f"the last {tokens.dropped_tokens} tokens were left out: too few for a window of their own")
    if _dtype(model).itemsize < 4:
        warnings.append(f"in {_dtype(model)} singular values below about 1e-2 are rounding; give --dtype float32")
    return {
        "model": loaded.name,
        "architecture": type(model).__name__,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "text": text_name,
        "num_tokens": len(tokens.ids),
        "num_bytes": int(tokens.num_bytes.sum()),
        "num_windows": len(tokens.windows),
        "window_length": max(stop - start for start, stop in tokens.windows),
        "positions": settings.positions if isinstance(settings.positions, str) else f"every {settings.positions}",
        "tolerance": settings.tolerance,
        "seed": seed,
        "device": str(_device(model)),
        "dtype": str(_dtype(model)).removeprefix("torch."),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "assay": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "pandas": pd.__version__,
        },
        "warnings": warnings,
    }
