"""The delta rule, in chunks: states that are partly overwritten by each token.

`S_t = diag(a_t) S_{t-1} - w_t (r_t^T S_{t-1}) + k_t v_t^T,  y_t = q_t^T S_t`, S_{-1} = 0: what the state holds under
the key r is read, and written back under -w. DeltaNet, Gated DeltaNet and RWKV-7 are cases of it, see `delta_rule`.

In a chunk that begins with the state S, let e_t be what token t writes under w: `-r_t^T S_{t-1}`, and for the delta
rule, w = k, with its value: `v_t - r_t^T S_{t-1}`. With `P^{rw}_ij = sum_n r_in w_jn prod_{j<s<i} a_sn` for j < i,
else 0, and `R_i = r_i prod_{s<i} a_s` (s from the chunk's first token on),

    (I + P^{rw}) E = V - R S  (delta rule),    (I + P^{rw}) E = -P^{rk} V - R S  (otherwise),

is triangular (the UT transform), and y and the next state are sums over E, V and S. Only the states are carried from
chunk to chunk in turn.
Sources: Yang et al. 2024 (arXiv 2406.06484), section 3; Yang, Kautz & Hatamizadeh 2024 (arXiv 2412.06464),
section 3.3; Peng et al. 2025 (arXiv 2503.14456) for the diagonal-plus-rank-one case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 64  # a power of two


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, read: Tensor, write: Tensor | None = None, log_decay: Tensor | None = None
) -> Tensor:
    """y, (..., L, C), in the dtype of v, computed in float32 at least.

    Args:
        q, k, read: (..., L, N).
        v: (..., L, C).
        write: (..., L, N), or None for k: the delta rule proper, `S_t = diag(a_t) S_{t-1} + k_t (v_t - r_t^T S_{t-1})`.
        log_decay: log a, at most 0, -inf allowed: (..., L, N) for each key channel, (..., L, 1) for all of them; None
            for a = 1.

    DeltaNet has k = beta key, read = key; Gated DeltaNet k = beta key, read = alpha key and the decay alpha; RWKV-7
    read = removal key, write = rate * removal key.

    O(L (N C + 64 (N + C))) time; memory O(L (N + C + 64) + L N C / 64). Products of decays are formed by
    multiplication alone, never as ratios, so decays may be of any strength. Stable where no transition
    `diag(a) - w r^T` is larger than 1 (for unit keys: beta from 0 to 2); for keys that hardly differ and beta near 2
    the triangular system costs one to two digits more than the loop over tokens does.
    """
    length, chunk = v.shape[-2], min(CHUNK, 1 << (v.shape[-2] - 1).bit_length())
    with torch.autocast(v.device.type, enabled=False):
        q, k, values, read = (_chunks(t, chunk) for t in (q, k, v, read))  # (B, M, chunk, N or C)
        decay = None if log_decay is None else _chunks(log_decay, chunk).exp()
        columns = k[:, :, None] if write is None else torch.stack([k, _chunks(write, chunk)], dim=2)
        rows = torch.stack([read, q if decay is None else q * decay], dim=2)
        now = torch.diag_embed((q[:, :, None] * columns).sum(-1))  # q_t reads what token t wrote, not yet decayed
        pairs, rows, columns, total = _weigh(rows, columns, decay)
        of_read, of_q = pairs[:, :, 0], pairs[:, :, 1] + now  # (B, M, 1 or 2, chunk, chunk); 0 is k, -1 is w
        known = values if write is None else -of_read[:, :, 0] @ values
        e_values, e_state = torch.linalg.solve_triangular(
            of_read[:, :, -1], torch.cat([known, rows[:, :, 0]], dim=-1), upper=False, unitriangular=True
        ).split([v.shape[-1], k.shape[-1]], dim=-1)
        updates = None if write is None else (columns[:, :, 0].mT @ values).unbind(1)
        states, e = _carry(e_values, e_state, columns[:, :, -1].mT, total[..., None], updates)
        y = rows[:, :, 1] @ states + of_q[:, :, -1] @ e
        if write is not None:
            y = y + of_q[:, :, 0] @ values
    return y.flatten(1, 2)[:, :length].reshape(v.shape).to(v.dtype)


def delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor | None = None,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token: q, k, read, write, log_decay (..., N), v (..., C), the state (..., N, C) before it -> y (..., C), the
    state after, in float32 at least. O(N C)."""
    precise = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(v.device.type, enabled=False):
        q, k, values, read = (t.to(precise) for t in (q, k, v, read))
        after = k[..., :, None] * values[..., None, :]
        if state is not None:
            held = read[..., None, :] @ state
            kept = state if log_decay is None else log_decay.to(precise).exp()[..., None] * state
            after = after + kept - (k if write is None else write.to(precise))[..., :, None] * held
        return (q[..., None, :] @ after).squeeze(-2).to(v.dtype), after


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(..., L, N) -> (B, M, chunk, N), padded with zeros, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, *x.shape[-2:])
    return pad(x, (0, 0, 0, -x.shape[-2] % chunk)).unflatten(-2, (-1, chunk))


