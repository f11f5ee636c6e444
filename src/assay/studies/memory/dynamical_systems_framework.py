"""The dynamical-systems framework: attention, state-space models and gated RNNs as one linear recurrence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.memory._dsf_experiments import forms, ladder, recall

Size = Annotated[int, Field(ge=1)]
NORMALISERS = ["exp", "softplus", "sigmoid"]
ONE_PAIR, MAIN, TOO_MANY = range(3)  # tasks by their number of pairs; the last with half of the state


def worst_ratio(rows: pd.DataFrame, std: float) -> float:
    """The largest error at a degree over that at the degree before: below 1 where the error always falls."""
    error = rows[rows["std"] == std].sort_values("degree").error
    return float((error / error.shift()).max())


def accuracy(rows: pd.DataFrame, mixer: str, *, task: int = MAIN, state: int | None = None) -> float:
    """On one of the three tasks; with the state that normalised attention has there, or with `state`."""

    def on(name: str) -> pd.DataFrame:
        own = rows[rows.mixer == name]
        return own[own.pairs == sorted(own.pairs.unique())[task]]

    own = on(mixer)
    return float(own[own.key_size == (on("exp").key_size.iloc[0] if state is None else state)].accuracy.iloc[0])


def advantage(rows: pd.DataFrame, mixer: str, *others: str, task: int = MAIN) -> float:
    return accuracy(rows, mixer, task=task) - max(accuracy(rows, other, task=task) for other in others)


def gain(rows: pd.DataFrame, task: int = MAIN) -> float:
    """Accuracy of linear attention with the largest state less that with the smallest."""
    states = rows[rows.mixer == "sum"].key_size
    low, high = (accuracy(rows, "sum", task=task, state=state) for state in (states.min(), states.max()))
    return high - low


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "one-system",
        "Attention, state-space models and gated RNNs are one linear recurrence with different A, B and C.",
        source="lemmas on attention, S6 and RNNs",
        experiment=forms,
        checks=(ForAll("largest difference of recurrence and definition, over six mixers",
                       lambda rows: rows.error.max(), "<=", 1e-10),),
        controls=(ForAll("smallest difference, over mixers, if A = 1",
                         lambda rows: rows.error_without_A.min(), "<=", 1e-2),),
    ),
    Claim(
        "softmax-is-infinite",
        "Softmax attention is the limit of separable attention with ever more state, and has no finite one.",
        source="lemma on softmax attention",
        experiment=ladder,
        checks=(
            ForAll("largest ratio of the error to that of the degree before", lambda rows: worst_ratio(rows, 0.5),
                   "<", 1),
            ForAll("largest |rank - state, or half of the length where that is less|",
                   lambda rows: (rows["rank"] - rows.possible)[rows["std"] == 0.5].abs().max(), "<=", 0),
            ForAll("rank of softmax attention over the largest that the length allows",
                   lambda rows: rows.softmax_rank.min(), ">=", 1),
        ),
        controls=(ForAll("the ratio with queries and keys four times as large", lambda rows: worst_ratio(rows, 2.0),
                         "<", 1),),
    ),
    Claim(
        "state-closes-the-gap",
        "The more state linear attention has, the better it recalls, up to softmax attention.",
        source="MQAR over state expansion",
        experiment=recall,
        checks=(
            Check("accuracy with the largest state less that with the smallest", gain, ">=", 0.1),
            Check("accuracy of softmax attention less that of linear attention with the largest state",
                  lambda rows: accuracy(rows, "softmax") - accuracy(rows, "sum", state=rows.key_size.max()),
                  "<=", 0.05),
        ),
        controls=(Check("the first with one pair, for which any state is enough",
                        lambda rows: gain(rows, task=ONE_PAIR), ">=", 0.1),),
    ),
    Claim(
        "normalised-recalls-more",
        "With the same state, normalised attention recalls more than linear attention.",
        source="normalised attention on MQAR at n = 128",
        experiment=recall,
        checks=(Check("accuracy with exp as normaliser less that of linear attention",
                      lambda rows: advantage(rows, "exp", "sum"), ">=", 0.05),),
        controls=(
            Check("the same with twice the pairs and half the state, too few for both",
                  lambda rows: advantage(rows, "exp", "sum", task=TOO_MANY),
                  ">=", 0.05),
            Check("the same with one pair", lambda rows: advantage(rows, "exp", "sum", task=ONE_PAIR), ">=", 0.05),
        ),
    ),
    Claim(
        "normalised-nears-ssd",
        "With the same state, normalised attention comes close to SSD, the mixer of Mamba-2.",
        source="normalised attention on MQAR at n = 128",
        experiment=recall,
        checks=(Check("accuracy of SSD less that with exp as normaliser", lambda rows: advantage(rows, "ssd", "exp"),
                      "<=", 0.05),),
        controls=(Check("accuracy of SSD less that of linear attention", lambda rows: advantage(rows, "ssd", "sum"),
                        "<=", 0.05),),
    ),
    Claim(
        "exp-is-best",
        "Of the normalisers exp, softplus and sigmoid, exp recalls most.",
        source="normalised attention, appendix",
        experiment=recall,
        checks=(Check("accuracy with exp less the best of the others",
                      lambda rows: advantage(rows, "exp", "softplus", "sigmoid"), ">=", 0.01),),
        controls=(Check("the same with one pair", lambda rows: advantage(rows, *NORMALISERS, task=ONE_PAIR),
                        ">=", 0.01),),
    ),
    Claim(
        "reversed-gate",
        "The reversed sigmoid of S6 as its forget gate makes qLSTM recall more.",
        source="qLSTM on MQAR",
        experiment=recall,
        checks=(Check("accuracy with the reversed gate less that without",
                      lambda rows: advantage(rows, "qlstm-reversed", "qlstm"), ">=", 0.02),),
        controls=(Check("the same with one pair",
                        lambda rows: advantage(rows, "qlstm-reversed", "qlstm", task=ONE_PAIR), ">=", 0.02),),
    ),
)  # fmt: skip


class DynamicalSystemsFramework(Study):
    """One recurrence for all mixers, and what the comparison teaches: more state, and a normaliser of one's own."""

    slug = "dynamical-systems-framework"
    paper = Paper(
        "Understanding the differences in Foundation Models: Attention, State Space Models, and Recurrent Neural "
        "Networks",
        "Sieber, Amo Alonso, Didier, Zeilinger, Orvieto", 2024, "2405.15731", "NeurIPS 2024"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        mixers: list[Literal["attention", "qlstm"]] = Field(
            default=["attention", "qlstm"], description="which are trained"
        )
        states: list[Size] = Field(default=[2, 32], description="of linear attention, for each value channel")
        state: Annotated[int, Field(ge=2)] = Field(default=8, description="where normalisers are compared")
        length: Size = Field(default=32, description="of the sequences of MQAR; for qLSTM half of that")
        pairs: Annotated[int, Field(ge=8)] = Field(default=8, description="of key and value; for qLSTM a quarter")
        vocabulary: Annotated[int, Field(ge=64)] = Field(default=64, description="of MQAR")
        width: Annotated[int, Field(multiple_of=2)] = Field(default=32, description="of the models")
        steps: Size = Field(default=800, description="of training")
        steps_qlstm: Size = Field(default=2000, description="the same for qLSTM")
        batch: Size = Field(default=64, description="sequences a step")
        lr: Annotated[float, Field(gt=0)] = Field(default=0.01, description="of all models")

    scales = {
        "smoke": Config(mixers=[]),
        "laptop": Config(),
        "paper": Config(states=[32, 64, 128, 256], state=128, length=512, pairs=64, vocabulary=8192,
                        width=512, steps=50_000, steps_qlstm=50_000, batch=128, lr=1e-3),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 470, "paper": 400_000}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(forms, length=40, width=5, state=6)
        yield from grid(ladder, degrees=(1, 2, 3, 4, 6), width=3, length=48, stds=(0.5, 2.0))
        trained = partial(grid, recall, vocabulary=config.vocabulary, width=config.width, batch=config.batch,
                          lr=config.lr)  # fmt: skip
        if "attention" in config.mixers:
            attention = partial(trained, steps=config.steps)
            for pairs in (1, config.pairs):
                task = partial(attention, pairs=pairs, length=config.length)
                yield from task(mixer="sum", key_size=sorted({*config.states, config.state}))
                yield from task(mixer=["softmax", "ssd", *NORMALISERS], key_size=config.state)
            task = partial(attention, pairs=2 * config.pairs, length=2 * config.length)
            yield from task(mixer=["sum", "exp"], key_size=config.state // 2)
        if "qlstm" in config.mixers:
            gates = partial(trained, mixer=["qlstm", "qlstm-reversed"], key_size=config.state)
            for pairs in (1, config.pairs // 4):
                yield from gates(pairs=pairs, length=config.length // 2, steps=config.steps_qlstm)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not recall:
            return Resources()
        tokens = given["batch"] * given["length"]
        return training_resources(tokens=tokens, width=given["width"], layers=2, vocab_size=given["vocabulary"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        steps = rows[rows.experiment == "ladder"].astype({"std": str})
        mean = steps.groupby(["std", "state"], as_index=False)[["error"]].mean()
        figures = [
            plot("Softmax attention with a finite state", mark("line", mean, x="state", y="error", stroke="std",
                 marker=True), x={"label": "state of each value channel", "type": "log"},
                 y={"label": "largest error of an entry", "type": "log"},
                 color={"legend": True, "label": "std of queries and keys"}),
        ]  # fmt: skip
        trained = rows[rows.experiment == "recall"]
        if trained.empty:
            return figures
        trained = trained.assign(run=trained.mixer + ", n = " + trained.key_size.astype(int).astype(str))
        for pairs, own in trained.groupby("pairs"):
            mean = own.groupby("run", as_index=False)[["accuracy"]].mean()
            figures.append(
                plot(f"Recall, pairs: {pairs:.0f}", mark("dot", own, x="accuracy", y="run"),
                     mark("tickX", mean, x="accuracy", y="run"),
                     x={"label": "accuracy of each seed, and the mean", "domain": [0, 1]}, y={"label": None})
            )  # fmt: skip
        return figures
