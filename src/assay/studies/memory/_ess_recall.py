"""What `effective_state_size` trains: recall, copying and compression with little state and with much, and hybrids.

Models are backbones of width 64 with the paper's own classes. The paper's have two mixers, 140,000 steps, and a
vocabulary of 8,192; here a convolution of three tokens takes the place of the first, without which none gets beyond
guessing in the few hundred steps that there are, and sequences are as short as they can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from assay.data import compression, mqar, selective_copying
from assay.lab import Check, Claim, Row, Unit, grid, mark, plot, spearman
from assay.lab.training import Labelled, token_accuracy, train
from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.models import Backbone, BackboneConfig
from assay.nn import SA, BaseConv
from assay.operators import SequenceOperator


def draw(task: str, examples: int, size: int, vocab_size: int, generator: torch.Generator) -> Labelled:
    """A batch of recall of `size` pairs (a = 0.1, with no more room than it needs), of copying `size` tokens from among
    as many blanks, or of compressing 16 of `size` tokens, whatever `vocab_size` is."""
    length = length_of(task, size)
    if task == "recall":
        return mqar(
            examples, seq_len=length, num_kv_pairs=size, vocab_size=vocab_size, power_a=0.1, generator=generator
        )
    if task == "copying":
        return selective_copying(
            examples, seq_len=length, num_tokens_to_copy=size, vocab_size=vocab_size, generator=generator
        )
    return compression(examples, seq_len=length, vocab_size=size, generator=generator)


def length_of(task: str, size: int) -> int:
    """Tokens of a sequence of `draw`."""
    return {"recall": 4 * size, "copying": 3 * size + 1, "compression": 16}[task]


def decay(mixer: str, length: int) -> dict[str, float]:
    """The paper's beta is 16, at lengths from 64 to 2048, 362 in the geometric mean. Here it is in proportion to the
    length, so that as large a part of a sequence is remembered."""
    return {"beta": 16 * length / 362} if mixer in ("GLA", "WLA") else {}


def trained_memory(
    *, task: str, size: int, vocab_size: int, mixer: str, state: int, pattern: str, width: int, steps: int,
    measured: int, batch: int, lr: float, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """Accuracy and mean entropy-ESS of a head, `measured` times in the course of training. `size`: pairs to recall,
    tokens to copy, or the vocabulary to compress; `state`: TSS of a channel."""
    name = f"ess-{mixer.lower()}"
    model = Backbone(
        BackboneConfig(
            pattern.format(mixer=name), vocab_size=max(size, vocab_size), d_model=width,
            mixers={name: {"num_heads": width // state} | decay(mixer, length_of(task, size))}, mlp_ratio=2,
        )
    )  # fmt: skip
    learner = (AutoEncoder(model, size) if task == "compression" else model).to(device)
    test = draw(task, 256, size, vocab_size, torch.Generator(device).manual_seed(2**40 + seed))

    def measure(_: nn.Module) -> Row:
        found = [mean_ess(T) for mixer, T in operators(model, test.inputs[:8]) if not isinstance(mixer, BaseConv)]
        return {"accuracy": token_accuracy(learner, test), "ess": sum(found) / len(found)}

    rows = train(
        learner, lambda generator: draw(task, batch, size, vocab_size, generator), steps=steps, seed=seed, lr=lr,
        every=steps // measured, measure=measure,
    )  # fmt: skip
    known = {"task": task, "size": size, "mixer": mixer, "state": state}
    return [known | {"last": row is rows[-1]} | row for row in rows]


def hybrid(
    *, attention: int, layers: int, width: int, state: int, heads: int, pairs: int, vocab_size: int, steps: int,
    batch: int, lr: float, seed: int, device: str,
) -> Row:  # fmt: skip
    """Recall by layers of GLA with a TSS of `state`, but the one at the index `attention` of SA with `heads` (-1 for
    none), all without MLPs; and the mean tolerance-ESS of the layer of each kind that has the most, or 0."""
    kinds = ["ess-sa" if layer == attention else "ess-gla" for layer in range(layers)]
    gla: dict[str, Any] = {"num_heads": width // state} | decay("GLA", length_of("recall", pairs))
    options: dict[str, dict[str, Any]] = {"ess-sa": {"num_heads": heads}, "ess-gla": gla}
    model = Backbone(
        BackboneConfig(
            ",".join(kinds), vocab_size=vocab_size, d_model=width, mlp_ratio=0,
            mixers={kind: options[kind] for kind in set(kinds)},
        )
    ).to(device)  # fmt: skip
    train(
        model, lambda generator: draw("recall", batch, pairs, vocab_size, generator), steps=steps, seed=seed, lr=lr,
        weight_decay=0,
    )  # fmt: skip
    test = draw("recall", 256, pairs, vocab_size, torch.Generator(device).manual_seed(2**40 + seed))
    most = {"most_sa_ess": 0.0, "most_gla_ess": 0.0}
    with torch.no_grad():
        for mixer, T in operators(model, test.inputs[:8]):
            kind = "most_sa_ess" if isinstance(mixer, SA) else "most_gla_ess"
            most[kind] = max(most[kind], mean_ess(T, tolerance=0.1))
    return {"attention": attention, "accuracy": token_accuracy(model, test)} | most


class AutoEncoder(nn.Module):
    """MAD's reader of compression: the body's output at the last token, plus a position code, through an MLP."""

    def __init__(self, backbone: Backbone, vocab_size: int) -> None:
        super().__init__()
        width = backbone.config.d_model
        self.backbone = backbone
        self.read = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, vocab_size))

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens (B, L) -> logits (B, L, V) for the same tokens."""
        x = self.backbone.embedding(ids)
        for layer in self.backbone.layers:
            x = layer(x)
        last = self.backbone.norm(x)[:, -1:]
        rate = torch.exp(torch.arange(0, last.shape[-1], 2, device=ids.device) * (-math.log(1e4) / last.shape[-1]))
        angle = torch.arange(ids.shape[1], device=ids.device)[:, None] * rate
        read: Tensor = self.read(last + torch.cat([angle.sin(), angle.cos()], dim=-1))
        return read


