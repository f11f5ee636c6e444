"""Functions of one direction, learned in context: the prompt has to tell only what training has not told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, model_validator

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._index_stages import two_stages

Size = Annotated[int, Field(ge=1)]
SPAN, ROWS, RANDOM, KERNEL = "in the span", "rows of the step", "random", "kernel ridge"


def step(rows: pd.DataFrame, tasks: str, column: str) -> float:
    """What the first stage found, in the smallest dimension of the inputs."""
    own = rows[(rows.part == "step") & (rows.tasks == tasks)].sort_values("d")
    return float(own[column].iloc[0])


def error(rows: pd.DataFrame, learner: str) -> float:
    """Of a learner on the shortest prompts, in the smallest dimension."""
    own = rows[(rows.part == "error") & (rows.learner == learner)].sort_values(["d", "length"])
    return float(own.error.iloc[0])


def rise(rows: pd.DataFrame, learner: str) -> float:
    """Error on the longest prompts in the largest dimension, less that in the smallest."""
    own = rows[(rows.part == "error") & (rows.learner == learner)]
    own = own[own.length == own.length.max()].sort_values("d")
    if len(own) < 2:
        raise ValueError("it takes two dimensions")
    return float(own.error.iloc[-1] - own.error.iloc[0])


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "step-finds-subspace",
        "One gradient step on the network, over many prompts, finds the subspace in which their tasks differ.",
        source="first stage of the algorithm, and its lemma on alignment",
        experiment=two_stages,
        checks=(
            ForAll("overlap of the leading right singular vectors of the step with the subspace",
                   lambda rows: step(rows, "subspace", "overlap"), ">=", 0.75),
        ),
        controls=(
            ForAll("tasks in all directions: the same", lambda rows: step(rows, "isotropic", "overlap"), ">=", 0.35),
        ),
    ),
    Claim(
        "beats-the-prompt-alone",
        "With neurons in the span of the step, attention learns from a prompt that is too short for kernel ridge "
        "regression.",
        source="theorem and experiments; neurons drawn in the span are an addition",
        experiment=two_stages,
        checks=(
            ForAll("error", lambda rows: error(rows, SPAN), "<=", 0.5),
            ForAll("error over that of kernel ridge regression", lambda rows: error(rows, SPAN) / error(rows, KERNEL),
                   "<=", 0.6),
        ),
        controls=(
            ForAll("random neurons: error", lambda rows: error(rows, RANDOM), "<=", 0.9),
            ForAll("random neurons: error over that of kernel ridge regression",
                   lambda rows: error(rows, RANDOM) / error(rows, KERNEL), "<=", 0.9),
        ),
    ),
    Claim(
        "rows-beat-the-prompt-alone",
        "The same with the rows of the step themselves, as in the paper.",
        source="theorem and experiments",
        experiment=two_stages,
        checks=(
            ForAll("error over that of kernel ridge regression", lambda rows: error(rows, ROWS) / error(rows, KERNEL),
                   "<=", 0.9),
        ),
        controls=(
            ForAll("random neurons: the same", lambda rows: error(rows, RANDOM) / error(rows, KERNEL), "<=", 0.9),
        ),
    ),
    Claim(
        "prompt-length-without-d",
        "How long a prompt must be does not depend on the dimension of the inputs.",
        source="abstract: the length depends on the dimension of the subspace only",
        experiment=two_stages,
        checks=(
            Check("rise of the error from the smallest dimension to the largest", lambda rows: rise(rows, SPAN), "<=",
                  0.2),
        ),
        controls=(
            Check("kernel ridge regression: the same", lambda rows: rise(rows, KERNEL), "<=", 0.2),
        ),
    ),
)  # fmt: skip


class SingleIndex(Study):
    """One step on a network finds the subspace, ridge regression fits the attention, and prompts can be short."""

    slug = "icl-single-index"
    paper = Paper("Pretrained transformer efficiently learns low-dimensional target functions in-context",
                  "Oko, Song, Suzuki, Wu", 2024, "2411.02544", "NeurIPS")  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        dims: list[Size] = Field(default=[16, 32], description="d, of the inputs")
        r: Size = Field(default=2, description="dimension of the subspace of the tasks")
        coefficients: tuple[float, ...] = Field(default=(0.0, 0.0, 1.0),
                                                description="of the link, on He_i / sqrt(i!); 0 for i = 1")  # fmt: skip
        noise: float = Field(default=0.1, ge=0, description="standard deviation, where values have 1")
        tasks_per_d: Size = Field(default=1250, description="prompts of the first stage, over d")
        examples: Size = Field(default=64, description="in a prompt of the first stage")
        neurons: Size = Field(default=64, description="of the first stage")
        fitted_tasks: Size = Field(default=6000, description="prompts of the second stage")
        fitted_examples: Size = Field(default=64, description="in a prompt of the second stage")
        fitted_neurons: Size = Field(default=48, description="of the second stage, at most those of the first")
        lengths: tuple[Size, ...] = Field(default=(32, 64, 128), description="examples in a test prompt")
        test: Size = Field(default=400, description="test prompts")

        @model_validator(mode="after")
        def runs(self) -> SingleIndex.Config:
            if self.fitted_neurons > self.neurons:
                raise ValueError(f"fitted_neurons is {self.fitted_neurons}; expected at most neurons, {self.neurons}")
            _, line, *rest = *self.coefficients, 0.0, 0.0
            if line or not any(rest):  # with exponent 1 one step of regression finds the direction
                raise ValueError(f"coefficients are {self.coefficients}; expected 0 at degree 1, and not 0 at one "
                                 "above: information exponent 2 or more")  # fmt: skip
            return self

    scales = {
        "smoke": Config(dims=[16], tasks_per_d=300, fitted_tasks=3000, fitted_neurons=24, lengths=(32,),
                        test=300),
        "laptop": Config(),
        "paper": Config(dims=[16, 32], r=8, tasks_per_d=65_536, examples=512, neurons=1024, fitted_tasks=20_000,
                        fitted_examples=128, fitted_neurons=64, lengths=(32, 128, 512), test=1000),
    }  # fmt: skip
    seconds = {"smoke": 12, "laptop": 280, "paper": 100_000}

    def units(self, config: Config) -> Iterator[Unit]:
        same = config.model_dump(exclude={"dims", "tasks_per_d", "seeds"})
        for d in config.dims:
            yield from grid(two_stages, d=d, tasks=config.tasks_per_d * d, **same)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        fit = given["fitted_tasks"] * (given["fitted_examples"] * (given["d"] + 3 * given["fitted_neurons"])
                                       + 3 * given["fitted_neurons"] ** 2)  # fmt: skip
        return Resources(memory=PROCESS + 8 * max(fit, 4 * 100 * given["examples"] * given["neurons"]))

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        legend = {"legend": True}
        errors = rows[rows.part == "error"].groupby(["learner", "d", "length"], as_index=False)[["error"]].mean()
        errors["dimension"] = "d = " + errors.d.astype(int).astype(str)
        found = rows[rows.part == "step"].assign(dimension=lambda own: "d = " + own.d.astype(int).astype(str))
        return [
            plot("Error by length of the prompt", mark("line", errors, x="length", y="error", stroke="learner",
                 fx="dimension", marker=True), x={"type": "log", "label": "examples in the prompt"},
                 y={"label": "squared error over variance", "zero": True}, fx={"label": None}, color=legend),
            plot("What one step finds", mark("dot", found, x="overlap", y="tasks", fy="dimension", r=5),
                 x={"label": "overlap with the subspace", "domain": [0, 1]}, y={"label": "tasks in"},
                 fy={"label": None}),
        ]  # fmt: skip
