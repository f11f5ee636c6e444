"""Two players, one matrix for each, many rounds: and how far from an equilibrium average play is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.online.decisions import Simplex
from assay.online.players import Agent
from assay.online.sequences import checked


class Played(NamedTuple):
    """Policies and losses of the two players, (G, T, m) and (G, T, n): the loss of an action is what it would have cost
    against the other's policy of the round."""

    row: Tensor
    column: Tensor
    row_losses: Tensor
    column_losses: Tensor


@dataclass(frozen=True)
class RepeatedMatrixGame:
    """G games at once. payoffs: (G, m, n), or (m, n) for one, what the row player gets; column_payoffs: the same for
    the column player, by default the negative (zero-sum). Both players see each other's mixed policy after each round.

    Raises `InputError` for payoffs that are not such matrices, or not finite.
    """

    payoffs: Tensor
    column_payoffs: Tensor | None = None

    def __post_init__(self) -> None:
        row = self.payoffs.double()
        column = -row if self.column_payoffs is None else self.column_payoffs.double()
        if row.ndim not in (2, 3) or row.shape != column.shape:
            shapes = tuple(row.shape), tuple(column.shape)
            raise InputError(f"payoffs and column_payoffs have shapes {shapes}; expected (G, m, n) twice")
        if not (row.isfinite().all() and column.isfinite().all()):
            raise InputError("payoffs have entries that are not finite; expected numbers")
        row, column = (one if one.ndim == 3 else one[None] for one in (row, column))
        object.__setattr__(self, "payoffs", row)
        object.__setattr__(self, "column_payoffs", column)

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        assert self.column_payoffs is not None
        return self.payoffs, self.column_payoffs

    def play(self, row: Agent, column: Agent, rounds: int) -> Played:
        """Both choose from the losses so far, at the same time. O(T^2) for agents that sum the history. Raises
        `InputError` for policies outside the simplex."""
        ours, theirs = self.both
        G, m, n = ours.shape
        x, x_losses = ours.new_zeros(2, G, rounds, m)
        y, y_losses = ours.new_zeros(2, G, rounds, n)
        for t in range(rounds):
            x[:, t] = checked(row(x_losses[:, :t]), (G, m), t + 1, Simplex())
            y[:, t] = checked(column(y_losses[:, :t]), (G, n), t + 1, Simplex())
            x_losses[:, t] = -torch.einsum("gmn,gn->gm", ours, y[:, t])
            y_losses[:, t] = -torch.einsum("gmn,gm->gn", theirs, x[:, t])
        return Played(x, y, x_losses, y_losses)

    def duality_gap(self, x: Tensor, y: Tensor) -> Tensor:
        """What the two would gain by best answers, in sum, (G,): 0 in a Nash equilibrium. x: (G, m), y: (G, n).
        Raises `InputError` for what are no policies."""
        self._check_policies(x, y, 2)
        ours, theirs = self.both
        for_row, for_column = torch.einsum("gmn,gn->gm", ours, y), torch.einsum("gmn,gm->gn", theirs, x)
        return for_row.amax(-1) + for_column.amax(-1) - (for_row * x).sum(-1) - (for_column * y).sum(-1)

    def cce_gap(self, x: Tensor, y: Tensor) -> Tensor:
        """What the better of the two would gain by one action in all rounds, on average, (G,): 0 in a coarse correlated
        equilibrium. x: (G, T, m), y: (G, T, n), policies, of which the joint play of a round is the product. It is the
        larger of the two `Regret_T / T`: Hannan consistency (Cesa-Bianchi & Lugosi 2006, section 7.4).
        Raises `InputError` for what are no policies."""
        self._check_policies(x, y, 3)
        ours, theirs = self.both
        joint = torch.einsum("gtm,gtn->gmn", x, y) / x.shape[1]
        for_row, for_column = ours @ joint.sum(-2)[..., None], joint.sum(-1)[:, None] @ theirs
        row = for_row.amax((-2, -1)) - (ours * joint).sum((-2, -1))
        return torch.maximum(row, for_column.amax((-2, -1)) - (theirs * joint).sum((-2, -1)))

    def _check_policies(self, x: Tensor, y: Tensor, ndim: int) -> None:
        games = len(self.payoffs)
        for name, policies, actions in (("x", x, self.payoffs.shape[1]), ("y", y, self.payoffs.shape[2])):
            if policies.ndim != ndim or (policies.shape[0], policies.shape[-1]) != (games, actions):
                expected = f"({games}, {'T, ' * (ndim - 2)}{actions})"
                raise InputError(f"{name} has shape {tuple(policies.shape)}; expected {expected}")
            if not bool(Simplex().contains(policies).all()):
                raise InputError(f"{name} has rows that are no policies; expected numbers of at least 0 with sum 1")


class Equilibrium(NamedTuple):
    """value: what the row player gets; x (m,), y (n,): policies that guarantee it to each."""

    value: float
    x: Tensor
    y: Tensor


def zero_sum_equilibrium(payoffs: Tensor) -> Equilibrium:
    """The exact value and equilibrium of one zero-sum game (m, n), by linear programming (scipy's HiGHS).

    Raises `InputError` where payoffs are not one matrix, or not finite.
    """
    import numpy as np
    from scipy.optimize import linprog

    if payoffs.ndim != 2 or not bool(payoffs.isfinite().all()):
        raise InputError(f"payoffs has shape {tuple(payoffs.shape)}; expected one finite matrix (m, n)")

    def side(matrix: np.ndarray) -> tuple[float, Tensor]:  # the best guarantee of the player of the rows
        m, n = matrix.shape
        found = linprog(
            c=[0.0] * m + [-1.0],
            A_ub=np.hstack([-matrix.T, np.ones((n, 1))]),
            b_ub=np.zeros(n),
            A_eq=[[1.0] * m + [0.0]],
            b_eq=[1.0],
            bounds=[(0, None)] * m + [(None, None)],
        )
        return -float(found.fun), torch.as_tensor(found.x[:-1], dtype=torch.float64, device=payoffs.device)

    matrix = payoffs.double().cpu().numpy()
    value, x = side(matrix)
    return Equilibrium(value, x, side(-matrix.T)[1])
