"""The loss of JRT-RNN: predict masked tokens of the prefix, and the next token behind it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from assay._errors import InputError


def prefix_lm_loss(
    logits: Tensor, ids: Tensor, prefix_len: int, masked: Tensor, *, mlm_weight: float = 0.25, normalise: bool = True
) -> Tensor:
    """`(L_NTP + w L_MLM) / (1 + w)` in nats: a scalar, in float32 at least.

    L_MLM is the mean cross-entropy at the masked tokens of the prefix, each predicted *at* its position; L_NTP that of
    the tokens behind the prefix, each predicted at the position before it. Tokens of the prefix that are not masked,
    and so may be seen by the model, are no targets. A batch without masked tokens has L_MLM = 0.

        masked = mask_prefix(ids, prefix_len, generator=generator)      # of assay.data
        loss = prefix_lm_loss(model(masked.inputs).logits, ids, prefix_len, masked.masked)

    Source: Arora et al. 2024 (arXiv 2407.05483), section 4.2, with the weights of the authors' code, which does not
    divide by 1 + w (`normalise=False`).

    Args:
        logits: (B, L, V), of a model that read `ids` with masks and sees the first `prefix_len` tokens as a whole.
        ids: (B, L), int64, without masks.
        prefix_len: M, from 0 (causal language modelling) to L - 1.
        masked: (B, L), boolean, true only in the prefix; see `assay.data.mask_prefix`.
        mlm_weight: w, at least 0.

    Raises `InputError` for shapes that do not agree, a prefix that leaves nothing to predict, masks behind it, w < 0.
    """
    batch, length = ids.shape
    if logits.shape[:2] != ids.shape or masked.shape != ids.shape:
        raise InputError(
            f"logits is {tuple(logits.shape)} and masked {tuple(masked.shape)}; expected {(batch, length, 'V')} "
            f"and {(batch, length)}, as ids has"
        )
    first = max(prefix_len, 1)  # nothing comes before token 0
    if prefix_len < 0 or first >= length:
        raise InputError(f"prefix_len is {prefix_len}; expected 0 to {length - 1}, so that a token is left to predict")
    if bool(masked[:, prefix_len:].any()):
        raise InputError(f"masked is true behind the prefix of {prefix_len} tokens; expected masks in the prefix only")
    if mlm_weight < 0:
        raise InputError(f"mlm_weight is {mlm_weight}; expected at least 0")
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    ntp = cross_entropy(logits[:, first - 1 : -1].flatten(0, 1), ids[:, first:].flatten())
    mlm = cross_entropy(logits[masked], ids[masked], reduction="sum") / masked.sum().clamp(min=1)
    return (ntp + mlm_weight * mlm) / (1 + mlm_weight if normalise else 1)
