"""How sharply attention looks, and at what: entropy per head and query, and the mass on two special keys.

All functions read attention weights, that is probabilities after the softmax, of shape (..., L, K): L queries, K
keys, any leading batch dimensions (B, H). They compute in float32, or float64 where the weights are: half precision
would lose the small weights whose sum makes most of the entropy of a flat row, while float32 is exact to about 1e-6
nats.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from assay._errors import InputError

REGIMES = ("collapse", "low", "high", "overload")


def attention_entropy(weights: Tensor) -> Tensor:
    """Shannon entropy of every row of attention, in nats.

    `H_i = -sum_j p_ij ln p_ij` with `p_ij = w_ij / sum_k w_ik` and 0 ln 0 = 0 (Zhai et al. 2023, arXiv 2303.06296).
    No epsilon is added inside the logarithm. A row that sums to less than 1 because a column was dropped (an
    attention sink) is renormalised first: the result is the entropy over the keys that are left. A row without any
    mass gives NaN.

    `weights`: (..., L, K), floating point, >= 0. Returns (..., L), between 0 and ln K, in float32 or float64 (see
    the module). Differentiable; the gradient to a weight of exactly 0 (a masked key) is taken as 0, where the true one
    is infinite, so that training through a causal softmax stays finite.

    Raises `InputError` where `weights` has fewer than two dimensions, is not floating point, is negative, or holds NaN
    or infinity. O(L K) time; memory of about three copies of `weights`.

    >>> attention_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    _check_weights(weights)
    wide = weights if weights.dtype == torch.float64 else weights.float()
    p = wide / wide.sum(-1, keepdim=True)
    # entr(1) = entr(0) = 0, but only the first has a finite gradient
    terms: Tensor = torch.special.entr(p.masked_fill(p == 0, 1) if p.requires_grad else p)
    return terms.sum(-1)


def max_attention_entropy(length: int, window: int | None = None) -> Tensor:
    """Largest entropy that each query of causal attention can have, in nats.

    `ln min(i + 1, window)` for query i = 0..length-1: the entropy of a uniform row over the keys in its reach. `window`
    counts the query's own key, as `sliding_window` does in transformers. Returns (length,), float64, on the CPU.
    Raises `InputError` where `length` < 0 or `window` < 1. O(length).

    >>> max_attention_entropy(4, window=2).exp()
    tensor([1., 2., 2., 2.], dtype=torch.float64)
    """
    if length < 0:
        raise InputError(f"length is {length}; expected 0 or more")
    if window is not None and window < 1:
        raise InputError(f"window is {window}; expected at least 1, or None for full attention")
    return torch.arange(1, length + 1, dtype=torch.float64).clamp(max=window or length).log()


def normalised_attention_entropy(weights: Tensor, window: int | None = None) -> Tensor:
    """Entropy of every row of causal attention divided by the largest that the row can have.

    `H_i / ln min(i + 1, window)`: 0 looks at one key, 1 looks at all keys alike. Rows with a single key in reach (row
    0; every row where window = 1) have no such ratio and are NaN. Normalising by ln L instead would make the early
    rows of causal attention look sharp. Division by the maximum is customary; per row, it is assay's choice.

    `weights`: (..., L, L), causal, as in `attention_entropy`. Returns (..., L). Differentiable.

    Raises `InputError` as `attention_entropy` does, and where `weights` is not square or a row has more entropy than
    its reach allows, which happens where attention is not causal or `window` is too small. O(L^2).

    >>> normalised_attention_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([nan, 1.])
    """
    _check_square(weights)
    entropy = attention_entropy(weights)
    largest = max_attention_entropy(weights.shape[-1], window).to(entropy.dtype).to(entropy.device)
    if bool((entropy.detach() > largest + 1e-4).any()):
        raise InputError(
            f"weights has rows with more entropy than ln min(i + 1, window) at window = {window}; "
            "expected causal attention and a window that covers every attended key"
        )
    ratio = (entropy / torch.where(largest > 0, largest, 1.0)).clamp(max=1)
    return torch.where(largest > 0, ratio, torch.nan)


