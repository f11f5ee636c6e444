"""Normalised descent of last-token attention: autograd's direction, its stop at a radius, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from assay._errors import InputError
from assay.theory.graph_svm import graph_svm, strict_pairs
from assay.theory.last_token_attention import attention_law, normalised_descent
from assay.theory.priority_graphs import priority_graphs
from assay.theory.prompts import count_prompts


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    e = torch.randn(2, 5, 6, dtype=torch.float64, generator=g)
    x = torch.randint(5, (2, 7, 4), generator=g)
    return e, x, x[..., 1]


def test_a_step_is_the_normalised_gradient_of_the_log_loss() -> None:
    e, x, labels = problem()
    start = torch.randn(2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    moved = normalised_descent(e, x, labels, steps=1, lr=0.1, start=start)

    for s in range(2):
        w = start[s].clone().requires_grad_()
        law = attention_law(w, e[s], x[s])
        (-law.gather(1, labels[s][:, None]).log().sum()).backward()
        assert torch.allclose(moved[s], start[s] - 0.1 * w.grad / w.grad.norm())


def test_it_goes_on_where_the_loss_is_rounding() -> None:
    e, x, _ = problem()
    labels = x.amin(-1)  # an order, without cycles
    graphs = [priority_graphs(count_prompts(x[s], labels[s], 5)) for s in range(2)]
    start = 100 * torch.stack([graph_svm(graphs[s], e[s]) for s in range(2)])
    law = attention_law(start[0], e[0], x[0])
    assert torch.allclose(law.gather(1, labels[0][:, None]), law.new_ones(()), rtol=0, atol=1e-14)

    moved = normalised_descent(e, x, labels, steps=1, lr=0.1, start=start)

    for s in range(2):
        step, strict = moved[s] - start[s], strict_pairs(graphs[s], e[s])
        assert float(step.norm()) == pytest.approx(0.1)
        tight = strict.values(start[s]) < 100 * (1 + 1e-9)
        assert float(strict.values(step)[tight].sum()) > 0.1  # it widens the narrowest margins


def test_it_stays_in_its_ball() -> None:
    e, x, labels = problem()

    w = normalised_descent(e, x, labels, steps=300, lr=0.05, radius=torch.tensor([2.0, 100.0]).double())

    assert float(w[0].norm()) == pytest.approx(2)
    assert 2 < float(w[1].norm()) < 15.1


def test_labels_must_occur() -> None:
    e, x, _ = problem()
    with pytest.raises(InputError, match="labels has tokens that do not occur"):
        normalised_descent(e, x.clamp(max=3), torch.full((2, 7), 4), steps=1, lr=0.1)


@pytest.mark.parametrize(("name", "prompts", "labels"), [
    ("prompts", [[0, 3]], [0]), ("prompts", [[-1, 2]], [2]), ("labels", [[0, 1]], [2]),
])  # fmt: skip
def test_tokens_that_are_not_there(name: str, prompts: list[list[int]], labels: list[int]) -> None:
    embeddings = torch.eye(3, dtype=torch.float64)[None]
    with pytest.raises(InputError, match=f"{name} .*expected"):
        normalised_descent(embeddings, torch.tensor([prompts]), torch.tensor([labels]), steps=1, lr=0.1)
