"""Softmax attention that the general reading does not cover: differences, experts, rotated and compressed keys."""

import pytest
import torch
import transformers as tf
from test_adapters import CONFIGS, deepseek_v4

import assay
from assay.models.adapters._registry import _REGISTRY
from assay.models.adapters.softmax import read_softmax
from assay.models.trace import trace

IDS = torch.arange(20)[None] + 3


def tiny(config: tf.PreTrainedConfig) -> torch.nn.Module:
    """With noise on parameters that start as constants, such as sinks."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def test_differential_attention_is_the_difference_of_two_maps() -> None:
    """Differential Transformer, equations 1 and 2: heads h and h + H / 2 make one operator."""
    model = tiny(CONFIGS["diffllama"]())
    for layer in model.model.layers:
        layer.self_attn.lambda_q1.data *= 3
    maps = model(IDS, output_attentions=True).attentions
    for index, mixer in enumerate(trace(model, IDS).mixers):
        attention = model.model.layers[index].self_attn
        exponents = [torch.dot(getattr(attention, f"lambda_q{n}"), getattr(attention, f"lambda_k{n}")) for n in (1, 2)]
        factor = exponents[0].exp() - exponents[1].exp() + 0.8 - 0.6 * torch.exp(torch.tensor(-0.3 * index))
        T = mixer.reading.operator.to_dense()
        assert T.shape == (1, 2, 20, 20)
        assert torch.allclose(T, maps[index][:, :2] - factor * maps[index][:, 2:], atol=1e-6)
        assert mixer.reading.values.shape[-1] == 2 * attention.head_dim
        assert mixer.reading.kind != "attention"  # entries are negative: entropy means nothing


def test_the_output_of_attention_experts_is_put_back_in_order() -> None:
    model = tiny(CONFIGS["jetmoe"]())
    mixers = trace(model, IDS).mixers
    assert all(mixer.fidelity < 1e-6 for mixer in mixers)
    assert mixers[0].reading.operator.batch_shape == (1, 4)

    assay.adapter("JetMoeAttention")(read_softmax)  # the control: as the output stands, sorted by expert
    try:
        wrong = trace(model, IDS).mixers
    finally:
        _REGISTRY.pop()
    assert all("does not explain the output" in mixer.reason for mixer in wrong)


def test_a_rotation_behind_attention_is_taken_back() -> None:
    model = tiny(deepseek_v4(["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]))
    sliding, sparse, heavy = trace(model, IDS).mixers
    assert sliding.fidelity < 1e-6
    assert sliding.reading.operator.state_size([15]).tolist() == [8]
    assert "attends to 5 compressed keys besides 20 tokens" in sparse.reason
    assert "attends to 1 compressed keys besides 20 tokens" in heavy.reason
    # a text that is too short to be compressed
    mixers = trace(model, IDS[:, :3]).mixers
    assert [mixer.fidelity < 1e-6 for mixer in mixers] == [True] * 3


@pytest.mark.parametrize("config", [
    tf.CpmAntConfig(vocab_size=128, hidden_size=64, num_attention_heads=4, dim_head=16, dim_ff=96, num_hidden_layers=2),
    tf.XLMConfig(vocab_size=128, emb_dim=64, n_layers=2, n_heads=4),
], ids=["cpmant", "xlm as an encoder"])  # fmt: skip
def test_attention_to_the_future_is_refused_in_one_line(config: tf.PreTrainedConfig) -> None:
    for mixer in trace(tiny(config), IDS).mixers:
        assert mixer.reading is None
        assert mixer.reason == f"{mixer.mixer}: matrix is not causal: it has entries above the diagonal"


def test_what_is_not_read_says_why() -> None:
    config = tf.XLNetConfig(vocab_size=128, d_model=64, n_layer=2, n_head=4, d_inner=96)
    for mixer in trace(tiny(config), IDS).mixers:
        assert mixer.reason == "not supported: XLNetRelativeAttention (it attends to later tokens)"


DOUBLE = ["llama", "lfm2", "lfm3", "diffllama", "jetmoe", "deepseek_v2 (latent attention)",
          "deepseek_v32 (indexed attention)", "longcat_flash (two mixers a layer)"]  # fmt: skip


@pytest.mark.parametrize("family", DOUBLE)
def test_what_is_left_in_float32_is_rounding(family: str) -> None:
    """The same in float64: a mistake would stay."""
    model = tiny(CONFIGS[family]()).double()
    model.config._experts_implementation = "eager"  # the grouped product of experts has no float64
    for mixer in trace(model, IDS).mixers:
        assert mixer.fidelity < 1e-9
