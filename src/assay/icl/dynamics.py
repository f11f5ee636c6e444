"""Forecasts of a series from a window of its past: the reference for prompts that are trajectories."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.icl.learners import Learner


def forecast(observations: Tensor, window: int, learner: Learner) -> Tensor:
    """(B, L - window, p), float64: observations (B, L, p) from `window` on, each from the `window` before it.

    The learner fits every output on the windows before, all p numbers of each: with `OLS()` this is the H-step linear
    regression of Li et al. 2023 (arXiv 2301.07067), H = window. A linear system of which only a part is observed needs
    a window, as its state is not seen at once. Raises `InputError` for a window that is not in 1..L - 1.
    """
    if observations.ndim != 3 or not 1 <= window < observations.shape[1]:
        raise InputError(
            f"window is {window} and observations have shape {tuple(observations.shape)}; expected (B, L, p) and a "
            f"window from 1 to L - 1"
        )
    xs = observations.unfold(1, window, 1)[:, :-1].flatten(2)  # (B, L - window, p window)
    later = observations[:, window:]
    return torch.stack([learner.predict_prefixes(xs, target) for target in later.unbind(-1)], dim=-1)
