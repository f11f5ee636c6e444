"""What a tokenizer costs: cross-entropy of models of its tokens, in nats for each character of the text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay._errors import InputError


def unigram_cross_entropy(
    train_tokens: Tensor, test_tokens: Tensor, num_chars: int, *, vocab_size: int, smoothing: float = 1.0
) -> float:
    """-sum log q(t) over the test tokens, over the characters that they stand for: nats per character.

    q(t) = (count of t in training + s) / (training tokens + s V). It is held-out: on the training tokens themselves a
    large dictionary looks better than it is. The code for the number of tokens, which goes to 0 with the length of the
    text, is not counted. Rajaraman, Jiao & Ramchandran 2024 (arXiv 2404.08335), end-to-end loss of a unigram model.

    `train_tokens`, `test_tokens`: int64, any shape. `num_chars`: characters of the test text. `vocab_size`: V.
    `smoothing`: s, above 0 unless all test tokens were seen.
    Raises `InputError` for tokens outside 0..V-1, no tokens, or a negative s. O(tokens + V).

    >>> round(unigram_cross_entropy(torch.tensor([0, 1]), torch.tensor([0, 0]), 4, vocab_size=2), 4)
    0.3466
    """
    for name, tokens in (("train_tokens", train_tokens), ("test_tokens", test_tokens)):
        if tokens.dtype != torch.int64 or not tokens.numel() or tokens.min() < 0 or tokens.max() >= vocab_size:
            raise InputError(
                f"{name} is not int64, empty, or outside the vocabulary; expected ids in 0..{vocab_size - 1}"
            )
    if not smoothing >= 0:
        raise InputError(f"smoothing is {smoothing}; expected at least 0")
    counts = torch.bincount(train_tokens.flatten(), minlength=vocab_size).double() + smoothing
    return end_to_end_loss((counts / counts.sum()).log()[test_tokens.to(counts.device)], num_chars)


def end_to_end_loss(log_probs: Tensor, num_chars: int) -> float:
    """-sum of the log-probabilities of all tokens of a text, (...), over its characters: nats per character, whatever
    the tokens are. Raises `InputError` for fewer than one character. O(tokens).

    The same text must be behind both: a mean over tokens cannot be compared between tokenizers.
    """
    if num_chars < 1:
        raise InputError(f"num_chars is {num_chars}; expected at least 1")
    return float(-log_probs.detach().double().sum()) / num_chars


def lzw_bound(num_tokens: int, least_probability: float) -> float:
    """1 / (1 - e) with e = log(1 / delta) / (0.99 log d): the loss of the best unigram model of d LZW tokens, over the
    entropy rate, is stated to be below this with high probability, if the training text is long enough.

    delta is the smallest transition probability. Infinite where e >= 1, that is for d up to (1 / delta)^1.01. From
    Rajaraman, Jiao & Ramchandran 2024 (arXiv 2404.08335); the statement, and its 0.99, are from memory and were not
    checked against the paper. Raises `InputError` for d below 2 and delta outside (0, 1).

    >>> round(lzw_bound(512, 0.1), 2)
    1.59
    """
    if num_tokens < 2:
        raise InputError(f"num_tokens is {num_tokens}; expected at least 2")
    if not 0 < least_probability < 1:
        raise InputError(f"least_probability is {least_probability}; expected between 0 and 1")
    excess = math.log(1 / least_probability) / (0.99 * math.log(num_tokens))
    return 1 / (1 - excess) if excess < 1 else math.inf
