"""Opening a model: a built-in one, a folder, or a hub id, through transformers' own `from_pretrained`.

Nothing is unpickled and no remote code runs unless the caller says so; the memory is estimated before it is taken.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay._errors import InputError, ModelError, nearest
from assay.models._memory import MemoryEstimate, check_memory, estimate_memory, first_line
from assay.models._source import (
    BUILTIN_FOLDER,
    BUILTINS,
    PREFIX,
    Source,
    check_source,
    resolve,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "LoadedModel",
    "MemoryEstimate",
    "builtin_models",
    "estimate_memory",
    "load",
    "load_tokenizer",
    "max_positions",
    "quiet_transformers",
    "resolve_device",
    "resolve_dtype",
]

DTYPES = ("float32", "float64", "bfloat16", "float16")
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model ready to be measured: in eval mode, eager attention, no gradients."""

    model: Any
    """The `PreTrainedModel`."""
    tokenizer: Any | None
    """Its tokenizer; None where it came without one."""
    name: str
    """What the user typed."""
    folder: Path | None
    """Where it lies; None for a model of the hub."""


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 2048,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> LoadedModel:
    """Open `builtin:…`, a local folder in transformers format, or a hub id.

    `max_tokens` is the longest text that will be measured; it only enters the estimate of the memory. `dtype` "auto"
    is float32 on every device. The tokenizer is None where there is none: `load_tokenizer` says what to do then.

    Raises `InputError` for a device or dtype that does not exist, and `ModelError` where the model is unknown, broken,
    not causal, needs a permission (`trust_remote_code`, `allow_pickle`) or does not fit into memory.
    """
    target, number = resolve_device(device), resolve_dtype(dtype)
    source = resolve(name)
    with quiet_transformers():
        check_source(source, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        config = _config(source, trust_remote_code)
        window = min(max_tokens, _max_positions(config) or max_tokens)
        check_memory(name, config, number, target, window, trust_remote_code=trust_remote_code)
        model = _weights(source, config, number, trust_remote_code)
        tokenizer = _tokenizer(source, trust_remote_code)
        model = _place(name, model, target)
    return LoadedModel(model=model, tokenizer=tokenizer, name=name, folder=source.folder)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model. Raises `InputError` where there is none, saying what to give."""
    with quiet_transformers():
        tokenizer = _tokenizer(resolve(name), trust_remote_code)
    if tokenizer is None:
        raise InputError(
            f"{name!r} comes without a usable tokenizer; put its tokenizer.json (and tokenizer_config.json) into the "
            "folder, or pass assay.measure(…, tokenizer=…) from Python"
        )
    return tokenizer


def builtin_models() -> dict[str, str]:
    """Name -> one line about each built-in model (reads only small files: torch is not imported)."""
    return {PREFIX + name: f"{words}{_facts(BUILTIN_FOLDER / name)}" for name, words in BUILTINS.items()}


def max_positions(model: Any) -> int | None:
    """The longest sequence that the model takes; None where it has no limit of its own (recurrences, ALiBi)."""
    return _max_positions(model.config)


def resolve_device(device: str) -> torch.device:
    """The device; "auto" is CUDA where there is one, else MPS, else CPU. Raises `InputError` where it is missing."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        near = nearest(device, ["auto", "cpu", "cuda", "mps"])
        raise InputError(f"no device {device!r}{near}; give auto, cpu, cuda, cuda:N or mps")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise InputError(f"--device {device}: this machine (or this build of torch) has no {kind}; give --device cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: there are only {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return torch.device(device)


def resolve_dtype(dtype: str) -> torch.dtype:
    """The number type; "auto" is float32. Raises `InputError` for a word that names none of the four float types."""
    import torch

    if dtype == "auto":
        return torch.float32
    if dtype not in DTYPES:
        raise InputError(f"no dtype {dtype!r}{nearest(dtype, DTYPES)}; give auto, {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, dtype)
    return found


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars, advice and warnings of transformers and the hub; errors are still raised."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    hub_logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


def _config(source: Source, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, attn_implementation="eager"
        )
    except Exception as error:  # a config is foreign data: whatever it breaks is told in one line
        raise ModelError(f"config.json of {source.name!r} cannot be used: {first_line(error)}") from error


def _weights(source: Source, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=source.has_safetensors,
            weights_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # weights are foreign data: whatever they break is told in one line
        raise ModelError(f"the weights of {source.name!r} cannot be loaded: {first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights of {source.name!r} lack {len(missing)} of the model's tensors ({missing[0]} …), which would "
            "be random; give a folder whose config.json belongs to its weights"
        )
    return model.eval().requires_grad_(False)


def _place(name: str, model: Any, device: torch.device) -> Any:
    import torch

    try:
        return model.to(device)
    except (torch.OutOfMemoryError, TypeError) as error:  # TypeError: float64 on MPS
        raise ModelError(f"{name!r} cannot be put on {device}: {first_line(error)}; give --device cpu") from error


def _tokenizer(source: Source, trust_remote_code: bool) -> Any | None:
    """None where there is none, or where transformers made up an empty one because it found no files."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, trust_remote_code=trust_remote_code)
        usable = len(tokenizer("A text.", add_special_tokens=False)["input_ids"]) > 0
    except Exception:
        return None
    return tokenizer if usable else None


def _max_positions(config: Any) -> int | None:
    text = config.get_text_config()
    alibi = text.model_type == "bloom" or bool(getattr(text, "alibi", False))
    if alibi and text.model_type != "mpt":  # mpt builds its biases for `max_seq_len` positions and no more
        return None
    values = (getattr(text, name, None) for name in POSITION_NAMES)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _facts(folder: Path) -> str:
    try:
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
        bits = facts["held_out_bits_per_byte"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f", {size:.1f} MB, trained on Python's standard library; {bits:.2f} bits per byte of held-out text"
