"""The graph SVM and the finite part, against dense problems with all pairs, and against a general solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError, max_margin
from assay.theory.graph_svm import cyclic_component, cyclic_prompts, graph_svm, strict_pairs, tied_pairs
from assay.theory.last_token_attention import attention_law
from assay.theory.priority_graphs import PriorityGraph, priority_graphs
from assay.theory.prompts import CountedPrompts, count_prompts
from assay.theory.token_pairs import TokenPairs

SIZE, WIDTH = 5, 6


def problem(seed: int, samples: int = 10) -> tuple[CountedPrompts, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    e = torch.randn(SIZE, WIDTH, dtype=torch.float64, generator=g)
    x = torch.randint(SIZE, (samples, 4), generator=g)
    x[:, -1] %= 2  # few last tokens, so that there are cycles
    labels = x.gather(1, torch.randint(4, (samples, 1), generator=g)).squeeze(1)
    return count_prompts(x, labels, SIZE), e, x


def dense(triples: list[tuple[int, int, int]], e: Tensor) -> Tensor:
    rows = [torch.outer(e[i] - e[j], e[k]).flatten() for k, i, j in triples]
    return torch.stack(rows) if rows else e.new_zeros(0, e.shape[1] ** 2)


def all_pairs(data: CountedPrompts) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Every (k, i, j) with i => j, and every one with i ~ j, by walking the graph."""
    strict, tied = [], []
    for k in set(data.queries.tolist()):
        follows = {i: set() for i in range(SIZE)}
        own = data.queries == k
        for count, label in zip(data.counts[own].tolist(), data.labels[own].tolist(), strict=True):
            follows[label] |= {j for j in range(SIZE) if count[j] > 0}
        for _ in range(SIZE):
            for i in follows:
                follows[i] = follows[i].union(*(follows[j] for j in follows[i]))
        for i in range(SIZE):
            for j in follows[i] - {i}:
                (tied if i in follows[j] else strict).append((k, i, j))
    return strict, tied


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_max_margin_solution_with_all_pairs(seed: int) -> None:
    data, e, _ = problem(seed)
    strict, tied = all_pairs(data)

    w = graph_svm(priority_graphs(data), e)

    assert torch.allclose(w.flatten(), max_margin(dense(strict, e), equality=dense(tied, e)).w, atol=1e-9)
    assert (dense(strict, e) @ w.flatten()).min() >= 1 - 1e-9
    assert not tied or (dense(tied, e) @ w.flatten()).abs().max() <= 1e-9


def test_the_problems_have_ties_and_order() -> None:
    both = [all_pairs(problem(seed)[0]) for seed in range(8)]

    assert sum(bool(strict and tied) for strict, tied in both) >= 4


def test_reversed_priorities_reverse_the_weights_and_order_matters() -> None:
    data, e, _ = problem(0)
    graphs = priority_graphs(data)

    w = graph_svm(graphs, e)

    assert torch.allclose(graph_svm({k: PriorityGraph(g.edges.mT) for k, g in graphs.items()}, e), -w, atol=1e-9)
    assert w.norm() > 0.1


