"""What `effective_state_size` reads at the paper scale only: the named public models, where a document ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.studies.memory._ess_modulation import document_ends

FALCON_MAMBA, MISTRAL = "tiiuae/falcon-mamba-7b", "mistralai/Mistral-7B-v0.1"
BILLIONS = {
    FALCON_MAMBA: 7.3, "state-spaces/mamba-2.8b-hf": 2.8, "EleutherAI/pythia-2.8b": 2.8, "microsoft/phi-2": 2.8,
    "microsoft/Phi-3-mini-4k-instruct": 3.8, MISTRAL: 7.2, "mistralai/Mistral-7B-Instruct-v0.2": 7.2,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8.0,
}  # fmt: skip
"""How many parameters they have."""
RECURRENT = {FALCON_MAMBA, "state-spaces/mamba-2.8b-hf"}


def public_models(*, model: str, texts: int, words: int, tolerances: tuple[float, ...], device: str) -> list[Row]:
    """The fall of a public model's ESS between unrelated passages, as of the built-in ones: see `document_ends`."""
    return document_ends(model=model, texts=texts, words=words, tolerances=tolerances, device=device)


def visible(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows at the tolerance from which on the paper sees the modulation of such models."""
    return rows[rows.tolerance == rows.model.map(lambda model: 1.0 if model in RECURRENT else 0.1)]


def fall_of(rows: pd.DataFrame, model: str, separator: str) -> float:
    own = visible(rows)
    return float(own[(own.model == model) & (own.separator == separator)].fall.iloc[0])


def least_fall(rows: pd.DataFrame, separator: str) -> float:
    return min(fall_of(rows, model, separator) for model in BILLIONS)


def lost_by_period(rows: pd.DataFrame, model: str) -> float:
    """The part of the fall at end of text that is not there at a period."""
    return 1 - fall_of(rows, model, "period") / fall_of(rows, model, "end of text")


CLAIMS = (
    Claim(
        "document-ends-public",
        "The named public models let go of some of their state at an end-of-text token.",
        source="section on state modulation in language models; the least fall is ours",
        experiment=public_models,
        checks=(Check("fall of ESS at end of text, least over models", lambda rows: least_fall(rows, "end of text"),
                      ">=", 0.02),),
        controls=(Check("between unrelated passages without a separator", lambda rows: least_fall(rows, "nothing"),
                        ">=", 0.02),),
    ),
    Claim(
        "period-in-public-models",
        "A period in its place costs Falcon-Mamba most of its modulation, but not Mistral-7B.",
        source="section on state modulation in language models",
        experiment=public_models,
        checks=(Check("part of the fall of Falcon-Mamba that a period costs",
                      lambda rows: lost_by_period(rows, FALCON_MAMBA), ">=", 0.5),),
        controls=(Check("the same of Mistral-7B", lambda rows: lost_by_period(rows, MISTRAL), ">=", 0.5),),
    ),
)  # fmt: skip


class PublicConfig(BaseModel):
    """Field of the study; texts, words and tolerances are those of the built-in models."""

    public_models: list[str] = Field(default=[], description="models of the hub read at ends of documents")


SETTINGS: dict[str, dict[str, Any]] = {"smoke": {}, "laptop": {}, "paper": {"public_models": list(BILLIONS)}}


def units(config: Any) -> Iterator[Unit]:
    yield from grid(
        public_models, model=config.public_models, texts=config.texts, words=config.words,
        tolerances=tuple(config.tolerances),
    )  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where no public model was read."""
    own = rows[rows.experiment == "public_models"]
    if own.empty:
        return []
    fall = visible(own).groupby(["model", "separator"], as_index=False)[["fall"]].mean()
    return [
        plot("What public models let go of between two documents",
             mark("dot", fall, x="fall", y="model", stroke="separator"),
             x={"label": "fall of ESS (part of the state)"}, y={"label": None}, color={"legend": True})
    ]  # fmt: skip
