"""Families of tasks for prompts of examples: linear ones, random networks, functions of one direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator

ACTIVATIONS = {"relu": torch.relu, "leaky_relu": torch.nn.functional.leaky_relu, "tanh": torch.tanh}


@dataclass(frozen=True)
class LinearTasks:
    """y = gain <x, beta>, beta ~ N(0, diag(scale^2)).

    Args:
        scale: (d,), ones by default; "power" is 1 / i for coordinate i = 1..d, the heteroscedastic prior of Li et al.
            2023 (arXiv 2301.07067).
        num_tasks: beta is one of so many, drawn once by `pool_seed`; None for a new one in every prompt.
        rho: the task drifts over the prompt: beta_i is a stationary AR(1) process, of correlation rho^|i-j| at points i
            and j, in each coordinate. Then tasks are (B, N, d).
        gain: on all values.
    """

    d: int
    scale: Tensor | str | None = None
    num_tasks: int | None = None
    rho: float | None = None
    gain: float = 1.0
    pool_seed: int = 0

    def __post_init__(self) -> None:
        check_counts(d=self.d)
        if isinstance(self.scale, str) and self.scale != "power":
            raise InputError(f"scale is {self.scale!r}; expected 'power', a tensor ({self.d},) or None")
        if isinstance(self.scale, Tensor) and self.scale.shape != (self.d,):
            raise InputError(f"scale has shape {tuple(self.scale.shape)}; expected ({self.d},)")
        if self.num_tasks is not None:
            check_counts(num_tasks=self.num_tasks)
        if self.rho is not None and (not -1 < self.rho < 1 or self.num_tasks is not None):
            raise InputError(f"rho is {self.rho}; expected a number between -1 and 1, and no num_tasks")

    def draw(self, num_prompts: int, num_points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        scale = torch.ones(self.d, device=device, dtype=dtype)
        if self.scale is not None:
            given = 1 / torch.arange(1, self.d + 1) if isinstance(self.scale, str) else self.scale
            scale = given.to(scale)
        if self.num_tasks is not None:
            pool = torch.randn(self.num_tasks, self.d, generator=torch.Generator().manual_seed(self.pool_seed))
            which = torch.randint(self.num_tasks, (num_prompts,), generator=generator, device=device)
            return pool.to(scale)[which] * scale
        if self.rho is None:
            return torch.randn(num_prompts, self.d, generator=generator, device=device, dtype=dtype) * scale
        at = torch.arange(num_points, device=device, dtype=torch.float64)
        root = torch.linalg.cholesky(self.rho ** (at[:, None] - at).abs()).to(dtype)
        z = torch.randn(num_prompts, num_points, self.d, generator=generator, device=device, dtype=dtype)
        return root @ z * scale

    def values(self, tasks: Tensor, xs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.gain * (xs * (tasks if tasks.ndim == 3 else tasks[:, None])).sum(-1), ()


@dataclass(frozen=True)
class MLPTasks:
    """A random network: s_0 = x, s_l = sqrt(2 / k) act(s_{l-1} W_l), y = <s_{L-1}, v>; all weights N(0, 1).

    `layers` L counts the linear output. `hidden` of the prompts are s_1 .. s_{L-1}, (B, N, k) each. Tasks are all
    weights in one row: (B, d k + (L - 2) k^2 + k). Source: the code of Li et al. 2023 (arXiv 2305.18869).
    """

    d: int
    hidden: int
    layers: int = 2
    activation: str = "relu"

    def __post_init__(self) -> None:
        check_counts(d=self.d, hidden=self.hidden)
        check_counts(2, layers=self.layers)
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation is {self.activation!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Of the matrices W_1 .. W_{L-1}, and of v as (k, 1)."""
        widths = [self.d] + [self.hidden] * (self.layers - 1) + [1]
        return list(pairwise(widths))

    def weights(self, tasks: Tensor) -> list[Tensor]:
        """The matrices of each prompt: (B, d, k), (B, k, k), ..., (B, k, 1)."""
        parts = tasks.split([rows * columns for rows, columns in self.sizes], dim=-1)
        return [part.unflatten(-1, size) for part, size in zip(parts, self.sizes, strict=True)]

    def draw(self, num_prompts: int, num_points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        size = sum(rows * columns for rows, columns in self.sizes)
        return torch.randn(num_prompts, size, generator=generator, device=generator.device, dtype=dtype)

    def values(self, tasks: Tensor, xs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        *matrices, v = self.weights(tasks)
        states = [xs]
        for matrix in matrices:
            states.append(math.sqrt(2 / self.hidden) * ACTIVATIONS[self.activation](states[-1] @ matrix))
        return (states[-1] @ v)[..., 0], tuple(states[1:])


@dataclass(frozen=True)
class SingleIndexTasks:
    """y = sum_i c_i He_i(<x, beta>) / sqrt(i!): beta uniform on the unit sphere of a subspace of R^d of dimension r.

    The subspace, the first r columns of a rotation drawn by `subspace_seed`, is the same in all prompts: what can be
    learned before the prompt is read. He_i are the probabilists' Hermite polynomials, normalised: y has variance
    sum_i c_i^2 (i >= 1) for x ~ N(0, I). Tasks are beta, (B, d).

    Args:
        coefficients: c_0, c_1, ...; (0, 0, 1) is He_2 / sqrt(2).

    Source: Oko et al. 2024 (arXiv 2411.02544); coefficients are fixed here, random there.
    """

    d: int
    r: int
    coefficients: tuple[float, ...] = (0.0, 0.0, 1.0)
    subspace_seed: int = 0

    def __post_init__(self) -> None:
        check_counts(d=self.d, r=self.r)
        if self.r > self.d:
            raise InputError(f"r is {self.r}; expected at most d = {self.d}")
        if not any(self.coefficients):
            raise InputError(f"coefficients are {self.coefficients}; expected one that is not 0")

    @property
    def basis(self) -> Tensor:
        """An orthonormal basis of the subspace: (d, r), float64."""
        generator = torch.Generator().manual_seed(self.subspace_seed)
        return torch.linalg.qr(torch.randn(self.d, self.d, generator=generator, dtype=torch.float64)).Q[:, : self.r]

    def draw(self, num_prompts: int, num_points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        z = torch.randn(num_prompts, self.r, generator=generator, device=generator.device, dtype=dtype)
        return z / z.norm(dim=-1, keepdim=True) @ self.basis.to(z).mT

    def values(self, tasks: Tensor, xs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        z = (xs * tasks[:, None]).sum(-1)
        before, current = torch.zeros_like(z), torch.ones_like(z)
        total = torch.zeros_like(z)
        for i, c in enumerate(self.coefficients):
            total = total + c / math.sqrt(math.factorial(i)) * current
            before, current = current, z * current - i * before  # He_{i+1} = z He_i - i He_{i-1}
        return total, ()


def linear_dynamics(
    num_prompts: int,
    length: int,
    *,
    d: int = 20,
    observed: int = 4,
    radius: float = 0.9,
    noise: float = 0.1,
    generator: torch.Generator,
) -> Tensor:
    """Observations (B, length, observed) of linear systems `s_{t+1} = s_t W + noise`, `y_t = s_t C`, one a prompt.

    W is Gaussian, scaled to spectral radius `radius`; C is Gaussian over sqrt(observed); s_0 = 0. With observed < d the
    state has to be inferred from a window. Defaults: the code of Li et al. 2023 (arXiv 2301.07067). float32.
    Raises `InputError` for sizes below 1 and a radius that is not in [0, 1). O(B (d^3 + length d^2)).
    """
    check_counts(num_prompts=num_prompts, length=length, d=d, observed=observed)
    check_generator(generator)
    if not 0 <= radius < 1:
        raise InputError(f"radius is {radius}; expected at least 0 and below 1")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    W = normal(num_prompts, d, d)
    W = W * (radius / torch.linalg.eigvals(W).abs().amax(-1))[:, None, None]
    C = normal(num_prompts, d, observed) / math.sqrt(observed)
    s = torch.zeros(num_prompts, 1, d, device=generator.device)
    seen = []
    for _ in range(length):
        seen.append(s @ C)
        s = s @ W + noise * normal(num_prompts, 1, d)
    return torch.cat(seen, dim=1)
