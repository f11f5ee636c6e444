"""Linear attention and H3 as one step of preconditioned descent in context: what the best of them risk, by formula."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import PROCESS
from assay.studies.attention_theory._h3_risks import closed_forms, factors, more_examples
from assay.studies.attention_theory._h3_training import trained_layers

Size = Annotated[int, Field(ge=2)]
Case = tuple[int, int, float]
NEAR, ROUGH, BEYOND = (100, 50, 0.2), (20, 20, 0.4), (100, 200, 0.6)  # d, n, alpha; beyond: k n = 74 d


def off(rows: pd.DataFrame, column: str) -> pd.Series:
    """How far a column of risks is from the formula, as a part of it."""
    return (rows[column] / rows.formula - 1).abs()


def off_at(rows: pd.DataFrame, kind: str, case: Case, counted: str = "k") -> float:
    """The same for the approximation by more examples, against the exact risk."""
    own = rows[(rows.kind == kind) & (rows.d == case[0]) & (rows.n == case[1]) & (rows.alpha == case[2])]
    return float((own[counted] / own.exact - 1).abs().max())


def risk(rows: pd.DataFrame, layer: str, tasks: str, over: str = "") -> float:
    """A trained layer's risk, over the best risk of a kind."""
    own = rows[(rows.layer == layer) & (rows.tasks == tasks)].iloc[0]
    return float(own.risk / (own[over] if over else 1))


def far(rows: pd.DataFrame, layer: str, over: str, tasks: tuple[str, ...] = ("one", "drifting")) -> float:
    return max(abs(risk(rows, layer, one, over) - 1) for one in tasks)


def apart(rows: pd.DataFrame, tasks: str) -> float:
    """Difference of the two layers' risks over the best of linear attention."""
    difference = risk(rows, "attention", tasks) - risk(rows, "H3", tasks)
    return abs(difference) / float(rows[rows.tasks == tasks].equal.iloc[0])


def effective(kind: str, slug: str, text: str) -> Claim:
    ForAll = partial(Check, every_seed=True)
    return Claim(
        slug,
        text,
        source="approximate risks, from memory; criterion from the exact ones",
        experiment=more_examples,
        checks=(
            ForAll("|approximate / exact risk - 1|, d = 100, n = 50, alpha = 0.2",
                   lambda rows: off_at(rows, kind, NEAR), "<=", 0.02),
            ForAll("the same, d = 20, n = 20, alpha = 0.4", lambda rows: off_at(rows, kind, ROUGH), "<=", 0.15),
        ),
        controls=(
            ForAll("n independent examples instead, d = 100, n = 50", lambda rows: off_at(rows, kind, NEAR, "1"), "<=",
                   0.02),
            ForAll("where k n is many times d: d = 100, n = 200, alpha = 0.6", lambda rows: off_at(rows, kind, BEYOND),
                   "<=", 0.15),
        ),
    )  # fmt: skip


