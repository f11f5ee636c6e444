"""Attention of one query over the tokens of each input: `softmax(X_i W z_i)`, or `softmax(X_i W p)` with a prompt p."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay._errors import InputError


class LinearHead(nn.Module):
    """`v^T pooled`: (..., n, d) -> (..., n). v: (..., d), a parameter if `trained`."""

    def __init__(self, v: Tensor, *, trained: bool = False) -> None:
        super().__init__()
        self.v = nn.Parameter(v.clone(), requires_grad=trained)

    def forward(self, pooled: Tensor) -> Tensor:
        return torch.einsum("...id,...d->...i", pooled, self.v)


class PooledAttention(nn.Module):
    """What the two have in common: tokens are pooled with the softmax of `logits`, and the head makes a number of them.

    head: (..., n, d) -> (..., n), any callable. Attention weights of the last forward pass are in `attention`.
    """

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head = head
        self.attention: Tensor | None = None

    def logits(self, X: Tensor, *queries: Tensor) -> Tensor:
        """(..., n, T), before the softmax, for X (..., n, T, d) and the queries that a subclass takes. Each subclass
        gives its own; here it raises `NotImplementedError`."""
        raise NotImplementedError

    def forward(self, X: Tensor, *queries: Tensor) -> Tensor:
        """X: (..., n, T, d), and the queries of `logits`; returns (..., n)."""
        s = self.logits(X, *queries).softmax(-1)
        self.attention = s.detach()
        return self.head(torch.einsum("...it,...itd->...id", s, X))


class SingleQueryAttention(PooledAttention):
    """`head(X_i^T softmax(X_i W z_i))`, with W (d, d) trained as it is or as `K Q^T`, K and Q (d, rank).

    runs: shape of leading axes, for independent runs side by side: X (*runs, n, T, d), z (*runs, n, d). Entries start
    uniform in +-1/sqrt(d). Source: Tarzanagh et al. 2023 (arXiv 2308.16898).
    """

    W: nn.Parameter
    K: nn.Parameter
    Q: nn.Parameter

    def __init__(
        self,
        d: int,
        head: Callable[[Tensor], Tensor],
        *,
        factored: bool = False,
        rank: int | None = None,
        runs: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(head)
        if rank is not None and not (factored and rank >= 1):
            raise InputError(f"rank is {rank} with factored={factored}; expected 1 or more, of K and Q only")
        names, width = (("K", "Q"), rank or d) if factored else (("W",), d)
        for name in names:
            start = torch.empty(*runs, d, width, dtype=dtype).uniform_(-(d**-0.5), d**-0.5)
            self.register_parameter(name, nn.Parameter(start))
        self.factored = factored

    @property
    def matrix(self) -> Tensor:
        """W, (*runs, d, d)."""
        return self.K @ self.Q.mT if self.factored else self.W

    def logits(self, X: Tensor, *queries: Tensor) -> Tensor:
        """`X_i W z_i`, (*runs, n, T), for X (*runs, n, T, d) and one tensor of queries z, (*runs, n, d)."""
        (Z,) = queries
        return torch.einsum("...itd,...de,...ie->...it", X, self.matrix, Z)


class PromptAttention(PooledAttention):
    """`head(X_i^T softmax(X_i W p))`: the prompt p (d,) is trained, W (d, d) is fixed (None: the identity).

    p: its start, (*runs, d). Source: Tarzanagh et al. 2023 (arXiv 2306.13596).
    """

    def __init__(self, p: Tensor, head: Callable[[Tensor], Tensor], W: Tensor | None = None) -> None:
        super().__init__(head)
        self.p = nn.Parameter(p.clone())
        self.register_buffer("W", W)

    def logits(self, X: Tensor, *queries: Tensor) -> Tensor:  # noqa: ARG002
        """`X_i W p`, (*runs, n, T), for X (*runs, n, T, d). Takes no account of queries."""
        keys = X if self.W is None else torch.einsum("...itd,...de->...ite", X, self.W)
        return torch.einsum("...itd,...d->...it", keys, self.p)
