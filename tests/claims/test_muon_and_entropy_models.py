"""The models of two studies are what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.data import random_windows
from assay.studies.memory import _entropy_text, _muon_text
from assay.studies.memory._entropy_penalty import causal_softmax
from assay.studies.memory._muon_matrices import AssociativeMemory, make_optimizer


@pytest.mark.parametrize("mixer", ["latent-attention", "latent-attention without positions"])
def test_without_its_rotary_key_latent_attention_knows_no_order(mixer: str) -> None:
    """One layer: the last token's logits are the same whatever the order of the tokens before."""
    torch.manual_seed(0)
    model = _muon_text.build(mixer=mixer, balance=None, vocabulary=20, width=32, layers=1).double().eval()
    with torch.no_grad():
        one, other = (model(torch.tensor([ids])).logits[0, -1] for ids in ([1, 2, 3, 4, 5], [4, 2, 1, 3, 5]))
    assert torch.allclose(one, other) is mixer.endswith("without positions")


def test_experts_stand_where_the_mlp_stood_with_a_token_s_work_alike() -> None:
    torch.manual_seed(0)
    dense = _muon_text.build(mixer="attention", balance=None, vocabulary=20, width=64, layers=2)
    sparse = _muon_text.build(mixer="attention", balance="loss", vocabulary=20, width=64, layers=2)
    experts = [module for module in sparse.modules() if isinstance(module, _muon_text.Experts)]
    assert len(experts) == 2
    used = 3 * sum(p.numel() for p in experts[0].moe.experts[0].parameters())
    mlp = sum(p.numel() for name, p in dense.layers[0].named_parameters() if name.startswith("mlp."))
    assert used == pytest.approx(mlp, rel=0.01)

    batch = random_windows(
        torch.arange(200) % 20, 4, seq_len=8, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    total = _muon_text.loss_with_balance(sparse, batch)
    assert (total - _muon_text.token_loss(sparse, batch)).item() == pytest.approx(
        sum(module.balance_loss.item() for module in experts), abs=1e-6
    )
    assert all(module.load.sum().item() == pytest.approx(1) for module in experts)


def test_the_associative_memory_is_what_it_says_and_learns() -> None:
    torch.manual_seed(0)
    model = AssociativeMemory(96, 48, 8.0)
    everything = torch.arange(96)
    hidden = torch.tanh(model.first.weight @ model.keys[3])
    torch.testing.assert_close(model(everything)[3], 8 * model.values @ (model.second.weight @ hidden))
    start = nn.functional.cross_entropy(model(everything), everything)
    optimizer = make_optimizer("Muon", list(model.parameters()), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(everything), everything).backward()
        optimizer.step()
    assert nn.functional.cross_entropy(model(everything), everything) < 0.3 * start


@pytest.mark.parametrize(
    ("variant", "norms", "activation"),
    [("SM+LN+G", 5, nn.GELU), ("SM+LN+R", 5, nn.ReLU), ("SM+G", 0, nn.GELU), ("SM+R", 0, nn.ReLU), ("SM", 0, None)],
)
def test_variants_have_what_their_codes_say(variant: str, norms: int, activation: type[nn.Module] | None) -> None:
    model = _entropy_text.build(variant, 20, width=16, layers=2, heads=2, temperature=1.0)
    assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == norms
    found = {type(module) for module in model.modules() if isinstance(module, nn.GELU | nn.ReLU)}
    assert found == ({activation} if activation else set())


def test_the_softmax_only_model_is_linear_but_for_its_attention() -> None:
    torch.manual_seed(0)
    model = _entropy_text.build("SM(t)+ScFuFFN", 20, width=16, layers=2, heads=2, temperature=0.5).double()
    block = model.blocks[0]
    assert sum(p.numel() for p in block.ffn.parameters()) == 16**2 + 2
    torch.testing.assert_close(block.attention.temperature, torch.full((2, 1), 0.5, dtype=torch.float64))
    x = torch.randn(1, 1, 16, dtype=torch.float64)  # one token attends to itself: softmax is 1
    torch.testing.assert_close(block(3 * x)[0], 3 * block(x)[0])


def test_attention_that_is_handed_out_is_causal() -> None:
    torch.manual_seed(0)
    for variant in ("SM+LN+G", "SM(t)+ScFuFFN"):
        model = _entropy_text.build(variant, 20, width=16, layers=2, heads=2, temperature=1.0)
        output = model(torch.arange(8)[None])
        assert output.logits.shape == (1, 8, 20)
        for weights in output.attentions:
            assert weights.shape == (1, 2, 8, 8)
            torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 8))
            assert weights.triu(1).abs().max() == 0
    assert causal_softmax(torch.zeros(3, 3))[1].tolist() == [0.5, 0.5, 0.0]
