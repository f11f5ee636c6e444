"""What `rasp_length_generalization` runs without training: the published programs, and some that are not RASP-L."""

from __future__ import annotations

from operator import eq

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.algorithmic import EOS, ZERO, AlgorithmicTask
from assay.lab import Row
from assay.measures.length_generalisation import length_generalization_curve
from assay.rasp.core import indices, kqv
from assay.rasp.guard import Program, check_rasp_l
from assay.rasp.library import cumsum, firsts, index_select, where
from assay.rasp.programs import copy, program_for

TASKS = {
    "count": AlgorithmicTask("count"),
    "copy": AlgorithmicTask("copy"),
    "sort": AlgorithmicTask("sort"),
    "mode": AlgorithmicTask("mode"),
    "parity, scratchpad": AlgorithmicTask("parity", hints=True, scratchpad=True),
    "addition, hints": AlgorithmicTask("addition", hints=True),
    "addition, hints, reversed": AlgorithmicTask("addition", hints=True, reverse=True),
}
REPEATS = "copy-repeats by the program for copy"


def programs(*, task: str, length: int, prompts: int, seed: int, device: str) -> Row:
    """Share of `prompts` random prompts that a program answers, its end included, under the guard of RASP-L."""
    about = TASKS.get(task, AlgorithmicTask("copy-repeats", num_symbols=4))
    program = program_for(about) or copy
    generator = torch.Generator(device).manual_seed(seed)
    few = 5  # a program needs O(B s^2) memory, and is twice as fast where that is little
    shares = [
        length_generalization_curve(
            check_rasp_l(program), about, [length], num_examples=min(few, prompts - done), generator=generator
        ).item() * min(few, prompts - done)
        for done in range(0, prompts, few)
    ]  # fmt: skip
    return {"em": sum(shares) / prompts}


OUTSIDE: dict[str, Program] = {
    "the middle, by half of an index": lambda x: index_select(x, indices(x) // 2),
    "mirrored, by a difference of indices": lambda x: index_select(x, firsts(x, x) - indices(x)),
    "every second token, by twice an index": lambda x: index_select(x, indices(x) + indices(x)),
    "parity, by a count modulo 2": lambda x: where(cumsum(x == ZERO + 1) % 2 == 0, x, x + 1),
    "position as a token": lambda x: x + indices(x),
    "position compared with a token": lambda x: kqv(x, indices(x), x, eq),
    "a number above int8": lambda x: x * 100,
    "looking ahead": lambda x: x.flip(-1),
    "the length": lambda x: x + x.shape[-1],
}


def restrictions(*, length: int, seed: int) -> list[Row]:
    """Whether the guard refuses programs outside RASP-L, and the published ones; `raises`: without the guard, any
    error."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    for name, program in OUTSIDE.items():
        tokens = torch.randint(EOS, ZERO + 10, (4, length), generator=generator)
        rows.append({"program": name, "published": False, **_outcome(program, tokens)})
    for name, task in TASKS.items():
        published = program_for(task)
        assert published is not None
        tokens = task.sample(4, max_length=length, generator=generator).inputs
        rows.append({"program": name, "published": True, **_outcome(published, tokens)})
    return rows


def _outcome(program: Program, tokens: Tensor) -> Row:
    return {
        "refused": _raises(check_rasp_l(program), tokens, InputError),
        "raises": _raises(program, tokens, Exception),  # a program that is merely broken would look refused
    }


def _raises(program: Program, tokens: Tensor, kind: type[Exception]) -> bool:
    try:
        program(tokens)
    except kind:
        return True
    return False
