"""What the two studies run that the smoke scale leaves out: training, for a few steps."""

from __future__ import annotations

import torch

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.learners import Ridge
from assay.studies.attention_theory._h3_training import trained_layers
from assay.studies.attention_theory._taa_learners import FirstOnly
from assay.studies.attention_theory._taa_transformer import transformer


def test_layers_are_trained_and_compared_with_their_own_best() -> None:
    sizes = {"d": 2, "n": 6, "noise": 0.5, "steps": 20, "batch": 64, "lr": 0.02, "seed": 100, "device": "cpu"}
    torch.manual_seed(0)
    rows = {
        (layer, tasks): trained_layers(layer=layer, tasks=tasks, **sizes)
        for layer in ("attention", "H3")
        for tasks in ("one", "drifting")
    }

    assert all(0 < row["risk"] < 4 for row in rows.values())
    assert rows["attention", "one"]["equal"] == rows["H3", "one"]["weighted"]
    assert rows["H3", "drifting"]["weighted"] < rows["H3", "drifting"]["equal"]


def test_a_transformer_is_compared_on_both_priors() -> None:
    torch.manual_seed(0)
    sizes = {"d": 3, "points": 5, "noise": 0.5, "width": 8, "layers": 1, "heads": 1, "steps": 2, "batch": 8, "lr": 1e-3}
    rows = transformer(prior="power", seed=100, device="cpu", **sizes)

    assert [row["tested"] for row in rows] == ["equal", "power"]
    assert rows[1]["risk"] < rows[0]["risk"]  # the tasks themselves are smaller
    assert all(row["to_ridge"] > 0 and row["to_weighted"] > 0 for row in rows)


def test_a_reader_of_the_first_examples_is_that_learner_there_and_stands_still_afterwards() -> None:
    sampler = InContext(LinearTasks(3), GaussianInputs(), noise=0.5, dtype=torch.float64)
    xs, ys, *_ = sampler.sample(4, 9, generator=torch.Generator().manual_seed(0))
    weights, whole = FirstOnly(Ridge(1.0), 4).weights(xs, ys), Ridge(1.0).weights(xs, ys)

    torch.testing.assert_close(weights[:, :5], whole[:, :5])
    assert torch.equal(weights[:, 5:], weights[:, 4:5].expand(-1, 4, -1))
