"""The parts of `just-read-twice` that no smoke run reaches, and its memory against a slow one."""

from __future__ import annotations

import pytest
import torch

from assay.nn.prefix_linear_attention import PrefixLinearAttention, set_prefix_len
from assay.studies.memory._jrt_memory import accuracy, random_directions, sets, size_for
from assay.studies.memory._jrt_training import make_model, trained
from assay.studies.memory.just_read_twice import READERS

SMALL = {"vocab_size": 16, "width": 8, "num_heads": 2, "feature_dim": 2, "blocks": 2}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_trains(reader: str) -> None:
    settings = SMALL | {"sizes": ((1, 3), (4, 2)), "steps": 3, "batch": 4, "lr": 1e-3, "tested_on": 50}
    row = trained(reader=reader, seed=0, device="cpu", **settings)  # type: ignore[arg-type]

    assert row["loss"] > 0
    assert 0 <= row["smaller_first"] <= 1
    assert 0 <= row["larger_first"] <= 1


def test_only_a_reader_with_a_prefix_looks_ahead() -> None:
    torch.manual_seed(0)
    model = make_model(convolutions=False, longest=20, **SMALL).eval()
    ids = torch.randint(4, 16, (1, 10))
    other = ids.clone()
    other[0, 7] = 4 + (ids[0, 7] - 3) % 12
    moved = {}
    for prefix_len in (0, 9):
        set_prefix_len(model, prefix_len)
        with torch.no_grad():
            moved[prefix_len] = ((model(ids).logits - model(other).logits)[0].abs().amax(-1) > 1e-6).tolist()

    assert moved[0] == [i >= 7 for i in range(10)]
    assert moved[9] == [True] * 10
    assert sum(isinstance(m, PrefixLinearAttention) for m in model.modules()) == 2
    alone = make_model(convolutions=True, longest=20, **SMALL)
    assert not any(isinstance(m, PrefixLinearAttention) for m in alone.modules())


def test_the_memory_is_a_sum_and_the_guess_its_nearest() -> None:
    torch.manual_seed(0)
    embedding = random_directions(40, 12)
    a, b, answer = sets(9, 5, 40, 60, seed=3)
    right = 0
    for stored, others, wanted in zip(a.tolist(), b.tolist(), answer.tolist(), strict=True):
        assert set(stored) & set(others) == {wanted}
        memory = sum(embedding[i] for i in stored)
        right += max(others, key=lambda i: float(embedding[i] @ memory)) == wanted

    assert accuracy(embedding, a, b, answer) == pytest.approx(right / 60)
    assert 0.1 < right / 60 < 0.9


def test_the_size_is_between_those_on_both_sides() -> None:
    torch.manual_seed(0)
    tables = [random_directions(40, n) for n in (2, 8, 32, 128)]
    a, b, answer = sets(9, 5, 40, 200, seed=3)
    found = [accuracy(table, a, b, answer) for table in tables]

    size = size_for(0.7, tables, a, b, answer)
    below = max(i for i in range(4) if found[i] < 0.7)
    assert tables[below].shape[1] < size < tables[below + 1].shape[1]
    assert size_for(found[2], tables, a, b, answer) == pytest.approx(32)
    assert size_for(1.1, tables, a, b, answer) != size_for(1.1, tables, a, b, answer)  # never reached: NaN
