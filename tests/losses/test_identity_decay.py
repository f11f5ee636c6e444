"""The penalty against ||A - I||_F written out, its gradient, and what it does to a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.losses import identity_decay_penalty
from assay.nn import MIXERS, Mixer
from assay.nn.recording import recorded_operators
from assay.operators import DenseOperator, RecurrentOperator

RECURRENCES = ["ess-gla", "ess-wla", "ess-gla-s6", "ess-s6", "gla", "weighted-linear-attention", "retnet", "mamba",
               "mamba2", "rwkv6", "rwkv7", "deltanet", "gated-deltanet", "rg-lru", "hgrn", "qlstm", "s4d"]  # fmt: skip


def written_out(T: RecurrentOperator) -> Tensor:
    """Each A as a matrix, and the root of the sum of its squares minus I."""
    A = T.transitions().detach()
    A = torch.diag_embed(A) if T.is_diagonal else A
    distances = []
    for matrix in A.reshape(-1, *A.shape[-2:]):
        off = matrix - torch.eye(len(matrix))
        distances.append(sum(float(x) ** 2 for x in off.flatten()) ** 0.5)
    return torch.tensor(distances).mean()


@pytest.mark.parametrize("name", RECURRENCES)
def test_it_is_the_norm_written_out_and_every_decaying_mixer_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    mixer: Mixer = MIXERS[name](8, num_heads=2, **({"state_size": 4} if name in ("mamba", "mamba2", "s4d") else {}))
    T = mixer.operator(torch.randn(2, 5, 8))
    assert isinstance(T, RecurrentOperator)

    penalty = identity_decay_penalty(T)

    torch.testing.assert_close(penalty.detach(), written_out(T), rtol=1e-5, atol=1e-6)
    learns = [p for p in mixer.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(penalty, learns, allow_unused=True) if penalty.requires_grad else []
    assert any(g is not None and bool((g != 0).any()) for g in gradients) == (name != "retnet")  # its decays are fixed


def test_a_step_down_its_gradient_brings_decays_nearer_to_one() -> None:
    torch.manual_seed(0)
    mixer = MIXERS["ess-gla"](16, num_heads=2, beta=1.0)
    x = torch.randn(2, 12, 16)
    optimizer = torch.optim.SGD(mixer.parameters(), lr=1.0)
    before = after = identity_decay_penalty(mixer.operator(x))
    for _ in range(20):
        optimizer.zero_grad()
        after.backward()
        optimizer.step()
        after = identity_decay_penalty(mixer.operator(x))

    assert after < 0.5 * before


def test_where_nothing_decays_it_is_zero_with_a_gradient_of_zero() -> None:
    decays = torch.ones(3, 4, requires_grad=True)
    penalty = identity_decay_penalty(decays)
    penalty.backward()

    assert penalty == 0
    torch.testing.assert_close(decays.grad, torch.zeros(3, 4))
    assert identity_decay_penalty(MIXERS["ess-la"](16, num_heads=2).operator(torch.randn(1, 6, 16))) == 0


def test_it_is_the_mean_over_what_it_is_given() -> None:
    near, far = torch.tensor([[0.9]]), torch.tensor([[0.5]])

    torch.testing.assert_close(identity_decay_penalty(near, far), torch.tensor(0.3))


def test_what_has_no_decays_is_refused() -> None:
    with pytest.raises(ValueError, match="was given nothing"):
        identity_decay_penalty()
    with pytest.raises(ValueError, match="DenseOperator"):
        identity_decay_penalty(DenseOperator(torch.eye(3)))  # type: ignore[arg-type]


def test_recorded_operators_are_those_of_the_run_and_change_nothing() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(MIXERS["ess-gla"](16, num_heads=2), torch.nn.GELU(), MIXERS["ess-la"](16, num_heads=2))
    x = torch.randn(2, 6, 16)
    plain = layers(x)
    with recorded_operators(*layers.modules()) as operators:
        seen = layers(x)
    layers(x)

    assert torch.equal(plain, seen)
    assert len(operators) == 2  # the call after the end is not in it
    torch.testing.assert_close(operators[0].to_dense(), layers[0].operator(x).to_dense())
    torch.testing.assert_close(operators[1].to_dense(), layers[2].operator(layers[1](layers[0](x))).to_dense())
    assert operators[0].to_dense().requires_grad
    with pytest.raises(ValueError, match="expected at least one mixer"), recorded_operators(torch.nn.GELU()):
        pass
