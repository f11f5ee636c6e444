"""What `effective_state_size` claims of ESS over the grid of states and pairs, from the rows of `trained_memory`."""

from __future__ import annotations

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.memory._ess_recall import trained_memory

RECURRENT = ["LA", "GLA", "WLA"]


def trained(rows: pd.DataFrame) -> pd.DataFrame:
    """Models of recall with a recurrence, after training."""
    return rows[(rows.task == "recall") & rows["last"] & rows.mixer.isin(RECURRENT)]


def utilisation_ahead(rows: pd.DataFrame, mixer: str) -> float:
    """Mean ESS / TSS of a mixer's models less the largest of the others'."""
    own = trained(rows)
    mean = (own.ess / own.state).groupby(own.mixer).mean()
    return float(mean[mixer] - mean.drop(mixer).max())


def from_few_to_many(rows: pd.DataFrame, *, divided: bool) -> float:
    """ESS, divided by the pairs or not, with the fewest pairs over that with the most, mean over mixers and states."""
    own = trained(rows)
    value = own.ess / own["size"] if divided else own.ess
    table = value.groupby([own.mixer, own.state, own["size"]]).mean().unstack()
    return float((table[table.columns.min()] / table[table.columns.max()]).mean())


CLAIMS = (
    Claim(
        "linear-attention-uses-most",
        "Of its theoretically realisable state, linear attention uses the largest part.",
        source="grid of ESS/kv over TSS and kv",
        experiment=trained_memory,
        checks=(
            Check("ESS/TSS of LA less that of GLA or WLA", lambda rows: utilisation_ahead(rows, "LA"), ">", 0),
        ),
        controls=(
            Check("ESS/TSS of WLA less that of LA or GLA", lambda rows: utilisation_ahead(rows, "WLA"), ">", 0),
        ),
    ),
    Claim(
        "ess-per-pair-falls",
        "The more pairs there are to recall, the less ESS there is for each.",
        source="grid of ESS/kv over TSS and kv",
        experiment=trained_memory,
        checks=(
            Check("ESS/kv with the fewest pairs over that with the most",
                  lambda rows: from_few_to_many(rows, divided=True), ">", 1),
        ),
        controls=(
            Check("the same of ESS", lambda rows: from_few_to_many(rows, divided=False), ">", 1),
        ),
    ),
)  # fmt: skip
