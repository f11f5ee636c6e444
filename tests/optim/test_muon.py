"""torch.optim.Muon against the paper's definition, and which parameters it gets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Muon

from assay._errors import InputError
from assay.data import mqar
from assay.lab.training import train
from assay.models.backbone import Backbone, BackboneConfig
from assay.nn import S6
from assay.nn.moe import MoEFeedForward
from assay.optim import StackedMuon, muon_and_adamw, newton_schulz, split_muon_params


def as_defined(W: Tensor, gradients: list[Tensor], lr: float, wd: float, scale: float) -> Tensor:
    """M <- mu M + (1 - mu) G; O = NS5(mu M + (1 - mu) G); W <- (1 - lr wd) W - lr c O: in float64."""
    W, M, mu = W.double(), torch.zeros_like(W, dtype=torch.float64), 0.95
    for G in gradients:
        M = mu * M + (1 - mu) * G.double()
        W = (1 - lr * wd) * W - lr * scale * newton_schulz(mu * M + (1 - mu) * G.double())
    return W


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_torch_computes_what_the_paper_defines(shape: tuple[int, int], adjust: str) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(6)]
    W = nn.Parameter(start.clone())
    optimizer = Muon([W], lr=0.1, weight_decay=0.3, adjust_lr_fn=adjust)
    for G in gradients:
        W.grad = G
        optimizer.step()
    m, n = shape
    scale = max(1, m / n) ** 0.5 if adjust == "original" else 0.2 * max(m, n) ** 0.5
    moved = (W.detach() - start).double()

    def off(**changes: float) -> float:
        expected = as_defined(start, gradients, **({"lr": 0.1, "wd": 0.3, "scale": scale} | changes)) - start
        return float((expected - moved).norm() / moved.norm())

    assert off() < 0.03  # torch iterates in bfloat16
    assert off(scale=1.2 * scale) > 0.05
    assert off(wd=0.0) > 0.05


def test_without_its_steps_it_is_normalised_momentum() -> None:
    W, G = nn.Parameter(torch.zeros(3, 5)), torch.randn(3, 5)
    W.grad = G.clone()
    Muon([W], lr=1.0, weight_decay=0.0, ns_steps=0).step()
    torch.testing.assert_close(W.detach(), -G / G.norm(), rtol=1e-2, atol=1e-2)


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in wanted}


def test_hidden_matrices_of_a_backbone() -> None:
    for tied in (True, False):
        model = Backbone(BackboneConfig("attention,latent-attention", 50, 16, tie_word_embeddings=tied))
        matrices, rest = (names_of(model, part) for part in split_muon_params(model))
        assert {n.split(".")[0] for n in matrices} == {"layers"}
        assert "layers.0.mixer.q.weight" in matrices
        assert "layers.1.mixer.kv_down.weight" in matrices
        assert "layers.1.mlp.down.weight" in matrices
        assert {"embedding.weight", "norm.weight", "layers.0.mlp_norm.weight"} <= rest
        assert ("head.weight" in rest) is not tied
        assert matrices | rest == {name for name, _ in model.named_parameters()}


def test_hidden_matrices_of_experts_and_of_state_spaces() -> None:
    moe = MoEFeedForward(8, 6, num_experts=4)
    matrices, rest = split_muon_params(moe)
    assert names_of(moe, rest) == {"router.weight"}
    assert len(matrices) == 3 * (4 + 1)
    s6 = S6(8)
    tables = {name for name, p in s6.named_parameters() if p.ndim == 2 and not name.endswith("weight")}
    assert tables <= names_of(s6, split_muon_params(s6).rest)


def test_hidden_matrices_of_a_model_of_transformers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=8))
    matrices = names_of(model, split_muon_params(model).matrices)
    assert matrices == {f"transformer.h.0.{n}.weight" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}


def test_what_is_frozen_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    split = split_muon_params(model)
    assert [p.shape for p in split.matrices] == [(2, 4)]
    assert [p.shape for p in split.rest] == [(2,)]


def test_both_train_a_model() -> None:
    torch.manual_seed(0)
    model = Backbone(BackboneConfig("attention", 32, 16, mlp_ratio=1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = train(
        model, lambda generator: mqar(16, seq_len=16, num_kv_pairs=2, vocab_size=32, generator=generator),
        steps=20, seed=0, every=10, optimizers=muon_and_adamw(model),
    )  # fmt: skip
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_stacked_matrices_move_as_each_alone() -> None:
    torch.manual_seed(0)
    shapes = [(12, 20), (20, 12), (12, 20), (6, 6)]
    starts = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(6)]
    matrices, alone = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    frozen = nn.Parameter(torch.randn(12, 20))
    before = frozen.detach().clone()
    stacked, torchs = StackedMuon([*matrices, frozen], lr=0.1, weight_decay=0.3), Muon(alone, lr=0.1, weight_decay=0.3)
    for step in gradients:
        for own, other, G in zip(matrices, alone, step, strict=True):
            own.grad, other.grad = G.clone(), G.clone()
        stacked.step()
        torchs.step()

    assert torch.equal(frozen, before)  # it has no gradient
    for i, (m, n) in enumerate(shapes):
        expected = as_defined(starts[i], [step[i] for step in gradients], 0.1, 0.3, max(1, m / n) ** 0.5)
        torch.testing.assert_close(matrices[i].detach().double(), expected, rtol=1e-4, atol=1e-5)
        moved = alone[i].detach() - starts[i]
        assert float((matrices[i] - alone[i]).detach().norm() / moved.norm()) < 0.03  # torch's is in bfloat16


def test_stacked_muon_resumes_from_its_state() -> None:
    torch.manual_seed(0)
    W, G = nn.Parameter(torch.randn(4, 6)), torch.randn(4, 6)
    W.grad = G
    optimizer = StackedMuon([W], lr=0.1)
    optimizer.step()
    other = nn.Parameter(W.detach().clone())
    again = StackedMuon([other], lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.grad = G
    optimizer.step()
    again.step()
    assert torch.equal(W, other)


def test_stacked_muon_takes_matrices_alone() -> None:
    with pytest.raises(InputError, match=r"params has one of shape \(3,\); expected matrices"):
        StackedMuon([nn.Parameter(torch.zeros(3))])
