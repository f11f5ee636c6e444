"""The prompt of largest margin between a selected token of each input and the other tokens; joined by a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError, max_margin
from assay.theory.selection import advantages, constraints_named


@dataclass(frozen=True)
class PromptSVM:
    """The solution `p` (d,); the multipliers `dual` and the margins `p^T (k_selected - k_it)`, both (n, T), 0 at the
    selected tokens. float64."""

    p: Tensor
    dual: Tensor
    margins: Tensor

    @property
    def margin(self) -> float:
        """`1 / ||p||`, the margin of p scaled to length 1."""
        return 1 / float(self.p.norm())


def prompt_attention_svm(X: Tensor, W: Tensor | None, selected: Tensor, nonsupport: Tensor | None = None) -> PromptSVM:
    """Solve `min ||p||` subject to `p^T (k_{i, selected_i} - k_it) >= 1` for all inputs i and other tokens t.

    X: (n, T, d), tokens, whose keys are `k_it = W^T x_it`; W: (d, d), None for the identity; selected: (n,).
    nonsupport: boolean (n,), inputs for which `>= 0` is enough (the relaxed problem of `joint_max_margin`).
    Raises `InfeasibleError` as `attention_svm`. O((n T)^2 d + (n T)^3).
    Source: Tarzanagh, Li, Zhang & Oymak 2023 (arXiv 2306.13596), problem ATT-SVM.
    """
    X = X.double()
    keys = X if W is None else X @ W.double()
    gained, others = advantages(keys, selected)
    b = torch.ones_like(gained[..., 0])
    if nonsupport is not None:
        if nonsupport.shape != selected.shape or nonsupport.dtype != torch.bool or bool(nonsupport.all()):
            raise InputError(
                f"nonsupport is {nonsupport.tolist()}; expected {len(X)} truth values, not all of them true"
            )
        b[nonsupport] = 0
    dual = torch.zeros_like(b)
    with constraints_named(others):
        found = max_margin(gained[others], b[others])
    dual[others] = found.dual
    return PromptSVM(found.w, dual, gained @ found.w)


def joint_max_margin(
    X: Tensor, y: Tensor, selected: Tensor, W: Tensor | None = None
) -> tuple[Tensor, PromptSVM, Tensor]:
    """What joint descent on a linear head v and a prompt p leads to: v (d,), the problem of p, and the support.

    v separates the selected tokens by their labels y (n,), -1 or 1, with the largest margin and no intercept. support:
    boolean (n,), the inputs at that margin; for the others p only has to prefer the selected token, `>= 0`.
    X, W: as in `prompt_attention_svm`. Source: Tarzanagh et al. 2023 (arXiv 2306.13596), section on joint convergence.
    Raises `InputError` where y is not one label, -1 or 1, for each input, and where X is not finite or has only one
    token for each input; `InfeasibleError` where no v separates the selected tokens by labels, or no p selects them.
    """
    if y.shape != selected.shape or not bool((y.abs() == 1).all()):
        raise InputError(f"y is {y.tolist()}; expected {len(X)} labels, each -1 or 1")
    advantages(X.double(), selected)  # whether the two fit
    features = X.double()[torch.arange(len(X), device=X.device), selected]
    signed = y.double()[:, None] * features
    try:
        v = max_margin(signed).w
    except InfeasibleError as error:
        reason = "expected labels of the selected tokens that one direction through 0 tells apart"
        raise InfeasibleError(f"y: {reason}", error.certificate) from None
    support = signed @ v <= 1 + 1e-6
    return v, prompt_attention_svm(X, W, selected, ~support), support
