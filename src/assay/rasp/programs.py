"""Programs in RASP-L, each right at every length, for the tasks of `assay.data.algorithmic` and in their tokens.

A program gives the next token at every position; what it gives before the answer begins means nothing.
Source: Zhou et al. 2023 (arXiv 2310.16028); `count` and `addition` follow the authors' code, the others public
summaries. Parity and the sum without hints have no program here, and none that is short is known.
"""

from __future__ import annotations

from torch import Tensor

from assay.data.algorithmic import EOS, EVEN, HINT, ODD, PLUS, SEP, SOS, ZERO, AlgorithmicTask
from assay.rasp.core import full, indices, kqv
from assay.rasp.guard import Program
from assay.rasp.library import (
    NULL,
    cumsum,
    firsts,
    has_seen,
    index_select,
    induct,
    induct_kqv,
    lasts,
    mask,
    mode,
    shift_right,
    where,
)


def count(x: Tensor) -> Tensor:
    """SOS a b -> a, a + 1, .., b, EOS: the first number at the end of the prompt, then one more than the last token."""
    first_at = lasts(x, full(x, SOS)) + 1
    first, last = index_select(x, first_at), index_select(x, first_at + 1)
    following = mask(x + 1, x != last, EOS)
    return where(indices(x) == first_at + 1, first, following)


def copy(x: Tensor) -> Tensor:
    """SOS a.. SEP -> a.., EOS, for distinct symbols: the induction head, to which SEP is another SOS.

    With repeated symbols it goes on behind the first of them, and is wrong; the copy of those has no short program.
    """
    x = mask(x, x != SEP, SOS)
    found = induct(x, x)
    return mask(found, found != SOS, EOS)


def sort(x: Tensor) -> Tensor:
    """SOS a.. SEP -> a.. ascending, EOS, for distinct symbols: the smallest token above the last one. Symbols are above
    SEP, and SOS is below it."""
    return kqv(x, x, x, lambda k, q: k > q, default=EOS, reduction="min")


def most_frequent(x: Tensor) -> Tensor:
    """SOS a.. SEP -> the mode, EOS: at SEP, the mode of all that is before it."""
    return mask(shift_right(mode(x)), x == SEP, EOS)


def parity_with_scratchpad(x: Tensor) -> Tensor:
    """SOS (hint bit).. SEP -> EVEN (hint sign).. EOS: behind a sign the hint of the next 1, behind a hint the other
    sign."""
    before = shift_right(x)
    ones = mask(before, x == ZERO + 1, NULL)  # at each 1 its hint
    next_one = kqv(ones, mask(before, before >= HINT), ones, lambda k, q: (k > q) & (k >= HINT), EOS, "min")
    toggled = mask(full(x, ODD), before == EVEN, EVEN)
    return where(x == SEP, full(x, EVEN), where((x == EVEN) | (x == ODD), next_one, toggled))


def addition_reversed(x: Tensor) -> Tensor:
    """SOS (hint digit).. PLUS (hint digit).. SEP -> (hint digit).. EOS from the last digit to the first.

    The carry is that of the digit before: it was one if what was written is less than the two digits are together.
    """
    pair = _pair(x, at=x)
    carry = (shift_right(pair, 2) > _digits(shift_right(x))) & (shift_right(x) != SEP)
    first = index_select(x, lasts(x, full(x, SOS)) + 1)
    hint = shift_right(x)
    next_hint = mask(hint - 1, hint != first, EOS)
    return _answer(x, shift_right(x, 2), (pair + carry) % 10, next_hint)


def addition_forward(x: Tensor) -> Tensor:
    """The same from the first digit to the last. The carry comes from the first place behind whose digits are not 9
    together, which is found by counting such places."""
    before = shift_right(x)
    summand = has_seen(x, full(x, PLUS)) & ~has_seen(x, full(x, SEP)) & _is_digit(x)  # the digits of y
    sums = mask(_pair(x, at=before), summand)
    ends = cumsum(summand & (sums != 9))
    hint_of_y = mask(before, summand, NULL)
    here = firsts(hint_of_y, x)
    end = firsts(ends, index_select(ends, here) + 1)
    carry = index_select(sums, end) > 9
    last = index_select(x, firsts(x, full(x, PLUS)) - 1 - 1)
    next_hint = mask(before + 1, before != last, EOS)
    first = index_select(x, lasts(x, full(x, SOS)) + 1)
    return _answer(x, first, (_pair(x, at=x) + carry) % 10, next_hint)


def program_for(task: AlgorithmicTask) -> Program | None:
    """The program of a task in its format; None where there is none."""
    if task.name == "addition" and task.hints:
        return addition_reversed if task.reverse else addition_forward
    if task.name == "parity" and task.scratchpad:
        return parity_with_scratchpad
    return {"count": count, "copy": copy, "sort": sort, "mode": most_frequent}.get(task.name)


def _is_digit(x: Tensor) -> Tensor:
    return (x >= ZERO) & (x < HINT)


def _digits(x: Tensor) -> Tensor:
    """The values of digits; 0 elsewhere."""
    return mask(x - ZERO, _is_digit(x))


def _pair(x: Tensor, at: Tensor) -> Tensor:
    """The sum of the two digits behind the hint `at`, one of each summand."""
    in_y = mask(x, has_seen(x, full(x, PLUS)), NULL)
    return induct_kqv(x, at, _digits(x)) + induct_kqv(in_y, at, _digits(x))


def _answer(x: Tensor, first_hint: Tensor, digit: Tensor, next_hint: Tensor) -> Tensor:
    """Behind SEP the first hint, behind a hint its digit, behind a digit the next hint."""
    return where(x == SEP, first_hint, where(x >= HINT, digit + ZERO, next_hint))
