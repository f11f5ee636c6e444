"""`assay.measure` end to end: its tables against numbers computed here in another way."""

import importlib
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from conftest import TEXT, make_tokenizer

import assay
from assay.models.cache import cache_sizes
from assay.models.text import tokenise
from assay.models.trace import trace
from assay.report.schema import TABLES

SIZE = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            bos_token_id=0, eos_token_id=0, pad_token_id=0)  # fmt: skip


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = tf.LlamaConfig(**SIZE | dict(num_key_value_heads=2, max_position_embeddings=64) | changes)
    return tf.LlamaForCausalLM(config).eval()


def mamba() -> Any:
    torch.manual_seed(0)
    config = tf.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, bos_token_id=0, eos_token_id=0)
    return tf.MambaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def report(tokenizer: Any) -> assay.Report:
    """Two windows of 64 tokens, every position."""
    return assay.measure(llama(), TEXT, tokenizer, max_tokens=128, positions="all", text_name="tortoise")


def test_every_table_has_its_columns_and_its_rows(report: assay.Report) -> None:
    layers, heads, tokens, windows = 2, 4, 128, 2
    for name, columns in TABLES.items():
        assert list(getattr(report, name).columns) == list(columns)
    assert len(report.state_size) == layers * heads * (tokens - windows)
    assert len(report.attention) == layers * heads * tokens
    assert len(report.heads) == layers * heads
    assert len(report.geometry) == layers + 1
    assert len(report.tokens) == len(report.memory) == len(report.uncertainty) == tokens
    assert len(report.recall) == tokens - 2 * windows
    assert report.meta["num_windows"] == 2
    assert "2 separate windows" in report.meta["warnings"][0]
    assert report.meta["text"] == "tortoise"


def test_state_size_is_that_of_the_blocks_of_attention(report: assay.Report, tokenizer: Any) -> None:
    """Layer 1, head 2, second window, position 20: numpy's SVD of the weights that transformers returns."""
    ids = tokenise(TEXT, tokenizer, max_tokens=128, window_length=64).ids[64:128]
    model = llama()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(torch.tensor([ids]), output_attentions=True).attentions[1][0, 2].double().numpy()
    sigma = np.linalg.svd(weights[20:, :20], compute_uv=False)
    p = sigma / sigma.sum()
    rows = report.state_size
    row = rows[(rows["layer"] == 1) & (rows["head"] == 2) & (rows["token"] == 84)].iloc[0]

    assert row["position"] == 20
    assert row["entropy_ess"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert row["tolerance_ess"] == (sigma > 1e-3).sum()
    assert row["tss"] == 20
    assert row["utilisation"] == pytest.approx(row["entropy_ess"] / 20)


def test_summaries_are_means_of_the_tables(report: assay.Report) -> None:
    by_head = report.state_size.groupby(["layer", "head"])
    heads = report.heads.set_index(["layer", "head"])
    assert np.allclose(heads["entropy_ess"], by_head["entropy_ess"].mean())
    assert np.allclose(heads["tolerance_ess"], by_head["tolerance_ess"].mean())

    floats = report.state_size.groupby("token")["entropy_ess"].sum() * 8  # head_dim
    memory = report.memory.set_index("token")["ess_floats"]
    assert np.allclose(memory.loc[floats.index], floats)
    assert np.allclose(report.memory["ess_bytes"], 4 * report.memory["ess_floats"])
    assert report.layers["ess_floats"].sum() == pytest.approx(floats.mean())


def test_the_cache_is_what_the_model_allocates(report: assay.Report) -> None:
    """2 layers, keys and values, 2 heads of 8, for each token seen."""
    assert report.memory["cache_floats"].iloc[:4].tolist() == [0, 64, 2 * 64, 3 * 64]
    windowed = tf.MistralForCausalLM(tf.MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=6)).eval()
    ids = torch.arange(4)[None] + 1
    sizes = cache_sizes(windowed, ids)
    assert sizes is not None
    assert sizes[0].floats(7).tolist() == [0, 32, 64, 96, 128, 160, 160]  # a window of 6 keeps 5 past tokens
    state = cache_sizes(mamba(), ids)
    assert state is not None
    assert state[0].floats(3).tolist() == [0, 64 * 16 + 64 * 4, 64 * 16 + 64 * 4]  # state and short convolution


