"""The forward pass itself: which layers a model has, and what is said when one of them fails."""

import pytest
import torch
import transformers as tf

import assay
from assay.models.trace import MixerTrace, decoder_layers, trace

IDS = torch.arange(20)[None] + 3


def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(
        vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96))  # fmt: skip


def fail(*_: object) -> None:
    raise KeyError("no such thing\nand a second line")


def test_a_layer_that_fails_is_named() -> None:
    model = llama()
    handle = model.model.layers[1].mlp.act_fn.register_forward_pre_hook(fail)
    with pytest.raises(assay.ModelError, match=r"the model fails in layer 1 \(LlamaDecoderLayer\): KeyError") as caught:
        trace(model, IDS)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "\n" not in str(caught.value)

    # nothing is left behind: without the fault the model is as good as new
    handle.remove()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert trace(model, IDS).mixers[1].fidelity < 1e-6


def test_a_failure_inside_a_mixer_is_the_layers() -> None:
    model = llama()
    model.model.layers[0].self_attn.o_proj = torch.nn.Linear(3, 64)
    with pytest.raises(assay.ModelError, match=r"in layer 0 \(LlamaDecoderLayer\): RuntimeError: mat1 and mat2"):
        trace(model, IDS)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_failure_outside_the_layers_is_not_blamed_on_one() -> None:
    model = llama()
    model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(assay.ModelError, match="the model fails outside its layers: KeyError"):
        trace(model, IDS)


def test_a_consumers_own_failure_is_not_the_models() -> None:
    """The control: what `on_mixer` or `on_hidden_states` raises is passed on as it is, also inside a layer."""

    def consume(_: MixerTrace) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trace(llama(), IDS, on_mixer=consume)
    with pytest.raises(KeyError):
        trace(llama(), IDS, on_hidden_states=fail)


def test_layers_in_parallel_lists() -> None:
    """XLM keeps attention, norm, feed-forward and norm in a list each; a layer is one of each."""
    torch.manual_seed(0)
    config = tf.XLMConfig(vocab_size=128, emb_dim=64, n_layers=3, n_heads=4, causal=True, max_position_embeddings=64)
    model = tf.XLMWithLMHeadModel(config).eval()

    layers = decoder_layers(model)
    assert [[type(part).__name__ for part in layer] for layer in layers] == [
        ["MultiHeadAttention", "LayerNorm", "TransformerFFN", "LayerNorm"]
    ] * 3
    found = trace(model, IDS)
    assert [mixer.layer for mixer in found.mixers] == [0, 1, 2]
    expected = model(IDS, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(found.hidden_states, expected, strict=True))

    model.transformer.ffns[1].lin1.register_forward_pre_hook(fail)
    with pytest.raises(assay.ModelError, match="fails in layer 1"):
        trace(model, IDS)
