"""Algorithmic tasks of any length: counting, copying, sorting, the mode, parity, addition, in several formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator
from assay.data._distinct import distinct
from assay.data._queries import IGNORED

PAD, SOS, SEP, EOS, PLUS, EVEN, ODD = range(7)
ZERO = 7  # symbol v, which is a digit, a bit or an item, is the token ZERO + v
HINT = ZERO + 10  # index hint i is the token HINT + i, in tasks of bits and digits


class Algorithmic(NamedTuple):
    """`inputs`, `targets`: (B, L), int64, the answers as targets, -100 elsewhere; short examples are padded on the
    right. `lengths`: (B,), of the problems. `offsets`: (B,), where in its context each example starts."""

    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    offsets: Tensor


Pieces = tuple[list[Tensor], list[Tensor]]  # of prompt and answer, (B, k) each; PAD where there is nothing


@dataclass(frozen=True)
class AlgorithmicTask:
    """A task whose examples are prompt and answer, in one of several formats; n is the length.

    | name           | prompt, between SOS and SEP (count: no SEP)    | answer, before EOS              |
    |----------------|------------------------------------------------|---------------------------------|
    | `count`        | a, a + n - 1                                   | a, a + 1, .., a + n - 1         |
    | `copy`         | n distinct symbols                             | the same                        |
    | `copy-repeats` | n symbols, with replacement                    | the same                        |
    | `sort`         | n distinct symbols                             | the same, ascending             |
    | `mode`         | n symbols, one more frequent than any other    | that one                        |
    | `parity`       | n bits                                         | their sum modulo 2              |
    | `addition`     | x + y: n digits each, behind a 0               | the n + 1 digits of the sum     |

    Args:
        hints: parity and addition: before each bit or digit stands its place, of consecutive hints that start anywhere;
            in the answer of an addition as well.
        reverse: addition: the answer begins with its last digit.
        scratchpad: parity, with hints: the answer is EVEN, then for each 1 its hint and the parity so far, EVEN or ODD.
        num_symbols: of count, copy, sort and mode; symbols are 0..num_symbols - 1.
        num_hints: how many hints there are.

    Lengths can be up to `num_symbols` where symbols are distinct. With the defaults every token is below 128, as
    RASP-L wants it. Raises `InputError` for a format that a task does not have.

    Source: Zhou et al. 2023 (arXiv 2310.16028); formats with hints are reconstructed from
    public summaries, and the tokens' numbers are ours.
    """

    name: str
    hints: bool = False
    reverse: bool = False
    scratchpad: bool = False
    num_symbols: int = 110
    num_hints: int = 110

    def __post_init__(self) -> None:
        check_counts(num_symbols=self.num_symbols, num_hints=self.num_hints)
        if self.name not in _TASKS:
            raise InputError(f"name is {self.name!r}; expected one of {', '.join(_TASKS)}")
        for option, tasks in (
            ("hints", ("parity", "addition")),
            ("reverse", ("addition",)),
            ("scratchpad", ("parity",)),
        ):
            if getattr(self, option) and self.name not in tasks:
                raise InputError(f"{option} is True for {self.name}; expected it for {' or '.join(tasks)} only")
        if self.scratchpad and not self.hints:
            raise InputError("scratchpad is True without hints; expected hints=True, by which it names the ones")

    @property
    def vocab_size(self) -> int:
        """Tokens are below this."""
        if self.hints:
            return HINT + self.num_hints
        return ZERO + {"parity": 2, "addition": 10}.get(self.name, self.num_symbols)

    def sample(
        self,
        num_examples: int,
        *,
        max_length: int,
        min_length: int = 1,
        context: int | None = None,
        generator: torch.Generator,
    ) -> Algorithmic:
        """Examples whose lengths are uniform in min_length..max_length; on the device of the generator.

        `context`: with it, `offsets` are uniform in 0..context - L; without, 0. A model with learned positions that is
        trained at the offsets knows all positions of the context, and not those of short examples only.
        O(B L); O(B L log L) where symbols are distinct. Raises `InputError` for lengths that the task cannot have, and
        for examples that do not fit into the context.
        """
        check_counts(num_examples=num_examples, min_length=min_length)
        check_counts(min_length, max_length=max_length)
        check_generator(generator)
        self._check_length(max_length)
        lengths = torch.randint(
            min_length, max_length + 1, (num_examples,), device=generator.device, generator=generator
        )
        prompt, answer = _TASKS[self.name](self, lengths, generator)
        prompt = [_constant(lengths, SOS), *prompt]
        answer = [*answer, _constant(lengths, EOS)]
        inputs, targets = _joined(torch.cat(prompt, dim=1), torch.cat(answer, dim=1))
        room = 0 if context is None else context - inputs.shape[1]
        if room < 0:
            raise InputError(f"context is {context}; expected at least {inputs.shape[1]}, the tokens of an example")
        offsets = torch.randint(room + 1, lengths.shape, device=lengths.device, generator=generator)
        return Algorithmic(inputs, targets, lengths, offsets)

    def _check_length(self, length: int) -> None:
        if self.name in ("count", "copy", "sort") and length > self.num_symbols:
            raise InputError(f"max_length is {length}; expected at most num_symbols, {self.num_symbols}")
        needed = length + (self.name == "addition")
        if self.hints and needed > self.num_hints:
            raise InputError(f"max_length is {length}; expected num_hints, {self.num_hints}, to be at least {needed}")


def _joined(prompt: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, L): the tokens of both without the gaps between them."""
    tokens = torch.cat([prompt, answer], dim=1)
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, prompt.shape[1] :] = True
    order = (tokens == PAD).long().sort(dim=1, stable=True).indices[:, : int((tokens != PAD).sum(dim=1).max())]
    tokens, asked = tokens.gather(1, order), asked.gather(1, order)
    return tokens[:, :-1], torch.where(asked & (tokens != PAD), tokens, IGNORED)[:, 1:]