def operators(model: Backbone, ids: Tensor) -> Iterator[tuple[nn.Module, SequenceOperator]]:
    """Each mixer of a backbone with its operator for the tokens (B, L)."""
    x = model.embedding(ids)
    layer: Any
    for layer in model.layers:
        yield layer.mixer, layer.mixer.operator(layer.mixer_norm(x))
        x = layer(x)


def mean_ess(T: SequenceOperator, *, tolerance: float | None = None) -> float:
    """Mean over batch, heads and every eighth of the positions: entropy-ESS, or tolerance-ESS at a tolerance."""
    every = max(1, T.length // 8)
    sigma = T.hankel_singular_values(range(every, T.length, every))
    return float((entropy_ess(sigma) if tolerance is None else tolerance_ess(sigma, tolerance)).mean())


def of_task(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """The trained models of a task, but SA, which has no state of its own size."""
    return rows[(rows.task == task) & rows["last"].astype(bool) & (rows.mixer != "SA")]


def gap(models: pd.DataFrame, *, divided: bool = True) -> float:
    """How much closer accuracy follows ESS/size than TSS/size. Not `divided`: ESS in the place of ESS/size."""
    ess = models.ess / models["size"] if divided else models.ess
    return spearman(ess, models.accuracy) - spearman(models.state / models["size"], models.accuracy)


def accuracy_of(rows: pd.DataFrame, attention: int) -> float:
    return float(rows[rows.attention == attention].accuracy.iloc[0])


def later_minus_first(rows: pd.DataFrame) -> float:
    """The lowest accuracy with attention in a layer that is not the first, minus that with attention in the first."""
    return float(rows[rows.attention > 0].accuracy.min()) - accuracy_of(rows, 0)


GAP = "rank correlation with accuracy over trained models, {} minus TSS/{}"


def follows_ess(task: str, words: str, size: str) -> Claim:
    return Claim(
        f"trained-{task}",
        f"Trained {words} follows ESS/{size} more closely than TSS/{size}.",
        source="section on memory and performance, bar plot of correlations",
        experiment=trained_memory,
        checks=(Check(GAP.format(f"ESS/{size}", size), lambda rows: gap(of_task(rows, task)), ">=", 0.05),),
        controls=(Check(GAP.format("ESS", size), lambda rows: gap(of_task(rows, task), divided=False), ">=", 0.05),),
    )


CLAIMS = (
    follows_ess("recall", "recall", "kv"),
    follows_ess("copying", "selective copying", "tokens"),
    follows_ess("compression", "compression", "vocabulary"),
    Claim(
        "layer-order",
        "One layer of attention among layers of GLA recalls, unless it is the first.",
        source="appendix on hybrids, four mixers",
        experiment=hybrid,
        checks=(
            Check("accuracy with attention later minus first", later_minus_first, ">=", 0.3),
            Check("rank correlation of the largest ESS of an attention layer and accuracy",
                  lambda rows: spearman(rows.most_sa_ess, rows.accuracy), ">=", 0.5),
        ),
        controls=(
            Check("accuracy with attention first minus none",
                  lambda rows: accuracy_of(rows, 0) - accuracy_of(rows, -1), ">=", 0.3),
            Check("rank correlation of the largest ESS of a GLA layer and accuracy",
                  lambda rows: spearman(rows.most_gla_ess, rows.accuracy), ">=", 0.5),
        ),
    ),
)  # fmt: skip


class RecallConfig(BaseModel):
    """Fields of the study; empty lists run nothing."""

    recall_mixers: list[str] = Field(default=["GLA", "LA", "WLA"], description="classes trained on the tasks")
    recall_states: list[int] = Field(default=[4, 8, 32], description="TSS of a channel of these")
    recall_pairs: list[int] = Field(default=[2, 4, 8], description="pairs to recall in 4 times as many tokens")
    copied: list[int] = Field(default=[4, 8], description="tokens to copy")
    compressed: list[int] = Field(default=[4, 16], description="vocabularies to compress")
    recall_vocab: int = Field(default=32, ge=4, description="tokens in recall and copying")
    recall_pattern: str = Field(default="base-conv-short,{mixer}", description="layers of the models of the tasks")
    recall_width: int = Field(default=64, ge=2, description="of these models and of hybrids")
    recall_steps: int = Field(default=300, ge=10, description="of training these models")
    recall_batch: int = Field(default=32, ge=1, description="sequences in a step, of hybrids too")
    recall_lr: float = Field(default=5e-3, gt=0, description="learning rate, of hybrids too")
    hybrid_attention: list[int] = Field(default=[-1, 0, 1], description="layer of attention in hybrids, or -1")
    hybrid_layers: int = Field(default=2, ge=1, description="of hybrids of GLA and SA")
    hybrid_state: int = Field(default=2, ge=1, description="TSS of a channel of GLA in hybrids")
    hybrid_pairs: int = Field(default=4, ge=1, description="that hybrids recall")
    hybrid_vocab: int = Field(default=16, ge=4, description="tokens that hybrids know")
    hybrid_steps: int = Field(default=1200, ge=1, description="of training hybrids")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"recall_mixers": [], "hybrid_attention": []},
    "laptop": {},
    "paper": {
        "recall_states": [8, 16, 32, 64, 128], "recall_pairs": [8, 16, 32, 64, 128], "copied": [8, 16, 32, 64, 128],
        "compressed": [8, 16, 32, 64, 128], "recall_vocab": 8192, "recall_pattern": "{mixer}*2", "recall_width": 512,
        "recall_steps": 140_000, "recall_batch": 64, "recall_lr": 2e-3, "hybrid_attention": [-1, 0, 1, 2, 3],
        "hybrid_layers": 4, "hybrid_state": 16, "hybrid_pairs": 512, "hybrid_vocab": 8192, "hybrid_steps": 140_000,
    },
}  # fmt: skip