class IclLinearAttentionH3(Study):
    """Linear attention makes one preconditioned step of descent on its prompt, and H3 one that weighs the examples."""

    slug = "icl-linear-attention-h3"
    paper = Paper(
        "Fine-grained Analysis of In-context Linear Estimation: Data, Architecture, and Beyond",
        "Li, Rawat, Oymak", 2024, "2407.10005", "NeurIPS"
    )  # fmt: skip
    claims = (
        Claim(
            "closed-forms",
            "The best risks of one layer have closed forms: independent, retrieved and aligned examples, drifting "
            "tasks, low rank, LoRA.",
            source="section 3 and 4; exact forms derived from Gaussian moments",
            experiment=closed_forms,
            checks=(
                Check("|mean square on draws / formula - 1|, largest of six settings",
                      lambda rows: off(rows, "measured").max(), "<=", 0.02),
                Check("the same for weights fitted to draws, four settings", lambda rows: off(rows, "fitted").max(),
                      "<=", 0.02),
            ),
            controls=(
                Check("the risk of who overlooks what the setting is about, smallest of six",
                      lambda rows: off(rows, "wrong").min(), "<=", 0.02),
            ),
        ),
        Claim(
            "trained-layers",
            "Trained linear attention is as good as the best step with equal weights, trained H3 as the best with free "
            "weights; they differ where tasks drift, and only there.",
            source="section 3, theorems on linear attention and H3",
            experiment=trained_layers,
            checks=(
                Check("linear attention: |risk / best of equal weights - 1|, larger of one task and drift",
                      lambda rows: far(rows, "attention", "equal"), "<=", 0.05),
                Check("H3: |risk / best of free weights - 1|", lambda rows: far(rows, "H3", "weighted"), "<=", 0.05),
                Check("drift: risk of H3 / best of equal weights", lambda rows: risk(rows, "H3", "drifting", "equal"),
                      "<=", 0.96),
                Check("one task: difference of the two", lambda rows: apart(rows, "one"), "<=", 0.05),
            ),
            controls=(
                Check("drift, linear attention: |risk / best of free weights - 1|",
                      lambda rows: far(rows, "attention", "weighted", ("drifting",)), "<=", 0.05),
                Check("one task: risk of H3 / best of equal weights", lambda rows: risk(rows, "H3", "one", "equal"),
                      "<=", 0.96),
                Check("drift: difference of the two", lambda rows: apart(rows, "drifting"), "<=", 0.05),
            ),
        ),
        effective("retrieval", "retrieval-is-more-examples",
                  "n examples that are retrieved near the query are worth (alpha^2 d + 1) n independent ones."),
        effective("alignment", "alignment-is-more-examples",
                  "n examples whose inputs are aligned with the task are worth (alpha^2 d + 1) n independent ones."),
        Claim(
            "rank-and-spectrum",
            "The best risk of weights of low rank, or of a low-rank update, depends on the spectra of the task alone.",
            source="section 4, low-rank parametrisation and LoRA",
            experiment=factors,
            checks=(
                Check("|risk found by descent on factors / formula - 1|, largest",
                      lambda rows: off(rows, "found").max(), "<=", 1e-3),
                Check("the same for another law with these spectra", lambda rows: off(rows, "found_elsewhere").max(),
                      "<=", 1e-3),
            ),
            controls=(
                Check("the same with one rank less", lambda rows: off(rows, "found_by_less").max(), "<=", 1e-3),
                Check("formula for a flat spectrum of the same sum", lambda rows: off(rows, "flat").max(), "<=", 1e-3),
            ),
        ),
    )  # fmt: skip

    class Config(StudyConfig):
        d: Size = Field(default=6, description="of the inputs")
        n: Size = Field(default=15, description="examples in a prompt")
        noise: Annotated[float, Field(ge=0)] = Field(default=0.5**0.5, description="standard deviation of y")
        batches: Annotated[int, Field(ge=1)] = Field(default=4, description="of draws for each risk")
        batch: Annotated[int, Field(ge=1000)] = Field(default=50_000, description="draws in each, and for each fit")
        ranks: list[Annotated[int, Field(ge=1)]] = Field(
            default=[1, 2, 4], description="of weights and updates, up to d"
        )
        layers: list[Literal["attention", "H3"]] = Field(default=["attention", "H3"], description="that are trained")
        steps: Annotated[int, Field(ge=1)] = Field(default=3000, description="of training")
        prompts: Annotated[int, Field(ge=1)] = Field(default=256, description="in each step")
        lr: Annotated[float, Field(gt=0)] = Field(default=0.01, description="Adam's learning rate")

    scales = {
        "smoke": Config(d=4, n=8, batches=3, batch=30_000, ranks=[2], layers=[]),
        "laptop": Config(),
        "paper": Config(d=20, n=100, ranks=[1, 5, 10, 15], steps=20_000, prompts=1024, lr=0.003),
    }
    seconds = {"smoke": 15, "laptop": 120, "paper": 5000}

    def units(self, config: Config) -> Iterator[Unit]:
        sizes = {"d": config.d, "n": config.n, "noise": config.noise}
        grown = tuple((100, n, alpha) for alpha in (0.0, 0.2, 0.4) for n in (10, 25, 50, 100, 200, 400))
        yield from grid(closed_forms, **sizes, batches=config.batches, batch=config.batch)
        yield from grid(more_examples, cases=tuple(dict.fromkeys((NEAR, ROUGH, BEYOND, *grown))))
        yield from grid(factors, **sizes, rank=[rank for rank in config.ranks if rank <= config.d])
        yield from grid(trained_layers, layer=config.layers, tasks=["one", "drifting"], **sizes,
                        steps=config.steps, batch=config.prompts, lr=config.lr)  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        if unit.experiment in (factors, more_examples):
            return Resources(memory=PROCESS)
        given = unit.settings
        draws = 6 * given["batch"] if unit.experiment is closed_forms else 2 * max(20_000, given["batch"])  # of 8 bytes
        return Resources(memory=PROCESS + 8 * draws * (given["n"] + 1) * given["d"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        curves = of["more_examples"].query("d == 100 and alpha in (0, 0.2, 0.4) and seed == 0")
        figures = [
            plot(f"Risk with {kind}, d = 100",
                 mark("line", own, x="n", y="exact", stroke="alpha", marker=True),
                 mark("line", own, x="n", y="k", stroke="alpha", strokeWidth=1),
                 x={**log, "label": "examples"}, y={**log, "label": "risk over d"},
                 color={**legend, "label": "alpha", "type": "categorical"},
                 caption="thin, without symbols: (alpha^2 d + 1) n independent examples")
            for kind, own in ((name, curves[curves.kind == name]) for name in ("retrieval", "alignment"))
        ]  # fmt: skip
        if "trained_layers" in of:
            seen = of["trained_layers"].groupby(["layer", "tasks"], as_index=False).mean(numeric_only=True)
            best = seen.melt("tasks", ["equal", "weighted"], var_name="weights", value_name="mse").drop_duplicates()
            figures.append(
                plot("Trained layers, and the best with equal or free weights",
                     mark("tickX", best, x="mse", y="tasks", stroke="weights"),
                     mark("dot", seen, x="risk", y="tasks", stroke="layer", r=6),
                     x={"label": "mean squared error"}, y={"label": "tasks"}, color=legend)
            )  # fmt: skip
        return figures
