"""Linear attention with decay, in chunks: `S_t = diag(a_t) S_{t-1} + k_t v_t^T,  y_t = q_t^T S_t`, S_{-1} = 0.

Between chunks the state S, (N, C), is carried along; within a chunk all pairs of tokens are weighed at once,
`P_ij = sum_n q_in k_jn exp(b_in - b_jn)` for j <= i, where b is the sum of log a since the chunk began. A product of
decays is never divided by another one that may have underflowed: see `_weights`.
Sources: Yang et al. 2023 (arXiv 2312.06635), section 4 and appendix C; Dao & Gu 2024 (arXiv 2405.21060), section 6.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from assay.nn._kernels import fused
from assay.nn._scan import at_least_float32

CHUNK = 64
MIN_LOG_DECAY = -100.0  # smaller is 0 in float32; keeps sums finite where a is 0
SAFE_EXPONENT = 60.0  # exp(60) times itself in a sum of products is still far from the largest float32


def linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """y, (..., L, C), in the dtype of v, computed in float32 at least, also under autocast.

    Args:
        q, k: (..., L, N).
        v: (..., L, C).
        log_decay: log a, at most 0, -inf allowed: (..., L, N) for each key channel, (..., L, 1) for all of them, L = 1
            for a decay that does not depend on t; None for a = 1.

    On a GPU with `flash-linear-attention` its kernels are used, see `assay.nn._kernels`. Here:
    O(L (N C + 64 (N + C))) time; memory O(L (N + C + 64) + L N C / 64). Very strong decays by key channel (a product
    below e^-60 in a chunk) cost up to five times as much.
    """
    if kernel := fused("linear_attention", v):
        return kernel(q, k, v, log_decay)
    with torch.autocast(v.device.type, enabled=False):  # half precision has no room for the exponents
        return _chunked(q, k, v, log_decay)


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> Tensor:
    dtype, length = v.dtype, v.shape[-2]
    chunk = min(CHUNK, 1 << (length - 1).bit_length())  # a power of two
    q, k, v = (_chunks(t, chunk) for t in (q, k, v))  # (..., M, chunk, N or C)
    if log_decay is None:
        weights = (q @ k.mT).tril()
        states = _exclusive_sum(k.mT @ v)
        return _joined(weights @ v + q @ states, length, dtype)
    b = _cumulated(log_decay, chunk)  # (..., M or 1, chunk, N or 1)
    end = b[..., -1:, :]
    if b.shape[-1] > 1 and (leaf := _safe_block(b)) == chunk:
        middle = b[..., chunk // 2, None, :].detach()  # cancels, so it needs no gradient
        q, k = q * torch.exp(b - middle), k * torch.exp(middle - b)
        weights = (q @ k.mT).tril()
        states = _states(end.exp().mT, (end - middle).exp().mT * (k.mT @ v))
        return _joined(weights @ v + q @ (middle.exp().mT * states), length, dtype)
    weights = _weights(q, k, b, leaf) if b.shape[-1] > 1 else (q @ k.mT) * _ratios(b)
    states = _states(end.exp().mT, (k * torch.exp(end - b)).mT @ v)
    return _joined(weights @ v + (q * b.exp()) @ states, length, dtype)


def linear_attention_before_update(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor) -> Tensor:
    """`y_t = q_t^T (S_{t-1} + diag(bonus) k_t v_t^T)`: the state is read before the token enters it (RWKV-5 and 6).

    Shapes as in `linear_attention`; bonus: (..., L or 1, N).
    """
    if log_decay.shape[-2] > 1:
        log_decay = _late(log_decay)
    return linear_attention(q, _late(k), _late(v), log_decay) + (q * bonus * k).sum(-1, keepdim=True).to(v.dtype) * v


def linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token: q, k, log_decay (..., N), v (..., C), the state (..., N, C) before it -> y (..., C), the state after.

    O(N C).
    """
    update = k[..., :, None] * v[..., None, :]
    if state is not None:
        update = update + (state if log_decay is None else log_decay.exp()[..., None] * state)
    return (q[..., None, :] @ update).squeeze(-2), update


