"""How the heads of a model are spread between looking at one token and looking at all alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from assay._errors import InputError
from assay.measures.attention import attention_entropy, normalised_attention_entropy


def head_entropy_histogram(
    head_entropy: Tensor | ArrayLike, *, bins: int = 4, largest: float | None = None
) -> NDArray[np.float64]:
    """Share of the heads in each of `bins` equal parts of [0, largest], the last of which has its upper end too.

    With four bins and the largest observed entropy, the share in the last is what Jha & Reagen 2025 (arXiv 2501.03489,
    Fig. 2) call entropic overload where it is too large, above all in early layers; many heads in the first, in deep
    layers, are entropy collapse. Relative to the largest observed the flattest head is always in the last bin, even
    where all are sharp: look at the shares of what is attainable beside it, with `largest` = ln L, or 1 for
    entropies that are normalised.

    `head_entropy`: any shape, a mean entropy for each head. `largest`: None for the largest of them. Returns (bins,),
    summing to 1. Raises `InputError` for no heads, entropies that are negative, not finite, or above `largest` by more
    than 1e-6 of it, and for `bins` or `largest` out of range.

    >>> head_entropy_histogram([0.1, 1.0, 2.5, 4.0]).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    plain = head_entropy.detach().cpu().double().numpy() if isinstance(head_entropy, Tensor) else head_entropy
    values = np.asarray(plain, dtype=np.float64).ravel()
    if bins < 1 or (largest is not None and not 0 < largest < np.inf):
        raise InputError(f"bins is {bins} and largest {largest}; expected at least 1, and above 0 or None")
    if not values.size or not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError("head_entropy is empty or holds a negative number, NaN or infinity; expected measured heads")
    top = values.max() if largest is None else largest
    if values.max() > top * (1 + 1e-6):
        raise InputError(f"head_entropy holds {values.max():g}; expected at most largest, {top:g}")
    place = np.minimum((bins * (values / (top or 1.0))).astype(np.int64), bins - 1)
    return np.bincount(place, minlength=bins) / values.size


def mean_head_entropy(weights: Tensor, *, normalised: bool = False) -> Tensor:
    """Entropy of each head, the mean over sequences and queries: (B, H, L, L), causal -> (H,), nats.

    `normalised`: of each query's share of what it can reach, ln(i + 1); then query 0 does not count.
    """
    if normalised:
        return normalised_attention_entropy(weights)[..., 1:].mean(dim=(0, -1))
    return attention_entropy(weights).mean(dim=(0, -1))