def test_surprisal_and_bits_per_byte_are_those_of_the_model(report: assay.Report, tokenizer: Any) -> None:
    tokens = tokenise(TEXT, tokenizer, max_tokens=128, window_length=64)
    ids = torch.tensor([tokens.ids[:64], tokens.ids[64:]])
    with torch.no_grad():
        log_p = llama()(ids).logits.log_softmax(-1)
    bits = -log_p[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] / np.log(2)
    found = report.uncertainty["surprisal"].to_numpy().reshape(2, 64)
    size = tokens.num_bytes.reshape(2, 64)[:, 1:].sum()

    assert np.isnan(found[:, 0]).all()
    assert np.allclose(found[:, 1:], bits, atol=1e-4)
    assert report.meta["summary"]["bits_per_byte"] == pytest.approx(float(bits.sum()) / size, rel=1e-5)


def test_the_same_measurement_twice_gives_the_same_numbers(report: assay.Report, tokenizer: Any) -> None:
    again = assay.measure(llama(), TEXT, tokenizer, max_tokens=128, positions="all", text_name="tortoise")
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(report, name), getattr(again, name))
    assert report.findings == again.findings


def test_json_and_disk_keep_everything(report: assay.Report, tmp_path: Any) -> None:
    page = report.save(tmp_path / "out")
    loaded = assay.Report.load(tmp_path / "out")

    assert page.read_text(encoding="utf-8") == report.to_html()
    assert json.loads(report.to_json())["meta"] == loaded.meta
    assert loaded.findings == report.findings
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(report, name), check_dtype=False, rtol=1e-6)
    assert "srcdoc" in report._repr_html_()
    with pytest.raises(assay.OutputError, match="not empty"):
        report.save(tmp_path / "out")
    report.save(tmp_path / "out", force=True)
    with pytest.raises(assay.InputError, match="no report at"):
        assay.Report.load(tmp_path / "nothing")


def test_a_recurrent_model_in_groups_of_channels(tokenizer: Any) -> None:
    """64 channels with an operator each become 16 groups; the groups' means are the channels' means."""
    model = mamba()
    report = assay.measure(model, TEXT, tokenizer, max_tokens=40, positions="all")
    ids = torch.tensor([tokenise(TEXT, tokenizer, max_tokens=40).ids])
    operator = trace(model, ids).mixers[0].reading.operator
    sigma = operator.to_dense()[0, 4:8].double()
    expected = [_entropy_ess(sigma[c, 10:, :10].numpy()) for c in range(4)]
    rows = report.state_size
    row = rows[(rows["layer"] == 0) & (rows["head"] == 1) & (rows["position"] == 10)].iloc[0]

    assert report.heads.groupby("layer").size().tolist() == [16, 16]
    assert row["entropy_ess"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert report.attention.empty
    assert report.heads["regime"].eq("").all()
    assert report.layers["num_channels"].tolist() == [64, 64]


def _entropy_ess(block: np.ndarray) -> float:
    sigma = np.linalg.svd(block, compute_uv=False)
    p = sigma / sigma.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def test_a_hybrid_model_shows_both_kinds(tokenizer: Any) -> None:
    config = tf.JambaConfig(**SIZE, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2)
    torch.manual_seed(0)
    report = assay.measure(tf.JambaForCausalLM(config).eval(), TEXT, tokenizer, max_tokens=32)
    assert report.layers["kind"].tolist() == ["recurrence", "attention"]
    assert report.layers["measured"].all()
    assert set(report.attention["layer"]) == {1}


def test_what_is_not_supported_is_said_and_the_rest_measured(tokenizer: Any) -> None:
    class Pool(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(32, 32)

        def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
            return self.proj(hidden_states.cumsum(1)), None

    model = llama()
    model.model.layers[0].self_attn = Pool()
    report = assay.measure(model, TEXT, tokenizer, max_tokens=64)

    assert report.layers["measured"].tolist() == [False, True]
    assert report.layers["reason"].tolist() == ["not supported: Pool", ""]
    assert set(report.heads["layer"]) == {1}
    assert report.findings[0].text == "1 of 2 mixers were not measured: not supported: Pool."
    assert "these layers carry" in report.findings[1].text


def test_a_layer_that_fails_later_leaves_no_rows(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in the first window, not converging in the second: not measured at all."""
    module = importlib.import_module("assay._collect")
    real, calls = module.state_size_profile, []

    def fails_at_the_third(operator: Any, **options: Any) -> Any:
        calls.append(1)
        profile = real(operator, **options)
        if len(calls) == 3:
            profile.entropy_ess[..., 0] = torch.nan
        return profile

    monkeypatch.setattr(module, "state_size_profile", fails_at_the_third)
    report = assay.measure(llama(), TEXT, tokenizer, max_tokens=128)

    assert report.layers["measured"].tolist() == [False, True]
    assert "converged" in report.layers["reason"][0]
    assert set(report.state_size["layer"]) == set(report.heads["layer"]) == {1}


class Twice(torch.nn.Module):
    """Runs a block twice in a pass, and hands on two streams."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.block(self.block(hidden_states, **options), **options)


def test_a_layer_that_runs_twice_is_measured_the_first_time(tokenizer: Any) -> None:
    plain = assay.measure(llama(), TEXT, tokenizer, max_tokens=128, positions=9)
    model = llama()
    model.model.layers[1] = Twice(model.model.layers[1])
    report = assay.measure(model, TEXT, tokenizer, max_tokens=128, positions=9)

    assert report.layers["measured"].all()
    assert len(report.state_size) == len(plain.state_size)
    assert np.allclose(report.heads["entropy_ess"], plain.heads["entropy_ess"])


def test_states_of_several_streams_are_taken_side_by_side(tokenizer: Any) -> None:
    """As models with hyper-connections carry them, (B, L, S, D) between the layers."""
    model = llama()
    model.model.layers[0].register_forward_hook(lambda _, __, out: torch.stack([out, out], 2))
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0][:, :, 0], *args[1:]))
    report = assay.measure(model, TEXT, tokenizer, max_tokens=40)
    assert report.geometry["dimension"].tolist() == [32, 64, 32]


