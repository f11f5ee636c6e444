"""The automaton that one trained layer of attention becomes: retrieve the components of highest priority, then mix.

Source: Li, Huang, Ildiz, Rawat, Oymak 2024 (arXiv 2403.08081).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.theory.choice_model import choice_log_probabilities
from assay.theory.graph_svm import cyclic_component, graph_svm
from assay.theory.priority_graphs import PriorityGraph, priority_graphs
from assay.theory.prompts import CountedPrompts, check_tokens, token_counts

TIE = 1e-6
"""Scores this near are equal; the margin is 1."""


@dataclass(frozen=True)
class Retrieval:
    """What the automaton says about one context.

    p: (K,), the law of the next token; retrieved: the tokens that it is mixed from; rivals: tokens of the context with
    none above them where these are of several components, so that the graph leaves open which is retrieved, and the
    scores of W_svm decide; empty where the graph decides. fallback: the last token was never a last token in the data,
    there is no graph, and p is how often tokens occur in the context.
    """

    p: Tensor
    retrieved: list[int]
    rivals: list[int]
    fallback: bool


@dataclass(frozen=True)
class AttentionAutomaton:
    """graphs: one for each last token of the data; scores: (K, K), `e_j^T W_svm e_k`, and theta: (K, K), the logits of
    W_fin, row k for last token k; w_svm, w_fin: (d, d)."""

    graphs: dict[int, PriorityGraph]
    scores: Tensor
    theta: Tensor
    w_svm: Tensor
    w_fin: Tensor

    def read(self, context: Tensor | Sequence[int]) -> Retrieval:
        """The next token after a context (L,) of ids. Raises `InputError` for an empty one, and unknown ids. O(K^3)."""
        tokens = torch.as_tensor(context, device=self.scores.device)
        if tokens.ndim != 1 or tokens.numel() == 0 or tokens.dtype != torch.int64:
            raise InputError(
                f"context is {tokens.dtype} of shape {tuple(tokens.shape)}; expected one or more token ids"
            )
        check_tokens("context", tokens, len(self.scores))
        counts, query = token_counts(tokens, len(self.scores)), int(tokens[-1])
        has = counts > 0
        if query not in self.graphs:
            return Retrieval(counts / counts.sum(), has.nonzero().squeeze(1).tolist(), [], True)
        graph, scores = self.graphs[query], self.scores[query]
        maximal = has & ~(graph.above & has[:, None]).any(0)
        several = len(graph.component[maximal].unique()) > 1
        kept = maximal & (scores >= scores[maximal].max() - TIE)
        p = choice_log_probabilities(self.theta[query], counts * kept).exp()
        return Retrieval(p, kept.nonzero().squeeze(1).tolist(), maximal.nonzero().squeeze(1).tolist() * several, False)


def attention_automaton(data: CountedPrompts, embeddings: Tensor) -> AttentionAutomaton:
    """The limit of one layer of attention with these embeddings (K, d), trained on the log-loss of these data, without
    training it.

    Prompts are to be counted with their last token as query, and embeddings to be independent. Orthonormal ones, such
    as `torch.eye(K)`, treat all tokens alike. For cost see `graph_svm`.
    Raises `InputError` where embeddings are not (K, d), finite and independent, and `ArithmeticError` as
    `cyclic_component`.
    """
    graphs = priority_graphs(data)
    embeddings = embeddings.double()
    w_fin, theta = cyclic_component(data, graphs, embeddings)
    w_svm = graph_svm(graphs, embeddings)
    return AttentionAutomaton(graphs, (embeddings @ w_svm @ embeddings.mT).mT, theta, w_svm, w_fin)
