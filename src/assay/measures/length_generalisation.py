"""How well a sequence model does a task at lengths on which it was not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.data._queries import IGNORED
from assay.data.algorithmic import Algorithmic, AlgorithmicTask


@torch.no_grad()
def exact_match(model: Callable[..., Any], batch: Algorithmic, *, offsets: bool = False) -> Tensor:
    """Whether greedy decoding gives the whole answer and then ends, (B,), bool.

    `model` maps tokens (B, L) to logits (B, L, V), or to something that has them as `.logits`, or to the next tokens
    (B, L) themselves, as a `RaspProgram` does. It must be causal. `offsets`: it is called with `batch.offsets` besides.

    One call decides, without decoding: greedy decoding gives the answer if and only if each of its tokens is the most
    likely one behind the true tokens before it. (At the first token that is not, the two have seen the same.)
    """
    output = model(batch.inputs, batch.offsets) if offsets else model(batch.inputs)
    output = getattr(output, "logits", output)
    following = output if output.ndim == 2 else output.argmax(dim=-1)
    return ((following == batch.targets) | (batch.targets == IGNORED)).all(dim=1)


def length_generalization_curve(
    model: Callable[..., Any],
    task: AlgorithmicTask,
    lengths: Sequence[int],
    *,
    num_examples: int = 200,
    context: int | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Exact match (EM) at each length: the share of examples whose whole answer, with its end, is right.

    (len(lengths),), float64.

    `model` as in `exact_match`, in eval mode, on the device of the generator. `context`: examples start anywhere in a
    context of so many positions where the longest of `lengths` would fit, and the model is called with their offsets,
    as it should be if it was trained so. Short examples do not start later: in training none may have.
    `num_examples`: for each length; the standard error of an EM is at most 0.5 / sqrt(num_examples).
    Raises `InputError` for lengths that the task does not have or that do not fit into the context.

    Source: Zhou et al. 2023 (arXiv 2310.16028): EM at lengths above those of training.
    """
    batches = [
        task.sample(num_examples, min_length=length, max_length=length, context=context, generator=generator)
        for length in lengths
    ]
    if context is not None:
        starts, device = context - max(batch.inputs.shape[1] for batch in batches) + 1, generator.device
        batches = [
            batch._replace(offsets=torch.randint(starts, (num_examples,), device=device, generator=generator))
            for batch in batches
        ]
    return torch.stack([exact_match(model, one, offsets=context is not None).double().mean() for one in batches])
