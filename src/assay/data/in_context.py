"""Prompts of examples: tasks x inputs x noise. In each prompt a task is drawn, then inputs, then what the task makes of
them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number


class Prompts(NamedTuple):
    """B prompts of N examples, the last of which usually is the query. float32 unless the sampler says otherwise.

    xs: (B, N, d); ys: (B, N), with noise, or (B, N, p) where values are vectors; clean: the same without; tasks:
    (B, ...), what the family of tasks draws for a prompt, such as the weights (B, d); hidden: activations on the way
    from xs to ys, (B, N, k) each, if any.
    """

    xs: Tensor
    ys: Tensor
    clean: Tensor
    tasks: Tensor
    hidden: tuple[Tensor, ...] = ()


class Tasks(Protocol):
    """A family of tasks over inputs in R^d.

    `d`: the size of an input. `draw`: a task for each of B = num_prompts prompts of N = num_points examples, (B, ...),
    of that dtype and on the device of the generator.
    """

    @property
    def d(self) -> int: ...
    def draw(self, num_prompts: int, num_points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor: ...
    def values(self, tasks: Tensor, xs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, N) or (B, N, p) for the inputs (B, N, d), and hidden activations."""


class Inputs(Protocol):
    """A law of the inputs, which may depend on the task."""

    def draw(self, tasks: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """(B, N, d), of the dtype and on the device of `tasks`."""


@dataclass(frozen=True)
class InContext:
    """A sampler of prompts: `InContext(LinearTasks(5), GaussianInputs(), noise=0.5).sample(64, 11, generator=g)`.

    Args:
        noise: standard deviation of what is added to the values.
        dtype: of everything that is drawn.
    """

    tasks: Tasks
    inputs: Inputs
    noise: float = 0.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_number("noise", self.noise)
        if self.noise < 0:
            raise InputError(f"noise is {self.noise}; expected a standard deviation of at least 0")

    def sample(self, num_prompts: int, num_points: int, *, generator: torch.Generator) -> Prompts:
        """`Prompts` of N = num_points examples each, on the device of the generator, which alone makes the draws."""
        check_counts(num_prompts=num_prompts, num_points=num_points)
        check_generator(generator)
        tasks = self.tasks.draw(num_prompts, num_points, generator, self.dtype)
        xs = self.inputs.draw(tasks, (num_prompts, num_points, self.tasks.d), generator)
        clean, hidden = self.tasks.values(tasks, xs)
        noise = torch.randn(clean.shape, generator=generator, device=generator.device, dtype=self.dtype)
        return Prompts(xs, clean + self.noise * noise, clean, tasks, hidden)


@dataclass(frozen=True)
class GaussianInputs:
    """x = root z, z ~ N(0, I_d): root (d, d), the identity by default. Independent of the task."""

    root: Tensor | None = None

    def draw(self, tasks: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        z = _normal(shape, tasks, generator)
        return z if self.root is None else z @ self.root.to(z).mT


@dataclass(frozen=True)
class RetrievedInputs:
    """Retrieval: the query, the last input, is x ~ N(0, I); the others are N(alpha x, (1 - alpha^2) I).

    0 <= alpha <= 1. Source: Li, Rawat & Oymak 2024 (arXiv 2407.10005), the setting of retrieval augmentation.
    """

    alpha: float

    def __post_init__(self) -> None:
        _check_unit("alpha", self.alpha)

    def draw(self, tasks: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        z = _normal(shape, tasks, generator)
        query = z[:, -1:]
        return torch.cat([self.alpha * query + (1 - self.alpha**2) ** 0.5 * z[:, :-1], query], dim=1)


@dataclass(frozen=True)
class AlignedInputs:
    """Inputs that know the task: x ~ N(alpha beta, I), beta the task's weights (B, d).

    Source: Li, Rawat & Oymak 2024 (arXiv 2407.10005), the setting of task-feature alignment; there values are divided
    by sqrt(alpha^2 d + 1), as `LinearTasks(gain=...)` does.
    """

    alpha: float

    def draw(self, tasks: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        if tasks.shape != (shape[0], shape[2]):
            raise InputError(f"tasks have shape {tuple(tasks.shape)}; expected one vector of weights for each prompt")
        return self.alpha * tasks[:, None] + _normal(shape, tasks, generator)


def ill_conditioned(d: int, *, ratio: float = 10.0, seed: int = 42) -> GaussianInputs:
    """Inputs `g T`, `T = U diag(s) U^T sqrt(d / sum s^2)`: s is `ratio` in the first half of the coordinates, 1 in the
    rest, so that the covariance has condition number ratio^2 and trace d. U is a random rotation.

    Published: d = 20, ratio = 10, seed 42 for the rotation at evaluation. Source: the code of Fu et al. 2023 (arXiv
    2310.17086).
    """
    check_counts(2, d=d)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    s = torch.where(torch.arange(d) < d // 2, ratio, 1.0).double()
    return GaussianInputs((rotation * s @ rotation.mT) * (d / s.square().sum()).sqrt())


def interleave(xs: Tensor, ys: Tensor) -> Tensor:
    """`x_1, y_1, x_2, y_2, ...`: (B, 2 N, d), a y in the first coordinate with zeros behind it. Source: the code of
    Garg et al. 2022 (arXiv 2208.01066)."""
    padded = torch.cat([ys[..., None], torch.zeros_like(xs[..., 1:])], dim=-1)
    return torch.stack([xs, padded], dim=2).flatten(1, 2)


def stack_prompt(xs: Tensor, ys: Tensor) -> Tensor:
    """Rows `(x_i, y_i)`, the last with 0 in the place of its y: (B, N, d + 1)."""
    known = torch.cat([ys[:, :-1], torch.zeros_like(ys[:, -1:])], dim=1)
    return torch.cat([xs, known[..., None]], dim=-1)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype)


def _check_unit(name: str, value: float) -> None:
    check_number(name, value)
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; expected a number from 0 to 1")
