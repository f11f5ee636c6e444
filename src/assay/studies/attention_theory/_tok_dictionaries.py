"""Unigram models over the tokens of dictionaries, on switching sources, seen or hidden."""

from __future__ import annotations

import math

import torch

from assay.data.hmm import HMMSource
from assay.data.markov import MarkovSource
from assay.data.tokenizers import BPETokenizer, FixedLengthTokenizer, LZWTokenizer, Tokenizer
from assay.lab import Row
from assay.measures.tokenization import lzw_bound, unigram_cross_entropy


def dictionaries(
    *,
    source: str,  # noqa: ARG001  (a name for the checks)
    order: int,
    flip: float,
    lengths: tuple[int, ...],
    sizes: tuple[int, ...],
    train_chars: int,
    test_chars: int,
    seed: int,
) -> list[Row]:
    """Held-out loss of each dictionary, in nats per character and over the entropy rate. The dictionary and the unigram
    model are learned on one text, and tested on another. In the rows "LZW of fair coins" the dictionary is learned on a
    text of fair coins, and the unigram model as always."""
    chain = MarkovSource.switching(order, flip)
    generator = torch.Generator().manual_seed(seed)
    train, test = (chain.sample(1, count, generator=generator)[0] for count in (train_chars, test_chars))
    coins = MarkovSource.switching(1, 0.5).sample(1, train_chars, generator=generator)[0]
    tokenizers: list[tuple[str, int, Tokenizer]] = [("fixed", r, FixedLengthTokenizer(r, 2)) for r in lengths]
    merges = BPETokenizer.train(train, alphabet=2, num_tokens=max(sizes)).merges
    for size in sizes:
        tokenizers += [
            ("LZW", size, LZWTokenizer.train(train, alphabet=2, num_tokens=size)),
            ("LZW of fair coins", size, LZWTokenizer.train(coins, alphabet=2, num_tokens=size)),
            ("BPE", size, BPETokenizer(merges[: size - 2], 2)),  # a smaller dictionary stops earlier
        ]
    rate, marginal = chain.entropy_rate(), chain.marginal_entropy()
    rows: list[Row] = []
    for name, size, tokenizer in tokenizers:
        nats = unigram_cross_entropy(
            tokenizer.encode(train), tokenizer.encode(test), test_chars, vocab_size=len(tokenizer.vocab)
        )
        rows.append(
            {
                "dictionary": name,
                "size": size,  # tokens, for "fixed" their length
                "nats": nats,
                "ratio": nats / rate,
                "entropy_rate": rate,
                "marginal_entropy": marginal,
                # as long as a token of fixed length would have to be on a source of order 1, to cost as little
                "fixed_length": (marginal - rate) / (nats - rate) if nats > rate else None,
                "formula": (marginal + (size - 1) * rate) / size if name == "fixed" else None,
                "bound": _finite(lzw_bound(size, flip) * rate) if name == "LZW" else None,
            }
        )
    return rows


def hidden_chains(*, flip: float, misread: float, train_chars: int, test_chars: int, seed: int) -> list[Row]:
    """Held-out loss, as in `dictionaries`, of a switching chain of order 1 of which each symbol is read as the other
    one with probability `misread`; and of the same texts in random order."""
    chain = MarkovSource.switching(1, flip)
    source = HMMSource(chain.transition, MarkovSource.switching(1, misread).transition)
    generator = torch.Generator().manual_seed(seed)
    train, test = (source.sample(1, count, generator=generator).symbols[0] for count in (train_chars, test_chars))
    # what is uncertain given all symbols before: the mean over other texts, behind their first half
    laws = source.next_symbol_law(source.sample(400, 400, generator=generator).symbols)[:, 200:]
    rate = float(torch.special.entr(laws).sum(-1).mean())
    rows: list[Row] = []
    for text in ("as it is", "shuffled"):
        tokenizers: dict[str, Tokenizer] = {
            "characters": FixedLengthTokenizer(1, 2),
            "LZW": LZWTokenizer.train(train, alphabet=2, num_tokens=512),
            "BPE": BPETokenizer.train(train, alphabet=2, num_tokens=128),
        }
        for name, tokenizer in tokenizers.items():
            nats = unigram_cross_entropy(
                tokenizer.encode(train), tokenizer.encode(test), test_chars, vocab_size=len(tokenizer.vocab)
            )
            known = {"entropy_rate": rate, "marginal_entropy": math.log(2)}  # the source is symmetric
            rows.append({"text": text, "tokens": name, "nats": nats} | known)
        train, test = (one[torch.randperm(len(one), generator=generator)] for one in (train, test))
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
