"""What the study of Newton's iteration claims, and what decides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from assay.lab import Check, Claim, smallest_step
from assay.lab.statistics import fit_line
from assay.studies.attention_theory._newton_algorithms import matching
from assay.studies.attention_theory._newton_layers import trained

Inputs = Literal["isotropic", "ill-conditioned"]
BAND: dict[Inputs, tuple[int, int]] = {"isotropic": (6, 14), "ill-conditioned": (6, 24)}
"""Steps in which Newton's iteration has begun, and has not yet ended."""


def growth(rows: pd.DataFrame, inputs: Inputs, algorithm: str = "Newton") -> float:
    """Doublings of the best-matching step of gradient descent for each step of an algorithm."""
    own = within(rows, inputs, algorithm)
    return fit_line(own.step, np.log2(own.match)).slope


def within(rows: pd.DataFrame, inputs: Inputs, algorithm: str = "Newton") -> pd.DataFrame:
    own = rows[(rows.inputs == inputs) & (rows.algorithm == algorithm)]
    return own[own.step.between(*BAND[inputs])]


def after(rows: pd.DataFrame, inputs: Inputs, step: int) -> float:
    """Squared error over d at the last position after a step of Newton's iteration."""
    own = rows[(rows.inputs == inputs) & (rows.algorithm == "Newton") & (rows.step == step)]
    return float(own.mse.iloc[0])


def off_half(inputs: Inputs, algorithm: str = "Newton") -> Callable[[pd.DataFrame], float]:
    return lambda rows: abs(growth(rows, inputs, algorithm) - 0.5)


def layers(rows: pd.DataFrame, stage: str = "trained", inputs: Inputs = "isotropic") -> pd.DataFrame:
    return rows[(rows.stage == stage) & (rows.inputs == inputs)].sort_values("layer")


def middle(rows: pd.DataFrame) -> pd.Series:
    """Best-matching Newton steps of all layers but the first and the last."""
    return layers(rows).newton.iloc[1:-1]


def rise(rows: pd.DataFrame, stage: str) -> float:
    found = layers(rows, stage).newton
    return float(found.iloc[-1] - found.iloc[0])


def straightness(rows: pd.DataFrame) -> float:
    """R^2 of the log of the best-matching step of gradient descent over layers."""
    found = layers(rows)
    return fit_line(found.layer, np.log2(found.gd)).r2 if found.gd.nunique() > 1 else float("nan")


def doublings(rows: pd.DataFrame, stage: str, algorithm: str) -> float:
    """Of the best-matching step of an algorithm, from the first layer to the last."""
    found = layers(rows, stage)[algorithm]
    return float(np.log2(found.iloc[-1] / found.iloc[0]))


def nearer(rows: pd.DataFrame, stage: str, column: str) -> float:
    """How much more alike the model is to least squares than to online gradient descent."""
    found = layers(rows, stage).iloc[0]
    return float(found[f"{column}like_ols"] - found[f"{column}like_online"])


def _ratio(rows: pd.DataFrame, inputs: Inputs) -> float:
    found = layers(rows, "trained", inputs)
    if not len(found):
        raise LookupError(f"no model was trained on {inputs} inputs")
    return float(found.gd_error.iloc[0] / found.own_error.iloc[0])


