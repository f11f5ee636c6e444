"""ESS of two layers and by length: against dense blocks and slow products, and what claims decide on made-up rows."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from assay.lab import judge
from assay.studies.memory import _ess_layers as layers
from assay.studies.memory import _ess_length as length
from assay.studies.memory._ess_collapse import Task, make_model
from assay.studies.memory._ess_recall import operators


def test_ess_of_each_layer_is_that_of_its_block_at_the_middle() -> None:
    task, seed = Task(4, 4, 16, 4), 100
    torch.manual_seed(seed)
    model = make_model("ess-gla*2", task, 8, 1, beta=0.5)
    torch.manual_seed(seed)
    rows = layers.two_mixers(
        mixer="GLA", options=(("beta", 0.5),), task=tuple(task), width=8, steps=2, lr=1e-3, seed=seed, device="cpu"
    )

    ids = task.draw(256, torch.Generator().manual_seed(2**40 + seed)).inputs[:8]
    with torch.no_grad():
        for row, (_, T) in zip(rows, operators(model, ids), strict=True):
            p = torch.linalg.svdvals(T.double().to_dense()[..., 8:, :8])
            p = p / p.sum(-1, keepdim=True)
            entropy_ess = torch.special.entr(p).sum(-1).exp().mean()
            assert row["initial"] == pytest.approx(float(entropy_ess) / task.pairs, rel=1e-4)
    assert [row["layer"] for row in rows] == [0, 1]
    assert all(row["ess_per_pair"] != row["initial"] for row in rows)  # training changes it


@pytest.mark.parametrize(
    ("second", "verdict"),
    [({"GLA": 0.3, "WLA": 0.4, "LA": 0.8}, "holds"), ({"GLA": 0.8, "WLA": 0.7, "LA": 0.8}, "fails"),
     ({"GLA": 0.3, "WLA": 0.4, "LA": 0.4}, "void")],
)  # fmt: skip
def test_the_second_layer_uses_less(second: dict[str, float], verdict: str) -> None:
    rows = pd.DataFrame(
        {"seed": seed, "mixer": mixer, "layer": layer, "ess_per_pair": ess + 0.001 * seed}
        for mixer, own in second.items()
        for layer, ess in enumerate((0.6, own))
        for seed in range(5)
    )

    assert judge(layers.CLAIMS[0], rows).verdict == verdict


@pytest.mark.parametrize("mixer", ["LA", "GLA", "WLA"])
def test_the_norm_of_the_product_is_that_of_a_loop(mixer: str) -> None:
    task = Task(4, 4, 16, 4)
    torch.manual_seed(100)
    model = make_model(f"ess-{mixer.lower()}", task, 8, 1)
    ids = task.draw(3, torch.Generator().manual_seed(0)).inputs
    with torch.no_grad():
        (_, T), *_ = operators(model, ids)
        norms = []
        for sequence in T.transitions().double()[:, 0]:  # (L, 8), diagonals
            product = torch.eye(8, dtype=torch.float64)
            for A in sequence:
                product = torch.diag(A) @ product
            norms.append(float(product.norm()))
    assert length.product_norm(model, ids) == pytest.approx(sum(norms) / 3, rel=1e-5)


def test_length_claims_ask_what_the_paper_shows() -> None:
    def rows(**long: float) -> pd.DataFrame:
        return pd.DataFrame(
            {"seed": seed, "mixer": mixer, "length": tokens, "ess_per_pair": value, "product_norm": value}
            for seed in range(5)
            for mixer in ("LA", "GLA", "WLA")
            for tokens, value in ((32, 0.5 + 0.001 * seed), (128, long[mixer]))
        )

    for claim in length.CLAIMS:
        assert judge(claim, rows(LA=0.5, GLA=0.2, WLA=0.3)).verdict == "holds"
        assert judge(claim, rows(LA=0.5, GLA=0.2, WLA=0.5)).verdict == "fails"
        assert judge(claim, rows(LA=0.2, GLA=0.2, WLA=0.3)).verdict == "void"