def test_pairs_are_the_rows_that_they_stand_for() -> None:
    data, e, _ = problem(1)
    graphs = priority_graphs(data)
    strict, tied = strict_pairs(graphs, e), tied_pairs(graphs, e)
    a, c = (dense([(k, i, j) for k, i, j in pairs.triples.tolist()], e) for pairs in (strict, tied))
    w = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(strict.gram(tied), a @ c.mT)
    assert torch.allclose(strict.values(w), a @ w.flatten())
    v = torch.arange(len(strict), dtype=torch.float64)
    assert torch.allclose(strict.combine(v).flatten(), v @ a)
    within = tied.project(w)
    assert torch.allclose(c @ within.flatten(), c @ w.flatten())
    assert torch.allclose(tied.project(within), within)
    assert abs(float(((w - within) * within).sum())) <= 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_the_finite_part_is_the_minimum_on_its_span(seed: int) -> None:
    data, e, x = problem(seed, samples=14)
    _, tied = all_pairs(data)
    graphs = priority_graphs(data)
    basis = torch.linalg.svd(dense(tied, e), full_matrices=False)
    basis = basis.Vh[basis.S > 1e-9]

    def loss(w: Tensor) -> Tensor:
        """Of the cyclic sub-dataset, by attention itself: positions outside the component of the label are left out."""
        component = {k: graph.component for k, graph in graphs.items()}
        total = w.new_zeros(())
        for row, label in zip(x, data.labels, strict=True):
            part = component[int(row[-1])]
            kept = row[part[row] == part[label]]
            total = total - attention_law(w, e, kept[None], row[-1:])[0, label].log()
        return total

    def by_coordinates(u: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.tensor(u, requires_grad=True)
        value = loss((v @ basis).reshape(WIDTH, WIDTH))
        value.backward()
        return float(value.detach()), v.grad.numpy()

    w, theta = cyclic_component(data, graphs, e)

    found = minimize(by_coordinates, np.zeros(len(basis)), jac=True, method="BFGS", options={"gtol": 1e-7})
    assert torch.allclose(w.flatten(), torch.tensor(found.x) @ basis, atol=1e-5)
    gradient = by_coordinates((basis @ w.flatten()).numpy())[1]
    assert np.abs(gradient).max() <= 1e-8 * len(x)  # optimal to first order
    logits = (e @ w @ e.mT).mT
    cyclic = cyclic_prompts(data, graphs)
    law, of_theta = ((t[cyclic.queries].exp() * cyclic.counts) for t in (logits, theta))
    assert torch.allclose(law / law.sum(1, keepdim=True), of_theta / of_theta.sum(1, keepdim=True))


def test_without_cycles_there_is_no_finite_part_and_without_order_no_direction() -> None:
    e = torch.eye(3, dtype=torch.float64)
    ordered = count_prompts([[0, 1, 2], [1, 2]], [0, 1], 3)
    cycle = count_prompts([[0, 1], [1, 0, 1]], [0, 0], 2)
    tied = count_prompts([[0, 1], [0, 1]], [0, 1], 2)

    assert cyclic_component(ordered, priority_graphs(ordered), e)[0].norm() == 0
    assert graph_svm(priority_graphs(ordered), e).norm() > 0
    assert graph_svm(priority_graphs(tied), e[:2]).norm() == 0
    assert graph_svm(priority_graphs(cycle), e[:2]).norm() > 0  # the control


def test_infeasible_problems_say_which_pairs_and_carry_a_certificate() -> None:
    # 0 above 1 for one last token, 1 above 0 for the other, whose embeddings are equal
    data = count_prompts([[0, 1, 2], [0, 1, 3]], [0, 1], 4)
    e = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    graphs = priority_graphs(data)

    with pytest.raises(InfeasibleError, match="0 above 1 for last token 2") as caught:
        graph_svm(graphs, e)

    y, strict = caught.value.certificate, strict_pairs(graphs, e)
    assert "1 above 0 for last token 3" in str(caught.value)
    assert bool((y >= 0).all())
    assert float(y.sum()) == pytest.approx(1)
    assert strict.combine(y).abs().max() <= 1e-9
    e[3] = torch.tensor([0.1, 1])  # still two dimensions, but now there is a solution
    assert (strict_pairs(graphs, e).values(graph_svm(graphs, e)) >= 1 - 1e-9).all()


def test_what_cannot_be_used() -> None:
    data, e, _ = problem(0)
    graphs = priority_graphs(data)

    with pytest.raises(InputError, match="graphs is empty"):
        graph_svm({}, e)
    with pytest.raises(InputError, match=r"embeddings has shape \(4, 6\); expected finite \(5, d\)"):
        graph_svm(graphs, e[:4])
    with pytest.raises(InputError, match="independent rows"):
        cyclic_component(data, graphs, e[:, :3])
    assert len(TokenPairs(torch.zeros(0, 3, dtype=torch.int64), e)) == 0
