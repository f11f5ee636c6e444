"""The attention matrix of largest margin between a selected token of each input and the other tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import dual_of_gram
from assay.theory.nuclear_svm import nuclear_max_margin
from assay.theory.selection import advantages, constraints_named

Norm = Literal["fro", "nuc"]


@dataclass(frozen=True)
class AttentionSVM:
    """The solution `W` (d, e) and its norm; the multipliers `dual` and the margins
    `(x_selected - x_it)^T W z_i`, both (n, T), 0 at the selected tokens. float64."""

    W: Tensor
    norm: float
    dual: Tensor
    margins: Tensor

    @property
    def margin(self) -> float:
        """`1 / ||W||`: the margin of W scaled to norm 1."""
        return 1 / self.norm


def attention_svm(X: Tensor, Z: Tensor, selected: Tensor, norm: Norm = "fro") -> AttentionSVM:
    """Solve `min ||W||` subject to `(x_{i, selected_i} - x_it)^T W z_i >= 1` for all inputs i and other tokens t.

    X: (n, T, d), tokens; Z: (n, e), queries (in self-attention a row of each X_i); selected: (n,). norm: "fro" for the
    Frobenius norm, which descent on W leads to; "nuc" for the nuclear norm, which descent on `W = K Q^T` leads to, to a
    relative gap of 1e-6. The m x d e matrix of the n (T - 1) = m constraints is not formed: O(m^2 d + m^3).

    Raises `InfeasibleError`, with the constraints that contradict each other, where no W selects these tokens; two
    equal tokens of an input are such a case. For generic tokens and queries there is one where `d >= max(T - 1, n)`.
    Source: Tarzanagh, Li, Thrampoulidis & Oymak 2023 (arXiv 2308.16898), problems Att-SVM and Att-SVM*.
    """
    if norm not in ("fro", "nuc"):
        raise InputError(f"norm is {norm!r}; expected fro or nuc")
    gained, others = advantages(X.double(), selected)
    if Z.ndim != 2 or len(Z) != len(X) or not bool(torch.isfinite(Z).all()):
        raise InputError(f"Z has shape {tuple(Z.shape)}; expected ({len(X)}, e), a query for each input, all finite")
    left, right = gained[others], Z.double()[:, None].expand(-1, X.shape[1], -1)[others]
    b = torch.ones_like(left[:, 0])
    with constraints_named(others):
        if norm == "nuc":
            W, found = nuclear_max_margin(left, right, b)
            size = float(torch.linalg.svdvals(W).sum())
        else:
            found = dual_of_gram((left @ left.mT) * (right @ right.mT), b)
            W = left.mT @ (found[:, None] * right)
            size = float(W.norm())
    dual = torch.zeros_like(gained[..., 0])
    dual[others] = found
    return AttentionSVM(W, size, dual, torch.einsum("itd,de,ie->it", gained, W, Z.double()))
