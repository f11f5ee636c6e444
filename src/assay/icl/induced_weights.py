"""The linear function that an in-context regressor uses, found by asking it: prompts ended by queries of one's own."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.icl.layer_matching import Regressor, predictions
from assay.icl.learners import check_examples


def induced_weights(
    regressor: Regressor, xs: Tensor, ys: Tensor, *, num_probes: int, generator: torch.Generator
) -> Tensor:
    """The weights of the linear function nearest to what a regressor answers at each position: (B, N, d), float64.

    At position t the examples before it stay, its x is replaced by Gaussian queries N(0, I), and the answers are fitted
    by least squares without a bias. For a regressor that is linear in its query, these are its weights.

    Args:
        regressor: any callable (xs, ys) -> (B, N), or an object with `predict_prefixes`.
        xs, ys: (B, N, d) and (B, N).
        num_probes: queries at each position, P. More than d where the regressor is not linear.

    Raises `InputError` for fewer than d queries and for other shapes. N calls of the regressor, on P B prompts each.
    Source: Fu et al. 2023 (arXiv 2310.17086), induced weights.
    """
    check_examples(xs, ys)
    num_prompts, num_points, d = xs.shape
    if num_probes < d:
        raise InputError(f"num_probes is {num_probes}; expected at least d = {d}")
    queries = torch.randn(num_probes, d, generator=generator, device=generator.device).to(xs)
    solve = torch.linalg.pinv(queries.double())
    found = []
    for t in range(num_points):
        asked = xs[:, : t + 1].repeat(num_probes, 1, 1)
        asked[:, t] = queries.repeat_interleave(num_prompts, dim=0)
        known = ys[:, : t + 1].repeat(num_probes, 1)
        known[:, t] = 0  # what is asked for
        answers = predictions(regressor, asked, known)[:, t].unflatten(0, (num_probes, num_prompts))
        found.append((solve @ answers).mT)
    return torch.stack(found, dim=1)


def similarity_of_induced_weights(weights_a: Tensor, weights_b: Tensor) -> float:
    """The mean over prompts and positions of the cosine of two regressors' weights, in [-1, 1].

    weights_a, weights_b: (B, N, d). Positions at which one of them is 0, as all learners are before the first example,
    have no direction, and are left out; NaN where there are no others. Source: Fu et al. 2023 (arXiv 2310.17086), SimW.
    Raises `InputError` where the two shapes differ, or are not (B, N, d).
    """
    if weights_a.shape != weights_b.shape or weights_a.ndim != 3:
        raise InputError(
            f"weights_a has shape {tuple(weights_a.shape)} and weights_b {tuple(weights_b.shape)}; expected (B, N, d)"
        )
    norms = weights_a.norm(dim=-1) * weights_b.norm(dim=-1)
    said = norms > 0
    return ((weights_a * weights_b).sum(-1)[said] / norms[said]).mean().item()
