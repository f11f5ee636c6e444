"""What `rasp_length_generalization` trains: small transformers on short problems, then asked for longer ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.data._queries import IGNORED
from assay.data.algorithmic import Algorithmic, AlgorithmicTask
from assay.lab import Row
from assay.lab.training import train
from assay.measures.length_generalisation import exact_match, length_generalization_curve
from assay.models.small_transformer import SmallTransformer


def task_of(name: str, longest: int) -> AlgorithmicTask:
    """A task by name and, behind commas, format; with twice as many symbols and hints as the longest problem needs."""
    task, _, form = name.partition(", ")
    return AlgorithmicTask(
        task,
        hints="hints" in form or "scratchpad" in form,
        reverse="reversed" in form,
        scratchpad="scratchpad" in form,
        num_symbols={"copy-repeats": 4, "mode": 8}.get(task, 2 * longest),
        num_hints=2 * (longest + 1),
    )


def trained(
    *,
    task: str,
    longest: int,
    beyond: int,
    context: int,
    width: int,
    layers: int,
    heads: int,
    steps: int,
    batch: int,
    lr: float,
    tested_on: int,
    seed: int,
    device: str,
) -> list[Row]:
    """Exact match at each of some lengths up to `longest + beyond`, after training on lengths 1..longest at random
    offsets in a context; it ends as soon as 99 % of fresh examples are right. `known`: exact match on fresh examples as
    in training."""
    about = task_of(task, longest + beyond)
    model = SmallTransformer(
        nn.Embedding(about.vocab_size, width),
        about.vocab_size,
        d_model=width, num_layers=layers, num_heads=heads, max_len=context,
    ).to(device)  # fmt: skip
    test = torch.Generator(device).manual_seed(10**9 + seed)

    def draw(generator: torch.Generator, size: int = batch) -> Algorithmic:
        return about.sample(size, max_length=longest, context=context, generator=generator)

    def measure(model: nn.Module) -> Row:
        return {"known": exact_match(model, draw(test, tested_on), offsets=True).double().mean().item()}

    rows = train(
        model, draw, steps=steps, seed=seed, lr=lr, loss=answer_loss,
        every=max(1, steps // 30), measure=measure, stop=lambda row: bool(row["known"] >= 0.99),
    )  # fmt: skip
    model.eval()
    lengths = sorted({*range(2, longest, max(1, longest // 5)), longest, *range(longest + 1, longest + beyond + 1)})
    curve = length_generalization_curve(
        model, about, lengths, num_examples=tested_on, context=context, generator=test
    ).tolist()
    known = measure(model)["known"]
    return [
        {"length": length, "em": em, "known": known, "trained": rows[-1]["step"]}
        for length, em in zip(lengths, curve, strict=True)
    ]


def answer_loss(model: nn.Module, batch: Algorithmic) -> Tensor:
    """Cross-entropy of the answers, in nats a token, each example at its offset."""
    asked = batch.targets != IGNORED
    return nn.functional.cross_entropy(model(batch.inputs, batch.offsets)[asked], batch.targets[asked])
