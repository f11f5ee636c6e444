"""Attention SVMs against the same problems given to cvxpy as they are written down."""

from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import normalize

from assay.theory.attention_svm import attention_svm
from benchmarks._timing import timed

TEXT = """## Attention SVMs

n inputs of T tokens, width d; cvxpy {version} with the solver it chooses, one matrix inequality for each input.
The difference is of the two solutions, relative, in Frobenius norm; the margin is the smallest, where 1 is asked for.

| norm | n | T | d | here | smallest margin | cvxpy, {solver} | smallest margin | ratio | difference |
|---|---|---|---|---|---|---|---|---|---|
"""
SIZES = (("fro", 50, 20, 64), ("nuc", 6, 8, 10), ("nuc", 10, 10, 20), ("nuc", 50, 20, 64))


def table() -> str:
    """Best of three here, one run of cvxpy."""
    import cvxpy

    rows, solvers = "", []
    for norm, n, T, d in SIZES:
        g = torch.Generator().manual_seed(0)
        X = normalize(torch.randn(n, T, d, dtype=torch.float64, generator=g), dim=-1)
        Z = normalize(torch.randn(n, d, dtype=torch.float64, generator=g), dim=-1)
        selected = torch.randint(0, T, (n,), generator=g)
        seconds, ours = min((timed(partial(attention_svm, X, Z, selected, norm)) for _ in range(3)), key=itemgetter(0))
        theirs, (W, solver) = timed(partial(plain, X, Z, selected, norm))
        solvers.append(solver)
        difference = float((ours.W - W).norm() / W.norm())
        rows += (
            f"| {norm} | {n} | {T} | {d} | {seconds:.3f} s | {smallest(X, Z, selected, ours.W):.6f} | {theirs:.2f} s | "
            f"{smallest(X, Z, selected, W):.6f} | **{theirs / seconds:.0f}** | {difference:.0e} |\n"
        )
    return TEXT.format(version=cvxpy.__version__, solver=" and ".join(dict.fromkeys(solvers))) + rows


def plain(X: Tensor, Z: Tensor, selected: Tensor, norm: str) -> tuple[Tensor, str]:
    """The problem, straight from its definition."""
    import cvxpy as cp

    W = cp.Variable((X.shape[-1], Z.shape[-1]))
    constraints = []
    for x, z, s in zip(X.numpy(), Z.numpy(), selected.tolist(), strict=True):
        others = [t for t in range(len(x)) if t != s]
        constraints.append((x[s] - x[others]) @ W @ z >= 1)
    goal = cp.normNuc(W) if norm == "nuc" else cp.sum_squares(W)  # much faster than cp.norm(W, "fro")
    problem = cp.Problem(cp.Minimize(goal), constraints)
    problem.solve()
    return torch.as_tensor(W.value), problem.solver_stats.solver_name


def smallest(X: Tensor, Z: Tensor, selected: Tensor, W: Tensor) -> float:
    logits = torch.einsum("itd,de,ie->it", X, W, Z)
    margins = logits.gather(1, selected[:, None]) - logits
    return float(margins.scatter(1, selected[:, None], torch.inf).min())
