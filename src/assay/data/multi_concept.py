"""Prompts in a language of concepts: words are sums of known features, demonstrations are words and labels.

A prompt's task is what its examples mean; inputs are their words, values their labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from assay._errors import InputError
from assay.data._checks import check_counts, check_number
from assay.data.in_context import InContext


class ConceptDictionary(NamedTuple):
    """Features, all orthogonal. The words of concept k are `topic[k] + sign[k]` and `topic[k] - sign[k]`, which share a
    topic; its labels are `label_topic[k] +- label_sign[k]`. `irrelevant` features are in words, and mean nothing.

    topic, sign: (K1, d); irrelevant: (K2, d); label_topic, label_sign: (K1, d). float64.
    """

    topic: Tensor
    sign: Tensor
    irrelevant: Tensor
    label_topic: Tensor
    label_sign: Tensor


class ConceptPrompts(NamedTuple):
    """B prompts of L demonstrations and a query about one concept. float64.

    words: (B, L, d); labels: (B, L, d); query: (B, d); targets: (B,), +1 or -1, the sign of the query's label;
    signs: (B, L), of the demonstrations; concepts: (B,), int64.
    """

    words: Tensor
    labels: Tensor
    query: Tensor
    targets: Tensor
    signs: Tensor
    concepts: Tensor


@dataclass(frozen=True)
class MultiConceptPrompts:
    """A sampler of prompts. Each is about one concept, drawn anew: its words carry a sign, +1 or -1, and the label of
    the query, which is asked for, has the sign of the query. Words and labels have Gaussian noise, words also random
    irrelevant features.

        MultiConceptPrompts().sample(64, generator=torch.Generator().manual_seed(0))

    To test out of distribution, sample from `dataclasses.replace(prompts, num_demonstrations=40)`.

    Args:
        num_concepts: K1.
        num_irrelevant: K2; each is in a word with probability `irrelevant_share`.
        d: size of words and of labels; at least 2 K1 + K2.
        kappa: norm of the sign features, where topics have norm 1; below 1, so that both words of a concept are alike.
        noise: standard deviation in each coordinate.
        num_demonstrations: L.
        positive_share: probability that a demonstration has sign +1. The query's sign is fair.
        mixed: 0, or the weight of two concepts in the query, that of the prompt and another one of random sign.
        dictionary_seed: fixes the features.

    Source: a reconstruction, from memory, of the sparse-coding prompts of Bu et al. 2024 (arXiv 2411.02199); their
    exact distributions may differ.
    """

    num_concepts: int = 2
    num_irrelevant: int = 6
    d: int = 20
    kappa: float = 0.6
    noise: float = 0.1
    num_demonstrations: int = 16
    irrelevant_share: float = 0.3
    positive_share: float = 0.5
    mixed: float = 0.0
    dictionary_seed: int = 0
    dictionary: ConceptDictionary = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_counts(num_concepts=self.num_concepts, d=self.d, num_demonstrations=self.num_demonstrations)
        check_counts(0, num_irrelevant=self.num_irrelevant)
        for name in ("kappa", "noise", "irrelevant_share", "positive_share", "mixed"):
            check_number(name, getattr(self, name))
        if self.d < 2 * self.num_concepts + self.num_irrelevant:
            raise InputError(f"d is {self.d}; expected at least 2 num_concepts + num_irrelevant orthogonal features")
        if not 0 < self.kappa < 1:
            raise InputError(f"kappa is {self.kappa}; expected above 0 and below 1, the norm of a topic")
        for name in ("irrelevant_share", "positive_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a probability")
        if self.mixed and self.num_concepts < 2:
            raise InputError(f"mixed is {self.mixed}; expected 0 with a single concept")
        object.__setattr__(self, "dictionary", self._draw_dictionary())

    def _draw_dictionary(self) -> ConceptDictionary:
        generator = torch.Generator().manual_seed(self.dictionary_seed)
        word, label = (
            torch.linalg.qr(torch.randn(self.d, self.d, generator=generator, dtype=torch.float64)).Q.mT
            for _ in range(2)
        )
        k1, k2 = self.num_concepts, self.num_irrelevant
        return ConceptDictionary(
            topic=word[:k1],
            sign=self.kappa * word[k1 : 2 * k1],
            irrelevant=word[2 * k1 : 2 * k1 + k2],
            label_topic=label[:k1],
            label_sign=self.kappa * label[k1 : 2 * k1],
        )

    def sample(self, num_prompts: int, *, generator: torch.Generator) -> ConceptPrompts:
        """`ConceptPrompts`, on the device of the generator, which alone makes the draws."""
        sampler = InContext(_Codes(self), _Words(self), noise=self.noise, dtype=torch.float64)
        drawn = sampler.sample(num_prompts, self.num_demonstrations + 1, generator=generator)
        concepts = drawn.tasks[:, 0, 0].argmax(-1)
        signs = drawn.tasks[torch.arange(num_prompts, device=generator.device), :, 1, concepts].sign()
        words, labels = drawn.xs, drawn.ys
        return ConceptPrompts(words[:, :-1], labels[:, :-1], words[:, -1], signs[:, -1], signs[:, :-1], concepts)

    @property
    def floor(self) -> float:
        """Probability that no demonstration has the query's sign, 2^-L for fair signs: the error of a model that
        answers with the label that it retrieves cannot be below it."""
        p, L = self.positive_share, self.num_demonstrations
        return (p**L + (1 - p) ** L) / 2


@dataclass(frozen=True)
class _Codes:
    """What each example of a prompt means: how much there is of every topic, and of every sign: (B, N, 2, K1)."""

    prompts: MultiConceptPrompts

    @property
    def d(self) -> int:
        return self.prompts.d

    def draw(self, num_prompts: int, num_points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        K, mixed, device = self.prompts.num_concepts, self.prompts.mixed, generator.device

        def code(concepts: Tensor, *share: float) -> Tensor:
            """One concept (B,) in each prompt, with a sign of its own at each of the points that `share` is for."""
            shares = torch.tensor(share, device=device)
            drawn = torch.rand(num_prompts, len(share), generator=generator, device=device)
            signs = 2 * (drawn < shares).to(dtype) - 1
            return one_hot(concepts, K)[:, None, None] * torch.stack([torch.ones_like(signs), signs], -1)[..., None]

        concepts = torch.randint(K, (num_prompts,), generator=generator, device=device)
        codes = code(concepts, *[self.prompts.positive_share] * (num_points - 1), 0.5)
        if mixed:
            others = torch.randint(1, K, (num_prompts,), generator=generator, device=device)
            codes[:, -1:] = mixed * (codes[:, -1:] + code((concepts + others) % K, 0.5))
        return codes

    def values(self, tasks: Tensor, xs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: ARG002
        """Labels (B, N, d)."""
        own = self.prompts.dictionary
        return torch.einsum("bnak,akd->bnd", tasks, torch.stack([own.label_topic, own.label_sign]).to(tasks)), ()


@dataclass(frozen=True)
class _Words:
    """The words of those codes, with irrelevant features and noise."""

    prompts: MultiConceptPrompts

    def draw(self, tasks: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        own, device = self.prompts.dictionary, generator.device
        words = torch.einsum("bnak,akd->bnd", tasks, torch.stack([own.topic, own.sign]).to(tasks))
        chances = torch.rand(*shape[:2], self.prompts.num_irrelevant, generator=generator, device=device)
        words += (chances < self.prompts.irrelevant_share).to(tasks) @ own.irrelevant.to(tasks)
        return words + self.prompts.noise * torch.randn(shape, generator=generator, device=device, dtype=tasks.dtype)
