"""Every third architecture of transformers is measured to 1e-5 or stands here with its reason, and the table tells."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.utils import logging

from assay._errors import InputError, ModelError
from assay.models import _tiny, coverage
from assay.models._tiny import architectures, tiny_config, tiny_input, tiny_model
from assay.models.adapters import MixerCall, Reading, adapter, adapter_for
from assay.models.adapters._registry import _REGISTRY
from assay.models.coverage import TARGET, Row, measure_architecture, print_table, summary, to_markdown

THIRD = architectures()[::3]
NOT_BUILT = "cannot be built: "
EXPECTED = {
    "gemma3n": NOT_BUILT + "needs the timm package",
    "gemma4_assistant": NOT_BUILT + "hidden_size_per_layer_input must be 0, got 256",
    "gemma4_unified_assistant": NOT_BUILT
    + "The set of layer types producing a cache is different than the set of layer types using them",
    "hrm_text": "ran outside the decoder layers: HrmTextAttention",
    "prophetnet": "not supported: ProphetNetNgramSelfAttention "
    "(copies of the sequence that predict n-grams run beside it)",
}
"""Architectures of the third that are not measured in full, with the reason in their row."""


@pytest.mark.parametrize("name", [name for name in THIRD if name != "gemma3n" or not find_spec("timm")])
def test_an_architecture_is_measured_or_listed_with_its_reason(name: str) -> None:
    row = measure_architecture(name)

    reason = row.reason.replace("needs the PIL package", "needs the timm package")  # it needs both
    assert reason == EXPECTED.get(name, "")
    assert row.reached == (name not in EXPECTED)
    if row.reached:
        assert row.measured == row.layers > 0
        assert 0 < row.fidelity <= TARGET
        assert all(mixer.endswith(")") for mixer in row.mixers)


def test_no_exception_is_stale() -> None:
    assert set(EXPECTED) <= set(THIRD)


KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "attention_layers")


@pytest.mark.parametrize("name", sorted(set(architectures()) - {"gemma4_assistant"}))  # its default config is invalid
def test_a_tiny_config_keeps_every_kind_of_layer(name: str) -> None:
    with coverage._quiet():
        full, tiny = (config.get_text_config(decoder=True) for config in (CONFIG_MAPPING[name](), tiny_config(name)))

    for kind in KINDS:
        if getattr(full, kind, None):
            assert set(getattr(full, kind)) <= set(getattr(tiny, kind)), kind


@pytest.mark.parametrize(
    "name", ["jamba", "bamba", "lfm2", "granitemoehybrid", "recurrent_gemma", "zamba2", "qwen3_next"]
)
def test_hybrids_keep_both_kinds_of_mixer(name: str) -> None:
    kinds = {mixer.partition("(")[2] for mixer in measure_architecture(name).mixers}

    assert "attention)" in kinds
    assert len(kinds) > 1


def test_windows_are_shorter_than_the_input() -> None:
    """So that a sliding window shows; full attention is the control."""
    row = [bool(m.reading.operator.to_dense()[..., -1, 0].any()) for m in _mixers("gemma2") if m.reading]

    assert row == [False, True]


def _mixers(name: str) -> list[Any]:
    from assay.models.trace import trace

    return trace(tiny_model(name), tiny_input()).mixers


@pytest.fixture
def register() -> Iterator[Callable[..., Any]]:
    """Adapters that a test registers are gone after it."""
    before = list(_REGISTRY)
    yield adapter
    _REGISTRY[:] = before


def _spoil(register: Callable[..., Any], name: str, change: Callable[[Reading], Reading]) -> None:
    """From now on, every reading of this class of mixer is changed."""
    probe = type(name, (nn.Module,), {})()
    own = adapter_for(probe)
    assert own is not None

    @register(name)
    def read(call: MixerCall) -> Reading:
        return change(own.read(call))


def test_a_wrong_operator_is_found_out_and_float64_does_not_excuse_it(register: Callable[..., Any]) -> None:
    _spoil(register, "LlamaAttention", lambda r: replace(r, values=r.values.roll(1, 2)))
    row = measure_architecture("llama")

    assert not row.reached
    assert (row.measured, row.layers) == (0, 2)
    assert row.reason.startswith("fidelity ")
    assert row.fidelity64 == pytest.approx(row.fidelity, rel=1e-3)
    assert "float64" in to_markdown([row])


def test_a_small_mistake_is_measured_but_does_not_reach_the_target(register: Callable[..., Any]) -> None:
    _spoil(register, "LlamaAttention", lambda r: replace(r, values=r.values * 1.0001))
    row = measure_architecture("llama")

    assert not row.reached
    assert (row.measured, row.layers, row.reason) == (2, 2, "")
    assert row.fidelity64 == pytest.approx(1e-4, rel=1e-3)


def test_rounding_shrinks_in_float64(register: Callable[..., Any]) -> None:
    def coarse(reading: Reading) -> Reading:
        if reading.output.dtype == torch.float64:
            return reading
        return replace(reading, values=reading.values.half().float())

    _spoil(register, "LlamaAttention", coarse)
    row = measure_architecture("llama")

    assert TARGET < row.fidelity < 1e-3
    assert row.fidelity64 is not None
    assert row.fidelity64 < 1e-12


def test_an_output_of_zero_is_no_success(register: Callable[..., Any]) -> None:
    def nothing(reading: Reading) -> Reading:
        return replace(reading, values=torch.zeros_like(reading.values), output=torch.zeros_like(reading.output))

    _spoil(register, "LlamaAttention", nothing)

    assert measure_architecture("llama").reason == "LlamaAttention: its output is zero"


def test_mixers_outside_the_decoder_layers_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    model.model.norm = nn.Sequential(tiny_model("llama").model.layers[0].self_attn, model.model.norm)
    model.model.norm[0].forward = lambda x: x
    monkeypatch.setattr(coverage, "tiny_model", lambda _: model)

    assert measure_architecture("llama").reason == "ran outside the decoder layers: LlamaAttention"


def test_a_model_that_hangs_does_not_stop_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(coverage, "TIME_LIMIT", 0.2)
    monkeypatch.setattr(coverage, "tiny_model", lambda _: time.sleep(30))

    assert measure_architecture("llama").reason == "cannot be built: took longer than 0 s"
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_model_that_crashes_does_not_stop_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str) -> nn.Module:
        if name == "mamba":
            raise ImportError("MambaModel requires the mamba-ssm library but it was not found in your environment.")
        model = tiny_model(name)
        if name == "gpt2":
            model.transformer.h[1].forward = None
        return model

    monkeypatch.setattr(coverage, "tiny_model", build)
    told: list[tuple[float, str]] = []
    rows = coverage.coverage(["mamba", "gpt2", "llama", "llama"], progress=lambda *words: told.append(words))

    assert rows[0].reason == "cannot be built: needs the mamba-ssm package"
    assert "NoneType" in rows[1].reason
    assert rows[2].reached
    assert told == [(0, "mamba"), (1 / 3, "gpt2"), (2 / 3, "llama")]


def test_a_model_that_is_too_large_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiny, "MAX_PARAMETERS", 1000)

    with pytest.raises(ModelError, match=r"too large: \d\d,\d{3} parameters, of 1,000 at most"):
        tiny_model("llama")


def test_names_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"no causal language model 'lama' .*did you mean 'llama'"):
        coverage.coverage(["llama", "lama"])
    with pytest.raises(InputError, match="no causal language model 'resnet'"):
        tiny_config("resnet")


def test_the_same_model_and_nothing_else_changed() -> None:
    verbosity, state = logging.get_verbosity(), torch.get_rng_state()
    one, again, other = (tiny_model("llama", seed=seed) for seed in (0, 0, 1))

    weights = [next(model.parameters()) for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(tiny_input(), tiny_input())
    assert measure_architecture("reformer") == measure_architecture("reformer")  # its hashes are random
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.get_verbosity() == verbosity


def test_no_parameter_is_left_constant() -> None:
    constant = nn.Linear(4, 4)
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, 5.0)
    drawn = nn.Linear(4, 4, bias=False)
    before = drawn.weight.clone()
    _tiny._wake(nn.ModuleList([constant, drawn]))

    assert 0.02 < constant.weight.std() < 0.5
    assert 3 < constant.bias.mean() < 7
    assert constant.bias.std() > 0
    assert torch.equal(drawn.weight, before)


def test_the_table() -> None:
    rows = [
        Row("good", ("A (attention)", "B (recurrence)"), 2, 2, 4.2e-8),
        Row("half", ("C (attention)", "D"), 1, 2, 3e-5, 2e-15, "not supported: D [red]|x"),
        Row("bad", reason="cannot be built: needs the timm package"),
    ]
    page = to_markdown(rows)
    stream = StringIO()
    print_table(rows, Console(file=stream, width=100))

    assert "| `good` | `A` (attention), `B` (recurrence) | 2/2 | 4e-08 |  |\n" in page
    assert "| `half` | `C` (attention), `D` | 1/2 | 3e-05 (float64: 2e-15) | not supported: D [red]\\|x |\n" in page
    assert "| `bad` |  | - | - | cannot be built: needs the timm package |\n" in page
    assert summary(rows).startswith("1 of 3 architectures are measured in full")
    assert "1 are measured in part or not at all; 1 could not be built or run." in summary(rows)
    assert "not supported: D [red]|x" in stream.getvalue()
    assert summary(rows).split(".")[0] in stream.getvalue()
    assert math.isnan(rows[2].fidelity)
