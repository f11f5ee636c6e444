"""Forgetting, recall in vectors, streams and compression have the laws of slow generators written from definitions."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
import torch
from laws import ACCEPT, REJECT, asked, p_of_same

from assay.data import compression, continuous_mqar, forgetting_mqar, mqar_stream

Row = tuple[list[Any], list[int]]  # inputs and targets
Seen = dict[str, Hashable]  # what of a row is compared, by name
View = Callable[[Row], Seen]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check(batch: Any, view: View, slow: Callable[..., Row], controls: dict[str, dict[str, Any]]) -> None:
    """One law in all that `view` shows; and each control, of another parameter, differs in what it is named after."""
    rng = random.Random(0)
    fast = [view(row) for row in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)]

    def p_values(count: int, **other: Any) -> dict[str, float]:
        seen = [view(slow(rng, **other)) for _ in range(count)]
        return {name: p_of_same((x[name] for x in fast), (x[name] for x in seen)) for name in fast[0]}

    found = p_values(len(fast))
    assert min(found.values()) > ACCEPT, found
    for name, other in controls.items():
        found = p_values(len(fast) // 3, **other)
        assert found[name] < REJECT, (name, other, found)


def with_queries(pairs: list[tuple[int, int]], seq_len: int, power_a: float, rng: random.Random) -> Row:
    """Pairs written one after the other, then each key once, in places drawn one by one with p_s ∝ a s^(a-1)."""
    inputs, memory, start = [], {}, 2 * len(pairs)
    for key, value in pairs:
        inputs += [key, value]
        memory[key] = value
    inputs += [0] * (seq_len - start)
    targets = [-100] * seq_len
    free = list(range(1, (seq_len - start) // 2 + 1))
    for key, value in memory.items():
        slot = rng.choices(free, weights=[power_a * s ** (power_a - 1) for s in free])[0]
        free.remove(slot)
        inputs[start + 2 * (slot - 1)], targets[start + 2 * (slot - 1)] = key, value
    return inputs, targets


# Forgetting: 3 pairs and 2 updates, ids 1..6 are keys and 7..13 values


def slow_forgetting(
    rng: random.Random, noise: bool, *, power_a: float = 0.3, distinct: bool = True, repeated: bool = False
) -> Row:
    """Values are drawn until no two are equal, unless not `distinct`; `repeated`: a key may change twice."""
    keys = rng.sample(range(1, 7), 3)
    changed = rng.choices(keys, k=2)
    while changed[0] == changed[1] and not repeated:
        changed = rng.choices(keys, k=2)
    values = rng.choices(range(7, 14), k=5)
    while distinct and len(set(values)) < 5:
        values = rng.choices(range(7, 14), k=5)
    inputs, targets = with_queries(list(zip(keys + changed, values, strict=True)), 22, power_a, rng)
    if noise:
        inputs = [rng.randrange(14) if token == 0 else token for token in inputs]
    return inputs, targets


def forgetting_view(row: Row) -> Seen:
    inputs, targets = row
    keys = inputs[:6:2]
    place = {inputs[t]: t for t in asked(inputs, targets)}
    answers = [targets[place[key]] for key in keys]
    return {
        **{f"query {j}": (keys[j], place[keys[j]]) for j in range(3)},
        "what is forgotten": tuple(answer != first for answer, first in zip(answers, inputs[1:6:2], strict=True)),
        "distance from an update": (keys.index(inputs[6]), keys.index(inputs[8]), place[inputs[6]]),
        "last value": (inputs[9], targets[place[inputs[8]]]),
        "values": (inputs[1], inputs[7], inputs[9]),
        "second slot": (inputs[12], targets[12]),
        "filler": (inputs[13], len(place)),
    }


@pytest.mark.parametrize("noise", [False, True])
def test_forgetting_agrees_with_a_slow_generator(noise: bool) -> None:
    batch = forgetting_mqar(
        12_000, seq_len=22, num_kv_pairs=3, num_updates=2, vocab_size=14, power_a=0.3, random_non_queries=noise,
        generator=seeded(int(noise)),
    )  # fmt: skip
    controls = {"query 0": {"power_a": 0.9}, "values": {"distinct": False}, "what is forgotten": {"repeated": True}}
    check(batch, forgetting_view, partial(slow_forgetting, noise=noise), controls)


# In vectors: 3 pairs written twice, of 4 keys and 4 values with 2 numbers each


def slow_vectors(rng: random.Random, rows: list[list[float]], *, num_keys: int = 4, own_order: bool = True) -> Row:
    inputs, targets = [], []
    keys = rng.sample(rows[:num_keys], 3)
    pairs = list(zip(keys, rng.sample(range(len(rows) - num_keys), 3), strict=True))
    for asking in (False, False, True):
        if own_order:
            rng.shuffle(pairs)
        for key, value in pairs:
            inputs.append(key + ([0.0, 0.0] if asking else rows[num_keys + value]))
            targets.append(value if asking else -100)
    return inputs, targets


def vectors_view(row: Row) -> Seen:
    """Vectors are drawn from finitely many, so they are compared exactly, without bins."""
    inputs, targets = row
    keys = [tuple(vector[:2]) for vector in inputs]
    query = keys.index(keys[0], 6)
    return {
        "pair and answer": (*inputs[0], targets[query]),
        "places of a key": (keys[0], keys.index(keys[0], 3), query),
        "last query": (*inputs[8], targets[8]),
        "two pairs": (*inputs[3], *inputs[4]),
        "two answers": (targets[6], targets[7]),
        "ignored": tuple(targets[:6]),
    }


def test_recall_in_vectors_agrees_with_a_slow_generator() -> None:
    embeddings = torch.randn(8, 2, dtype=torch.float64, generator=seeded(1))
    batch = continuous_mqar(15_000, num_kv_pairs=3, num_passes=2, embeddings=embeddings, generator=seeded())
    controls = {"pair and answer": {"num_keys": 3}, "places of a key": {"own_order": False}}
    check(batch, vectors_view, partial(slow_vectors, rows=embeddings.tolist()), controls)


# Streams: 3 documents of 12 tokens with 2 pairs each, ids 1..7 are keys, 8..16 values, 17 the separator


def slow_stream(rng: random.Random, conflicting: bool, separated: bool, power_a: float = 0.3) -> Row:
    inputs, targets = [], []
    values = rng.sample(range(8, 17), 6)
    keys = rng.sample(range(1, 8), 2 if conflicting else 6)
    for k in range(3):
        if k and separated:
            inputs, targets = [*inputs, 17], [*targets, -100]
        here = rng.sample(keys, 2) if conflicting else keys[2 * k : 2 * k + 2]
        document = with_queries(list(zip(here, values[2 * k : 2 * k + 2], strict=True)), 12, power_a, rng)
        inputs, targets = inputs + document[0], targets + document[1]
    return inputs, targets


def stream_view(row: Row) -> Seen:
    inputs, targets = row
    separators = (t for t, token in enumerate(inputs) if token == 17)
    view: Seen = {"shape": (len(inputs), len(asked(inputs, targets)), *separators)}
    step = (len(inputs) + 1) // 3
    documents = [(inputs[t : t + 12], targets[t : t + 12]) for t in (0, step, 2 * step)]
    for k, (x, y) in enumerate(documents):
        place = {x[t]: t for t in asked(x, y)}
        view[f"document {k}, slots"] = (x[0], place[x[0]], place[x[2]])
        view[f"document {k}, answer"] = (x[2], x[3], y[place[x[2]]])
    first, _, last = (x for x, _ in documents)
    return {**view, "keys": (first[0], last[0], last[2]), "values": (first[1], last[1], last[3])}


@pytest.mark.parametrize("separated", [True, False])
@pytest.mark.parametrize("conflicting", [True, False])
def test_streams_agree_with_a_slow_generator(conflicting: bool, separated: bool) -> None:
    batch = mqar_stream(
        10_000, num_documents=3, document_len=12, num_kv_pairs=2, vocab_size=18, power_a=0.3,
        conflicting=conflicting, separated=separated, generator=seeded(2 * conflicting + separated),
    )  # fmt: skip
    slow = partial(slow_stream, conflicting=conflicting, separated=separated)
    check(batch, stream_view, slow, {"document 1, slots": {"power_a": 0.9}, "keys": {"conflicting": not conflicting}})


# Compression


def slow_compression(rng: random.Random, seq_len: int, vocab_size: int) -> Row:
    inputs = [rng.randrange(vocab_size - 1) for _ in range(seq_len - 1)] + [vocab_size - 1]
    return inputs, list(inputs)


def compression_view(row: Row) -> Seen:
    inputs, targets = row
    return {"whole": (*inputs, *targets), "first two": tuple(inputs[:2])}


@pytest.mark.parametrize(("seq_len", "vocab_size"), [(5, 4), (3, 9)])
def test_compression_agrees_with_a_slow_generator(seq_len: int, vocab_size: int) -> None:
    batch = compression(15_000, seq_len=seq_len, vocab_size=vocab_size, generator=seeded())
    slow = partial(slow_compression, seq_len=seq_len, vocab_size=vocab_size)
    check(batch, compression_view, slow, {"first two": {"vocab_size": vocab_size + 1}})
