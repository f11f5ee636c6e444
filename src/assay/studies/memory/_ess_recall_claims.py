"""What `effective_state_size` claims of recall, copying, and compression, and the models trained for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, PositiveInt

from assay.lab import Check, Claim, Unit, grid, mark, plot, spearman
from assay.studies.memory._ess_recall import trained_memory


def of_task(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """The trained models of a task, but SA, which has no state of its own size."""
    return rows[(rows.task == task) & rows["last"].astype(bool) & (rows.mixer != "SA")]


def gap(models: pd.DataFrame, *, divided: bool = True) -> float:
    """How much closer accuracy follows ESS/size than TSS/size. Not `divided`: ESS in the place of ESS/size."""
    ess = models.ess / models["size"] if divided else models.ess
    return spearman(ess, models.accuracy) - spearman(models.state / models["size"], models.accuracy)


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
)  # fmt: skip


class RecallConfig(BaseModel):
    """Fields of the study; empty lists run nothing."""

    recall_mixers: list[Literal["GLA", "LA", "WLA"]] = Field(
        default=["GLA", "LA", "WLA"], description="classes trained on the tasks"
    )
    recall_states: list[PositiveInt] = Field(default=[4, 8, 32], description="TSS of a channel of these")
    recall_pairs: list[PositiveInt] = Field(
        default=[2, 4, 8], min_length=1, description="pairs to recall in 4 times as many tokens"
    )
    copied: list[PositiveInt] = Field(default=[4, 8], description="tokens to copy")
    compressed: list[PositiveInt] = Field(default=[4, 16], description="vocabularies to compress")
    recall_vocab: int = Field(default=32, ge=4, description="tokens in recall and copying")
    recall_pattern: str = Field(default="base-conv-short,{mixer}", description="layers of the models of the tasks")
    recall_width: int = Field(default=64, ge=2, description="of these models")
    recall_steps: int = Field(default=300, ge=10, description="of training these models")
    recall_batch: int = Field(default=32, ge=1, description="sequences in a step")
    recall_lr: float = Field(default=5e-3, gt=0, description="learning rate")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"recall_mixers": []},
    "laptop": {},
    "paper": {
        "recall_states": [8, 16, 32, 64, 128], "recall_pairs": [8, 16, 32, 64, 128], "copied": [8, 16, 32, 64, 128],
        "compressed": [8, 16, 32, 64, 128], "recall_vocab": 8192, "recall_pattern": "{mixer}*2", "recall_width": 512,
        "recall_steps": 140_000, "recall_batch": 64, "recall_lr": 2e-3,
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
    return found
