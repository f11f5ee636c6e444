"""What the study of effective state-size trains and reads: parts against slow ones, criteria on made-up rows."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import torch

from assay._errors import ModelError
from assay.lab import Claim, judge
from assay.measures.state_size import entropy_ess
from assay.models import Backbone, BackboneConfig
from assay.models.load import load
from assay.models.trace import trace
from assay.nn import SA
from assay.studies.memory import _ess_course
from assay.studies.memory import _ess_modulation as modulation
from assay.studies.memory import _ess_public_models as public
from assay.studies.memory import _ess_recall as recall
from assay.studies.memory import _ess_recall_claims as recall_claims
from assay.studies.memory.effective_state_size import EffectiveStateSize


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig("ess-gla,ess-sa", vocab_size=16, d_model=16, mlp_ratio=2)).eval()


@torch.no_grad()
def test_operators_are_those_of_the_forward_pass(backbone: Backbone) -> None:
    ids = torch.randint(16, (2, 24))
    seen: list[torch.Tensor] = []
    hooks = [layer.mixer.mixed.register_forward_hook(lambda *call: seen.append(call[2])) for layer in backbone.layers]
    backbone(ids)
    inputs: list[torch.Tensor] = []
    hooks += [layer.mixer.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for layer in backbone.layers]
    backbone(ids)
    for hook in hooks:
        hook.remove()

    found = list(recall.operators(backbone, ids))
    assert [isinstance(mixer, SA) for mixer, _ in found] == [False, True]
    for (mixer, T), x, y in zip(found, inputs, seen, strict=False):
        torch.testing.assert_close(T.apply(mixer.values(x)), y, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mean_ess_is_that_of_a_naive_loop(backbone: Backbone) -> None:
    ids = torch.randint(16, (2, 24))
    for _, T in recall.operators(backbone, ids):
        dense = T.double().to_dense()
        entropies, counts = [], []
        for matrix in dense.flatten(0, 1):
            for i in range(3, 24, 3):
                sigma = torch.linalg.svdvals(matrix[i:, :i])
                entropies.append(float(entropy_ess(sigma)))
                counts.append(int((sigma > 0.1).sum()))
        assert recall.mean_ess(T) == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
        assert recall.mean_ess(T, tolerance=0.1) == pytest.approx(sum(counts) / len(counts), rel=1e-3)


@torch.no_grad()
def test_the_reader_of_compression_sees_the_last_token_and_a_position_alone(backbone: Backbone) -> None:
    reader, ids = recall.AutoEncoder(backbone, 5), torch.randint(16, (2, 6))
    body: list[torch.Tensor] = []
    hook = backbone.norm.register_forward_hook(lambda *call: body.append(call[2][:, -1]))
    logits = reader(ids)
    hook.remove()

    for position in range(6):
        angles = [position / 10_000 ** (2 * k / 16) for k in range(8)]
        code = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        torch.testing.assert_close(logits[:, position], reader.read(body[0] + code))


def models(accuracy: Any, *, task: str = "recall") -> pd.DataFrame:
    """Trained models in which ESS/size, between them and TSS, says all (or what `accuracy` says)."""
    rows = []
    for size in (2, 4, 8):
        for state in (2, 4, 16):
            for mixer, used in {"GLA": 0.3, "LA": 1.0}.items():
                row = {"task": task, "size": size, "mixer": mixer, "state": state, "ess": state * used, "last": True}
                rows.append(row | {"accuracy": accuracy(row)})
    return pd.DataFrame(rows)


def claim_of(claims: tuple[Claim, ...], slug: str) -> Claim:
    return next(claim for claim in claims if claim.slug == slug)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows.assign(seed=seed) for seed in range(3)])


@pytest.mark.parametrize("task", ["recall", "copying", "compression"])
def test_recall_that_follows_ess_holds_and_that_which_follows_tss_does_not(task: str) -> None:
    claim = claim_of(recall_claims.CLAIMS, f"trained-{task}")
    by_ess = models(lambda row: row["ess"] / row["size"], task=task)
    by_tss = models(lambda row: row["state"] / row["size"], task=task)
    undivided = models(lambda row: row["ess"], task=task)

    assert judge(claim, over_seeds(by_ess)).verdict == "holds"
    assert judge(claim, over_seeds(by_tss)).verdict == "fails"
    assert judge(claim, over_seeds(undivided)).verdict == "void"


def test_only_models_of_the_task_after_training_count() -> None:
    rows = pd.concat([models(lambda row: row["ess"]), models(lambda row: row["ess"], task="copying")])
    early = rows.assign(last=False)

    assert len(recall_claims.of_task(pd.concat([rows, early]), "copying")) == len(rows) / 2


def course(*, scarce: tuple[float, ...], plenty: tuple[float, ...]) -> pd.DataFrame:
    rows = []
    for state, accuracies in ((4, scarce), (32, plenty)):
        for step, accuracy in enumerate(accuracies):
            row = {"task": "recall", "size": 8, "mixer": "GLA", "state": state, "step": step, "ess": float(step)}
            rows.append(row | {"accuracy": accuracy, "last": step == len(accuracies) - 1})
    return over_seeds(pd.DataFrame(rows))


def test_ess_moves_with_accuracy_where_memory_is_scarce() -> None:
    claim = claim_of(_ess_course.CLAIMS, "ess-moves-with-accuracy")
    rising, flat, falling = (9, 0.2, 0.3, 0.4), (9, 1.0, 1.0, 1.0), (9, 0.4, 0.3, 0.2)  # step 0 must not count

    assert _ess_course.while_training(course(scarce=rising, plenty=flat), scarce=True) == 1
    assert _ess_course.while_training(course(scarce=rising, plenty=flat), scarce=False) == 0
    assert judge(claim, course(scarce=rising, plenty=flat)).verdict == "holds"
    assert judge(claim, course(scarce=falling, plenty=flat)).verdict == "fails"
    assert judge(claim, course(scarce=rising, plenty=rising)).verdict == "void"


def curves(**ess: tuple[float, ...]) -> pd.DataFrame:
    """Of each mixer, ESS over five measurements; accuracy rises from the third on, but WLA's."""
    rows = [
        {"task": "recall", "size": 8, "state": 32, "mixer": mixer, "step": step, "ess": value}
        | {"accuracy": 0.1 if step < 2 or mixer == "WLA" else 0.9, "last": step == 4}
        for mixer, values in ess.items()
        for step, value in enumerate(values)
    ]
    return over_seeds(pd.DataFrame(rows))