def _weigh(rows: Tensor, columns: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row against each earlier column of its chunk, weighed by the decays between them.

    rows (B, M, R, c, N), columns (B, M, K, c, N), decay (B, M, c, N or 1) -> pairs (B, M, R, K, c, c), strictly lower;
    rows times the decays since the chunk began, columns times those until it ends, and the chunk's whole decay
    (B, M, N).
    """
    if decay is not None and decay.shape[-1] > 1:
        return _between(rows, columns, decay)
    kinds, size = (rows.shape[2], columns.shape[2]), rows.shape[-1]
    pairs = rows.flatten(2, 3) @ columns.flatten(2, 3).mT
    pairs = pairs.unflatten(-1, (kinds[1], -1)).unflatten(-3, (kinds[0], -1)).transpose(-3, -2)
    if decay is None:
        return pairs.tril(-1), rows, columns, rows.new_ones(*rows.shape[:2], size)
    one = torch.ones_like(decay)[:, :, None]
    between, since, until, total = _between(one, one, decay)
    return pairs * between, rows * since, columns * until, total.expand(-1, -1, size)


def _between(rows: Tensor, columns: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_weigh`, by doubling: blocks of 1, 2, 4, .. tokens are joined in pairs.

    In the joined block the rows of the second half meet the columns of the first. Rows carry the decays since
    their block began, columns those until it ends, so their product has just the decays between them.
    """
    kinds = (rows.shape[2], columns.shape[2])
    rows, columns = rows.transpose(2, 3)[..., None, :], columns.transpose(2, 3)[..., None, :]  # (B, M, blocks, R, 1, N)
    pairs, total = rows.new_zeros(*rows.shape[:3], *kinds, 1, 1), decay
    while rows.shape[2] > 1:
        length = rows.shape[-2]
        (r1, r2), (c1, c2), (a1, a2), (p1, p2) = (
            t.unflatten(2, (-1, 2)).unbind(3) for t in (rows, columns, total, pairs)
        )
        across = (r2.flatten(3, 4) @ c1.flatten(3, 4).mT).unflatten(-1, (-1, length)).unflatten(-3, (-1, length))
        pairs = torch.cat(
            [torch.cat([p1, torch.zeros_like(p1)], dim=-1), torch.cat([across.transpose(-3, -2), p2], dim=-1)], dim=-2
        )
        rows = torch.cat([r1, r2 * a1[:, :, :, None, None]], dim=-2)
        columns = torch.cat([c1 * a2[:, :, :, None, None], c2], dim=-2)
        total = a1 * a2
    return pairs.squeeze(2), rows.squeeze(2), columns.squeeze(2), total.squeeze(2)


def _carry(
    e_values: Tensor, e_state: Tensor, write: Tensor, total: Tensor, updates: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The state before each chunk, (B, M, N, C), and what its tokens write, e, (B, M, c, C)."""
    state = e_values.new_zeros(len(write), write.shape[-2], e_values.shape[-1])
    states, written = [], []
    steps = (t.unbind(1) for t in (e_values, e_state, write, total))  # one gradient for all, not one for each index
    for m, (e_value, read, write_m, decay) in enumerate(zip(*steps, strict=True)):
        states.append(state)
        written.append(torch.baddbmm(e_value, read, state, alpha=-1))
        state = torch.baddbmm(decay * state, write_m, written[-1])
        if updates is not None:
            state = state + updates[m]
    return torch.stack(states, dim=1), torch.stack(written, dim=1)
