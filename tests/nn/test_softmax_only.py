"""The parts of a softmax-only model: the fused FFN, and stripping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay._errors import InputError
from assay.models.backbone import Backbone, BackboneConfig
from assay.nn.scaled_fused_ffn import ScaledFusedFFN
from assay.nn.strip import strip_nonlinearities


def test_the_fused_layer_is_the_ffn_without_its_activation() -> None:
    torch.manual_seed(0)
    up, down, x = nn.Linear(6, 24, bias=False), nn.Linear(24, 6, bias=False), torch.randn(2, 5, 6)
    fused = ScaledFusedFFN.fused(up, down)
    torch.testing.assert_close(fused(x), x + down(up(x)))
    assert not torch.allclose(fused(x), x + down(torch.relu(up(x))))  # with one it would not be valid
    with torch.no_grad():
        fused.alpha.fill_(4.0)
        fused.beta.fill_(0.5)
    torch.testing.assert_close(fused(x), x / 2 + down(up(x)) / 4)


def test_fusing_layers_with_a_bias() -> None:
    with pytest.raises(InputError, match="has a bias"):
        ScaledFusedFFN.fused(nn.Linear(3, 4), nn.Linear(4, 3, bias=False))


def test_a_model_of_transformers_is_stripped() -> None:
    """Against the same model with the activation in its config, and norms whose statistics and scales do nothing."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 20, "n_positions": 8}
    model, relu = (GPT2LMHeadModel(GPT2Config(**sizes, activation_function=f)).eval() for f in ("gelu_new", "relu"))
    relu.load_state_dict(model.state_dict())
    ids = torch.arange(6)[None]
    before = model(ids).logits

    names = strip_nonlinearities(model, norms=False, activation=nn.ReLU)
    assert names == ["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"]
    torch.testing.assert_close(model(ids).logits, relu(ids).logits)
    assert not torch.allclose(before, relu(ids).logits)

    norms = strip_nonlinearities(model)
    assert len(norms) == 5
    assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
    x = torch.randn(1, 3, 8)
    block = model.transformer.h[0]
    attended = x + block.attn(x)[0]
    torch.testing.assert_close(block(x)[0] if isinstance(block(x), tuple) else block(x), attended + block.mlp(attended))


def test_a_backbone_is_stripped_of_its_norms() -> None:
    model = Backbone(BackboneConfig("attention*2", 20, 16))
    assert strip_nonlinearities(model) == [
        "layers.0.mixer_norm", "layers.0.mlp_norm", "layers.1.mixer_norm", "layers.1.mlp_norm", "norm",
    ]  # fmt: skip
    assert strip_nonlinearities(model) == []
    assert torch.isfinite(model(torch.arange(5)[None]).logits).all()
