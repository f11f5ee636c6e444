"""A transformer on the characters of a switching source, and on BPE tokens of the same text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.data.corpus import Windows, random_windows
from assay.data.markov import MarkovSource
from assay.data.tokenizers import BPETokenizer, FixedLengthTokenizer, Tokenizer
from assay.lab import Row
from assay.lab.training import train
from assay.measures.tokenization import end_to_end_loss, unigram_cross_entropy
from assay.models.small_transformer import SmallTransformer


def transformer(
    *,
    order: int,
    flip: float,
    num_tokens: int,
    train_chars: int,
    test_chars: int,
    width: int,
    depth: int,
    context: int,
    batch_chars: int,
    steps: int,
    lr: float,
    points: int,
    seed: int,
    device: str,
) -> list[Row]:
    """Held-out losses in nats per character in the course of training, for characters and for BPE tokens of one text.

    Both read windows of `context` positions, and in each step as many as hold about `batch_chars` characters: so at the
    same step both have seen the same number of characters.
    """
    source = MarkovSource.switching(order, flip)
    generator = torch.Generator().manual_seed(seed)
    text = source.sample(1, train_chars + test_chars, generator=generator)[0].to(device)
    learned, held_out = text[:train_chars], text[train_chars:]
    tokenizers: dict[str, Tokenizer] = {
        "characters": FixedLengthTokenizer(1, 2),
        "BPE": BPETokenizer.train(learned, alphabet=2, num_tokens=num_tokens),
    }
    rows: list[Row] = []
    for name, tokenizer in tokenizers.items():
        tokens, test = tokenizer.encode(learned), tokenizer.encode(held_out)
        size = len(tokenizer.vocab)
        torch.manual_seed(seed)
        model = SmallTransformer(
            nn.Embedding(size, width), size, d_model=width, num_layers=depth, num_heads=4, max_len=context
        ).to(device)
        batch = max(1, round(batch_chars * len(tokens) / (train_chars * context)))

        def draw(generator: torch.Generator, tokens: Tensor = tokens, batch: int = batch) -> Windows:
            return random_windows(tokens, batch, seq_len=context, generator=generator)

        def measure(model: nn.Module, tokenizer: Tokenizer = tokenizer, test: Tensor = test) -> Row:
            return {"nats": held_out_loss(model, tokenizer, test, context)}

        every = max(1, steps // points)
        course = train(model, draw, steps=steps, seed=seed, lr=lr, warmup=0.05, every=every, measure=measure)
        about = {
            "tokens": name,
            "entropy_rate": source.entropy_rate(),
            "marginal_entropy": source.marginal_entropy(),
            "unigram": unigram_cross_entropy(tokens, test, test_chars, vocab_size=size),
        }
        rows += [
            about | {"step": row["step"], "chars": row["step"] * batch_chars, "nats": row["nats"]} for row in course
        ]
    return rows


@torch.no_grad()
def held_out_loss(model: nn.Module, tokenizer: Tokenizer, tokens: Tensor, context: int) -> float:
    """Nats per character on the windows of `context` tokens that follow one another in a text (T,), with what is behind
    the first token of each as targets."""
    windows = tokens[: (len(tokens) - 1) // context * context + 1].unfold(0, context + 1, context)
    targets = windows[:, 1:]
    log_probs = model(windows[:, :-1]).log_softmax(-1).gather(-1, targets[..., None])
    return end_to_end_loss(log_probs, int(tokenizer.lengths(targets).sum()))
