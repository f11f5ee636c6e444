"""Reading a prompt more than once, in tokens and in words (Arora et al. 2024, "Just read twice", arXiv 2407.05483)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_ids, check_number
from assay.data._queries import IGNORED


class Repeated(NamedTuple):
    """`inputs`, `targets`: (..., repeats L), int64; only targets of the last reading are kept."""

    inputs: Tensor
    targets: Tensor


def repeat_prompt(inputs: Tensor, targets: Tensor, *, repeats: int = 2) -> Repeated:
    """Any task read `repeats` times and answered the last time: JRT-Prompt, LM(C, Q, C, Q), for tokens.

    `inputs`, `targets`: (..., L), int64, as every generator here gives them. Published: `repeats` = 2.
    Raises `InputError` where `repeats` is no whole number of at least 1, `inputs` or `targets` is no int64 tensor with
    L at least 1, or their shapes differ.

    >>> repeat_prompt(torch.tensor([5, 6]), torch.tensor([-100, 7])).targets.tolist()
    [-100, -100, -100, 7]
    """
    check_counts(repeats=repeats)
    check_ids("inputs", inputs)
    check_ids("targets", targets)
    if inputs.shape != targets.shape:
        raise InputError(f"targets has shape {tuple(targets.shape)}; expected that of inputs, {tuple(inputs.shape)}")
    unasked = torch.full_like(targets, IGNORED)
    return Repeated(torch.cat([inputs] * repeats, dim=-1), torch.cat([unasked] * (repeats - 1) + [targets], dim=-1))


def pad_by_repeating(ids: Tensor, length: int) -> Tensor:
    """Prompts made `length` tokens long by reading them again and again: (..., l) -> (..., length).

    The last l tokens are the prompt itself, and what is before them ends with the prompt too; the first reading may
    be cut. This is how a prompt that is shorter than the prefix of prefix linear attention is filled up in the paper
    ("read-twice padding").
    Raises `InputError` where `ids` is no int64 tensor with l at least 1, or `length` no whole number of at least l.
    """
    check_counts(length=length)
    check_ids("ids", ids)
    if length < ids.shape[-1]:
        raise InputError(f"length is {length}; expected at least that of ids, {ids.shape[-1]}")
    return ids[..., torch.arange(-length, 0, device=ids.device) % ids.shape[-1]]


def jrt_prompt(context: str, question: str, *, repeats: int = 2, template: str | None = None) -> str:
    """A prompt in words whose context is read before it is known what for, and then again: "C Q\\nC Q".

    Args:
        template: the whole prompt, with `{context}` and `{question}` in it as often as they are wanted; then `repeats`
            has no effect. Published: "Information about {question}. {context}\\n{context} {question}:" to extract a
            field of a document (FDA), "{question} {context}\\n{context}" for a text to complete (SQuAD).

    Raises `InputError` where `repeats` is no whole number of at least 1, with a template too, and where `template`
    cannot be filled in, as with another name or nothing in braces, or a brace by itself.

    >>> jrt_prompt("Ada was born in London.", "Ada was born in")
    'Ada was born in London. Ada was born in\\nAda was born in London. Ada was born in'
    """
    check_counts(repeats=repeats)
    if template is None:
        return "\n".join([f"{context} {question}"] * repeats)
    try:
        return template.format(context=context, question=question)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise InputError(f"template is {template!r}; expected only {{context}} and {{question}} in braces") from None


def window_around(length: int, start: int, stop: int, budget: int) -> slice:
    """Which `budget` of `length` tokens to keep, with the answer `start:stop` as near the middle as the ends allow.

    Published: contexts longer than 1,000 tokens (2,000 where they are read twice) are cut so.
    Raises `InputError` where `length` or `budget` is no whole number of at least 1, `start:stop` is empty or not within
    0..length, or the answer is longer than `budget`.

    >>> window_around(length=100, start=10, stop=12, budget=40)
    slice(0, 40, None)
    """
    check_counts(length=length, budget=budget)
    if not 0 <= start < stop <= length:
        raise InputError(f"start, stop is {start}, {stop}; expected 0 <= start < stop <= length, {length}")
    if stop - start > budget:
        raise InputError(f"budget is {budget}; expected at least the answer's {stop - start} tokens")
    first = max(0, min((start + stop - budget) // 2, length - budget))
    return slice(first, min(first + budget, length))


class MaskedPrefix(NamedTuple):
    """`inputs`: (..., L), with masks. `masked`: (..., L), bool, where the token is to be predicted."""

    inputs: Tensor
    masked: Tensor


def mask_prefix(
    ids: Tensor, prefix_len: int, *, mask_id: int = 0, rate: float = 0.15, generator: torch.Generator
) -> MaskedPrefix:
    """Each of the first `prefix_len` tokens is replaced by the mask with probability `rate`: inputs of JRT-RNN's loss.

    `ids`: (..., L), int64. Published: 15 %, with a prefix of half of the sequence (1,024 of 2,048).
    Raises `InputError` where `ids` is no int64 tensor with L at least 1, `prefix_len` is no whole number from 1 to L,
    `rate` no number from 0 to 1, or `generator` no `torch.Generator`.
    """
    check_counts(prefix_len=prefix_len)
    check_ids("ids", ids)
    check_number("rate", rate)
    check_generator(generator)
    if prefix_len > ids.shape[-1]:
        raise InputError(f"prefix_len is {prefix_len}; expected at most the length of ids, {ids.shape[-1]}")
    if not 0 <= rate <= 1:
        raise InputError(f"rate is {rate}; expected a number from 0 to 1")
    masked = torch.rand(ids.shape, device=generator.device, generator=generator).to(ids.device) < rate
    masked[..., prefix_len:] = False
    return MaskedPrefix(ids.masked_fill(masked, mask_id), masked)
