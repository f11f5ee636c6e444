"""The problems of a prompt against a general solver, and the published solutions of the paper's scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError
from assay.theory.prompt_svm import joint_max_margin, prompt_attention_svm


def tensor(*entries: object) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def by_scipy(keys: Tensor, selected: list[int], needed: list[float]) -> np.ndarray:
    rows, ends = [], []
    for i, s in enumerate(selected):
        for t in range(keys.shape[1]):
            if t != s:
                rows.append((keys[i, s] - keys[i, t]).numpy())
                ends.append(needed[i])
    a, b = np.array(rows), np.array(ends)
    constraint = {"type": "ineq", "fun": lambda p: a @ p - b, "jac": lambda _: a}
    found = minimize(lambda p: p @ p / 2, np.ones(keys.shape[-1]), jac=lambda p: p, constraints=[constraint],
                     method="SLSQP", options={"ftol": 1e-12, "maxiter": 1000})  # fmt: skip
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_shortest_prompt(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    X, W = (torch.randn(size, dtype=torch.float64, generator=g) for size in ((4, 5, 20), (20, 20)))
    selected = torch.tensor([0, 3, 4, 1])
    found = prompt_attention_svm(X, W, selected)
    relaxed = prompt_attention_svm(X, W, selected, torch.tensor([False, True, False, True]))

    keys = torch.stack([torch.stack([W.T @ x for x in tokens]) for tokens in X])
    wanted = by_scipy(keys, selected.tolist(), [1] * 4)
    torch.testing.assert_close(found.p, torch.as_tensor(wanted), rtol=1e-5, atol=1e-7)
    weaker = by_scipy(keys, selected.tolist(), [1, 0, 1, 0])
    torch.testing.assert_close(relaxed.p, torch.as_tensor(weaker), rtol=1e-5, atol=1e-7)
    assert relaxed.margin > found.margin == pytest.approx(1 / float(np.linalg.norm(wanted)))
    for i, s in enumerate(selected.tolist()):
        for t in range(5):
            assert float(found.margins[i, t]) == pytest.approx(float(found.p @ (keys[i, s] - keys[i, t])), abs=1e-9)
    assert bool((found.dual[found.margins > 1 + 1e-6] == 0).all())
    order = torch.tensor([4, 2, 0, 1, 3])
    moved = prompt_attention_svm(X[:, order], W, order.argsort()[selected])
    torch.testing.assert_close(moved.p, found.p)


def test_the_scenes_of_the_authors_code() -> None:
    """Solutions that their code prints, to three digits."""
    W = torch.diag(tensor(1, 1, 0))
    X = tensor([[-0.1, 1, 1], [1, 0, 0.9], [0, 0, 0]])
    first = prompt_attention_svm(X, W, torch.tensor([0]))
    second = prompt_attention_svm(X, W, torch.tensor([1]))

    torch.testing.assert_close(first.p[:2], tensor(-0.099, 0.990), atol=1e-3, rtol=0)
    assert float(first.p.square().sum()) == pytest.approx(0.9901, abs=1e-4)
    torch.testing.assert_close(second.p, tensor(1, 0, 0), atol=1e-9, rtol=0)


def test_joint_problems() -> None:
    y, selected = tensor(1, -1, 1), torch.tensor([1, 1, 1])
    all_support = tensor([[0, 0], [1, 1]], [[0, 0], [1, -1]], [[0, 0], [0.5, 1]])
    without_third = tensor([[0, 0], [1, 1]], [[0, 0], [1, -1]], [[0, 0], [0.5, 1.5]])

    v, svm, support = joint_max_margin(all_support, y, selected)
    torch.testing.assert_close(v, tensor(0, 1))
    assert support.tolist() == [True, True, True]
    torch.testing.assert_close(svm.p, prompt_attention_svm(all_support, None, selected).p)

    v, svm, support = joint_max_margin(without_third, y, selected)
    torch.testing.assert_close(v, tensor(0, 1))
    assert support.tolist() == [True, True, False]
    torch.testing.assert_close(svm.p, tensor(1, 0))  # by hand: (1, +-1) p >= 1 and (0.5, 1.5) p >= 0
    assert float(without_third[2, 1] @ svm.p) < 1  # so the full problem, which asks for 1, is another one


def test_mistakes() -> None:
    X, selected = tensor([[0, 0], [1, 1]], [[0, 0], [1, -1]]), torch.tensor([1, 1])
    with pytest.raises(InputError, match=r"nonsupport is \[True, True\]; expected 2 truth values"):
        prompt_attention_svm(X, None, selected, torch.tensor([True, True]))
    with pytest.raises(InputError, match=r"y is \[1.0, 0.0\]; expected 2 labels"):
        joint_max_margin(X, torch.tensor([1.0, 0.0]), selected)
    with pytest.raises(InfeasibleError, match=r"\(0, 0\)"):
        prompt_attention_svm(tensor([[1, 1], [1, 1]]), None, torch.tensor([1]))
    with pytest.raises(InputError, match=r"selected is \[1, 2\]; expected 2 indices from 0 to 1"):
        joint_max_margin(X, torch.tensor([1.0, -1.0]), torch.tensor([1, 2]))
    with pytest.raises(InfeasibleError, match="y: expected labels of the selected tokens") as error:
        joint_max_margin(tensor([[0, 0], [1, 1]], [[0, 0], [1, 1]]), torch.tensor([1.0, -1.0]), selected)
    assert error.value.certificate.tolist() == pytest.approx([0.5, 0.5])  # the same token with both labels
