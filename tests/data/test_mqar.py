"""MQAR: every answer is the stored value, and the distribution is the published one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from laws import ACCEPT, REJECT, asked, p_of_law, p_of_same, uniform

from assay._errors import InputError
from assay.data import mqar
from assay.data._distinct import distinct, shuffled
from assay.data._queries import query_slots


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_mqar(seq_len: int, pairs: int, vocab_size: int, power_a: float, rng: random.Random) -> list[list[int]]:
    """One example, written down from the definition: inputs and targets."""
    keys = rng.sample(range(1, vocab_size // 2), pairs)
    values = rng.sample(range(vocab_size // 2, vocab_size), pairs)
    inputs = [token for pair in zip(keys, values, strict=True) for token in pair]
    inputs += [0] * (seq_len - 2 * pairs)
    targets = [-100] * seq_len
    free = list(range(1, (seq_len - 2 * pairs) // 2 + 1))
    for key, value in zip(keys, values, strict=True):
        slot = rng.choices(free, weights=[power_a * s ** (power_a - 1) for s in free])[0]
        free.remove(slot)
        inputs[2 * pairs + 2 * (slot - 1)] = key
        targets[2 * pairs + 2 * (slot - 1)] = value
    return [inputs, targets]


def slot_law(num_slots: int, count: int, power_a: float) -> dict[tuple[int, ...], float]:
    """The probability of every ordered choice of slots."""
    weight = [s ** (power_a - 1.0) for s in range(1, num_slots + 1)]
    law = {}
    for chosen in itertools.permutations(range(num_slots), count):
        probability, left = 1.0, sum(weight)
        for s in chosen:
            probability *= weight[s] / left
            left -= weight[s]
        law[chosen] = probability
    return law


@pytest.mark.parametrize(
    ("seq_len", "pairs", "vocab_size", "passes"),
    [(64, 4, 8192, 1), (256, 16, 8192, 1), (4, 1, 4, 1), (32, 8, 18, 1), (1024, 256, 8192, 1), (64, 5, 33, 3)],
)
def test_every_answer_is_the_value_that_was_stored(seq_len: int, pairs: int, vocab_size: int, passes: int) -> None:
    batch = mqar(20, seq_len=seq_len, num_kv_pairs=pairs, vocab_size=vocab_size, num_passes=passes, generator=seeded())

    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    for inputs, targets, keys, values, positions in zip(*(x.tolist() for x in batch), strict=True):
        block, end = inputs[: 2 * pairs], 2 * pairs * passes
        assert len(inputs) == seq_len
        assert inputs[:end] == block * passes
        stored = dict(zip(block[::2], block[1::2], strict=True))
        assert len(stored) == len(set(stored.values())) == pairs
        assert all(1 <= key < vocab_size // 2 <= value < vocab_size for key, value in stored.items())
        answers = asked(inputs, targets)
        assert answers == {t: stored[inputs[t]] for t in answers}
        assert sorted(inputs[t] for t in answers) == sorted(stored)
        assert all(t >= end and t % 2 == 0 for t in answers)
        assert all(token == 0 for t, token in enumerate(inputs) if t >= end and t not in answers)
        assert (keys, values) == (block[::2], block[1::2])
        assert [inputs[t] for t in positions] == keys


@pytest.mark.parametrize("power_a", [0.01, 1.0, 2.5])
def test_the_slots_of_all_keys_have_exactly_the_published_law(power_a: float) -> None:
    batch = mqar(60_000, seq_len=18, num_kv_pairs=3, vocab_size=64, power_a=power_a, generator=seeded())
    slots = (batch.query_positions - 6) // 2

    assert p_of_law(map(tuple, slots.tolist()), slot_law(6, 3, power_a)) > ACCEPT
    # controls: another power, and the same slots given to the keys from left to right
    assert p_of_law(map(tuple, slots.tolist()), slot_law(6, 3, power_a + 0.1)) < REJECT
    assert p_of_law(map(tuple, slots.sort().values.tolist()), slot_law(6, 3, power_a)) < REJECT


def test_the_first_slot_follows_the_published_power_closely() -> None:
    drawn = query_slots(300_000, 60, 1, 0.01, seeded())[:, 0].tolist()

    def law(power_a: float) -> dict[int, float]:
        return {slot: p for (slot,), p in slot_law(60, 1, power_a).items()}

    assert p_of_law(drawn, law(0.01)) > ACCEPT
    assert p_of_law(drawn, law(0.04)) < REJECT  # control
    assert p_of_law(drawn, law(-0.02)) < REJECT


def test_the_slots_agree_with_the_routine_that_the_published_code_calls() -> None:
    weights = np.arange(1, 25) ** (0.01 - 1)
    state = np.random.RandomState(0)
    published = [state.choice(24, 4, replace=False, p=weights / weights.sum()) for _ in range(10_000)]
    slots = query_slots(10_000, 24, 4, 0.01, seeded())

    for j in range(4):
        assert p_of_same((int(row[j]) for row in published), slots[:, j].tolist()) > ACCEPT
    assert p_of_same((int(row[3]) for row in published), slots[:, 0].tolist()) < REJECT  # control


def test_the_whole_agrees_with_a_slow_generator() -> None:
    """The law of a key together with the distance at which it is asked for, and of a value with its place."""
    sizes = {"seq_len": 20, "num_kv_pairs": 3, "vocab_size": 10}
    batch = mqar(15_000, power_a=0.3, generator=seeded(), **sizes)
    rng = random.Random(0)
    slow = [slow_mqar(20, 3, 10, 0.3, rng) for _ in range(15_000)]
    fast = list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))

    for j in range(3):
        assert p_of_same(*([(x[2 * j], x.index(x[2 * j], 6)) for x, _ in rows] for rows in (fast, slow))) > ACCEPT
        assert p_of_same(*([(x[1], x[2 * j + 1]) for x, _ in rows] for rows in (fast, slow))) > ACCEPT
    later = [slow_mqar(20, 3, 10, 0.6, rng) for _ in range(15_000)]
    assert p_of_same(*([x.index(x[0], 6) for x, _ in rows] for rows in (fast, later))) < REJECT  # control


@pytest.mark.parametrize(("size", "count"), [(9, 3), (9, 9), (41, 10)])  # by a permutation twice, then by redrawing
def test_every_ordered_choice_of_distinct_numbers_is_equally_likely(size: int, count: int) -> None:
    rows = distinct(120_000, count, size, seeded())
    assert (rows.sort().values.diff() > 0).all()
    law = uniform(itertools.permutations(range(size), 2))

    for i, j in ((0, 1), (0, count - 1), (count - 1, count - 2)):
        assert p_of_law(map(tuple, rows[:, [i, j]].tolist()), law) > ACCEPT
    assert p_of_law(map(tuple, rows.sort().values[:, :2].tolist()), law) < REJECT  # control
    biased = torch.stack([(rows[:, 0] + 1) % size, rows[:, 0]], dim=1)
    assert p_of_law(map(tuple, biased.tolist()), law) < REJECT


def test_orders_are_equally_likely_and_independent_between_rows() -> None:
    orders = shuffled(torch.arange(4).expand(60_000, -1), seeded()).tolist()
    first_two = uniform(itertools.product(range(4), repeat=2))

    assert p_of_law(map(tuple, orders), uniform(itertools.permutations(range(4)))) > ACCEPT
    assert p_of_law([(a[0], b[0]) for a, b in itertools.pairwise(orders)], first_two) > ACCEPT
    assert p_of_law([(a[0], a[1]) for a in orders], first_two) < REJECT  # control: within a row they depend


def test_random_filler_is_uniform_and_leaves_all_else_alone() -> None:
    sizes = {"seq_len": 32, "num_kv_pairs": 4, "vocab_size": 20}
    plain = mqar(2000, generator=seeded(), **sizes)
    noisy = mqar(2000, random_non_queries=True, generator=seeded(), **sizes)
    filler = plain.inputs == 0

    assert torch.equal(plain.inputs[~filler], noisy.inputs[~filler])
    assert torch.equal(plain.targets, noisy.targets)
    assert p_of_law(noisy.inputs[filler].tolist(), uniform(range(20))) > ACCEPT


def test_a_very_negative_power_asks_at_one_fixed_distance() -> None:
    """The task of older benchmarks, which short convolutions can do: a query always comes 2 D tokens after its key."""
    batch = mqar(100, seq_len=64, num_kv_pairs=8, power_a=-1e6, generator=seeded())

    assert (batch.query_positions == 16 + 2 * torch.arange(8)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"seq_len": 30},
            "seq_len is 30; expected an even number of at least 32: 16 tokens of context and 2",
        ),
        ({"seq_len": 33}, "seq_len is 33; expected an even number"),
        ({"num_passes": 3}, "seq_len is 32; expected an even number of at least 64: 48 tokens of context"),
        ({"num_kv_pairs": 0}, "num_kv_pairs is 0; expected a whole number of at least 1"),
        ({"num_kv_pairs": 2.0}, "num_kv_pairs is 2.0; expected a whole number"),
        ({"seq_len": True}, "seq_len is True; expected a whole number"),
        ({"vocab_size": 17}, "vocab_size is 17, with 7 keys; expected at least 18, for 8 keys"),
        ({"vocab_size": 2}, "vocab_size is 2; expected a whole number of at least 4"),
        ({"power_a": float("nan")}, "power_a is nan; expected a finite number"),
        ({"power_a": "1"}, "power_a is '1'; expected a finite number"),
        ({"generator": 0}, "generator is 0; expected a torch.Generator"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"seq_len": 32, "num_kv_pairs": 8, "generator": seeded()} | change

    with pytest.raises(InputError, match=message):
        mqar(2, **arguments)  # type: ignore[arg-type]


def test_the_smallest_vocabulary_that_is_allowed_works() -> None:
    batch = mqar(50, seq_len=32, num_kv_pairs=8, vocab_size=18, generator=seeded())

    assert (batch.keys.sort().values == torch.arange(1, 9)).all()  # all there are
