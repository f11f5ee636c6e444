"""MQAR in vectors: key and value side by side in one position, so that one mixer alone can solve it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator
from assay.data._distinct import distinct, shuffled
from assay.data._queries import IGNORED


class VectorRecall(NamedTuple):
    """B sequences of D pairs: `inputs` (B, L, 2 d), floating point; `targets` (B, L), int64, -100 where ignored.

    A target is the row of the value among the *values*, that is, the second half of the embeddings, from 0. `keys`,
    `values`: (B, D), rows of either half; `query_positions`: (B, D).
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor
    values: Tensor
    query_positions: Tensor


def continuous_mqar(
    num_examples: int, *, num_kv_pairs: int, embeddings: Tensor, num_passes: int = 1, generator: torch.Generator
) -> VectorRecall:
    """Recall without tokens: `[k_j ; v_j]` for each of D pairs, then `[k_j ; 0]` for each; L = D (num_passes + 1).

    Keys are distinct rows of the first half of `embeddings`, values distinct rows of the second half. Every pass over
    the pairs has a random order of its own, and so have the queries. It needs no shift from a key to its value, so a
    single linear-attention layer with `B = key`, `C = key` is a solution where keys are orthogonal.

    The task of Zoology's repository (Arora et al., github.com/HazyResearch/zoology), there with 8 pairs and one
    pass; for an odd V its last row is never drawn there.

    Args:
        embeddings: (V, d), floating point.
        generator: draws on its own device; the result is on that of `embeddings`.

    Raises `InputError` where there are fewer than D keys or values. O(B L d).
    """
    check_counts(num_examples=num_examples, num_kv_pairs=num_kv_pairs, num_passes=num_passes)
    check_generator(generator)
    if embeddings.ndim != 2 or not embeddings.is_floating_point() or len(embeddings) < 2 * num_kv_pairs:
        raise InputError(
            f"embeddings is {embeddings.dtype} of shape {tuple(embeddings.shape)}; expected floating point (V, d) with "
            f"V at least {2 * num_kv_pairs}, for {num_kv_pairs} keys and as many values"
        )
    half = len(embeddings) // 2
    keys = distinct(num_examples, num_kv_pairs, half, generator)
    values = distinct(num_examples, num_kv_pairs, len(embeddings) - half, generator)
    cells = torch.arange(num_kv_pairs, device=generator.device).expand(num_examples, num_passes + 1, -1)
    order = shuffled(cells, generator)  # (B, passes, D), the last one of the queries
    keys, values, order = (x.to(embeddings.device) for x in (keys, values, order))
    pairs = torch.cat([embeddings[:half][keys], embeddings[half:][values]], dim=-1)  # (B, D, 2d)
    inputs = pairs[torch.arange(num_examples, device=pairs.device)[:, None], order.flatten(1)]
    context = num_kv_pairs * num_passes
    inputs[:, context:, embeddings.shape[1] :] = 0
    targets = torch.full(inputs.shape[:2], IGNORED, dtype=torch.int64, device=inputs.device)
    targets[:, context:] = values.gather(1, order[:, -1])
    return VectorRecall(inputs, targets, keys, values, context + order[:, -1].argsort(dim=-1))
