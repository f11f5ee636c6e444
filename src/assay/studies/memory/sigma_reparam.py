"""sigmaReparam: how low attention entropy can fall, and weights whose spectral norm is learned, so that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from assay.lab import Check, Claim, Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.measures.attention_bound import attention_entropy_lower_bound
from assay.studies.memory._sigma_theory import bound, growth, module
from assay.studies.memory._sigma_vit import training

Size = Annotated[int, Field(ge=1)]
Length = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]
LARGEST_STEP = (1 - 0.9) / (1 - 0.999) ** 0.5  # of Adam over its rate: Kingma & Ba 2015 (arXiv 1412.6980), section 2.1
MODELS = ["pre-LN", "sigmaReparam", "gamma x 100"]


def exponent(rows: pd.DataFrame, weights: str) -> float:
    """Slope of the log of what the spectral norm gained over log width."""
    own = rows[rows.weights == weights]
    return float(np.polyfit(np.log(own.width), np.log(own.gained), 1)[0])


def gained(rows: pd.DataFrame, weights: str) -> pd.Series:
    return rows[rows.weights == weights].gained


def where_plain_fails(rows: pd.DataFrame, model: str, column: str) -> float:
    """`column` of a model at the smallest learning rate at which the pre-LN model fails; NaN where it never does."""
    plain = rows[rows.model == "pre-LN"]
    fails = ~((plain.loss <= 2) & (plain.entropy >= 0.05))  # a loss that is not finite fails
    found = rows[(rows.model == model) & (rows.lr == plain[fails].lr.min())]
    return float(found[column].iloc[0]) if len(found) else float("nan")


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "entropy-bound",
        "Attention whose logits have norm sb has at least the entropy of the theorem, and there are logits that have "
        "no more.",
        source="theorem on the entropy of attention",
        experiment=bound,
        checks=(
            ForAll("random logits: smallest entropy less bound", lambda rows: rows.random.min(), ">=", -1e-9),
            ForAll("logits made as sharp as they can be: the same", lambda rows: rows.attacked.min(), ">=", -1e-9),
            ForAll("random attention: the same, by norms of its matrices", lambda rows: rows.attention.min(), ">=",
                   -1e-9),
            ForAll("extremal logits: |entropy less bound|", lambda rows: rows.extreme.max(), "<=", 1e-9),
        ),
        controls=(
            ForAll("extremal logits: entropy less the bound without sqrt(T / (T - 1)) in beta",
                   lambda rows: rows.extreme_without_factor.max(), ">=", -1e-9),
        ),
    ),
    Claim(
        "norm-is-gamma",
        "The spectral norm of a reparametrised weight is gamma, whatever the weight is; at first it changes nothing.",
        source="equation of sigmaReparam; the authors' code",
        experiment=module,
        checks=(
            ForAll("at first: relative difference from the plain layer", lambda rows: rows.at_first.max(), "<=", 1e-5),
            ForAll("|spectral norm / gamma - 1| after 50 forwards of a weight that moves",
                   lambda rows: rows.norm_in_training.max(), "<=", 1e-3),
            ForAll("relative change of the output when W becomes 3 W", lambda rows: rows.tripled.max(), "<=", 1e-5),
            ForAll("what eval mode moves u by", lambda rows: rows.moved_in_eval.max(), "<=", 0),
        ),
        controls=(
            ForAll("the norm in eval mode, where the power iteration stands still",
                   lambda rows: rows.norm_in_eval.max(), "<=", 1e-3),
            ForAll("plain layer: change when W becomes 3 W", lambda rows: rows.tripled_plain.max(), "<=", 1e-5),
            ForAll("what training moves u by", lambda rows: rows.moved_in_training.max(), "<=", 0),
        ),
    ),
    Claim(
        "growth-without-width",
        "Steps of Adam let the spectral norm of a plain weight grow with the square root of its width; with "
        "sigmaReparam by no more than any single parameter.",
        source="proposition on the spectral norm of updates",
        experiment=growth,
        checks=(
            ForAll("norm of a normalised update over its bound, smallest",
                   lambda rows: (rows.update_norm / rows.least).min(), ">=", 1),
            Check("plain: exponent of the gain over width", lambda rows: exponent(rows, "plain"), ">=", 0.4),
            Check("sigmaReparam: the same exponent", lambda rows: exponent(rows, "sigmaReparam"), "<=", 0.2),
            ForAll("sigmaReparam: gain over rate and steps, largest", lambda rows: gained(rows, "sigmaReparam").max(),
                   "<=", LARGEST_STEP),
        ),
        controls=(
            ForAll("norm of the smallest update over the bound for twice the width",
                   lambda rows: (rows.hadamard / (rows.least_of_twice / rows.least)).min(), ">=", 1),
            ForAll("plain: gain over rate and steps, smallest", lambda rows: gained(rows, "plain").min(), "<=",
                   LARGEST_STEP),
            Check("sigmaReparam: exponent of the gain over width", lambda rows: exponent(rows, "sigmaReparam"), ">=",
                  0.4),
            Check("plain: the same", lambda rows: exponent(rows, "plain"), "<=", 0.2),
        ),
    ),
    Claim(
        "trains-without-norms",
        "At a learning rate at which attention of a pre-LN transformer collapses, without warm-up, one with "
        "sigmaReparam and no norms keeps its entropy and learns.",
        source="experiments on vision transformers, here on digits",
        experiment=training,
        checks=(
            Check("lowest entropy over ln T", lambda rows: where_plain_fails(rows, "sigmaReparam", "entropy"), ">=",
                  0.2),
            Check("loss at the end", lambda rows: where_plain_fails(rows, "sigmaReparam", "loss"), "<=", 1),
        ),
        controls=(
            Check("lowest entropy, gammas with 100 times the rate",
                  lambda rows: where_plain_fails(rows, "gamma x 100", "entropy"), ">=", 0.2),
            Check("pre-LN: lowest entropy", lambda rows: where_plain_fails(rows, "pre-LN", "entropy"), ">=", 0.2),
        ),
    ),
)  # fmt: skip


class SigmaReparam(Study):
    """Attention entropy cannot fall while spectral norms do not grow: reparametrise weights so that they cannot."""

    slug = "sigma-reparam"
    paper = Paper(
        "Stabilizing Transformer Training by Preventing Attention Entropy Collapse",
        "Zhai, Likhomanenko, Littwin, Busbridge, Ramapuram, Zhang, Gu, Susskind", 2023, "2303.06296", "ICML"
    )  # fmt: skip
    claims = CLAIMS
    requires = ("sklearn",)

    class Config(StudyConfig):
        lengths: tuple[Length, ...] = Field(default=(2, 3, 4, 8, 16), description="T, keys in reach, for the bound")
        trials: Annotated[int, Field(ge=50)] = Field(default=20_000, description="random rows for the bound")
        widths: list[Size] = Field(default=[32, 64, 128, 256], description="of square weights, powers of two")
        lrs: list[Positive] = Field(default=[1e-3, 3e-3, 1e-2, 3e-2], description="Adam's learning rates")
        width: Size = Field(default=64, description="of the vision transformer")
        depth: Size = Field(default=4, description="its layers")
        steps: Size = Field(default=400, description="of training")
        batch: Size = Field(default=64, description="pictures in each step")

    scales = {
        "smoke": Config(trials=2000, widths=[32, 64], lrs=[]),
        "laptop": Config(),
        "paper": Config(widths=[32, 128, 512, 1024], width=768, depth=12, steps=2000, batch=256,
                        lrs=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
    }  # fmt: skip
    seconds = {"smoke": 10, "laptop": 460, "paper": 20_000}

    def units(self, config: Config) -> Iterator[Unit]:
        yield from grid(bound, lengths=config.lengths, trials=config.trials, largest=12.0)
        yield from grid(module, layer=["linear", "conv"], forwards=50)
        yield from grid(growth, width=config.widths, steps=200, lr=0.001, noise=1.0)
        sizes = {"width": config.width, "depth": config.depth, "steps": config.steps, "batch": config.batch}
        yield from grid(training, model=MODELS, lr=config.lrs, **sizes)

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment is not training:
            return Resources()
        return training_resources(tokens=16 * given["batch"], width=given["width"], layers=given["depth"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        of = {str(name): own for name, own in rows.groupby("experiment")}
        log, legend = {"type": "log"}, {"legend": True}
        sb = np.linspace(0, 12, 61)
        curves = pd.concat(
            pd.DataFrame({"sb": sb, "T": f"{T}", "bound": attention_entropy_lower_bound(sb.tolist(), T).numpy()})
            for T in (2, 4, 16, 64)
        )
        weights = of["growth"].groupby(["weights", "width"], as_index=False)[["gained"]].mean()
        figures = [
            plot("The least entropy of attention", mark("line", curves, x="sb", y="bound", stroke="T"),
                 x={"label": "norm of the logits"}, y={"label": "entropy in nats"},
                 color={**legend, "label": "tokens"}),
            plot("Spectral norm gained by Adam", mark("line", weights, x="width", y="gained", stroke="weights"),
                 x={**log, "label": "width"}, y={**log, "label": "gain over rate and steps"}, color=legend),
        ]  # fmt: skip
        if "training" in of:
            seen = of["training"].groupby(["model", "lr"], as_index=False)[["entropy"]].mean()
            figures.append(
                plot("Lowest entropy in training", mark("line", seen, x="lr", y="entropy", stroke="model", marker=True),
                     x={**log, "label": "learning rate"}, y={"label": "entropy over ln T"}, color=legend)
            )  # fmt: skip
        return figures
