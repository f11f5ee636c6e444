"""`assay.compress`: attention heads as the smallest recurrences."""

import pytest
import torch
import transformers as tf

import assay
from assay import InputError
from assay.models.trace import MixerTrace
from assay.operators import DenseOperator, RecurrentOperator

IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mixer() -> MixerTrace:
    """Attention of a random Llama with weights large enough for sharp heads: 4 heads, 16 channels each."""
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
                            intermediate_size=64, initializer_range=0.2)  # fmt: skip
    return assay.trace(tf.LlamaForCausalLM(config), IDS).mixers[0]


@pytest.mark.parametrize("tolerance", [0.3, 0.03])
def test_the_error_stays_within_the_tolerance(mixer: MixerTrace, tolerance: float) -> None:
    """Errors and floats recomputed here from the recurrence alone."""
    found = assay.compress(mixer, tolerance=tolerance)
    reading = mixer.reading
    y = reading.output.double()
    rebuilt = found.operator.apply(reading.values.double())
    error = (rebuilt - y).norm(dim=(-2, -1)) / y.norm(dim=(-2, -1))
    assert torch.allclose(found.error, error, atol=1e-5)
    assert (error <= tolerance).all()
    assert (error > tolerance / 4).all()  # and no more is kept than that asks for
    assert torch.allclose(found.error_by_position.square().mean(-1).sqrt(), found.error, atol=1e-9)
    assert torch.equal(found.floats, found.state_sizes * 16)
    assert found.original_floats[0, 0].tolist() == [2 * 16 * i for i in range(40)]
    share = found.table()["share"]
    assert len(share) == 8
    assert (share < 1).all()


def test_a_smaller_tolerance_needs_a_larger_state(mixer: MixerTrace) -> None:
    coarse, fine = (assay.compress(mixer, tolerance=t).state_sizes.double().mean() for t in (0.3, 0.03))
    assert fine > 1.3 * coarse


def test_a_given_state_size_is_kept(mixer: MixerTrace) -> None:
    """The error falls with the state, down to rounding when the state is half the text."""
    errors = [assay.compress(mixer, state_size=n).error.max() for n in (0, 2, 8, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5
    assert assay.compress(mixer, state_size=2).state_sizes.max() == 2


def test_operators_are_compressed_as_they_are() -> None:
    """Without values the error is that of T itself; a recurrence is compared with its own state."""
    decay = torch.linspace(0.5, 0.99, 8).double().expand(30, 8)
    ones = torch.ones(30, 8, dtype=torch.float64)
    operator = RecurrentOperator(decay, ones, ones)
    found = assay.compress(operator, tolerance=0.01)
    T = operator.to_dense()
    assert float(found.error) == pytest.approx(float((found.operator.to_dense() - T).norm() / T.norm()))
    assert found.state_sizes.max() < 8
    assert found.original_floats.tolist() == [0] + [8] * 29
    assert list(found.table().columns[:2]) == ["error", "mean_state_size"]


def test_nothing_is_needed_where_nothing_is_carried() -> None:
    found = assay.compress(DenseOperator(torch.eye(5)), tolerance=0.1)
    assert found.state_sizes.sum() == 0
    assert float(found.error) == 0
    empty = assay.compress(DenseOperator(torch.zeros(5, 5)), tolerance=0.1)
    assert float(empty.error) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"state_size": 2, "tolerance": 0.1}, "exactly one"),
        ({"tolerance": 0.0}, r"tolerance is 0\.0; expected a relative error above 0 and below 1"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"state_size": -1}, "state_size is -1; expected 0 or more"),
    ],
)
def test_bad_input(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assay.compress(DenseOperator(torch.eye(5)), **options)


def test_a_mixer_that_was_not_measured_is_refused() -> None:
    missing = MixerTrace(layer=3, module="mixer", mixer="Odd", reason="not supported: Odd")
    with pytest.raises(InputError, match="Odd of layer 3 was not measured: not supported: Odd"):
        assay.compress(missing, tolerance=0.1)
