"""Examples of every task, read back token by token and answered by Python."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch

from assay._errors import InputError
from assay.data._queries import IGNORED
from assay.data.algorithmic import EOS, EVEN, HINT, ODD, PAD, PLUS, SEP, SOS, ZERO, Algorithmic, AlgorithmicTask


def drawn(task: AlgorithmicTask, **options: Any) -> Algorithmic:
    options = {"num_examples": 300, "max_length": 12} | options
    return task.sample(generator=torch.Generator().manual_seed(7), **options)


def examples(batch: Algorithmic) -> list[tuple[list[int], list[int], int]]:
    """Prompt behind SOS, answer before EOS, and length of each example; the form is checked on the way."""
    found = []
    for inputs, targets, length in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.lengths.tolist(), strict=True
    ):
        answer = [t for t in targets if t != IGNORED]
        start = next(i for i, t in enumerate(targets) if t != IGNORED)
        padding = len(targets) - start - len(answer)
        assert targets == [IGNORED] * start + answer + [IGNORED] * padding  # in one piece
        assert [*inputs, PAD if padding else EOS] == [*inputs[: start + 1], *answer] + [PAD] * padding  # and read, too
        assert inputs[0] == SOS
        assert answer[-1] == EOS
        found.append((inputs[1 : start + 1], answer[:-1], length))
    assert max(len(prompt) + len(answer) + 1 for prompt, answer, _ in found) == batch.inputs.shape[1]
    return found


def values(tokens: list[int]) -> list[int]:
    assert all(t >= ZERO for t in tokens)
    return [t - ZERO for t in tokens]


def test_count() -> None:
    for prompt, answer, length in examples(drawn(AlgorithmicTask("count", num_symbols=20))):
        first, last = values(prompt)
        assert values(answer) == list(range(first, last + 1))
        assert len(answer) == length
        assert last < 20


@pytest.mark.parametrize("name", ["copy", "copy-repeats", "sort"])
def test_copy_and_sort(name: str) -> None:
    repeated = 0
    for prompt, answer, length in examples(drawn(AlgorithmicTask(name, num_symbols=16))):
        assert prompt.pop() == SEP
        items = values(prompt)
        assert len(items) == length
        assert max(items) < 16
        assert values(answer) == (sorted(items) if name == "sort" else items)
        repeated += len(set(items)) < length
    assert (repeated > 0) == (name == "copy-repeats")


def test_mode() -> None:
    for prompt, answer, length in examples(drawn(AlgorithmicTask("mode", num_symbols=5))):
        assert prompt.pop() == SEP
        (first, most), *others = Counter(values(prompt)).most_common(2)
        assert values(answer) == [first]
        assert all(most > other for _, other in others)
        assert len(prompt) == length


@pytest.mark.parametrize("format", [{}, {"hints": True}, {"hints": True, "scratchpad": True}])
def test_parity(format: dict[str, bool]) -> None:
    for prompt, answer, length in examples(drawn(AlgorithmicTask("parity", **format))):
        assert prompt.pop() == SEP
        hints = without_hints(prompt) if format else range(length)
        bits = values(prompt)
        assert len(bits) == length
        assert set(bits) <= {0, 1}
        if "scratchpad" not in format:
            assert values(answer) == [sum(bits) % 2]
            continue
        assert answer[0] == EVEN
        assert answer[1::2] == [hint for hint, bit in zip(hints, bits, strict=True) if bit]
        assert answer[2::2] == [(ODD, EVEN)[i % 2] for i in range(sum(bits))]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hints", [False, True])
def test_addition(hints: bool, reverse: bool) -> None:
    carried = 0
    for prompt, answer, length in examples(drawn(AlgorithmicTask("addition", hints=hints, reverse=reverse))):
        assert prompt.pop() == SEP
        summands = prompt[: prompt.index(PLUS)], prompt[prompt.index(PLUS) + 1 :]
        if hints:
            places = [without_hints(summand) for summand in summands]
            assert places[0] == places[1]
            assert without_hints(answer) == (places[0][::-1] if reverse else places[0])
        total = answer[::-1] if reverse else answer
        assert [len(number) for number in (*summands, total)] == 3 * [length + 1]
        x, y, z = (int("".join(map(str, values(number)))) for number in (*summands, total))
        assert x + y == z
        assert x < 10**length
        carried += z >= 10**length
    assert carried > 50


def without_hints(tokens: list[int]) -> list[int]:
    """Takes the hints out of `tokens`, and returns them: consecutive, upwards or downwards."""
    hints = tokens[::2]
    del tokens[::2]
    assert all(hint >= HINT for hint in hints)
    assert {abs(b - a) for a, b in pairwise(hints)} <= {1}
    return hints


ALL = [
    *(AlgorithmicTask(name) for name in ("count", "copy", "copy-repeats", "sort", "mode", "parity", "addition")),
    AlgorithmicTask("parity", hints=True, scratchpad=True),
    AlgorithmicTask("addition", hints=True, reverse=True),
]


@pytest.mark.parametrize("task", ALL)
def test_what_holds_for_all(task: AlgorithmicTask) -> None:
    batch = drawn(task, num_examples=1300, max_length=13, context=100)
    assert int(batch.inputs.max()) < task.vocab_size <= 128
    assert set(batch.lengths.tolist()) == set(range(1, 14))
    assert batch.lengths.bincount()[1:].min() > 60  # uniform: 100 each
    room = 100 - batch.inputs.shape[1]
    assert set(batch.offsets.tolist()) == set(range(room + 1))
    assert not drawn(task).offsets.any()

    again, other = drawn(task), task.sample(300, max_length=12, generator=torch.Generator().manual_seed(8))
    assert all(torch.equal(a, b) for a, b in zip(drawn(task), again, strict=True))
    assert not torch.equal(drawn(task).inputs, other.inputs)


def test_starts_and_hints_are_anywhere() -> None:
    starts = drawn(AlgorithmicTask("count", num_symbols=12), max_length=4, min_length=4).inputs[:, 1] - ZERO
    assert set(starts.tolist()) == set(range(9))
    hints = drawn(AlgorithmicTask("parity", hints=True, num_hints=9), max_length=4, min_length=4).inputs[:, 1] - HINT
    assert set(hints.tolist()) == set(range(6))


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "name": ({"name": "multiply"}, {}, "name is 'multiply'; expected one of count, copy"),
    "hints": ({"name": "sort", "hints": True}, {}, "hints is True for sort; expected it for parity or addition only"),
    "reverse": ({"name": "parity", "reverse": True}, {}, "reverse is True for parity"),
    "scratchpad": ({"name": "parity", "scratchpad": True}, {}, "scratchpad is True without hints"),
    "symbols": ({"name": "copy", "num_symbols": 0}, {}, "num_symbols is 0"),
    "too many": ({"name": "copy", "num_symbols": 11}, {}, "max_length is 12; expected at most num_symbols, 11"),
    "places": ({"name": "addition", "hints": True, "num_hints": 12}, {}, "num_hints, 12, to be at least 13"),
    "lengths": ({"name": "copy"}, {"min_length": 13}, "max_length is 12; expected a whole number of at least 13"),
    "context": ({"name": "mode"}, {"context": 14, "min_length": 12}, "context is 14; expected at least 15"),
    "generator": ({"name": "mode"}, {"generator": 3}, "generator is 3"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments(bad: str) -> None:
    task, options, message = BAD[bad]
    with pytest.raises(InputError, match=message):
        AlgorithmicTask(**task).sample(
            **({"num_examples": 5, "max_length": 12, "generator": torch.Generator()} | options)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("task", ALL)
def test_on_a_gpu(task: AlgorithmicTask) -> None:
    batch = task.sample(8, max_length=5, context=60, generator=torch.Generator("cuda").manual_seed(1))
    assert {one.device.type for one in batch} == {"cuda"}
