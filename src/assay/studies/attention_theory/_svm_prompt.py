"""What `max_margin_token_selection` runs: descent on a prompt, in the authors' scenes and on random tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from assay.lab import Row
from assay.measures.similarity import alignment
from assay.optim.max_margin import InfeasibleError
from assay.theory.attention_descent import Objective, descend, descend_on_sphere, logistic
from assay.theory.prompt_svm import joint_max_margin, prompt_attention_svm
from assay.theory.selection import is_locally_optimal, token_scores
from assay.theory.single_query_attention import LinearHead, PromptAttention

STARTS = (1.0, 0.5, 0.0, -0.5, -1.0, -1.5)
FLAT, SCORE = torch.diag(torch.tensor([1.0, 1, 0])).double(), torch.tensor([0.0, 0, 1]).double()
"""Keys are the first two coordinates of a token, its score is the third."""


def linear(margin: Tensor) -> Tensor:
    return -margin


def tensor(*entries: object) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def attention(model: PromptAttention, X: Tensor) -> Tensor:
    return model.logits(X).softmax(-1).detach()


def scenes(*, steps: int, device: str = "cpu") -> list[Row]:
    """One input of three tokens; the last has a high score (scene global) or none (local); six starts of each."""
    places = [(scene, last, start) for scene, last in (("global", 0.9), ("local", 0.0)) for start in STARTS]
    X = torch.stack([tensor([[-0.1, 1, 1], [1, 0, 0.9], [0, 0, last]]) for _, last, _ in places]).to(device)
    starts = torch.stack([tensor(0, start, 0) for _, _, start in places]).to(device)
    W, runs = FLAT.to(device), len(places)
    model = PromptAttention(starts, LinearHead(SCORE.expand(runs, -1).to(device)), W.expand(runs, -1, -1))
    descend(Objective(model, (X,), torch.ones(runs, 1, dtype=torch.float64, device=device)), steps)
    rows: list[Row] = []
    for (scene, _, start), x, p, chosen in zip(
        places, X, model.p.detach(), attention(model, X).argmax(-1), strict=True
    ):
        other = 1 - chosen.clamp(max=1)
        own, wrong = (prompt_attention_svm(x, W, one).p for one in (chosen, other))
        row: Row = {"scene": scene, "start": start, "selected": int(chosen), "x": float(p[0]), "y": float(p[1])}
        rows.append(row | {"own": alignment(p, own), "wrong": alignment(p, wrong)})
    return rows


def random_tokens(*, n: int, T: int, d: int, runs: int, steps: int, device: str = "cpu") -> Row:
    """Tokens of length 1 and Gaussian W: shares of the saturated runs, and mean correlations of p with the solution for
    the selected tokens, for tokens at random, and for those of the highest scores (where there is one)."""
    X, v = (normalize(torch.randn(runs, *size, d, dtype=torch.float64), dim=-1).to(device) for size in ((n, T), ()))
    W = torch.randn(runs, d, d, dtype=torch.float64).to(device) / d**0.5
    y = torch.randint(0, 2, (runs, n)).double().to(device) * 2 - 1
    wrong = torch.randint(1, T, (runs, n)).to(device)
    model = PromptAttention(torch.zeros(runs, d, dtype=torch.float64, device=device), LinearHead(v), W)
    descend(Objective(model, (X,), y), steps)
    s, scores = attention(model, X), token_scores(X, v, y)
    selected, best = s.argmax(-1), scores.argmax(-1)
    saturated = (s.amax(-1).amin(-1) > 0.999).nonzero()[:, 0].tolist()
    seen: dict[str, list[float]] = {"own": [], "wrong": [], "best": [], "local": [], "local_wrong": []}
    for r in saturated:
        choices = {"own": selected[r], "wrong": (selected[r] + wrong[r]) % T, "best": best[r]}
        for name, choice in choices.items():
            try:
                svm = prompt_attention_svm(X[r], W[r], choice)
            except InfeasibleError:  # but the tokens that p selects, p separates
                continue
            seen[name].append(float(alignment(model.p[r].detach(), svm.p)))
            if name != "best":
                local = is_locally_optimal(svm.margins, scores[r], choice)
                seen["local" if name == "own" else "local_wrong"].append(float(local.all()))
    row: Row = {"n": n, "d": d, "saturated": len(saturated) / runs}
    row["all_best"] = (selected == best).all(-1).double().mean()
    return row | {name: sum(of) / len(of) if of else float("nan") for name, of in seen.items()}


def joint(*, steps: int, device: str = "cpu") -> list[Row]:
    """Descent on p and v; in the first scene all inputs are on the margin of v, in the second the third is not. And on
    p alone, with v the max-margin classifier all the while (`fixed`)."""
    scenes = [tensor([[0, 0], [1, 1]], [[0, 0], [1, -1]], [[0, 0], [0.5, third]]) for third in (1.0, 1.5)]
    X, y = torch.stack(scenes).to(device), tensor(1, -1, 1).to(device)
    selected, third = torch.tensor([1, 1, 1], device=device), torch.tensor([False, False, True], device=device)
    solved = [joint_max_margin(x, y, selected) for x in X]
    classifiers = torch.stack([classifier for classifier, _, _ in solved])
    heads = {
        "trained": LinearHead(tensor([-1, 0], [-1, 0]).to(device), trained=True),
        "fixed": LinearHead(classifiers),
    }
    rows: list[Row] = [
        {"support": name, "third_is": bool(support[2])}
        for name, (_, _, support) in zip(("all", "not the third"), solved, strict=True)
    ]
    for name, head in heads.items():
        model = PromptAttention(tensor([0, -1], [0, -1]).to(device), head)
        descend(Objective(model, (X,), y.expand(2, -1)), steps)
        for row, x, p, v, wanted in zip(rows, X, model.p.detach(), head.v.detach(), classifiers, strict=True):
            full, relaxed = (prompt_attention_svm(x, None, selected, which).p for which in (None, third))
            row |= {f"full_{name}": alignment(p, full), f"relaxed_{name}": alignment(p, relaxed)}
            row |= {"v": alignment(v, wanted)} if head.v.requires_grad else {}
    return rows


def speed(*, steps: int, device: str = "cpu") -> list[Row]:
    """Three inputs of seven tokens, the first of them the best: mean attention to it, over six starts."""
    shift = tensor([1, 0], *[[-1, 1]] * 3, *[[-0.5, -0.5]] * 3)
    keys = 0.2 * torch.randn(3, 7, 2, dtype=torch.float64) + shift
    scores = torch.full((3, 7, 1), 0.5, dtype=torch.float64)
    scores[:, 0] = 1
    X = torch.cat([keys, scores], -1).to(device).expand(6, -1, -1, -1)
    y = torch.ones(6, 3, dtype=torch.float64, device=device)
    rows: list[Row] = []
    for normalised in (True, False):
        starts = torch.stack([tensor(x, 0, 0) for x in STARTS]).to(device)
        model = PromptAttention(starts, LinearHead(SCORE.expand(6, -1).to(device)), FLAT.expand(6, -1, -1).to(device))

        def look(
            step: int, model: PromptAttention = model, name: str = "normalised" if normalised else "constant"
        ) -> None:
            if step % 10 == 0:
                rows.append({"steps": name, "step": step, "attention": attention(model, X)[..., 0].mean()})

        objective = Objective(model, (X,), y)
        descend(objective, steps, lr=0.1 if normalised else 1.0, normalised=normalised, watch=look)
    return rows


def losses(*, steps: int, device: str = "cpu") -> list[Row]:
    """Two inputs whose tokens (1, 1) and (1, -1) have the scores C and 1: the slope of p, for two losses."""
    C = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100]).double()
    X = tensor([[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, -1, 1]]).repeat(len(C), 1, 1, 1)
    X[:, 0, 1, 2] = C
    X, y = X.to(device), torch.ones(len(C), 2, dtype=torch.float64, device=device)
    rows: list[Row] = []
    for name, loss in (("linear", linear), ("logistic", logistic)):
        head = LinearHead(SCORE.expand(len(C), -1).to(device))
        start = torch.zeros(len(C), 3, dtype=torch.float64, device=device)
        model = PromptAttention(start, head, FLAT.expand(len(C), -1, -1).to(device))

        def look(step: int, model: PromptAttention = model, name: str = name) -> None:
            if step in (10, 100, steps):
                for score, p in zip(C.tolist(), model.p.detach(), strict=True):
                    own = alignment(p[:2], tensor(1, 0).to(device))
                    row: Row = {"loss": name, "C": score, "step": "last" if step == steps else str(step)}
                    rows.append(row | {"slope": float(p[1] / p[0]), "x": float(p[0]), "y": float(p[1]), "own": own})

        descend(Objective(model, (X,), y, loss), steps, watch=look)
    return rows


def path(*, n: int, T: int, d: int, sets: int, starts: int, steps: int, device: str = "cpu") -> list[Row]:
    """Points of the regularisation path of p: of several starts that with the least loss, against the solutions for the
    tokens of the highest scores, and for the next ones. Where the first of these solutions, at the same norm, has less
    loss than was found, the search has missed the minimum: such data sets do not count."""
    X, v = (normalize(torch.randn(sets, *size, d, dtype=torch.float64), dim=-1).to(device) for size in ((n, T), ()))
    y = torch.randint(0, 2, (sets, n)).double().to(device) * 2 - 1
    best = token_scores(X, v, y).argmax(-1)
    chosen = torch.stack([prompt_attention_svm(x, None, one).p for x, one in zip(X, best, strict=True)])
    other = torch.stack([prompt_attention_svm(x, None, (one + 1) % T).p for x, one in zip(X, best, strict=True)])
    tokens, labels = X.repeat_interleave(starts, 0), y.repeat_interleave(starts, 0)
    start = torch.randn(sets * starts, d, dtype=torch.float64).to(device)
    model = PromptAttention(start, LinearHead(v.repeat_interleave(starts, 0)))
    objective = Objective(model, (tokens,), labels)
    rows: list[Row] = []
    for radius in (30.0, 100.0, 300.0, 1000.0):
        descend_on_sphere(objective, radius, steps)
        value = logistic(labels * model(tokens)).mean(-1).detach().reshape(sets, starts)
        p = model.p.detach().reshape(sets, starts, d)[torch.arange(sets, device=device), value.argmin(-1)]
        ideal = PromptAttention(radius * normalize(chosen, dim=-1), LinearHead(v))
        reached = value.amin(-1) <= logistic(y * ideal(X)).mean(-1).detach() + 1e-12
        row: Row = {"radius": radius, "reached": reached.double().mean()}
        for name, solution in (("best", chosen), ("other", other)):
            row[name] = alignment(p[reached, None], solution[reached, None]).mean()
        rows.append(row)
    return rows
