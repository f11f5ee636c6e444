"""A small vision transformer on scikit-learn's digits, trained as it is or with sigmaReparam and without norms."""

from __future__ import annotations

from math import inf, log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from assay.lab import Row
from assay.lab.training import train
from assay.measures.entropy_monitor import EntropyMonitor
from assay.nn._mixer import heads, merge_heads
from assay.nn.sigma_reparam import convert_to_sigma_reparam, remove_normalisation

PATCHES = 16  # of 2 x 2 pixels, in pictures of 8 x 8
TRAINED_ON = 1500  # of 1,797 pictures; the others are the test


class Digits(NamedTuple):
    """patches: (N, 16, 4), 0 to 1; labels: (N,), 0 to 9."""

    patches: Tensor
    labels: Tensor


class Attention(nn.Module):
    """Softmax attention to all tokens, with a matrix of its own for each of query, key, value and output."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(project(x), self.num_heads) for project in (self.q, self.k, self.v))
        return self.out(merge_heads(scaled_dot_product_attention(q, k, v)))


class Block(nn.Module):
    """Pre-norm: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """(B, 16, 4) -> logits (B, 10), from the mean over patches."""

    def __init__(self, width: int, depth: int, num_heads: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, width)
        self.positions = nn.Parameter(torch.randn(PATCHES, width) / width**0.5)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, patches: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(patches) + self.positions)).mean(1))


def training(*, model: str, lr: float, width: int, depth: int, steps: int, batch: int, seed: int, device: str) -> Row:
    """Adam without warm-up and clipping, its rate falling as a cosine. `model`: "pre-LN"; "sigmaReparam", without
    norms; "gamma x 100", the same, gammas with 100 times the rate. Lowest entropy: over layers and steps (every 20th)
    of the mean over heads and pictures, over ln 16."""
    data = digits(device)
    network = VisionTransformer(width, depth)
    if model != "pre-LN":
        remove_normalisation(network)
        network.apply(draw_as_published)
        convert_to_sigma_reparam(network, init_gamma=1.0)
    network.to(device)
    gammas = [parameter for name, parameter in network.named_parameters() if name.endswith(".gamma")]
    others = [parameter for name, parameter in network.named_parameters() if not name.endswith(".gamma")]
    faster = 100 if model == "gamma x 100" else 1
    optimizer = torch.optim.Adam([{"params": others, "lr": lr}, *({"params": [g], "lr": faster * lr} for g in gammas)])

    def draw(generator: torch.Generator) -> Digits:
        chosen = torch.randint(TRAINED_ON, (batch,), generator=generator, device=generator.device)
        return Digits(data.patches[chosen], data.labels[chosen])

    def measure(network: nn.Module) -> Row:
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            return {}  # it has diverged since the last row, and has no attention to speak of
        with EntropyMonitor(network) as monitor:
            found = network(data.patches[TRAINED_ON:]).argmax(-1)
        lowest = min(float(entropy.mean()) for entropy in monitor.entropy.values())
        right = (found == data.labels[TRAINED_ON:]).double().mean().item()
        return {"entropy": lowest / log(PATCHES), "accuracy": right}

    rows = train(network, draw, steps=steps, seed=seed, loss=picture_loss, warmup=0.0, clip=inf, every=20,
                 measure=measure, optimizers=[optimizer])  # fmt: skip
    known = [row["entropy"] for row in rows if "entropy" in row]
    return {
        "entropy": min(known),
        "last_entropy": known[-1],
        "loss": rows[-1]["loss"],
        "accuracy": rows[-1].get("accuracy", 0.1),  # of a network of NaN: chance
        "steps_done": rows[-1]["step"],
    }


def draw_as_published(module: nn.Module) -> None:
    """W from N(0, 0.1^2), as in the authors' code for speech, which begins with gamma = 1; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.1)
        nn.init.zeros_(module.bias)


def picture_loss(network: nn.Module, batch: Digits) -> Tensor:
    return cross_entropy(network(batch.patches), batch.labels)


def digits(device: str) -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = torch.tensor(found.images / 16, dtype=torch.float32, device=device)
    patches = pictures.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, PATCHES, 4)
    return Digits(patches, torch.tensor(found.target, device=device))
