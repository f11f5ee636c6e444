"""The loss of JRT-RNN against its definition, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from assay._errors import InputError
from assay.data import mask_prefix
from assay.losses.prefix_loss import prefix_lm_loss

B, L, V = 3, 9, 7


def example(prefix_len: int, rate: float = 0.4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (B, L), generator=generator)
    logits = torch.randn(B, L, V, generator=generator, dtype=torch.float64)
    masked = torch.zeros(B, L, dtype=torch.bool)
    if prefix_len:
        masked = mask_prefix(ids, prefix_len, rate=rate, generator=generator).masked
    return logits, ids, masked


def slow(logits: torch.Tensor, ids: torch.Tensor, prefix_len: int, masked: torch.Tensor, weight: float) -> float:
    def nats(b: int, at: int, token: int) -> float:
        row = logits[b, at].tolist()
        return math.log(sum(map(math.exp, row))) - row[ids[b, token]]

    behind = [nats(b, t - 1, t) for b in range(B) for t in range(max(1, prefix_len), L)]
    inside = [nats(b, t, t) for b in range(B) for t in range(L) if masked[b, t]]
    return sum(behind) / len(behind) + weight * (sum(inside) / len(inside) if inside else 0)


@pytest.mark.parametrize("prefix_len", [0, 1, 4, L - 1])
def test_the_loss_is_its_definition(prefix_len: int) -> None:
    logits, ids, masked = example(prefix_len)
    expected = slow(logits, ids, prefix_len, masked, 0.25)

    assert float(prefix_lm_loss(logits, ids, prefix_len, masked)) == pytest.approx(expected / 1.25, rel=1e-12)
    assert float(prefix_lm_loss(logits, ids, prefix_len, masked, normalise=False)) == pytest.approx(expected, rel=1e-12)
    other = slow(logits, ids, prefix_len, masked, 2.0) / 3
    assert float(prefix_lm_loss(logits, ids, prefix_len, masked, mlm_weight=2.0)) == pytest.approx(other, rel=1e-12)
    if masked.any():
        assert float(prefix_lm_loss(logits, ids, prefix_len, masked.roll(1, 0))) != pytest.approx(expected / 1.25)


def test_what_the_model_has_seen_is_no_target() -> None:
    """Only masked tokens of the prefix and those behind it are asked for, at the positions that may know them."""
    logits, ids, masked = example(5)
    logits.requires_grad_()
    prefix_lm_loss(logits, ids, 5, masked).backward()
    assert logits.grad is not None
    asked = masked.clone()
    asked[:, 4:-1] = True

    assert torch.equal(logits.grad.abs().sum(-1) > 0, asked)


def test_without_masks_it_is_that_of_the_tokens_behind() -> None:
    logits, ids, masked = example(5, rate=0.0)
    plain = torch.nn.functional.cross_entropy(logits[:, 4:-1].reshape(-1, V), ids[:, 5:].reshape(-1))

    assert torch.allclose(prefix_lm_loss(logits, ids, 5, masked, normalise=False), plain)


def test_half_precision_is_summed_in_float32() -> None:
    logits, ids, masked = example(4)

    assert prefix_lm_loss(logits.bfloat16(), ids, 4, masked).dtype == torch.float32
    assert prefix_lm_loss(logits, ids, 4, masked).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix_len": L}, "prefix_len is 9; expected 0 to 8"),
        ({"prefix_len": -1}, "prefix_len is -1; expected 0 to 8"),
        ({"masked": torch.ones(B, L, dtype=torch.bool)}, "masked is true behind the prefix of 4 tokens"),
        ({"masked": torch.zeros(B, 2, dtype=torch.bool)}, r"masked \(3, 2\); expected"),
        ({"mlm_weight": -0.1}, "mlm_weight is -0.1; expected at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    logits, ids, masked = example(4)
    given: dict[str, object] = {"logits": logits, "ids": ids, "prefix_len": 4, "masked": masked}

    with pytest.raises(InputError, match=message):
        prefix_lm_loss(**(given | change))  # type: ignore[arg-type]
