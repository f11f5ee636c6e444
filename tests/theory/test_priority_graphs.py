"""Priority graphs, against networkx."""

from __future__ import annotations

import networkx
import pytest
import torch

from assay._errors import InputError
from assay.theory.priority_graphs import PriorityGraph, priority_graphs
from assay.theory.prompts import count_prompts

SIZE = 7


def random_graph(seed: int, edges: int = 9) -> tuple[PriorityGraph, networkx.DiGraph]:
    i, j = torch.randint(SIZE, (2, edges), generator=torch.Generator().manual_seed(seed))
    adjacency = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    adjacency[i, j] = True
    oracle = networkx.DiGraph()
    oracle.add_nodes_from(range(SIZE))
    oracle.add_edges_from(zip(i.tolist(), j.tolist(), strict=True))
    return PriorityGraph(adjacency), oracle


@pytest.mark.parametrize("seed", range(12))
def test_components_order_and_covering_pairs(seed: int) -> None:
    graph, oracle = random_graph(seed)

    parts = {frozenset((graph.component == part).nonzero().squeeze(1).tolist()) for part in graph.component.unique()}
    assert parts == {frozenset(part) for part in networkx.strongly_connected_components(oracle)}
    closure = networkx.transitive_closure(oracle, reflexive=True)
    above = {(i, j) for i, j in closure.edges if not closure.has_edge(j, i)}
    assert {tuple(pair) for pair in graph.above.nonzero().tolist()} == above
    condensed = networkx.condensation(oracle)
    first = {node: min(members) for node, members in condensed.nodes(data="members")}
    covering = {(first[a], first[b]) for a, b in networkx.transitive_reduction(condensed).edges}
    assert {tuple(pair) for pair in graph.covering.tolist()} == covering
    assert len(covering) <= len(above)


def test_some_random_graphs_have_cycles_and_some_pairs_are_left_out() -> None:
    graphs = [random_graph(seed)[0] for seed in range(12)]

    assert any(int(graph.component.max()) < SIZE - 1 for graph in graphs)
    assert any(len(graph.covering) < int(graph.above.sum()) for graph in graphs)


def test_edges_go_from_labels_to_prompts_of_their_last_token() -> None:
    data = count_prompts([[0, 1, 4], [2, 1, 4], [3, 3], [2, 0, 4]], [1, 2, 3, 0], SIZE)

    graphs = priority_graphs(data)

    assert set(graphs) == {3, 4}
    assert {tuple(pair) for pair in graphs[4].edges.nonzero().tolist()} == {
        (1, 0), (1, 1), (1, 4), (2, 1), (2, 2), (2, 4), (0, 2), (0, 0), (0, 4)
    }  # fmt: skip
    assert graphs[4].component[0] == graphs[4].component[1] == graphs[4].component[2]  # 1 -> 0 -> 2 -> 1
    assert graphs[4].covering.tolist() == [[0, 4]]
    assert not bool(graphs[3].above.any())


def test_labels_must_occur_in_their_prompts() -> None:
    with pytest.raises(InputError, match="which prompt 1 does not contain"):
        priority_graphs(count_prompts([[0, 1], [2, 3]], [0, 1], 4))
