"""The chain is what attention computes; the estimate is the maximum that scipy finds; mistakes are named."""

from __future__ import annotations

import math

import networkx
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from assay._errors import InputError
from assay.theory.ccmc import attention_to_markov, ccmc_transition, fit_ccmc, log_loss, markov_to_attention
from assay.theory.ccmc_trajectory import ccmc_generate
from assay.theory.coverage import coverage
from assay.theory.last_token_attention import attention_law, tied_head
from assay.theory.prompts import CountedPrompts, count_prompts, token_counts


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def chain(size: int, seed: int = 0) -> Tensor:
    return (0.7 * normal(size, size, seed=seed)).softmax(-1)


def drawn(p: Tensor, n: int, length: int = 5, seed: int = 0) -> CountedPrompts:
    g = generator(seed)
    x = torch.randint(len(p), (n, length), generator=g)
    law = ccmc_transition(p, token_counts(x, len(p)), x[:, -1])
    return count_prompts(x, torch.multinomial(law, 1, generator=g).squeeze(1), len(p))


def naive_attention(
    w: Tensor, e: Tensor, prompt: list[int], query: int, positions: Tensor | None = None
) -> list[float]:
    """Attention in words: one key, one value after the other, and the share of each token."""
    keys = [e[token] + (0 if positions is None else positions[i]) for i, token in enumerate(prompt)]
    weights = [math.exp(float(key @ w @ e[query])) for key in keys]
    law = [0.0] * len(e)
    for token, weight in zip(prompt, weights, strict=True):
        law[token] += weight / sum(weights)
    return law


def test_attention_and_the_chain_agree_with_a_loop() -> None:
    e, w = normal(5, 7), normal(7, 7, seed=1)
    x, queries = torch.randint(5, (30, 12), generator=generator()), torch.randint(5, (30,), generator=generator(1))

    law = attention_law(w, e, x, queries)

    naive = [naive_attention(w, e, row.tolist(), int(k)) for row, k in zip(x, queries, strict=True)]
    p = attention_to_markov(w, e)
    assert np.allclose(law.numpy(), naive, atol=1e-13)
    assert (ccmc_transition(p, token_counts(x, 5), queries) - law).abs().max() <= 1e-13
    assert (ccmc_transition(p, (token_counts(x, 5) > 0).double(), queries) - law).abs().max() > 0.1  # counts matter
    assert torch.equal(attention_law(w, e, x), attention_law(w, e, x, x[:, -1]))


def test_positions_weigh_the_counts() -> None:
    e, w, x = normal(4, 7), normal(7, 7, seed=1), torch.randint(4, (20, 6), generator=generator())
    u = normal(6, 7, seed=2)
    u = u - u @ torch.linalg.pinv(e) @ e
    queries = x[:, -1]

    law = attention_law(w, e, x, positions=u)

    weights = (u @ w @ e.mT).exp().mT[queries]
    naive = naive_attention(w, e, x[0].tolist(), int(queries[0]), u)
    assert np.allclose(law[0].numpy(), naive, atol=1e-12)
    found = ccmc_transition(attention_to_markov(w, e), token_counts(x, 4, weights), queries)
    assert (found - law).abs().max() <= 1e-13
    with pytest.raises(InputError, match="positions has shape"):
        attention_law(w, e, x, positions=normal(6, 7))


def test_the_maps_are_inverse_and_the_weights_the_smallest() -> None:
    e, p = normal(5, 7), chain(5)

    w = markov_to_attention(p, e)

    assert (attention_to_markov(w, e) - p).abs().max() <= 1e-13
    shift = tied_head(e).mT @ normal(1, 5).expand(5, 5) @ tied_head(e)  # a column of the logits moves as one
    assert (attention_to_markov(w + shift, e) - p).abs().max() <= 1e-12
    assert (w + shift).norm() > w.norm()
    assert (w * shift).sum().abs() <= 1e-10 * w.norm() * shift.norm()  # hence the smallest
    assert (attention_to_markov(w + shift.mT, e) - p).abs().max() > 1e-3


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_the_estimate_is_the_maximum_that_scipy_finds(ridge: float) -> None:
    data = drawn(chain(3), 400)

    def loss(flat: np.ndarray) -> float:
        theta = flat.reshape(3, 3)
        total = ridge / 2 * float((flat**2).sum())
        for count, k, y in zip(data.counts.numpy(), data.queries.tolist(), data.labels.tolist(), strict=True):
            total -= theta[k, y] + math.log(count[y]) - math.log(float(count @ np.exp(theta[k])))
        return total

    theta = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-4}).x.reshape(3, 3)
    found = fit_ccmc(data, ridge=ridge)

    assert np.allclose(found.theta.numpy(), theta - theta.mean(1, keepdims=True), atol=1e-5)
    assert torch.allclose(found.p, found.theta.softmax(-1))
    assert loss(found.theta.numpy().ravel()) <= loss(theta.ravel()) + 1e-9
    assert found.coverage.identifiable


def test_the_estimate_is_exact_where_labels_have_their_expected_frequencies() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.2, 0.4, 0.4]], dtype=torch.float64)
    counts, queries, labels = [], [], []
    for k, row in enumerate(p):
        for y in range(3):
            repeats = round(20 * float(row[y]))
            counts += [[1.0, 1.0, 1.0]] * repeats
            queries += [k] * repeats
            labels += [y] * repeats
    data = CountedPrompts(torch.tensor(counts).double(), torch.tensor(queries), torch.tensor(labels))

    assert torch.allclose(fit_ccmc(data).p, p, atol=1e-10)
    expected = -(p * p.log()).sum(1).mean()
    assert log_loss(p, data) == pytest.approx(float(expected))
    assert log_loss(chain(3), data) > float(expected)


