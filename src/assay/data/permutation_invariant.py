"""Functions of a query and a set of keys: what one attention layer can express, and one that it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator

Kind = Literal["keys", "query-key", "first-key"]


class QueryKeys(NamedTuple):
    """B queries (B, d), their keys (B, N, d), and the values ys (B,). float64."""

    query: Tensor
    keys: Tensor
    ys: Tensor


@dataclass(frozen=True)
class QueryKeyTarget:
    """A polynomial of keys x_i, of a query x_0 and of one direction b, times d so that its size does not fall with d:

    - "keys": `mean_i d <b, x_i>^p`;
    - "query-key": `mean_i d <x_0, x_i>^p <b, x_i>`, where a key counts by its correlation with the query;
    - "first-key": `d <b, x_1>^p`, which depends on the order of the keys: no sum over them can express it.

    Args:
        direction: b, (d,), a unit vector.
        power: p, of the polynomial.

    Source: the first two, Fu, Guo, Bai & Mei 2023 (arXiv 2307.11353), section of experiments, from memory.
    """

    direction: Tensor
    kind: Kind
    power: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"kind is {self.kind!r}; expected one of {', '.join(map(repr, get_args(Kind)))}")
        if self.direction.ndim != 1:
            raise InputError(f"direction has shape {tuple(self.direction.shape)}; expected (d,)")
        check_counts(power=self.power)

    def __call__(self, query: Tensor, keys: Tensor) -> Tensor:
        """query: (B, d); keys: (B, N, d); returns (B,)."""
        d = len(self.direction)
        along = keys @ self.direction.to(keys)  # (B, N)
        if self.kind == "first-key":
            return d * along[:, 0] ** self.power
        if self.kind == "keys":
            return d * (along**self.power).mean(-1)
        return d * ((keys @ query[..., None])[..., 0] ** self.power * along).mean(-1)

    def sample(self, num_prompts: int, *, num_keys: int, generator: torch.Generator) -> QueryKeys:
        """Query and keys uniform on the unit sphere, all independent; on the device of the generator."""
        check_counts(num_prompts=num_prompts, num_keys=num_keys)
        check_generator(generator)
        points = unit_vectors(num_prompts, 1 + num_keys, len(self.direction), generator=generator)
        query, keys = points[:, 0], points[:, 1:]
        return QueryKeys(query, keys, self(query, keys))


def unit_vectors(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform on the unit sphere of the last axis; float64, on the device of the generator."""
    z = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
    return z / z.norm(dim=-1, keepdim=True)
