"""Attention that learns the sign of a concept: exponentially fast, along one direction, out of distribution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, model_validator

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.measures.error_decay import ErrorDecay, fit_error_decay
from assay.studies.attention_theory._concept_training import training

Size = Annotated[int, Field(ge=1)]
TRAINED, FROZEN, SHUFFLED = "trained", "frozen", "shuffled"
OTHERS = ["longer", "unbalanced", "mixed"]


def of(rows: pd.DataFrame, at: str, variant: str) -> pd.DataFrame:
    """Rows of a variant with the most demonstrations and the largest batch."""
    own = rows[(rows["at"] == at) & (rows.variant == variant)]
    return own[(own.demonstrations == own.demonstrations.max()) & (own.batch == own.batch.max())]


def at_end(rows: pd.DataFrame, variant: str, column: str) -> float:
    return float(of(rows, "end", variant)[column].iloc[0])


def decay(rows: pd.DataFrame, variant: str) -> ErrorDecay:
    own = of(rows, "course", variant).sort_values("step")
    return fit_error_decay(own.step.tolist(), own.error.tolist())


def lead(fit: ErrorDecay) -> float:
    return fit.r2_exponential - fit.r2_power


def growth(rows: pd.DataFrame, variant: str, when: str = "") -> float:
    """The least projection of attention on a sign feature over the largest on any other."""
    return at_end(rows, variant, f"sign{when}") / at_end(rows, variant, f"rest{when}")


def beyond(rows: pd.DataFrame, variant: str) -> float:
    """The largest error on prompts of other kinds."""
    return float(of(rows, "end", variant)[OTHERS].to_numpy().max())


def above_floor(rows: pd.DataFrame, variant: str) -> float:
    """The largest error above 2^-L over all lengths and batches."""
    own = rows[(rows["at"] == "end") & (rows.variant == variant)]
    return float((own.error - own.floor).max())


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "exponential",
        "The error falls exponentially with the steps of SGD, to that of the best answer.",
        source="theorem on 0-1 convergence, from memory",
        experiment=training,
        checks=(
            ForAll("error at the end", lambda rows: at_end(rows, TRAINED, "error"), "<=", 0.01),
            ForAll("R2 of the log error as a line in the steps", lambda rows: decay(rows, TRAINED).r2_exponential, ">=",
                   0.8),
            ForAll("the same less the R2 in the log of the steps", lambda rows: lead(decay(rows, TRAINED)), ">", 0),
        ),
        controls=(
            ForAll("attention as it was at first: error at the end", lambda rows: at_end(rows, FROZEN, "error"), "<=",
                   0.3),
            ForAll("labels of other prompts: the same", lambda rows: at_end(rows, SHUFFLED, "error"), "<=", 0.3),
        ),
    ),
    Claim(
        "along-the-sign",
        "Attention grows along the features that carry the sign, and along no others.",
        source="lemmas on the growth of attention, from memory",
        experiment=training,
        checks=(
            ForAll("least projection on a sign feature over the largest on another", lambda rows: growth(rows, TRAINED),
                   ">=", 10),
        ),
        controls=(
            ForAll("before training", lambda rows: growth(rows, TRAINED, "_at_first"), ">=", 10),
            ForAll("labels of other prompts", lambda rows: growth(rows, SHUFFLED), ">=", 10),
        ),
    ),
    Claim(
        "out-of-distribution",
        "So it works on longer prompts, on unbalanced ones, and for queries that mix two concepts.",
        source="theorem on out-of-distribution prompts, from memory",
        experiment=training,
        checks=(
            ForAll("largest error on such prompts", lambda rows: beyond(rows, TRAINED), "<=", 0.02),
        ),
        controls=(
            ForAll("attention as it was at first", lambda rows: beyond(rows, FROZEN), "<=", 0.3),
            ForAll("prompts of another dictionary", lambda rows: at_end(rows, TRAINED, "other_dictionary"), "<=", 0.3),
        ),
    ),
    Claim(
        "any-length-and-batch",
        "Prompts and batches need not be long: the error comes down to that of prompts without an answer, 2^-L.",
        source="abstract: without requirements on prompt length and batch size",
        experiment=training,
        checks=(
            ForAll("largest error less 2^-L", lambda rows: above_floor(rows, TRAINED), "<=", 0.01),
        ),
        controls=(
            ForAll("attention as it was at first", lambda rows: above_floor(rows, FROZEN), "<=", 0.01),
        ),
    ),
)  # fmt: skip


class MultiConcept(Study):
    """Words with signs, demonstrations of one concept, and an attention that finds those of the query's sign."""

    slug = "icl-multi-concept"
    paper = Paper(
        "Provably Transformers Harness Multi-Concept Word Semantics for Efficient In-Context Learning",
        "Bu, Huang, Han, Nitanda, Suzuki, Zhang, Wong", 2024, "2411.02199", "NeurIPS"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        concepts: Annotated[int, Field(ge=2)] = Field(default=2, description="K1")
        irrelevant: int = Field(default=6, ge=0, description="K2, features without meaning")
        d: Size = Field(default=20, description="size of words and labels, at least 2 K1 + K2")
        kappa: float = Field(default=0.6, gt=0, lt=1, description="norm of sign features; topics have norm 1")
        noise: float = Field(default=0.1, ge=0, description="standard deviation in each coordinate")
        demonstrations: Size = Field(default=16, description="L, in training")
        width: Annotated[int, Field(ge=2, multiple_of=2)] = Field(default=40, description="of the ReLU layer")
        batch: Size = Field(default=64, description="prompts in each step")
        steps: Size = Field(default=1000, description="of SGD")
        test: Size = Field(default=4000, description="fresh prompts for each error")
        lengths: list[Size] = Field(default=[6, 8], description="other L, for any-length-and-batch")
        batches: list[Size] = Field(default=[8, 16], description="other batches, for any-length-and-batch")

        @model_validator(mode="after")
        def orthogonal(self) -> MultiConcept.Config:
            least = 2 * self.concepts + self.irrelevant
            if self.d < least:
                raise ValueError(f"d is {self.d}; expected at least 2 concepts + irrelevant, {least}")
            return self

    scales = {
        "smoke": Config(steps=200, test=2000, lengths=[], batches=[]),
        "laptop": Config(),
        "paper": Config(concepts=16, irrelevant=64, d=256, width=400, steps=2000,
                        lengths=[4, 8, 32], batches=[1, 8]),
    }  # fmt: skip
    seconds = {"smoke": 12, "laptop": 90, "paper": 5000}

    def units(self, config: Config) -> Iterator[Unit]:
        own = {"num_concepts": config.concepts, "num_irrelevant": config.irrelevant, "d": config.d,
               "kappa": config.kappa, "noise": config.noise, "width": config.width, "steps": config.steps,
               "test": config.test}  # fmt: skip
        L, batch = config.demonstrations, config.batch
        yield from grid(training, variant=[TRAINED, FROZEN, SHUFFLED], demonstrations=L, batch=batch, **own)
        yield from grid(training, variant=[TRAINED, FROZEN], demonstrations=config.lengths, batch=batch, **own)
        yield from grid(training, variant=TRAINED, demonstrations=L, batch=config.batches, **own)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        return Resources(memory=PROCESS + 6 * 8 * given["test"] * max(40, given["demonstrations"]) * given["d"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        log, legend = {"type": "log"}, {"legend": True}
        course = pd.concat([of(rows, "course", variant) for variant in (TRAINED, FROZEN, SHUFFLED)])
        course = course.groupby(["variant", "step"], as_index=False)[["error"]].mean()
        ends = rows[(rows["at"] == "end") & (rows.variant == TRAINED)]
        ends = ends.assign(key=ends.demonstrations.astype(str) + " demonstrations, batch " + ends.batch.astype(str))
        ends = ends.groupby(["key", "floor"], as_index=False)[["error"]].mean()
        return [
            plot("Error in training", mark("line", course[course.error > 0], x="step", y="error", stroke="variant"),
                 x={"label": "step"}, y={**log, "label": "share of wrong signs"}, color=legend),
            plot("Error at the end beside 2^-L", mark("dot", ends, x="error", y="key", r=5),
                 mark("tickX", ends, x="floor", y="key"), x={"label": "share of wrong signs"}, y={"label": None}),
        ]  # fmt: skip
