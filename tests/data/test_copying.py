"""Selective copying and compression, as MAD publishes them."""

from __future__ import annotations

import itertools
import random
from math import comb

import pytest
import torch
from laws import ACCEPT, REJECT, asked, p_of_law, p_of_same, uniform

from assay._errors import InputError
from assay.data import compression, selective_copying


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_copying(seq_len: int, count: int, vocab_size: int, rng: random.Random) -> list[list[int]]:
    """Blanks are put before a content token one at a time."""
    content = [rng.randrange(vocab_size - 2) for _ in range(count)]
    before: list[list[int]] = [[] for _ in content]
    for _ in range(seq_len - 2 * count - 1):
        rng.choice(before).append(vocab_size - 2)
    inputs = [token for blanks, last in zip(before, content, strict=True) for token in (*blanks, last)]
    inputs += [vocab_size - 1] + [vocab_size - 2] * count
    return [inputs, [-100] * (seq_len - count) + content]


@pytest.mark.parametrize(("seq_len", "count", "vocab_size"), [(256, 16, 16), (64, 8, 8192), (4, 1, 3), (20, 9, 5)])
def test_the_content_is_asked_for_in_its_order(seq_len: int, count: int, vocab_size: int) -> None:
    batch = selective_copying(30, seq_len=seq_len, num_tokens_to_copy=count, vocab_size=vocab_size, generator=seeded())

    for inputs, targets, content, positions in zip(*(x.tolist() for x in batch), strict=True):
        copy = inputs.index(vocab_size - 1)
        assert copy == seq_len - count - 1
        found = [t for t, token in enumerate(inputs[:copy]) if token != vocab_size - 2]
        assert (positions, content) == (found, [inputs[t] for t in found])
        assert found[-1] == copy - 1  # no blank after the last content token
        assert inputs[copy + 1 :] == [vocab_size - 2] * count
        assert list(asked(inputs, targets).items()) == list(enumerate(content, start=copy + 1))
        assert max(content) < vocab_size - 2


def test_blanks_are_spread_as_published_and_not_uniformly() -> None:
    """4 blanks, each before one of 3 tokens: a multinomial; uniformly chosen positions are the control."""
    batch = selective_copying(40_000, seq_len=11, num_tokens_to_copy=3, generator=seeded())
    drawn = [tuple(row) for row in batch.positions[:, :2].tolist()]
    outcomes = [(a, a + b + 1) for a, b in itertools.product(range(5), repeat=2) if a + b <= 4]
    multinomial = {(i, j): comb(4, i) * comb(4 - i, j - i - 1) / 3**4 for i, j in outcomes}

    assert sum(multinomial.values()) == pytest.approx(1)
    assert p_of_law(drawn, multinomial) > ACCEPT
    assert p_of_law(drawn, uniform(outcomes)) < REJECT


def test_copying_agrees_with_a_slow_generator() -> None:
    batch = selective_copying(20_000, seq_len=24, num_tokens_to_copy=4, vocab_size=6, generator=seeded())
    rng = random.Random(0)
    slow = [slow_copying(24, 4, 6, rng)[0] for _ in range(20_000)]
    fast = batch.inputs.tolist()

    for t in (0, 7, 18):
        assert p_of_same([tuple(x[t : t + 2]) for x in fast], [tuple(x[t : t + 2]) for x in slow]) > ACCEPT
    assert p_of_same([x[0] for x in fast], [x[10] for x in slow]) < REJECT  # control


def test_compression_asks_for_everything() -> None:
    batch = compression(20_000, seq_len=6, vocab_size=5, generator=seeded())

    assert torch.equal(batch.inputs, batch.targets)
    assert batch.inputs.data_ptr() != batch.targets.data_ptr()
    assert (batch.inputs[:, -1] == 4).all()
    assert p_of_law(batch.inputs[:, :5].flatten().tolist(), uniform(range(4))) > ACCEPT
    pairs = [tuple(row) for row in batch.inputs[:, :2].tolist()]
    assert p_of_law(pairs, uniform(itertools.product(range(4), repeat=2))) > ACCEPT
    assert p_of_law(batch.inputs.flatten().tolist(), uniform(range(5))) < REJECT  # control


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: selective_copying(1, seq_len=33, num_tokens_to_copy=16, generator=g),
            r"seq_len is 33; expected more than 2 num_tokens_to_copy \+ 1, 33",
        ),
        (
            lambda g: selective_copying(1, vocab_size=2, generator=g),
            "vocab_size is 2; expected a whole number",
        ),
        (lambda g: selective_copying(0, generator=g), "num_examples is 0; expected a whole number of at least 1"),
        (lambda g: compression(1, seq_len=1, generator=g), "seq_len is 1; expected a whole number of at least 2"),
        (lambda g: compression(1, vocab_size=1, generator=g), "vocab_size is 1; expected a whole number of at least 2"),
        (lambda _: compression(1, generator=None), "generator is None; expected a torch.Generator, for example"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(seeded())  # type: ignore[operator]
