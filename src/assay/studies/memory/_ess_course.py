"""What `effective_state_size` claims of the course of training, from the rows of `trained_memory`."""

from __future__ import annotations

import math

import pandas as pd

from assay.lab import Check, Claim, mark, plot, spearman
from assay.studies.memory._ess_recall import trained_memory


def while_training(rows: pd.DataFrame, *, scarce: bool) -> float:
    """Mean over models of recall of the rank correlation of ESS and accuracy from the first measurement in training to
    the last, 0 where either is constant; of models with TSS/kv of at most 1 (scarce), or at least 4."""
    models = rows[(rows.task == "recall") & (rows.mixer != "SA") & (rows.step > 0)]
    ratio = models.state / models["size"]
    curves = models[(ratio <= 1) if scarce else (ratio >= 4)].groupby(["size", "mixer", "state"])
    found = [spearman(curve.ess, curve.accuracy) for _, curve in curves]
    return sum(0.0 if math.isnan(r) else r for r in found) / len(found)


def course(rows: pd.DataFrame, mixer: str) -> pd.DataFrame:
    """From the first measurement to the last, of the model with the most pairs and the largest state."""
    own = rows[(rows.task == "recall") & (rows.mixer == mixer)]
    return own[(own["size"] == own["size"].max()) & (own.state == own.state.max())].sort_values("step")


def at_first(rows: pd.DataFrame, mixer: str) -> float:
    """ESS at the first measurement in training over ESS before it."""
    ess = course(rows, mixer).ess
    return float(ess.iloc[1] / ess.iloc[0])


def learnt_at_first(rows: pd.DataFrame, mixer: str) -> float:
    accuracy = course(rows, mixer).accuracy
    return float(accuracy.iloc[1] - accuracy.iloc[0])


def learnt_after(rows: pd.DataFrame, mixer: str) -> float:
    """Accuracy at the last measurement less that at the first in training."""
    accuracy = course(rows, mixer).accuracy
    return float(accuracy.iloc[-1] - accuracy.iloc[1])


def risen(rows: pd.DataFrame, mixer: str) -> float:
    """The last ESS over the lowest."""
    ess = course(rows, mixer).ess
    return float(ess.iloc[-1] / ess.min())


CLAIMS = (
    Claim(
        "ess-moves-with-accuracy",
        "In training, ESS and accuracy rise together where memory is scarce, and not where there is plenty.",
        source="heat map of correlations over training",
        experiment=trained_memory,
        checks=(
            Check("TSS/kv <= 1: rank correlation of ESS and accuracy in training",
                  lambda rows: while_training(rows, scarce=True), ">=", 0.5),
        ),
        controls=(
            Check("TSS/kv >= 4: the same", lambda rows: while_training(rows, scarce=False), ">=", 0.5),
        ),
    ),
    Claim(
        "ess-falls-then-rises",
        "Early in training the ESS of linear attention falls while accuracy stays; then both rise.",
        source="figures of ESS and accuracy over training",
        experiment=trained_memory,
        checks=(
            Check("LA: ESS at the first measurement over ESS before training", lambda rows: at_first(rows, "LA"),
                  "<=", 0.8),
            Check("LA: accuracy gained by then", lambda rows: learnt_at_first(rows, "LA"), "<=", 0.2),
            Check("LA: last ESS over the lowest", lambda rows: risen(rows, "LA"), ">=", 1.2),
            Check("LA: accuracy gained after that", lambda rows: learnt_after(rows, "LA"), ">=", 0.2),
        ),
        controls=(
            Check("WLA that learns nothing: last ESS over the lowest", lambda rows: risen(rows, "WLA"), ">=", 1.2),
        ),
    ),
    Claim(
        "softmax-rises-first",
        "Early in training the ESS of softmax attention rises sharply.",
        source="figures of ESS and accuracy over training",
        experiment=trained_memory,
        checks=(
            Check("SA: ESS at the first measurement over ESS before training", lambda rows: at_first(rows, "SA"),
                  ">=", 1.2),
        ),
        controls=(Check("LA: the same", lambda rows: at_first(rows, "LA"), ">=", 1.2),),
    ),
)  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Of the rows of all experiments; none where nothing was trained."""
    own = rows[rows.experiment == "trained_memory"]
    if own.empty:
        return []
    curves = pd.concat(course(own, mixer) for mixer in own.mixer.unique())
    mean = curves.groupby(["mixer", "step"], as_index=False)[["ess"]].mean()
    return [
        plot("ESS in the course of training",
             mark("line", mean, x="step", y="ess", stroke="mixer", marker=True),
             x={"label": "step of training"}, y={"label": "entropy-ESS"}, color={"legend": True})
    ]  # fmt: skip
