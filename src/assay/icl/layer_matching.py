"""Which step of an algorithm is a layer of a trained model most like? Errors of both, prompt by prompt, compared.

A regressor is any callable (xs (B, N, d), ys (B, N)) -> predictions (B, N), or has it as `predict_prefixes`. The
prediction at a position may use its x and the examples before it, but not its y.
Source: Fu et al. 2023 (arXiv 2310.17086): similarity of errors, best-matching steps, read-outs for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import Prompts


class HasPrefixes(Protocol):
    """A regressor as a method: `predict_prefixes`, xs (B, N, d) and ys (B, N) -> predictions (B, N)."""

    def predict_prefixes(self, xs: Tensor, ys: Tensor) -> Tensor: ...


class HasLayers(Protocol):
    """A model whose layers can be read, for xs (B, N, d) and ys (B, N)."""

    def hidden_states(self, xs: Tensor, ys: Tensor) -> list[Tensor]:
        """What each layer has at the x, (B, N, D) each."""


Regressor = Callable[[Tensor, Tensor], Tensor] | HasPrefixes


def predictions(regressor: Regressor, xs: Tensor, ys: Tensor) -> Tensor:
    """(B, N), float64, of any regressor, without gradients. Raises `InputError` where its answer has another shape."""
    with torch.no_grad():
        predict: Any = getattr(regressor, "predict_prefixes", regressor)
        answer: Tensor = predict(xs, ys)
    if answer.shape != ys.shape:
        raise InputError(f"regressor gives shape {tuple(answer.shape)}; expected {tuple(ys.shape)}, one for each y")
    return answer.double()


def prefix_errors(regressor: Regressor, prompts: Prompts) -> Tensor:
    """Prediction less y at every position but the first, where nothing is known yet: (B, N - 1), float64."""
    return (predictions(regressor, prompts.xs, prompts.ys) - prompts.ys)[:, 1:]


class Matches(NamedTuple):
    """steps: (L,), the best-matching step of each layer; similarity: (L,), how good it is; table: (L, J), all."""

    steps: Tensor
    similarity: Tensor
    table: Tensor


def match_algorithm_steps(layer_errors: Tensor, algorithm_errors: Tensor, steps: Sequence[int]) -> Matches:
    """The step of an algorithm whose errors are most similar to those of each layer; of equals the first.

    layer_errors: (L, B, N); algorithm_errors: (J, B, N), after `steps[j]` steps. Errors that have vanished at every
    position have no direction: a prompt on which they have is left out, and a pair without any other is NaN and never
    the best. Each entry of the table is `assay.measures.similarity.similarity_of_errors` of a pair.
    Raises `InputError` for shapes that disagree. O(L J B N).
    """
    if algorithm_errors.ndim != 3 or algorithm_errors.shape[1:] != layer_errors.shape[1:]:
        raise InputError(
            f"layer_errors have shape {tuple(layer_errors.shape)} and algorithm_errors "
            f"{tuple(algorithm_errors.shape)}; expected (L, B, N) and (J, B, N)"
        )
    if len(steps) != len(algorithm_errors):
        raise InputError(f"steps are {len(steps)}; expected {len(algorithm_errors)}, one for each of algorithm_errors")
    norms = layer_errors.norm(dim=-1)[:, None] * algorithm_errors.norm(dim=-1)  # (L, J, B)
    cosines = torch.einsum("lbn,jbn->ljb", layer_errors, algorithm_errors) / norms
    table = cosines.where(norms > 0, 0).sum(-1) / (norms > 0).sum(-1)
    best = table.nan_to_num(nan=-2.0).argmax(-1)
    return Matches(torch.tensor(list(steps), device=best.device)[best], table.gather(1, best[:, None])[:, 0], table)


@dataclass(frozen=True)
class LayerProbes:
    """A linear read-out for every layer of a model, by `train_layer_probes`. weights: (L, D + 1, 1), float64."""

    model: HasLayers
    weights: Tensor

    def predict_prefixes(self, xs: Tensor, ys: Tensor) -> Tensor:
        """What each layer would answer: (L, B, N), float64."""
        return (_features(self.model, xs, ys) @ self.weights[:, None])[..., 0]


def train_layer_probes(model: HasLayers, prompts: Prompts) -> LayerProbes:
    """The read-outs, with a bias, of least squared error over all positions of the prompts.

    The error is quadratic in a read-out, so least squares finds in one go what training would converge to; directions
    in which states vary 10^6 times less than in others are left out. Draw many more positions than the model is wide.
    Time O(L B N D^2), memory O(L B N D). Raises `InputError` where there are fewer.
    """
    features = _features(model, prompts.xs, prompts.ys).flatten(1, 2)
    if features.shape[1] <= features.shape[2]:
        raise InputError(
            f"prompts have {features.shape[1]} positions; expected more than the {features.shape[2]} weights of a probe"
        )
    gram = torch.linalg.pinv(features.mT @ features, hermitian=True, rtol=1e-12)  # states may lie in a subspace
    return LayerProbes(model, gram @ (features.mT @ prompts.ys.double().flatten())[..., None])


def _features(model: HasLayers, xs: Tensor, ys: Tensor) -> Tensor:
    """Hidden states and a one: (L, B, N, D + 1)."""
    with torch.no_grad():
        states = torch.stack(model.hidden_states(xs, ys)).double()
    return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1)
