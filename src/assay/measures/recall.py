"""Where a text could be predicted by looking back: bigrams that occurred before in the same context; and how much of
the gap between two models is there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from assay._errors import InputError


def bigram_recall(
    tokens: Tensor | ArrayLike,
    bigram_counts: Mapping[tuple[int, int], int] | None = None,
    max_count: int = 1250,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Associative-recall hits: the tokens whose bigram occurred earlier in the same context.

    `hit[t]` is true where some s < t has `(x[s-1], x[s]) == (x[t-1], x[t])`, and `distance[t] = t - s` for the latest
    such s; elsewhere `distance` is -1. Occurrences may overlap: in "aaa" the last a is a hit at distance 1.

    Follows the slice "AR hits" of the MQAR paper (Arora et al. 2023, Zoology, arXiv 2312.04927), which further asks
    that the bigram be rare in the *training* text (at most 1250 times in the Pile), so that the model cannot have it
    by heart. assay cannot know the training text: without counts, frequent bigrams are hits too, and the loss on hits
    is lower than the paper's definition would give. Whoever has counts passes `bigram_counts`: a bigram seen more
    than `max_count` times is then no hit, and one that is absent was never seen.

    `tokens`: (..., L), integers; each row is a context of its own. Returns two arrays of the shape of `tokens`, bool
    and int64. Positions 0 and 1 are never hits.

    Raises `InputError` where `tokens` is not integer or has no dimension. O(L log L) for each row.

    >>> hit, distance = bigram_recall([7, 8, 1, 7, 8])
    >>> hit.tolist(), distance.tolist()
    ([False, False, False, False, True], [-1, -1, -1, -1, 3])
    """
    ids = tokens.detach().cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if ids.ndim == 0:
        raise InputError("tokens is a single number; expected at least one dimension")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"tokens has dtype {ids.dtype}; expected integers")
    distance = np.full(ids.shape, -1, dtype=np.int64)
    for row in np.ndindex(*ids.shape[:-1]):
        distance[row] = _distances(ids[row])
        if bigram_counts is not None:
            _drop_frequent(ids[row], distance[row], bigram_counts, max_count)
    return distance > 0, distance


def gap_share(loss: ArrayLike, reference: ArrayLike, hit: ArrayLike) -> float:
    """How much of the gap between a model and a better one is on the hits, `sum_hits (l - r) / sum_all (l - r)`.

    `loss`, `reference`: the losses l and r of the two for the same tokens, any unit, same shape; `hit`: of that shape,
    bool. Tokens that neither predicts are left out beforehand. 1 is the whole gap, more than 1 is possible where the
    model is the better one elsewhere (the source prints 100 % then), and NaN says that there is no gap: the reference
    is not better in total.

    Source: Arora et al. 2023 (arXiv 2312.04927), section 3: 82 % on average over models, on 6.4 % of the tokens.
    Raises `InputError` where shapes differ.

    >>> gap_share([3.0, 2.0, 2.0], [1.0, 1.5, 2.0], [True, False, False])
    0.8
    """
    model, better = (np.asarray(values, dtype=np.float64) for values in (loss, reference))
    mask = np.asarray(hit)
    if not model.shape == better.shape == mask.shape:
        shapes = f"{model.shape}, {better.shape}, {mask.shape}"
        raise InputError(f"loss, reference and hit have shapes {shapes}; expected one shape")
    if mask.dtype != np.bool_:
        raise InputError(f"hit has dtype {mask.dtype}; expected bool")
    gap = model - better
    total = float(gap.sum())
    return float(gap[mask].sum()) / total if total > 0 else float("nan")


def _distances(ids: NDArray[np.integer]) -> NDArray[np.int64]:
    distance = np.full(len(ids), -1, dtype=np.int64)
    if len(ids) < 3:
        return distance
    distinct, dense = np.unique(ids, return_inverse=True)
    bigram = dense[:-1].astype(np.int64) * len(distinct) + dense[1:]  # entry i is the bigram that ends at i + 1
    order = np.argsort(bigram, kind="stable")  # equal bigrams side by side, in the order of the text
    again = bigram[order[1:]] == bigram[order[:-1]]
    distance[order[1:][again] + 1] = (order[1:] - order[:-1])[again]
    return distance


def _drop_frequent(
    ids: NDArray[np.integer], distance: NDArray[np.int64], counts: Mapping[tuple[int, int], int], max_count: int
) -> None:
    for t in np.flatnonzero(distance > 0):
        if counts.get((int(ids[t - 1]), int(ids[t])), 0) > max_count:
            distance[t] = -1
