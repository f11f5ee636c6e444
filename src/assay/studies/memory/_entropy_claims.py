"""What is claimed of entropy and its penalty, and what decides."""

from __future__ import annotations

from functools import partial

import pandas as pd

from assay.lab import Check, Claim
from assay.measures.head_entropy import head_entropy_histogram
from assay.studies.memory._entropy_penalty import free_heads, penalty_shape
from assay.studies.memory._entropy_text import text_model

MARGIN, SWALLOWS_ALL = 0.2, 1.0
SOFTMAX_ONLY = "SM(t)+ScFuFFN"


def distance_from_definition(rows: pd.DataFrame, margin: float) -> float:
    """Largest |penalty - dev^2 outside the margin of 0.2 and 0 inside|."""
    own = rows[rows.margin == margin]
    return float((own.penalty - own.off.pow(2).where(~own.inside, 0.0)).abs().max())


def after(rows: pd.DataFrame, margin: float, column: str) -> float:
    return float(rows[(rows.margin == margin) & (rows.step == rows.step.max())][column].iloc[0])


def heads_of(rows: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Without the penalty."""
    return rows[(rows.variant == variant) & (rows.coef == 0)]


def penalised(rows: pd.DataFrame, learned: bool) -> pd.DataFrame:
    return rows[(rows.coef > 0) & (rows.learned == learned)]


def overloaded(rows: pd.DataFrame) -> float:
    """Share of heads in the top quarter of the entropy that is attainable; undefined where training diverged."""
    if rows.normalised.isna().any():
        return float("nan")
    return float(head_entropy_histogram(rows.normalised, largest=1.0)[-1])


def first_layer_gap(rows: pd.DataFrame, variant: str) -> float:
    """Its share of overloaded heads in the first layer, minus that of the model with norms and GELU."""
    own, baseline = (heads_of(rows[rows.layer == 0], name) for name in (variant, "SM+LN+G"))
    return overloaded(own) - overloaded(baseline)


def loss_gap(rows: pd.DataFrame, one: str, other: str) -> float:
    return float(heads_of(rows, one).test_loss.iloc[0] - heads_of(rows, other).test_loss.iloc[0])


def relief(rows: pd.DataFrame, learned: bool) -> float:
    """How much lower the share of overloaded heads is with the penalty."""
    return overloaded(heads_of(rows, SOFTMAX_ONLY)) - overloaded(penalised(rows, learned))


def cost(rows: pd.DataFrame, learned: bool) -> float:
    """Of the penalty, as a part of the test loss."""
    return float(penalised(rows, learned).test_loss.iloc[0] / heads_of(rows, SOFTMAX_ONLY).test_loss.iloc[0] - 1)


def relief_by_relu(rows: pd.DataFrame) -> float:
    """How much lower it is in another model without norms, which has no penalty either."""
    return overloaded(heads_of(rows, SOFTMAX_ONLY)) - overloaded(heads_of(rows, "SM+R"))


ForAll = partial(Check, every_seed=True)
CLAIMS = (
    Claim(
        "penalty",
        "The penalty is the square of the deviation from the threshold outside the margin, and 0 inside.",
        source="definition of the penalty, and its algorithm",
        experiment=penalty_shape,
        checks=(
            ForAll("largest distance from the definition", partial(distance_from_definition, margin=MARGIN),
                   "<=", 1e-9),
            ForAll("sum over queries over their mean, relative to the number of queries, minus 1",
                   lambda rows: (rows.queries[rows.penalty > 0] / rows.all_queries.iloc[0] - 1).abs().max(),
                   "<=", 1e-9),
        ),
        controls=(ForAll("the same with a margin of 1", partial(distance_from_definition, margin=SWALLOWS_ALL),
                         "<=", 1e-9),),
    ),
    Claim(
        "moves-heads",
        "Descending the penalty alone makes flat heads sharper and sharp heads flatter.",
        source="design principles of the method",
        experiment=free_heads,
        checks=(
            ForAll("share of the flat heads still in the top quarter", partial(after, margin=MARGIN, column="flat"),
                   "<=", 0.1),
            ForAll("share of the sharp heads still in the bottom quarter",
                   partial(after, margin=MARGIN, column="sharp"), "<=", 0.1),
        ),
        controls=(
            ForAll("flat heads with a margin of 1", partial(after, margin=SWALLOWS_ALL, column="flat"), "<=", 0.1),
            ForAll("sharp heads with a margin of 1", partial(after, margin=SWALLOWS_ALL, column="sharp"), "<=", 0.1),
        ),
    ),
    Claim(
        "overload",
        "Without layer norms, GELU leaves the heads of the first layer near-uniform: entropic overload.",
        source="figures of head entropy by layer",
        experiment=text_model,
        checks=(Check("share of overloaded heads in the first layer, SM+G minus SM+LN+G",
                      partial(first_layer_gap, variant="SM+G"), ">=", 0.2),),
        controls=(Check("SM+LN+R minus SM+LN+G: the norms kept", partial(first_layer_gap, variant="SM+LN+R"),
                        ">=", 0.2),),
    ),
    Claim(
        "relu-without-norms",
        "Without layer norms, ReLU is better than GELU.",
        source="table of perplexities: 2.94 and 3.20",
        experiment=text_model,
        checks=(Check("test loss in nats, SM+G minus SM+R", partial(loss_gap, one="SM+G", other="SM+R"), ">=", 0.05),),
        controls=(Check("with norms: SM+LN+G minus SM+LN+R", partial(loss_gap, one="SM+LN+G", other="SM+LN+R"),
                        ">=", 0.05),),
    ),
    Claim(
        "gelu-with-norms",
        "With layer norms, GELU is slightly better than ReLU.",
        source="table of perplexities: 2.69 and 2.76",
        experiment=text_model,
        checks=(Check("test loss in nats, SM+LN+R minus SM+LN+G", partial(loss_gap, one="SM+LN+R", other="SM+LN+G"),
                      ">", 0),),
        controls=(Check("without norms: SM+R minus SM+G", partial(loss_gap, one="SM+R", other="SM+G"), ">", 0),),
    ),
    *(
        Claim(
            slug, text, source=source, experiment=text_model,
            checks=(
                Check("share of overloaded heads, without minus with the penalty", partial(relief, learned=learned),
                      ">=", 0.2),
                Check("test loss with the penalty over that without, minus 1", partial(cost, learned=learned),
                      "<=", 0.02),
            ),
            controls=(Check(words, control, ">=", 0.2),),
        )
        for slug, text, source, learned, words, control in (
            ("penalty-lowers-overload",
             "In a softmax-only model the penalty lowers the share of overloaded heads, at no cost in loss.",
             "section 5, Fig. 5f, Table 3", True, "the same for plain MLPs with ReLU, no penalty",
             relief_by_relu),
            ("with-fixed-thresholds", "So it does where the thresholds are not learned, but stay at a half.",
             "none: assay's own variation", False, "the same share with learned thresholds",
             partial(relief, learned=True)),
        )
    ),
    Claim(
        "thresholds-differ",
        "The learned thresholds differ from head to head.",
        source="learned thresholds of the penalty",
        experiment=text_model,
        checks=(Check("standard deviation of the thresholds over heads",
                      lambda rows: penalised(rows, learned=True).threshold.std(), ">=", 0.02),),
        controls=(Check("the same with lambda = 0", lambda rows: heads_of(rows, SOFTMAX_ONLY).threshold.std(),
                        ">=", 0.02),),
    ),
)  # fmt: skip