CLAIMS = (
    Claim(
        "gd-steps-grow-exponentially",
        "To be like Newton's iteration after j steps, gradient descent needs a number of steps that grows "
        "exponentially with j: it doubles with every other step.",
        source="rates of convergence, checked on the algorithms themselves",
        experiment=matching,
        checks=(
            Check("isotropic: |doublings for each step less 1/2|", off_half("isotropic"), "<=", 0.15),
            Check("ill-conditioned: the same", off_half("ill-conditioned"), "<=", 0.15),
            Check("least similarity of errors of a match",
                  lambda rows: min(within(rows, name).similarity.min() for name in BAND), ">=", 0.95),
        ),
        controls=(
            Check("isotropic: |doublings less 1/2|, gradient descent in the place of Newton",
                  off_half("isotropic", "gradient descent"), "<=", 0.15),
            Check("greatest similarity to errors on another prompt",
                  lambda rows: max(within(rows, name).other_prompt.max() for name in BAND), ">=", 0.95),
        ),
    ),
    Claim(
        "newton-is-not-slowed",
        "On inputs whose covariance has condition number 100 Newton's iteration is exact after 26 steps, and gradient "
        "descent is not after 2000.",
        source="ill-conditioned data",
        experiment=matching,
        checks=(
            Check("ill-conditioned: squared error over d of Newton, 26 steps",
                  lambda rows: after(rows, "ill-conditioned", 26), "<=", 1e-8),
            Check("ill-conditioned: of gradient descent, 2000 steps",
                  lambda rows: within(rows, "ill-conditioned").gd_2000.iloc[0], ">=", 1e-5),
        ),
        controls=(
            Check("ill-conditioned: Newton, 13 steps", lambda rows: after(rows, "ill-conditioned", 13), "<=", 1e-8),
            Check("isotropic: gradient descent, 2000 steps",
                  lambda rows: within(rows, "isotropic").gd_2000.iloc[0], ">=", 1e-5),
        ),
    ),
    Claim(
        "layers-are-newton-steps",
        "The deeper a layer of a trained transformer, the later the step of Newton's iteration that it is most like.",
        source="heat map of similarity of errors",
        experiment=trained,
        checks=(
            Check("smallest step of the best match from middle layer to middle layer",
                  lambda rows: smallest_step(middle(rows)), ">=", 0),
            Check("rise of the best match from the first layer to the last", lambda rows: rise(rows, "trained"), ">=",
                  6),
            Check("least similarity of errors of a match",
                  lambda rows: layers(rows).newton_similarity.min(), ">=", 0.75),
        ),
        controls=(
            Check("smallest step, the layers in reverse", lambda rows: smallest_step(middle(rows)[::-1]), ">=", 0),
            Check("rise before training", lambda rows: rise(rows, "at first"), ">=", 6),
        ),
    ),
    Claim(
        "layers-outpace-gd",
        "The step of gradient descent that a layer is most like doubles four times or more from the first layer to the "
        "last, spread over the layers.",
        source="heat map for gradient descent",
        experiment=trained,
        checks=(
            Check("R^2 of its log over layers", straightness, ">=", 0.8),
            Check("last layer over first, in doublings", lambda rows: doublings(rows, "trained", "gd"), ">=", 4),
        ),
        controls=(
            Check("doublings before training", lambda rows: doublings(rows, "at first", "gd"), ">=", 4),
            Check("doublings of the step of Newton", lambda rows: doublings(rows, "trained", "newton"), ">=", 4),
        ),
    ),
    Claim(
        "not-online",
        "A trained transformer is more like least squares than like online gradient descent, in its errors and in the "
        "weights that it induces.",
        source="table of similarities",
        experiment=trained,
        checks=(
            Check("errors: similarity to OLS less to online GD", lambda rows: nearer(rows, "trained", ""), ">", 0),
            Check("induced weights: the same", lambda rows: nearer(rows, "trained", "weights_"), ">", 0),
        ),
        controls=(
            Check("errors before training: the same", lambda rows: nearer(rows, "at first", ""), ">", 0),
        ),
    ),
    Claim(
        "trained-ill-conditioned",
        "Trained on inputs whose covariance has condition number 100, a transformer is nearer to the truth at the last "
        "position than gradient descent after 1024 steps.",
        source="ill-conditioned data",
        experiment=trained,
        checks=(
            Check("error of gradient descent over the model's",
                  lambda rows: _ratio(rows, "ill-conditioned"), ">", 1),
        ),
        controls=(Check("the same on isotropic inputs", lambda rows: _ratio(rows, "isotropic"), ">", 1),),
    ),
)  # fmt: skip
