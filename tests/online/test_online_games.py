"""Games against linear programming, hand-made equilibria and the definition of a coarse correlated equilibrium."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.online.games import RepeatedMatrixGame, zero_sum_equilibrium
from assay.online.players import Hedge
from assay.online.regret import regret

PENNIES = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


def payoffs(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1


def test_values_of_known_games() -> None:
    pennies = zero_sum_equilibrium(PENNIES)
    assert pennies.value == pytest.approx(0)
    torch.testing.assert_close(pennies.x, torch.full((2,), 0.5, dtype=torch.float64))
    for a, b, c, d in ((3.0, 1.0, 0.0, 2.0), (5.0, -2.0, -1.0, 4.0)):  # without a saddle point
        game = torch.tensor([[a, b], [c, d]], dtype=torch.float64)
        found = zero_sum_equilibrium(game)
        assert found.value == pytest.approx((a * d - b * c) / (a + d - b - c))
        assert RepeatedMatrixGame(game).duality_gap(found.x[None], found.y[None]).item() == pytest.approx(0, abs=1e-9)
    saddle = torch.tensor([[2.0, 3.0], [1.0, 0.0]])
    assert zero_sum_equilibrium(saddle).value == pytest.approx(2)


def test_the_duality_gap_is_what_best_answers_gain() -> None:
    A, B = payoffs(2, 4, 3, 2)
    x, y = payoffs(4, 3).softmax(-1), payoffs(4, 2).softmax(-1)
    found = RepeatedMatrixGame(A, B).duality_gap(x, y)
    for g in range(4):
        row, column = (A[g] @ y[g]).max() - x[g] @ A[g] @ y[g], (x[g] @ B[g]).max() - x[g] @ B[g] @ y[g]
        torch.testing.assert_close(found[g], row + column)


def test_the_cce_gap_is_the_largest_average_regret_and_is_zero_for_a_correlated_equilibrium() -> None:
    A, B = payoffs(2, 3, 3, 3)
    game = RepeatedMatrixGame(A, B)
    played = game.play(Hedge(0.9, anytime=True), Hedge(0.3, anytime=True), 50)
    row, column = regret(played.row_losses, played.row), regret(played.column_losses, played.column)
    torch.testing.assert_close(game.cce_gap(played.row, played.column), torch.maximum(row, column)[:, -1] / 50)

    chicken = torch.tensor([[0.0, 7.0], [2.0, 6.0]], dtype=torch.float64)
    turns = torch.eye(2, dtype=torch.float64)[None]  # both pure equilibria in turn: correlated, not a Nash equilibrium
    symmetric = RepeatedMatrixGame(chicken, chicken.mT)
    assert symmetric.cce_gap(turns, turns.flip(1)).item() <= 0
    assert symmetric.cce_gap(turns, turns).item() == pytest.approx(1)  # both the same: not
    assert symmetric.duality_gap(turns.mean(1), turns.flip(1).mean(1)).item() > 0.4


def test_average_play_of_hedge_nears_the_equilibrium() -> None:
    game, rate = RepeatedMatrixGame(payoffs(6, 3, 3)), Hedge.best_rate(3, 2)
    played = game.play(Hedge(rate, anytime=True), Hedge(rate, anytime=True), 1000)
    early, late = (
        game.duality_gap(played.row[:, :T].mean(1), played.column[:, :T].mean(1)).mean() for T in (100, 1000)
    )
    assert late < 0.4 * early
    bound = 2 * (math.sqrt(2 * 1000 * math.log(3)) + math.sqrt(math.log(3) / 8)) / 1000
    assert late < 2 * bound
    x, y = played.row.mean(1), played.column.mean(1)
    for g, matrix in enumerate(game.payoffs):
        assert (x[g] @ matrix @ y[g]).item() == pytest.approx(zero_sum_equilibrium(matrix).value, abs=2 * bound)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="payoffs and column_payoffs have shapes"):
        RepeatedMatrixGame(PENNIES, torch.ones(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        RepeatedMatrixGame(PENNIES * torch.inf)
    with pytest.raises(ValueError, match="policy in round 1"):
        RepeatedMatrixGame(PENNIES).play(lambda h: h.new_ones(1, 2), Hedge(1.0), 3)
    with pytest.raises(ValueError, match="expected one finite matrix"):
        zero_sum_equilibrium(torch.ones(3))


def test_gaps_are_of_policies() -> None:
    game, fair = RepeatedMatrixGame(torch.eye(2)), torch.full((1, 2), 0.5)
    with pytest.raises(InputError, match="x has rows that are no policies"):
        game.duality_gap(2 * fair, fair)
    with pytest.raises(InputError, match=r"y has shape \(1, 3\); expected \(1, 2\)"):
        game.duality_gap(fair, torch.full((1, 3), 1 / 3))
    with pytest.raises(InputError, match=r"x has shape \(1, 2\); expected \(1, T, 2\)"):
        game.cce_gap(fair, fair)
