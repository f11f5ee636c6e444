"""The transformer between any read-in and a read-out: causal, with positions that can start anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay._errors import InputError
from assay.models.small_transformer import SmallTransformer


def tokens_model() -> SmallTransformer:
    torch.manual_seed(0)
    return SmallTransformer(nn.Embedding(7, 16), 7, d_model=16, num_layers=2, num_heads=2, max_len=12)


def test_it_is_causal() -> None:
    model, tokens = tokens_model(), torch.randint(7, (3, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 7

    before, after = model(tokens), model(changed)

    assert before.shape == (3, 8, 7)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert ((before - after).abs().amax((0, 2))[5:] > 1e-5).all()


def test_positions_are_those_from_the_offset_on() -> None:
    model, tokens = tokens_model(), torch.randint(7, (2, 5))
    shifted = model(tokens, 4)
    assert (shifted - model(tokens)).abs().max() > 1e-4

    each = model(tokens, torch.tensor([0, 4]))
    torch.testing.assert_close(each[0], model(tokens)[0])
    torch.testing.assert_close(each[1], shifted[1])

    moved = tokens_model()
    with torch.no_grad():
        moved.positions.copy_(model.positions.roll(-4, dims=0))
    torch.testing.assert_close(moved(tokens), shifted)  # an offset is nothing but other positions


def test_order_is_told_by_positions_alone() -> None:
    """One layer without positions sees a set: what is before the last token may be permuted."""
    torch.manual_seed(0)
    model = SmallTransformer(nn.Linear(3, 8), 2, d_model=8, num_layers=1, num_heads=2, max_len=6)
    x = torch.randn(2, 6, 3)
    permuted = x[:, [2, 0, 4, 1, 3, 5]]
    assert (model(x)[:, -1] - model(permuted)[:, -1]).abs().max() > 1e-5
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x)[:, -1], model(permuted)[:, -1])


@pytest.mark.parametrize("offset", [0, 8, torch.tensor([0, 8])])
def test_longer_than_its_positions(offset: int | torch.Tensor) -> None:
    length = 13 if isinstance(offset, int) and offset == 0 else 5
    with pytest.raises(InputError, match="max_len = 12"):
        tokens_model()(torch.zeros(2, length, dtype=torch.int64), offset)


def test_bad_sizes() -> None:
    with pytest.raises(InputError, match="num_layers is 0"):
        SmallTransformer(nn.Linear(3, 8), 2, d_model=8, num_layers=0, num_heads=2, max_len=6)
    with pytest.raises(InputError, match="num_heads"):
        SmallTransformer(nn.Linear(3, 9), 2, d_model=9, num_layers=1, num_heads=2, max_len=6)


@pytest.mark.parametrize("ids", [torch.tensor([[0, 7]]), torch.tensor([[-1, 3]]), torch.zeros(2, 4), torch.tensor([1])])
def test_ids_that_its_embedding_has_not(ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"inputs are .*; expected ids \(B, L\) from 0 to 6"):
        tokens_model()(ids)


def test_vectors_of_another_width() -> None:
    model = SmallTransformer(nn.Linear(3, 8), 2, d_model=8, num_layers=1, num_heads=2, max_len=6)
    with pytest.raises(InputError, match=r"shape \(2, 6, 4\); expected \(B, L, 3\)"):
        model(torch.zeros(2, 6, 4))
