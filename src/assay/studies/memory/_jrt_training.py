"""Readers trained on set disjointness: once, twice, or with a prefix; and gated convolutions alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.data import Repeated, repeat_prompt, set_disjointness
from assay.lab import Row
from assay.lab.training import token_accuracy, token_loss, train
from assay.models import Backbone, BackboneConfig
from assay.nn.prefix_linear_attention import PrefixLinearAttention, set_prefix_len

Sizes = tuple[tuple[int, int], ...]


def trained(
    *, reader: str, sizes: Sizes, vocab_size: int, width: int, num_heads: int, feature_dim: int, blocks: int,
    steps: int, batch: int, lr: float, tested_on: int, seed: int, device: str,
) -> Row:  # fmt: skip
    """Accuracy where the smaller set comes first, and where the larger one does. Each step has examples of one of the
    `sizes`. Without a prefix, M = 0; with one, all but the last token, which asks, is the prefix."""
    model = make_model(
        convolutions=reader.startswith("convolutions"), vocab_size=vocab_size, width=width, num_heads=num_heads,
        feature_dim=feature_dim, blocks=blocks, longest=2 * max(a + b + 3 for a, b in sizes),
    ).to(device)  # fmt: skip
    repeats = 2 if reader.endswith("twice") else 1

    def make(size: tuple[int, int], count: int, generator: torch.Generator) -> Repeated:
        one = set_disjointness(count, len_a=size[0], len_b=size[1], vocab_size=vocab_size, generator=generator)
        return repeat_prompt(one.inputs, one.targets, repeats=repeats)

    def draw(generator: torch.Generator) -> Repeated:
        return make(sizes[int(torch.randint(len(sizes), (), generator=generator, device=device))], batch, generator)

    def with_prefix(model: nn.Module, given: Repeated) -> nn.Module:
        set_prefix_len(model, given.inputs.shape[-1] - 1 if reader == "prefix" else 0)
        return model

    def loss(model: nn.Module, given: Repeated) -> Tensor:
        return token_loss(with_prefix(model, given), given)

    fresh = torch.Generator(device).manual_seed(2**40 + seed)
    tests = {size: make(size, tested_on, fresh) for size in sizes}

    def measure(model: nn.Module) -> Row:
        found = {size: token_accuracy(with_prefix(model, given), given) for size, given in tests.items()}
        smaller = [value for (a, b), value in found.items() if a < b]
        larger = [value for (a, b), value in found.items() if a > b]
        return {"smaller_first": sum(smaller) / len(smaller), "larger_first": sum(larger) / len(larger)}

    last = train(model, draw, steps=steps, seed=seed, loss=loss, lr=lr, measure=measure)[-1]
    return {"loss": last["loss"], "smaller_first": last.get("smaller_first"), "larger_first": last.get("larger_first")}


def make_model(
    *, convolutions: bool, vocab_size: int, width: int, num_heads: int, feature_dim: int, blocks: int, longest: int
) -> Backbone:
    """Blocks of a gated convolution and prefix linear attention; the first convolution is long, so that a token can
    tell in which set it stands, the others have three tokens. Or of convolutions alone, every other one long."""
    other = "base-conv-short" if convolutions else "linear-attention"
    rest = "base-conv,base-conv-short" if convolutions else "base-conv-short,linear-attention"
    pattern = ",".join([f"base-conv,{other}", *[rest] * (blocks - 1)])
    options: dict[str, dict[str, int]] = {"base-conv": {"max_length": longest}}
    if not convolutions:
        options["linear-attention"] = {"num_heads": num_heads}
    model = Backbone(BackboneConfig(pattern, vocab_size=vocab_size, d_model=width, mlp_ratio=0, mixers=options))
    if not convolutions:
        for layer in model.layers[1::2]:  # it is no mixer of a pattern: it is not causal
            layer.mixer = PrefixLinearAttention(width, num_heads=num_heads, feature_dim=feature_dim)
    return model