def _constant(lengths: Tensor, token: int) -> Tensor:
    return torch.full_like(lengths, token)[:, None]


def _first(lengths: Tensor) -> Tensor:
    """The first n of max n places, (B, N)."""
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


def _below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in 0..bound - 1, for each entry of `bound`."""
    uniform = torch.rand(bound.shape, dtype=torch.float64, device=bound.device, generator=generator)
    return (uniform * bound).long()


def _symbols(values: Tensor, there: Tensor) -> Tensor:
    return torch.where(there, ZERO + values, PAD)


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], dim=-1).flatten(1)


def _count(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Pieces:
    start = _below(task.num_symbols - lengths + 1, generator)[:, None]
    there = _first(lengths)
    run = start + torch.arange(there.shape[1], device=start.device)
    return [ZERO + start, ZERO + start + lengths[:, None] - 1], [_symbols(run, there)]


def _copy(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Pieces:
    there = _first(lengths)
    if task.name == "copy-repeats":
        items = torch.randint(task.num_symbols, there.shape, device=there.device, generator=generator)
    else:
        items = distinct(len(there), there.shape[1], task.num_symbols, generator)
    answer = items
    if task.name == "sort":
        answer = torch.where(there, items, task.num_symbols).sort(dim=1).values
    return [_symbols(items, there), _constant(lengths, SEP)], [_symbols(answer, there)]


def _mode(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Pieces:
    """Drawn again where the mode is not unique."""
    there = _first(lengths)
    items, most = torch.zeros_like(there, dtype=torch.int64), torch.zeros_like(lengths)
    left = torch.arange(len(lengths), device=lengths.device)
    while len(left):
        shape = (len(left), there.shape[1])
        items[left] = torch.randint(task.num_symbols, shape, device=left.device, generator=generator)
        counts = items.new_zeros(len(left), task.num_symbols).scatter_add_(1, items[left], there[left].long())
        most[left] = counts.argmax(dim=1)
        left = left[(counts == counts.amax(dim=1, keepdim=True)).sum(dim=1) > 1]
    return [_symbols(items, there), _constant(lengths, SEP)], [ZERO + most[:, None]]


def _parity(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Pieces:
    there = _first(lengths)
    bits = torch.randint(2, there.shape, device=there.device, generator=generator) * there
    prompt, places = _symbols(bits, there), _places(task, lengths, generator)
    if task.hints:
        prompt = _interleaved(torch.where(there, places, PAD), prompt)
    if not task.scratchpad:
        return [prompt, _constant(lengths, SEP)], [ZERO + bits.sum(dim=1, keepdim=True) % 2]
    so_far = EVEN + bits.cumsum(dim=1) % 2
    steps = torch.where(bits.repeat_interleave(2, dim=1) == 1, _interleaved(places, so_far), PAD)
    return [prompt, _constant(lengths, SEP)], [_constant(lengths, EVEN), steps]


def _places(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Consecutive hints from a random one on, as many as the longest has, (B, N)."""
    start = _below(task.num_hints - lengths + 1, generator)[:, None] if task.hints else lengths[:, None] * 0
    return HINT + start + torch.arange(int(lengths.max()), device=lengths.device)


def _addition(task: AlgorithmicTask, lengths: Tensor, generator: torch.Generator) -> Pieces:
    """Digits from the first to the last; the place of the first has the smallest hint."""
    digits, width = lengths + 1, int(lengths.max()) + 1
    there = _first(digits).flip(1)  # the last digits of all examples are in the last column
    leading = torch.arange(width, device=there.device) == (width - digits)[:, None]
    x, y = (
        torch.randint(10, there.shape, device=there.device, generator=generator) * (there & ~leading) for _ in range(2)
    )
    total, carry = x + y, torch.zeros_like(lengths)
    for place in range(width - 1, -1, -1):
        total[:, place] += carry
        carry = total[:, place] // 10
    places = _places(task, digits, generator) - (width - digits)[:, None]

    def written(values: Tensor, order: int = 1) -> Tensor:
        columns = [torch.where(there, places, PAD)] if task.hints else []
        columns.append(_symbols(values, there))
        stacked = torch.stack(columns, dim=-1)
        return (stacked if order > 0 else stacked.flip(1)).flatten(1)

    prompt = [written(x), _constant(lengths, PLUS), written(y), _constant(lengths, SEP)]
    return prompt, [written(total % 10, order=-1 if task.reverse else 1)]


_TASKS: dict[str, Callable[[AlgorithmicTask, Tensor, torch.Generator], Pieces]] = {
    "count": _count,
    "copy": _copy,
    "copy-repeats": _copy,
    "sort": _copy,
    "mode": _mode,
    "parity": _parity,
    "addition": _addition,
}
