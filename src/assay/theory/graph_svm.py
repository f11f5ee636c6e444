"""The graph SVM, and the finite part beside it: where gradient descent takes one layer of attention, solved.

`W(t) ~ R(t) W_svm + W_fin` with R(t) to infinity. Source: Li, Huang, Ildiz, Rawat, Oymak 2024 (arXiv 2403.08081).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError, dual_of_gram
from assay.theory.choice_model import choice_mle
from assay.theory.last_token_attention import tied_head
from assay.theory.priority_graphs import PriorityGraph
from assay.theory.prompts import CountedPrompts
from assay.theory.token_pairs import TokenPairs, attention_of_logits, pairs_with_first

Graphs = Mapping[int, PriorityGraph]


def strict_pairs(graphs: Graphs, embeddings: Tensor) -> TokenPairs:
    """(k, i, j) for every covering pair i => j of the graph of k."""
    pairs = [torch.nn.functional.pad(graph.covering, (1, 0), value=query) for query, graph in graphs.items()]
    return TokenPairs(torch.cat(pairs), embeddings.double())


def tied_pairs(graphs: Graphs, embeddings: Tensor) -> TokenPairs:
    """(k, i, j) for every token of a component of the graph of k and the first of that component."""
    return pairs_with_first(_components(graphs, len(embeddings)), embeddings)


def graph_svm(graphs: Graphs, embeddings: Tensor) -> Tensor:
    """W_svm (d, d), float64: the W of least Frobenius norm with `(e_i - e_j)^T W e_k >= 1` where i => j in the graph of
    k, and 0 where i and j are in one component. Zero where no token is above another.

    embeddings: (K, d); with independent rows a solution exists. Raises `InfeasibleError` where none does: its message
    names covering pairs that contradict, and its certificate has one multiplier for each row of `strict_pairs`.
    Rows are never formed; O(m^3) for m constraints.
    """
    _check(graphs, embeddings)
    strict, tied = strict_pairs(graphs, embeddings), tied_pairs(graphs, embeddings)
    if not len(strict):
        return strict.combine(strict.embeddings.new_zeros(0))
    across = tied.gram(strict)
    lift = torch.linalg.pinv(tied.gram(tied), hermitian=True) @ across  # strict rows, projected on the tied ones
    try:
        dual = dual_of_gram(strict.gram(strict) - across.mT @ lift, strict.embeddings.new_ones(len(strict)))
    except InfeasibleError as error:
        worst = error.certificate.argsort(descending=True)[:4]
        rows = strict.triples[worst[error.certificate[worst] > 1e-6 * error.certificate.max()]].tolist()
        named = ", ".join(f"{i} above {j} for last token {k}" for k, i, j in rows)
        reason = f"the graph SVM has no solution with embeddings {tuple(embeddings.shape)}; contradicting are {named}"
        raise InfeasibleError(f"{reason}. With independent embeddings it has", error.certificate) from None
    return strict.combine(dual) - tied.combine(lift @ dual)


def cyclic_prompts(data: CountedPrompts, graphs: Graphs) -> CountedPrompts:
    """The cyclic sub-dataset: each prompt with only those tokens that are in the component of its label. Its smallest
    loss is the infimum of the loss of all data."""
    of_query = _components(graphs, data.vocab_size)[data.queries]
    same = of_query == of_query.gather(1, data.labels[:, None])
    return CountedPrompts(data.counts * same, data.queries, data.labels)


def cyclic_component(data: CountedPrompts, graphs: Graphs, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """W_fin (d, d), the minimum of the log-loss of the cyclic sub-dataset on the span of all `(e_i - e_j) e_k^T` with i
    and j in one component of the graph of k; and its logits (K, K), row k for last token k.

    Components are strongly connected, so the minimum is finite, and unique. embeddings: (K, d), independent, so that
    logits can be chosen freely: it is then a choice model for each last token.
    Raises `InputError` where there are no graphs, embeddings are not (K, d), finite and independent, or data have no
    prompts for a graph; `ArithmeticError` where Newton's method does not come to the minimum, as `choice_mle`.
    """
    _check(graphs, embeddings)
    tied_head(embeddings.double())
    cyclic = cyclic_prompts(data, graphs)
    theta = data.counts.new_zeros(data.vocab_size, data.vocab_size)
    for query in graphs:
        own = cyclic.with_query(query)
        theta[query] = choice_mle(own.counts, own.labels)
    return attention_of_logits(theta, _components(graphs, data.vocab_size), embeddings), theta


def _components(graphs: Graphs, size: int) -> Tensor:
    """(K, K): the components of each last token's graph; tokens without one have each its own."""
    alone = torch.arange(size, device=next(iter(graphs.values())).edges.device)
    return torch.stack([graphs[query].component if query in graphs else alone for query in range(size)])


def _check(graphs: Graphs, embeddings: Tensor) -> None:
    if not graphs:
        raise InputError("graphs is empty; expected the graph of at least one last token")
    sizes = {len(graph.edges) for graph in graphs.values()}
    if embeddings.ndim != 2 or sizes != {len(embeddings)} or not bool(torch.isfinite(embeddings).all()):
        raise InputError(f"embeddings has shape {tuple(embeddings.shape)}; expected finite ({max(sizes)}, d)")
