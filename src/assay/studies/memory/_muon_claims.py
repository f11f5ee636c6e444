"""What is claimed of Muon, latent attention and mixtures of experts, and what decides."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd

from assay.lab import Check, Claim
from assay.studies.memory._muon_cache import cache
from assay.studies.memory._muon_matrices import associations, bound, orthogonalisation
from assay.studies.memory._muon_text import text_model

HALF, MOST = 0.5, 0.8  # of AdamW's steps
DENSE, LATENT, UNPLACED = "attention", "latent-attention", "latent-attention without positions"


def singular_value(rows: pd.DataFrame, coefficients: str, column: str) -> float:
    return float(rows[rows.coefficients == coefficients][column].iloc[0])


def norm(rows: pd.DataFrame, optimizer: str) -> pd.Series:
    """||W_t||_2 over the bound, from the first step to the last."""
    return rows[rows.optimizer == optimizer].sort_values("step").norm


def steps_ratio(rows: pd.DataFrame, optimizer: str, batch: int) -> float:
    """Steps to a loss of 1, over Adam's, each with its best rate."""
    best = rows[(rows.target == 1.0) & (rows.batch == batch)].groupby("optimizer").steps_needed.min()
    return float(best[optimizer] / best["Adam"])


def held_out(rows: pd.DataFrame, optimizer: str, part: float = 1.0, mixer: str = DENSE, balance: str = "") -> float:
    """With the best rate, after this part of the most steps that there are."""
    experts = rows.balance.isna() if not balance else rows.balance == balance
    own = rows[(rows.optimizer == optimizer) & (rows.mixer == mixer) & experts]
    return float(own[own.steps == round(part * rows.steps.max())].test_loss.min())


def behind_adamw(rows: pd.DataFrame, optimizer: str, part: float) -> float:
    return held_out(rows, optimizer, part) - held_out(rows, "AdamW")


def cost_of(rows: pd.DataFrame, mixer: str) -> float:
    """Of another attention, as a part of the loss."""
    return held_out(rows, "AdamW", mixer=mixer) / held_out(rows, "AdamW") - 1


def perplexity_ratio(rows: pd.DataFrame, optimizer: str) -> float:
    """Latent attention and experts trained by this optimizer, over full attention and dense MLPs by AdamW."""
    return math.exp(held_out(rows, optimizer, 1.0, LATENT, "loss") - held_out(rows, "AdamW"))


def evenness(rows: pd.DataFrame, balance: str) -> float:
    return float(rows[(rows.balance == balance) & (rows.mixer == DENSE)].evenness.min())


