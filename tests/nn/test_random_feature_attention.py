"""Attention with random heads: its features against loops, what it can express, and the functions it is tried on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.permutation_invariant import QueryKeyTarget, unit_vectors
from assay.nn.random_feature_attention import RandomFeatureAttention, RandomFeatureMLP

D, N, HEADS = 3, 5, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(count: int = 7, seed: int = 1) -> tuple[Tensor, Tensor]:
    points = torch.randn(count, 1 + N, D, generator=generator(seed), dtype=torch.float64)
    return points[:, 0], points[:, 1:]


def attention(**options: Any) -> RandomFeatureAttention:
    return RandomFeatureAttention(D, HEADS, generator=generator(), **options)


def with_one(x: Tensor) -> list[float]:
    return [*x.tolist(), 1.0]


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_features_are_those_of_the_definition(bias: float) -> None:
    model, (query, keys) = attention(bias_scale=bias), prompts()
    found = model.features(query, keys).view(-1, HEADS, D + 1)

    for b in range(len(query)):
        for m in range(HEADS):
            expected = torch.zeros(D + 1, dtype=torch.float64)
            for i in range(N):
                q, k = with_one(query[b]), with_one(keys[b, i])
                score = sum(q[r] * float(model.weight[m, r, c]) * k[c] for r in range(D + 1) for c in range(D + 1))
                expected += max(score, 0.0) * torch.tensor(k, dtype=torch.float64) / N
            torch.testing.assert_close(found[b, m], expected)


def test_features_of_many_prompts_are_those_of_each() -> None:
    model, (query, keys) = attention(), prompts(count=2500)

    torch.testing.assert_close(model.features(query, keys)[2400:], model.features(query[2400:], keys[2400:]))


def test_biased_heads_have_the_identity_in_their_mean() -> None:
    biased, plain = attention(bias_scale=2.0), attention()

    expected = torch.zeros(D + 1, D + 1, dtype=torch.float64)
    expected[range(D), range(D)] = 2.0
    torch.testing.assert_close(biased.weight - plain.weight, expected.expand(HEADS, -1, -1))


def test_attention_does_not_see_the_order_of_keys_and_the_network_does() -> None:
    query, keys = prompts()
    model, network = attention(), RandomFeatureMLP(D, N, 9, generator=generator())
    turned = keys.flip(1)

    torch.testing.assert_close(model.features(query, keys), model.features(query, turned))
    assert not torch.allclose(network.features(query, keys), network.features(query, turned))


def test_the_network_is_that_of_the_definition() -> None:
    query, keys = prompts()
    network = RandomFeatureMLP(D, N, 9, generator=generator())

    for b in range(len(query)):
        x = torch.tensor([*query[b].tolist(), *keys[b].flatten().tolist(), 1.0], dtype=torch.float64)
        torch.testing.assert_close(network.features(query, keys)[b], (network.weight @ x).clamp(min=0))


@pytest.mark.parametrize("make", [attention, lambda: RandomFeatureMLP(D, N, HEADS * (D + 1), generator=generator())])
def test_a_function_of_its_own_kind_is_recovered(make: Any) -> None:
    model, teacher, (query, keys) = make(), make(), prompts(count=60)
    values = torch.randn(HEADS * (D + 1), generator=generator(5), dtype=torch.float64)
    model.fit(query, keys, teacher.features(query, keys) @ values, ridge=[1e-12])

    other = prompts(count=20, seed=9)
    torch.testing.assert_close(model.predict(*other), teacher.features(*other) @ values, rtol=1e-4, atol=1e-4)


def test_a_fitted_model_is_kept_in_its_state() -> None:
    (query, keys), model, other = (
        prompts(count=60),
        attention(),
        RandomFeatureAttention(D, HEADS, generator=generator(3)),
    )
    model.fit(query, keys, keys.square().sum((1, 2)))
    other.load_state_dict(model.state_dict())

    assert torch.equal(other.predict(query, keys), model.predict(query, keys))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, k: attention().predict(q, k), "before fit"),
        (lambda q, k: attention().features(q[:, :2], k), r"expected \(B, 3\) and \(B, N, 3\)"),
        (lambda q, k: attention().features(q[:2], k), "query has shape"),
        (lambda q, k: attention().features(q, k[:, :0]), "keys"),
        (lambda q, k: RandomFeatureMLP(D, N, 4, generator=generator()).features(q, k[:, :2]), r"\(B, 5, 3\)"),
        (lambda *_: RandomFeatureAttention(0, 4, generator=generator()), "d is 0"),
        (lambda *_: attention(bias_scale=float("nan")), "bias_scale"),
    ],
)
def test_mistakes(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(*prompts())


def test_targets_are_those_of_the_definition() -> None:
    direction = unit_vectors(D, generator=generator())
    query, keys = prompts()

    for b in range(len(query)):
        along = [float(k @ direction) for k in keys[b]]
        scores = [float(k @ query[b]) for k in keys[b]]
        expected = {
            "keys": D * sum(a**2 for a in along) / N,
            "query-key": D * sum(s**2 * a for s, a in zip(scores, along, strict=True)) / N,
            "first-key": D * along[0] ** 2,
        }
        for kind, value in expected.items():
            found = QueryKeyTarget(direction, kind, 2)(query, keys)[b]  # type: ignore[arg-type]
            torch.testing.assert_close(found.item(), value)


def test_samples_are_on_the_sphere_and_fixed_by_the_generator() -> None:
    target = QueryKeyTarget(unit_vectors(D, generator=generator()), "keys", 2)
    one, same, other = (target.sample(50, num_keys=N, generator=generator(seed)) for seed in (1, 1, 2))

    torch.testing.assert_close(one.keys.norm(dim=-1), torch.ones(50, N, dtype=torch.float64))
    torch.testing.assert_close(one.ys, target(one.query, one.keys))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.keys, other.keys)


def test_a_target_that_there_is_not() -> None:
    with pytest.raises(InputError, match="kind is 'values'; expected one of 'keys'"):
        QueryKeyTarget(torch.ones(2), "values", 2)  # type: ignore[arg-type]
