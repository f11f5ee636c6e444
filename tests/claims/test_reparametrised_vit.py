"""The vision transformer of `sigma-reparam`, which no smoke run reaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.nn.sigma_reparam import convert_to_sigma_reparam, remove_normalisation
from assay.studies.memory._sigma_theory import hadamard
from assay.studies.memory._sigma_vit import VisionTransformer, digits, training
from assay.studies.memory.sigma_reparam import MODELS

pytest.importorskip("sklearn")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(model: str) -> None:
    row = training(model=model, lr=1e-3, width=8, depth=2, steps=11, batch=8, seed=0, device="cpu")

    assert 0 < row["entropy"] <= 1
    assert row["entropy"] <= row["last_entropy"] <= 1
    assert 0 <= row["accuracy"] <= 1
    assert 0 < row["loss"] < 10
    assert row["steps_done"] == 11


def test_what_diverges_says_so() -> None:
    row = training(model="pre-LN", lr=1e30, width=8, depth=2, steps=30, batch=8, seed=0, device="cpu")

    assert not row["loss"] <= 2


def test_patches_are_the_squares_of_the_picture() -> None:
    from sklearn.datasets import load_digits

    images, data = load_digits().images, digits("cpu")

    assert data.patches.shape == (1797, 16, 4)
    for row in range(4):
        for column in range(4):
            square = images[5, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] / 16
            assert data.patches[5, 4 * row + column].tolist() == pytest.approx(square.flatten().tolist())


def test_the_model_can_be_reparametrised() -> None:
    torch.manual_seed(0)
    network, x = VisionTransformer(16, 2), torch.rand(3, 16, 4)
    remove_normalisation(network)
    before = network(x)
    convert_to_sigma_reparam(network)

    assert torch.allclose(network(x), before, atol=1e-5)
    assert sum(name.endswith("gamma") for name, _ in network.named_parameters()) == 2 * 6 + 2
    assert not any(isinstance(m, nn.LayerNorm) for m in network.modules())


def test_hadamard_rows_are_orthogonal_signs() -> None:
    signs = hadamard(16)

    assert torch.equal(signs @ signs.T, 16 * torch.eye(16, dtype=torch.float64))
    assert torch.equal(signs.abs(), torch.ones(16, 16, dtype=torch.float64))
