"""One training step on multi-query associative recall, against the same model in plain torch and Zoology's own."""

import copy
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, cross_entropy, elu, pad, silu

from assay.data.mqar import Recall, mqar
from assay.lab.training import token_loss
from assay.models import Backbone, BackboneConfig
from assay.nn._positions import rotary
from benchmarks._timing import timed

VOCABULARY, LENGTH, PAIRS, WIDTH, BATCH = 8192, 256, 16, 64, 64
RUNS = 3
TEXT = """## A training step on multi-query associative recall

Forward, backward and AdamW in float32: {batch} sequences of {length} tokens with {pairs} labels each, vocabulary
{vocabulary:,}, two layers of width {width} without an MLP; thousands of tokens a second, median of {runs} steps.
*Plain* is the same model with the same weights (losses agree to {difference:.0e}, relative), written as one would at
first: attention by two matrix products and a masked softmax, recurrences token by token, convolutions by `conv1d`, and
logits at every position. *All logits* is assay's model with logits at every position instead of at the labelled ones.
Ratios above 1 mean that assay is faster.

| mixers | assay | all logits | plain | assay / all logits | assay / plain |
|---|---:|---:|---:|---:|---:|
{rows}

The configuration that Zoology published for this task (1 head, learned absolute positions, LayerNorm before each mixer,
dropout of 0.1 on embeddings, logits at every position; head and embedding share a matrix, from memory), written after
the paper: {zoology:.1f} thousand tokens a second. assay with attention of 1 head is **{faster:.1f}** times as fast.
"""


def table() -> str:
    """Every mixer in the three ways, one after the other."""
    batch = mqar(
        BATCH, seq_len=LENGTH, num_kv_pairs=PAIRS, vocab_size=VOCABULARY, generator=torch.Generator().manual_seed(0)
    )
    rows, differences = [], []
    for name, plain in PLAIN.items():
        model = _backbone(name)
        ways = [_rate(model, batch, token_loss), _rate(model, batch, _all_logits), _rate(Plain(model, plain), batch)]
        assay, every, naive = (rate for rate, _ in ways)
        first = [loss for _, loss in ways]
        differences += [abs(loss / first[0] - 1) for loss in first[1:]]
        rows.append(
            f"| {name} | {assay:.1f} | {every:.1f} | {naive:.1f} | {assay / every:.1f} | **{assay / naive:.1f}** |"
        )
    zoology, _ = _rate(Zoology(), batch)
    one_head, _ = _rate(_backbone("attention", num_heads=1), batch, token_loss)
    sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "pairs": PAIRS, "width": WIDTH, "batch": BATCH, "runs": RUNS}
    return TEXT.format(
        rows="\n".join(rows), difference=max(differences), zoology=zoology, faster=one_head / zoology, **sizes
    )


def _backbone(mixer: str, **options: int) -> Backbone:
    torch.manual_seed(0)
    mixers = {mixer: options} if options else {}
    return Backbone(BackboneConfig(f"{mixer}*2", VOCABULARY, WIDTH, mixers=mixers, mlp_ratio=0))


def _all_logits(model: nn.Module, batch: Recall) -> Tensor:
    logits = model(batch.inputs)
    return cross_entropy(getattr(logits, "logits", logits).flatten(0, 1), batch.targets.flatten())


def _rate(
    model: nn.Module, batch: Recall, loss: Callable[[nn.Module, Recall], Tensor] = _all_logits
) -> tuple[float, float]:
    """Thousands of tokens a second, and the loss before the first step. The model stays as it is."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> float:
        current = loss(model, batch)
        current.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(current.detach())

    first = step()  # warm-up
    return BATCH * LENGTH / 1000 / statistics.median(timed(step)[0] for _ in range(RUNS)), first


class Plain(nn.Module):
    """A backbone's parameters, with its mixers computed by `mix`: logits (B, L, V)."""

    def __init__(self, model: Backbone, mix: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.mix = model, mix

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embedding(ids)
        for layer in self.model.layers:
            x = x + self.mix(layer.mixer, layer.mixer_norm(x))
        return self.model.head(self.model.norm(x))


def _attention(mixer: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (_heads(project(x), mixer.num_heads) for project in (mixer.q, mixer.k, mixer.v))
    return mixer.out(_joined(_softmax(rotary(q), rotary(k), v)))


def _softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(future, -torch.inf).softmax(-1) @ v


def _linear_attention(mixer: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (_heads(part, mixer.num_heads) for part in mixer.qkv(x).chunk(3, dim=-1))
    q, k = elu(q) + 1, elu(k) + 1
    y = _recurrence(q, k, v, torch.ones_like(k)) / (q * k.cumsum(-2)).sum(-1, keepdim=True)
    return mixer.out(_joined(y))


def _gla(mixer: nn.Module, x: Tensor) -> Tensor:
    q, k, v, z = (_heads(project(x), mixer.num_heads) for project in (mixer.q, mixer.k, mixer.v, mixer.decay))
    y = _recurrence(q * mixer.key_size**-0.5, k, v, z.sigmoid() ** (1 / mixer.gate_temperature))
    return mixer.out(_joined(mixer.norm(y)) * silu(mixer.gate(x)))


def _recurrence(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """A token at a time: (B, H, L, N) and values (B, H, L, C) -> (B, H, L, C)."""
    state, outputs = torch.zeros(()), []
    for t in range(q.shape[-2]):
        state = decay[:, :, t, :, None] * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outputs, dim=-2)


def _base_conv(mixer: nn.Module, x: Tensor) -> Tensor:
    kernel = mixer.filter(x.shape[1])  # (d, L), the newest token first
    y = conv1d(pad(x.mT, (kernel.shape[-1] - 1, 0)), kernel.flip(-1)[:, None], groups=len(kernel)).mT
    return mixer.gate_proj(x) * (y + mixer.bias)


def _heads(x: Tensor, count: int) -> Tensor:
    """(B, L, H * C) -> (B, H, L, C)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class Zoology(nn.Module):
    """Arora et al. 2023 (arXiv 2312.04927), the attention of its Fig. 2: logits (B, L, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        for parameter in (self.tokens.weight, self.positions.weight):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.tokens(ids) + self.positions.weight)
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=False):
            x = x + out(_softmax(*qkv(norm(x)).chunk(3, dim=-1)))
        return self.norms[-1](x) @ self.tokens.weight.T


PLAIN = {"attention": _attention, "linear-attention": _linear_attention, "gla": _gla, "base-conv": _base_conv}
