"""Hybrids of GLA and attention: what is measured of each kind, and what claims decide on made-up rows."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch

from assay.lab import Claim, judge
from assay.nn import GLA, SA
from assay.studies.memory import _ess_hybrids as hybrids
from assay.studies.memory.effective_state_size import EffectiveStateSize

SIZES = {"layers": 3, "width": 16, "state": 2, "heads": 2, "pairs": 2, "vocab_size": 8, "steps": 2, "batch": 4}
FOUR = [places for count in range(3) for places in itertools.combinations(range(4), count)]


def test_each_kind_of_layer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([3.0, 1.0, 2.0])
    kinds: list[type] = []

    def seen(model: torch.nn.Module, ids: torch.Tensor) -> list[tuple[torch.nn.Module, None]]:
        del ids
        found = [layer.mixer for layer in model.layers]  # type: ignore[union-attr]
        kinds.extend(type(mixer) for mixer in found)
        return [(mixer, None) for mixer in found]

    monkeypatch.setattr(hybrids, "operators", seen)
    monkeypatch.setattr(hybrids, "mean_ess", lambda T, tolerance: next(measured) if tolerance == 0.1 else T)
    row = hybrids.hybrid(attention=(0, 2), **SIZES, lr=1e-3, seed=100, device="cpu")

    assert kinds == [SA, GLA, SA]
    assert (row["most_sa_ess"], row["mean_sa_ess"], row["most_gla_ess"]) == (3.0, 2.5, 1.0)
    assert row["placement"] == "0 and 2"


def test_without_attention_its_ess_is_zero() -> None:
    row = hybrids.hybrid(attention=(), **SIZES, lr=1e-3, seed=100, device="cpu")

    assert row["most_sa_ess"] == row["mean_sa_ess"] == 0
    assert row["most_gla_ess"] > 0
    assert row["placement"] == "none"


def test_the_order_is_that_of_a_loop() -> None:
    torch.manual_seed(100)
    own = pd.DataFrame(
        {"accuracy": torch.rand(9).tolist(), "ess": (4 * torch.rand(9)).round().tolist(), "layers": 4, "placement": "0"}
    )
    none = pd.DataFrame([{"accuracy": 0.0, "ess": 9.0, "layers": 4, "placement": "none"}])  # has no attention to tell
    right, pairs = 0.0, 0
    for (_, a), (_, b) in itertools.permutations(own.iterrows(), 2):
        if a.accuracy - b.accuracy >= 0.1:
            pairs += 1
            right += 1.0 if a.ess > b.ess else 0.5 if a.ess == b.ess else 0.0

    assert hybrids.ordered(pd.concat([own, none]), "ess") == pytest.approx(right / pairs)
    assert pd.isna(hybrids.ordered(own.assign(accuracy=0.5), "ess"))


def made(
    first: float = 0.2, later: float = 0.9, beside: float = 0.9, fourth: float = 0.2, *, none: float = 0.2,
    collapsed: float = 0.5, gla: float = 1.0,
) -> pd.DataFrame:  # fmt: skip
    """Rows where attention in the first layer recalls `first`, in another `later`, in the first and another `beside`,
    and `fourth` where it is in the fourth of eight. ESS of attention is 4 where a model recalls, and `collapsed` where
    it does not; `gla` times the accuracy is that of GLA, or 1."""
    four = dict.fromkeys(FOUR, later) | {places: beside for places in FOUR if 0 in places}
    eight = {(): none, (0,): first, (3,): fourth, (2, 5): 0.6, (1, 3, 5): 0.2, (1, 3, 5, 7): 0.95}
    rows = []
    for layers, accuracy in ((4, four | {(): none, (0,): first}), (8, eight)):
        for places, value in accuracy.items():
            most = (4 if value > 0.5 else collapsed) if places else 0.0
            diluted = 0 in places and len(places) > 1  # the mean, by a layer that does nothing
            rows.append({
                "layers": layers, "placement": hybrids.named(places), "accuracy": value, "most_sa_ess": most + value,
                "mean_sa_ess": most / (1 + diluted), "most_gla_ess": gla * value if gla > 1 else 1.0,
            })  # fmt: skip
    return pd.concat(pd.DataFrame(rows).assign(seed=seed) for seed in range(5))


@pytest.mark.parametrize(
    ("slug", "rows", "verdict"),
    [
        ("layer-order", made(), "holds"),
        ("layer-order", made(later=0.3), "fails"),
        ("layer-order", made(first=0.6, later=0.95), "fails"),  # the first recalls as well
        ("layer-order", made(none=0.6), "void"),
        ("first-beside-another", made(), "holds"),
        ("first-beside-another", made(beside=0.4), "fails"),
        ("first-beside-another", made(first=0.8), "fails"),
        ("first-beside-another", made(none=0.6), "void"),
        ("attention-ess-tells", made(), "holds"),
        ("attention-ess-tells", made(collapsed=9.0), "fails"),
        ("attention-ess-tells", made(gla=5.0), "void"),
        ("mean-ess-tells-less", made(collapsed=3.0), "holds"),
        ("mean-ess-tells-less", made(later=0.2, beside=0.2), "fails"),
        ("mean-ess-tells-less", made(collapsed=3.0, gla=5.0), "void"),
        ("jamba-order", made(), "holds"),
        ("jamba-order", made(fourth=0.9), "fails"),
        ("jamba-order", made(first=0.6), "void"),
    ],
)
def test_claims_ask_what_the_paper_says(slug: str, rows: pd.DataFrame, verdict: str) -> None:
    claim = next(claim for claim in hybrids.CLAIMS if claim.slug == slug)

    assert judge(claim, rows).verdict == verdict


@pytest.mark.parametrize("claim", hybrids.CLAIMS, ids=lambda claim: claim.slug)
def test_what_was_not_run_decides_nothing(claim: Claim) -> None:
    rows = made()

    fewer = rows[(rows.layers == 8) & ~rows.placement.isin(["3"])]
    assert judge(claim, fewer).verdict == "inconclusive"


def test_placements_of_each_scale() -> None:
    study = EffectiveStateSize()

    def placements(scale: str) -> dict[int, list[tuple[int, ...]]]:
        found: dict[int, list[tuple[int, ...]]] = {4: [], 8: []}
        for unit in study.units(study.scales[scale]):
            if unit.experiment is hybrids.hybrid:
                found[unit.settings["layers"]].append(unit.settings["attention"])
        return found

    assert placements("smoke") == {4: [], 8: []}
    assert placements("laptop")[4] == FOUR
    assert len(placements("paper")[4]) == 16
    assert placements("laptop")[8] == placements("paper")[8] == hybrids.EIGHT


def test_a_figure_has_a_row_for_each_placement() -> None:
    rows = made(0.2, 0.9, 0.9, 0.2).assign(experiment="hybrid")

    four, eight = hybrids.figures(rows)
    assert [len(figure["marks"][1]["data"]) for figure in (four, eight)] == [11, 6]
    assert hybrids.figures(rows.assign(experiment="another")) == []
