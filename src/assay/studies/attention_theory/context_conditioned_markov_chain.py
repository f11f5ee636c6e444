"""From self-attention to Markov models: a layer of attention as a chain whose rows are weighted by its prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._ccmc_claims import CLAIMS
from assay.studies.attention_theory._ccmc_experiments import collapse, equivalence, identification, one_trajectory

Size = Annotated[int, Field(ge=2)]
Count = Annotated[int, Field(ge=1)]
DESIGNS = ["connected", "self", "disconnected"]
TIE = ((1.0, 1.0), (1.0, 1.0))
CHAINS = (((1.0, 0.3), (1.0, 0.3)), ((1.0, 0.6), (1.0, 0.6)), ((1.0, 0.5), (1.0, 0.2)), TIE)


class ContextConditionedMarkovChain(Study):
    """One layer of attention is a Markov chain that its own prompt reweighs; it can be estimated, and it collapses."""

    slug = "context-conditioned-markov-chain"
    paper = Paper(
        "From Self-Attention to Markov Models: Unveiling the Dynamics of Generative Transformers",
        "Ildiz, Huang, Li, Rawat, Oymak", 2024, "2402.13512", "ICML"
    )  # fmt: skip
    claims = CLAIMS

    class Config(StudyConfig):
        tokens: list[Size] = Field(default=[5], description="K of the equivalence; the width is one and a half times K")
        prompts: Count = Field(default=200, description="of the equivalence, of 12 tokens each")
        sizes: tuple[Count, ...] = Field(default=(1000, 4000, 16_000), description="n, prompts for an estimate")
        worlds: Count = Field(default=10, description="chains over which the error is averaged")
        steps: Annotated[int, Field(ge=400)] = Field(default=20_000, description="of chains that read themselves")
        runs: Count = Field(default=200, description="of each chain")
        trajectories: Count = Field(default=20, description="from each of which a chain is estimated")

    scales = {
        "smoke": Config(sizes=(500, 2000, 8000), worlds=5, steps=8000, runs=60, trajectories=6),
        "laptop": Config(),
        "paper": Config(tokens=[5, 50, 200], sizes=(10_000, 100_000, 1_000_000), worlds=100, steps=200_000, runs=150,
                        trajectories=20),
    }  # fmt: skip
    seconds = {"smoke": 12, "laptop": 40, "paper": 12_000}

    def units(self, config: Config) -> Iterator[Unit]:
        for size in config.tokens:
            yield from grid(equivalence, tokens=size, width=3 * size // 2, length=12, prompts=config.prompts)
        yield from grid(identification, design=DESIGNS, sizes=config.sizes, worlds=config.worlds)
        yield from grid(collapse, chains=CHAINS, steps=config.steps, runs=config.runs)
        yield from grid(one_trajectory, odds=(1.0, 0.6, 0.3), sizes=config.sizes, runs=config.trajectories)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        numbers = 200 * max(given.get("sizes", (0,))) + 3 * len(CHAINS) * given.get("steps", 0) * given.get("runs", 0)
        return Resources(memory=PROCESS + 8 * numbers)

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        known = of["identification"].groupby(["design", "n"], as_index=False)[["error"]].mean()
        urn = of["collapse"].groupby(["chain", "time"], as_index=False)[["share"]].mean()
        urn["chain"] = urn.chain.map(lambda one: " and ".join(f"{a:g} : {b:g}" for a, b in json.loads(one)))
        told = of["one_trajectory"].groupby(["source", "n"], as_index=False)[["error"]].mean()
        return [
            plot("Error of the estimated chain", mark("line", known, x="n", y="error", stroke="design", marker=True),
                 x={**log, "label": "prompts"}, y={**log, "label": "squared error of P"}, color=legend),
            plot("A chain that reads itself", mark("line", urn, x="time", y="share", stroke="chain"),
                 x={**log, "label": "tokens said"}, y={**log, "label": "share of token 1"},
                 color={**legend, "label": "rows of P:"}),
            plot("Rows of tokens that lose", mark("line", told, x="n", y="error", stroke="source", marker=True),
                 x={**log, "label": "steps of the trajectory, or prompts"},
                 y={**log, "label": "squared error of their rows"}, color=legend),
        ]  # fmt: skip
