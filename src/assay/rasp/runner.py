"""A RASP program as a language model: it is asked for the next token until it ends."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_ids
from assay.rasp.guard import Program


class RaspProgram:
    """A function from tokens (..., s) to the next token at every position, decoded greedily.

    RaspProgram(sort).generate(torch.tensor([SOS, ZERO + 3, ZERO + 1, SEP]), eos=EOS, max_len=10)
    """

    def __init__(self, fn: Program) -> None:
        self.fn = fn

    def __call__(self, tokens: Tensor) -> Tensor:
        """The next token at every position, int64, (..., s) as `tokens`. Raises `InputError` for another shape."""
        following = self.fn(tokens)
        if following.shape != tokens.shape:
            raise InputError(f"fn returned shape {tuple(following.shape)}; expected {tuple(tokens.shape)}")
        return following.long()

    def generate(self, prompt: Tensor, eos: int, max_len: int) -> Tensor:
        """What follows the prompt, (..., n), n <= max_len: up to and with `eos`, or max_len tokens without it.

        `prompt`: (..., s), int64, s at least 1. Rows of a batch that end earlier have `eos` up to the end of the
        longest. The program is run anew for each token. Raises `InputError` for a prompt of another kind, and for
        max_len below 1.
        """
        check_ids("prompt", prompt)
        check_counts(max_len=max_len)
        tokens, ended = prompt, torch.zeros(prompt.shape[:-1], dtype=torch.bool, device=prompt.device)
        for _ in range(max_len):
            following = torch.where(ended, eos, self(tokens)[..., -1])
            tokens = torch.cat([tokens, following.unsqueeze(-1)], dim=-1)
            ended = following == eos
            if bool(ended.all()):
                break
        return tokens[..., prompt.shape[-1] :]
