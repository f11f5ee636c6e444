"""Set disjointness, and prompts that are read twice."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from laws import ACCEPT, REJECT, asked, p_of_law, p_of_same, uniform

from assay._errors import InputError
from assay.data import (
    jrt_prompt,
    mask_prefix,
    mqar,
    pad_by_repeating,
    repeat_prompt,
    set_disjointness,
    window_around,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_sets(len_a: int, len_b: int, vocab_size: int, rng: random.Random) -> tuple[list[int], list[int], int]:
    """As published: each set from its own random half of the vocabulary, then one element is copied over."""
    ids = list(range(4, vocab_size))
    rng.shuffle(ids)
    a = rng.sample(ids[: vocab_size // 2], len_a)
    b = rng.sample(ids[vocab_size // 2 :], len_b)
    common = rng.choice(a)
    b[rng.randrange(len_b)] = common
    return a, b, common


@pytest.mark.parametrize(("len_a", "len_b", "vocab_size"), [(4, 16, 2048), (256, 4, 2048), (1, 1, 6), (12, 2, 64)])
def test_the_answer_is_the_one_element_in_both(len_a: int, len_b: int, vocab_size: int) -> None:
    batch = set_disjointness(30, len_a=len_a, len_b=len_b, vocab_size=vocab_size, generator=seeded())

    for inputs, targets, answer, positions in zip(*(x.tolist() for x in batch), strict=True):
        a, b = inputs[1 : 1 + len_a], inputs[2 + len_a : -1]
        assert (inputs[0], inputs[1 + len_a], inputs[-1]) == (1, 2, 3)
        assert len(set(a)) == len_a
        assert len(set(b)) == len(b) == len_b
        assert set(a) & set(b) == {answer}
        assert all(4 <= x < vocab_size for x in (*a, *b))
        assert asked(inputs, targets) == {len(inputs) - 1: answer}
        assert [inputs[t] for t in positions] == [answer, answer]
        assert positions[0] <= len_a < positions[1]


def test_sets_have_the_published_law() -> None:
    """Elements, their pairs within and across the sets, and where the common one stands."""
    batch = set_disjointness(30_000, len_a=3, len_b=2, vocab_size=12, generator=seeded())
    rng = random.Random(0)
    slow = [slow_sets(3, 2, 12, rng) for _ in range(30_000)]
    slow_rows = [(*a, *b) for a, b, _ in slow]
    fast_rows = [(*x[1:4], *x[5:7]) for x in batch.inputs.tolist()]

    for i, j in itertools.combinations(range(5), 2):
        assert p_of_same([(x[i], x[j]) for x in fast_rows], [(x[i], x[j]) for x in slow_rows]) > ACCEPT
    where = [(t - 1, u - 5) for t, u in batch.positions.tolist()]
    assert p_of_law(where, uniform(itertools.product(range(3), range(2)))) > ACCEPT
    assert p_of_same([(x[0], x[1]) for x in fast_rows], [(x[0], x[3]) for x in slow_rows]) < REJECT  # control


def test_a_prompt_that_is_read_twice_is_answered_the_second_time() -> None:
    batch = set_disjointness(5, len_a=4, len_b=3, generator=seeded())
    twice = repeat_prompt(batch.inputs, batch.targets)

    assert twice.inputs.tolist() == [2 * row for row in batch.inputs.tolist()]
    assert [asked(*rows) for rows in zip(twice.inputs.tolist(), twice.targets.tolist(), strict=True)] == [
        {19: answer} for answer in batch.answer.tolist()
    ]
    queries = mqar(5, seq_len=16, num_kv_pairs=2, generator=seeded())
    thrice = repeat_prompt(queries.inputs, queries.targets, repeats=3)
    assert torch.equal(thrice.targets[:, 32:], queries.targets)
    assert (thrice.targets[:, :32] == -100).all()
    once = repeat_prompt(queries.inputs, queries.targets, repeats=1)
    assert torch.equal(once.inputs, queries.inputs)
    assert torch.equal(once.targets, queries.targets)


@pytest.mark.parametrize("length", [3, 4, 6, 11])
def test_padding_repeats_the_prompt_and_ends_with_it(length: int) -> None:
    padded = pad_by_repeating(torch.tensor([[7, 8, 9], [1, 2, 3]]), length)

    for row, prompt in zip(padded.tolist(), ([7, 8, 9], [1, 2, 3]), strict=True):
        assert row == (prompt * 4)[-length:]


def test_prompts_in_words() -> None:
    assert jrt_prompt("C.", "Q:") == "C. Q:\nC. Q:"
    assert jrt_prompt("C.", "Q:", repeats=1) == "C. Q:"
    assert jrt_prompt("{C}", "Q", template="About {question}. {context}\n{context} {question}:") == (
        "About Q. {C}\n{C} Q:"
    )


@pytest.mark.parametrize("length", [5, 12])
@pytest.mark.parametrize("budget", [3, 4, 12, 20])
def test_a_window_holds_the_answer_as_near_its_middle_as_can_be(length: int, budget: int) -> None:
    for start, stop in itertools.combinations(range(length + 1), 2):
        if stop - start > budget:
            continue
        window = window_around(length, start, stop, budget)
        allowed = [s for s in range(length) if s + min(budget, length) <= length and s <= start and stop <= s + budget]
        off_centre = {s: abs((s + s + min(budget, length)) - (start + stop)) for s in allowed}
        assert window.stop - window.start == min(budget, length)
        assert off_centre[window.start] <= min(off_centre.values()) + 1  # half a token


def test_masks_are_independent_and_only_in_the_prefix() -> None:
    ids = torch.arange(10, 20).expand(20_000, -1)
    batch = mask_prefix(ids, 6, rate=0.25, generator=seeded())

    assert not batch.masked[:, 6:].any()
    assert (batch.inputs[batch.masked] == 0).all()
    assert torch.equal(batch.inputs[~batch.masked], ids[~batch.masked])
    pairs = {(i, j): (0.25 if i else 0.75) * (0.25 if j else 0.75) for i in (True, False) for j in (True, False)}
    assert p_of_law(map(tuple, batch.masked[:, [0, 5]].tolist()), pairs) > ACCEPT
    assert p_of_law(map(tuple, batch.masked[:, [0, 6]].tolist()), pairs) < REJECT  # control
    assert not mask_prefix(ids, 10, rate=0.0, generator=seeded()).masked.any()
    assert mask_prefix(ids, 10, rate=1.0, generator=seeded()).masked.all()


IDS = torch.arange(6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: set_disjointness(1, len_a=5, len_b=4, vocab_size=12, generator=g),
            r"vocab_size is 12; expected at least len_a \+ len_b \+ 4, 13",
        ),
        (lambda g: set_disjointness(1, len_a=0, len_b=4, generator=g), "len_a is 0; expected a whole number"),
        (lambda _: repeat_prompt(IDS, IDS, repeats=0), "repeats is 0; expected"),
        (lambda _: repeat_prompt(IDS, IDS[1:]), r"targets has shape \(5,\); expected that of inputs, \(6,\)"),
        (lambda _: repeat_prompt(IDS.double(), IDS), r"inputs is torch.float64 of shape \(6,\); expected an int64"),
        (lambda _: pad_by_repeating(IDS, 5), "length is 5; expected at least that of ids, 6"),
        (lambda _: pad_by_repeating(IDS[:0], 5), r"ids is torch.int64 of shape \(0,\); expected an int64 tensor"),
        (lambda _: jrt_prompt("C", "Q", template="{key}"), r"template is '\{key\}'; expected only \{context\}"),
        (lambda _: jrt_prompt("C", "Q", template="{"), r"template is '\{'; expected only"),
        (lambda _: window_around(9, 3, 3, 5), "start, stop is 3, 3; expected 0 <= start < stop <= length, 9"),
        (lambda _: window_around(9, 3, 7, 3), "budget is 3; expected at least the answer's 4 tokens"),
        (lambda g: mask_prefix(IDS, 7, generator=g), "prefix_len is 7; expected at most the length of ids, 6"),
        (lambda g: mask_prefix(IDS, 3, rate=1.5, generator=g), "rate is 1.5; expected a number from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(seeded())  # type: ignore[operator]
