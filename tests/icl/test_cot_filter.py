from __future__ import annotations

import math

import pytest
import torch

from assay import InputError
from assay.icl.cot_filter import filter_attention, filter_step, step_pairs


def prompt(num: int = 7, per_example: int = 4) -> torch.Tensor:
    return torch.randn(3, num * per_example, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_only_the_tokens_of_the_step_stay(step: int) -> None:
    tokens = prompt()
    kept = filter_step(tokens, step, 4)
    for t in range(tokens.shape[1]):
        expected = tokens[:, t] if t % 4 in (step - 1, step) else torch.zeros_like(tokens[:, t])
        assert torch.equal(kept[:, t], expected)
    inputs, outputs = step_pairs(tokens, step, 4)
    for i in range(7):
        assert torch.equal(inputs[:, i], tokens[:, 4 * i + step - 1])
        assert torch.equal(outputs[:, i], tokens[:, 4 * i + step])


@pytest.mark.parametrize("length", [1, 9, 400])
def test_attention_filters_at_any_length(length: int) -> None:
    tokens = prompt(100)[:, :length]
    weights = filter_attention(length, 2, 4, sharpness=30.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(length, dtype=torch.float64))
    assert weights[:, 1:].triu(1).abs().max() == 0  # causal
    error = (weights[:, 1:] @ tokens - filter_step(tokens, 2, 4)).abs().max()
    assert error <= 3 * math.exp(-30) * tokens.abs().max() + 1e-12
    if length > 1:
        blunt = filter_attention(length, 2, 4, sharpness=0.5)
        assert (blunt[:, 1:] @ tokens - filter_step(tokens, 2, 4)).abs().max() > 0.1


def test_bad_input() -> None:
    for step in (0, 4):
        with pytest.raises(InputError, match=f"step is {step}"):
            filter_step(prompt(), step, 4)
        with pytest.raises(InputError, match=f"step is {step}"):
            filter_attention(8, step, 4, sharpness=1.0)
    with pytest.raises(InputError, match="prompt has 27 tokens"):
        step_pairs(prompt()[:, :27], 1, 4)
