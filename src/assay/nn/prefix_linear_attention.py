"""Prefix linear attention: linear attention that has read the whole prompt before it answers."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._head_size import check_sizes, head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import heads, merge_heads


def taylor_exp_features(x: Tensor) -> Tensor:
    """phi with `phi(q) . phi(k) = 1 + z + z^2 / 2`, `z = q . k / sqrt(d)`: (..., d) -> (..., 1 + d + d^2).

    The second-order Taylor series of the exponential of softmax attention, `[1, x / d^(1/4), vec(x x^T) / sqrt(2 d)]`
    (Arora et al. 2024, arXiv 2402.18668, as used in arXiv 2407.05483). No product is below 1/2, so a sum of them can
    be divided by.
    """
    d = x.shape[-1]
    x = x / d**0.25
    return torch.cat([torch.ones_like(x[..., :1]), x, (x[..., :, None] * x[..., None, :] / sqrt(2)).flatten(-2)], -1)


class PrefixLinearAttention(nn.Module):
    """`y_i = phi(q_i)^T [S_i + S^e] / phi(q_i)^T [z_i + z^e]` in each head: (B, L, d_model) -> the same.

    `S_i = sum_{j <= i} phi(k_j) v_j^T` is causal; `S^e`, the same sum over the first M = prefix_len tokens with an
    encoder's own projections k^e, v^e, is seen by every token; z are the sums of phi alone. So tokens of the prefix
    see all of it, and those behind it only what is before them. With M = 0 this is the causal linear attention of
    Based. Not a `Mixer`, since it is not causal; in a `Backbone` it takes the place of one, as in
    docs/studies/just-read-twice.md.

    Source: Arora et al. 2024 (arXiv 2407.05483), section 4. Linear layers have no bias and are initialised as
    `nn.Linear`. State: (1 + f + f^2) (C + 1) numbers a head, f = feature_dim, C = d_model / num_heads, whatever M is.

    Args:
        feature_dim: f, the size of q and k in each head. Published: 16.
        prefix_len: M, an attribute that may be set anew for prompts of another length, see `set_prefix_len`. Where
            the sequence is shorter, all of it is the prefix. No token that is a target may be in the prefix.

    Raises `InputError` where d_model is no multiple of num_heads, feature_dim < 1, or prefix_len < 0.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, feature_dim: int = 16, prefix_len: int = 0) -> None:
        super().__init__()
        head_size(d_model, num_heads)
        check_sizes(feature_dim=feature_dim)
        self.d_model, self.num_heads = d_model, num_heads
        self.prefix_len = _checked(prefix_len)
        self.q, self.k, self.encoder_k = (nn.Linear(d_model, num_heads * feature_dim, bias=False) for _ in range(3))
        self.v, self.encoder_v, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """O(L f^2 C) time in each head, in chunks."""
        return self.prefill(x)[0]

    def prefill(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output for a prompt, (B, L, d_model), and the state after it, from which `step` goes on."""
        q, k, v = self._features(x, self.q), self._features(x, self.k), self._values(x, self.v)
        prefix = x[:, : self.prefix_len]
        encoded = self._features(prefix, self.encoder_k).mT @ self._values(prefix, self.encoder_v)
        y = self._finish(linear_attention(q, k, v) + q @ encoded)
        return y, encoded + k.mT @ v

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token behind the prompt, (B, d_model), and the state before it, (B, H, N, C + 1): the output and the
        state after it. O(f^2 C) in each head, whatever M is.

        Without a state the sequence begins with this token; `InputError` where it should begin with a prefix.
        """
        if state is None and self.prefix_len:
            raise InputError(f"state is None with prefix_len = {self.prefix_len}; expected that of prefill")
        token = x[:, None]
        q, k, v = self._features(token, self.q), self._features(token, self.k), self._values(token, self.v)
        y, state = linear_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], state=state)
        return self._finish(y[:, :, None])[:, 0], state

    def _features(self, x: Tensor, projection: nn.Module) -> Tensor:
        return taylor_exp_features(heads(projection(x), self.num_heads))

    def _values(self, x: Tensor, projection: nn.Module) -> Tensor:
        """With a 1 behind them, whose sum is the denominator: (B, H, L, C + 1)."""
        return nn.functional.pad(heads(projection(x), self.num_heads), (0, 1), value=1.0)

    def _finish(self, y: Tensor) -> Tensor:
        return self.out(merge_heads(y[..., :-1] / y[..., -1:]))


def set_prefix_len(model: nn.Module, prefix_len: int) -> None:
    """M of every `PrefixLinearAttention` in `model`, for prompts of this length. `InputError` where it is below 0."""
    for module in model.modules():
        if isinstance(module, PrefixLinearAttention):
            module.prefix_len = _checked(prefix_len)


def _checked(prefix_len: int) -> int:
    if prefix_len < 0:
        raise InputError(f"prefix_len is {prefix_len}; expected at least 0")
    return prefix_len
