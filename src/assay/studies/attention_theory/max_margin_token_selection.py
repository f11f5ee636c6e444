"""Max-margin token selection: where descent on a prompt goes, alone and together with a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._svm_prompt import joint, losses, path, random_tokens, scenes, speed

Size = Annotated[int, Field(ge=1)]
ForAll = partial(Check, every_seed=True)


def mistaken(rows: pd.DataFrame, *, swapped: bool = False) -> int:
    """Starts that select another token than in the authors' runs: the first one, but in the scene local the second one
    from -1 downwards (`swapped`: in the scene global)."""
    second = (rows.scene == ("global" if swapped else "local")) & (rows.start <= -1)
    return int((rows.selected != second.astype(int)).sum())


def margin(rows: pd.DataFrame, support: str, better: str, worse: str) -> float:
    own = rows[rows.support == support].iloc[0]
    return float(own[better] - own[worse])


def attended(rows: pd.DataFrame, steps: str, step: int) -> float:
    return float(rows[(rows.steps == steps) & (rows.step == step)].attention.iloc[0])


def largest(rows: pd.DataFrame, column: str) -> float:
    """At the largest number of inputs."""
    return float(rows[rows.n == rows.n.max()][column].iloc[0])


def fall(rows: pd.DataFrame, column: str) -> float:
    """From the fewest inputs to the most."""
    return float(rows[rows.n == rows.n.min()][column].iloc[0]) - largest(rows, column)


def slopes(rows: pd.DataFrame, loss: str, step: str = "10") -> pd.Series:
    """Of p, by C from 5 upwards."""
    return rows[(rows.loss == loss) & (rows.step == step) & (rows.C >= 5)].slope


def left(rows: pd.DataFrame, step: str) -> float:
    """The part of the largest |slope| at step 10, for C up to 10, that is left at another step."""
    largest = rows[rows.C <= 10].assign(slope=rows.slope.abs()).groupby("step").slope.max()
    return float(largest[step] / largest["10"])


CLAIMS = (
    Claim("scenes", "From each start descent selects the token that the authors found, and p turns to the max-margin "
          "direction of that token, be it the best one or only locally optimal.",
          source="theorems on global and local convergence; figure of scenes and the authors' code", experiment=scenes,
          checks=(ForAll("starts that select another token", mistaken, "<=", 0),
                  ForAll("correlation with the solution, smallest", lambda rows: rows.own.min(), ">=", 0.98)),
          controls=(ForAll("the same with the scenes swapped", partial(mistaken, swapped=True), "<=", 0),
                    ForAll("correlation with the solution for the other token", lambda rows: rows.wrong.max(), ">=",
                           0.98))),
    Claim("random-tokens", "On random inputs, too, p turns to the max-margin direction of the tokens that it selects, "
          "and these are locally optimal.", source="theorem on local convergence, from memory; the data are ours",
          experiment=random_tokens,
          checks=(Check("correlation with the solution, of saturated runs", lambda rows: rows.own.mean(), ">=", 0.98),
                  Check("saturated runs", lambda rows: rows.saturated.mean(), ">=", 0.9),
                  Check("of these, locally optimal", lambda rows: rows.local.mean(), ">=", 0.9)),
          controls=(Check("correlation for tokens at random", lambda rows: rows.wrong.mean(), ">=", 0.98),
                    Check("tokens at random that are locally optimal", lambda rows: rows.local_wrong.mean(), ">=",
                          0.9))),
    Claim("local-not-global", "The more inputs, the more rarely all of them attend to their best token; p follows the "
          "tokens selected, not the best ones.", source="bar chart of global and local convergence over n",
          experiment=random_tokens,
          checks=(Check("share of runs with all best tokens: fall from few to many inputs",
                        partial(fall, column="all_best"), ">=", 0.5),
                  Check("many inputs: correlation for selected less for best tokens",
                        lambda rows: largest(rows, "own") - largest(rows, "best"), ">=", 0.3)),
          controls=(Check("share of runs with locally optimal tokens: fall", partial(fall, column="local"), ">=", 0.5),
                    Check("few inputs: correlation for selected less for best tokens",
                          lambda rows: float((rows.own - rows.best)[rows.n == rows.n.min()].iloc[0]), ">=", 0.3))),
    Claim("joint", "Trained with a linear head v, p needs a margin only on inputs that support v: it solves the "
          "relaxed problem where one does not.", source="section on joint convergence; figure of the two scenes",
          experiment=joint,
          checks=(ForAll("all support v: correlation with the full problem",
                         lambda rows: rows[rows.support == "all"].full_trained.iloc[0], ">=", 0.99),
                  ForAll("the same less that with the relaxed one", partial(margin, support="all",
                         better="full_trained", worse="relaxed_trained"), ">=", 0.005),
                  ForAll("not the third: with the relaxed problem", lambda rows: rows[rows.support != "all"]
                         .relaxed_trained.iloc[0], ">=", 0.99),
                  ForAll("the same less that with the full one", partial(margin, support="not the third",
                         better="relaxed_trained", worse="full_trained"), ">=", 0.005),
                  ForAll("v: correlation with the max-margin classifier, smallest", lambda rows: rows.v.min(),
                         ">=", 0.99)),
          controls=(ForAll("all support v: relaxed less full", partial(margin, support="all",
                           better="relaxed_trained", worse="full_trained"), ">=", 0.005),
                    ForAll("not the third, v not trained: relaxed less full", partial(margin, support="not the third",
                           better="relaxed_fixed", worse="full_fixed"), ">=", 0.005))),
    Claim("normalised-is-faster", "Normalised steps saturate attention in tens of steps, steps of constant rate do not "
          "in hundreds.", source="figure of softmax probabilities, n = 3, T = 7", experiment=speed,
          checks=(Check("normalised, 60 steps: attention to the best token", lambda rows: attended(rows, "normalised",
                        60), ">=", 0.99),
                  Check("constant rate, 200 steps", lambda rows: attended(rows, "constant", 200), "<", 0.99)),
          controls=(Check("constant rate, 60 steps", lambda rows: attended(rows, "constant", 60), ">=", 0.99),
                    Check("normalised, 200 steps", lambda rows: attended(rows, "normalised", 200), "<", 0.99))),
    Claim("loss-is-a-transient", "A linear loss first turns p to the input of the large score, the logistic loss away "
          "from it; both then turn to the same max-margin direction.", source="figure of the effect of the loss",
          experiment=losses,
          checks=(ForAll("linear loss, step 10, C >= 5: smallest slope", lambda rows: slopes(rows, "linear").min(), ">",
                         0.1),
                  ForAll("logistic loss, step 10, C >= 5: largest slope", lambda rows: slopes(rows, "logistic").max(),
                         "<", -0.1),
                  ForAll("part of the largest |slope| left at the end, C <= 10", partial(left, step="last"), "<", 0.2)),
          controls=(ForAll("logistic loss: smallest slope", lambda rows: slopes(rows, "logistic").min(), ">", 0.1),
                    ForAll("linear loss: largest slope", lambda rows: slopes(rows, "linear").max(), "<", -0.1),
                    ForAll("part of the largest |slope| left at step 100", partial(left, step="100"), "<", 0.2))),
    Claim("regularisation-path", "At large norms the least loss is in the max-margin direction of the best tokens.",
          source="theorem on the regularisation path", experiment=path,
          checks=(Check("correlation at the largest norm", lambda rows: rows[rows.radius == rows.radius.max()].best
                        .iloc[0], ">=", 0.98),
                  Check("data sets in which no less loss is known", lambda rows: rows[rows.radius == rows.radius.max()]
                        .reached.iloc[0], ">=", 0.5)),
          controls=(Check("for the next tokens", lambda rows: rows.other.max(), ">=", 0.98),)),
)  # fmt: skip


class MaxMarginTokenSelection(Study):
    """Descent on the prompt of attention separates one token of each input from the others with a maximum margin."""

    slug = "max-margin-token-selection"
    paper = Paper(
        "Max-Margin Token Selection in Attention Mechanism", "Tarzanagh, Li, Zhang, Oymak", 2023, "2306.13596",
        "NeurIPS",
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        steps: Annotated[int, Field(ge=100)] = Field(default=3000, description="of descent on random tokens")
        scene_steps: Annotated[int, Field(ge=200)] = Field(default=1000, description="of descent in the scenes")
        inputs: list[Size] = Field(default=[1, 4, 8], description="n, of random tokens")
        length: Annotated[int, Field(ge=2)] = Field(default=6, description="T, random tokens of each input")
        d: Size = Field(default=20, description="width of random tokens")
        runs: Size = Field(default=20, description="random data sets side by side")
        sets: Size = Field(default=4, description="data sets of the regularisation path")
        path_steps: Size = Field(default=200, description="of descent at each radius of the path")
        starts: Size = Field(default=64, description="starts of each of them, of which the best counts")

    scales = {
        "smoke": Config(steps=600, scene_steps=300, inputs=[1, 8], length=4, d=20, runs=10, sets=1, starts=16,
                        path_steps=120),
        "laptop": Config(),
        "paper": Config(steps=10_000, scene_steps=10_000, inputs=[1, 2, 4, 8, 16], d=40, runs=200, sets=20, starts=256),
    }  # fmt: skip
    seconds = {"smoke": 20, "laptop": 60, "paper": 1500}

    def units(self, config: Config) -> Iterator[Unit]:
        for experiment in (scenes, joint, losses):
            yield from grid(experiment, steps=config.scene_steps)
        yield from grid(speed, steps=200)
        sizes = {"T": config.length, "d": config.d}
        yield from grid(random_tokens, n=config.inputs, **sizes, runs=config.runs, steps=config.steps)
        yield from grid(path, n=4, **sizes, sets=config.sets, starts=config.starts,
                        steps=config.path_steps)  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        of = unit.settings
        if unit.experiment not in (random_tokens, path):
            return Resources(memory=PROCESS)
        runs = of["sets"] * of["starts"] if unit.experiment is path else of["runs"]
        return Resources(memory=PROCESS + 8 * 16 * runs * (of["n"] * of["T"] * of["d"] + of["d"] ** 2))

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        first = rows.seed.min()
        ends = of["scenes"][of["scenes"].seed == first]
        ends = ends.assign(token=ends.selected.map("token {:.0f}".format))
        bars = of["random_tokens"].melt(["n"], ["all_best", "local"], "tokens", "share")
        bars["tokens"] = bars.tokens.map({"all_best": "all of highest score", "local": "locally optimal"})
        bars = bars.groupby(["tokens", "n"], as_index=False)[["share"]].mean()
        turned = of["losses"][(of["losses"].seed == first) & (of["losses"].C <= 10)]
        legend, C = {"legend": True}, {"label": "score C"}
        return [
            plot("Where p ends, by start", mark("dot", ends, x="x", y="y", stroke="token", fx="scene"), color=legend,
                 x={"label": "first coordinate"}, y={"label": "second coordinate"}),
            plot("Runs that select such tokens in all inputs",
                 mark("line", bars, x="n", y="share", stroke="tokens", marker=True), color=legend,
                 x={"label": "inputs n"}, y={"label": "share of runs", "domain": [0, 1]}),
            plot("The loss bends the path, not its end",
                 mark("line", turned, x="C", y="slope", stroke="step", fx="loss", marker=True),
                 color={**legend, "label": "step"}, x=C, y={"label": "slope of p"}),
        ]  # fmt: skip
