"""What decides the claims of `transformers_as_algorithms`."""

from __future__ import annotations

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._taa_learners import dynamics, multitask, references, stability, transfer
from assay.studies.attention_theory._taa_transformer import transformer

READER = "ridge on the first 1.25 d"


def slope(rows: pd.DataFrame, learner: str) -> float:
    return float(rows[rows.learner == learner].slope.iloc[0])


def spread(rows: pd.DataFrame, column: str, least: int) -> float:
    """Largest over smallest, over d and T of at least `least` d^2."""
    values = rows[rows.times >= least][column]
    return float(values.max() / values.min())


def few_over_many(rows: pd.DataFrame, column: str) -> float:
    """Excess risk with the fewest tasks over that with the most, for the same number of prompts."""
    ordered = rows.sort_values("T")[column]
    return float(ordered.iloc[0] / ordered.iloc[-1])


def gain(rows: pd.DataFrame, case: str) -> float:
    own = rows[rows.case == case].iloc[0]
    return float(own.posterior / own.least_squares)


def longer(rows: pd.DataFrame, partly: bool) -> float:
    """Error of the longest window over that of the shortest."""
    error = rows[rows.partly == partly].sort_values("window").error
    return float(error.iloc[-1] / error.iloc[0])


def nearer(rows: pd.DataFrame, prior: str, tested: str) -> float:
    """Squared distance to the best learner for the prior that is tested, over that to the best for the other."""
    own = rows[(rows.prior == prior) & (rows.tested == tested)].iloc[0]
    ratio = float(own.to_ridge / own.to_weighted)
    return ratio if tested == "equal" else 1 / ratio


CLAIMS = (
    Claim(
        "stability",
        "The change of the loss by one wrong example falls at least as 1 / i with the length i of the prompt.",
        source="assumption of stability; figure on robustness; on the reference learners",
        experiment=stability,
        checks=(
            Check("ridge: slope of the change over examples, log-log", lambda rows: slope(rows, "ridge"), "<=",
                  -0.9),
            Check("least squares, no noise: the same", lambda rows: slope(rows, "least squares"), "<=", -0.9),
        ),
        controls=(
            Check("ridge that reads the first 1.25 d examples alone", lambda rows: slope(rows, READER), "<=", -0.9),
        ),
    ),
    Claim(
        "transfer-by-d2",
        "Excess risk on new tasks is that of d^2 / T, for tasks of dimension d: for the best linear attention.",
        source="figure on transfer risk (from memory); here linear attention in closed form",
        experiment=transfer,
        checks=(
            Check("excess T / d^2: largest over smallest, T from 4 d^2 on", lambda rows: spread(rows, "by_d2", 4),
                  "<=", 1.3),
            Check("the same, T from d^2 on", lambda rows: spread(rows, "by_d2", 1), "<=", 1.5),
        ),
        controls=(Check("excess T / d", lambda rows: spread(rows, "by_d", 4), "<=", 1.5),),
    ),
    Claim(
        "tasks-beat-prompts",
        "For new tasks, many tasks with few prompts each are better than few tasks with many.",
        source="figures on multitask and transfer risk (from memory); here linear attention by least squares",
        experiment=multitask,
        checks=(
            Check("excess risk on new tasks, fewest over most tasks", lambda rows: few_over_many(rows, "on_new"),
                  ">=", 2),
        ),
        controls=(
            Check("the same on the tasks of training", lambda rows: few_over_many(rows, "on_own"), ">=", 2),
        ),
    ),
    Claim(
        "references-differ",
        "The best learner depends on the prior and the noise: weighted ridge, ridge, and least squares.",
        source="section on experiments, settings of the code",
        experiment=references,
        checks=(
            Check("prior 1 / i: error of weighted ridge / of least squares", lambda rows: gain(rows, "hetero"),
                  "<=", 0.5),
            Check("noise 1: error of ridge / of least squares", lambda rows: gain(rows, "noisy"), "<=", 0.5),
        ),
        controls=(
            Check("equal prior, no noise, where they are one", lambda rows: gain(rows, "plain"), "<=", 0.5),
        ),
    ),
    Claim(
        "window-for-hidden-state",
        "Forecasts of a linear system of which a part is observed need a window; where all is observed, none.",
        source="figure on dynamical systems (from memory); here ridge regression on windows",
        experiment=dynamics,
        checks=(Check("part observed: error of the longest window / of 1", lambda rows: longer(rows, True), "<=",
                      0.9),),
        controls=(Check("all observed", lambda rows: longer(rows, False), "<=", 0.9),),
    ),
    Claim(
        "transformer-matches",
        "A transformer that is trained on prompts of one prior predicts more like the best learner for that prior than "
        "like the best for another.",
        source="figure on linear regression; toy configuration of the code",
        experiment=transformer,
        checks=(
            Check("equal prior: squared distance to ridge / to weighted ridge",
                  lambda rows: nearer(rows, "equal", "equal"), "<=", 0.9),
            Check("prior 1 / i: to weighted ridge / to ridge", lambda rows: nearer(rows, "power", "power"), "<=",
                  0.9),
        ),
        controls=(
            Check("trained on 1 / i, tested on the equal prior", lambda rows: nearer(rows, "power", "equal"), "<=",
                  0.9),
            Check("trained on the equal prior, tested on 1 / i", lambda rows: nearer(rows, "equal", "power"), "<=",
                  0.9),
        ),
    ),
)  # fmt: skip
