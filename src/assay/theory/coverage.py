"""Which differences between tokens a set of prompts can tell: co-occurrence graphs, and their connected parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.theory.prompts import CountedPrompts, check_tokens


@dataclass(frozen=True)
class Coverage:
    """parts: (K, K), int64: for query k, tokens i and j are in one part where `parts[k, i] == parts[k, j]`; only within
    a part do prompts tell P_ki / P_kj."""

    parts: Tensor

    @property
    def identifiable(self) -> bool:
        """Whether all tokens are connected for all queries: the condition for a consistent estimate of P."""
        return not self.missing()

    def missing(self) -> dict[int, list[list[int]]]:
        """The parts of each query that has more than one: what a prompt must bring together."""
        return {
            query: [(own == part).nonzero().squeeze(1).tolist() for part in own.unique()]
            for query, own in enumerate(self.parts)
            if bool((own != own[0]).any())
        }


def coverage(counts: Tensor, queries: Tensor) -> Coverage:
    """Coverage of prompts (n, K), given as counts, with queries (n,).

    For each query an undirected graph on the tokens has an edge where some prompt contains both. The maximum of the
    likelihood is consistent for every P if and only if each is connected: Ildiz et al. 2024 (arXiv 2402.13512); the
    definition of the graph is from memory. Raises `InputError` for no prompts, and queries outside 0..K-1. Takes
    O(n K^2 + K^3).
    """
    if counts.ndim != 2 or 0 in counts.shape or queries.shape != counts.shape[:1]:
        shapes = f"{tuple(counts.shape)} and queries {tuple(queries.shape)}"
        raise InputError(f"counts has shape {shapes}; expected (n, K) and (n,), n at least 1")
    check_tokens("queries", queries, counts.shape[1])
    has = (counts > 0).double()
    size = counts.shape[1]
    graphs = torch.stack([has[queries == k].mT @ has[queries == k] for k in range(size)])
    return Coverage(torch.stack([components(graph > 0, directed=False) for graph in graphs]))


def components(adjacency: Tensor, *, directed: bool) -> Tensor:
    """Components of a graph, (K, K), boolean: a number for each vertex (K,); strong ones where it is directed."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    graph = csr_matrix(adjacency.cpu().numpy())
    _, found = connected_components(graph, directed=directed, connection="strong")
    return torch.from_numpy(found).long().to(adjacency.device)


def check_finite(data: CountedPrompts) -> None:
    """Raises `InputError` where the likelihood of P has no unique finite maximum, and says for which tokens.

    Beside coverage: where no prompt's label is in A and another of its tokens in B, tokens of A never win against those
    of B, and the estimate of their ratio is 0 (Ford 1957).
    """
    missing = coverage(data.counts, data.queries).missing()
    for query, parts in missing.items():
        never = "never occurs" if not bool((data.queries == query).any()) else f"has no prompts that connect {parts}"
        raise InputError(f"data: query {query} {never}; expected prompts that connect all tokens, or ridge > 0")
    for query in range(data.vocab_size):
        own = data.with_query(query)
        wins = data.counts.new_zeros(data.vocab_size, data.vocab_size).index_add_(0, own.labels, own.counts)
        part = components(wins > 0, directed=True)
        if bool((part != part[0]).any()):
            parts = [(part == one).nonzero().squeeze(1).tolist() for one in part.unique()]
            expected = "expected labels for which each part wins and loses, or ridge > 0"
            raise InputError(f"data: query {query}: of {parts}, one part never wins against another; {expected}")
