"""A chain that reads itself, against a loop; and the exponents of its collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay._errors import InputError
from assay.theory.ccmc_trajectory import ccmc_generate, collapse_exponents, shares, trajectory_prompts

P = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)


def test_runs_are_those_of_a_loop() -> None:
    prompts = torch.tensor([[0, 1, 2], [2, 1, 1]])

    said = ccmc_generate(P, prompts, 40, torch.Generator().manual_seed(5))

    draws = torch.rand(40, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for run in range(2):
        tokens = prompts[run].tolist()
        for step in range(40):
            weights = np.array([tokens.count(j) * float(P[tokens[-1], j]) for j in range(3)])
            u, token = float(draws[step, run]), 0
            while u >= weights[: token + 1].sum() / weights.sum():
                token += 1
            tokens.append(token)
        assert said[run].tolist() == tokens[3:]


def test_each_run_can_have_its_own_chain() -> None:
    other = P.flip(0)
    prompts = torch.tensor([[0, 1, 2]] * 2)

    together = ccmc_generate(torch.stack([P, other]), prompts, 30, torch.Generator().manual_seed(0))

    for run, p in enumerate((P, other)):
        alone = ccmc_generate(p, prompts, 30, torch.Generator().manual_seed(0))
        assert torch.equal(alone[run], together[run])


def test_a_trajectory_as_examples() -> None:
    data = trajectory_prompts(torch.tensor([0, 1]), torch.tensor([1, 0, 1]), 2)

    assert data.counts.tolist() == [[1, 1], [1, 2], [2, 2]]
    assert data.queries.tolist() == [1, 1, 0]
    assert data.labels.tolist() == [1, 0, 1]


def test_shares_are_counted() -> None:
    prompts, said = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 1, 0], [0, 0, 0]])

    found = shares(prompts, said, 2, torch.tensor([1, 3]))

    assert torch.allclose(found[0], torch.tensor([3 / 6, 3 / 6], dtype=torch.float64))
    assert torch.allclose(found[1], torch.tensor([6 / 10, 4 / 10], dtype=torch.float64))


def test_the_share_of_a_loser_falls_as_predicted_and_of_a_tie_does_not() -> None:
    slopes = []
    for odds in (0.3, 1.0):
        p = torch.tensor([[1.0, odds]] * 2).double()
        p = p / p.sum(1, keepdim=True)
        prompts = torch.tensor([[0, 1] * 5]).expand(100, -1)
        said = ccmc_generate(p, prompts, 6000, torch.Generator().manual_seed(1))
        times = torch.tensor([200, 600, 2000, 6000])
        share = shares(prompts, said, 2, times)[:, 1]
        slopes.append(np.polyfit(times.log().numpy(), share.log().numpy(), 1)[0])
        assert float(collapse_exponents(p, 0)[1]) == pytest.approx(odds - 1)

    assert abs(slopes[0] + 0.7) < 0.07
    assert abs(slopes[1]) < 0.07


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="winner is 2"):
        collapse_exponents(torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2]]), 2)
    with pytest.raises(InputError, match="winner contains token 7"):
        collapse_exponents(P, 7)
    with pytest.raises(InputError, match="p leads run 0 to a token"):
        ccmc_generate(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0, 0]]), 3, torch.Generator())
    with pytest.raises(InputError, match="expected ids from 0 to 2"):
        ccmc_generate(P, torch.tensor([[0, 5]]), 3, torch.Generator())