def test_ess_falls_and_then_rises() -> None:
    falls = claim_of(_ess_course.CLAIMS, "ess-falls-then-rises")
    rises = claim_of(_ess_course.CLAIMS, "softmax-rises-first")
    as_published = curves(LA=(8, 4, 4, 5, 6), WLA=(3, 2, 2, 2, 2), SA=(4, 8, 7, 6, 6))

    assert judge(falls, as_published).verdict == judge(rises, as_published).verdict == "holds"
    assert judge(falls, curves(LA=(8, 4, 4, 4, 4), WLA=(3, 2, 2, 2, 2))).verdict == "fails"
    assert judge(falls, curves(LA=(8, 4, 4, 5, 6), WLA=(3, 2, 2, 2, 3))).verdict == "void"
    assert judge(rises, curves(LA=(8, 4, 4, 5, 6), SA=(8, 4, 7, 6, 6))).verdict == "fails"


@pytest.mark.parametrize("task", ["recall", "copying", "compression"])
def test_training_learns_and_is_the_same_for_its_seed(task: str) -> None:
    settings = {"task": task, "size": 4, "vocab_size": 16, "mixer": "LA", "state": 8, "width": 16, "steps": 20}
    settings |= {"pattern": "base-conv-short,{mixer}", "measured": 2, "batch": 8, "lr": 5e-3, "seed": 100}

    def run() -> list[dict[str, Any]]:
        torch.manual_seed(100)
        return recall.trained_memory(**settings, device="cpu")

    rows = run()

    assert rows == run()
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert [row["last"] for row in rows] == [False, False, True]
    assert rows[2]["loss"] < rows[1]["loss"]
    assert all(1 <= row["ess"] <= 8 for row in rows)


@pytest.mark.parametrize("forgetting", [True, False])
def test_streams_are_read_at_their_boundaries(forgetting: bool) -> None:
    rows = modulation.trained_modulation(
        mixer="GLA", forgetting=forgetting, state=8, width=16, pattern="{mixer}", pairs=4, vocab_size=64, steps=1,
        batch=2, seed=100, device="cpu",
    )  # fmt: skip
    curve = [row["ess"] for row in rows]
    step = 17 if forgetting else 16
    ends = [step * k - 1 for k in (1, 2, 3)]

    assert len(curve) == 4 * 16 + 3 * int(forgetting)
    # the mean of ratios is not the ratio of means, but near it where streams are alike
    falls = [1 - 2 * curve[end + 1] / (curve[end - 7] + curve[end + 9]) for end in ends]
    assert float(rows[0]["fall"]) == pytest.approx(sum(falls) / 3, abs=0.1)


def test_passages_are_of_different_topics_and_as_long_as_asked() -> None:
    torch.manual_seed(0)
    passages = modulation.passages_of(4, 50)

    assert [len(passage.split()) for passage in passages] == [50] * 4
    assert len(set(passages)) == 4


def test_joined_says_where_parts_end() -> None:
    assert modulation.joined([[5, 6], [7], [8]], [1], start=0) == ([0, 5, 6, 1, 7, 1, 8], [3, 5])
    assert modulation.joined([[5, 6], [7], [8]], [], start=0) == ([0, 5, 6, 7, 8], [2, 3])


