"""Sums and products of operators against those of their matrices."""

import itertools

import pytest
import torch

from assay import InputError
from assay.operators import ConvolutionOperator, DenseOperator, RecurrentOperator, SequenceOperator

LENGTH = 17


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operators() -> dict[str, SequenceOperator]:
    """One of every form; batch shapes (2,) and () broadcast."""
    vectors = [draw(k, LENGTH, 3) for k in range(5)]
    return {
        "dense": DenseOperator(draw(5, 2, LENGTH, LENGTH).tril()),
        "diagonal": RecurrentOperator(draw(6, 2, LENGTH, 4).sigmoid(), draw(7, 2, LENGTH, 4), draw(8, 2, LENGTH, 4)),
        "pre-update": RecurrentOperator.pre_update(vectors[0].sigmoid(), *vectors[1:3], draw(9, LENGTH)),
        "rank one": RecurrentOperator(vectors[0] / 2, *vectors[1:3], rank_one=(vectors[3] / 2, vectors[4] / 2)),
        "blocks": RecurrentOperator(draw(10, LENGTH, 2, 2, 2) / 2, draw(11, LENGTH, 4), draw(12, LENGTH, 4)),
        "kernel": ConvolutionOperator(draw(13, LENGTH)),
        "kernels": ConvolutionOperator(draw(14, 2, LENGTH)),
        "gated kernel": ConvolutionOperator(
            draw(15, LENGTH), input_gate=draw(16, LENGTH), output_gate=draw(17, LENGTH)
        ),
    }


PAIRS = list(itertools.product(operators(), repeat=2))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_operators_in_parallel(one: str, other: str) -> None:
    T, U = operators()[one], operators()[other]
    assert torch.allclose((T + U).to_dense(), T.to_dense() + U.to_dense(), atol=1e-9)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_operators_in_series(outer: str, inner: str) -> None:
    T, U = operators()[outer], operators()[inner]
    values = draw(18, LENGTH, 2)
    assert torch.allclose(T.compose(U).to_dense(), T.to_dense() @ U.to_dense(), rtol=1e-9, atol=1e-9)
    assert torch.allclose(T.compose(U).apply(values), T.apply(U.apply(values)), rtol=1e-9, atol=1e-9)


def test_the_order_of_a_series_matters() -> None:
    """The control: the inner operator comes first."""
    T, U = operators()["diagonal"], operators()["rank one"]
    assert not torch.allclose(T.compose(U).to_dense(), U.compose(T).to_dense(), atol=1e-2)


def test_recurrences_stay_recurrences_and_their_states_add_up() -> None:
    T, U = operators()["diagonal"], operators()["rank one"]
    for both in (T + U, T.compose(U)):
        assert isinstance(both, RecurrentOperator)
        assert both.state_size([5]).tolist() == [7]
    diagonal = T + operators()["pre-update"]
    assert isinstance(diagonal, RecurrentOperator)
    assert diagonal.is_diagonal
    kernels = operators()["kernel"], operators()["kernels"]
    assert isinstance(kernels[0] + kernels[1], ConvolutionOperator)
    assert isinstance(kernels[0].compose(kernels[1]), ConvolutionOperator)


def test_ess_is_sub_additive() -> None:
    """The rank of a sum or product is at most the sum of the ranks, at every position."""
    T, U = operators()["diagonal"][0], operators()["rank one"]
    positions = range(1, LENGTH)

    def rank(operator: SequenceOperator) -> torch.Tensor:
        sigma = DenseOperator(operator.to_dense()).hankel_singular_values(positions)
        return (sigma > 1e-10 * sigma[..., :1]).sum(-1)

    for both in (T + U, T.compose(U)):
        assert (rank(both) <= rank(T) + rank(U)).all()
        assert (rank(both) > rank(T)).any()


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="lengths 17 and 3; expected the same length"):
        operators()["dense"] + DenseOperator(torch.eye(3))


def test_shapes_that_disagree_are_refused() -> None:
    vectors = draw(0, 4, 3)
    for make in (
        lambda: RecurrentOperator(draw(1, 4, 2), vectors, vectors),
        lambda: RecurrentOperator(draw(1, 4, 3, 3), vectors, vectors, rank_one=(vectors, vectors)),
        lambda: RecurrentOperator(vectors, vectors, vectors, rank_one=(draw(1, 5, 3), vectors)),
        lambda: ConvolutionOperator(draw(1, 4), input_gate=draw(2, 5)),
    ):
        with pytest.raises(InputError, match="shapes disagree"):
            make()
    with pytest.raises(InputError, match="w holds NaN or infinite"):
        RecurrentOperator(vectors, vectors, vectors, rank_one=(vectors, vectors * torch.nan))
    with pytest.raises(InputError, match="output_gate holds NaN or infinite"):
        ConvolutionOperator(draw(1, 4), output_gate=torch.full((4,), torch.inf))
