"""Hankel singular values of a time-varying recurrence from its Gramians.

For `s_{i+1} = A_i s_i + B_i u_i, y_i = C_i s_i` the block `H_i = T[i:, :i]` is the product of an observability and a
controllability factor, so its singular values are those of the small matrix `G_i F_i`, where `F_i F_i^T` and
`G_i^T G_i` are the two Gramians (time-varying Hankel theory: Dewilde & van der Veen 1998). Both are carried along the
sequence, in one of two forms:

- exact: the triangular factors, by QR steps and never squared, so that errors stay at rounding times `|G_i| |F_i|`;
- approximate: the Gramians themselves, by matrix products, which resolve singular values down to about the square
  root of that.

A (..., L, N) is a diagonal transition, A (..., L, N, N) a dense one; `rank_one` = (u, w), (..., L, N) each, makes a
diagonal one `diag(A_t) + u_t w_t^T`. B and C are (..., L, N). Arguments may be float32; float64 is used inside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.operators._gramian_forms import EXACT, GRAM, Form
from assay.operators._scan import scan
from assay.operators._spectrum import Task, in_parallel, singular_values
from assay.operators._steps import Steps, Stretches

_STRETCH = 32  # steps taken as one; as many as the state is large if that is more, so that memory stays O(L N)
# bytes on a CPU: of one task, of the matrices that are solved in one call, of the factors kept until they are used
_TASK, _CACHE, _KEPT = 2**21, 2**19, 2**26
_LARGER = 2**5  # on other devices, which want few and large calls


def hankel_singular_values(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    positions: Sequence[int],
    rank_one: tuple[Tensor, Tensor] | None = None,
    *,
    pre_update: bool = True,
) -> Tensor:
    """Singular values of `T[i:, :i]` at each position: (..., P, N), float64, descending, exact to rounding.

    `pre_update`: whether the output reads the state before the step's update, `y_t = C_t s_t`, or after it.
    Complexity: O(L N^2 + P N^3) for diagonal transitions, with or without a rank-one part, and O((L + P) N^3) for
    dense ones; O(L N^3) for more than L / 2 positions. Memory besides arguments and result: O(L N) whatever the batch;
    transitions with a rank-one part are never expanded.
    If an argument requires a gradient, through the dense blocks: O(L^2 N + P L^3), for small operators.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (A, B, C, *(rank_one or ()))):
        return _differentiable(A, B, C, positions, rank_one, pre_update)
    return _profile(A, B, C, positions, rank_one, pre_update, EXACT)[0]


def approximate_hankel_singular_values(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    positions: Sequence[int],
    rank_one: tuple[Tensor, Tensor] | None = None,
    *,
    pre_update: bool = True,
) -> tuple[Tensor, Tensor]:
    """As `hankel_singular_values` but faster, with the resolution at each position: (..., P, N) and (..., P).

    A squared singular value is off by at most about `resolution^2`: those below the (absolute) resolution are noise.
    It is `6e-8 sqrt(N sum_k P_kk Q_kk)` with the Gramians P and Q: about 1e-6 of the largest singular value, but more
    where the contributions of many states cancel. Meant for entries that came in float32. Not differentiable.
    Contributions below 1e-154 underflow to 0 when they are squared.
    """
    return _profile(A, B, C, positions, rank_one, pre_update, GRAM)


