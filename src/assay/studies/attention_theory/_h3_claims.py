"""What decides the claims of `icl_linear_attention_h3`."""

from __future__ import annotations

from functools import partial

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.attention_theory._h3_risks import closed_forms, factors, more_examples
from assay.studies.attention_theory._h3_training import trained_layers, trained_settings

Case = tuple[int, int, float]
NEAR, ROUGH, BEYOND = (100, 50, 0.2), (20, 20, 0.4), (100, 200, 0.6)  # d, n, alpha; beyond: k n = 74 d


def off(rows: pd.DataFrame, column: str, of: str = "formula") -> pd.Series:
    """How far a column of risks is from that by formula, or from another, as a part of it."""
    return (rows[column] / rows[of] - 1).abs()


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


CLAIMS = (
    Claim(
        "closed-forms",
        "The best risks of one layer have closed forms: independent, retrieved and aligned examples, drifting "
        "tasks, low rank, LoRA.",
        source="theorems on the optimal risks; exact forms derived from Gaussian moments",
        experiment=closed_forms,
        checks=(
            Check("|mean square on draws / formula - 1|, largest of six settings",
                  lambda rows: off(rows, "measured").max(), "<=", 0.02),
            Check("the same for weights fitted to draws, four settings", lambda rows: off(rows, "fitted").max(),
                  "<=", 0.02),
        ),
        controls=(
            Check("|mean square on draws / risk of who overlooks what the setting is about - 1|, smallest of six",
                  lambda rows: off(rows, "measured", "wrong").min(), "<=", 0.02),
        ),
    ),
    Claim(
        "trained-layers",
        "Trained linear attention is as good as the best step with equal weights, trained H3 as the best with free "
        "weights; they differ where tasks drift, and only there.",
        source="theorems on linear attention and H3",
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
    Claim(
        "trained-settings",
        "Training finds the risks of the formulas for retrieved and aligned examples, for weights of low rank, and "
        "for updates of low rank.",
        source="retrieval and task-feature alignment",
        experiment=trained_settings,
        checks=(
            Check("|risk / formula - 1|, largest of four settings", lambda rows: off(rows, "risk").max(), "<=",
                  0.05),
        ),
        controls=(
            Check("|risk / risk of who overlooks what the setting is about - 1|, smallest of four",
                  lambda rows: off(rows, "risk", "wrong").min(), "<=", 0.05),
        ),
    ),
    effective("retrieval", "retrieval-is-more-examples",
              "n examples that are retrieved near the query are worth (alpha^2 d + 1) n independent ones."),
    effective("alignment", "alignment-is-more-examples",
              "n examples whose inputs are aligned with the task are worth (alpha^2 d + 1) n independent ones."),
    Claim(
        "rank-and-spectrum",
        "The best risk of weights of low rank, or of a low-rank update, depends on the spectra of the task alone.",
        source="low-rank parametrisation and LoRA",
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
