"""Experiments of the next-token automaton: one layer of attention, trained, beside what its data's graphs predict."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.measures.similarity import alignment
from assay.theory.attention_automaton import AttentionAutomaton, attention_automaton
from assay.theory.choice_model import choice_log_probabilities
from assay.theory.graph_svm import cyclic_prompts, tied_pairs
from assay.theory.last_token_attention import attention_law, normalised_descent
from assay.theory.prompts import CountedPrompts, count_prompts

FINITE = 0.05  # a finite part with a smaller norm is none: symmetric data
SETTLING = 500
"""Steps of a tenth of the length."""


class Problems(NamedTuple):
    """S data sets: embeddings (S, K, d), prompts (S, n, L), labels (S, n) drawn from the prompts, twice."""

    embeddings: Tensor
    prompts: Tensor
    labels: Tensor
    redrawn: Tensor


def draw(problems: int, tokens: int, width: int, samples: int, length: int, device: str) -> Problems:
    e = torch.nn.functional.normalize(torch.randn(problems, tokens, width, dtype=torch.float64), dim=-1)
    x = torch.randint(tokens, (problems, samples, length))
    labels, redrawn = (x.gather(2, torch.randint(length, (problems, samples, 1))).squeeze(2) for _ in range(2))
    return Problems(*(part.to(device) for part in (e, x, labels, redrawn)))


def trained(
    *,
    problems: int,
    tokens: int,
    width: int,
    samples: int,
    length: int,
    start: float,
    lr: float,
    steps: tuple[int, ...],
    contexts: int,
    device: str,
) -> list[dict[str, Any]]:
    """Gradient descent on W, from normal entries of the size `start`, and what the graphs say of its end: a row for
    each problem after each number of `steps`, from where shorter steps let the oscillation, as large as a step, die."""
    given = draw(problems, tokens, width, samples, length, device)
    first = start * torch.randn(problems, width, width, dtype=torch.float64).to(device)
    fresh = torch.randint(tokens, (problems, contexts, length)).to(device)
    fresh[..., -1] = given.prompts[:, torch.randint(samples, (contexts,)), -1]  # last tokens that have graphs
    data = (given.embeddings, given.prompts, given.labels)
    predicted, rows, w, done = predict(given), [], first, 0
    for step in steps:
        w = normalised_descent(*data, steps=step - done, lr=lr, start=w)
        settled = normalised_descent(*data, steps=SETTLING, lr=lr / 10, start=w)
        done = step
        for s in range(problems):
            e, x = given.embeddings[s], given.prompts[s]
            row = {"samples": samples, "start": start, "step": step, "problem": s, "norm": float(settled[s].norm())}
            for name, (counted, automaton) in predicted[s].items():
                found = compare(settled[s], counted, automaton, e)
                found |= read(settled[s], x, fresh[s], counted, automaton, e)
                row |= {key + name: value for key, value in found.items()}
            rows.append(row)
    return rows


def path(
    *,
    problems: int,
    tokens: int,
    width: int,
    samples: int,
    length: int,
    radii: tuple[float, ...],
    steps: int,
    device: str,
) -> list[dict[str, Any]]:
    """The regularisation path: W of the smallest loss in balls of growing radius, by projected descent."""
    given = draw(problems, tokens, width, samples, length, device)
    predicted, rows = predict(given), []
    for radius in radii:
        ball = torch.full((problems,), radius, dtype=torch.float64, device=device)
        w = normalised_descent(
            given.embeddings, given.prompts, given.labels, steps=steps, lr=10 * radius / steps, radius=ball
        )
        for s in range(problems):
            row = {"samples": samples, "radius": radius, "problem": s}
            for name, (data, automaton) in predicted[s].items():
                row["direction" + name] = compare(w[s], data, automaton, given.embeddings[s])["direction"]
            rows.append(row)
    return rows


def predict(given: Problems) -> list[dict[str, tuple[CountedPrompts, AttentionAutomaton]]]:
    """For each problem the data and their automaton, with the labels, "", and with those drawn anew, "_redrawn"."""
    predicted = []
    for e, x, labels, redrawn in zip(*given, strict=True):
        counted = {"": count_prompts(x, labels, len(e)), "_redrawn": count_prompts(x, redrawn, len(e))}
        predicted.append({name: (data, attention_automaton(data, e)) for name, data in counted.items()})
    return predicted


def compare(w: Tensor, data: CountedPrompts, automaton: AttentionAutomaton, e: Tensor) -> dict[str, float]:
    """W against `R W_svm + W_fin`, and its loss against the infimum. `direction` is NaN where W_svm is 0 (no token has
    priority over another), `finite_error` where the norm of W_fin is below `FINITE`: means over problems leave these
    out."""
    within = tied_pairs(automaton.graphs, e).project(w)
    size = automaton.w_fin.norm()
    cyclic = cyclic_prompts(data, automaton.graphs)
    least = loss(automaton.theta, cyclic)
    logits = (e @ w @ e.mT).mT
    return {
        "direction": float(alignment(w - within, automaton.w_svm)),
        "finite_norm": float(size),
        "finite_error": float((within - automaton.w_fin).norm() / size) if size >= FINITE else float("nan"),
        "gap": loss(logits, data) - least,
        "gap_of_direction": loss(torch.zeros_like(logits), cyclic) - least,  # R W_svm alone, R to infinity
    }


def read(
    w: Tensor, x: Tensor, fresh: Tensor, data: CountedPrompts, automaton: AttentionAutomaton, e: Tensor
) -> dict[str, float]:
    """The attention of W against the automaton, on the contexts of the data and on new ones."""
    law, of_fresh = attention_law(w, e, x), attention_law(w, e, fresh)
    parts = torch.stack([automaton.graphs[k].component for k in data.queries.tolist()])
    kept = parts == parts.gather(1, data.labels[:, None])
    readings = [automaton.read(context) for context in fresh]
    decided = [i for i, one in enumerate(readings) if not one.rivals and not one.fallback]
    known = torch.stack([automaton.read(context).p for context in x])
    new = torch.stack([one.p for one in readings])
    distance = (of_fresh - new).abs().sum(1) / 2
    return {
        "mass": float((law * kept).sum(1).min()),
        "distance": float((law - known).abs().sum(1).max() / 2),
        "distance_new": float(distance.mean()),
        "distance_decided": float(distance[decided].mean()) if decided else float("nan"),
        "decided": len(decided) / len(fresh),
    }


def loss(logits: Tensor, data: CountedPrompts) -> float:
    """Mean of `-log p(label)`, from logits (K, K), row k for last token k; exact where p is nearly 1."""
    log_p = choice_log_probabilities(logits[data.queries], data.counts)
    return -float(log_p.gather(1, data.labels[:, None]).mean())
