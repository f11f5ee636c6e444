"""From what the user typed to the files of a model: built-in, a local folder, or a Hugging Face hub id.

Everything that can be wrong is found here, from file names and config.json alone, before any weight is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay._errors import ModelError, nearest
from assay.models._memory import first_line

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
PREFIX = "builtin:"
BUILTINS = {"attention": "a small Llama-style decoder", "mamba": "a small Mamba"}
WANTED = "a folder in transformers format (config.json, *.safetensors, tokenizer.json)"


@dataclass(frozen=True)
class Source:
    """A model that exists: what the user typed, where transformers finds it, and the names of its files."""

    name: str
    location: str
    folder: Path | None
    files: frozenset[str]

    @property
    def has_safetensors(self) -> bool:
        return any(file.endswith((".safetensors", ".safetensors.index.json")) for file in self.files)

    @property
    def has_pickle(self) -> bool:
        return any(file.startswith("pytorch_model") and ".bin" in file for file in self.files)


def resolve(name: str) -> Source:
    """Find the model. Raises `ModelError` where there is none by this name."""
    if name.startswith(PREFIX):
        return _local(name, BUILTIN_FOLDER / _builtin(name.removeprefix(PREFIX)))
    if not name.strip():
        raise ModelError(f"no model is named; give builtin:attention, or {WANTED}")
    path = Path(name).expanduser()
    if path.is_dir():
        return _local(name, path)
    if path.is_file():
        raise ModelError(f"{name!r} is a file; give the folder that it lies in, {str(path.parent)!r}")
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise ModelError(f"no folder at {name!r}{nearest(path.name, _siblings(path))}; give {WANTED}")
    return _hub(name)


def check_source(source: Source, *, trust_remote_code: bool, allow_pickle: bool) -> None:
    """Raise `ModelError` unless the files make a causal language model that may be loaded with these permissions."""
    if "config.json" not in source.files:
        raise ModelError(_no_config(source))
    _check_config(source, read_config(source), trust_remote_code)
    if source.has_safetensors:
        return
    if not source.has_pickle:
        raise ModelError(f"{source.name!r} has no weights (*.safetensors); give {WANTED}")
    if not allow_pickle:
        raise ModelError(
            f"{source.name!r} has its weights only as pickle (.bin), which can run code when opened; "
            "convert it to safetensors, or add --allow-pickle if you trust it"
        )


def read_config(source: Source) -> dict[str, Any]:
    """The config.json of the model as it stands."""
    try:
        text = Path(_config_path(source)).read_text(encoding="utf-8")
        config = json.loads(text)
    except (OSError, ValueError) as error:
        raise ModelError(f"config.json of {source.name!r} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {source.name!r} is not a JSON object; give {WANTED}")
    return config


def _check_config(source: Source, config: dict[str, Any], trust_remote_code: bool) -> None:
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    kind = config.get("model_type")
    if kind == "assay-backbone":
        from assay.models import backbone  # noqa: F401  (it registers itself with transformers)

        return
    if config.get("auto_map") and (trust_remote_code or kind in CAUSAL):
        return
    if config.get("auto_map") and kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{source.name!r} brings its own Python code, which has not been run; "
            "read that code, and add --trust-remote-code if you trust it"
        )
    if not isinstance(kind, str):
        raise ModelError(f"config.json of {source.name!r} names no model_type; give {WANTED}")
    if kind not in CONFIG_MAPPING:
        near = nearest(kind, CONFIG_MAPPING)
        raise ModelError(f"{source.name!r} is of type {kind!r}, unknown to transformers {__version__}{near}")
    if kind not in CAUSAL or not _looks_back_only(kind, config):
        raise ModelError(
            f"{source.name!r} is of type {kind!r}, not a causal language model; "
            "give a decoder that predicts the next token, such as gpt2 or builtin:attention"
        )


def _looks_back_only(kind: str, config: dict[str, Any]) -> bool:
    """False for encoder-decoders, and for BERT and its kin unless the config makes them decoders."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    default = CONFIG_MAPPING[kind]
    if config.get("is_encoder_decoder", getattr(default, "is_encoder_decoder", False)):
        return False
    return kind not in MASKED or bool(config.get("is_decoder", getattr(default, "is_decoder", True)))


def _builtin(name: str) -> str:
    if name not in BUILTINS:
        known = ", ".join(PREFIX + known for known in BUILTINS)
        raise ModelError(f"no built-in model {name!r}{nearest(name, BUILTINS, PREFIX)}; there are {known}")
    return name


def _local(name: str, folder: Path) -> Source:
    try:
        files = frozenset(file.name for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise ModelError(f"the folder of {name!r} cannot be read: {error.strerror}") from None
    return Source(name, str(folder), folder, files)


def _hub(name: str) -> Source:
    """Ask the hub once, without retries; where it cannot be reached, take what an earlier run left in the cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    near = nearest(name, BUILTINS, PREFIX) or nearest(name, _siblings(Path(name)))
    try:
        info = HfApi().model_info(name, timeout=10)
    except HFValidationError:
        raise ModelError(f"{name!r} is neither a folder nor a hub id (like 'gpt2' or 'org/name'){near}") from None
    except GatedRepoError:
        raise ModelError(_gated(name)) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"no folder and no hub model {name!r}{near}; check the spelling, or `hf auth login` if it is private"
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"the hub could not give {name!r}: {first_line(error)}; try again later") from None
    except Exception as error:  # the hub's HTTP library has its own families of connection errors
        cached = _cached(name)
        if cached is not None:
            return _local(name, cached)
        reason = "offline mode is on" if "offline mode" in str(error) else first_line(error)
        raise ModelError(
            f"no folder {name!r} here{near}, and huggingface.co cannot be reached ({reason}); give {WANTED}, "
            "or builtin:attention"
        ) from None
    return Source(name, name, None, frozenset(sibling.rfilename for sibling in info.siblings or []))


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _config_path(source: Source) -> str:
    if source.folder is not None:
        return str(source.folder / "config.json")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return str(hf_hub_download(source.location, "config.json"))
    except GatedRepoError:
        raise ModelError(_gated(source.name)) from None
    except Exception as error:
        raise ModelError(f"the hub could not give config.json of {source.name!r}: {first_line(error)}") from None


def _gated(name: str) -> str:
    return f"{name!r} is gated; ask for access at https://huggingface.co/{name}, then run `hf auth login`"


def _no_config(source: Source) -> str:
    if "adapter_config.json" in source.files:
        return f"{source.name!r} is an adapter (PEFT), not a model; merge it into its base model and give that folder"
    inside = sorted(source.folder.glob("*/config.json")) if source.folder else []
    hint = f"; did you mean {str(inside[-1].parent)!r}?" if inside else ""
    return f"{source.name!r} has no config.json{hint}; give {WANTED}"


def _siblings(path: Path) -> list[str]:
    try:
        return [folder.name for folder in path.parent.iterdir() if folder.is_dir()]
    except OSError:
        return []
