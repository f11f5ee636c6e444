"""sigmaReparam: weights whose spectral norm is a parameter, so that attention cannot collapse by their growth.

    model = convert_to_sigma_reparam(model)              # every Linear and Conv2d
    remove_normalisation(model)                          # the paper's vision models do without
    optimizer = torch.optim.Adam(model.parameters())     # made afterwards: the parameters are new ones
    fold_sigma_reparam(model)                            # after training: plain weights again

Source: Zhai et al. 2023 (arXiv 2303.06296), section 3.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from assay._errors import InputError

Module = TypeVar("Module", bound=nn.Module)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
TINY = 1e-12  # a weight of zeros stays one


class SigmaReparam(nn.Module):
    """`W -> gamma W / sigma(W)`, sigma the largest singular value of W as a matrix (out, everything else).

    A parametrization of torch: `parametrize.register_parametrization(layer, "weight", SigmaReparam(layer.weight))`, or
    `sigma_reparam(layer)`. The spectral norm of the result is |gamma|, a learned number, whatever the width is. Where
    `torch.nn.utils.parametrizations.spectral_norm` gives W / sigma, with nothing to learn, this keeps gamma.

    sigma is `v^T W u`; each forward in training first moves `u` and `v` by one step of the power iteration, which
    starts at the exact singular vectors. Gradients flow through W, not through u and v. In eval mode nothing moves.
    All of it is computed in float32 at least, also under autocast. O(in out) in each forward, besides the layer's own
    work; the exact vectors at the start cost O(in out min(in, out)). gamma may become negative.

    Args:
        weight: what it will be applied to, (out, ...), at least two dimensions.
        init_gamma: "sigma" for sigma(W), so that nothing changes at first (the authors' vision code), or a number; 1
            in the paper and in their speech code.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, *, init_gamma: float | Literal["sigma"] = "sigma") -> None:
        super().__init__()
        if weight.ndim < 2:
            raise InputError(f"weight has shape {tuple(weight.shape)}; expected at least two dimensions")
        with torch.no_grad():
            left, sigma, right = torch.linalg.svd(_matrix(weight), full_matrices=False)
        self.gamma = nn.Parameter(sigma[0].clone() if init_gamma == "sigma" else torch.full_like(sigma[0], init_gamma))
        self.register_buffer("v", left[:, 0].clone())
        self.register_buffer("u", right[0].clone())

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = _matrix(weight)
            if self.training:
                self._power_step(matrix.detach())
            # copies: the next forward moves u and v in place, perhaps before this one's backward pass
            sigma = torch.dot(self.v.clone(), matrix @ self.u.clone()).clamp(min=TINY)
            return (weight * (self.gamma / sigma)).to(weight.dtype)

    @torch.no_grad()
    def _power_step(self, matrix: Tensor) -> None:
        self.v.copy_(nn.functional.normalize(matrix @ self.u, dim=0, eps=TINY))
        self.u.copy_(nn.functional.normalize(matrix.mT @ self.v, dim=0, eps=TINY))


def sigma_reparam(layer: Module, *, init_gamma: float | Literal["sigma"] = "sigma") -> Module:
    """Put `SigmaReparam` on `layer.weight`; returns the same layer. Its bias stays as it is."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", SigmaReparam(weight, init_gamma=init_gamma))
    return layer


def convert_to_sigma_reparam(
    model: Module, *, skip: Collection[str] = (), init_gamma: float | Literal["sigma"] = "sigma"
) -> Module:
    """Put `SigmaReparam` on every `nn.Linear` and `nn.Conv2d` in `model`, in place; returns the same model.

    Each layer has one sigma, so a layer that makes queries, keys and values at once has one for the three. Layers that
    have it already are passed over. Optimizers are to be made afterwards.

    Args:
        skip: names of layers as in `model.named_modules()`; a layer of that name and all within it stay as they are.

    Raises `InputError` for a name that is none, and for a weight that two layers share: it cannot have two norms.
    """
    layers = dict(model.named_modules())
    if unknown := [name for name in skip if name not in layers]:
        raise InputError(f"skip has {unknown[0]!r}; expected names of modules of this model")
    chosen = {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and not parametrize.is_parametrized(layer, "weight")
        and not any(name == one or name.startswith(f"{one}.") for one in skip)
    }
    owners: dict[int, str] = {}
    for name, module in layers.items():
        for own, parameter in module.named_parameters(recurse=False):
            first = owners.setdefault(id(parameter), f"{name}.{own}")
            if first != f"{name}.{own}" and (name in chosen or first.rpartition(".")[0] in chosen):
                raise InputError(f"{name}.{own} is the same parameter as {first}; name one of the layers in skip")
    for layer in chosen.values():
        sigma_reparam(layer, init_gamma=init_gamma)
    return model


def remove_normalisation(model: Module) -> Module:
    """Replace every LayerNorm, RMSNorm, GroupNorm, batch and instance norm by `nn.Identity`, in place; returns the same
    model. Raises `InputError` where `model` is itself a norm."""
    if isinstance(model, NORMS):
        raise InputError(f"model is {type(model).__name__}; expected a model that has norms in it")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                setattr(module, name, nn.Identity())
    return model


def fold_sigma_reparam(model: Module) -> Module:
    """Make the reparametrised weights plain parameters again, for inference, in place; returns the same model."""
    training = model.training
    model.eval()  # reading a weight in training would move u and v once more
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight") and any(
            isinstance(one, SigmaReparam)
            for one in layer.parametrizations["weight"]  # type: ignore[index]
        ):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model.train(training)


def _matrix(weight: Tensor) -> Tensor:
    """(out, ...) -> (out, everything else), in float32 at least."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
