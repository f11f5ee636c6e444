"""Findings in words: named rules, each a plain sentence with its numbers, in the order of what to know first.

A rule returns a sentence, or None where it has nothing to say. Every sentence carries an interval or an n.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from assay.measures.interval import bootstrap_difference, bootstrap_mean
from assay.report._report import Finding, Report

MOST = 7
SINK = 0.5  # attention mass on the first token from which a head counts as a sink
OVERLOAD = 0.9  # normalised entropy from which a head attends near-uniformly


def find(report: Report) -> list[Finding]:
    """At most seven sentences."""
    found = ((rule.__name__.strip("_").replace("_", "-"), rule(report)) for rule in RULES)
    return [Finding(name, text) for name, text in found if text][:MOST]


def _not_measured(report: Report) -> str | None:
    missing = report.layers[~report.layers["measured"].astype(bool)]
    if missing.empty:
        return None
    reasons = ", ".join(dict.fromkeys(missing["reason"]))
    return f"{len(missing)} of {len(report.layers)} mixers were not measured: {reasons}."


def _memory_used(report: Report) -> str | None:
    inside = report.memory[(report.tokens["position"] > 0).to_numpy()]
    if report.heads.empty or not (inside["cache_floats"] > 0).any():
        return None
    share = (inside["ess_floats"] / inside["cache_floats"]).replace(np.inf, np.nan).dropna()
    ess, cache = inside["ess_floats"].mean(), inside["cache_floats"].mean()
    low, high = share.quantile([0.1, 0.9])
    subject, owner = (
        ("the model carries", "its") if report.layers["measured"].all() else ("these layers carry", "their")
    )
    return (
        f"On this text {subject} {_count(ess)} numbers of state from token to token (entropy-ESS over all channels), "
        f"{_percent(ess / cache)} of the {_count(cache)} that {owner} cache holds; from position to position "
        f"{_percent(low)} to {_percent(high)} (n = {len(share)} positions)."
    )


def _layers_that_differ(report: Report) -> str | None:
    layers = report.layers[report.layers["measured"].astype(bool)].sort_values("utilisation")
    if len(layers) < 2:
        return None
    least, most = layers.iloc[0], layers.iloc[-1]
    heads = report.heads.set_index("layer")["utilisation"]
    low, high = (_of_heads(heads[heads.index == row["layer"]], row["kind"]) for row in (least, most))
    return (
        f"Layer {least['layer']} uses {_percent(least['utilisation'])} of the state it could {low}; "
        f"layer {most['layer']} uses {_percent(most['utilisation'])} {high}."
    )


def _of_heads(utilisation: pd.Series[float], kind: str) -> str:
    interval = bootstrap_mean(utilisation.to_numpy(dtype=float))
    ends = "" if np.isnan(interval.low) else f"[{100 * interval.low:.0f}, {100 * interval.high:.0f}], "
    return f"({ends}n = {interval.n} {'heads' if kind == 'attention' else 'groups of channels'})"


def _state_at_delimiters(report: Report) -> str | None:
    """The kind of delimiter at which the whole model's ESS changes most, among those with an interval."""
    rows = report.modulation
    rows = rows[(rows["scope"] == "model") & rows["low"].notna() & (rows["n"] >= 3)]
    if rows.empty:
        return None
    clear = rows[(rows["low"] > 0) | (rows["high"] < 0)]
    if clear.empty:
        row = rows.sort_values("n").iloc[-1]
        change = "does not measurably change"
    else:
        row = clear.sort_values("fall", key=abs).iloc[-1]
        change = f"{'falls' if row['fall'] > 0 else 'rises'} by {abs(100 * row['fall']):.1f} %"
    low, high = sorted((100 * row["low"], 100 * row["high"]))
    if row["fall"] < 0 and not clear.empty:
        low, high = -high, -low
    of_fall = "fall " if clear.empty else ""
    return f"ESS {change} at {row['delimiter']} ends ({of_fall}[{low:.1f}, {high:.1f}] %, n = {row['n']})."


def _first_token(report: Report) -> str | None:
    mass = report.heads.dropna(subset=["first_token_mass"])
    if mass.empty:
        return None
    top = mass.sort_values("first_token_mass").iloc[-1]
    sinks = int((mass["first_token_mass"] > SINK).sum())
    name, share = f"{int(top['layer'])}.{int(top['head'])}", _percent(top["first_token_mass"])
    if not sinks:
        return (
            f"No head parks its attention on the first token: head {name} most, with {share} (n = {len(mass)} heads)."
        )
    return (
        f"Head {name} attends to the first token with {share} of its mass; {sinks} of n = {len(mass)} heads give it "
        "more than half."
    )


def _attention_entropy(report: Report) -> str | None:
    heads = report.heads[report.heads["regime"] != ""]
    if heads.empty:
        return None
    collapsed = int((heads["regime"] == "collapse").sum())
    overloaded = heads[heads["regime"] == "overload"]
    uniform = int((heads["normalised_entropy"] > OVERLOAD).sum())
    return (
        f"Attention entropy: {collapsed} of n = {len(heads)} heads are in the lowest quarter of the range seen "
        f"(collapse), {len(overloaded)} in the highest (overload); {uniform} attend near-uniformly "
        f"(over {_percent(OVERLOAD)} of the maximum)."
    )


def _recall_of_bigrams(report: Report) -> str | None:
    hits = report.recall[report.recall["hit"].astype(bool)]["surprisal"].replace(np.inf, np.nan).dropna()
    others = report.recall[~report.recall["hit"].astype(bool)]["surprisal"].replace(np.inf, np.nan).dropna()
    if len(hits) < 5 or len(others) < 5:
        return None
    difference = bootstrap_difference(others.to_numpy(), hits.to_numpy())
    low, high = difference.low, difference.high
    if low <= 0 <= high:
        verdict = f"no measurable difference [{low:.1f}, {high:.1f}]"
    elif low > 0:
        verdict = f"{difference.mean:.1f} bits less [{low:.1f}, {high:.1f}]"
    else:
        verdict = f"{-difference.mean:.1f} bits more [{-high:.1f}, {-low:.1f}]"
    return (
        f"Tokens that complete a bigram already seen cost {hits.mean():.1f} bits, others {others.mean():.1f}: "
        f"{verdict} (n = {len(hits)} and {len(others)})."
    )


def _representation(report: Report) -> str | None:
    geometry = report.geometry
    if len(geometry) < 2:
        return None
    first, last = geometry.iloc[0], geometry.iloc[-1]
    return (
        f"The hidden states span {first['rankme_eigenvalues']:.0f} effective dimensions at the embeddings and "
        f"{last['rankme_eigenvalues']:.0f} after the last layer, of {int(last['dimension'])} "
        f"(RankMe, n = {int(last['num_samples'])} tokens)."
    )


RULES: tuple[Callable[[Report], str | None], ...] = (
    _not_measured,
    _memory_used,
    _layers_that_differ,
    _state_at_delimiters,
    _first_token,
    _attention_entropy,
    _recall_of_bigrams,
    _representation,
)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.2g} %"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f} million"
