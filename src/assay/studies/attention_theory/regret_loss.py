"""Regret: two checks of no-regret behaviour, and a loss that makes learners out of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS, training_resources
from assay.studies.attention_theory import _regret_trained_claims as of_training
from assay.studies.attention_theory._regret_claims import CLAIMS, LONG, SHORT
from assay.studies.attention_theory._regret_play import behaviour, games
from assay.studies.attention_theory._regret_theory import choices, identity, optimum
from assay.studies.attention_theory._regret_training import ball, pretraining, simplex, transformer

Size = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Rounds = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]


class RegretLossStudy(Study):
    """Do agents have regret? And attention that is trained to have little."""

    slug = "regret-loss"
    paper = Paper(
        "Do LLM Agents Have Regret? A Case Study in Online Learning and Games", "Park, Liu, Ozdaglar, Zhang", 2025,
        "2403.16843", "ICLR"
    )  # fmt: skip
    claims = (*CLAIMS, *of_training.CLAIMS)

    class Config(StudyConfig):
        samples: Annotated[int, Field(ge=1000)] = Field(default=300_000, description="loss sequences in least squares")
        batch: Size = Field(default=32, description="sequences of each kind on which players are tested")
        choosers: Size = Field(default=2000, description="sequences on which choices are foretold")
        rounds: Annotated[int, Field(ge=1000)] = Field(default=10_000, description="of each repeated game")
        games: Size = Field(default=16, description="of random payoffs, three actions a side")
        ball_steps: Steps = Field(default=1500, description="of training linear attention on a ball; 0: not run")
        ball_horizon: Rounds = Field(default=20, description="its rounds")
        simplex_steps: Steps = Field(default=800, description="of training it with a softmax; 0: not run")
        horizon: Rounds = Field(default=LONG, description="rounds of the latter")
        d: Annotated[int, Field(ge=2)] = Field(default=3, description="actions where linear attention is trained")
        lr: Positive = Field(default=0.01, description="Adam's learning rate for linear attention")
        train_batch: Annotated[int, Field(ge=8, multiple_of=8)] = Field(default=128, description="sequences in a step")
        transformer_steps: Steps = Field(default=1500, description="of training transformers; 0: not run")
        transformer_lr: Positive = Field(default=3e-3, description="their learning rate")
        transformer_rounds: Rounds = Field(default=SHORT, description="of the one with the regret loss")
        transformer_d: Annotated[int, Field(ge=2)] = Field(default=2, description="its actions")
        width: Annotated[int, Field(ge=2, multiple_of=2)] = Field(default=32, description="of transformers, two heads")
        layers: Size = Field(default=1, description="their layers")

    scales = {
        "smoke": Config(samples=100_000, batch=16, choosers=500, rounds=1000, games=8, ball_steps=0, simplex_steps=0,
                        transformer_steps=0),
        "laptop": Config(),
        "paper": Config(samples=3_000_000, batch=1000, choosers=20_000, rounds=20_000, games=100, ball_steps=10_000,
                        simplex_steps=10_000, d=10, train_batch=256, transformer_steps=20_000, transformer_lr=3e-4,
                        transformer_rounds=100, transformer_d=10, width=256, layers=4),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 300, "paper": 100_000}

    def units(self, config: Config) -> Iterator[Unit]:
        for variances, horizon in (((1.0, 2.0, 0.5), 6), ((1.0, 1.0, 1.0), 6), ((1.0, 1.0), 20)):
            yield from grid(optimum, variances=variances, horizon=horizon, samples=config.samples)
        yield from grid(identity, d=5, horizon=50, batch=config.batch)
        yield from grid(behaviour, d=[2, 3], horizon=[SHORT, LONG], batch=config.batch)
        yield from grid(choices, d=3, rounds=20, batch=config.choosers)
        yield from grid(games, size=3, rounds=config.rounds, number=config.games, zero_sum=[True, False])
        linear: dict[str, Any] = {"d": config.d, "batch": config.train_batch, "lr": config.lr}
        if config.ball_steps:
            yield from grid(ball, horizon=config.ball_horizon, h=["square", "identity"], steps=config.ball_steps,
                            **linear)  # fmt: skip
        if config.simplex_steps:
            trained: dict[str, Any] = {"horizon": config.horizon, "steps": config.simplex_steps} | linear
            yield from grid(simplex, h="square", group=[1, 8], **trained)
            yield from grid(simplex, h="identity", group=1, **trained)
        if config.transformer_steps:
            sizes: dict[str, Any] = {"width": config.width, "layers": config.layers, "batch": config.train_batch}
            sizes |= {"lr": config.transformer_lr, "steps": config.transformer_steps}
            yield from grid(transformer, d=config.transformer_d, horizon=config.transformer_rounds, **sizes)
            yield from grid(pretraining, d=3, rounds=20, **sizes | {"steps": max(1, config.transformer_steps // 2)})

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment in (transformer, pretraining):
            rounds = given.get("horizon", given.get("rounds"))
            return training_resources(tokens=given["batch"] * rounds, width=given["width"], layers=given["layers"])
        floats = {
            optimum: lambda: 6 * given["samples"] * given["horizon"] * len(given["variances"]),
            choices: lambda: 5 * 32 * given["batch"] * given["rounds"] * given["d"] ** 2,
            behaviour: lambda: 5 * 32 * given["batch"] * given["horizon"] * given["d"] ** 2,
        }
        known = floats.get(unit.experiment)
        return Resources(memory=PROCESS + 8 * known() if known else 0)

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        legend = {"legend": True}
        played = of["behaviour"]
        played = played[(played.horizon == LONG) & (played.d == 2)]
        played = played.groupby(["player", "kind"], as_index=False)[["average"]].mean()
        gaps = of["games"][of["games"].zero_sum == True].groupby(["player", "rounds"], as_index=False)[["gap"]].mean()  # noqa: E712
        figures = [
            plot("Regret of players in 200 rounds, two actions",
                 mark("dot", played, x="average", y="kind", stroke="player"),
                 x={"label": "Regret_T / T, of losses up to 10"}, y={"label": "sequence"}, color=legend),
            plot("Average play in zero-sum games",
                 mark("line", gaps, x="rounds", y="gap", stroke="player", marker=True),
                 x={"type": "log", "label": "rounds"}, y={"type": "log", "label": "duality gap"}, color=legend),
        ]  # fmt: skip
        seen = [of[name] for name in ("simplex", "transformer") if name in of]
        if seen:
            figures.append(_trained(pd.concat(seen)))
        return figures


def _trained(rows: pd.DataFrame) -> dict[str, Any]:
    """Average regret of what was trained with h = square, by sequence."""
    rows = rows[(rows.h != "identity") & (rows.group != 8)] if "h" in rows else rows
    names = {"simplex": "linear attention", "transformer": "transformer", "trained": "", "hedge": ", Hedge beside it",
             "ftl": ", FTL beside it"}  # fmt: skip
    ways = ["trained", "hedge", "ftl"]
    long = rows[["experiment", "kind", *ways]].melt(["experiment", "kind"], ways, "player", "average")
    long["player"] = long.experiment.map(names) + long.player.map(names)
    means = long.groupby(["player", "kind"], as_index=False)[["average"]].mean()
    return plot(
        "Regret after training with the regret loss",
        mark("dot", means, x="average", y="kind", stroke="player"),
        x={"label": "Regret_T / T, of losses up to 10"},
        y={"label": "sequence"},
        color={"legend": True},
    )
