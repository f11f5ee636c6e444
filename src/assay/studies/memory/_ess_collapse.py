"""What `effective_state_size` trains on saturation and collapse: recall by one mixer, and a penalty on its decays.

The model is a token embedding with a convolution over two tokens, which puts a key beside its value, one mixer and an
MLP. The paper's have two mixers, of which the first does what the convolution does, and 140,000 steps; ours has a few
hundred. Decays are scaled with the length: `A = sigmoid(.)^(1/beta)` with the paper's beta of 16 at 4096 tokens lets as
much of a state through a sequence as a beta of 1/4 does at 64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from assay.data import Recall, mqar
from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.lab.training import token_accuracy, token_loss, train
from assay.losses import identity_decay_penalty
from assay.measures.state_size import entropy_ess
from assay.models import Backbone, BackboneConfig
from assay.nn import Mixer
from assay.nn._short_convolution import ShortConvolution
from assay.nn.recording import recorded_operators


class ConvolvedEmbedding(nn.Embedding):
    """Tokens (B, L) -> (B, L, D): each one's embedding, and a convolution over it and the one before."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.convolution = ShortConvolution(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = super().forward(ids)
        return x + self.convolution(x)


class Task(NamedTuple):
    """MQAR over `room` tokens for each pair, queries spread evenly."""

    pairs: int
    room: int
    vocab: int
    batch: int

    def draw(self, examples: int, generator: torch.Generator) -> Recall:
        return mqar(
            examples, seq_len=self.room * self.pairs, num_kv_pairs=self.pairs, vocab_size=self.vocab, power_a=1,
            generator=generator,
        )  # fmt: skip

    def fewer(self, parts: int) -> Task:
        """A part of the pairs, in so many more sequences."""
        return self._replace(pairs=self.pairs // parts, batch=self.batch * parts)

    def draw_batch(self, generator: torch.Generator) -> Recall:
        """All pairs, half or a quarter of them: the easy ones show what the hard ones need."""
        task = self.fewer(2 ** int(torch.randint(3, (), generator=generator, device=generator.device)))
        return task.draw(task.batch, generator)


def make_model(pattern: str, task: Task, width: int, heads: int, expand_k: int = 1, **options: Any) -> Backbone:
    """A backbone of one mixer with a state of `expand_k * width / heads` for each value channel."""
    mixers = {pattern.split("*")[0]: {"num_heads": heads, "expand_k": expand_k} | options}
    model = Backbone(BackboneConfig(pattern, task.vocab, width, mixers, mlp_ratio=2, tie_word_embeddings=False))
    model.embedding = ConvolvedEmbedding(task.vocab, width)
    return model


def recall(
    *, mixer: str, layers: int, decay: str, options: tuple[tuple[str, Any], ...], penalty: float, state: int,
    width: int, task: tuple[int, ...], steps: int, lr: float, seed: int, device: str,
) -> Row:  # fmt: skip
    """Accuracy with all pairs and with a quarter of them, and ESS of a head of the last layer at the middle, where all
    is written and nothing read, before and after training with `penalty * ||A - I||_F` of that layer in the loss.
    `decay` is a name for the options."""
    del decay
    data, sizes = Task(*task), {"heads": max(1, width // state), "expand_k": max(1, state // width)}
    model = make_model(f"ess-{mixer.lower()}*{layers}", data, width, **sizes, **dict(options)).to(device)

    def loss(model: nn.Module, batch: Recall) -> Tensor:
        if not penalty:
            return token_loss(model, batch)
        with recorded_operators(*model.get_submodule(f"layers.{layers - 1}").modules()) as operators:
            own = token_loss(model, batch)
        return own + penalty * identity_decay_penalty(*operators)  # type: ignore[arg-type]

    few, many = (task.draw(256, torch.Generator(device).manual_seed(2**40 + seed)) for task in (data.fewer(4), data))
    before = middle_ess(model, many)
    train(model, data.draw_batch, steps=steps, seed=seed, lr=lr, loss=loss)
    ess = middle_ess(model, many)
    return {
        "ess": ess,
        "initial_ess": before,
        "utilisation": ess / state,
        "accuracy": token_accuracy(model, many),
        "accuracy_few": token_accuracy(model, few),
    }


@torch.no_grad()
def middle_ess(model: Backbone, batch: Recall, examples: int = 8) -> float:
    """Mean entropy-ESS of the heads of the last layer at the middle of the sequences."""
    mixer = model.layers[-1].mixer
    assert isinstance(mixer, Mixer)
    with recorded_operators(mixer) as operators:
        model(batch.inputs[:examples])
    return float(entropy_ess(operators[0].hankel_singular_values([batch.inputs.shape[1] // 2])).mean())


def value(
    rows: pd.DataFrame, column: str, mixer: str, decay: str = "none", penalty: float = 0, **setting: Any
) -> float:
    """Of the model with these settings; those that are not named are as usual: no penalty, and the largest state."""
    wanted = {"mixer": mixer, "decay": decay, "penalty": penalty, "state": rows.state.max()} | setting
    for name, chosen in wanted.items():
        rows = rows[rows[name] == chosen]
    return float(rows[column].iloc[0])


def by_state(rows: pd.DataFrame, column: str, mixer: str, decay: str = "none") -> float:
    """`column` with the largest state minus `column` with the smallest."""
    smallest = rows.state.min()
    return value(rows, column, mixer, decay) - value(rows, column, mixer, decay, state=smallest)


def behind(rows: pd.DataFrame, decay: str) -> float:
    """Accuracy of LA minus the best of GLA and WLA."""
    best = max(value(rows, "accuracy", mixer, decay) for mixer in ("GLA", "WLA"))
    return value(rows, "accuracy", "LA") - best


def used(rows: pd.DataFrame) -> float:
    """ESS of LA over the largest of GLA and WLA that decay fast."""
    return value(rows, "ess", "LA") / max(value(rows, "ess", mixer, "fast") for mixer in ("GLA", "WLA"))


def gained(rows: pd.DataFrame, column: str, mixer: str, sign: int = 1) -> float:
    """What the penalty, or the same with its sign turned, adds."""
    size = float(rows.penalty.max())
    return value(rows, column, mixer, "fast", sign * size) - value(rows, column, mixer, "fast")


def penalised(mixer: str) -> Claim:
    return Claim(
        f"penalty-{mixer.lower()}",
        f"A penalty on ||A - I||_F gives {mixer} that decays fast more ESS and more recall.",
        source="section on the regulariser; here on the only mixer",
        experiment=recall,
        checks=(
            Check("accuracy with the penalty minus without", lambda rows: gained(rows, "accuracy", mixer), ">=", 0.1),
            Check("ESS with the penalty minus without", lambda rows: gained(rows, "ess", mixer), ">=", 1),
        ),
        controls=(
            Check("accuracy with the penalty's sign turned minus without",
                  lambda rows: gained(rows, "accuracy", mixer, -1), ">=", 0.1),
        ),
    )  # fmt: skip


CLAIMS = (
    Claim(
        "saturation",
        "A state that is too small is full, and more of it helps.",
        source="definition of state saturation; grid of accuracies of LA on MQAR",
        experiment=recall,
        checks=(
            Check("LA: utilisation with the smallest state minus with the largest",
                  lambda rows: -by_state(rows, "utilisation", "LA"), ">=", 0.1),
            Check("LA: accuracy with the largest state minus with the smallest",
                  lambda rows: by_state(rows, "accuracy", "LA"), ">=", 0.2),
        ),
        controls=(
            Check("LA: the same difference of accuracy with a quarter of the pairs",
                  lambda rows: by_state(rows, "accuracy_few", "LA"), ">=", 0.2),
        ),
    ),
    Claim(
        "collapse",
        "Of a state that is large enough for LA, GLA and WLA that decay fast use little, and recall less.",
        source="definition of state collapse; grids of accuracy and ESS/kv on MQAR at TSS 128, kv 128",
        experiment=recall,
        checks=(
            Check("accuracy of LA minus the best of GLA and WLA that decay fast", lambda rows: behind(rows, "fast"),
                  ">=", 0.2),
            Check("ESS of LA over the largest of theirs", used, ">=", 1.2),
        ),
        controls=(
            Check("accuracy of LA minus the best of GLA and WLA that decay slowly", lambda rows: behind(rows, "slow"),
                  ">=", 0.2),
        ),
    ),
    penalised("WLA"),
    penalised("GLA"),
    Claim(
        "initial-decay-decides",
        "S6, and GLA-S6 with a small alpha, cannot recall with any state; with a large alpha GLA-S6 can.",
        source="section on initialisation, Fig. 8",
        experiment=recall,
        checks=(
            Check("accuracy of GLA-S6 with a small alpha, the better of two states",
                  lambda rows: max(value(rows, "accuracy", "GLA-S6", "fast", state=n) for n in set(rows.state)),
                  "<=", 0.15),
            Check("accuracy of S6", lambda rows: value(rows, "accuracy", "S6", "fast"), "<=", 0.15),
            Check("accuracy of GLA-S6 with a large alpha minus with a small one",
                  lambda rows: value(rows, "accuracy", "GLA-S6", "slow") - value(rows, "accuracy", "GLA-S6", "fast"),
                  ">=", 0.3),
        ),
        controls=(
            Check("accuracy of GLA", lambda rows: value(rows, "accuracy", "GLA", "slow"), "<=", 0.15),
        ),
    ),
    Claim(
        "more-state-helps-gla",
        "The larger its state, the better GLA recalls.",
        source="section on initialisation, Fig. 8",
        experiment=recall,
        checks=(
            Check("accuracy of GLA with the largest state minus with the smallest",
                  lambda rows: by_state(rows, "accuracy", "GLA", "slow"), ">=", 0.05),
        ),
        controls=(
            Check("the same of GLA-S6 with a small alpha", lambda rows: by_state(rows, "accuracy", "GLA-S6", "fast"),
                  ">=", 0.05),
        ),
    ),
)  # fmt: skip


class CollapseConfig(BaseModel):
    """Fields of the study's config."""

    collapse_steps: int = Field(default=400, ge=0, description="of training on saturation and collapse; 0: none")
    collapse_lr: float = Field(default=2e-2, gt=0, description="learning rate of these models")
    collapse_layers: int = Field(default=1, ge=1, description="of these models")
    collapse_width: int = Field(default=32, ge=2, description="of these models")
    collapse_states: list[int] = Field(default=[8, 32], description="TSS of these models, smallest and largest")
    collapse_pairs: int = Field(default=16, ge=4, description="that these models recall")
    collapse_room: int = Field(default=4, ge=4, description="tokens for each of these pairs")
    collapse_vocab: int = Field(default=64, ge=10, description="tokens that these models know")
    collapse_batch: int = Field(default=16, ge=1, description="sequences of all these pairs in a step")
    fast_betas: list[float] = Field(default=[0.25, 2], description="of GLA and WLA that decay fast")
    slow_betas: list[float] = Field(default=[16, 64], description="of GLA and WLA that decay slowly")
    s6_alphas: list[float] = Field(default=[1 / 32, 1000], description="of GLA-S6 that decays fast, and slowly")
    penalty: float = Field(default=1 / 8, gt=0, description="factor of the mean of ||A - I||_F in the loss")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"collapse_steps": 0},
    "laptop": {},
    "paper": {
        "collapse_steps": 140_000, "collapse_lr": 2e-3, "collapse_layers": 2, "collapse_width": 128,
        "collapse_states": [16, 256], "collapse_pairs": 128, "collapse_room": 32, "collapse_vocab": 8192,
        "collapse_batch": 64, "fast_betas": [16, 16], "slow_betas": [256, 256], "s6_alphas": [1, 1000],
        "penalty": 1.0,
    },
}  # fmt: skip


def units(config: CollapseConfig) -> Iterator[Unit]:
    if not config.collapse_steps:
        return
    small, large = min(config.collapse_states), max(config.collapse_states)
    task = Task(config.collapse_pairs, config.collapse_room, config.collapse_vocab, config.collapse_batch)
    common = {
        "layers": config.collapse_layers, "width": config.collapse_width, "task": tuple(task),
        "steps": config.collapse_steps, "lr": config.collapse_lr,
    }  # fmt: skip
    turned = [0.0, config.penalty, -config.penalty]
    (gla, wla), (slow_gla, slow_wla) = config.fast_betas, config.slow_betas
    models: tuple[tuple[str, str, dict[str, Any], Any, Any], ...] = (
        ("LA", "none", {}, [small, large], 0.0),
        ("GLA", "fast", {"beta": gla}, large, turned),
        ("WLA", "fast", {"beta": wla}, large, turned),
        ("GLA", "slow", {"beta": slow_gla}, [small, large], 0.0),
        ("WLA", "slow", {"beta": slow_wla}, large, 0.0),
        ("GLA-S6", "fast", {"alpha": config.s6_alphas[0]}, [small, large], 0.0),
        ("GLA-S6", "slow", {"alpha": config.s6_alphas[1]}, large, 0.0),
        ("S6", "fast", {"delta_range": None}, large, 0.0),
    )
    for mixer, decay, options, state, penalty in models:
        chosen = {"mixer": mixer, "decay": decay, "options": tuple(options.items())}
        yield from grid(recall, **chosen, state=state, penalty=penalty, **common)


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "recall"]
    if own.empty:
        return []
    own = own.assign(model=own.mixer + ", " + own.decay.replace("none", "no") + " decay")
    return [
        plot("What one mixer uses, and what it recalls",
             mark("dot", own[own.penalty >= 0], x="ess", y="accuracy", stroke="model"),
             x={"type": "log", "label": "ESS at the middle"}, y={"label": "accuracy"}, color={"legend": True})
    ]  # fmt: skip
