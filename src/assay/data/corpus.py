"""Small texts as token ids: documents, a split by documents, windows to train on, and a control without order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_ids, check_number

_WORD = re.compile(r"\w+|[^\w\s]")


class Corpus(NamedTuple):
    """`documents`: one int64 tensor (L,) for each text. `vocabulary`: what the ids 0, 1, .. stand for, sorted."""

    documents: tuple[Tensor, ...]
    vocabulary: tuple[str, ...]


def python_help() -> tuple[str, ...]:
    """The help texts that come with Python, in the order of their topics: English, with some code in it.

    About 80 documents and half a million characters, on every machine without a download. They change from one version
    of Python to the next: store `sys.version` with what is measured on them.
    Raises `InputError` where this Python comes without them (no module `pydoc_data`).
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "python_help: this Python has no help texts (module pydoc_data); expected a complete installation of Python"
        ) from None
    return tuple(topics[name] for name in sorted(topics))


def tokenise(texts: Sequence[str], unit: Literal["character", "word"]) -> Corpus:
    """Characters as they are, or words and single punctuation marks without spaces (``\\w+|[^\\w\\s]``).

    Raises `InputError` where `texts` is empty or a single string, and for another `unit`.

    >>> tokenise(["Yes, it is."], "word").vocabulary
    (',', '.', 'Yes', 'is', 'it')
    """
    if isinstance(texts, str) or not texts:
        raise InputError(f"texts is {texts!r}; expected a sequence of at least one text")
    if unit not in ("character", "word"):
        raise InputError(f"unit is {unit!r}; expected 'character' or 'word'")
    pieces = [list(text) if unit == "character" else _WORD.findall(text) for text in texts]
    vocabulary = sorted(set().union(*pieces))
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    documents = [torch.tensor([ids[piece] for piece in document], dtype=torch.int64) for document in pieces]
    return Corpus(tuple(documents), tuple(vocabulary))


def split_documents(corpus: Corpus, *, fraction: float = 0.8, generator: torch.Generator) -> tuple[Corpus, Corpus]:
    """Whole documents to train on and to test on; the first part is `fraction` of them, rounded, at least one each.

    Raises `InputError` where `fraction` is not between 0 and 1, ends excluded, there are fewer than two documents, or
    `generator` is no `torch.Generator`.
    """
    check_generator(generator)
    check_number("fraction", fraction)
    if not 0 < fraction < 1 or len(corpus.documents) < 2:
        raise InputError(
            f"fraction is {fraction} of {len(corpus.documents)} documents; expected between 0 and 1, of at least two"
        )
    count = min(max(1, round(fraction * len(corpus.documents))), len(corpus.documents) - 1)
    order = torch.randperm(len(corpus.documents), device=generator.device, generator=generator).tolist()
    parts = order[:count], order[count:]
    train, test = (Corpus(tuple(corpus.documents[i] for i in part), corpus.vocabulary) for part in parts)
    return train, test


def shuffle_tokens(corpus: Corpus, *, generator: torch.Generator) -> Corpus:
    """The control without order: the tokens of each document shuffled, so that counts are all that is left."""
    check_generator(generator)
    orders = (torch.randperm(len(x), device=generator.device, generator=generator) for x in corpus.documents)
    documents = [ids[order.to(ids.device)] for ids, order in zip(corpus.documents, orders, strict=True)]
    return Corpus(tuple(documents), corpus.vocabulary)


class Windows(NamedTuple):
    """`inputs`, `targets`: (B, L), int64; the target is the next token."""

    inputs: Tensor
    targets: Tensor


def random_windows(ids: Tensor, num_examples: int, *, seq_len: int, generator: torch.Generator) -> Windows:
    """Windows of a text `ids`, (N,), at places drawn uniformly with replacement; N is at least `seq_len` + 1.

    Raises `InputError` where `ids` is not int64, not (N,) or shorter than that, `num_examples` or `seq_len` is no whole
    number of at least 1, or `generator` is no `torch.Generator`.
    """
    check_counts(num_examples=num_examples, seq_len=seq_len)
    check_ids("ids", ids)
    check_generator(generator)
    if ids.ndim != 1 or len(ids) <= seq_len:
        raise InputError(f"ids has shape {tuple(ids.shape)}; expected (N,) with N at least seq_len + 1, {seq_len + 1}")
    starts = torch.randint(len(ids) - seq_len, (num_examples, 1), device=generator.device, generator=generator)
    windows = ids[starts.to(ids.device) + torch.arange(seq_len + 1, device=ids.device)]
    return Windows(windows[:, :-1], windows[:, 1:])
