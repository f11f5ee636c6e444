"""How surprised a causal language model is by each token, and how unsure it was before seeing it.

Logits of shape (..., L, V) are read in blocks of 64 rows, so that no second copy of them is ever made. Each block is
turned to float32 (float64 where the logits are): half precision would round a log-probability by up to 0.1 bits, while
float32 keeps it to about 1e-5 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from assay._errors import InputError

_ROWS = 64
_LN2 = math.log(2)


def surprisal(logits: Tensor, tokens: Tensor) -> Tensor:
    """Surprisal of every token under the model that read the tokens before it, in bits.

    `s_t = -log2 softmax(logits_{t-1})[x_t]` for t >= 1; NaN at t = 0, which nothing predicted (Shannon 1948).

    `logits`: (..., L, V), any floating dtype; -inf marks a token that cannot occur. `tokens`: (..., L), integers in
    0..V-1. Returns (..., L), >= 0, in float32 or float64 (see the module), on the device of `logits`; a token that
    could not occur has infinite surprisal. Not differentiable: for a loss, use `torch.nn.functional.cross_entropy`.

    Raises `InputError` where the shapes do not agree, `logits` is not floating point, `tokens` not integer or out of
    range, or a row of `logits` holds NaN or +inf or nothing but -inf. O(L V) time, memory for 64 rows of V.

    >>> surprisal(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    tensor([nan, 2., 2.])
    """
    _check_logits(logits)
    if tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.is_complex():
        raise InputError(f"tokens has dtype {tokens.dtype}; expected integers")
    if tokens.shape != logits.shape[:-1]:
        raise InputError(f"tokens has shape {tuple(tokens.shape)}; expected {tuple(logits.shape[:-1])} as logits has")
    tokens = tokens.to(logits.device, torch.int64)
    if tokens.numel() and not (bool(tokens.min() >= 0) and bool(tokens.max() < logits.shape[-1])):
        raise InputError(f"tokens lies between {tokens.min()} and {tokens.max()}; expected 0..{logits.shape[-1] - 1}")

    def read(index: tuple[int, ...], rows: slice, block: Tensor) -> Tensor:
        target = tokens[index][rows.start + 1 : rows.stop + 1, None]
        # a log-probability is never above 0; abs rather than minus, so that certainty is 0 and not -0
        return block.log_softmax(-1).gather(-1, target)[:, 0].abs() / _LN2

    return _by_blocks(logits, read)


def predictive_entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution that predicted every token, in bits.

    `h_t = -sum_v p_v log2 p_v` with `p = softmax(logits_{t-1})` for t >= 1; NaN at t = 0. Aligned with `surprisal`,
    whose expectation it is: a model that knows its own uncertainty has equal means of both.

    `logits`: (..., L, V) as in `surprisal`. Returns (..., L), between 0 and log2 V, in float32 or float64. Tokens
    with logit -inf add nothing. Not differentiable.

    Raises `InputError` for `logits` as `surprisal` does. O(L V) time, memory for 64 rows of V.

    >>> predictive_entropy(torch.zeros(2, 8))
    tensor([   nan, 3.0000])
    """
    _check_logits(logits)
    return _by_blocks(logits, lambda _index, _rows, block: torch.special.entr(block.softmax(-1)).sum(-1) / _LN2)


def bits_per_byte(surprisal_bits: Tensor | ArrayLike, num_bytes: int) -> float:
    """Bits that the model needs for each byte of the text, as an ideal compressor would.

    `sum_t s_t / num_bytes`. Comparable between models of different vocabularies, unlike the loss per token; a byte is 8
    bits, so 8 is no compression at all (Gao et al. 2020, The Pile, arXiv 2101.00027, §3; from memory).

    `surprisal_bits`: any shape, in bits; NaN marks tokens that nothing predicted and is left out, so `num_bytes` must
    count the UTF-8 bytes of the other tokens only. Summed in float64. NaN where nothing was predicted.

    Raises `InputError` where a surprisal is negative or `num_bytes` < 1. O(number of tokens).

    >>> bits_per_byte([float("nan"), 6.0, 10.0], num_bytes=8)
    2.0
    """
    if num_bytes < 1:
        raise InputError(f"num_bytes is {num_bytes}; expected at least 1")
    plain = surprisal_bits.detach().cpu().double().numpy() if isinstance(surprisal_bits, Tensor) else surprisal_bits
    bits = np.asarray(plain, dtype=np.float64)
    if (bits < 0).any():
        raise InputError(f"surprisal_bits goes down to {np.nanmin(bits):g}; expected no negative number")
    predicted = bits[~np.isnan(bits)]
    return float(predicted.sum() / num_bytes) if predicted.size else math.nan


def _by_blocks(logits: Tensor, read: Callable[[tuple[int, ...], slice, Tensor], Tensor]) -> Tensor:
    """Entry t is what `read` makes of row t - 1; entry 0 is NaN. The last row predicts past the end: only checked."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    length = logits.shape[-2]
    result = torch.full(logits.shape[:-1], torch.nan, dtype=dtype, device=logits.device)
    for index in np.ndindex(*logits.shape[:-2]):
        for start in range(0, length - 1, _ROWS):
            rows = slice(start, min(start + _ROWS, length - 1))
            block = logits[index][rows].detach()
            _check_rows(block)
            result[index][rows.start + 1 : rows.stop + 1] = read(index, rows, block.to(dtype))
        _check_rows(logits[index][length - 1 :].detach())
    return result


def _check_logits(logits: Tensor) -> None:
    shape = tuple(logits.shape)
    if len(shape) < 2 or shape[-1] == 0:
        raise InputError(f"logits has shape {shape}; expected (..., L, V) with at least one entry in V")
    if not logits.is_floating_point():
        raise InputError(f"logits has dtype {logits.dtype}; expected floating point")


def _check_rows(rows: Tensor) -> None:
    # the largest logit of a row is NaN where any is, and infinite where one is +inf or all are -inf
    if not bool(rows.amax(-1).isfinite().all()):
        raise InputError(
            "logits holds NaN, +inf or a row of nothing but -inf; expected numbers, or -inf for some tokens"
        )
