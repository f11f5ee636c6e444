"""Descent on attention: its gradient where autograd can be trusted and where it cannot, and where it leads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from assay._errors import InputError
from assay.measures.similarity import alignment
from assay.theory.attention_descent import Objective, descend, descend_on_sphere, logistic
from assay.theory.attention_svm import attention_svm
from assay.theory.selection import token_scores
from assay.theory.single_query_attention import LinearHead, PromptAttention, SingleQueryAttention


def problem(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X, Z, v, y of (*runs, n, T, d)."""
    g = torch.Generator().manual_seed(seed)
    *runs, n, T, d = shape
    X = normalize(torch.randn(*runs, n, T, d, dtype=torch.float64, generator=g), dim=-1)
    Z = normalize(torch.randn(*runs, n, d, dtype=torch.float64, generator=g), dim=-1)
    v = normalize(torch.randn(*runs, d, dtype=torch.float64, generator=g), dim=-1)
    return X, Z, v, torch.randint(0, 2, (*runs, n), generator=g).double() * 2 - 1


def relu_head(pooled: Tensor) -> Tensor:
    return (pooled @ torch.eye(pooled.shape[-1], dtype=pooled.dtype)).relu().sum(-1)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("head", ["linear", "trained", "relu"])
@pytest.mark.parametrize("runs", [(), (3,)])
def test_gradients_are_those_of_the_loss(factored: bool, head: str, runs: tuple[int, ...]) -> None:
    X, Z, v, y = problem(*runs, 4, 5, 6)
    torch.manual_seed(0)
    made = relu_head if head == "relu" else LinearHead(v, trained=head == "trained")
    model = SingleQueryAttention(6, made, factored=factored, runs=runs, dtype=torch.float64)
    objective = Objective(model, (X, Z), y)
    by_attention, by_head, log_scale = objective.gradients()

    logistic(y * model(X, Z)).mean(-1).sum().backward()
    for parameter, gradient in zip(objective.of_attention, by_attention, strict=True):
        torch.testing.assert_close(gradient * log_scale.exp(), parameter.grad)
    assert len(by_head) == (head == "trained")
    for parameter, gradient in zip(objective.of_head, by_head, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_the_model_is_attention() -> None:
    X, Z, v, _ = problem(2, 3, 4)
    model = SingleQueryAttention(4, LinearHead(v), factored=True, rank=2, dtype=torch.float64)
    out = model(X, Z)

    for i in range(2):
        s = (X[i] @ model.K @ model.Q.T @ Z[i]).softmax(0)
        torch.testing.assert_close(out[i], v @ (X[i].T @ s))
        assert model.attention is not None
        torch.testing.assert_close(model.attention[i], s.detach())
    W = torch.randn(4, 4, dtype=torch.float64)
    prompt = PromptAttention(Z[0], LinearHead(v), W)
    torch.testing.assert_close(prompt(X)[1], v @ (X[1].T @ (X[1] @ W @ Z[0]).softmax(0)))


def test_runs_are_independent() -> None:
    X, Z, v, y = problem(3, 4, 5, 6)
    torch.manual_seed(0)
    together = SingleQueryAttention(6, LinearHead(v), runs=(3,), dtype=torch.float64)
    alone = SingleQueryAttention(6, LinearHead(v[1]), dtype=torch.float64)
    alone.W.data.copy_(together.W[1])
    descend(Objective(together, (X, Z), y), 200)
    descend(Objective(alone, (X[1], Z[1]), y[1]), 200)

    torch.testing.assert_close(together.W[1], alone.W, rtol=1e-6, atol=1e-8)


def test_steps_by_hand() -> None:
    X, Z, v, y = problem(4, 5, 6)
    torch.manual_seed(0)
    model = SingleQueryAttention(6, LinearHead(v), dtype=torch.float64)
    for normalised in (True, False):
        before = model.W.detach().clone()
        loss = logistic(y * model(X, Z)).mean() + 0.5 * model.W.square().sum()
        (gradient,) = torch.autograd.grad(loss, model.W)
        descend(Objective(model, (X, Z), y), 1, lr=0.3, decay=0.5, normalised=normalised)
        step = gradient / gradient.norm() if normalised else gradient
        torch.testing.assert_close(model.W.detach(), before - 0.3 * step)


@pytest.mark.parametrize("factored", [False, True])
def test_it_leads_to_the_svm_of_its_norm(factored: bool) -> None:
    X, Z, v, y = problem(3, 4, 5, 8, seed=3)
    torch.manual_seed(0)
    model = SingleQueryAttention(8, LinearHead(v), factored=factored, runs=(3,), dtype=torch.float64)
    seen: list[int] = []
    descend(Objective(model, (X, Z), y), 1500, decay=2.2e-16 if factored else 0, watch=seen.append)
    W, attention = model.matrix.detach(), model.logits(X, Z).softmax(-1).detach()

    assert seen == list(range(1, 1501))
    assert float(attention.amax(-1).min()) > 0.999
    selected = attention.argmax(-1)
    of = {
        norm: torch.stack([attention_svm(X[r], Z[r], selected[r], norm).W for r in range(3)])  # type: ignore[arg-type]
        for norm in ("fro", "nuc")
    }
    own, other = ("nuc", "fro") if factored else ("fro", "nuc")
    assert float(alignment(W, of[own]).min()) > 0.98
    assert float(alignment(W, of[other]).max()) < 0.97
    shifted = torch.stack([attention_svm(X[r], Z[r], (selected[r] + 1) % 5).W for r in range(3)])
    assert float(alignment(W, shifted).max()) < 0.5


def test_where_the_plain_gradient_is_noise() -> None:
    """At logits of some hundreds, against the sum over tokens written down with the weights' logarithms."""
    X, Z, v, y = problem(1, 3, 4, seed=1)
    model = SingleQueryAttention(4, LinearHead(v), dtype=torch.float64)
    model.W.data.copy_(400 * attention_svm(X, Z, torch.tensor([0])).W)
    logits = model.logits(X, Z).detach()[0]
    assert float((logits[1:] - logits[0]).max()) < -300
    (gradient,), _, log_scale = Objective(model, (X, Z), y).gradients()

    scores = X[0] @ v
    slope = -y[0] * torch.sigmoid(-y[0] * scores[0])  # of the loss
    wanted, naive = torch.zeros(2, 4, 4, dtype=torch.float64)
    s = logits.softmax(-1)
    for t in range(3):
        weight = torch.exp(logits[t] - logits[0] - log_scale)
        wanted += slope * weight * (scores[t] - scores[0]) * (X[0, t] - X[0, 0]).outer(Z[0])
        naive += slope * s[t] * (scores[t] - s @ scores) * torch.exp(-log_scale) * X[0, t].outer(Z[0])
    torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-12)
    assert float(alignment(naive, wanted)) < 0.9  # the control


