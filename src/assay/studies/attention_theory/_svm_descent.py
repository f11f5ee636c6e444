"""What `attention_svm` runs: descent on attention of one query, and the hard-margin problems it is held against."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import normalize

from assay.lab import Row
from assay.measures.similarity import alignment
from assay.optim.max_margin import InfeasibleError
from assay.theory.attention_descent import Objective, descend, descend_on_sphere, logistic
from assay.theory.attention_svm import AttentionSVM, Norm, attention_svm
from assay.theory.multi_token_svm import multi_token_svm
from assay.theory.saturation import centred_logit_gradient
from assay.theory.selection import is_locally_optimal, token_scores
from assay.theory.single_query_attention import LinearHead, SingleQueryAttention

EPSILON = 2.2e-16
"""The authors' decay of K and Q."""
RANK = 1e-6
"""Singular values below this, relative to the largest, are none: those of the nuclear solution are exact to 1e-7."""
VARIANTS = {
    "W": (False, 0.0, True),
    "KQ": (True, EPSILON, True),
    "W, plain gradient": (False, 0.0, False),
    "KQ, no decay": (True, 0.0, True),
}
"""Whether W is K Q^T, the decay, whether the gradient is centred."""


def draw(runs: int, n: int, T: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens (runs, n, T, d), queries (runs, n, d), heads (runs, d) of length 1, labels (runs, n)."""
    X, Z, v = (normalize(torch.randn(runs, *size, d, dtype=torch.float64), dim=-1) for size in ((n, T), (n,), ()))
    return X, Z, v, torch.randint(0, 2, (runs, n)).double() * 2 - 1


def plain_logit_gradient(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax's gradient as textbooks have it."""
    s = logits.softmax(-1)
    return s * (values - (s * values).sum(-1, keepdim=True)), torch.zeros((), dtype=s.dtype, device=s.device)


class Solutions:
    """Of the hard-margin problems of all runs, each solved once."""

    def __init__(self, X: Tensor, Z: Tensor) -> None:
        self.X, self.Z = X, Z
        self.known: dict[tuple[str, int, tuple[int, ...]], AttentionSVM] = {}

    def of(self, selected: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """W (runs, d, d) and margins (runs, n, T) for the tokens selected (runs, n)."""
        found = []
        for run, chosen in enumerate(selected):
            key = norm, run, tuple(chosen.tolist())
            if key not in self.known:
                self.known[key] = attention_svm(self.X[run], self.Z[run], chosen, norm)
            found.append(self.known[key])
        return torch.stack([one.W for one in found]), torch.stack([one.margins for one in found])


def descent(*, variant: str, n: int, T: int, d: int, runs: int, steps: int, device: str = "cpu") -> list[Row]:
    """Correlations of W with the solutions for the tokens it selects, ten times along the way: means over the runs."""
    factored, decay, centred = VARIANTS[variant]
    X, Z, v, y = (part.to(device) for part in draw(runs, n, T, d))
    model = SingleQueryAttention(d, LinearHead(v), factored=factored, runs=(runs,), dtype=torch.float64).to(device)
    scores = token_scores(X, v, y)
    best = scores.argmax(-1)
    own: Norm = "nuc" if factored else "fro"
    solutions, rows = Solutions(X, Z), []

    def look(step: int) -> None:
        if step % (steps // 10):
            return
        W, s = model.matrix.detach(), model.logits(X, Z).softmax(-1).detach()
        selected = s.argmax(-1)
        row: Row = {"variant": variant, "part": step / steps, "step": step}
        row["fro"] = alignment(W, solutions.of(selected, "fro")[0]).mean()
        row["nuc"] = alignment(W, solutions.of(selected, "nuc")[0]).mean()
        row["saturated"] = (s.amax(-1).amin(-1) > 0.999).double().mean()
        row["best"] = (selected == best).double().mean()
        if step == steps:
            other = (selected + 1) % T
            row["shifted"] = alignment(W, solutions.of(other, own)[0]).mean()
            instead = alignment(W, solutions.of(best, own)[0])
            row["instead"] = instead[(selected != best).any(-1)].mean()  # NaN where all is best
            for name, tokens in (("local", selected), ("local_shifted", other)):
                margins = solutions.of(tokens, own)[1]
                row[name] = is_locally_optimal(margins, scores, tokens).all(-1).double().mean()
        rows.append(row)

    gradient = centred_logit_gradient if centred else plain_logit_gradient
    descend(Objective(model, (X, Z), y, logit_gradient=gradient), steps, decay=decay, watch=look)
    return rows


def path(
    *, factored: bool, n: int, T: int, d: int, sets: int, starts: int, steps: int, device: str = "cpu"
) -> list[Row]:
    """Points of the regularisation path of so many data sets: of several starts the one with the least loss, against
    the solutions for the tokens of the highest scores."""
    X, Z, v, y = (part.to(device) for part in draw(sets, n, T, d))
    best = token_scores(X, v, y).argmax(-1)
    solutions = Solutions(X, Z)
    fro, nuc = solutions.of(best, "fro")[0], solutions.of(best, "nuc")[0]
    data = [part.repeat_interleave(starts, 0) for part in (X, Z, v, y)]
    model = SingleQueryAttention(
        d, LinearHead(data[2]), factored=factored, runs=(sets * starts,), dtype=torch.float64
    ).to(device)
    objective = Objective(model, (data[0], data[1]), data[3])
    rows: list[Row] = []
    for radius in (30.0, 100.0, 300.0, 1000.0):
        descend_on_sphere(objective, (2 * radius) ** 0.5 if factored else radius, steps)
        with torch.no_grad():
            losses = logistic(data[3] * model(data[0], data[1])).mean(-1).reshape(sets, starts)
            W = model.matrix.reshape(sets, starts, d, d)[torch.arange(sets, device=device), losses.argmin(-1)]
        row: Row = {"model": "KQ" if factored else "W", "radius": radius}
        row |= {"fro": alignment(W, fro).mean(), "nuc": alignment(W, nuc).mean()}
        rows.append(row)
    return rows


def several_tokens(*, n: int, T: int, d: int, runs: int, steps: int, device: str = "cpu") -> Row:
    """A head of ReLUs, under which attention may keep several tokens: 1 - correlation of W with the finite part and the
    direction together, with the direction, with the problem of one token; medians over the runs that are decided, those
    in which a label is -1, a token is dropped (weight below 1e-6), and none is between 1e-6 and 1e-3."""
    X, Z, _, y = (part.to(device) for part in draw(runs, n, T, d))
    V = torch.randn(runs, d, d, dtype=torch.float64).to(device)
    V = V / torch.linalg.matrix_norm(V)[:, None, None]
    model = SingleQueryAttention(d, lambda pooled: (pooled @ V).relu().sum(-1), runs=(runs,), dtype=torch.float64).to(
        device
    )
    descend(Objective(model, (X, Z), y), steps)
    W, s = model.matrix.detach(), model.logits(X, Z).softmax(-1).detach()
    between = ((s > 1e-6) & (s < 1e-3)).flatten(1).any(-1)
    decided = ~between & (s <= 1e-6).flatten(1).any(-1) & (y < 0).any(-1)
    off = []
    for x, z, w, weights in zip(X[decided], Z[decided], W[decided], s[decided], strict=True):
        parts = multi_token_svm(x, z, weights)
        guesses = parts.nearest(w), parts.direction, attention_svm(x, z, weights.argmax(-1)).W
        off.append([1 - float(alignment(w, guess)) for guess in guesses])
    row: Row = {"d": d, "decided": len(off), "kept": (s[decided] >= 1e-3).double().sum(-1).mean()}
    medians = torch.tensor(off, dtype=torch.float64).reshape(-1, 3).quantile(0.5, dim=0) if off else [float("nan")] * 3
    return row | dict(zip(("together", "direction", "single"), medians, strict=True))


def rank(W: Tensor) -> int:
    sigma = torch.linalg.svdvals(W)
    return int((sigma > RANK * sigma[0]).sum())


def directions_needed(W: Tensor, X: Tensor, Z: Tensor, selected: Tensor) -> int:
    """The smallest rank at which W, cut to its leading singular directions, still selects these tokens."""
    U, sigma, V = torch.linalg.svd(W)
    logits = ((X @ U) * sigma * (Z @ V.mT)[:, None]).cumsum(-1)  # (n, T, d), by the first 1, 2, ... of them
    return int((logits.argmax(1) == selected[:, None]).all(0).int().argmax()) + 1


def ranks(*, n: int, lengths: tuple[int, ...], widths: tuple[int, ...], trials: int, device: str = "cpu") -> list[Row]:
    """Ranks of both solutions for tokens selected at random; of another W that satisfies the constraints; of the
    Frobenius solution cut to as few singular directions as select the tokens; and how often there is a solution."""
    rows: list[Row] = []
    for T, d in itertools.product(lengths, widths):
        X, Z, _, _ = (part.to(device) for part in draw(trials, n, T, d))
        selected = torch.randint(0, T, (trials, n)).to(device)
        found: dict[str, list[int]] = {"fro": [], "nuc": [], "other": [], "needed": []}
        for problem in zip(X, Z, selected, strict=True):
            try:
                fro, nuc = attention_svm(*problem).W, attention_svm(*problem, "nuc").W
            except InfeasibleError:
                continue
            other = 3 * fro + torch.eye(d, dtype=fro.dtype, device=device)  # tokens of length 1: margins of I are >= -2
            for name, W in (("fro", fro), ("nuc", nuc), ("other", other)):
                found[name].append(rank(W))
            found["needed"].append(directions_needed(fro, *problem))
        row: Row = {"n": n, "T": T, "d": d, "enough": d >= max(T - 1, n), "solved": len(found["fro"]) / trials}
        rows.append(row | {name: sum(of) / len(of) if of else float("nan") for name, of in found.items()})
    return rows
