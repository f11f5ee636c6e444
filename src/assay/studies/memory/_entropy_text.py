"""A small GPT with and without norms and activations, and the entropies of its heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import CausalLMOutput

from assay.data import Windows, python_help, random_windows, split_documents, tokenise
from assay.lab.training import token_loss, train
from assay.losses.entropy_regulariser import EntropyRegulariser
from assay.measures.head_entropy import mean_head_entropy
from assay.nn.attention import SoftmaxAttention
from assay.nn.scaled_fused_ffn import ScaledFusedFFN
from assay.nn.strip import strip_nonlinearities
from assay.nn.temperature_attention import TemperatureAttention

Row = dict[str, Any]


class Block(nn.Module):
    """A layer of GPT-2, or one of softmax alone: temperatures, and an FFN of one matrix. (B, L, d) -> the same, and the
    attention weights (B, H, L, L)."""

    def __init__(self, width: int, heads: int, softmax_only: bool, temperature: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SoftmaxAttention(width, num_heads=heads)
        self.ffn: nn.Module
        if softmax_only:
            self.attention = TemperatureAttention(width, num_heads=heads, temperature=temperature)
            self.ffn = ScaledFusedFFN(width)
        else:
            self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.softmax_only = softmax_only

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.attention.features(self.attention_norm(x))
        weights = self.attention.to_operator(features).to_dense()
        x = x + self.attention.finish(weights @ features.values, features)
        return (self.ffn(x) if self.softmax_only else x + self.ffn(self.ffn_norm(x))), weights


class GPT(nn.Module):
    """GPT-2 in small, with a tied head. Rotary positions, since learned ones take longer to learn than there is time;
    embeddings of the norm that 0.02 gives them at GPT-2's width."""

    def __init__(
        self, vocabulary: int, *, width: int, layers: int, heads: int, softmax_only: bool, temperature: float
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.02 * (768 / width) ** 0.5)
        self.blocks = nn.ModuleList(Block(width, heads, softmax_only, temperature) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.regulariser = EntropyRegulariser(layers, heads, coef=0.0)

    def forward(self, tokens: Tensor) -> CausalLMOutput:
        x, attentions = self.tokens(tokens), []
        for block in self.blocks:
            x, weights = block(x)
            attentions.append(weights)
        return CausalLMOutput(logits=self.norm(x) @ self.tokens.weight.T, attentions=tuple(attentions))


def build(variant: str, vocabulary: int, *, temperature: float, **sizes: int) -> GPT:
    """A variant by its code in the paper: SM softmax, LN layer norm, G GELU, R ReLU; what is missing is removed."""
    parts = variant.split("+")
    softmax_only = "ScFuFFN" in parts
    model = GPT(vocabulary, **sizes, softmax_only=softmax_only, temperature=temperature)
    activation = nn.GELU if "G" in parts else nn.ReLU if "R" in parts else nn.Identity
    strip_nonlinearities(model, norms="LN" not in parts, activation=activation)
    return model


def loss_with_penalty(model: nn.Module, batch: Windows) -> Tensor:
    output = model(batch.inputs)
    loss = cross_entropy(output.logits.flatten(0, 1), batch.targets.flatten())
    regulariser: Any = model.regulariser
    return loss + regulariser(output.attentions) if regulariser.coef else loss


def text_model(
    *, variant: str, coef: float, learned: bool, temperature: float, width: int, layers: int, heads: int, batch: int,
    length: int, lr: float, steps: int, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """A character model of Python's help texts: the loss on held-out documents, and a row for each head.

    `learned`: whether the penalty's thresholds are. `temperature`: of all heads at the start, in a softmax-only model.
    """
    corpus = tokenise(python_help(), "character")
    parts = split_documents(corpus, generator=torch.Generator().manual_seed(seed))
    text, held_out = (torch.cat(part.documents).to(device) for part in parts)
    test = random_windows(held_out, 128, seq_len=length, generator=torch.Generator(device).manual_seed(seed))
    sizes = {"width": width, "layers": layers, "heads": heads}
    model = build(variant, len(corpus.vocabulary), temperature=temperature, **sizes).to(device)
    model.regulariser.coef = coef
    model.regulariser.threshold.requires_grad_(learned)
    trained = train(
        model, lambda generator: random_windows(text, batch, seq_len=length, generator=generator),
        steps=steps, seed=seed, loss=loss_with_penalty, lr=lr,
    )  # fmt: skip
    about = {"train_loss": trained[-1]["loss"]}
    with torch.no_grad():
        about["test_loss"] = token_loss(model, test).item()
        attentions = model(test.inputs).attentions
    rows = []
    for layer, weights in enumerate(attentions):
        entropy, normalised = mean_head_entropy(weights), mean_head_entropy(weights, normalised=True)
        rows += [
            about
            | {"layer": layer, "head": head, "threshold": model.regulariser.threshold[layer, head].item()}
            | {"entropy": entropy[head].item(), "normalised": normalised[head].item()}
            for head in range(heads)
        ]  # fmt: skip
    return rows
