"""What a context-conditioned Markov chain says when it reads itself: a generalised Polya urn, in which few tokens win.

The exponents are derived here, not the paper's (Ildiz et al. 2024, arXiv 2402.13512, states the collapse). Where token
w has taken almost everything, the query is almost always w, so `dm_j / dm_w = m_j P_wj / (m_w P_ww)`, and `m_j` grows
as `m_w` to the power `P_wj / P_ww`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.theory.ccmc import check_stochastic
from assay.theory.prompts import CountedPrompts, check_tokens, token_counts


def ccmc_generate(p: Tensor, prompts: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """n runs of the chain: (n, steps), int64.

    Each token is drawn given all tokens before it, and is the next query. p: (K, K), or (n, K, K), one for each run;
    prompts: (n, L), int64; generator: on the device of `prompts`. O(n K steps), vectorised over runs. Raises
    `InputError` where p is not stochastic, and where a run comes to a token from which p goes to none that it has read.
    """
    p = check_stochastic(p)
    size = p.shape[-1]
    if prompts.ndim != 2 or 0 in prompts.shape:
        raise InputError(f"prompts has shape {tuple(prompts.shape)}; expected (n, L) with n and L at least 1")
    p = p.expand(len(prompts), size, size)
    counts = token_counts(prompts, size)
    runs = torch.arange(len(prompts), device=prompts.device)
    last = prompts[:, -1]
    said = torch.empty(steps, len(prompts), dtype=torch.int64, device=prompts.device)
    draws = torch.rand(steps, len(prompts), 1, dtype=p.dtype, device=p.device, generator=generator)
    stuck = torch.zeros(len(prompts), 1, dtype=torch.bool, device=prompts.device)
    for step in range(steps):
        weights = (p[runs, last] * counts).cumsum(-1)
        total = weights[:, -1:]
        stuck |= total == 0
        last = torch.searchsorted(weights, draws[step] * total, right=True).squeeze(1).clamp(max=size - 1)
        counts[runs, last] += 1
        said[step] = last
    if bool(stuck.any()):
        run = int(stuck.int().argmax())
        raise InputError(f"p leads run {run} to a token that goes to none it has read; expected p above 0 among those")
    return said.mT


def trajectory_prompts(prompt: Tensor, said: Tensor, vocab_size: int) -> CountedPrompts:
    """Every step of one run as an example: prompt (L,) and what was said after it (steps,), int64."""
    tokens = torch.cat([prompt, said])
    check_tokens("prompt", tokens, vocab_size)
    before = torch.nn.functional.one_hot(tokens, vocab_size).double().cumsum(0)[len(prompt) - 1 : -1]
    return CountedPrompts(before, tokens[len(prompt) - 1 : -1], said)


def shares(prompts: Tensor, said: Tensor, vocab_size: int, times: Tensor) -> Tensor:
    """The part that each token has of all tokens after `times` (m,) steps, averaged over runs: (m, K). O(n K steps)."""
    start = token_counts(prompts, vocab_size).mean(0)
    counts = torch.stack([(said == token).double().mean(0).cumsum(0)[times - 1] for token in range(vocab_size)], -1)
    return (start + counts) / (prompts.shape[1] + times[:, None])


def collapse_exponents(p: Tensor, winner: int) -> Tensor:
    """`P_wj / P_ww - 1` (K,): the share of token j falls as this power of time where w wins.

    Raises `InputError` where w cannot win, since it does not say itself most often (such an exponent is above 0).
    """
    p = check_stochastic(p)
    check_tokens("winner", torch.tensor([winner]), p.shape[-1])
    if not bool((p[winner] <= p[winner, winner]).all()):
        raise InputError(f"winner is {winner}, from which p goes elsewhere more often; expected p[w, w] >= p[w, j]")
    return p[winner] / p[winner, winner] - 1