def saved(rows: pd.DataFrame, attention: str) -> float:
    numbers = rows.set_index("attention").numbers
    return float(1 - numbers[attention] / numbers["full"])


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "orthogonalisation",
        "Five Newton-Schulz steps bring all singular values near 1 and keep the singular vectors.",
        source="Newton-Schulz coefficients (3.4445, -4.7750, 2.0315)",
        experiment=orthogonalisation,
        checks=(
            ForAll("smallest singular value", lambda rows: singular_value(rows, "Muon", "smallest"), ">=", 0.65),
            ForAll("largest singular value", lambda rows: singular_value(rows, "Muon", "largest"), "<=", 1.25),
            ForAll("least cosine with the singular vectors",
                   lambda rows: singular_value(rows, "Muon", "least_cosine"), ">", 0.999),
            ForAll("largest change by transposition",
                   lambda rows: singular_value(rows, "Muon", "off_by_transposition"), "<=", 1e-9),
            ForAll("largest change by a factor of 1000", lambda rows: singular_value(rows, "Muon", "off_by_scale"),
                   "<=", 1e-5),
        ),
        controls=(
            ForAll("smallest singular value with the classical coefficients",
                   lambda rows: singular_value(rows, "classical", "smallest"), ">=", 0.65),
        ),
    ),
    Claim(
        "spectral-bound",
        "With weight decay wd, Muon keeps the spectral norm of a matrix below max(||W_0||, c / wd).",
        source="spectral regularisation; times 1.25, as five steps overshoot 1",
        experiment=bound,
        checks=(
            ForAll("largest norm over the bound", lambda rows: norm(rows, "Muon").max(), "<=", 1.25),
            ForAll("last norm over the bound: it is reached", lambda rows: norm(rows, "Muon").iloc[-1], ">=", 0.6),
        ),
        controls=(
            ForAll("AdamW with the same decay", lambda rows: norm(rows, "AdamW").max(), "<=", 1.25),
            ForAll("Muon without decay", lambda rows: norm(rows, "Muon without decay").max(), "<=", 1.25),
        ),
    ),
    *(
        Claim(
            slug, text, source=source, experiment=associations,
            checks=(ForAll("steps to a loss of 1, over Adam's", partial(steps_ratio, optimizer="Muon", batch=batch),
                           "<=", 0.8),),
            controls=(ForAll("the same without orthogonalisation",
                             partial(steps_ratio, optimizer="normalised momentum", batch=batch), "<=", 0.8),),
        )
        for slug, text, source, batch in (
            ("fewer-steps", "Muon needs fewer steps than Adam, on an associative memory of unequal frequencies.",
             "data efficiency; the toy is assay's", 64),
            ("large-batches", "Muon keeps its advantage at large batches, on the same memory.",
             "compute-time trade-off at large batch sizes", 512),
        )
    ),
    *(
        Claim(
            slug, text, source="abstract: 48-52 % of the compute", experiment=text_model,
            checks=(Check(f"its test loss after {part:.0%} of the steps, minus AdamW's after all",
                          partial(behind_adamw, optimizer="Muon", part=part), "<=", 0),),
            controls=(Check("the same without orthogonalisation",
                            partial(behind_adamw, optimizer="normalised momentum", part=part), "<=", 0),),
        )
        for slug, text, part in (
            ("four-fifths", "On text, Muon is where AdamW ends in at most four fifths of its steps.", MOST),
            ("half", "On text, Muon is where AdamW ends in at most half of its steps.", HALF),
        )
    ),
    Claim(
        "cache",
        "Latent attention keeps 68 % fewer numbers for each token than full attention, and decodes without unpacking.",
        source="abstract: 68 % memory reduction; d = 512, latent d / 2, rotary 64",
        experiment=cache,
        checks=(
            ForAll("part of the cache that is saved", lambda rows: saved(rows, "latent"), ">=", 0.68),
            ForAll("relative difference of decoding and the parallel form", lambda rows: rows.off_by.max(), "<=", 1e-9),
        ),
        controls=(ForAll("the same with a latent of full rank", lambda rows: saved(rows, "latent of full rank"),
                         ">=", 0.68),),
    ),
    Claim(
        "positions",
        "Latent attention costs at most 5 % of the loss, which takes its decoupled rotary key.",
        source="latent attention with decoupled rotary embedding; the criterion is assay's",
        experiment=text_model,
        checks=(Check("its test loss over that of full attention, minus 1", partial(cost_of, mixer=LATENT),
                      "<=", 0.05),),
        controls=(Check("the same without the rotary key", partial(cost_of, mixer=UNPLACED), "<=", 0.05),),
    ),
    Claim(
        "load-balance",
        "Balancing by a loss or by a bias keeps all experts in use.",
        source="mixture of experts; criterion: entropy of the load over ln E, worst layer",
        experiment=text_model,
        checks=(
            Check("evenness with the balance loss", partial(evenness, balance="loss"), ">=", 0.8),
            Check("evenness with the bias", partial(evenness, balance="bias"), ">=", 0.8),
        ),
        controls=(Check("evenness without", partial(evenness, balance="none"), ">=", 0.8),),
    ),
    Claim(
        "together",
        "Latent attention, experts and Muon together lower perplexity by 8 % or more.",
        source="abstract: 8-12 %",
        experiment=text_model,
        checks=(Check("perplexity, over full attention and dense MLPs with AdamW",
                      partial(perplexity_ratio, optimizer="Muon"), "<=", 0.92),),
        controls=(Check("the same two with AdamW", partial(perplexity_ratio, optimizer="AdamW"), "<=", 0.92),),
    ),
)  # fmt: skip