def units(config: RecallConfig) -> Iterator[Unit]:
    states, ends = config.recall_states, sorted({*config.recall_states[:1], *config.recall_states[-1:]})
    sizes = {"width": config.recall_width, "batch": config.recall_batch, "lr": config.recall_lr}
    models = {
        "vocab_size": config.recall_vocab, "mixer": config.recall_mixers, "pattern": config.recall_pattern,
        "steps": config.recall_steps,
    }  # fmt: skip
    for task, size, state, measured in (
        ("recall", config.recall_pairs, states, 10), ("copying", config.copied, ends, 1),
        ("compression", config.compressed, ends, 1),
    ):  # fmt: skip
        yield from grid(trained_memory, task=task, size=size, state=state, measured=measured, **models, **sizes)
    if states and config.recall_mixers:
        models |= {"mixer": "SA"}
        most = {"size": max(config.recall_pairs), "state": max(states)}
        yield from grid(trained_memory, task="recall", measured=10, **most, **models, **sizes)
    yield from grid(
        hybrid, attention=config.hybrid_attention, layers=config.hybrid_layers, state=config.hybrid_state, heads=4,
        pairs=config.hybrid_pairs, vocab_size=config.hybrid_vocab, steps=config.hybrid_steps, **sizes,
    )  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Of the rows of all experiments; a figure without rows is left out."""
    found = []
    trained = rows[rows.experiment == "trained_memory"]
    if not trained.empty:
        models = trained[trained["last"].astype(bool) & (trained.mixer != "SA")].assign(
            per=lambda own: own.ess / own["size"]
        )
        found.append(
            plot("Trained models and the state that they use",
                 mark("dot", models, x="per", y="accuracy", stroke="task"),
                 x={"type": "log", "label": "ESS / kv, tokens or vocabulary"}, y={"label": "accuracy"},
                 color={"legend": True})
        )  # fmt: skip
    hybrids = rows[rows.experiment == "hybrid"]
    if not hybrids.empty:
        hybrids = hybrids.assign(attention=hybrids.attention.map(lambda at: "none" if at < 0 else f"layer {at:.0f}"))
        mean = hybrids.groupby("attention", as_index=False)[["accuracy"]].mean()
        found.append(
            plot("Where the layer of attention stands",
                 mark("barY", mean, x="attention", y="accuracy", fill="attention"),
                 mark("dot", hybrids, x="attention", y="accuracy"),
                 x={"label": "where attention is"}, y={"label": "accuracy"})
        )  # fmt: skip
    return found
