"""Token-priority graphs: which token attention prefers to which, read off a data set of (prompt, next token).

Source: Li, Huang, Ildiz, Rawat, Oymak 2024, *Mechanics of Next Token Prediction with Self-Attention* (arXiv
2403.08081).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.theory.coverage import components
from assay.theory.prompts import CountedPrompts


@dataclass(frozen=True)
class PriorityGraph:
    """The graph of one last token, with an edge from the label of each of its prompts to every token of that prompt.

    edges: (K, K), boolean, `edges[i, j]` for i -> j. Tokens that no such prompt has are components of their own, above
    and below nothing.
    """

    edges: Tensor

    @cached_property
    def component(self) -> Tensor:
        """(K,), int64: the number of each token's strongly connected component."""
        return components(self.edges, directed=True)

    @cached_property
    def reaches(self) -> Tensor:
        """(K, K), boolean: whether j can be reached from i in no or more steps. O(K^3 log K)."""
        reach = self.edges | torch.eye(len(self.edges), dtype=torch.bool, device=self.edges.device)
        for _ in range((len(reach) - 1).bit_length()):
            reach = _product(reach, reach)
        return reach

    @cached_property
    def above(self) -> Tensor:
        """(K, K), boolean: i => j, j can be reached from i and not i from j. A partial order of components."""
        reach = self.reaches
        return reach & ~reach.mT

    @cached_property
    def covering(self) -> Tensor:
        """(m, 2), int64: pairs i => j with nothing between, each component by its smallest token. The transitive
        reduction of the order: the margins of all other pairs follow, since margins add."""
        component = self.component
        first = (component[:, None] == component).double().argmax(1)  # the smallest token of each token's component
        is_first = first == torch.arange(len(first), device=first.device)
        order = self.above & is_first[:, None] & is_first
        return (order & ~_product(order, order)).nonzero()


def priority_graphs(data: CountedPrompts) -> dict[int, PriorityGraph]:
    """The graph of each last token that the data have. O(n K)."""
    graphs = {}
    for query in data.queries.unique().tolist():
        own = data.with_query(query)
        seen = data.counts.new_zeros(data.vocab_size, data.vocab_size).index_add_(0, own.labels, own.counts)
        graphs[query] = PriorityGraph(seen > 0)
    return graphs


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a.double() @ b.double() > 0