def test_total_ess_is_that_of_all_blocks() -> None:
    model = load("builtin:attention", device="cpu").model
    torch.manual_seed(0)
    ids = torch.randint(2, 1000, (40,)).tolist()

    expected = dict.fromkeys((12, 20, 28), 0)  # across token 19, and 8 on both sides of it
    for mixer in trace(model, torch.tensor([ids])).mixers:
        assert mixer.reading is not None
        dense = mixer.reading.operator.to_dense()[0].double()
        for i in expected:
            expected[i] += int((torch.linalg.svdvals(dense[:, i:, :i]) > 0.1).sum())
    found = modulation.total_ess(model, ids, [19], [0.1, 10])

    assert {i: int(found[0.1][i]) for i in expected} == expected
    assert [i for i, value in enumerate(found[0.1].tolist()) if not math.isnan(value)] == [12, 20, 28]
    assert all(found[10][i] < found[0.1][i] for i in expected)


def test_modulation_that_attention_has_and_the_recurrence_loses() -> None:
    def rows(**falls: float) -> pd.DataFrame:
        return over_seeds(
            pd.DataFrame(
                [
                    {"model": f"builtin:{model}", "separator": name, "fall": falls.get(f"{model}_{key}", 0.0)}
                    | {"tolerance": 0.1 if model == "attention" else 1.0}
                    for model in ("attention", "mamba")
                    for name, key in (("end of text", "eos"), ("period", "period"), ("nothing", "none"))
                ]
            )
        )

    ends, period = (claim_of(modulation.CLAIMS, s) for s in ("document-ends-mamba", "period-for-end-of-text"))
    assert judge(ends, rows(mamba_eos=0.8)).verdict == "holds"
    assert judge(ends, rows(attention_eos=0.8)).verdict == "fails"
    assert judge(ends, rows(mamba_eos=0.8, mamba_period=0.8, mamba_none=0.8)).verdict == "void"
    mamba_loses = {"mamba_eos": 0.8, "mamba_period": 0.2, "attention_eos": 0.1}
    assert judge(period, rows(**mamba_loses, attention_period=0.09)).verdict == "holds"
    assert judge(period, rows(**mamba_loses)).verdict == "void"
    assert (
        judge(period, rows(mamba_eos=0.8, mamba_period=0.7, attention_eos=0.1, attention_period=0.1)).verdict == "fails"
    )


def test_every_scale_has_its_units() -> None:
    count = {}
    for scale, settings in recall_claims.SETTINGS.items():
        config = recall_claims.RecallConfig(**settings)
        units = [
            *recall_claims.units(config),
            *modulation.units(modulation.ModulationConfig(**modulation.SETTINGS[scale])),
            *public.units(EffectiveStateSize.scales[scale]),
        ]
        count[scale] = pd.Series([unit.name for unit in units], dtype=str).value_counts().to_dict()
        for unit in units:
            if unit.name == "trained_memory":
                assert unit.settings["width"] % unit.settings["state"] == 0

    assert count["smoke"] == {}
    assert "public_models" not in count["laptop"]
    assert count["laptop"]["trained_memory"] == 27 + 12 + 12 + 1  # and SA, for its curve
    assert (count["paper"]["document_ends"], count["paper"]["public_models"]) == (2, 8)


def test_a_model_that_is_not_there_fails_in_one_line() -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        modulation.document_ends(model="./no-such-model", texts=1, words=20, tolerances=(0.1,), device="cpu")


def test_figures_are_of_what_was_run() -> None:
    trained = models(lambda row: row["ess"] / row["size"]).assign(experiment="trained_memory", seed=0)
    falls = {"model": "m", "separator": "period", "tolerance": 0.1, "fall": 0.3, "experiment": "document_ends"}

    figures = recall_claims.figures(trained) + modulation.figures(pd.DataFrame([falls]))
    assert [len(figure["marks"][0]["data"]) for figure in figures] == [18, 1]
    assert recall_claims.figures(pd.DataFrame([falls])) == modulation.figures(trained) == []


def test_claims_on_public_models() -> None:
    def rows(falcon_period: float = 0.1, mistral_period: float = 0.5, nothing: float = 0.0) -> pd.DataFrame:
        made = [
            {"model": model, "separator": separator, "tolerance": tolerance, "fall": fall}
            for model in public.BILLIONS
            for tolerance in (0.1, 1.0)
            for separator, fall in (("end of text", 0.6), ("period", 0.5), ("nothing", nothing))
        ]
        table = pd.DataFrame(made)
        for model, period in ((public.FALCON_MAMBA, falcon_period), (public.MISTRAL, mistral_period)):
            table.loc[(table.model == model) & (table.separator == "period"), "fall"] = period
        # what is not read: the other tolerance of each
        table.loc[table.model.isin(public.RECURRENT) == (table.tolerance == 0.1), "fall"] = 9.0
        return over_seeds(table)

    ends, period = public.CLAIMS
    assert judge(ends, rows()).verdict == judge(period, rows()).verdict == "holds"
    assert judge(ends, rows(nothing=0.3)).verdict == "void"
    assert judge(period, rows(falcon_period=0.5)).verdict == "fails"
    assert judge(period, rows(mistral_period=0.1)).verdict == "void"
    (figure,) = public.figures(rows().assign(experiment="public_models"))
    assert len(figure["marks"][0]["data"]) == 8 * 3
