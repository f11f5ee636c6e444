"""The common form of all mixers: features of each token, a causal linear operator over values, and what follows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from assay.operators import SequenceOperator


class Mixer(nn.Module, ABC):
    """`forward`: (B, L, d_model) -> (B, L, d_model), causal.

    Every mixer is `finish(T v)`, where T and v are made from `features(x)`. A subclass says how:

    - `features(x)`: what T is made of, as a named tuple; its field `values` is v, (B, H, L, C), for H heads (or
      channels with an operator each, then C = 1).
    - `mix(features)`: `T v` in a form that is fast in training, (B, H, L, C).
    - `to_operator(features)`: T as an operator with batch shape (B, H).
    - `finish(y, features)`: gate, norm, output projection: (B, H, L, C) -> (B, L, d_model).
    - `step(x, state)`: one token at a time.

    So `mixer.finish(mixer.operator(x).apply(mixer.values(x)), mixer.features(x))` is `mixer(x)`;
    `assay.nn.contract.check_mixer` checks this and the rest.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.mixed = nn.Identity()  # what T made passes through it, so that a hook can see it

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return self.finish(self.mixed(self.mix(features)), features)

    def operator(self, x: Tensor) -> SequenceOperator:
        """T for this input (B, L, d_model): batch shape (B, H)."""
        return self.to_operator(self.features(x))

    def values(self, x: Tensor) -> Tensor:
        """v for this input (B, L, d_model): (B, H, L, C)."""
        return self.features(x).values

    @abstractmethod
    def features(self, x: Tensor) -> Any:
        """A named tuple with a field `values`, (B, H, L, C), and whatever T and the end are made of."""

    @abstractmethod
    def mix(self, features: Any) -> Tensor:
        """`T v`, (B, H, L, C), in its fastest form."""

    @abstractmethod
    def to_operator(self, features: Any) -> SequenceOperator:
        """T, batch shape (B, H)."""

    @abstractmethod
    def finish(self, y: Tensor, features: Any) -> Tensor:
        """(B, H, L, C) -> (B, L, d_model)."""

    @abstractmethod
    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token, (B, d_model), and the state after the tokens before (None at the start) -> its output and the
        state after it."""


def heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, H * C) -> (B, H, L, C)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(y: Tensor) -> Tensor:
    """(B, H, L, C) -> (B, L, H * C)."""
    return y.transpose(1, 2).flatten(2)
