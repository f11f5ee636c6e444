"""One softmax attention over demonstrations, and a ReLU network that reads the label it retrieves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator
from assay.data.multi_concept import ConceptDictionary, ConceptPrompts


class ConceptAttentionClassifier(nn.Module):
    """`f = r^T relu(W_O sum_l s_l y_l)`, `s = softmax_l(x_l^T W_A x_q)`: the sign of f is the answer.

    Args:
        d: size of words x and of labels y.
        width: rows of W_O, even; r is fixed, +1 / width in the first half and -1 / width in the second.
        generator: draws W_O ~ N(0, 0.05^2), on its device.

    W_A = W_K^T W_Q starts at 0.1 I: with a random start it may learn to attend to the *opposite* sign, and W_O to
    invert the answer, with the same error. float64. Source: Bu et al. 2024 (arXiv 2411.02199), the model from memory;
    the constants are not theirs.
    """

    def __init__(self, d: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        check_counts(d=d)
        check_counts(2, width=width)
        check_generator(generator)
        if width % 2:
            raise InputError(f"width is {width}; expected an even number, for as many signs of each kind")
        output = torch.randn(width, d, generator=generator, device=generator.device, dtype=torch.float64)
        self.attention = nn.Parameter(0.1 * torch.eye(d).to(output))
        self.output = nn.Parameter(0.05 * output)
        self.signs: Tensor
        half = output.new_full((width // 2,), 1 / width)
        self.register_buffer("signs", torch.cat([half, -half]))

    def weights(self, words: Tensor, query: Tensor) -> Tensor:
        """Attention over demonstrations, (B, L). words: (B, L, d); query: (B, d)."""
        return (words @ (query @ self.attention.mT)[..., None])[..., 0].softmax(-1)

    def forward(self, words: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """f, (B,). words, labels: (B, L, d); query: (B, d), float64."""
        retrieved = (self.weights(words, query)[..., None] * labels).sum(1)
        return (retrieved @ self.output.mT).relu() @ self.signs


def concept_loss(model: nn.Module, prompts: ConceptPrompts) -> Tensor:
    """The logistic loss `log(1 + exp(-e f))`, the mean over prompts, in nats."""
    f = model(prompts.words, prompts.labels, prompts.query)
    return nn.functional.softplus(-prompts.targets * f).mean()


@torch.no_grad()
def concept_error(model: nn.Module, prompts: ConceptPrompts) -> float:
    """Share of the prompts with a wrong sign."""
    f = model(prompts.words, prompts.labels, prompts.query)
    return (f * prompts.targets <= 0).double().mean().item()


class ConceptProjections(NamedTuple):
    """How much attention has grown along each kind of feature: `v^T W v / ||v||^4`, (K1,) or (K2,)."""

    sign: Tensor
    topic: Tensor
    irrelevant: Tensor


def concept_projections(attention: Tensor, dictionary: ConceptDictionary) -> ConceptProjections:
    """The projections of attention (d, d) on the features of the words. A matrix `sum_v c_v v v^T` over the orthogonal
    features has the projections c_v.

    Raises `InputError` where attention is not (d, d) for the d of the dictionary.
    """
    d = dictionary.topic.shape[1]
    if attention.shape != (d, d):
        raise InputError(
            f"attention has shape {tuple(attention.shape)}; expected ({d}, {d}), as the dictionary's words"
        )

    def along(v: Tensor) -> Tensor:
        v = v.to(attention)
        return ((v @ attention) * v).sum(-1) / v.square().sum(-1).square()

    return ConceptProjections(along(dictionary.sign), along(dictionary.topic), along(dictionary.irrelevant))
