"""What attention converges to where it keeps several tokens of an input: a finite part and a direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import max_margin
from assay.theory.selection import advantages, constraints_named


@dataclass(frozen=True)
class MultiTokenSVM:
    """`finite` sets the ratios among the tokens that are kept, `direction` parts them from the rest; both (d, e)."""

    finite: Tensor
    direction: Tensor

    def nearest(self, W: Tensor) -> Tensor:
        """`finite + R direction` for the R at which it is nearest to W (d, e)."""
        R = (self.direction * (W - self.finite)).sum() / self.direction.square().sum()
        return self.finite + R * self.direction


def multi_token_svm(X: Tensor, Z: Tensor, attention: Tensor, threshold: float = 1e-3) -> MultiTokenSVM:
    """The two parts of the limit of attention (n, T) that keeps the tokens O_i with a weight of at least `threshold`.

    `finite`: min ||W||_F with `(x_it - x_it')^T W z_i = log(s_it / s_it')` for t, t' in O_i. `direction`: min ||W||_F
    with `(x_it - x_it')^T W z_i = 0` for t, t' in O_i, and `>= 1` for t in O_i and t' not. X: (n, T, d); Z: (n, e).
    O((n T)^2 d e) and a matrix (d e, d e). Raises `InfeasibleError`, as `attention_svm`, and `InputError` where no
    token has a weight below the threshold, or where no W has these ratios.
    Source: Tarzanagh et al. 2023 (arXiv 2308.16898), generalised equivalence for nonlinear heads.
    """
    X, Z, attention = X.double(), Z.double(), attention.double()
    if attention.shape != X.shape[:2] or Z.shape[:1] != X.shape[:1]:
        raise InputError(
            f"attention has shape {tuple(attention.shape)} and Z {tuple(Z.shape)}; expected {tuple(X.shape[:2])} and "
            f"({len(X)}, e)"
        )
    top = attention.argmax(-1)
    gained, others = advantages(X, top)
    kept, dropped = (attention >= threshold) & others, attention < threshold
    if not bool(dropped.any()):
        raise InputError(
            f"attention is {float(attention.min()):g} or more; expected some below threshold {threshold:g}"
        )
    rows = (gained[..., None] * Z[:, None, None]).flatten(2)  # (n, T, d e)
    ratios = (attention.gather(-1, top[:, None]) / attention)[kept].log()
    finite = torch.linalg.pinv(rows[kept]) @ ratios
    if not torch.allclose(rows[kept] @ finite, ratios, rtol=1e-6, atol=1e-6):
        raise InputError(
            "attention has ratios among the tokens it keeps that no W gives; expected those of one softmax(X W z)"
        )
    with constraints_named(dropped, "attention"):
        direction = max_margin(rows[dropped], equality=rows[kept]).w
    shape = X.shape[-1], Z.shape[-1]
    return MultiTokenSVM(finite.reshape(shape), direction.reshape(shape))
