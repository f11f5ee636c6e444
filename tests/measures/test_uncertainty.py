import doctest
import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from assay._errors import InputError
from assay.measures import uncertainty
from assay.measures.uncertainty import bits_per_byte, predictive_entropy, surprisal


def example(
    *shape: int, vocabulary: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, vocabulary, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(vocabulary, shape, generator=generator)


def test_doctests() -> None:
    assert doctest.testmod(uncertainty).failed == 0


@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 66, 130])
def test_both_agree_with_scipy_row_by_row_across_blocks(length: int) -> None:
    logits, tokens = example(length)
    bits, entropy = surprisal(logits, tokens), predictive_entropy(logits)
    assert bits.shape == entropy.shape == (length,)
    for t in range(length):
        if t == 0:
            assert bits[0].isnan()
            assert entropy[0].isnan()
            continue
        row = logits[t - 1].numpy()
        assert bits[t].item() == pytest.approx(-special.log_softmax(row)[tokens[t]] / math.log(2), rel=1e-12)
        assert entropy[t].item() == pytest.approx(stats.entropy(special.softmax(row), base=2), rel=1e-10)


def test_agrees_with_the_loss_used_in_training() -> None:
    logits, tokens = example(2, 70)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(surprisal(logits, tokens)[:, 1:].mean() * math.log(2), loss)


def test_batch_gives_what_each_item_gives_also_where_not_contiguous() -> None:
    logits, tokens = example(2, 3, 67)
    for b in range(2):
        for h in range(3):
            torch.testing.assert_close(
                surprisal(logits, tokens)[b, h], surprisal(logits[b, h], tokens[b, h]), equal_nan=True
            )
    swapped = logits.transpose(0, 1)
    torch.testing.assert_close(predictive_entropy(swapped), predictive_entropy(logits).transpose(0, 1), equal_nan=True)


def test_adding_a_constant_and_renaming_tokens_change_nothing() -> None:
    logits, tokens = example(40)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(surprisal(logits + 50, tokens), surprisal(logits, tokens), equal_nan=True)
    torch.testing.assert_close(
        surprisal(logits[:, order], order.argsort()[tokens]), surprisal(logits, tokens), equal_nan=True
    )
    torch.testing.assert_close(predictive_entropy(logits[:, order] - 50), predictive_entropy(logits), equal_nan=True)


def test_expected_surprisal_is_the_predictive_entropy() -> None:
    logits, _ = example(2)
    p = logits[0].softmax(-1)
    each = torch.stack([surprisal(logits, torch.tensor([0, v]))[1] for v in range(11)])
    torch.testing.assert_close((p * each).sum(), predictive_entropy(logits)[1])


def test_entropy_bounds() -> None:
    logits, _ = example(200)
    entropy = predictive_entropy(logits)[1:]
    assert ((entropy >= 0) & (entropy <= math.log2(11))).all()
    assert predictive_entropy(torch.tensor([[0.0, 1e4], [0, 0]]))[1] == 0


def test_masked_vocabulary_adds_nothing_and_masked_tokens_are_impossible() -> None:
    logits, tokens = example(5, vocabulary=6)
    padded = torch.cat([logits, torch.full((5, 4), -torch.inf)], -1)
    torch.testing.assert_close(surprisal(padded, tokens), surprisal(logits, tokens), equal_nan=True)
    torch.testing.assert_close(predictive_entropy(padded), predictive_entropy(logits), equal_nan=True)
    assert surprisal(padded, torch.full((5,), 7))[1:].isposinf().all()
    sure = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    assert str(surprisal(sure, torch.tensor([0, 0]))[1].item()) == "0.0"
    assert predictive_entropy(sure)[1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_logits_are_widened_block_by_block(dtype: torch.dtype) -> None:
    logits, tokens = example(80, vocabulary=2000, dtype=dtype)
    assert surprisal(logits, tokens).dtype == torch.float32
    torch.testing.assert_close(
        surprisal(logits, tokens).double(), surprisal(logits.double(), tokens), atol=2e-5, rtol=0, equal_nan=True
    )
    torch.testing.assert_close(
        predictive_entropy(logits).double(), predictive_entropy(logits.double()), atol=2e-5, rtol=0, equal_nan=True
    )


def test_no_second_copy_of_the_logits_is_made() -> None:
    logits, tokens = torch.zeros(2, 300, 50, dtype=torch.bfloat16), torch.zeros(2, 300, dtype=torch.int64)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            views = (
                out.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr()
                if isinstance(out, Tensor)
                else True
            )
            if not views:
                largest = max(largest, out.numel())
            return out

    with Watch():
        surprisal(logits, tokens)
        predictive_entropy(logits)
    assert 0 < largest <= 64 * 50


def test_uniform_model_over_bytes_needs_eight_bits_per_byte() -> None:
    text = "assay – of metals".encode()
    tokens = torch.tensor(list(text))
    bits = surprisal(torch.zeros(len(text), 256), tokens)
    assert bits_per_byte(bits, num_bytes=len(text) - 1) == pytest.approx(8, rel=1e-6)


def test_bits_per_byte_does_not_depend_on_the_division_into_tokens() -> None:
    bits = np.array([math.nan, 3.0, 5.0, 4.0])
    assert bits_per_byte(bits, 6) == pytest.approx(2)
    assert bits_per_byte([math.nan, 8.0, 4.0], 6) == pytest.approx(2)
    assert math.isnan(bits_per_byte([math.nan], 6))
    assert bits_per_byte([1.0, math.inf], 6) == math.inf
    assert bits_per_byte([0.1] * 1000, 100) == pytest.approx(1.0, rel=1e-12)  # lists are read in float64


@pytest.mark.parametrize("row", [0, 40, 69])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_are_refused_by_name_in_any_row(row: int, bad: float) -> None:
    logits, tokens = example(70)
    logits[row, 3] = bad
    with pytest.raises(InputError, match=r"logits holds NaN, \+inf"):
        surprisal(logits, tokens)
    with pytest.raises(InputError, match=r"logits holds NaN, \+inf"):
        predictive_entropy(logits)


def test_row_without_any_possible_token_is_refused() -> None:
    logits, _ = example(5)
    logits[2] = -torch.inf
    with pytest.raises(InputError, match="nothing but -inf"):
        predictive_entropy(logits)


def test_other_mistakes_are_refused_by_name() -> None:
    logits, tokens = example(5)
    with pytest.raises(InputError, match=r"tokens has shape \(4,\); expected \(5,\)"):
        surprisal(logits, tokens[1:])
    with pytest.raises(InputError, match=r"tokens has dtype torch\.float32"):
        surprisal(logits, tokens.float())
    with pytest.raises(InputError, match=r"tokens lies between -100 and .*; expected 0\.\.10"):
        surprisal(logits, torch.tensor([-100, 1, 2, 3, 4]))
    with pytest.raises(InputError, match="tokens lies between 0 and 11"):
        surprisal(logits, torch.tensor([0, 1, 2, 3, 11]))
    with pytest.raises(InputError, match=r"logits has shape \(11,\)"):
        predictive_entropy(logits[0])
    with pytest.raises(InputError, match=r"logits has dtype torch\.int64"):
        predictive_entropy(logits.long())
    with pytest.raises(InputError, match="num_bytes is 0"):
        bits_per_byte([1.0], 0)
    with pytest.raises(InputError, match="surprisal_bits goes down to -1"):
        bits_per_byte([math.nan, -1.0], 1)
