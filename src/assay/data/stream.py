"""Documents of MQAR one after the other, in which the same keys come to mean something else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number
from assay.data._distinct import shuffled
from assay.data._queries import IGNORED, ask
from assay.data.mqar import draw_keys, draw_values


class Stream(NamedTuple):
    """B streams of K documents with D pairs each.

    `inputs`, `targets`: (B, L), int64, -100 where ignored. `keys`, `values`, `query_positions`: (B, K, D).
    `boundaries`: (K - 1,), the positions of the separators; without them, of the first token of each document but the
    first.
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor
    values: Tensor
    query_positions: Tensor
    boundaries: Tensor


def mqar_stream(
    num_examples: int,
    *,
    num_documents: int = 4,
    document_len: int,
    num_kv_pairs: int,
    conflicting: bool = True,
    separated: bool = True,
    vocab_size: int = 8192,
    power_a: float = 0.01,
    generator: torch.Generator,
) -> Stream:
    """Streams in which forgetting pays: what a document said is wrong in the next one.

    Every document is one of `mqar` with the ids 0..V-2, and V-1 is the separator. Where documents conflict, all of a
    stream have the same D keys, in an order of their own, and K D distinct values; where they do not, K D distinct keys
    too, so that nothing has ever to be forgotten. A model that resets its state at separators loses nothing; assay's
    own task, made to see the state modulation that Parnichkun et al. 2025 (arXiv 2504.19561, section on language
    models) read off large models.

    Args:
        num_documents: K.
        document_len: length of a document, even, at least 4 D; L is K times that, and K - 1 more where separated.
        conflicting: the same keys in each document.
        separated: a separator between documents. The control is neither conflicting nor separated.
        vocab_size, power_a, generator: as for `mqar`.

    Raises `InputError` for sizes that do not fit. O(B (L + K D log K D)), as long as K D is below V/8.
    """
    check_counts(num_examples=num_examples, num_documents=num_documents)
    check_counts(document_len=document_len, num_kv_pairs=num_kv_pairs)
    check_counts(5, vocab_size=vocab_size)
    check_number("power_a", power_a)
    check_generator(generator)
    if document_len % 2 or document_len < 4 * num_kv_pairs:
        raise InputError(
            f"document_len is {document_len}; expected an even number of at least 4 num_kv_pairs, {4 * num_kv_pairs}"
        )
    shape = (num_examples, num_documents, num_kv_pairs)
    total = num_documents * num_kv_pairs
    num_keys = num_kv_pairs if conflicting else total
    needed = 1 + max(2 * num_keys + 2, 2 * total - 1)
    if vocab_size < needed:
        raise InputError(
            f"vocab_size is {vocab_size}; expected at least {needed}, "
            f"for {num_keys} keys, {total} values and the separator"
        )
    separator = vocab_size - 1
    if conflicting:
        keys = shuffled(draw_keys(num_examples, num_keys, separator, generator)[:, None].expand(shape), generator)
    else:
        keys = draw_keys(num_examples, num_keys, separator, generator).view(shape)
    values = draw_values(num_examples, total, separator, generator).view(shape)
    context = torch.stack([keys, values], dim=-1).view(-1, 2 * num_kv_pairs)
    inputs, targets, asked = ask(
        context, keys.reshape(-1, num_kv_pairs, 1), values.flatten(0, 1), document_len, power_a, generator
    )
    if separated:
        inputs = torch.nn.functional.pad(inputs, (0, 1), value=separator)
        targets = torch.nn.functional.pad(targets, (0, 1), value=IGNORED)
    step = inputs.shape[1]
    length = num_documents * step - int(separated)
    starts = step * torch.arange(num_documents, device=generator.device)
    return Stream(
        inputs.view(num_examples, -1)[:, :length].contiguous(),
        targets.view(num_examples, -1)[:, :length].contiguous(),
        keys,
        values,
        asked.view(shape) + starts[:, None],
        starts[1:] - int(separated),
    )
