"""What is claimed of attention as a next-token automaton, and what decides it."""

from __future__ import annotations

from functools import partial

import pandas as pd

from assay.lab import Check, Claim, smallest_step
from assay.studies.attention_theory._nta_experiments import FINITE, path, trained


def last(rows: pd.DataFrame, column: str) -> pd.Series:
    """At the last step."""
    return rows[rows.step == rows.step.max()][column]


def with_finite_part(rows: pd.DataFrame, column: str) -> pd.Series:
    return last(rows[rows.finite_norm >= FINITE], column)


def widest(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows[rows.radius == rows.radius.max()][column]


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "direction",
        "Gradient descent on the log-loss takes the weights, from any start, in the direction of the graph SVM, beside "
        "the span of differences within components.",
        source="the convergence theorem, from memory; abstract",
        experiment=trained,
        checks=(
            Check("correlation with W_svm, mean over problems", lambda rows: last(rows, "direction").mean(), ">=",
                  0.97),
            ForAll("the least over problems", lambda rows: last(rows, "direction").min(), ">=", 0.93),
            Check("smallest step of the mean with the number of steps",
                  lambda rows: smallest_step(rows.groupby("step").direction.mean()), ">", 0),
        ),
        controls=(
            Check("the graph SVM of labels drawn anew: mean", lambda rows: last(rows, "direction_redrawn").mean(), ">=",
                  0.97),
            ForAll("the same: the least", lambda rows: last(rows, "direction_redrawn").min(), ">=", 0.93),
        ),
    ),
    Claim(
        "finite-part",
        "In that span the weights converge to W_fin, the minimum of the loss of the cyclic sub-dataset, and the loss "
        "to its infimum, which the direction alone does not reach.",
        source="the convergence theorem, from memory; abstract",
        experiment=trained,
        checks=(
            ForAll("relative error of the part in the span, largest over problems",
                   lambda rows: last(rows, "finite_error").max(), "<=", 0.1),
            ForAll("loss above its infimum, largest", lambda rows: last(rows, "gap").max(), "<=", 0.01),
            Check("the same, mean where there is a finite part",
                  lambda rows: with_finite_part(rows, "gap").mean(), "<=", 0.005),
        ),
        controls=(
            ForAll("labels drawn anew: relative error",
                   lambda rows: last(rows, "finite_error_redrawn").max(), "<=", 0.1),
            ForAll("labels drawn anew: loss above its infimum",
                   lambda rows: last(rows, "gap_redrawn").max(), "<=", 0.01),
            Check("the direction alone, where there is a finite part",
                  lambda rows: with_finite_part(rows, "gap_of_direction").mean(), "<=", 0.005),
        ),
    ),
    Claim(
        "hard-retrieval",
        "All attention goes to the component of the label, the one of highest priority in the context, and is mixed "
        "there by W_fin and the counts.",
        source="abstract: hard retrieval, soft composition",
        experiment=trained,
        checks=(
            ForAll("least attention on the component of the label", lambda rows: last(rows, "mass").min(), ">=", 0.99),
            ForAll("total variation from the automaton, largest over prompts of the data",
                   lambda rows: last(rows, "distance").max(), "<=", 0.02),
        ),
        controls=(
            ForAll("components of labels drawn anew", lambda rows: last(rows, "mass_redrawn").min(), ">=", 0.99),
            ForAll("automaton of labels drawn anew", lambda rows: last(rows, "distance_redrawn").max(), "<=", 0.02),
        ),
    ),
    Claim(
        "reads-new-contexts",
        "On contexts that are not in the data, trained attention says what the automaton says, nearly without "
        "exception where the graph decides, mostly where W_svm must rank components.",
        source="not the paper's; it follows from the decomposition",
        experiment=trained,
        checks=(
            Check("total variation where the graph decides, mean",
                  lambda rows: last(rows, "distance_decided").mean(), "<=", 0.02),
            Check("the same for all new contexts", lambda rows: last(rows, "distance_new").mean(), "<=", 0.1),
        ),
        controls=(
            Check("automaton of labels drawn anew, where its graph decides",
                  lambda rows: last(rows, "distance_decided_redrawn").mean(), "<=", 0.02),
            Check("the same for all new contexts", lambda rows: last(rows, "distance_new_redrawn").mean(), "<=", 0.1),
        ),
    ),
    Claim(
        "regularisation-path",
        "The weights of least loss in balls of growing radius turn to the same direction.",
        source="the theorem on the regularisation path, from memory",
        experiment=path,
        checks=(
            Check("correlation with W_svm in the largest ball, mean",
                  lambda rows: widest(rows, "direction").mean(), ">=", 0.97),
            Check("smallest step of the mean with the radius",
                  lambda rows: smallest_step(rows.groupby("radius").direction.mean()), ">", 0),
        ),
        controls=(
            Check("the graph SVM of labels drawn anew",
                  lambda rows: widest(rows, "direction_redrawn").mean(), ">=", 0.97),
        ),
    ),
)  # fmt: skip