def test_prompts_that_do_not_tell_are_refused_by_name_and_reported() -> None:
    apart = count_prompts([[0, 1], [1, 0], [2, 3], [3, 2]] * 2, [0, 1, 2, 3, 1, 0, 3, 2], 4, queries=[0] * 8)
    with pytest.raises(
        InputError, match=r"data: query 0 has no prompts that connect \[\[0, 1\], \[2, 3\]\].*ridge > 0"
    ):
        fit_ccmc(apart)
    found = fit_ccmc(apart, ridge=1e-3)
    assert found.coverage.missing()[0] == [[0, 1], [2, 3]]
    assert torch.allclose(found.p[0], torch.full((4,), 0.25, dtype=torch.float64))

    rare = count_prompts([[0, 1], [1, 0], [1, 0]], [0, 1, 0], 2)
    with pytest.raises(InputError, match=r"query 1: of .* never wins"):  # from query 1, token 1 is never said
        fit_ccmc(rare)
    with pytest.raises(InputError, match="data: query 1 never occurs"):
        fit_ccmc(count_prompts([[0, 1, 0], [1, 0]], [0, 1], 2))
    with pytest.raises(InputError, match="ridge is -1"):
        fit_ccmc(rare, ridge=-1)


def test_coverage_is_that_of_networkx() -> None:
    g = generator(3)
    size, n = 7, 24
    x, queries = torch.randint(size, (n, 2), generator=g), torch.randint(size, (n,), generator=g)

    found = coverage(token_counts(x, size), queries)

    for query in range(size):
        graph = networkx.Graph()
        graph.add_nodes_from(range(size))
        graph.add_edges_from((int(a), int(b)) for a, b in x[queries == query])
        parts = sorted(sorted(part) for part in networkx.connected_components(graph))
        assert found.missing().get(query, [list(range(size))]) == parts
    assert not found.identifiable
    assert coverage(torch.ones(2, 2), torch.tensor([0, 1])).identifiable
    with pytest.raises(InputError, match="n at least 1"):
        coverage(torch.ones(0, 2), torch.ones(0, dtype=torch.int64))


def test_counts_of_ragged_prompts() -> None:
    data = count_prompts([[0, 2, 2], [1]], [2, 1], 3)

    assert data.counts.tolist() == [[1, 0, 2], [0, 1, 0]]
    assert data.queries.tolist() == [2, 1]
    assert torch.equal(token_counts(torch.tensor([[0, 2, 2]]), 3), data.counts[:1])


@pytest.mark.parametrize(
    ("prompts", "labels", "says"),
    [
        ([], [], "prompts is empty"),
        ([[]], [0], r"prompts\[0\]"),
        ([[0, 3]], [0], "prompts contains token 3; expected ids from 0 to 2"),
        ([[0, 1]], [2], r"labels\[0\] is token 2, which prompt 0 does not contain"),
        ([[0, 1]], [-1], "labels contains token -1"),
        ([[0, 1]], [0, 1], "labels is torch.int64 of shape"),
        ([[0.5, 1.0]], [0], r"prompts\[0\] is torch.float32"),
    ],
)
def test_data_that_cannot_be_used(prompts: list[list[int]], labels: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        count_prompts(prompts, labels, 3)


def test_ids_and_counts_that_cannot_be_used() -> None:
    p, counts = torch.full((2, 2), 0.5, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    for query in (-1, 2):
        with pytest.raises(InputError, match=f"queries contains token {query}; expected ids from 0 to 1"):
            ccmc_transition(p, counts, torch.tensor([query]))
        with pytest.raises(InputError, match=f"queries contains token {query}"):
            coverage(counts, torch.tensor([query]))
    for bad in (-1.0, float("nan")):
        with pytest.raises(InputError, match="counts has entries that are negative or not finite"):
            ccmc_transition(p, torch.tensor([[2.0, bad]], dtype=torch.float64), torch.tensor([0]))
    with pytest.raises(InputError, match=r"prompts has shape \(1, 0\)"):
        ccmc_generate(p, torch.zeros(1, 0, dtype=torch.int64), 3, torch.Generator())


def test_chains_that_cannot_be_used() -> None:
    counts, queries = torch.ones(1, 2).double(), torch.tensor([0])
    with pytest.raises(InputError, match="rows that are distributions"):
        ccmc_transition(torch.tensor([[0.5, 0.4], [0.5, 0.5]]), counts, queries)
    with pytest.raises(InputError, match="rows that are distributions"):
        ccmc_transition(torch.tensor([[1.5, -0.5], [0.5, 0.5]]), counts, queries)
    with pytest.raises(InputError, match=r"expected \(K, K\)"):
        ccmc_transition(torch.ones(2, 3), counts, queries)
    with pytest.raises(InputError, match="no token to which p goes"):
        ccmc_transition(torch.eye(2), torch.tensor([[0.0, 1.0]]), queries)
    with pytest.raises(InputError, match="p has zeros"):
        markov_to_attention(torch.eye(2), torch.eye(2))
    with pytest.raises(InputError, match="independent rows"):
        markov_to_attention(chain(3), normal(3, 2))
