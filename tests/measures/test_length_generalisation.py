"""Exact match without decoding is that of decoding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data._queries import IGNORED
from assay.data.algorithmic import EOS, AlgorithmicTask
from assay.measures.length_generalisation import exact_match, length_generalization_curve
from assay.models.small_transformer import SmallTransformer
from assay.rasp.programs import copy, sort
from assay.rasp.runner import RaspProgram


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


class HalfRight(nn.Module):
    """The program's logits with noise, which depends on the last three tokens: it is wrong here and there."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = (tokens * 7 + tokens.roll(1, -1) * 3 + tokens.roll(2, -1)) % 23
        wrong = (mixed < 2) & (torch.arange(tokens.shape[1]) >= 2)
        return nn.functional.one_hot(torch.where(wrong, tokens, sort(tokens)), self.vocab_size).float()


def decoded(model: nn.Module, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding, a token at a time."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and tokens[-1] != EOS:
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [1, 4, 8])
def test_one_call_decides_as_decoding_does(length: int) -> None:
    task = AlgorithmicTask("sort", num_symbols=20)
    batch = task.sample(100, min_length=length, max_length=length, generator=generator())
    model = HalfRight(task.vocab_size)
    expected = []
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        answer = [t for t in targets if t != IGNORED]
        expected.append(decoded(model, inputs[: targets.index(answer[0]) + 1], len(answer)) == answer)
    assert exact_match(model, batch).tolist() == expected
    assert 0 < sum(expected) < 100


def test_the_end_counts() -> None:
    task = AlgorithmicTask("copy")

    def goes_on(tokens: Tensor) -> Tensor:
        return torch.where(copy(tokens) == EOS, tokens, copy(tokens))

    assert length_generalization_curve(RaspProgram(copy), task, [2, 9], generator=generator()).tolist() == [1, 1]
    assert length_generalization_curve(goes_on, task, [2, 9], generator=generator()).tolist() == [0, 0]


def test_a_curve_is_the_share_at_each_length() -> None:
    task = AlgorithmicTask("copy", num_symbols=30)

    def up_to_five(tokens: Tensor) -> Tensor:
        return copy(tokens) if tokens.shape[1] <= 2 * 5 + 2 else tokens

    curve = length_generalization_curve(up_to_five, task, [6, 3, 5, 7], num_examples=10, generator=generator())
    assert curve.dtype == torch.float64
    assert curve.tolist() == [0, 1, 1, 0]


def test_logits_in_an_output_and_offsets() -> None:
    task = AlgorithmicTask("copy", num_symbols=8)
    torch.manual_seed(0)
    model = SmallTransformer(
        nn.Embedding(task.vocab_size, 8), task.vocab_size, d_model=8, num_layers=1, num_heads=1, max_len=30
    )
    batch = task.sample(20, max_length=5, context=30, generator=generator())
    expected = model(batch.inputs, batch.offsets)
    seen = []

    def spy(inputs: Tensor, offsets: Tensor) -> SimpleNamespace:
        seen.append(offsets)
        return SimpleNamespace(logits=model(inputs, offsets))

    asked = batch.targets != IGNORED
    right = ((expected.argmax(-1) == batch.targets) | ~asked).all(1)
    assert torch.equal(exact_match(spy, batch, offsets=True), right)
    length_generalization_curve(spy, task, [4], num_examples=50, context=30, generator=generator())
    assert set(seen[-1].tolist()) <= set(range(30 - 9 + 1))
    assert len(set(seen[-1].tolist())) > 10
    length_generalization_curve(spy, task, [1, 6], num_examples=200, context=20, generator=generator())
    for offsets in seen[-2:]:  # both start where the longer one, of 14 tokens, fits
        assert set(offsets.tolist()) == set(range(20 - 14 + 1))


def test_lengths_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="context is 21; expected at least 22"):
        length_generalization_curve(
            lambda x, _: copy(x), AlgorithmicTask("copy"), [9, 10], context=21, generator=generator()
        )
    with pytest.raises(InputError, match="max_length is 9; expected at most num_symbols, 8"):
        length_generalization_curve(copy, AlgorithmicTask("copy", num_symbols=8), [9], generator=generator())