def first_token_mass(weights: Tensor) -> Tensor:
    """Attention mass of every query on key 0, the usual attention sink.

    `w_i0`, as it stands: rows that sum to less than 1 are not renormalised (attention sinks: Xiao et al. 2023, arXiv
    2309.17453; from memory). `weights`: (..., L, K). Returns (..., L) in float32 or float64, 0 to 1; in causal
    attention query 0 has all of its mass there. Raises `InputError` as `attention_entropy` does. O(L K), for the
    check.

    >>> first_token_mass(torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    tensor([1.0000, 0.2500])
    """
    _check_weights(weights)
    mass = weights[..., 0]
    return mass if mass.dtype == torch.float64 else mass.float()


def previous_token_mass(weights: Tensor) -> Tensor:
    """Attention mass of every query on the token just before it.

    `w_i,i-1`, as it stands; NaN for query 0, which has no token before it. A head near 1 is a previous-token head,
    the first half of an induction circuit (Olsson et al. 2022, arXiv 2209.11895; from memory). `weights`: (..., L,
    L). Returns (..., L) in float32 or float64, 0 to 1. Raises `InputError` as `attention_entropy` does and where
    `weights` is not square. O(L^2), for the check.

    >>> previous_token_mass(torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    tensor([   nan, 0.2500])
    """
    _check_square(weights)
    _check_weights(weights)
    mass = weights.diagonal(-1, -2, -1)
    mass = mass if mass.dtype == torch.float64 else mass.float()
    missing = mass.new_full((*mass.shape[:-1], min(1, weights.shape[-1])), torch.nan)
    return torch.cat([missing, mass], -1)


def entropy_regime(head_entropy: Tensor | ArrayLike) -> NDArray[np.str_]:
    """Name of the quarter of the largest observed head entropy that each head lies in.

    With `r = entropy / max over all heads`: "collapse" for r in [0, 1/4), "low" in [1/4, 1/2), "high" in [1/2, 3/4),
    "overload" in [3/4, 1]. The quarters are from Jha & Reagen 2025, arXiv 2501.03489, who call a large share of heads
    in the top one entropic overload and deep heads near 0 entropy collapse; a name for each quarter is assay's
    choice. The quarters are relative: the flattest head is always "overload", so give all heads of a model at once,
    and read the names beside the normalised entropy. All zero entropies are "collapse".

    `head_entropy`: any shape, one mean entropy per head, any one unit. Returns an array of strings of that shape.
    Compares in float64. Raises `InputError` where a value is negative, NaN or infinite. O(number of heads).

    >>> entropy_regime([0.1, 1.0, 2.5, 4.0]).tolist()
    ['collapse', 'low', 'high', 'overload']
    """
    plain = head_entropy.detach().cpu().double().numpy() if isinstance(head_entropy, Tensor) else head_entropy
    values = np.asarray(plain, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError("head_entropy holds a negative number, NaN or infinity; expected entropies of measured heads")
    largest = values.max(initial=0.0)
    quarter = np.searchsorted([0.25, 0.5, 0.75], values / (largest or 1.0), side="right")
    return np.array(REGIMES)[quarter]


def _check_square(weights: Tensor) -> None:
    if weights.ndim < 2 or weights.shape[-1] != weights.shape[-2]:
        raise InputError(f"weights has shape {tuple(weights.shape)}; expected (..., L, L)")


def _check_weights(weights: Tensor) -> None:
    shape = tuple(weights.shape)
    if len(shape) < 2 or (shape[-1] == 0 and shape[-2] > 0):
        raise InputError(f"weights has shape {shape}; expected (..., L, K) with at least one key")
    if not weights.is_floating_point():
        raise InputError(f"weights has dtype {weights.dtype}; expected floating point")
    if weights.numel() == 0:
        return
    low, high = torch.aminmax(weights.detach())  # both are NaN where any weight is
    if not (bool(low >= 0) and bool(high < torch.inf)):
        raise InputError(f"weights lies between {low.item():g} and {high.item():g}; expected finite probabilities")
