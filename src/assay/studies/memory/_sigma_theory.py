"""What `sigma_reparam` runs without training a model: the bound, the module, and steps of Adam."""

from __future__ import annotations

import copy
from math import sqrt

import torch
from torch import Tensor, nn

from assay.lab import Row
from assay.measures.attention import attention_entropy
from assay.measures.attention_bound import attention_entropy_lower_bound, extremal_logits
from assay.nn.sigma_reparam import SigmaReparam, sigma_reparam


def bound(*, lengths: tuple[int, ...], trials: int, largest: float) -> list[Row]:
    """Entropy less the bound, for logits of norms in [0, largest]: drawn at random; drawn and then moved on the sphere
    to where the entropy is least; in attention, with random X, W_K, W_Q. And at the extremal logits, for the bound and
    for one without the factor sqrt(T / (T - 1)) in beta."""
    rows: list[Row] = []
    for T in lengths:
        norms = largest * torch.rand(trials, 1, dtype=torch.float64)
        logits = norms * nn.functional.normalize(torch.randn(trials, T, dtype=torch.float64), dim=-1)
        least = attention_entropy_lower_bound(norms[:, 0], T)
        few = slice(0, trials // 50)
        attacked = sharpest(logits[few], norms[few])
        at_extreme = entropy_of(extremal_logits(norms[:, 0], T))
        small = torch.tensor([1.0, 3.0], dtype=torch.float64)
        rows.append(
            {
                "length": T,
                "random": (entropy_of(logits) - least).min(),
                "attacked": (attacked - least[few]).min(),
                "attention": min(attention_slack(T) for _ in range(20)),
                "extreme": (at_extreme - least).abs().max(),
                "extreme_without_factor": (entropy_of(extremal_logits(small, T)) - without_factor(small, T)).max(),
            }
        )
    return rows


def entropy_of(logits: Tensor) -> Tensor:
    return attention_entropy(logits.softmax(-1)[None])[0]


def sharpest(logits: Tensor, norms: Tensor) -> Tensor:
    """The least entropy found by 300 steps of descent on the sphere, (N,)."""
    for _ in range(300):
        logits = logits.detach().requires_grad_()
        (slope,) = torch.autograd.grad(entropy_of(logits).sum(), logits)
        step = nn.functional.normalize(slope, dim=-1)
        logits = norms * nn.functional.normalize(logits.detach() - 0.1 * norms * step, dim=-1)
    return entropy_of(logits)


def attention_slack(length: int, width: int = 8) -> Tensor:
    """Entropy less the bound for the worst row of attention, by the norms of its weights and inputs."""
    X = torch.randn(length, width, dtype=torch.float64)
    W = torch.randn(width, width, dtype=torch.float64) / width**2
    sb = torch.linalg.matrix_norm(W, ord=2) * torch.linalg.matrix_norm(X, ord=2).square()
    return entropy_of(X @ W @ X.T).min() - attention_entropy_lower_bound(sb, length)


def without_factor(sb: Tensor, length: int) -> Tensor:
    beta, T = torch.exp(-sb), float(length)
    return torch.log1p((T - 1) * beta) + sb * sqrt(T * (T - 1)) * beta / (1 + (T - 1) * beta)


def module(*, layer: str, forwards: int) -> Row:
    """A reparametrised layer beside a plain one of the same weight: at first; with three times the weight; and after it
    moved by a third of its norm, a little before each of so many forwards, in eval mode and in training."""
    plain: nn.Module = (nn.Linear(40, 24) if layer == "linear" else nn.Conv2d(6, 24, 3)).double()
    ours = copy.deepcopy(plain)
    sigma_reparam(ours)
    part, weight = ours.parametrizations["weight"][0], ours.parametrizations["weight"].original  # type: ignore[index, union-attr]
    assert isinstance(part, SigmaReparam)
    assert isinstance(weight, Tensor)
    assert isinstance(plain.weight, Tensor)
    x = torch.randn(5, 40, dtype=torch.float64) if layer == "linear" else torch.randn(2, 6, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        before = plain(x), ours(x)
        row: Row = {"layer": layer, "at_first": off(before[1], before[0])}
        weight.mul_(3)
        plain.weight.mul_(3)
        row |= {"tripled": off(ours(x), before[1]), "tripled_plain": off(plain(x), before[0])}
        path = torch.randn_like(weight) * weight.norm() / (3 * sqrt(weight.numel()) * forwards)
        for mode in ("eval", "training"):
            ours.train(mode == "training")
            u = part.u.clone()
            for _ in range(forwards):
                weight.add_(path if mode == "eval" else -path)  # and back
                ours(x)
            row[f"moved_in_{mode}"] = off(part.u, u)
            ours.eval()
            row[f"norm_in_{mode}"] = norm_off(ours, part)
        return row


def off(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).norm() / other.norm()


def norm_off(layer: nn.Module, part: SigmaReparam) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return (torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2) / part.gamma - 1).abs()


def growth(*, width: int, steps: int, lr: float, noise: float) -> list[Row]:
    """Adam on a square weight whose gradient is a random matrix plus fresh noise: what the spectral norm gained, over
    steps times rate, once the power iteration has caught up; and the normalised update of the proposition beside its
    bound, both over sqrt(width)."""
    mean = torch.randn(width, width, dtype=torch.float64)
    scale = noise * torch.rand_like(mean)
    update = mean / (mean.square() + scale.square()).sqrt()
    least = (1 - (scale.square() / (mean.square() + scale.square())).mean()).sqrt()
    rows: list[Row] = []
    for name in ("plain", "sigmaReparam"):
        layer = nn.Linear(width, width, bias=False).double()
        if name == "sigmaReparam":
            sigma_reparam(layer)
        optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
        first = torch.linalg.matrix_norm(layer.weight.detach(), ord=2)
        for _ in range(steps):
            (-layer.weight * (mean + scale * torch.randn_like(mean))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for _ in range(steps):
                layer.weight  # noqa: B018  (in training, to read it is to iterate)
        gained = (torch.linalg.matrix_norm(layer.weight.detach(), ord=2) - first) / (steps * lr)
        rows.append(
            {
                "weights": name,
                "width": width,
                "gained": gained,
                "update_norm": torch.linalg.matrix_norm(update, ord=2) / sqrt(width),
                "least": least,
                "least_of_twice": least * sqrt(2),
                "hadamard": torch.linalg.matrix_norm(hadamard(width), ord=2) / sqrt(width),
            }
        )
    return rows


def hadamard(width: int) -> Tensor:
    """Signs in orthogonal rows: the update without noise that has the smallest norm. `width`: a power of two."""
    signs = torch.ones(1, 1, dtype=torch.float64)
    while len(signs) < width:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return signs
