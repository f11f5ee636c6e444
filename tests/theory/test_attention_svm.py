"""Attention SVMs against a general convex solver on the constraints as they are written down."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError
from assay.theory.attention_svm import Norm, attention_svm
from assay.theory.multi_token_svm import multi_token_svm
from assay.theory.nuclear_svm import nuclear_max_margin
from assay.theory.selection import is_locally_optimal, token_scores


def problem(n: int, T: int, d: int, seed: int, e: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    X = normalize(torch.randn(n, T, d, dtype=torch.float64, generator=g), dim=-1)
    Z = normalize(torch.randn(n, e or d, dtype=torch.float64, generator=g), dim=-1)
    return X, Z, torch.randint(0, T, (n,), generator=g)


def by_cvxpy(X: Tensor, Z: Tensor, selected: Tensor, norm: str) -> tuple[np.ndarray, float]:
    cp = pytest.importorskip("cvxpy")
    W = cp.Variable((X.shape[-1], Z.shape[-1]))
    x, z = X.numpy(), Z.numpy()
    constraints = [
        (x[i, s] - x[i, t]) @ W @ z[i] >= 1
        for i, s in enumerate(selected.tolist())
        for t in range(X.shape[1])
        if t != s
    ]
    wanted = cp.Problem(cp.Minimize(cp.normNuc(W) if norm == "nuc" else cp.norm(W, "fro")), constraints)
    wanted.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return W.value, float(wanted.value)


def margins_by_loops(X: Tensor, Z: Tensor, selected: Tensor, W: Tensor) -> Tensor:
    rows = [[(x[s] - token) @ W @ z for token in x] for x, z, s in zip(X, Z, selected, strict=True)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["fro", "nuc"])
@pytest.mark.parametrize(("n", "T", "d", "e"), [(3, 4, 5, 5), (4, 6, 6, 4), (5, 3, 4, 7), (1, 2, 3, 3)])
def test_it_is_the_smallest_matrix(n: int, T: int, d: int, e: int, norm: Norm) -> None:
    X, Z, selected = problem(n, T, d, n, e)
    found = attention_svm(X, Z, selected, norm)
    wanted, value = by_cvxpy(X, Z, selected, norm)

    assert float((found.W - torch.as_tensor(wanted)).norm() / found.W.norm()) < 1e-4
    assert found.norm == pytest.approx(value, rel=1e-5)
    assert found.margin == pytest.approx(1 / value, rel=1e-5)
    margins = margins_by_loops(X, Z, selected, found.W)
    torch.testing.assert_close(found.margins, margins)
    rest = torch.ones_like(margins, dtype=torch.bool).scatter(1, selected[:, None], False)
    assert float(margins[rest].min()) > 1 - 1e-6


@pytest.mark.parametrize(
    ("n", "T", "d", "seed"), [(6, 8, 10, 0), (6, 8, 10, 1), (6, 8, 10, 2), (16, 20, 24, 0), (24, 16, 30, 1)]
)
def test_multipliers_prove_that_it_is(n: int, T: int, d: int, seed: int) -> None:
    """Weak duality: whatever satisfies the constraints has a norm of at least b^T y over the dual norm. The last two
    have so many constraints that only some of them are solved."""
    X, Z, selected = problem(n, T, d, seed)
    others = torch.ones(n, T, dtype=torch.bool).scatter(1, selected[:, None], False)
    for norm, dual_norm in (("fro", "fro"), ("nuc", 2)):
        found = attention_svm(X, Z, selected, norm)  # type: ignore[arg-type]
        assert float(margins_by_loops(X, Z, selected, found.W)[others].min()) > 1 - 1e-6
        assert float(found.dual.min()) >= 0
        gained = X[torch.arange(n), selected][:, None] - X
        combined = torch.einsum("it,itd,ie->de", found.dual, gained, Z)
        least = float(found.dual.sum() / torch.linalg.matrix_norm(combined, ord=dual_norm))
        assert found.norm * (1 - 2e-6) <= least <= found.norm * (1 + 1e-9)


def test_each_norm_has_its_own_solution() -> None:
    X, Z, selected = problem(6, 8, 10, 0)
    fro, nuc = (attention_svm(X, Z, selected, norm).W for norm in ("fro", "nuc"))  # type: ignore[arg-type]

    def nuclear(W: Tensor) -> Tensor:
        return torch.linalg.svdvals(W).sum()

    assert float(fro.norm()) < 0.95 * float(nuc.norm())
    assert float(nuclear(nuc)) < 0.95 * float(nuclear(fro))


@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_the_order_of_tokens_does_not_matter(norm: Norm) -> None:
    X, Z, selected = problem(4, 5, 6, 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    moved = attention_svm(X[:, order], Z, order.argsort()[selected], norm)
    found = attention_svm(X, Z, selected, norm)

    torch.testing.assert_close(moved.W, found.W, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.margins, found.margins[:, order], rtol=1e-4, atol=1e-5)
    other = attention_svm(X[:, order], Z, selected, norm)  # the control: an index that did not move along
    assert not torch.allclose(other.W, found.W, rtol=0.1)


def test_rank() -> None:
    X, Z, selected = problem(10, 5, 10, 0)
    ranks = {}
    for norm in ("fro", "nuc"):
        sigma = torch.linalg.svdvals(attention_svm(X, Z, selected, norm).W)  # type: ignore[arg-type]
        ranks[norm] = int((sigma > 1e-5 * sigma[0]).sum())
        assert bool(((sigma > 1e-3 * sigma[0]) | (sigma < 1e-6 * sigma[0])).all())  # there is nothing between
    assert ranks["nuc"] < ranks["fro"] == 10


@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_where_there_is_none_the_constraints_are_named(norm: Norm) -> None:
    X, Z, selected = problem(4, 5, 6, 2)
    X[2, (selected[2] + 1) % 5] = X[2, selected[2]]  # equal tokens
    where = (2, int((selected[2] + 1) % 5))

    with pytest.raises(InfeasibleError, match="selected: expected tokens that one direction separates") as error:
        attention_svm(X, Z, selected, norm)
    assert str(where) in str(error.value)
    assert error.value.certificate.shape == (4, 5)
    assert int(error.value.certificate.argmax()) == where[0] * 5 + where[1]


def test_several_tokens_that_cannot_be_parted_are_named() -> None:
    X, Z, selected = problem(3, 4, 5, 2)
    X[1, (selected[1] + 1) % 4] = X[1, selected[1]]  # one of two equal tokens is dropped

    with pytest.raises(InfeasibleError, match="attention: expected tokens that one direction separates"):
        multi_token_svm(X, Z, torch.nn.functional.one_hot(selected, 4).double())


def test_a_token_inside_the_others_cannot_be_selected() -> None:
    X, Z, _ = problem(1, 4, 3, 3)
    X[0, 0] = X[0, 1:].mean(0)

    with pytest.raises(InfeasibleError) as error:
        attention_svm(X, Z, torch.tensor([0]))
    y = error.value.certificate
    torch.testing.assert_close(y[0, 1:], torch.full((3,), 1 / 3, dtype=torch.float64))  # its mean is the proof
    assert float(y[0, 0]) == 0


def test_generic_tokens_are_separable_in_enough_dimensions() -> None:
    for seed in range(10):
        attention_svm(*problem(6, 7, 6, seed))
    with pytest.raises(InfeasibleError):  # the control: not in two
        attention_svm(*problem(6, 7, 2, 0))


def test_local_optimality_by_loops() -> None:
    X, Z, selected = problem(5, 4, 5, 4)
    g = torch.Generator().manual_seed(5)
    y = torch.tensor([1.0, -1, 1, 1, -1], dtype=torch.float64)
    v = torch.randn(5, dtype=torch.float64, generator=g)
    scores = token_scores(X, v, y)
    for i, t in itertools.product(range(5), range(4)):
        assert float(scores[i, t]) == pytest.approx(float(y[i] * (v @ X[i, t])))
    seen = set()
    for choice in itertools.product(range(4), repeat=2):
        selected[:2] = torch.tensor(choice)
        margins = attention_svm(X, Z, selected).margins
        found = is_locally_optimal(margins, scores, selected)
        for i, own in enumerate(selected.tolist()):
            neighbours = [t for t in range(4) if t != own and margins[i, t] <= 1.001]
            assert bool(found[i]) == all(scores[i, own] > scores[i, t] for t in neighbours)
            seen.add(bool(found[i]))
    assert seen == {True, False}


def test_several_tokens() -> None:
    """Against the problem as it is written down, with a constraint for each pair."""
    cp = pytest.importorskip("cvxpy")
    X, Z, _ = problem(3, 4, 5, 6)
    attention = torch.tensor([[0.6, 0.4, 0, 0], [0, 1, 0, 0], [0.2, 0.5, 0, 0.3]], dtype=torch.float64)
    found = multi_token_svm(X, Z, attention)
    pairs = list(itertools.permutations(range(4), 2))

    def solved(*, direction: bool) -> Tensor:
        W = cp.Variable((5, 5))
        rows = []
        for i, (t, u) in itertools.product(range(3), pairs):
            gained = (X[i, t] - X[i, u]).numpy() @ W @ Z[i].numpy()
            if attention[i, t] > 0 and attention[i, u] > 0:
                rows.append(gained == (0 if direction else float((attention[i, t] / attention[i, u]).log())))
            elif attention[i, t] > 0 and direction:
                rows.append(gained >= 1)
        cp.Problem(cp.Minimize(cp.sum_squares(W)), rows).solve(solver="CLARABEL")
        return torch.as_tensor(W.value)

    torch.testing.assert_close(found.finite, solved(direction=False), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.direction, solved(direction=True), rtol=1e-4, atol=1e-5)
    W = found.finite + 7.5 * found.direction
    torch.testing.assert_close(found.nearest(W), W)
    logits = torch.einsum("itd,de,ie->it", X, found.finite + 50 * found.direction, Z)
    torch.testing.assert_close(logits.softmax(-1), attention, atol=1e-6, rtol=1e-6)  # the limit is this attention


def test_several_tokens_with_one_kept_is_the_plain_problem() -> None:
    X, Z, selected = problem(4, 5, 6, 7)
    one_hot = torch.nn.functional.one_hot(selected, 5).double()
    found = multi_token_svm(X, Z, one_hot)

    torch.testing.assert_close(found.direction, attention_svm(X, Z, selected).W)
    assert float(found.finite.norm()) == 0


def test_mistakes() -> None:
    X, Z, selected = problem(3, 4, 5, 0)
    with pytest.raises(InputError, match="norm is 'l1'; expected fro or nuc"):
        attention_svm(X, Z, selected, "l1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"selected is \[0, 4, 0\]; expected 3 indices from 0 to 3"):
        attention_svm(X, Z, torch.tensor([0, 4, 0]))
    with pytest.raises(InputError, match=r"selected is of torch.float32; expected a tensor of torch.int64"):
        attention_svm(X, Z, selected.float())
    with pytest.raises(InputError, match=r"selected is of list; expected a tensor of torch.int64"):
        attention_svm(X, Z, selected.tolist())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"X, the tokens, has shape \(4, 5\)"):
        attention_svm(X[0], Z, selected)
    with pytest.raises(InputError, match="all of it finite"):
        attention_svm(X * torch.nan, Z, selected)
    with pytest.raises(InputError, match=r"Z has shape \(2, 5\); expected \(3, e\)"):
        attention_svm(X, Z[:2], selected)
    with pytest.raises(InputError, match="at least two"):
        attention_svm(X[:, :1], Z, torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="expected positive"):
        nuclear_max_margin(X[0], Z[:1].expand(4, -1), torch.tensor([1.0, 1, 0, 1]))
    with pytest.raises(InputError, match="tolerance"):
        nuclear_max_margin(X[0], Z[:1].expand(4, -1), torch.ones(4), tolerance=1e-30)
    with pytest.raises(InputError, match="attention has shape"):
        multi_token_svm(X, Z, torch.ones(3, 3))
    with pytest.raises(InputError, match="below threshold"):
        multi_token_svm(X, Z, torch.full((3, 4), 0.25))
    with pytest.raises(InputError, match="ratios"):
        multi_token_svm(X[:, :, :1], Z[:, :1], torch.tensor([[0.5, 0.2, 0.3, 0]] * 3))
