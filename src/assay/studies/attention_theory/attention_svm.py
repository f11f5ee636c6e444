"""Transformers as support vector machines: which tokens attention ends up selecting, and in which direction it goes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._svm_descent import descent, path, ranks, several_tokens

Size = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Variant = Literal["W", "KQ", "W, plain gradient", "KQ, no decay"]


def at(rows: pd.DataFrame, variant: str, column: str, part: float = 1.0) -> float:
    """`column` of a variant when this part of its steps is made."""
    found = rows[(rows.variant == variant) & (rows.part == part)]
    return float(found[column].iloc[0])


def last(rows: pd.DataFrame, model: str, column: str) -> float:
    """`column` of a model at the largest radius."""
    return float(rows[rows.model == model].sort_values("radius")[column].iloc[-1])


def follows(variant: str, own: str, other: str, words: str) -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """That descent goes where the norm `own` says; and what would follow as well if the criterion were too weak."""
    of = partial(partial, at, variant=variant)
    return (
        Check(f"correlation with the {words} solution", of(column=own), ">=", 0.98),
        Check("the same less that with the solution of the other norm",
              lambda rows: at(rows, variant, own) - at(rows, variant, other), ">=", 0.05),
        Check("runs in which each input attends to one token by 0.999", of(column="saturated"), ">=", 0.95),
        Check("correlation with the solution for the next tokens", of(column="shifted"), "<=", 0.3),
    ), (
        Check("correlation with the solution of the other norm", of(column=other), ">=", 0.98),
        Check("with that for the next tokens", of(column="shifted"), ">=", 0.98),
        Check("with that for the tokens of the highest scores, where others are selected", of(column="instead"), ">=",
              0.98),
    )  # fmt: skip


def shortfall(rows: pd.DataFrame, column: str) -> float:
    """How many times as far from 1 the correlation is without decay."""
    return (1 - at(rows, "KQ, no decay", column)) / (1 - at(rows, "KQ", column))


def lost(rows: pd.DataFrame, part: float) -> float:
    """What the plain gradient loses of the correlation."""
    return at(rows, "W", "fro", part) - at(rows, "W, plain gradient", "fro", part)


def rank_over_n(rows: pd.DataFrame, column: str) -> float:
    """Where there are at least as many dimensions as inputs."""
    return float((rows[column] / rows.n)[rows.d >= rows.n].mean())


def of_shortest(rows: pd.DataFrame, column: str) -> float:
    """`rank_over_n` at the shortest inputs."""
    return rank_over_n(rows[rows["T"] == rows["T"].min()], column)


W, KQ = follows("W", "fro", "nuc", "Frobenius"), follows("KQ", "nuc", "fro", "nuclear")
CLAIMS = (
    Claim("w-frobenius",
          "Descent on W goes in the direction of the matrix of least Frobenius norm that parts the tokens it selects.",
          source="theorem on local convergence; experiments, correlations for n = 6, T = 8, d = 10",
          experiment=descent, checks=W[0], controls=W[1]),
    Claim("kq-nuclear", "Descent on K and Q with W = K Q^T goes in the direction of the one of least nuclear norm.",
          source="abstract; experiments", experiment=descent, checks=KQ[0], controls=KQ[1]),
    Claim("locally-optimal", "The tokens that descent selects beat, by their scores, those that limit the margin.",
          source="theorem on local convergence", experiment=descent,
          checks=(Check("W: runs that select locally optimal tokens", partial(at, variant="W", column="local"), ">=",
                        0.95),),
          controls=(Check("the next tokens instead", partial(at, variant="W", column="local_shifted"), ">=", 0.95),)),
    Claim("decay-matters", "The authors' decay of 2.2e-16 is what makes descent on K and Q arrive.",
          source="the authors' code; how much it matters is not in the paper", experiment=descent,
          checks=(Check("1 - correlation, nuclear: without decay over with", partial(shortfall, column="nuc"), ">=",
                        2),),
          controls=(Check("the same, Frobenius, where it does not go", partial(shortfall, column="fro"), ">=", 2),)),
    Claim("plain-gradient-is-noise", "Once attention is saturated, the textbook form of the softmax's gradient leads "
          "away from the solution; the centred form does not.", source="none: arithmetic of float64, not in the paper",
          experiment=descent, checks=(Check("correlation lost at the end", partial(lost, part=1.0), ">=", 0.05),),
          controls=(Check("lost after a tenth of the steps", partial(lost, part=0.1), ">=", 0.05),)),
    Claim("regularisation-path", "At large norms the least loss is in the direction of the solution for the tokens of "
          "the highest scores: Frobenius for W, nuclear for K and Q.",
          source="theorem on the regularisation path", experiment=path,
          checks=(Check("W: correlation with Frobenius solution", partial(last, model="W", column="fro"), ">=", 0.98),
                  Check("K, Q: with the nuclear one", partial(last, model="KQ", column="nuc"), ">=", 0.98)),
          controls=(Check("W: with the nuclear one", partial(last, model="W", column="nuc"), ">=", 0.98),
                    Check("K, Q: with the Frobenius one", partial(last, model="KQ", column="fro"), ">=", 0.98))),
    Claim("separable", "Generic tokens can be parted, whichever are selected, where d >= max(T - 1, n).",
          source="theorem on separability, quoted from memory and derived again", experiment=ranks,
          checks=(Check("the smallest share of problems with a solution", lambda rows: rows[rows.enough].solved.min(),
                        ">=", 1, every_seed=True),),
          controls=(Check("the same where d is the smallest", lambda rows: rows[rows.d == rows.d.min()].solved.min(),
                          ">=", 1, every_seed=True),)),
    Claim("ranks", "Both solutions have ranks of at most min(n, d); the Frobenius one reaches it, the nuclear one has "
          "less.", source="figure of ranks over n and d", experiment=ranks,
          checks=(Check("largest rank over min(n, d)", lambda rows: (rows[["fro", "nuc"]].max(axis=1) / rows[["n", "d"]]
                        .min(axis=1)).max(), "<=", 1, every_seed=True),
                  Check("Frobenius, d >= n: mean rank over n", partial(rank_over_n, column="fro"), ">=", 0.99),
                  Check("nuclear rank less Frobenius rank", lambda rows: (rows.nuc - rows.fro).mean(), "<=", -0.5)),
          controls=(Check("another W that selects the tokens: largest rank over min(n, d)",
                          lambda rows: (rows.other / rows[["n", "d"]].min(axis=1)).max(), "<=", 1, every_seed=True),
                    Check("nuclear, d >= n: mean rank over n", partial(rank_over_n, column="nuc"), ">=", 0.99))),
    Claim("nuclear-rank-is-close", "The rank of the nuclear solution is nearly min(n, d) as well.",
          source="figure of ranks, T = 5: 9.1 at n = d = 10, read off the plot", experiment=ranks,
          checks=(Check("rank over n where d >= n", partial(of_shortest, column="nuc"), ">=", 0.85),),
          controls=(Check("the same for as few singular directions of the Frobenius solution as select the tokens",
                          partial(of_shortest, column="needed"), ">=", 0.85),)),
    Claim("several-tokens", "Under a nonlinear head attention may keep several tokens: then W is a finite part, which "
          "sets their ratios, and a direction, which parts them from the rest.",
          source="section on nonlinear heads and its figure, d = 4 to 10", experiment=several_tokens,
          checks=(Check("1 - correlation with both parts", lambda rows: rows.together.mean(), "<=", 0.05),
                  Check("the same less that with the direction alone",
                        lambda rows: (rows.together - rows.direction).mean(), "<", 0),
                  Check("the problem of one token less both parts", lambda rows: (rows.single - rows.together).mean(),
                        ">=", 0.05)),
          controls=(Check("1 - correlation with the problem of one token", lambda rows: rows.single.mean(), "<=",
                          0.05),)),
)  # fmt: skip


class AttentionSVMStudy(Study):
    """Gradient descent on one attention layer selects tokens with a maximum margin."""

    slug = "attention-svm"
    paper = Paper("Transformers as Support Vector Machines", "Tarzanagh, Li, Thrampoulidis, Oymak", 2023, "2308.16898")
    claims = CLAIMS

    class Config(StudyConfig):
        variants: list[Variant] = Field(default=[*get_args(Variant)], description="what is trained, and how")
        n: Several = Field(default=6, description="inputs")
        length: Several = Field(default=8, description="T, tokens of each input")
        d: Several = Field(default=10, description="width of tokens and queries")
        runs: Size = Field(default=20, description="data sets side by side")
        steps: Annotated[int, Field(ge=10, multiple_of=10)] = Field(default=3000, description="of descent")
        path_sizes: tuple[Several, Several, Several] = Field(default=(4, 6, 8), description="n, T, d of the path")
        sets: Size = Field(default=4, description="data sets of the regularisation path")
        path_steps: Size = Field(default=200, description="of descent at each radius of the path")
        starts: Size = Field(default=32, description="starts of each of them, of which the best counts")
        rank_inputs: list[Size] = Field(default=[5, 10, 15], description="n for the ranks")
        rank_lengths: tuple[Several, ...] = Field(default=(5, 10), description="T for the ranks")
        rank_widths: tuple[Size, ...] = Field(default=(2, 5, 10, 15, 20), description="d for the ranks")
        trials: Size = Field(default=2, description="problems of each size, for the ranks")
        several_widths: list[Several] = Field(default=[4, 6, 8, 10], description="d for several tokens")
        several_runs: Size = Field(default=500, description="runs of each d; 22 % (d = 4) to 1.5 % (d = 10) count")

    scales = {
        "smoke": Config(variants=["W", "KQ"], n=3, length=4, d=6, runs=4, steps=600, path_sizes=(3, 4, 6), sets=2,
                        path_steps=120, starts=8, rank_inputs=[5], rank_lengths=(5,), rank_widths=(2, 5, 10),
                        several_widths=[]),
        "laptop": Config(),
        "paper": Config(seeds=100, runs=20, sets=20, starts=64, rank_lengths=(5, 10, 15), several_runs=4000, trials=1,
                        rank_widths=(1, 2, 3, 4, 5, 10, 15, 20)),
    }  # fmt: skip
    seconds = {"smoke": 20, "laptop": 140, "paper": 6000}

    def units(self, config: Config) -> Iterator[Unit]:
        sizes = {"n": config.n, "T": config.length, "d": config.d}
        yield from grid(descent, variant=config.variants, **sizes, runs=config.runs, steps=config.steps)
        n, T, d = config.path_sizes
        yield from grid(path, factored=[False, True], n=n, T=T, d=d, sets=config.sets, starts=config.starts,
                        steps=config.path_steps)  # fmt: skip
        yield from grid(
            ranks, n=config.rank_inputs, lengths=config.rank_lengths, widths=config.rank_widths, trials=config.trials
        )
        yield from grid(several_tokens, n=3, T=4, d=config.several_widths, runs=config.several_runs, steps=2000)

    def resources(self, unit: Unit) -> Resources:
        of = unit.settings
        if unit.experiment is ranks:
            return Resources(memory=PROCESS + 8 * 8 * (of["n"] * max(of["lengths"])) ** 2)
        runs = of["sets"] * of["starts"] if unit.experiment is path else of["runs"]
        return Resources(memory=PROCESS + 8 * 16 * runs * (of["n"] * of["T"] * of["d"] + 4 * of["d"] ** 2))

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        legend = {"legend": True}
        of = {str(name): own.dropna(axis=1, how="all") for name, own in rows.groupby("experiment")}
        names = {"fro": "Frobenius", "nuc": "nuclear"}
        runs = of["descent"].rename(columns=names).melt(["variant", "step"], [*names.values()], "with", "correlation")
        runs = runs.groupby(["variant", "with", "step"], as_index=False)[["correlation"]].mean()
        solved = of["ranks"].rename(columns=names).melt(["n", "T", "d"], [*names.values()], "solution", "rank").dropna()
        solved = solved[solved.n == solved.n.max()].groupby(["solution", "d"], as_index=False)[["rank"]].mean()
        return [
            plot("Where descent goes", mark("line", runs, x="step", y="correlation", stroke="with", fx="variant"),
                 x={"label": "steps", "ticks": [runs.step.max() / 3, runs.step.max()]},
                 y={"label": "correlation with the solution"}, color=legend),
            plot(f"Rank of the solutions for {int(of['ranks'].n.max())} inputs",
                 mark("line", solved, x="d", y="rank", stroke="solution", marker=True),
                 x={"label": "width d"}, y={"label": "rank"}, color=legend),
        ]  # fmt: skip
