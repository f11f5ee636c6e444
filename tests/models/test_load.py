"""Opening models: what works, and one line for everything that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_gpt2
from transformers import BloomConfig, FalconConfig, GPT2Config, LlamaConfig, MambaConfig, MptConfig, T5Config
from transformers.utils import logging as transformers_logging

from assay import _errors
from assay.models import _memory, _source, load


@pytest.fixture
def folder(tiny_gpt2_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_gpt2_folder, tmp_path / "model"))


def refused(name: object, **options: Any) -> str:
    """The message with which the model is refused: one line."""
    with pytest.raises(_errors.AssayError) as caught:
        load.load(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_folder_is_opened_ready_to_be_measured(tiny_gpt2_folder: Path) -> None:
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    loaded = load.load(str(tiny_gpt2_folder), device="cpu")

    assert loaded.name == str(tiny_gpt2_folder)
    assert loaded.folder == tiny_gpt2_folder
    assert loaded.model.dtype == torch.float32
    assert loaded.model.config._attn_implementation == "eager"
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.tokenizer("the clock")["input_ids"]
    assert (level, bars) == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())


def test_loading_is_silent(tiny_gpt2_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load.load(str(tiny_gpt2_folder), device="cpu")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(tiny_gpt2_folder: Path, dtype: str) -> None:
    loaded = load.load(str(tiny_gpt2_folder), device="cpu", dtype=dtype)

    assert loaded.model.dtype == getattr(torch, dtype)


def test_unknown_builtin_names_the_nearest() -> None:
    assert "did you mean 'builtin:mamba'?" in refused("builtin:manba")
    assert "there are builtin:attention, builtin:mamba" in refused("builtin:rnn")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()

    assert "did you mean 'checkpoint'?" in refused(tmp_path / "chekpoint")
    assert "no folder at './nothing'" in refused("./nothing")
    assert "is neither a folder nor a hub id" in refused("two words")
    assert "no model is named" in refused(" ")


def test_a_file_instead_of_a_folder(tiny_gpt2_folder: Path) -> None:
    assert f"give the folder that it lies in, {str(tiny_gpt2_folder)!r}" in refused(tiny_gpt2_folder / "config.json")


def test_a_folder_without_config(tmp_path: Path, tiny_gpt2_folder: Path) -> None:
    assert "has no config.json; give a folder" in refused(tmp_path)

    shutil.copytree(tiny_gpt2_folder, tmp_path / "checkpoint-500")
    assert "checkpoint-500'?" in refused(tmp_path)

    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter (PEFT)" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a JSON object"),
        ("{}", "names no model_type"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_broken_config(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))

    assert message in refused(folder)


def test_an_unknown_architecture_names_the_nearest(folder: Path) -> None:
    change_config(folder, model_type="gpt22")

    assert "unknown to transformers" in refused(folder)
    assert "did you mean 'gpt2'?" in refused(folder)


def test_a_model_that_is_not_causal(tmp_path: Path, folder: Path) -> None:
    T5Config().save_pretrained(tmp_path / "t5")
    change_config(folder, model_type="bert", architectures=["BertForMaskedLM"])

    assert "of type 't5', not a causal language model" in refused(tmp_path / "t5")
    assert "of type 'bert', not a causal language model" in refused(folder)


def test_a_config_that_no_model_can_have(folder: Path) -> None:
    change_config(folder, n_head=5)

    assert "no model can be built from its config.json" in refused(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    assert "has no weights (*.safetensors)" in refused(folder)


def test_pickled_weights_need_a_flag(folder: Path) -> None:
    model = load.load(str(folder), device="cpu").model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert "--allow-pickle" in refused(folder)
    opened = load.load(str(folder), device="cpu", allow_pickle=True).model
    assert torch.equal(opened.transformer.wte.weight, model.transformer.wte.weight)


def test_a_pickle_that_would_run_code_is_refused_even_with_the_flag(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    torch.save({"wte": Bomb()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert "cannot be loaded" in refused(folder, allow_pickle=True)
    assert not (tmp_path / "exploded").exists()


def test_remote_code_needs_a_flag(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    change_config(
        folder, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    )

    assert "add --trust-remote-code" in refused(folder)


def test_truncated_and_foreign_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "the weights of" in refused(folder)

    weights.write_bytes(whole)
    change_config(folder, n_layer=3)
    assert "lack 12 of the model's tensors" in refused(folder)

    change_config(folder, n_layer=2, n_embd=64)
    assert "cannot be loaded" in refused(folder)


def test_without_a_tokenizer(tmp_path: Path) -> None:
    folder = make_gpt2(tmp_path / "bare", None)

    assert load.load(str(folder), device="cpu").tokenizer is None
    with pytest.raises(_errors.InputError, match=r"without a usable tokenizer; put its tokenizer.json"):
        load.load_tokenizer(str(folder))


def test_a_broken_tokenizer_counts_as_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{broken")

    with pytest.raises(_errors.InputError, match="without a usable tokenizer"):
        load.load_tokenizer(str(folder))


def test_devices(tiny_gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert "has no cuda" in refused(tiny_gpt2_folder, device="cuda")
    assert "did you mean 'cuda'?" in refused(tiny_gpt2_folder, device="cudaa")
    assert load.resolve_device("cpu") == torch.device("cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load.resolve_device("auto") == torch.device("cuda")
    assert load.resolve_device("cuda:0") == torch.device("cuda:0")
    assert "only 1 GPUs" in refused(tiny_gpt2_folder, device="cuda:1")


def test_an_unknown_dtype_names_the_nearest(tiny_gpt2_folder: Path) -> None:
    assert "did you mean 'bfloat16'?" in refused(tiny_gpt2_folder, dtype="bfloat17")


def test_a_model_that_does_not_fit_is_refused_before_it_is_allocated(folder: Path) -> None:
    change_config(folder, n_layer=96, n_head=96, n_embd=12288, vocab_size=50257, n_positions=2048)
    message = refused(folder, device="cpu")

    assert "needs about 7" in message
    assert "GB (weights 698 GB) in float32 for 2,048 tokens" in message
    assert "free on cpu" in message


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (8_000_000_000, None),
        (1_000_000_000, "; --max-tokens 512 would fit"),
        (430_000_000, "--dtype bfloat16 --max-tokens 256 would fit"),
        (1_000, "take a smaller model"),
    ],
)
def test_the_refusal_says_what_would_fit(monkeypatch: pytest.MonkeyPatch, free: int, advice: str | None) -> None:
    monkeypatch.setattr(_memory, "available_memory", lambda _: free)
    check = _memory.check_memory
    config, device = GPT2Config(n_positions=4096), torch.device("cpu")

    if advice is None:
        check("m", config, torch.float32, device, 2048)
        return
    with pytest.raises(_errors.ModelError, match=advice):
        check("m", config, torch.float32, device, 2048)


def test_the_estimate_counts_weights_operators_and_logits() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=300, n_positions=64)
    estimate = load.estimate_memory(config, torch.float32, 64)

    assert estimate.weights == 4 * (300 * 32 + 64 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32)
    assert estimate.operators == 2 * 64 * 64 * 12
    assert estimate.logits == 64 * 300 * 8
    assert load.estimate_memory(MambaConfig(num_hidden_layers=1), torch.float32, 64).operators > 0
    assert estimate.total == estimate.weights + estimate.operators + estimate.logits


def test_memory_is_never_more_than_the_machine_has() -> None:
    assert 0 < _memory.available_memory(torch.device("cpu")) < 1 << 50
    assert _memory.human_bytes(1_500_000) == "1.5 MB"
    assert _memory.human_bytes(350e9) == "350 GB"
    assert _memory.human_bytes(12) == "12 B"


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=77), 77),
        (LlamaConfig(max_position_embeddings=99), 99),
        (MptConfig(max_seq_len=55), 55),
        (FalconConfig(alibi=True), None),
        (BloomConfig(seq_length=2048), None),
        (MambaConfig(), None),
    ],
)
def test_max_positions(config: Any, limit: int | None) -> None:
    assert load.max_positions(SimpleNamespace(config=config)) == limit


def test_builtin_models_are_described_from_their_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mamba").mkdir()
    (tmp_path / "mamba" / "training.json").write_text('{"held_out_bits_per_byte": 1.5}')
    monkeypatch.setattr(load, "BUILTIN_FOLDER", tmp_path)

    assert load.builtin_models()["builtin:attention"] == "a small Llama-style decoder"
    assert "1.50 bits per byte" in load.builtin_models()["builtin:mamba"]


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    request = SimpleNamespace(headers={}, status_code=404, request=None)
    return errors.__dict__[kind]("said the hub\nat length", response=request)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: OSError("Name or service not known\nmore"), "huggingface.co cannot be reached (Name or service"),
        (lambda: ConnectionError("Cannot reach: offline mode is enabled"), "(offline mode is on)"),
        (lambda: hub_error("RepositoryNotFoundError"), "no folder and no hub model 'org/name'"),
        (lambda: hub_error("GatedRepoError"), "is gated; ask for access at https://huggingface.co/org/name"),
        (lambda: hub_error("HfHubHTTPError"), "the hub could not give 'org/name': said the hub"),
    ],
)
def test_the_hub_s_refusals(monkeypatch: pytest.MonkeyPatch, error: Any, message: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error()

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)

    assert message in refused("org/name")


def test_offline_takes_what_is_in_the_cache(tiny_gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    monkeypatch.setattr(_source, "_cached", lambda _: tiny_gpt2_folder)

    assert load.load("org/name", device="cpu").name == "org/name"
