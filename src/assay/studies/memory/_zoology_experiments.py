"""What `zoology_mqar` runs: the recall gap of two bigram models on text, and MQAR for convolutions and attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.data import mqar, python_help, shuffle_tokens, split_documents, tokenise
from assay.data.corpus import Corpus
from assay.lab import Row
from assay.lab.training import Labelled, token_accuracy, token_loss, train
from assay.measures.recall import bigram_recall, gap_share
from assay.models import Backbone, BackboneConfig
from assay.nn.selective_attention import SelectiveAttention

# ---- where on a text a model with memory is better


def slicing(*, rare: int, window: int, shortest: int, seed: int) -> list[Row]:
    """Python's help texts, four fifths of the documents to count and the rest to test; then the same with the tokens
    of each document shuffled. The model without memory is a bigram model, the one with it adds what followed the
    present token earlier in the window. A hit is a bigram seen before in the window, at most `rare` times in training.
    """
    whole = tokenise(python_help(), "word")
    corpus = Corpus(tuple(one for one in whole.documents if len(one) > shortest), whole.vocabulary)
    generator = torch.Generator().manual_seed(seed)
    texts = {"text": corpus, "shuffled": shuffle_tokens(corpus, generator=generator)}
    rows: list[Row] = []
    for name, text in texts.items():
        train_on, test_on = split_documents(text, generator=torch.Generator().manual_seed(seed))
        documents = [document.numpy() for document in train_on.documents]
        bigram = Bigram(documents, len(corpus.vocabulary))
        losses = []
        for document in test_on.documents:
            for piece in _windows(document.numpy(), window):
                plain, cached = bigram.probabilities(piece)
                losses.append((-np.log(plain), -np.log(cached), bigram_recall(piece, bigram.counts, rare)[0][1:]))
        without, with_memory, hit = (np.concatenate(parts) for parts in zip(*losses, strict=True))
        elsewhere = np.random.default_rng(seed).permutation(hit)
        rows.append(
            {
                "tokens": name,
                "hits": hit.mean(),
                "gap": (without - with_memory).mean(),  # nats a token
                "gap_on_hits": (without - with_memory)[hit].sum() / len(hit),
                "share": gap_share(without, with_memory, hit),
                "share_at_random": gap_share(without, with_memory, elsewhere),
                "perplexity": np.exp(without.mean()),
                "perplexity_with_memory": np.exp(with_memory.mean()),
            }
        )
    return rows


def _windows(ids: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) > 1]


class Bigram:
    """`p(b | a) = (count(a, b) + 2 p(b)) / (count(a) + 2)`, p(b) with one count more for each word there is."""

    def __init__(self, documents: list[NDArray[np.int64]], vocabulary: int) -> None:
        self.unigram = 1.0 + np.bincount(np.concatenate(documents), minlength=vocabulary)
        self.unigram /= self.unigram.sum()
        pairs = np.concatenate([np.stack([ids[:-1], ids[1:]], axis=1) for ids in documents])
        self.first = np.bincount(pairs[:, 0], minlength=vocabulary)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        self.counts = {(int(a), int(b)): int(n) for (a, b), n in zip(found, counts, strict=True)}

    def probabilities(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the tokens from the second on, (L - 1,): by the counts, and 0.9 of that plus 0.1 of the frequencies of
        what followed the same token earlier in `ids` (all of the counts where it is new)."""
        a, b = ids[:-1], ids[1:]
        seen = np.array([self.counts.get((int(x), int(y)), 0) for x, y in zip(a, b, strict=True)])
        plain = (seen + 2 * self.unigram[b]) / (self.first[a] + 2)
        same = np.tril(a[:, None] == a, -1)
        times, hits = same.sum(1), (same & (b[:, None] == b)).sum(1)
        cache = np.divide(hits, times, out=plain.copy(), where=times > 0)
        return plain, 0.9 * plain + 0.1 * cache


# ---- MQAR

PATTERNS = {
    "attention": ("base-conv-short,attention", {"attention": {"num_heads": 1}}),
    "convolution": ("base-conv-short,base-conv", {}),
    "input-dependent convolution": ("autocorrelation-conv,base-conv", {}),
    "selective attention": ("base-conv-short,selective-attention", {"selective-attention": {"num_heads": 1}}),
}


def recall(
    *,
    mixer: str,
    length: int,
    pairs: int,
    power_a: float,
    width: int,
    vocabulary: int,
    steps: int,
    batch: int,
    lr: float,
    budget: float,
    seed: int,
    device: str,
) -> list[Row]:
    """Accuracy on MQAR of two layers without MLPs, the first a short convolution or one whose filter depends on the
    input. Long filters are tables of `length` numbers. Selective attention pays for positions beyond `budget`, a share;
    for it there is another row, where as many positions are selected at random."""
    pattern, options = PATTERNS[mixer]
    if "base-conv" in pattern.split(","):
        options = {"base-conv": {"kernel_size": length}}
    model = Backbone(BackboneConfig(pattern, vocab_size=vocabulary, d_model=width, mixers=options, mlp_ratio=0))
    model.to(device)
    task: dict[str, Any] = {"seq_len": length, "num_kv_pairs": pairs, "vocab_size": vocabulary, "power_a": power_a}
    test = mqar(1000, **task, generator=torch.Generator(device).manual_seed(10**9 + seed))
    chosen = [module for module in model.modules() if isinstance(module, SelectiveAttention)]

    def loss(model: nn.Module, data: Labelled) -> Tensor:
        return token_loss(model, data) + sum((10 * torch.relu(_share(one) - budget) for one in chosen), torch.zeros(()))

    def measure(model: nn.Module) -> Row:
        accuracy = token_accuracy(model, test)
        return {"accuracy": accuracy, "share": max((float(_share(one)) for one in chosen), default=1.0)}

    rows = train(
        model,
        lambda generator: mqar(batch, **task, generator=generator),
        steps=steps, seed=seed, lr=lr, every=max(1, steps // 12), loss=loss if chosen else token_loss,
        measure=measure,
        stop=lambda row: bool(row["accuracy"] >= 0.98 and (not chosen or row["share"] <= budget)),
    )  # fmt: skip
    results = [{"selected": "learned", "trained": rows[-1]["step"]} | measure(model.eval())]
    for one in chosen:
        one.select.register_forward_hook(lambda _module, _inputs, y: y[:, torch.randperm(y.shape[1], device=y.device)])
        results.append({"selected": "at random", "trained": rows[-1]["step"]} | measure(model))
    return results


def _share(mixer: SelectiveAttention) -> Tensor:
    assert mixer.share is not None
    return mixer.share
