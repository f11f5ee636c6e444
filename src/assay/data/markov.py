"""Markov sources of any order: symbols of which the next law, the entropy rate and the stationary law are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number

WORTHWHILE = 4096  # numbers in a step that take less time than the step


@dataclass(frozen=True, eq=False)
class MarkovSource:
    """An ergodic chain of order k on the symbols 0..A-1, in its stationary state.

        MarkovSource(torch.tensor([[0.9, 0.1], [0.3, 0.7]]))  # of order 1
        MarkovSource.switching(4, 0.1)

    Args:
        transition: (A, ..., A) with k + 1 axes, `transition[x_{n-k}, .., x_{n-1}, a] = P(x_n = a | the last k)`. With
            one axis, k = 0, symbols are independent. Kept as float64.

    Raises `InputError` where the last axis is no law (not negative, with sum 1 up to 1e-6), and where the chain of
    contexts is not ergodic: it has two closed classes, or a period. Contexts that are left for good are allowed.
    """

    transition: Tensor

    def __post_init__(self) -> None:
        table = check_laws("transition", self.transition)
        if len(set(table.shape)) != 1:
            raise InputError(f"transition has shape {tuple(table.shape)}; expected (A, ..., A), all axes of one size")
        object.__setattr__(self, "transition", table)
        self._closed_class  # noqa: B018  (raises where the chain is not ergodic)

    @classmethod
    def switching(cls, order: int, flip: float) -> MarkovSource:
        """x_n = x_{n-k}, flipped with probability `flip`, on two symbols: k chains in turn. The symbols alone look like
        fair coins, H(pi) = log 2, while the entropy rate is h(flip). Rajaraman, Jiao & Ramchandran 2024 (arXiv
        2404.08335), who use it for k > 1."""
        check_counts(order=order)
        check_number("flip", flip)
        if not 0 < flip < 1:
            raise InputError(f"flip is {flip}; expected a probability between 0 and 1")
        law = torch.tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64)
        return cls(law.view(2, *[1] * (order - 1), 2).expand([2] * (order + 1)))

    @property
    def order(self) -> int:
        return self.transition.ndim - 1

    @property
    def alphabet(self) -> int:
        """The number of symbols, A."""
        return self.transition.shape[-1]

    @cached_property
    def stationary(self) -> Tensor:
        """The law of k symbols in a row, (A, ..., A) with k axes, float64. O(S^3) for S = A^k contexts."""
        inside = self._closed_class
        law = np.zeros(self.alphabet**self.order)
        law[inside] = _stationary_law(self._context_chain[inside][:, inside].toarray())
        return torch.from_numpy(law).view([self.alphabet] * self.order).to(self.transition.device)

    def entropy_rate(self) -> float:
        """H_inf, of a symbol given all before it, in nats: the mean over contexts of the entropy of the next symbol."""
        return float((self.stationary * torch.special.entr(self.transition).sum(-1)).sum())

    def marginal_entropy(self) -> float:
        """H(pi), of a single symbol, in nats; `entropy_rate` is at most that."""
        joint = self.stationary[..., None] * self.transition
        return float(torch.special.entr(joint.reshape(-1, self.alphabet).sum(0)).sum())

    def sample(self, num_sequences: int, length: int, *, generator: torch.Generator) -> Tensor:
        """(B, L), int64, on the generator's device: B stationary sequences.

        A symbol is a function of its context and of a uniform number of its own. So a few long sequences are cut into
        about sqrt(L) pieces, which run at the same time, from every context; then it is known where each piece starts,
        and they run once more, from there: O(B L A^(k+1)) in 3 sqrt(L) steps. Where this is more work than it saves,
        with many sequences or contexts, all sequences run once: O(B L A) in L steps. The symbols are the same.
        """
        check_counts(num_sequences=num_sequences, length=length)
        check_generator(generator)
        device, order, contexts = generator.device, self.order, self.alphabet**self.order
        start = symbols_of(uniforms([num_sequences], generator), thresholds(self.stationary.flatten()).to(device))
        uniform = uniforms([num_sequences, max(length - order, 0)], generator)
        table = thresholds(self.transition.reshape(contexts, -1)).to(device)

        work = num_sequences * self.transition.numel()
        pieces = max(1, min(math.isqrt(uniform.shape[1]), 2**21 // work)) if work <= WORTHWHILE else 1
        size = -(-uniform.shape[1] // pieces)
        # (steps, B, pieces); what is beyond the end is run and thrown away
        uniform = torch.nn.functional.pad(uniform, (0, pieces * size - uniform.shape[1]))
        uniform = uniform.view(num_sequences, pieces, size).permute(2, 0, 1).contiguous()
        starts = [start]
        if pieces > 1:
            every = torch.arange(contexts, device=device).expand(num_sequences, pieces, contexts)
            for step in uniform[..., None]:
                every = self._next(every, symbols_of(step, table[every]))
            for piece in range(pieces - 1):
                starts.append(every[:, piece].gather(1, starts[-1][:, None])[:, 0])
        at, symbols = torch.stack(starts, dim=1), []
        for step in uniform:
            symbols.append(symbols_of(step, table[at]))
            at = self._next(at, symbols[-1])
        digits = self.alphabet ** torch.arange(order - 1, -1, -1, device=device)
        first = start[:, None] // digits % self.alphabet
        rest = torch.stack(symbols, dim=2).view(num_sequences, -1) if symbols else first[:, :0]
        return torch.cat([first, rest], dim=1)[:, :length]

    def _next(self, contexts: Tensor, symbols: Tensor) -> Tensor:
        """A context is a number with k digits, the oldest symbol first."""
        return (contexts * self.alphabet + symbols) % self.alphabet**self.order

    @cached_property
    def _context_chain(self) -> csr_array:
        """From context to context, (S, S)."""
        contexts = self.alphabet**self.order
        source = np.arange(contexts)[:, None].repeat(self.alphabet, axis=1)
        target = (source * self.alphabet + np.arange(self.alphabet)) % contexts
        weight = self.transition.reshape(contexts, -1).cpu().numpy()
        positive = weight > 0
        return csr_array((weight[positive], (source[positive], target[positive])), shape=(contexts, contexts))

    @cached_property
    def _closed_class(self) -> NDArray[np.int64]:
        """The contexts that come back for ever; `InputError` where the chain has several such classes, or a period."""
        chain = self._context_chain
        count, label = connected_components(chain, connection="strong")
        source, target = chain.nonzero()
        closed = np.setdiff1d(np.arange(count), label[source[label[source] != label[target]]])
        if len(closed) > 1:
            raise InputError(
                f"transition has {len(closed)} classes of contexts that are never left; expected an ergodic chain"
            )
        inside = np.flatnonzero(label == closed[0])
        steps = dijkstra(chain, indices=inside[0], unweighted=True)
        within = label[source] == closed[0]
        period = np.gcd.reduce((steps[source[within]] + 1 - steps[target[within]]).astype(np.int64))
        if period != 1:
            raise InputError(f"transition makes a chain of period {period}; expected an ergodic chain")
        return inside


def check_laws(name: str, table: Tensor) -> Tensor:
    """The table as float64, its last axis summing to 1; `InputError` where it is no table of laws."""
    if not isinstance(table, Tensor) or table.ndim == 0 or table.numel() == 0:
        raise InputError(f"{name} is {table!r}; expected a tensor of laws along the last axis")
    table = table.detach().double()
    error = (table.sum(-1) - 1).abs().max()
    if not (table >= 0).all() or not error <= 1e-6:  # false for NaN
        raise InputError(
            f"{name} is not stochastic: least entry {float(table.min()):.3g}, sums along the last axis off by up to "
            f"{float(error):.3g}; expected probabilities that sum to 1"
        )
    return table / table.sum(-1, keepdim=True)


def uniforms(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """In [0, 1), float64, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)


def thresholds(laws: Tensor) -> Tensor:
    """(..., A) -> (..., A - 1): where a uniform number must be above to give a symbol later than 0, 1, .."""
    heights = laws.cumsum(-1)
    return (heights / heights[..., -1:])[..., :-1]


def symbols_of(uniform: Tensor, heights: Tensor) -> Tensor:
    """(...), (..., A - 1) -> (...), int64: the symbols that uniform numbers in [0, 1) stand for."""
    return (uniform[..., None] >= heights).sum(-1)


def _stationary_law(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of an irreducible chain (S, S), by the elimination of Grassmann, Taksar & Heyman (1985): without a difference, so
    that each entry is accurate, however seldom the chain moves."""
    rest = matrix.copy()
    for last in range(len(rest) - 1, 0, -1):
        rest[:last, last] /= rest[last, :last].sum()
        rest[:last, :last] += np.outer(rest[:last, last], rest[last, :last])
    law = np.ones(len(rest))
    for state in range(1, len(rest)):
        law[state] = law[:state] @ rest[:state, state]
    return law / law.sum()