def _late(x: Tensor) -> Tensor:
    """The token before at each position, 0 at the start."""
    return pad(x[..., :-1, :], (0, 0, 1, 0))


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(..., L, N) -> (..., M, chunk, N), padded with zeros, in float32 at least."""
    x = pad(x, (0, 0, 0, -x.shape[-2] % chunk)) if x.shape[-2] % chunk else x
    return at_least_float32(x).unflatten(-2, (-1, chunk))


def _joined(y: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    return y.flatten(-3, -2)[..., :length, :].to(dtype)


def _cumulated(log_decay: Tensor, chunk: int) -> Tensor:
    """b: the sum of log a from the chunk's first token on, (..., M or 1, chunk, N or 1)."""
    log_decay = at_least_float32(log_decay).clamp(min=MIN_LOG_DECAY)
    if log_decay.shape[-2] == 1:
        steps = torch.arange(1, chunk + 1, device=log_decay.device, dtype=log_decay.dtype)
        return log_decay[..., None, :, :] * steps[:, None]
    return _chunks(log_decay, chunk).cumsum(-2)


def _ratios(b: Tensor) -> Tensor:
    """exp(b_i - b_j) for j <= i, else 0: (..., chunk, 1) -> (..., chunk, chunk)."""
    future = torch.ones(b.shape[-2], b.shape[-2], dtype=torch.bool, device=b.device).triu(1)
    return (b - b.mT).masked_fill(future, -torch.inf).exp()


def _safe_block(b: Tensor) -> int:
    """The largest part of a chunk, by halving, over which no decay is below exp(-60); 1 if need be."""
    size = b.shape[-2]
    b = pad(b.detach(), (0, 0, 1, 0))
    while size > 1 and float((b[..., ::size, :]).diff(dim=-2).min()) < -SAFE_EXPONENT:
        size //= 2
    return size


def _weights(q: Tensor, k: Tensor, b: Tensor, leaf: int) -> Tensor:
    """P, (..., c, c). Halves of the block, and the pairs between them with the decay split where they meet: no
    exponent is positive. Blocks of `leaf` tokens, over which no decay underflows, are done at once."""
    size = q.shape[-2]
    if size <= leaf:
        middle = b[..., size // 2, None, :].detach()
        return ((q * torch.exp(b - middle)) @ (k * torch.exp(middle - b)).mT).tril()
    q, k, b = (t.unflatten(-2, (2, size // 2)) for t in (q, k, b))
    own = _weights(q, k, b, leaf)
    border = b[..., 0, -1:, :].detach()
    across = (q[..., 1, :, :] * torch.exp(b[..., 1, :, :] - border)) @ (
        k[..., 0, :, :] * torch.exp(border - b[..., 0, :, :])
    ).mT
    upper = pad(own[..., 0, :, :], (0, size // 2))
    return torch.cat([upper, torch.cat([across, own[..., 1, :, :]], dim=-1)], dim=-2)


def _exclusive_sum(updates: Tensor) -> Tensor:
    """The state before each chunk where nothing decays: (..., M, N, C) -> the same."""
    return pad(updates[..., :-1, :, :].cumsum(-3), (0, 0, 0, 0, 1, 0))


def _states(decays: Tensor, updates: Tensor) -> Tensor:
    """The state before each chunk: decays (..., M or 1, N or 1, 1), updates (..., M, N, C) -> (..., M, N, C)."""
    decays = decays.expand(*decays.shape[:-3], updates.shape[-3], -1, -1)
    state = torch.zeros_like(updates[..., 0, :, :])
    states = [state]
    for decay, update in zip(decays.unbind(-3)[:-1], updates.unbind(-3)[:-1], strict=True):
        state = decay * state + update
        states.append(state)
    return torch.stack(states, dim=-3)
