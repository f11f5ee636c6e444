"""Experiments with context-conditioned Markov chains: the equivalence, what prompts tell, what a chain becomes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from assay.data.markov import MarkovSource
from assay.optim.max_margin import row_space
from assay.theory.ccmc import attention_to_markov, ccmc_transition, fit_ccmc, markov_to_attention
from assay.theory.ccmc_trajectory import ccmc_generate, collapse_exponents, shares, trajectory_prompts
from assay.theory.coverage import coverage
from assay.theory.last_token_attention import attention_law
from assay.theory.prompts import CountedPrompts, token_counts

SUPPORTS = {"connected": ((0, 1), (1, 2), (2, 3)), "disconnected": ((0, 1), (2, 3))}
Chain = tuple[tuple[float, float], tuple[float, float]]
RIDGE = 0.01  # precision of the prior on logits: a choice that was never made has a finite estimate


def equivalence(*, tokens: int, width: int, length: int, prompts: int, device: str) -> dict[str, Any]:
    """Attention computed as such, against the chain; and both maps, one after the other."""
    e = torch.nn.functional.normalize(torch.randn(tokens, width, dtype=torch.float64), dim=-1).to(device)
    w = torch.randn(width, width, dtype=torch.float64).to(device)
    x, queries = torch.randint(tokens, (prompts, length)).to(device), torch.randint(tokens, (prompts,)).to(device)
    p, counts = attention_to_markov(w, e), token_counts(x, tokens)
    law = attention_law(w, e, x, queries)

    u = torch.randn(length, width, dtype=torch.float64).to(device)
    u = u - u @ torch.linalg.pinv(e) @ e  # the head must not see positions
    placed = attention_law(w, e, x, queries, positions=u)
    weights = (u @ w @ e.mT).exp().mT[queries]

    chain = _random_chain(tokens, device)
    lifted = markov_to_attention(p, e)
    within = row_space(e[1:] - e[:1]) @ w @ row_space(e)
    return {
        "law": _error(ccmc_transition(p, counts, queries), law),
        "law_without_counts": _error(ccmc_transition(p, (counts > 0).double(), queries), law),
        "placed": _error(ccmc_transition(p, token_counts(x, tokens, weights), queries), placed),
        "placed_without_weights": _error(ccmc_transition(p, counts, queries), placed),
        "chain": _error(attention_to_markov(markov_to_attention(chain, e), e), chain),
        "weights": _error(lifted, within) / float(within.abs().max()),
        "weights_outside": _error(lifted, w) / float(w.abs().max()),
    }


def identification(*, design: str, sizes: tuple[int, ...], worlds: int, device: str) -> list[dict[str, Any]]:
    """Squared error of P, estimated from n prompts of length 6 that have two tokens each, over several chains P."""
    errors: dict[int, list[float]] = {n: [] for n in sizes}
    connected = set()
    for _ in range(worlds):
        p = _random_chain(4, device)
        for n in sizes:
            data = _choose(p, *_prompts(design, n, device))
            errors[n].append(float((fit_ccmc(data, ridge=RIDGE).p - p).square().sum()))
            connected.add(coverage(data.counts, data.queries).identifiable)
    return [
        {"design": design, "n": n, "error": sum(own) / worlds, "identifiable": float(min(connected))}
        for n, own in errors.items()
    ]


def collapse(*, chains: tuple[Chain, ...], steps: int, runs: int, device: str) -> list[dict[str, Any]]:
    """The share of token 1, from equal counts, when chains with these two rows (up to a factor) read themselves."""
    p = _normalised(torch.tensor(chains, dtype=torch.float64)).to(device)
    prompts = torch.tensor([0, 1] * 5, device=device).expand(len(chains) * runs, -1)
    generator = torch.Generator(device).manual_seed(torch.initial_seed())
    said = ccmc_generate(p.repeat_interleave(runs, 0), prompts, steps, generator)
    times = torch.logspace(math.log10(steps / 40), math.log10(steps), 30, device=device).round().long()
    rows = []
    for c, chain in enumerate(chains):
        share = shares(prompts[:runs], said[c * runs : (c + 1) * runs], 2, times)[:, 1]
        about = {"chain": str([list(row) for row in chain]), "predicted": float(collapse_exponents(p[c], 0)[1])}
        rows += [about | {"time": t, "share": part} for t, part in zip(times.tolist(), share.tolist(), strict=True)]
    return rows


def one_trajectory(*, odds: tuple[float, ...], sizes: tuple[int, ...], runs: int, device: str) -> list[dict[str, Any]]:
    """Squared error of the rows of P of tokens that lose, from the n steps of one trajectory, from n prompts, and from
    the n steps of a Markov chain with the same P, which does not weight with counts."""
    size = len(odds)
    p = _normalised(torch.tensor(odds, dtype=torch.float64)).to(device).expand(size, size)
    prompts = torch.arange(size, device=device).flip(0).repeat(4).expand(runs, -1)
    generator = torch.Generator(device).manual_seed(torch.initial_seed())
    said = ccmc_generate(p, prompts, max(sizes), generator)
    walks = MarkovSource(p).sample(runs, max(sizes) + 1, generator=generator)

    def error(data: CountedPrompts) -> float:
        return float((fit_ccmc(data, ridge=RIDGE).p - p)[1:].square().sum())

    rows = []
    for n in sizes:
        told = [error(trajectory_prompts(prompts[run], said[run, :n], size)) for run in range(runs)]
        even = torch.ones(n, size, dtype=torch.float64, device=device)  # with equal counts, the two chains are one
        walked = [error(CountedPrompts(even, walk[:n], walk[1 : n + 1])) for walk in walks]
        drawn = []
        for _ in range(runs):
            x = torch.randint(size, (n, prompts.shape[1])).to(device)
            drawn.append(error(_choose(p, x, x[:, -1])))
        for source, errors in (("one trajectory", told), ("prompts", drawn), ("Markov chain", walked)):
            rows.append({"source": source, "n": n, "error": sum(errors) / runs})
    return rows


def _prompts(design: str, n: int, device: str) -> tuple[Tensor, Tensor]:
    """Prompts (n, 6) and queries. "self": the query is the last token, and occurs with each other one."""
    queries = torch.randint(4, (n,))
    if design == "self":
        pairs = torch.stack([queries, (queries + torch.randint(1, 4, (n,))) % 4], 1)
    else:
        supports = torch.tensor(SUPPORTS[design])
        pairs = supports[torch.randint(len(supports), (n,))]
    x = pairs.gather(1, torch.randint(2, (n, 6)))
    if design == "self":
        x[:, -1] = queries
    return x.to(device), queries.to(device)


def _choose(p: Tensor, x: Tensor, queries: Tensor) -> CountedPrompts:
    """Prompts with labels that are drawn from the chain."""
    counts = token_counts(x, len(p))
    return CountedPrompts(counts, queries, torch.multinomial(ccmc_transition(p, counts, queries), 1).squeeze(1))


def _random_chain(size: int, device: str) -> Tensor:
    """Rows from Dirichlet(2), no entry below about 0.05 in four."""
    rows = torch.distributions.Dirichlet(torch.full((size, size), 2.0, dtype=torch.float64)).sample()
    return _normalised(rows.clamp(min=0.2 / size)).to(device)


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True)


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).abs().max())
