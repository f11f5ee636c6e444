"""The relatives of MQAR: forgetting, compositional, in vectors, and in streams of documents."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from laws import ACCEPT, REJECT, asked, p_of_law, p_of_same, uniform

from assay._errors import InputError
from assay.data import compositional_mqar, continuous_mqar, forgetting_mqar, mqar, mqar_stream


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Forgetting


@pytest.mark.parametrize(("pairs", "updates", "vocab_size"), [(8, 4, 8192), (1, 1, 8), (6, 6, 24)])
def test_the_value_that_was_written_last_is_asked_for(pairs: int, updates: int, vocab_size: int) -> None:
    batch = forgetting_mqar(
        30, seq_len=64, num_kv_pairs=pairs, num_updates=updates, vocab_size=vocab_size, generator=seeded()
    )

    for inputs, targets, keys, values, positions, forgotten, updated in zip(*(x.tolist() for x in batch), strict=True):
        end = 2 * (pairs + updates)
        stored: dict[int, int] = {}
        for key, value in zip(inputs[:end:2], inputs[1:end:2], strict=True):
            stored[key] = value  # the last one stays
        answers = asked(inputs, targets)
        assert answers == {t: stored[inputs[t]] for t in answers}
        assert [inputs[t] for t in positions] == keys
        assert [stored[key] for key in keys] == values
        assert forgotten == inputs[1 : 2 * pairs : 2]
        assert [key for key, new in zip(keys, updated, strict=True) if new] == sorted(
            inputs[2 * pairs : end : 2], key=keys.index
        )
        assert sum(updated) == updates
        assert len({*values, *forgotten}) == pairs + updates  # so that an answer tells which value was remembered


def test_which_keys_change_is_uniform() -> None:
    batch = forgetting_mqar(40_000, seq_len=32, num_kv_pairs=4, num_updates=2, generator=seeded())
    chosen = [tuple(row.nonzero()[:, 0].tolist()) for row in batch.updated[:20_000]]

    assert p_of_law(chosen, uniform(itertools.combinations(range(4), 2))) > ACCEPT
    in_order = (batch.inputs[:, 8:12:2, None] == batch.keys[:, None]).int().argmax(dim=-1)
    assert p_of_law(map(tuple, in_order.tolist()), uniform(itertools.permutations(range(4), 2))) > ACCEPT


def test_queries_are_spread_behind_the_updates_as_in_mqar() -> None:
    forgetting = forgetting_mqar(20_000, seq_len=32, num_kv_pairs=3, num_updates=2, generator=seeded())
    plain = mqar(20_000, seq_len=28, num_kv_pairs=3, generator=seeded(1))
    first = (forgetting.query_positions[:, 0] - 4).tolist()

    assert p_of_same(first, plain.query_positions[:, 0].tolist()) > ACCEPT
    assert p_of_same(first, plain.query_positions[:, 2].tolist()) < REJECT  # control


# Compositional


def slow_compositional(seq_len: int, grid: int, vocab_size: int, power_a: float, rng: random.Random) -> list[list[int]]:
    third, pairs = vocab_size // 3, grid**2
    keys = list(itertools.product(rng.sample(range(1, third), grid), rng.sample(range(third, 2 * third), grid)))
    rng.shuffle(keys)
    values = rng.sample(range(2 * third, vocab_size), pairs)
    inputs = [token for (a, b), value in zip(keys, values, strict=True) for token in (a, b, value)]
    inputs += [0] * (seq_len - 3 * pairs)
    targets = [-100] * seq_len
    free = list(range(1, (seq_len - 3 * pairs) // 3 + 1))
    for (a, b), value in zip(keys, values, strict=True):
        slot = rng.choices(free, weights=[s ** (power_a - 1) for s in free])[0]
        free.remove(slot)
        t = 3 * pairs + 3 * (slot - 1)
        inputs[t : t + 2], targets[t + 1] = [a, b], value
    return [inputs, targets]


@pytest.mark.parametrize(("seq_len", "pairs", "vocab_size"), [(30, 4, 150), (256, 16, 8192), (8, 1, 6), (55, 9, 27)])
def test_both_halves_of_a_key_are_needed(seq_len: int, pairs: int, vocab_size: int) -> None:
    batch = compositional_mqar(30, seq_len=seq_len, num_kv_pairs=pairs, vocab_size=vocab_size, generator=seeded())

    for inputs, targets, keys, values, positions in zip(*(x.tolist() for x in batch), strict=True):
        end = 3 * pairs
        halves = list(zip(inputs[:end:3], inputs[1:end:3], strict=True))
        stored = dict(zip(halves, inputs[2:end:3], strict=True))
        firsts, seconds = {a for a, _ in stored}, {b for _, b in stored}
        assert len(firsts) == len(seconds) == pairs**0.5
        assert set(stored) == set(itertools.product(firsts, seconds))  # the whole grid: no half tells the value
        assert len(set(stored.values())) == pairs
        assert max(firsts) < vocab_size // 3 <= min(seconds)
        assert max(seconds) < 2 * (vocab_size // 3) <= min(stored.values())
        answers = asked(inputs, targets)
        assert answers == {t: stored[inputs[t - 1], inputs[t]] for t in answers}
        assert sorted(answers.values()) == sorted(stored.values())
        assert [(inputs[t - 1], inputs[t]) for t in positions] == halves == [tuple(key) for key in keys]
        assert [stored[half] for half in halves] == values


def test_the_compositional_task_agrees_with_a_slow_generator() -> None:
    batch = compositional_mqar(15_000, seq_len=30, num_kv_pairs=4, vocab_size=12, power_a=0.3, generator=seeded())
    fast = list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))
    rng = random.Random(0)
    slow = [slow_compositional(30, 2, 12, 0.3, rng) for _ in range(15_000)]

    def first_keys(rows: list) -> list:
        return [tuple(x[:2] + x[3:5]) for x, _ in rows]

    def answers(rows: list) -> list:
        return [tuple(t for t, y in enumerate(targets) if y in inputs[2:6:3]) for inputs, targets in rows]

    assert p_of_same(first_keys(fast), first_keys(slow)) > ACCEPT
    assert p_of_same(answers(fast), answers(slow)) > ACCEPT
    other = [slow_compositional(30, 2, 12, 0.6, rng) for _ in range(15_000)]
    assert p_of_same(answers(fast), answers(other)) < REJECT  # control


# In vectors


@pytest.mark.parametrize(("pairs", "passes"), [(8, 1), (3, 4), (1, 1)])
def test_vectors_hold_key_and_value_and_are_asked_for_with_the_key(pairs: int, passes: int) -> None:
    embeddings = torch.randn(21, 5, dtype=torch.float64, generator=seeded(1))  # 10 keys, 11 values
    batch = continuous_mqar(20, num_kv_pairs=pairs, num_passes=passes, embeddings=embeddings, generator=seeded())
    end = pairs * passes

    def row(vector: torch.Tensor, table: torch.Tensor) -> int:
        return int((vector == table).all(dim=-1).nonzero())

    assert batch.inputs.shape == (20, end + pairs, 10)
    for inputs, targets, keys, values, positions in zip(*batch, strict=True):
        stored: dict[int, int] = {}
        for t, vector in enumerate(inputs[:end]):
            key, value = row(vector[:5], embeddings[:10]), row(vector[5:], embeddings[10:])
            assert stored.setdefault(key, value) == value
            assert targets[t] == -100
        assert len(stored) == len(set(stored.values())) == pairs
        for part in inputs[:end].split(pairs):  # every pass has every key
            assert {row(vector[:5], embeddings[:10]) for vector in part} == set(stored)
        assert [stored[int(key)] for key in keys] == values.tolist()
        for key, t in zip(keys, positions, strict=True):
            assert torch.equal(inputs[t, :5], embeddings[key])
        for vector, target in zip(inputs[end:], targets[end:], strict=True):
            assert (vector[5:] == 0).all()
            assert stored[row(vector[:5], embeddings[:10])] == target


def test_an_associative_memory_with_orthogonal_keys_solves_the_task_in_vectors() -> None:
    """y_t = sum_j (k_t . k_j) v_j is one layer of linear attention; with keys that overlap it must fail."""

    def accuracy(embeddings: torch.Tensor) -> float:
        batch = continuous_mqar(50, num_kv_pairs=16, embeddings=embeddings, generator=seeded())
        keys, values = batch.inputs.chunk(2, dim=-1)
        read = (keys @ keys.mT).tril() @ values
        scores = read @ embeddings[32:].T
        wanted = batch.targets != -100
        return float((scores.argmax(dim=-1)[wanted] == batch.targets[wanted]).double().mean())

    assert accuracy(torch.eye(32).repeat(2, 1)) == 1.0
    assert accuracy(torch.randn(64, 6, generator=seeded(1))) < 0.5


def test_passes_and_queries_come_in_orders_of_their_own() -> None:
    batch = continuous_mqar(30_000, num_kv_pairs=2, num_passes=2, embeddings=torch.eye(4), generator=seeded())
    at = (batch.inputs[:, :, :4].argmax(dim=-1) == batch.keys[:, :1]).int()  # where the first key is
    first = at.view(-1, 3, 2).argmax(dim=-1)

    assert p_of_law(map(tuple, first.tolist()), uniform(itertools.product(range(2), repeat=3))) > ACCEPT


# Streams


@pytest.mark.parametrize("separated", [True, False])
@pytest.mark.parametrize("conflicting", [True, False])
def test_a_document_of_a_stream_is_answered_from_itself(conflicting: bool, separated: bool) -> None:
    batch = mqar_stream(
        30, document_len=32, num_kv_pairs=4, vocab_size=101, conflicting=conflicting, separated=separated,
        generator=seeded(),
    )  # fmt: skip
    step = 32 + separated
    assert batch.inputs.shape == batch.targets.shape == (30, 4 * 32 + 3 * separated)
    assert batch.boundaries.tolist() == [k * step - separated for k in (1, 2, 3)]

    for inputs, targets, keys, values, positions in zip(*(x.tolist() for x in batch[:5]), strict=True):
        assert [t for t, token in enumerate(inputs) if token == 100] == (batch.boundaries.tolist() if separated else [])
        documents = [inputs[k * step : k * step + 32] for k in range(4)]
        stored = [dict(zip(x[:8:2], x[1:8:2], strict=True)) for x in documents]
        answers = asked(inputs, targets)
        assert answers == {t: stored[t // step][inputs[t]] for t in answers}
        assert len(answers) == 16
        for k in range(4):
            assert keys[k] == list(stored[k]) == [inputs[t] for t in positions[k]]
            assert values[k] == list(stored[k].values())
        assert len({value for x in stored for value in x.values()}) == 16  # an answer tells from which document it is
        assert len({key for x in stored for key in x}) == (4 if conflicting else 16)


def test_a_document_of_a_stream_has_the_law_of_mqar() -> None:
    stream = mqar_stream(
        20_000, num_documents=3, document_len=20, num_kv_pairs=3, vocab_size=25, power_a=0.3, generator=seeded()
    )
    alone = mqar(20_000, seq_len=20, num_kv_pairs=3, vocab_size=24, power_a=0.3, generator=seeded(1))
    document = stream.inputs[:, 21:41]

    def key_and_distance(x: torch.Tensor) -> list[int]:
        return (100 * x[:, 0] + (x[:, 6:] == x[:, :1]).int().argmax(dim=1)).tolist()

    assert p_of_same(key_and_distance(document), key_and_distance(alone.inputs)) > ACCEPT
    assert p_of_same(document[:, 5].tolist(), alone.inputs[:, 5].tolist()) > ACCEPT
    assert p_of_same(document[:, 0].tolist(), alone.inputs[:, 1].tolist()) < REJECT  # control


def test_the_same_keys_come_in_another_order_in_each_document() -> None:
    keys = mqar_stream(20_000, num_documents=3, document_len=12, num_kv_pairs=3, generator=seeded()).keys
    where = (keys[:, 1:, :, None] == keys[:, :1, None]).int().argmax(dim=-1)  # (B, 2, 3), places in the first document

    for document in where.unbind(dim=1):
        assert p_of_law(map(tuple, document.tolist()), uniform(itertools.permutations(range(3)))) > ACCEPT


def test_one_document_alone_has_no_boundary() -> None:
    batch = mqar_stream(2, num_documents=1, document_len=16, num_kv_pairs=4, generator=seeded())

    assert batch.inputs.shape == (2, 16)
    assert batch.boundaries.shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: forgetting_mqar(1, seq_len=64, num_kv_pairs=4, num_updates=5, generator=g),
            "num_updates is 5; expected at most num_kv_pairs, 4",
        ),
        (
            lambda g: forgetting_mqar(1, seq_len=22, num_kv_pairs=4, num_updates=4, generator=g),
            "seq_len is 22; expected an even number of at least 24: 16 tokens of context",
        ),
        (
            lambda g: compositional_mqar(1, seq_len=64, num_kv_pairs=5, generator=g),
            "num_kv_pairs is 5; expected a square number, such as 4",
        ),
        (
            lambda g: compositional_mqar(1, seq_len=23, num_kv_pairs=4, generator=g),
            "seq_len is 23; expected at least 6 num_kv_pairs, 24",
        ),
        (
            lambda g: compositional_mqar(1, seq_len=54, num_kv_pairs=9, vocab_size=20, generator=g),
            "vocab_size is 20; expected for example 27",
        ),
        (
            lambda g: continuous_mqar(1, num_kv_pairs=4, embeddings=torch.eye(7), generator=g),
            r"embeddings is torch.float32 of shape \(7, 7\); expected floating point \(V, d\) with V at least 8",
        ),
        (
            lambda g: continuous_mqar(1, num_kv_pairs=1, embeddings=torch.ones(7, 2, dtype=torch.int64), generator=g),
            "embeddings is torch.int64",
        ),
        (
            lambda g: mqar_stream(1, document_len=15, num_kv_pairs=2, generator=g),
            "document_len is 15; expected an even number of at least 4 num_kv_pairs, 8",
        ),
        (
            lambda g: mqar_stream(1, document_len=16, num_kv_pairs=4, vocab_size=31, generator=g),
            "vocab_size is 31; expected at least 32, for 4 keys, 16 values and the separator",
        ),
        (
            lambda g: mqar_stream(1, document_len=16, num_kv_pairs=4, vocab_size=34, conflicting=False, generator=g),
            "vocab_size is 34; expected at least 35, for 16 keys, 16 values and the separator",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(seeded())  # type: ignore[operator]
