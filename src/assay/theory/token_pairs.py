"""Differences of logits, `(e_i - e_j)^T W e_k`, as linear functions of W, without the matrix of their coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenPairs:
    """m functions of W (d, d): row (k, i, j) of `triples` (m, 3), int64, is `<(e_i - e_j) e_k^T, W>`.

    embeddings: E (K, d). Inner products of such rank-one rows are products of inner products of embeddings, so that
    nothing of size m d^2 is built. float64.
    """

    triples: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.triples)

    def gram(self, other: TokenPairs) -> Tensor:
        """Inner products of the rows of both, (m, m')."""
        g = self.embeddings @ self.embeddings.mT
        k, i, j = self.triples.unbind(1)
        l, a, b = other.triples.unbind(1)  # noqa: E741
        return (g[i][:, a] - g[i][:, b] - g[j][:, a] + g[j][:, b]) * g[k][:, l]

    def values(self, w: Tensor) -> Tensor:
        """The functions at W, (m,)."""
        logits = self.embeddings @ w @ self.embeddings.mT
        k, i, j = self.triples.unbind(1)
        return logits[i, k] - logits[j, k]

    def combine(self, coefficients: Tensor) -> Tensor:
        """`sum_r c_r (e_i - e_j) e_k^T`, (d, d): the adjoint of `values`. coefficients: (m,)."""
        k, i, j = self.triples.unbind(1)
        size = len(self.embeddings)
        of_tokens = self.embeddings.new_zeros(size, size)
        of_tokens.index_put_((i, k), coefficients, accumulate=True)
        of_tokens.index_put_((j, k), -coefficients, accumulate=True)
        return self.embeddings.mT @ of_tokens @ self.embeddings

    def smallest(self, values: Tensor) -> Tensor:
        """The W of least norm with these values (m,), in the least-squares sense where none has them. O(m^3)."""
        return self.combine(torch.linalg.pinv(self.gram(self), hermitian=True) @ values)

    def project(self, w: Tensor) -> Tensor:
        """The orthogonal projection of W on the span of the rows."""
        return self.smallest(self.values(w))


def pairs_with_first(groups: Tensor, embeddings: Tensor) -> TokenPairs:
    """For groups (K, K), in which tokens i and j are in one group of query k where `groups[k, i] == groups[k, j]`: each
    token but the first of its group against that first. A basis of all differences within groups, where the embeddings
    are independent."""
    size = groups.shape[-1]
    same = groups[:, :, None] == groups[:, None, :]
    first = same.double().argmax(-1)  # the smallest token of each token's group
    k, i = (first != torch.arange(size, device=groups.device)).nonzero().unbind(1)
    return TokenPairs(torch.stack([k, i, first[k, i]], 1), embeddings.double())


def attention_of_logits(theta: Tensor, groups: Tensor, embeddings: Tensor) -> Tensor:
    """The W (d, d) of least norm for which the differences of `e_j^T W e_k` within groups are those of theta (K, K),
    row k for query k. groups: as for `pairs_with_first`; such are the parts of a `Coverage`. O(K^6) at most."""
    pairs = pairs_with_first(groups, embeddings)
    k, i, j = pairs.triples.unbind(1)
    return pairs.smallest(theta[k, i] - theta[k, j])