def test_the_path_leads_to_the_best_selection() -> None:
    X, Z, v, y = problem(2, 2, 4, 6, seed=5)
    torch.manual_seed(0)
    model = SingleQueryAttention(6, LinearHead(v), runs=(2,), dtype=torch.float64)
    objective = Objective(model, (X, Z), y)
    best = token_scores(X, v, y).argmax(-1)
    wanted = torch.stack([attention_svm(X[r], Z[r], best[r]).W for r in range(2)])
    seen = []
    for radius in (1.0, 10, 100, 1000):
        descend_on_sphere(objective, radius, 200)
        torch.testing.assert_close(model.W.detach().flatten(1).norm(dim=-1), torch.full((2,), radius).double())
        seen.append(alignment(model.W.detach(), wanted))
    assert float(seen[-1].min()) > 0.99
    assert bool((seen[0] < seen[-1]).all())


def test_a_gradient_of_zero_moves_nothing() -> None:
    X, Z, v, y = problem(2, 3, 4)
    X = X[:, :1].expand(-1, 3, -1).clone()  # equal tokens
    model = SingleQueryAttention(4, LinearHead(v), dtype=torch.float64)
    before = model.W.detach().clone()
    descend(Objective(model, (X, Z), y), 3)
    torch.testing.assert_close(model.W.detach(), before, rtol=0, atol=0)


def test_mistakes() -> None:
    X, Z, v, y = problem(2, 3, 4)
    model = SingleQueryAttention(4, LinearHead(v), dtype=torch.float64)
    with pytest.raises(InputError, match=r"X has shape \(2, 3, 4\) and y \(1,\)"):
        Objective(model, (X, Z), y[:1])
    with pytest.raises(InputError, match="rank is 2 with factored=False"):
        SingleQueryAttention(4, LinearHead(v), rank=2)