@torch.no_grad()
def _profile(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    positions: Sequence[int],
    rank_one: tuple[Tensor, Tensor] | None,
    pre_update: bool,
    form: Form,
) -> tuple[Tensor, Tensor]:
    batch, (length, size) = B.shape[:-2], B.shape[-2:]
    count, where = math.prod(batch), sorted(set(positions))
    spectra = B.new_zeros(count, len(where), size, dtype=torch.float64)
    resolution = B.new_zeros(count, len(where), dtype=torch.float64)
    if where and count:
        A, B, C, *pair = (t.reshape(count, *t.shape[len(batch) :]) for t in (A, B, C, *(rank_one or ())))
        u, w = pair or (None, None)
        steps = Steps(A, B, C, u, w, pre_update)
        step = min(length, max(_STRETCH, size))
        few = len(where) <= length // 2 and 16 * size**2 * len(where) <= _KEPT
        group = max(1, _KEPT // (16 * size**2 * (len(where) if few else -(-length // step))))
        for start in range(0, count, group):
            part = slice(start, start + group)
            work = _Work(steps[part], where, step, form, spectra[part], resolution[part])
            work.at_few() if few else work.at_many()
    place = {position: k for k, position in enumerate(where)}
    order = torch.tensor([place[i] for i in positions], dtype=torch.long, device=B.device)
    number = len(positions)
    return spectra[:, order].reshape(*batch, number, size), resolution[:, order].reshape(*batch, number)


@dataclass(frozen=True)
class _Work:
    """M recurrences whose spectra at the positions `where`, (M, P, N), and resolution, (M, P), are to be filled in.

    The sequence is cut into stretches of at most `step` steps. X stands for the controllability side (`F^T`, or P), Y
    for the observability side (G, or Q), which runs backwards.
    """

    steps: Steps
    where: list[int]
    step: int
    form: Form
    spectra: Tensor
    resolution: Tensor

    def at_few(self) -> None:
        """Stretches end at every position, so that both sides are known there."""
        edges = cut([0, *self.where, self.steps.length], max(_STRETCH // 2, self._size))
        X, Y = self._sides(edges, set(self.where))
        each = max(1, self._bytes(_TASK) // (8 * self._size**2 * len(self.where)))

        def solve(start: int) -> None:
            part = slice(start, start + each)
            self.spectra[part], self.resolution[part] = self._spectrum(Y[part], X[part])

        self._in_parallel(solve, range(0, self._count, each))

    def at_many(self) -> None:
        """Both sides are known where stretches end. Within, all stretches make one step at a time, side by side."""
        edges = torch.tensor([*range(0, self.steps.length, self.step), self.steps.length])
        starts, stops, at = edges[:-1], edges[1:], torch.tensor(self.where)
        X, Y = self._sides(edges.tolist(), set(edges.tolist()))
        units = max(1, self._bytes(_TASK) // (8 * self.step * self._size**2))
        wide = max(1, min(units // self._count, -(-len(starts) // torch.get_num_threads())))
        each = max(1, units // wide)

        def solve(task: tuple[int, int]) -> None:
            m, k = slice(task[0], task[0] + each), slice(task[1], task[1] + wide)
            here = ((at > starts[k][0]) & (at <= stops[k][-1])).nonzero()[:, 0]
            stretch = torch.searchsorted(stops[k], at[here])
            forward = self.steps[m].between(starts[k], stops[k])
            backward = self.steps[m].between(starts[k], stops[k], backwards=True)
            x = self._within(forward, X[m, :-1][:, k], before=False)[:, stretch, stops[k][stretch] - at[here]]
            y = self._within(backward, Y[m, 1:][:, k], before=True)[:, stretch, at[here] - starts[k][stretch] - 1]
            self.spectra[m, here], self.resolution[m, here] = self._spectrum(y, x)

        self._in_parallel(solve, [(m, k) for m in range(0, self._count, each) for k in range(0, len(starts), wide)])

    def _sides(self, edges: list[int], wanted: set[int]) -> tuple[Tensor, Tensor]:
        """X and Y at the wanted edges: (M, W, N, N) each."""
        place = {k: n for n, k in enumerate(k for k, edge in enumerate(edges) if edge in wanted)}
        X, Y = (self.spectra.new_empty(self._count, len(place), self._size, self._size) for _ in range(2))
        starts, stops = torch.tensor(edges[:-1]), torch.tensor(edges[1:])
        dense = self.steps.A.ndim > self.steps.B.ndim
        longest = int((stops - starts).max())
        units = max(1, self._bytes(_TASK) // (32 * longest * self._size * (self._size if dense else 1)))
        each = min(units, -(-self._count // torch.get_num_threads()))
        wide = max(1, units // (2 * each))  # stretches side by side are padded to the longest, so only where few

        def run(task: tuple[int, bool]) -> None:
            part, backwards = slice(task[0], task[0] + each), task[1]
            steps, into = self.steps[part], (Y if backwards else X)[part]
            state = torch.zeros_like(into[:, 0])
            if (edge := len(starts) if backwards else 0) in place:
                into[:, place[edge]] = state
            groups = range(0, len(starts), wide)
            for first in reversed(groups) if backwards else groups:
                group = slice(first, first + wide)
                one, rows = steps.between(starts[group], stops[group], backwards=backwards).as_one()
                order = range(rows.shape[1])
                for k in reversed(order) if backwards else order:
                    state = self.form.append(state, one.stretch(k), rows[:, k])
                    edge = first + k + (0 if backwards else 1)
                    if edge in place:
                        into[:, place[edge]] = state

        self._in_parallel(run, [(m, backwards) for m in range(0, self._count, each) for backwards in (False, True)])
        return X, Y

    def _within(self, stretches: Stretches, state: Tensor, *, before: bool) -> Tensor:
        """The side before or after each step, the newest step first: (M, S, T, N, N)."""
        kept = []
        for t in reversed(range(stretches.B.shape[2])):
            after = self.form.append(state, stretches.transition(t), stretches.B[:, :, t, None, :])
            kept.append(state if before else after)
            state = after
        return torch.stack(kept[::-1], dim=2)

    def _spectrum(self, Y: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        """The form's, (M, P, N) and (M, P), in portions that stay in the cache."""
        each = max(1, self._bytes(_CACHE) // (8 * self._size**2))
        portions = zip(Y.flatten(0, 1).split(each), X.flatten(0, 1).split(each), strict=True)
        found = [self.form.spectrum(y, x) for y, x in portions]
        sigma, resolution = (torch.cat(parts) for parts in zip(*found, strict=True))
        return sigma.unflatten(0, X.shape[:2]), resolution.unflatten(0, X.shape[:2])

    def _bytes(self, on_cpu: int) -> int:
        return on_cpu if self.spectra.device.type == "cpu" else on_cpu * _LARGER

    @property
    def _count(self) -> int:
        return self.spectra.shape[0]

    @property
    def _size(self) -> int:
        return self.spectra.shape[-1]

    def _in_parallel(self, work: Callable[[Task], None], tasks: Sequence[Task]) -> None:
        in_parallel(work, tasks, device=self.spectra.device)


def cut(edges: list[int], longest: int) -> list[int]:
    """The edges, with equal steps in between that are at most `longest`."""
    found = [edges[0]]
    for start, stop in itertools.pairwise(edges):
        pieces = -(-(stop - start) // longest)
        found += [start + (stop - start) * k // pieces for k in range(1, pieces + 1)]
    return found


def _differentiable(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    positions: Sequence[int],
    rank_one: tuple[Tensor, Tensor] | None,
    pre_update: bool,
) -> Tensor:
    """Through the dense blocks, where autograd can follow."""
    length, size = B.shape[-2:]
    unit = torch.eye(length, dtype=torch.float64, device=B.device)
    T = scan(A, B, C, unit, rank_one, pre_update=pre_update)
    spectra = [singular_values(T[..., i:, :i])[..., :size] for i in positions]
    return torch.stack([torch.nn.functional.pad(s, (0, size - s.shape[-1])) for s in spectra], dim=-2)
