"""Programs decoded token by token, against Python's own sorting, counting and adding; parities one 1 at a time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from assay._errors import InputError
from assay.data.algorithmic import EOS, EVEN, HINT, ODD, PLUS, SEP, SOS, ZERO, AlgorithmicTask
from assay.rasp import programs
from assay.rasp.guard import Program
from assay.rasp.runner import RaspProgram

LENGTHS = [1, 2, 5, 20, 80]


def answer(program: Program, prompt: list[int], max_len: int = 400) -> list[int]:
    return RaspProgram(program).generate(torch.tensor(prompt), eos=EOS, max_len=max_len).tolist()


def tokens(values: list[int]) -> list[int]:
    return [ZERO + value for value in values]


@pytest.mark.parametrize("length", LENGTHS)
def test_count(length: int) -> None:
    assert answer(programs.count, [SOS, ZERO + 4, ZERO + 3 + length]) == [*tokens([4 + i for i in range(length)]), EOS]


@pytest.mark.parametrize("length", LENGTHS)
def test_copy_sort_and_mode(length: int) -> None:
    draw = random.Random(length)
    items = draw.sample(range(100), length)
    prompt = [SOS, *tokens(items), SEP]
    assert answer(programs.copy, prompt) == [*tokens(items), EOS]
    assert answer(programs.sort, prompt) == [*tokens(sorted(items)), EOS]
    many = [draw.randrange(6) for _ in range(length)]
    many += 2 * [Counter(many).most_common(1)[0][0]]
    assert answer(programs.most_frequent, [SOS, *tokens(many), SEP]) == [ZERO + Counter(many).most_common(1)[0][0], EOS]


def test_copy_of_repeats_goes_round_in_circles() -> None:
    found = answer(programs.copy, [SOS, *tokens([3, 5, 3, 7]), SEP], max_len=9)
    assert found == tokens([3, 5, 3, 5, 3, 5, 3, 5, 3])


@pytest.mark.parametrize("length", LENGTHS)
def test_parity_with_a_scratchpad(length: int) -> None:
    draw = random.Random(length)
    bits = [draw.randrange(2) for _ in range(length)]
    prompt, expected, sign = [SOS], [EVEN], 0
    for place, bit in enumerate(bits):
        prompt += [HINT + 5 + place, ZERO + bit]
        if bit:
            sign = 1 - sign
            expected += [HINT + 5 + place, ODD if sign else EVEN]
    assert answer(programs.parity_with_scratchpad, [*prompt, SEP]) == [*expected, EOS]


SUMS = [(0, 0, 1), (9, 9, 1), (999, 1, 3), (445, 555, 3), (95, 5, 2), (10**15 - 1, 1, 15), (444_555, 555_444, 6)]


@pytest.mark.parametrize(("x", "y", "length"), [*SUMS, *((None, None, length) for length in (3, 8, 15))])
def test_addition(x: int | None, y: int | None, length: int) -> None:
    draw = random.Random(length)
    for _ in range(1 if x is not None else 20 // length):
        a, b = (draw.randrange(10**length) if one is None else one for one in (x, y))

        prompt = [SOS, *written(a, length), PLUS, *written(b, length), SEP]
        assert answer(programs.addition_forward, prompt) == [*written(a + b, length), EOS]
        assert answer(programs.addition_reversed, prompt) == [*written(a + b, length, -1), EOS]


@pytest.mark.parametrize("reverse", [False, True])
def test_long_sums_with_long_carries(reverse: bool) -> None:
    """Behind the true tokens before it, each token is right: so decoding gives the sum."""
    draw, rows = random.Random(0), []
    for length in 10 * [60]:
        a = draw.randrange(10**length)
        b = 10**length - 1 - a + draw.randrange(-1, 2) * 10 ** draw.randrange(length)  # nearly all places add up to 9
        prompt = [SOS, *written(a, length), PLUS, *written(b, length), SEP]
        rows.append([*prompt, *written(a + b, length, -1 if reverse else 1), EOS])
    tokens, program = torch.tensor(rows), programs.addition_reversed if reverse else programs.addition_forward
    assert torch.equal(program(tokens)[:, len(prompt) - 1 : -1], tokens[:, len(prompt) :])


def written(number: int, length: int, order: int = 1) -> list[int]:
    places = [(HINT + 2 + i, ZERO + int(digit)) for i, digit in enumerate(f"{number:0{length + 1}d}")]
    return [token for place in places[::order] for token in place]


def test_a_batch_is_generated_as_its_rows_are() -> None:
    prompts = torch.tensor([[SOS, ZERO, ZERO + 3], [SOS, ZERO + 5, ZERO + 5]])
    found = RaspProgram(programs.count).generate(prompts, eos=EOS, max_len=10)
    assert found.tolist() == [[*tokens([0, 1, 2, 3]), EOS], [ZERO + 5, EOS, EOS, EOS, EOS]]
    assert RaspProgram(programs.count).generate(prompts, eos=EOS, max_len=2).shape == (2, 2)


def test_which_tasks_have_a_program() -> None:
    for name in ("copy-repeats", "parity", "addition"):
        assert programs.program_for(AlgorithmicTask(name)) is None
    assert programs.program_for(AlgorithmicTask("parity", hints=True)) is None
    assert programs.program_for(AlgorithmicTask("addition", reverse=True)) is None


def test_bad_arguments() -> None:
    program = RaspProgram(programs.sort)
    with pytest.raises(InputError, match=r"prompt is torch\.float32"):
        program.generate(torch.zeros(3), eos=EOS, max_len=3)
    with pytest.raises(InputError, match="max_len is 0"):
        program.generate(torch.tensor([SOS]), eos=EOS, max_len=0)
    with pytest.raises(InputError, match=r"fn returned shape \(2,\); expected \(3,\)"):
        RaspProgram(lambda x: x[..., 1:])(torch.tensor([1, 2, 3]))
