"""A model without its norms, or with another activation: for asking what they do."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Sigmoid, nn.Softplus)


def strip_nonlinearities(
    model: nn.Module, *, norms: bool = True, activation: Callable[[], nn.Module] | None = None
) -> list[str]:
    """Put the identity in the place of every norm, and `activation()` in that of every activation; in place.

    Finds modules: LayerNorm and RMSNorm of torch, whatever else is called so (as in transformers), and the
    activations of torch and transformers. Functions called inside a forward, and the softmax of attention, are not
    touched. An optimizer that was made before still holds the norms' parameters.

    Args:
        norms: whether norms go.
        activation: makes what replaces activations: `nn.ReLU`, `nn.Identity`, …; None leaves them.

    Returns the names of the modules that were replaced, which tells whether it found what you meant. Source: the
    configurations of Jha & Reagen 2025 (arXiv 2501.03489), section 3.

    >>> strip_nonlinearities(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()), activation=nn.ReLU)
    ['0', '2']
    """
    replaced = []
    for name, module in list(model.named_modules()):
        if norms and _is_norm(module):
            new: nn.Module = nn.Identity()
        elif activation is not None and _is_activation(module):
            new = activation()
        else:
            continue
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)
        replaced.append(name)
    return replaced


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, _ACTIVATIONS) or type(module).__module__ == "transformers.activations"