def test_a_cache_that_cannot_be_told_apart_by_layer_is_missing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("assay._measure")
    real = module.cache_sizes
    monkeypatch.setattr(module, "cache_sizes", lambda *arguments: real(*arguments)[:1])
    report = assay.measure(llama(), TEXT, tokenizer, max_tokens=40)
    assert report.memory["cache_floats"].isna().all()
    assert report.layers["measured"].all()


def test_a_model_in_use_is_left_as_it_was(tokenizer: Any) -> None:
    model = llama().train()
    model.set_attn_implementation("sdpa")
    assay.measure(model, TEXT, tokenizer, max_tokens=32)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_delimiters_of_the_user_and_the_text(report: assay.Report, tokenizer: Any) -> None:
    kinds = report.tokens["delimiter"].value_counts()
    assert kinds["paragraph"] >= 2
    assert kinds["sentence"] >= 2
    marked = assay.measure(llama(), TEXT, tokenizer, max_tokens=128, delimiters=[";"])
    assert (marked.tokens.loc[marked.tokens["delimiter"] == "user", "text"].str.contains(";")).all()
    assert (marked.tokens["delimiter"] == "user").any()


def test_half_precision_is_measured_with_a_warning(tokenizer: Any) -> None:
    report = assay.measure(llama().bfloat16(), TEXT, tokenizer, max_tokens=32)
    assert report.layers["measured"].all()
    assert report.layers["fidelity"].between(1e-5, 3e-2).all()
    assert any("rounding" in warning for warning in report.meta["warnings"])
    assert report.memory["ess_bytes"].iloc[5] == pytest.approx(2 * report.memory["ess_floats"].iloc[5])


def test_adaptive_and_strided_positions(report: assay.Report, tokenizer: Any) -> None:
    adaptive = assay.measure(llama(), TEXT, tokenizer, max_tokens=128)
    assert len(adaptive.state_size) < len(report.state_size)
    assert np.allclose(adaptive.heads["entropy_ess"], report.heads["entropy_ess"], rtol=0.02)
    strided = assay.measure(llama(), TEXT, tokenizer, max_tokens=64, positions=30)
    assert {1, 31, 61} <= set(strided.state_size["position"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "some"}, "positions is 'some'; expected 'adaptive', 'all' or a number"),
        ({"positions": 0}, "positions is 0"),
        ({"tolerance": 0}, "tolerance is 0; expected a number above 0"),
        ({"max_tokens": 3}, "max_tokens is 3; expected at least 16"),
        ({"seed": -1}, "seed is -1"),
        ({"layers": [7]}, "layer 7 is not in the model; expected 0 to 1"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_bad_arguments_are_named(tokenizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(assay.InputError, match=message):
        assay.measure(llama(), TEXT, tokenizer, **options)


def test_a_loaded_model_without_tokenizer_says_what_to_pass() -> None:
    with pytest.raises(assay.InputError, match="needs its tokenizer"):
        assay.measure(llama(), TEXT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("make", [llama, mamba])
def test_a_gpu_gives_the_same_numbers(tokenizer: Any, make: Any) -> None:
    here = assay.measure(make(), TEXT, tokenizer, max_tokens=64, positions="all")
    there = assay.measure(make().cuda(), TEXT, tokenizer, max_tokens=64, positions="all")
    assert np.allclose(here.heads["entropy_ess"], there.heads["entropy_ess"], rtol=1e-3)


def test_the_public_names_are_those_that_are_listed() -> None:
    for name in assay.__all__:
        assert getattr(assay, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = assay.nothing
