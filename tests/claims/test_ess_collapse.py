"""What the trained claims on collapse and distillation decide, on rows made up; and what their models and data are."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from assay.lab import judge
from assay.studies.memory import _ess_collapse as collapse
from assay.studies.memory import _ess_collapse_claims as collapse_claims
from assay.studies.memory import _ess_distilled as distilled

# (mixer, decay, penalty, state): accuracy, ESS, as the paper has it
PAPER = {
    ("LA", "none", 0, 8): (0.3, 4), ("LA", "none", 0, 32): (0.8, 8),
    ("GLA", "fast", 0, 32): (0.3, 3), ("GLA", "fast", 0.125, 32): (0.9, 9), ("GLA", "fast", -0.125, 32): (0.1, 1),
    ("WLA", "fast", 0, 32): (0.2, 2), ("WLA", "fast", 0.125, 32): (0.9, 9), ("WLA", "fast", -0.125, 32): (0.1, 1),
    ("GLA", "slow", 0, 8): (0.5, 4), ("GLA", "slow", 0, 32): (0.8, 8), ("WLA", "slow", 0, 32): (0.7, 7),
    ("GLA-S6", "fast", 0, 8): (0.05, 1), ("GLA-S6", "fast", 0, 32): (0.05, 1), ("GLA-S6", "slow", 0, 32): (0.9, 8),
    ("S6", "fast", 0, 32): (0.05, 1),
}  # fmt: skip


def rows(models: dict[tuple[str, str, float, int], tuple[float, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "seed": seed, "mixer": mixer, "decay": decay, "penalty": penalty, "state": state, "ess": ess,
            "accuracy": accuracy + 0.001 * seed, "accuracy_few": 0.99, "utilisation": ess / state,
        }
        for (mixer, decay, penalty, state), (accuracy, ess) in models.items()
        for seed in range(5)
    )  # fmt: skip


@pytest.mark.parametrize("claim", collapse_claims.CLAIMS, ids=lambda claim: claim.slug)
def test_a_claim_holds_on_the_papers_pattern_and_fails_where_nothing_differs(claim: collapse_claims.Claim) -> None:
    assert judge(claim, rows(PAPER)).verdict == "holds"
    assert judge(claim, rows(dict.fromkeys(PAPER, (0.5, 5.0)))).verdict == "fails"


def test_a_penalty_that_helps_with_either_sign_is_void() -> None:
    either = PAPER | {("WLA", "fast", -0.125, 32): (0.9, 9.0)}
    (claim,) = (claim for claim in collapse_claims.CLAIMS if claim.slug == "penalty-wla")

    assert judge(claim, rows(either)).verdict == "void"


def test_every_model_that_a_claim_reads_is_run() -> None:
    units = [unit.settings for unit in collapse_claims.units(collapse_claims.CollapseConfig())]
    run = {(unit["mixer"], unit["decay"], unit["penalty"], unit["state"]) for unit in units}

    assert run == set(PAPER)
    assert list(collapse_claims.units(collapse_claims.CollapseConfig(collapse_steps=0))) == []


def test_a_batch_has_as_many_tokens_with_fewer_pairs() -> None:
    task = collapse.Task(pairs=16, room=4, vocab=64, batch=4)
    shapes = {tuple(task.draw_batch(torch.Generator().manual_seed(seed)).inputs.shape) for seed in range(20)}

    assert shapes == {(4, 64), (8, 32), (16, 16)}


def test_a_key_stands_beside_its_value() -> None:
    torch.manual_seed(0)
    embed = collapse.ConvolvedEmbedding(8, 4)
    ids = torch.tensor([[1, 2, 3], [4, 2, 3]])
    x = embed(ids)

    assert not torch.allclose(x[0, 1], x[1, 1])  # of token 2 behind another one
    torch.testing.assert_close(x[0, 2], x[1, 2])  # and no further back


def test_a_run_is_the_same_for_its_seed_and_the_penalty_changes_it() -> None:
    unit = next(
        u
        for u in collapse_claims.units(collapse_claims.CollapseConfig(collapse_steps=2))
        if u.settings["mixer"] == "WLA"
    )

    def run(penalty: float) -> dict[str, float]:
        torch.manual_seed(0)
        return collapse.recall(**(dict(unit.settings) | {"penalty": penalty}), seed=0, device="cpu")

    first = run(0.125)
    assert first == run(0.125)
    assert first["initial_ess"] == run(0.0)["initial_ess"]
    assert first["ess"] != run(0.0)["ess"]


def test_distillation_holds_where_only_the_small_student_loses_by_the_teachers_ess() -> None:
    (claim,) = (claim for claim in distilled.CLAIMS if claim.slug == "trained-distillation")

    def table(small: list[float], large: list[float]) -> pd.DataFrame:
        known = {"ess": [1.0, 2, 3, 4], "tss": 32, "teacher_accuracy": 0.9}
        own = [
            pd.DataFrame(known | {"student": size, "operator_error": lost, "accuracy": [0.9 - loss for loss in lost]})
            for size, lost in ((4, small), (16, large))
        ]
        return pd.concat([one.assign(seed=seed) for one in own for seed in range(5)])

    rising, falling = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    assert judge(claim, table(rising, falling)).verdict == "holds"
    assert judge(claim, table(falling, falling)).verdict == "fails"
    assert judge(claim, table(rising, rising)).verdict == "void"


def test_students_come_nearer_to_their_teachers() -> None:
    (claim,) = (claim for claim in distilled.CLAIMS if claim.slug == "student-nears-teacher")

    def table(small: float, large: float) -> pd.DataFrame:
        return pd.DataFrame(
            {"seed": seed, "student": size, "ess": ess, "student_ess": part * ess + 0.001 * seed}
            for seed in range(5)
            for size, part in ((4, small), (16, large))
            for ess in (2.0, 4.0)
        )

    assert judge(claim, table(0.6, 0.95)).verdict == "holds"
    assert judge(claim, table(0.95, 0.6)).verdict != "holds"
    assert judge(claim, table(0.9, 0.95)).verdict == "void"  # no student was too small
