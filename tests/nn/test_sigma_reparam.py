"""sigmaReparam against exact singular values, and against what it promises of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from assay._errors import InputError
from assay.nn.sigma_reparam import (
    SigmaReparam,
    convert_to_sigma_reparam,
    fold_sigma_reparam,
    remove_normalisation,
    sigma_reparam,
)

MAKE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(7, 5).double(),
    "wide": lambda: nn.Linear(3, 20, bias=False).double(),
    "conv": lambda: nn.Conv2d(3, 5, 2).double(),
    "one row": lambda: nn.Linear(6, 1).double(),
}
INPUTS = {"linear": (4, 7), "wide": (4, 3), "conv": (2, 3, 6, 6), "one row": (4, 6)}


def pair(name: str, **options: float) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain layer, the same reparametrised, and an input."""
    torch.manual_seed(0)
    plain, ours = MAKE[name](), MAKE[name]()
    ours.load_state_dict(plain.state_dict())
    return plain, sigma_reparam(ours, **options), torch.randn(*INPUTS[name], dtype=torch.float64)  # type: ignore[arg-type]


def parts(layer: nn.Module) -> tuple[SigmaReparam, Tensor]:
    found = layer.parametrizations.weight  # type: ignore[union-attr]
    return found[0], found.original  # type: ignore[index, union-attr, return-value]


def spectral_norm(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.flatten(1))[0]


@pytest.mark.parametrize("name", MAKE)
def test_at_first_nothing_changes(name: str) -> None:
    plain, ours, x = pair(name)

    assert torch.allclose(ours(x), plain(x), atol=1e-12)
    assert sorted(dict(ours.named_parameters())) == sorted(
        ["parametrizations.weight.original", "parametrizations.weight.0.gamma"]
        + ["bias"] * (getattr(plain, "bias", None) is not None)
    )


@pytest.mark.parametrize("name", MAKE)
def test_the_spectral_norm_is_gamma(name: str) -> None:
    _, ours, x = pair(name, init_gamma=1.7)
    part, weight = parts(ours)
    with torch.no_grad():
        weight.add_(torch.randn_like(weight) * 0.3)
        stale = spectral_norm(ours.eval().weight).item() / 1.7  # type: ignore[arg-type]
        ours.train()
        for _ in range(500):  # its two largest singular values are close
            ours(x)
        ours.eval()

    assert torch.allclose(spectral_norm(ours.weight), part.gamma, rtol=1e-3)  # type: ignore[arg-type]
    if weight.shape[0] > 1:
        assert abs(stale - 1) > 1e-3  # the control: before u and v had moved


def test_the_scale_of_the_weight_has_no_effect() -> None:
    plain, ours, x = pair("linear")
    before = ours(x)
    with torch.no_grad():
        parts(ours)[1].mul_(3)
        plain.weight.mul_(3)  # type: ignore[operator, union-attr]

    assert torch.allclose(ours(x), before, atol=1e-12)
    assert not torch.allclose(plain(x), before, atol=1e-3)


def test_only_training_moves_the_vectors() -> None:
    _, ours, x = pair("linear")
    part, weight = parts(ours)
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
    u, v = part.u.clone(), part.v.clone()
    ours.eval()(x)
    assert torch.equal(part.u, u)
    assert torch.equal(part.v, v)
    ours.train()(x)
    matrix = weight.detach()
    v = nn.functional.normalize(matrix @ u, dim=0)
    assert torch.allclose(part.v, v)
    assert torch.allclose(part.u, nn.functional.normalize(matrix.mT @ v, dim=0))


def test_the_gradient_has_the_rank_one_correction() -> None:
    """d/dW of <G, gamma W / sigma> is gamma / sigma (G - <G, W> v u^T / sigma)."""
    _, ours, _ = pair("linear", init_gamma=2.0)
    part, weight = parts(ours)
    G = torch.randn_like(weight)
    (G * ours.weight).sum().backward()
    W, v, u = weight.detach(), part.v, part.u
    sigma = v @ W @ u

    assert torch.allclose(weight.grad, 2 / sigma * (G - (G * W).sum() / sigma * torch.outer(v, u)))  # type: ignore[arg-type]
    assert torch.allclose(part.gamma.grad, (G * W).sum() / sigma)  # type: ignore[arg-type]
    # so the gradient has no part along W, up to rounding: its scale cannot be learned
    assert abs(float((weight.grad * W).sum())) < 1e-10  # type: ignore[operator]


def test_two_forwards_before_one_backward() -> None:
    _, ours, x = pair("linear")

    (ours(x) + ours(2 * x)).sum().backward()

    assert parts(ours)[1].grad is not None


def test_a_weight_of_zeros_stays_finite() -> None:
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    sigma_reparam(layer, init_gamma=1.0)
    layer(torch.ones(2, 4)).sum().backward()

    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)
    assert not bool(layer.weight.any())


def test_sigma_is_not_rounded_under_autocast() -> None:
    torch.manual_seed(0)
    layer = sigma_reparam(nn.Linear(64, 64))
    plain = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
        y = layer(torch.randn(3, 64))

    assert weight.dtype == torch.float32
    assert torch.allclose(weight, plain, atol=1e-6)
    assert y.dtype == torch.bfloat16


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    return nn.Sequential(inner, nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.RMSNorm(8), nn.Linear(8, 3))


def test_a_model_is_converted_and_folded_back() -> None:
    model, x = small_model().double().eval(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    before = model(x)
    assert convert_to_sigma_reparam(model) is model
    convert_to_sigma_reparam(model)  # what is done is not done again
    names = {name for name, _ in model.named_parameters() if name.endswith("gamma")}

    assert {name.split(".parametrizations")[0] for name in names} == {"0.0", "2", "5"}
    assert torch.allclose(model(x), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(x).square().sum().backward()
    optimizer.step()
    trained = model.eval()(x)
    assert not torch.allclose(trained, before)
    fold_sigma_reparam(model.train())
    assert model.training
    assert torch.allclose(model.eval()(x), trained)
    assert set(model.state_dict()) == set(small_model().state_dict())
    small_model().double().load_state_dict(model.state_dict())


def test_layers_can_be_left_as_they_are() -> None:
    model = convert_to_sigma_reparam(small_model(), skip=["0", "5"])

    assert [parametrize.is_parametrized(m) for m in (model[0][0], model[2], model[5])] == [False, True, False]  # type: ignore[index]
    with pytest.raises(InputError, match="skip has 'head'; expected names of modules"):
        convert_to_sigma_reparam(small_model(), skip=["head"])


def test_a_shared_weight_is_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

    with pytest.raises(InputError, match=r"head.weight is the same parameter as embedding.weight; name one"):
        convert_to_sigma_reparam(Tied())
    assert not parametrize.is_parametrized(convert_to_sigma_reparam(Tied(), skip=["head"]).head)


def test_norms_are_removed() -> None:
    model = remove_normalisation(small_model())

    assert [type(m) for m in model.modules() if "Norm" in type(m).__name__] == []
    assert isinstance(model[0][1], nn.Identity)  # type: ignore[index]
    assert model(torch.randn(2, 2, 4, 4)).shape == (2, 3)
    with pytest.raises(InputError, match="model is LayerNorm; expected a model that has norms in it"):
        remove_normalisation(nn.LayerNorm(3))


def test_a_vector_is_refused() -> None:
    with pytest.raises(InputError, match=r"weight has shape \(4,\); expected at least two dimensions"):
        SigmaReparam(torch.ones(4))
