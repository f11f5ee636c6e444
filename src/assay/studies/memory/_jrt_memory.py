"""What `just_read_twice` runs without training: a memory of fixed size, and prefix linear attention as a recurrence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from assay.data import set_disjointness
from assay.lab import Row
from assay.nn.prefix_linear_attention import PrefixLinearAttention, set_prefix_len


def order(*, sizes: tuple[tuple[int, int], ...], state: int, vocab_size: int, trials: int, seed: int) -> list[Row]:
    """Set disjointness with a memory of `state` numbers that is the sum of the embeddings of the set it stored: A, as
    a causal reader must; B, as it would if B came first; or the smaller one, which needs to know both."""
    embedding = random_directions(vocab_size, state)
    rows: list[Row] = []
    for len_a, len_b in sizes:
        a, b, answer = sets(len_a, len_b, vocab_size, trials, seed)
        stored_a, stored_b = accuracy(embedding, a, b, answer), accuracy(embedding, b, a, answer)
        smaller = stored_a if len_a <= len_b else stored_b
        rows.append({"len_a": len_a, "len_b": len_b, "causal": stored_a, "swapped": stored_b, "smaller": smaller})
    return rows


def needed(
    *, lengths: tuple[int, ...], fixed: int, wanted: float, vocab_size: int, trials: int, seed: int
) -> list[Row]:
    """The memory that is needed for an accuracy of `wanted`, for |A| = `lengths` and |B| = `fixed`: by a reader that
    stores A, and by one that stores B. Between sizes sqrt(2) apart, log-linear."""
    tables = [random_directions(vocab_size, round(2 ** (k / 2))) for k in range(6, 20)]
    rows: list[Row] = []
    for len_a in lengths:
        a, b, answer = sets(len_a, fixed, vocab_size, trials, seed)
        for reader, (stored, others) in {"causal": (a, b), "stores the smaller": (b, a)}.items():
            rows.append({"reader": reader, "len_a": len_a, "state": size_for(wanted, tables, stored, others, answer)})
    return rows


def size_for(wanted: float, tables: list[Tensor], stored: Tensor, others: Tensor, answer: Tensor) -> float:
    """Where the accuracy first reaches `wanted`; NaN where it never does, or does with the smallest table."""
    below, size_below = np.nan, np.nan
    for table in tables:
        found, size = accuracy(table, stored, others, answer), table.shape[1]
        if found >= wanted:
            return float(size_below * (size / size_below) ** ((wanted - below) / (found - below)))
        below, size_below = found, size
    return np.nan


def sets(len_a: int, len_b: int, vocab_size: int, trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (trials, |A|), B (trials, |B|), and the element in both (trials,)."""
    generator = torch.Generator().manual_seed(seed)
    batch = set_disjointness(trials, len_a=len_a, len_b=len_b, vocab_size=vocab_size, generator=generator)
    return batch.inputs[:, 1 : 1 + len_a], batch.inputs[:, 2 + len_a : -1], batch.answer


def random_directions(count: int, size: int) -> Tensor:
    return normalize(torch.randn(count, size, dtype=torch.float64), dim=-1)


def accuracy(embedding: Tensor, stored: Tensor, others: Tensor, answer: Tensor) -> float:
    """Share of trials in which the element of `others` that is most like the sum of `stored` is the answer."""
    memory = embedding_bag(stored, embedding, mode="sum")
    best = (memory @ embedding.T).gather(1, others).argmax(-1)
    return (others.gather(1, best[:, None])[:, 0] == answer).double().mean().item()


@torch.no_grad()
def module(*, length: int, prefix_len: int, width: int) -> Row:
    """Prefix linear attention in parallel and token by token, with random weights in float32; and what sees what."""
    layer, x = PrefixLinearAttention(width, prefix_len=prefix_len), torch.randn(2, length, width)
    whole = layer(x)
    prompt, state = layer.prefill(x[:, :prefix_len])
    decoded = torch.cat([prompt, continued(layer, x[:, prefix_len:], state)], 1)
    no_encoder = PrefixLinearAttention(width)
    no_encoder.load_state_dict(layer.state_dict())
    causal = no_encoder(x)
    forgotten = continued(layer, x[:, prefix_len:], no_encoder.prefill(x[:, :prefix_len])[1])
    behind, inside = x.clone(), x.clone()
    behind[:, prefix_len + 1] += 1
    inside[:, prefix_len - 1] += 1
    set_prefix_len(layer, 0)
    without_prefix = layer(x)
    set_prefix_len(layer, prefix_len)
    return {
        "decoded": off(decoded, whole),
        "decoded_without_encoder": off(forgotten, whole[:, prefix_len:]),
        "without_prefix": off(without_prefix, causal),
        "prefix": off(whole, causal),
        "leaked": (layer(behind) - whole)[:, : prefix_len + 1].abs().max(),
        "seen_by_all": (layer(inside) - whole).norm(dim=-1).min(),
    }


def continued(layer: PrefixLinearAttention, x: Tensor, state: Tensor) -> Tensor:
    outputs = []
    for token in x.unbind(1):
        y, state = layer.step(token, state)
        outputs.append(y)
    return torch.stack(outputs, 1)


def off(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).norm() / other.norm()
