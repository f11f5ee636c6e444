"""Hidden Markov sources: symbols that are emitted by a chain which is not seen, and the exact law of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_ids
from assay.data.markov import MarkovSource, check_laws, symbols_of, thresholds, uniforms


class Hidden(NamedTuple):
    """`symbols`, `states`: (B, L), int64; the symbol of a position is emitted by its state."""

    symbols: Tensor
    states: Tensor


@dataclass(frozen=True, eq=False)
class HMMSource:
    """An ergodic chain of S states that emits one of A symbols at each step, in its stationary state.

    Args:
        transition: (S, S), `transition[i, j] = P(next state j | state i)`.
        emission: (S, A), `emission[i, a] = P(symbol a | state i)`.

    Raises `InputError` where rows are no laws, sizes differ, or the chain is not ergodic.
    """

    transition: Tensor
    emission: Tensor

    def __post_init__(self) -> None:
        chain, emission = MarkovSource(self.transition), check_laws("emission", self.emission)
        if chain.order != 1 or emission.ndim != 2 or len(emission) != chain.alphabet:
            shapes = f"{tuple(self.transition.shape)} and {tuple(self.emission.shape)}"
            raise InputError(f"transition and emission have shapes {shapes}; expected (S, S) and (S, A)")
        object.__setattr__(self, "transition", chain.transition)
        object.__setattr__(self, "emission", emission.to(chain.transition.device))
        object.__setattr__(self, "_chain", chain)

    @property
    def states(self) -> MarkovSource:
        """The chain of states."""
        chain: MarkovSource = self.__dict__["_chain"]
        return chain

    def sample(self, num_sequences: int, length: int, *, generator: torch.Generator) -> Hidden:
        """B stationary sequences of L symbols, on the generator's device. Raises `InputError` for sizes below 1."""
        states = self.states.sample(num_sequences, length, generator=generator)
        heights = thresholds(self.emission).to(generator.device)[states]
        return Hidden(symbols_of(uniforms(states.shape, generator), heights), states)

    def filter(self, symbols: Tensor) -> Tensor:
        """P(state at t | symbols up to t), (B, L, S), float64: the forward algorithm (Rabiner 1989), normalised at each
        step. O(B L S^2). Raises `InputError` for symbols outside 0..A-1 and for sequences of probability 0."""
        return self._run(symbols)[0]

    def next_symbol_law(self, symbols: Tensor) -> Tensor:
        """P(symbol at t | symbols before t), (B, L, A), float64. What no predictor beats; raises as `filter`."""
        return self._run(symbols)[1] @ self.emission.to(symbols.device)

    def _run(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """The laws of the states (B, L, S), with the symbol of their own position and without."""
        check_ids("symbols", symbols)
        if symbols.ndim != 2 or int(symbols.min()) < 0 or int(symbols.max()) >= self.emission.shape[1]:
            raise InputError(
                f"symbols has shape {tuple(symbols.shape)} and values {int(symbols.min())}..{int(symbols.max())}; "
                f"expected (B, L) with symbols in 0..{self.emission.shape[1] - 1}"
            )
        transition, emission = self.transition.to(symbols.device), self.emission.to(symbols.device)
        expected = self.states.stationary.to(symbols.device).expand(len(symbols), -1)
        before, after = [], []
        for symbol in symbols.T:
            joint = expected * emission.T[symbol]
            before.append(expected)
            after.append(joint / joint.sum(-1, keepdim=True))
            expected = after[-1] @ transition
        laws = torch.stack(after, dim=1)
        if laws.isnan().any():
            raise InputError("symbols has a sequence of probability 0; expected one that this source can emit")
        return laws, torch.stack(before, dim=1)
