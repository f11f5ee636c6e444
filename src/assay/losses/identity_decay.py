"""A penalty that keeps the decays of a recurrence near the identity, so that its state does not collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators import RecurrentOperator


def identity_decay_penalty(*decays: Tensor | RecurrentOperator) -> Tensor:
    """`||A_t - I||_F`, the mean over positions, heads and sequences, and over the decays that are given: a scalar.

        with recorded_operators(model.layers[1].mixer) as operators:
            loss = token_loss(model, batch)
        loss = loss + 0.5 * identity_decay_penalty(*operators)

    Args:
        decays: the diagonal of A, (..., N), for decays of your own; or recurrences, whose A may be of any form.

    Source: Parnichkun et al. 2025 (arXiv 2504.19561), who add it, with factors of 2^-3 to 2^5, for the second of two
    mixers only. They give the norm alone: the mean over positions, heads and sequences is ours. Of a layer in which
    nothing decays it is 0, with gradient 0. O(L N) for diagonal decays, O(L N^2) for others.

    Raises `InputError` where nothing is given, and for an operator that is no recurrence (attention has no decays).

    >>> identity_decay_penalty(torch.tensor([[1.0, 1.0], [0.7, 0.6]]))
    tensor(0.2500)
    """
    if not decays:
        raise InputError("identity_decay_penalty() was given nothing; expected decays or recurrences")
    return torch.stack([_distance(one).mean() for one in decays]).mean()


def _distance(decay: Tensor | RecurrentOperator) -> Tensor:
    """||A - I||_F for each A."""
    if isinstance(decay, Tensor):
        return torch.linalg.vector_norm(decay - 1, dim=-1)
    if not isinstance(decay, RecurrentOperator):
        raise InputError(f"decays holds a {type(decay).__name__}; expected tensors or recurrences, which have an A")
    if decay.is_diagonal:
        return _distance(decay.A)
    A = decay.transitions()
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.linalg.matrix_norm(A - identity)
