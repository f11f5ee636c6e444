"""What the studies of the dynamical-systems framework and of Zoology are made of, on sizes that train in no time."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from assay._errors import InputError
from assay.lab import judge
from assay.studies.memory import _dsf_experiments as dsf
from assay.studies.memory import _zoology_experiments as zoology
from assay.studies.memory.dynamical_systems_framework import (
    MAIN,
    ONE_PAIR,
    TOO_MANY,
    DynamicalSystemsFramework,
    accuracy,
    gain,
)
from assay.studies.memory.zoology_mqar import ZoologyMQAR, closed, smallest_width, widening

SIZES = {"vocabulary": 64, "width": 16, "batch": 32, "seed": 100, "device": "cpu"}


@pytest.mark.parametrize("mixer", ["softmax", "ssd", "sum", "exp", "softplus", "sigmoid", "qlstm", "qlstm-reversed"])
def test_every_mixer_of_the_framework_can_be_trained(mixer: str) -> None:
    row = dsf.recall(mixer=mixer, key_size=4, pairs=2, length=16, steps=2, lr=0.01, **SIZES)
    assert 0 <= row["accuracy"] <= 1
    assert row["trained"] == 2


@pytest.mark.parametrize("mixer", zoology.PATTERNS)
def test_every_mixer_of_zoology_can_be_trained(mixer: str) -> None:
    rows = zoology.recall(mixer=mixer, length=16, pairs=2, power_a=0.01, steps=2, lr=0.01, budget=0.1, **SIZES)
    assert [row["selected"] for row in rows] == ["learned", "at random"][: 1 + (mixer == "selective attention")]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    if len(rows) > 1:
        assert rows[0]["share"] == pytest.approx(rows[1]["share"])  # as many positions, elsewhere


def test_the_bigram_model_is_a_probability_and_counts_what_came_before() -> None:
    rng = np.random.default_rng(0)
    train, ids = [rng.integers(0, 6, 50) for _ in range(3)], rng.integers(0, 6, 30)
    model = zoology.Bigram(train, 7)
    counts = Counter((int(a), int(b)) for one in train for a, b in pairwise(one))
    assert model.counts == counts
    plain, cached = model.probabilities(ids)
    for t in range(1, len(ids)):
        a, b = int(ids[t - 1]), int(ids[t])
        first = sum(n for (x, _), n in counts.items() if x == a)
        p = (counts[a, b] + 2 * model.unigram[b]) / (first + 2)
        followers = [int(ids[s]) for s in range(1, t) if ids[s - 1] == a]
        assert plain[t - 1] == pytest.approx(p)
        q = followers.count(b) / len(followers) if followers else p
        assert cached[t - 1] == pytest.approx(0.9 * p + 0.1 * q)
    for a in range(6):  # both sum to 1 over what may follow
        ends = [np.append(ids, [a, b]) for b in range(7)]
        for which in (0, 1):
            assert sum(model.probabilities(one)[which][-1] for one in ends) == pytest.approx(1)


def table(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"seed": 0} | columns)


def test_the_smallest_width_is_that_from_which_on_all_solve_the_task() -> None:
    rows = table(
        length=[16, 16, 16, 32, 32, 32, 64, 64, 64],
        width=[8, 16, 32] * 3,
        accuracy=[0.95, 0.97, 1.0, 0.95, 0.2, 0.99, 0.1, 0.2, 0.3],
    )
    assert smallest_width(rows).to_dict() == {16: 8, 32: 32, 64: 64}  # the last: twice the largest
    assert widening(rows) == 8


def test_the_part_of_the_gap_that_is_closed() -> None:
    rows = table(
        mixer=["convolution", "attention", "selective attention", "selective attention", "attention"],
        selected=["learned", "learned", "learned", "at random", "learned"],
        budget=[0.1, 0.1, 0.1, 0.1, 1.0],
        accuracy=[0.2, 1.0, 0.9, 0.3, 0.0],
    )
    assert closed(rows, "learned") == pytest.approx(0.875)
    assert closed(rows, "at random") == pytest.approx(0.125)


def test_pairs_are_given_for_each_length() -> None:
    config = ZoologyMQAR.Config(lengths=[16, 32], pairs=[2])
    with pytest.raises(InputError, match="pairs has 1 numbers; expected 2, as lengths has"):
        list(ZoologyMQAR().units(config))


def test_accuracies_are_of_the_task_and_state_that_is_asked_for() -> None:
    runs = [
        ("exp", 8, 1, 0.99), ("exp", 8, 8, 0.9), ("exp", 4, 16, 0.1),
        ("sum", 2, 1, 0.98), ("sum", 32, 1, 1.0), ("sum", 8, 1, 0.97),
        ("sum", 2, 8, 0.3), ("sum", 32, 8, 0.95), ("sum", 8, 8, 0.7), ("sum", 4, 16, 0.2),
        ("qlstm", 8, 1, 0.96), ("qlstm", 8, 2, 0.5),
    ]  # fmt: skip
    rows = pd.DataFrame(runs, columns=["mixer", "key_size", "pairs", "accuracy"])

    assert accuracy(rows, "exp") == 0.9
    assert accuracy(rows, "sum", task=MAIN) == 0.7
    assert accuracy(rows, "sum", task=ONE_PAIR) == 0.97
    assert accuracy(rows, "sum", task=TOO_MANY) == 0.2
    assert accuracy(rows, "sum", state=32) == 0.95
    assert accuracy(rows, "qlstm") == 0.5
    assert gain(rows) == pytest.approx(0.65)
    assert gain(rows, task=ONE_PAIR) == pytest.approx(0.02)


def test_the_ladder_has_binomial_states() -> None:
    torch.manual_seed(0)
    rows = dsf.ladder(degrees=(1, 2), width=3, length=24, stds=(0.5,))
    assert [row["state"] for row in rows] == [math.comb(3 + p, p) for p in (1, 2)]
    assert [row["rank"] for row in rows] == [4, 10]


@pytest.mark.parametrize(
    ("ssd", "exp", "linear", "verdict"),
    [(0.95, 0.93, 0.6, "holds"), (0.9, 0.99, 0.6, "holds"), (0.95, 0.8, 0.6, "fails"), (0.95, 0.93, 0.93, "void")],
)
def test_normalised_attention_comes_close_to_ssd(ssd: float, exp: float, linear: float, verdict: str) -> None:
    claim = next(claim for claim in DynamicalSystemsFramework.claims if claim.slug == "normalised-nears-ssd")
    rows = pd.DataFrame(
        {"mixer": mixer, "key_size": 8, "pairs": pairs, "accuracy": accuracy, "seed": seed}
        for seed in range(5)
        for mixer, recalled in (("ssd", ssd), ("exp", exp), ("sum", linear))
        for pairs, accuracy in ((1, 1.0), (8, recalled), (16, 0.1))
    )

    assert judge(claim, rows).verdict == verdict
