"""Zoology: what efficient language models lack is recall, and how wide a convolution must be to have it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay._errors import InputError
from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot, smallest_step
from assay.lab.resources import training_resources
from assay.studies.memory._zoology_experiments import recall, slicing

Size = Annotated[int, Field(ge=1)]
SOLVED = 0.9
AT_ONCE = -1e6  # power_a: every query comes right behind the context
BUDGET = 0.1  # of the positions may be selected; 1 marks what belongs to the sweep of widths


def on(rows: pd.DataFrame, tokens: str) -> pd.Series:
    return rows[rows.tokens == tokens].iloc[0]


def swept(rows: pd.DataFrame, mixer: str, *, easy: bool = False) -> pd.DataFrame:
    """Accuracy by length and width; `easy`: the one with one pair that is asked for at once."""
    return rows[(rows.mixer == mixer) & (rows.budget == 1) & ((rows.power_a == AT_ONCE) == easy)]


def smallest_width(rows: pd.DataFrame) -> pd.Series:
    """By length, the smallest width from which on all solve the task; twice the largest where that does not."""
    limit = rows.width.max()

    def first(own: pd.DataFrame) -> float:
        failed = own[own.accuracy <= SOLVED].width
        return float(own.width.min() if failed.empty else own[own.width > failed.max()].width.min())

    return pd.Series({n: first(own) for n, own in rows.groupby("length")}).fillna(2 * limit).sort_index()


def widening(rows: pd.DataFrame) -> float:
    widths = smallest_width(rows)
    return float(widths.iloc[-1] / widths.iloc[0])


def worst(rows: pd.DataFrame, width: float) -> float:
    return float(rows[rows.width == width].accuracy.min())


def closed(rows: pd.DataFrame, selected: str) -> float:
    """The part of the gap between convolution and attention that selective attention closes."""
    of = rows[rows.budget == BUDGET].set_index(["mixer", "selected"]).accuracy
    low, high = of["convolution", "learned"], of["attention", "learned"]
    return float((of["selective attention", selected] - low) / (high - low))


CLAIMS = (
    Claim(
        "recall-explains-the-gap",
        "Most of what memory gains on text, it gains on few tokens: those whose bigram came before in the context.",
        source="slices of perplexity: 82 % of the gap on 6.4 % of the tokens",
        experiment=slicing,
        checks=(
            Check("share of the gap that is on recall hits", lambda rows: on(rows, "text").share, ">=", 0.6),
            Check("hits, as a share of the tokens", lambda rows: on(rows, "text").hits, "<=", 0.15),
        ),
        controls=(
            Check("share of the gap on as many tokens at random", lambda rows: on(rows, "text").share_at_random,
                  ">=", 0.6),
            Check("gap on the hits of shuffled text, as a share of the gap on text",
                  lambda rows: on(rows, "shuffled").gap_on_hits / on(rows, "text").gap, ">=", 0.6),
        ),
    ),
    Claim(
        "attention-needs-no-width",
        "Attention solves MQAR of every length at one small width.",
        source="MQAR by width and length",
        experiment=recall,
        checks=(Check("lowest accuracy of attention over lengths, at the smallest width",
                      lambda rows: worst(swept(rows, "attention"), rows.width.min()), ">=", SOLVED),),
        controls=(Check("the same of the gated convolution",
                        lambda rows: worst(swept(rows, "convolution"), rows.width.min()), ">=", SOLVED),),
    ),
    Claim(
        "convolution-needs-width",
        "The width at which a gated convolution solves MQAR grows with the length.",
        source="MQAR by width and length: solved only where the width is at least about the length",
        experiment=recall,
        checks=(
            Check("smallest width at the longest over that at the shortest sequence",
                  lambda rows: widening(swept(rows, "convolution")), ">=", 2),
            Check("smallest step of it from length to length",
                  lambda rows: smallest_step(smallest_width(swept(rows, "convolution"))), ">=", 0),
        ),
        controls=(
            Check("the ratio with one pair, asked for at once",
                  lambda rows: widening(swept(rows, "convolution", easy=True)), ">=", 2),
            Check("the ratio of attention", lambda rows: widening(swept(rows, "attention")), ">=", 2),
        ),
    ),
    Claim(
        "filters-of-the-input",
        "A convolution whose filter depends on the input solves MQAR of every length at one small width.",
        source="experiment on input-dependent filters",
        experiment=recall,
        checks=(Check("lowest accuracy over lengths, at the smallest width",
                      lambda rows: worst(swept(rows, "input-dependent convolution"), rows.width.min()), ">=", SOLVED),),
        controls=(Check("the same of the filter that does not depend on it",
                        lambda rows: worst(swept(rows, "convolution"), rows.width.min()), ">=", SOLVED),),
    ),
    Claim(
        "few-positions-suffice",
        "Attention at less than a tenth of the positions closes most of the gap between convolution and attention.",
        source="input-dependent selection: above 80 % of the gap on MQAR, 97.4 % of that on text",
        experiment=recall,
        checks=(
            Check("part of the gap that is closed", lambda rows: closed(rows, "learned"), ">=", 0.8),
            Check("share of the positions that is selected",
                  lambda rows: rows[(rows.mixer == "selective attention") & (rows.selected == "learned")].share.max(),
                  "<=", BUDGET),
        ),
        controls=(Check("part that is closed by as many positions at random", lambda rows: closed(rows, "at random"),
                        ">=", 0.8),),
    ),
)  # fmt: skip


class ZoologyMQAR(Study):
    """Recall explains the gap between attention and efficient models; a fixed filter needs width for it."""

    slug = "zoology-mqar"
    paper = Paper(
        "Zoology: Measuring and Improving Recall in Efficient Language Models",
        "Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré", 2023, "2312.04927", "ICLR 2024"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        rare: Size = Field(default=5, description="a bigram seen more often in training is no hit")
        window: Annotated[int, Field(ge=16)] = Field(default=1024, description="of text, in words")
        lengths: list[Size] = Field(default=[8, 16, 32, 64], description="of the sequences of MQAR")
        pairs: list[Size] = Field(default=[1, 2, 4, 8], description="of key and value, for each of the lengths")
        widths: list[Size] = Field(default=[16, 32, 64], description="of the models")
        vocabulary: Annotated[int, Field(ge=64)] = Field(default=64, description="of MQAR")
        steps: Size = Field(default=1200, description="of training, at most")
        batch: Size = Field(default=64, description="sequences a step")
        lr: Annotated[float, Field(gt=0)] = Field(default=0.02, description="of all models")

    scales = {
        "smoke": Config(lengths=[], pairs=[]),
        "laptop": Config(),
        "paper": Config(lengths=[64, 128, 256, 512], pairs=[4, 8, 16, 64], widths=[64, 128, 256, 512],
                        vocabulary=8192, steps=12_500, batch=512, lr=1e-3),
    }  # fmt: skip
    seconds = {"smoke": 15, "laptop": 530, "paper": 200_000}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(slicing, rare=config.rare, window=config.window, shortest=200)
        if len(config.lengths) != len(config.pairs):
            raise InputError(f"pairs has {len(config.pairs)} numbers; expected {len(config.lengths)}, as lengths has")
        trained = {"vocabulary": config.vocabulary, "steps": config.steps, "batch": config.batch, "lr": config.lr}
        mixers = ["attention", "convolution", "input-dependent convolution"]
        for length, pairs in zip(config.lengths, config.pairs, strict=True):
            sweep = partial(grid, recall, length=length, width=config.widths, budget=1.0, **trained)
            yield from sweep(mixer=mixers, pairs=pairs, power_a=0.01)
            yield from sweep(mixer="convolution", pairs=1, power_a=AT_ONCE)
        if config.lengths:
            mixers = ["attention", "convolution", "selective attention"]
            yield from grid(recall, mixer=mixers, length=96, pairs=4, width=32, power_a=0.01, budget=BUDGET, **trained)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not recall:
            return Resources()
        tokens = given["batch"] * given["length"]
        return training_resources(tokens=tokens, width=given["width"], layers=2, vocab_size=given["vocabulary"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        text = rows[rows.experiment == "slicing"]
        bars = [
            {"tokens": kind, "part": part, "gap": text[text.tokens == kind][column].mean()}
            for kind in ("text", "shuffled")
            for part, column in (("all tokens", "gap"), ("recall hits", "gap_on_hits"))
        ]
        figures = [
            plot("What a memory of the context gains", mark("barX", pd.DataFrame(bars), x="gap", y="part", fy="tokens",
                 fill="part"), x={"label": "nats per token of the text"}, y={"label": None}, fy={"label": None},
                 marginRight=80),
        ]  # fmt: skip
        trained = rows[rows.experiment == "recall"]
        if len(trained):
            curve = trained[(trained.power_a == 0.01) & (trained.budget == 1)]
            mean = curve.groupby(["mixer", "length", "width"], as_index=False)[["accuracy"]].mean()
            figures.append(
                plot("MQAR by width", mark("line", mean, x="width", y="accuracy", stroke="mixer", fx="length",
                     marker=True), mark("ruleY", [SOLVED]), x={"label": "width", "type": "log"},
                     y={"label": "accuracy"}, color={"legend": True}, fx={"label": "length"})
            )  # fmt: skip
        return figures
