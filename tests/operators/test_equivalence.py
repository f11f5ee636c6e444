"""The statements of the dynamical-systems view, each against loops that follow the definitions, and with a control."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from assay._errors import InputError
from assay.operators import RecurrentOperator, SequenceOperator
from assay.operators import equivalence as same

LIMIT, MARGIN = 1e-10, 1e-2  # what the same operator may differ by, and what another one must
L, M, D = 40, 6, 5


def draw(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def difference(one: SequenceOperator, other: SequenceOperator | Tensor) -> float:
    matrix = other if isinstance(other, Tensor) else other.to_dense()
    return float((one.to_dense() - matrix).abs().max())


def loop(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`h_i = A_i h_{i-1} + B_i u_i, y_i = C_i h_i` for (L, N), in numpy, applied to unit impulses."""
    a, b, c = (t.expand(len(A), -1).numpy() for t in (A, B, C))
    T = np.zeros((len(a), len(a)))
    for j in range(len(a)):
        h = b[j]
        T[j, j] = c[j] @ h
        for i in range(j + 1, len(a)):
            h = a[i] * h
            T[i, j] = c[i] @ h
    return torch.from_numpy(T)


def without_the_ratio(operator: RecurrentOperator) -> RecurrentOperator:
    """The control: a state that is not normalised anew."""
    return RecurrentOperator(torch.ones_like(operator.A), operator.B, operator.C)


# ---- attention


def test_linear_attention_is_a_recurrence() -> None:
    q, k = draw(2, L, M), draw(2, L, M, seed=1)
    phi_q, phi_k = elu(q) + 1, elu(k) + 1
    T = torch.zeros(2, L, L, dtype=torch.float64)
    for i in range(L):
        weights = torch.einsum("bn,bjn->bj", phi_q[:, i], phi_k[:, : i + 1])
        T[:, i, : i + 1] = weights / weights.sum(-1, keepdim=True)
    operator = same.linear_attention(q, k)

    assert difference(operator, T) <= LIMIT
    assert difference(same.attention_matrix(phi_q, phi_k, same.causal_normaliser(phi_q, phi_k)), T) <= LIMIT
    assert operator.state_size([L // 2]).tolist() == [M]
    assert difference(without_the_ratio(operator), T) > MARGIN


def test_normalised_attention_is_a_recurrence() -> None:
    q, k, log_eta = draw(L, M), draw(L, M, seed=1), draw(L, seed=2)
    rows = [[float(q[i] @ k[j] / log_eta[i].exp()) if j <= i else 0.0 for j in range(L)] for i in range(L)]
    operator = same.normalised_attention(q, k, log_eta)

    assert difference(operator, torch.tensor(rows, dtype=torch.float64)) <= LIMIT
    assert difference(operator, same.attention_matrix(q, k, log_eta.exp())) <= LIMIT
    assert difference(without_the_ratio(operator), same.attention_matrix(q, k, log_eta.exp())) > MARGIN


def test_normalisers_of_either_sign_separate_too() -> None:
    q, k, eta = draw(L, M), draw(L, M, seed=1), draw(L, seed=2)
    assert (eta < 0).any()
    operator = same.separable_attention(q, k, eta)

    assert difference(operator, same.attention_matrix(q, k, eta)) <= LIMIT * float((1 / eta).abs().max())
    assert difference(without_the_ratio(operator), same.attention_matrix(q, k, eta)) > MARGIN
    eta[7] = 0
    with pytest.raises(InputError, match="A holds NaN or infinite"):
        same.separable_attention(q, k, eta)


def test_normalisers_beyond_the_floats_stay_finite() -> None:
    log_eta = torch.linspace(0, 2000, L, dtype=torch.float64)
    q, k = draw(L, M), draw(L, M, seed=1)
    assert log_eta.exp().isinf().any()
    T = ((q @ k.mT) * torch.exp(-log_eta)[:, None]).tril()

    assert difference(same.normalised_attention(q, k, log_eta), T) <= LIMIT
    with pytest.raises(InputError, match="holds NaN or infinite"):  # the control: eta itself
        same.separable_attention(q, k, log_eta.exp())
    with pytest.raises(InputError, match="B holds NaN or infinite"):  # here T is infinite
        same.normalised_attention(q, k, -log_eta)


# ---- softmax attention


def test_features_of_a_degree_are_a_taylor_polynomial() -> None:
    x, y = draw(7, 3), draw(7, 3, seed=1)
    for degree in range(6):
        expected = sum(((x * y).sum(-1) ** p / math.factorial(p) for p in range(degree + 1)), torch.zeros(()))
        for symmetric, size in ((True, math.comb(3 + degree, degree)), (False, sum(3**p for p in range(degree + 1)))):
            phi, psi = (same.taylor_features(t, degree, symmetric=symmetric) for t in (x, y))
            assert phi.shape == (7, size)
            torch.testing.assert_close((phi * psi).sum(-1), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        same.taylor_features(torch.tensor([2.0, 3.0]), 2), torch.tensor([1, 2, 3, 4 / 2**0.5, 6, 9 / 2**0.5])
    )
    with pytest.raises(InputError, match="degree is -1"):
        same.taylor_features(x, -1)


DEGREES = (1, 2, 3, 4, 6)


def ladder(std: float) -> tuple[list[float], list[int], list[int]]:
    """Error against softmax attention, largest rank of `T[i:, :i]`, and state, at each degree."""
    q, k = draw(48, 3, std=std), draw(48, 3, seed=1, std=std)
    softmax = same.softmax_attention(q, k)
    errors, ranks, states = [], [], []
    for degree in DEGREES:
        T = same.taylor_attention(q, k, degree)
        errors.append(difference(softmax, T))
        matrix = T.to_dense()
        ranks.append(max(int(torch.linalg.matrix_rank(matrix[i:, :i], rtol=1e-13)) for i in range(1, 48)))
        states.append(int(T.state_size([24])))
    return errors, ranks, states


def test_more_state_approximates_softmax_attention_better() -> None:
    errors, ranks, states = ladder(0.5)

    assert states == [math.comb(3 + p, p) for p in DEGREES]
    assert all(after < before / 2 for before, after in pairwise(errors))
    assert errors[-1] < errors[0] / 100
    assert ranks == [4, 10, 20, 24, 24]  # the binomial until min(i, L - i) is reached
    softmax = same.softmax_attention(draw(48, 3, std=0.5), draw(48, 3, seed=1, std=0.5)).to_dense()
    assert int(torch.linalg.matrix_rank(softmax[24:, :24], rtol=1e-13)) == 24  # no finite state is enough
    # the control: where the logits are large, so are the errors
    errors, _, _ = ladder(2.0)
    assert not all(after < before / 2 for before, after in pairwise(errors))
    assert errors[-1] > 0.1


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_no_state_of_that_size_does_better_than_the_singular_values_allow(degree: int) -> None:
    q, k = draw(48, 3, std=0.5), draw(48, 3, seed=1, std=0.5)
    softmax, taylor = same.softmax_attention(q, k), same.taylor_attention(q, k, degree)
    size = int(taylor.state_size([24]))
    bound = float(softmax.hankel_singular_values(range(1, 48))[:, size].max())
    error = float(torch.linalg.matrix_norm(softmax.to_dense() - taylor.to_dense(), ord=2))
    best = float(softmax.truncate(size).error_bound)

    assert bound <= error
    assert bound <= best < error  # Taylor's features are not the best ones
    # the control: with more state than that, the bound does not hold
    assert float(softmax.truncate(size + 5).error_bound) < bound


# ---- state-space models


def selective(*, per_channel: bool, per_state: bool) -> dict[str, Tensor]:
    delta = softplus(draw(L, D if per_channel else 1)).expand(L, D)
    rates = torch.arange(1.0, M + 1).double() / M if per_state else torch.full((M,), 0.3).double()
    return {"delta": delta, "rates": rates.expand(D, M), "b": draw(L, M, seed=2), "c": draw(L, M, seed=3)}


@pytest.mark.parametrize("per_channel", [True, False])
def test_s6_is_a_recurrence_for_each_channel(per_channel: bool) -> None:
    given = selective(per_channel=per_channel, per_state=True)
    operator = same.s6(**given)
    assert operator.batch_shape == (D,)
    for d in range(D):
        delta = given["delta"][:, d, None]
        expected = loop(torch.exp(-delta * given["rates"][d]), delta * given["b"], given["c"])
        assert difference(operator[d], expected) <= LIMIT


def test_s6_is_gated_linear_attention_when_delta_is_common_to_all_channels() -> None:
    given = selective(per_channel=False, per_state=True)
    one = same.s6_as_gated_linear_attention(**given)
    assert one.batch_shape == ()
    for d in range(D):
        assert difference(same.s6(**given)[d], one) <= LIMIT
    # as it is applied: one state (N, d) for the values of all channels
    values = draw(L, D, seed=4)
    each = same.s6(**given).apply(values.mT[..., None])[..., 0].mT
    torch.testing.assert_close(one.apply(values), each, rtol=0, atol=LIMIT)


def test_s6_is_not_gated_linear_attention_when_delta_differs() -> None:
    given = selective(per_channel=True, per_state=True)
    with pytest.raises(InputError, match=r"delta differs by up to .*; expected one value"):
        same.s6_as_gated_linear_attention(**given)
    # two channels have operators that differ, so no single one can serve both
    T = same.s6(**given).to_dense()
    assert (T[1:] - T[0]).abs().amax((-2, -1)).min() > 0.1
    mean = same.s6_as_gated_linear_attention(**(given | {"delta": given["delta"].mean(-1, keepdim=True).expand(L, D)}))
    assert (T - mean.to_dense()).abs().amax((-2, -1)).min() > 0.1
    rates = given["rates"] * torch.linspace(1, 2, D).double()[:, None]
    with pytest.raises(InputError, match="rates differs"):
        same.s6_as_gated_linear_attention(**(selective(per_channel=False, per_state=True) | {"rates": rates}))


def test_s6_is_ssd_when_its_transitions_are_multiples_of_the_identity() -> None:
    given = selective(per_channel=False, per_state=False)
    assert difference(same.s6(**given)[3], same.s6_as_ssd(**given)) <= LIMIT
    for change in ({"per_channel": True, "per_state": False}, {"per_channel": False, "per_state": True}):
        with pytest.raises(InputError, match="differs"):
            same.s6_as_ssd(**selective(**change))


def test_ssd_is_separable_attention_whose_normaliser_is_in_its_keys_too() -> None:
    log_decay, b, c = -softplus(draw(L)) / 4, draw(L, M, seed=1), draw(L, M, seed=2)
    eta = torch.exp(-log_decay.cumsum(-1))
    operator = same.ssd(log_decay, b, c)

    assert difference(operator, loop(log_decay.exp()[:, None], b, c)) <= LIMIT
    assert difference(operator, same.ssd_as_attention(log_decay, b, c)) <= LIMIT
    assert difference(operator, same.attention_matrix(c, eta[:, None] * b, eta)) <= LIMIT
    assert difference(operator, same.separable_attention(c, eta[:, None] * b, eta)) <= LIMIT
    # the control: attention ties the same normaliser to both, SSD does not
    assert difference(operator, same.attention_matrix(c, b, eta)) > MARGIN


def test_the_normaliser_of_a_long_ssd_is_beyond_the_floats() -> None:
    length = 600
    log_decay, b, c = torch.full((length,), -3.0).double(), draw(length, 2), draw(length, 2, seed=1)
    assert torch.exp(-log_decay.cumsum(-1)).isinf().any()
    assert difference(same.ssd(log_decay, b, c), same.ssd_as_attention(log_decay, b, c)) <= LIMIT


@pytest.mark.parametrize(("per_state", "separable"), [(False, True), (True, False)])
def test_only_scalar_transitions_come_from_a_normaliser(per_state: bool, separable: bool) -> None:
    """`T_ij = c_i^T b_j eta_j / eta_i` would make `r_ij = T_ij / c_i^T b_j` a product: r_20 = r_21 r_10."""
    given = selective(per_channel=False, per_state=per_state)
    T = same.s6_as_gated_linear_attention(**given).to_dense()
    r = T / (given["c"] @ (given["delta"][:, :1] * given["b"]).mT)
    worst = max(abs(float(r[i + 2, i] - r[i + 2, i + 1] * r[i + 1, i])) for i in range(L - 2))

    assert worst <= LIMIT if separable else worst > 0.1


# ---- gated RNNs


def test_the_decay_of_s6_is_a_reversed_sigmoid() -> None:
    z = torch.linspace(-800, 800, 161, dtype=torch.float64)
    for rate in (0.5, 1.0, 3.0):
        torch.testing.assert_close(same.reversed_sigmoid(z, rate), torch.exp(-rate * softplus(z)), rtol=1e-10, atol=0)
        assert (
            same.reversed_sigmoid(z, rate) - torch.sigmoid(z) ** rate
        ).abs().max() > 0.5  # the control: not reversed


def test_s6_of_one_state_is_a_gated_rnn_of_the_lstm_kind() -> None:
    z, b, c = draw(L, D, std=2), draw(L, 1, seed=1), draw(L, 1, seed=2)
    s6 = same.s6(softplus(z), torch.ones(D, 1).double(), b, c)

    assert difference(s6, same.s6_as_gated_rnn(z, b, c)) <= LIMIT
    gates = torch.sigmoid(-z), softplus(z) * b, c.expand(L, D)
    assert difference(s6, same.gated_rnn(*gates)) <= LIMIT
    # the control: gates of the LSTM, which are not reversed
    assert difference(s6, same.gated_rnn(torch.sigmoid(z), *gates[1:])) > MARGIN
    # with one state but another rate the forget gate is a power of it
    rates = torch.full((D, 1), 2.0).double()
    powered = same.gated_rnn(same.reversed_sigmoid(z, 2.0), *gates[1:])
    assert difference(same.s6(softplus(z), rates, b, c), powered) <= LIMIT


def lstm_variants() -> dict[str, tuple[RecurrentOperator, tuple[Any, Any, Any]]]:
    """Operators, and the gates (f, i, o) of the papers' equations, naively."""
    f, i, o, rates = draw(L, D), draw(L, D, seed=1), draw(L, D, seed=2), draw(D, seed=3)
    sigmoid = torch.sigmoid
    a = torch.exp(-8 * softplus(rates) * sigmoid(f))
    forget, one = 0.9 + 0.1 * sigmoid(f), torch.ones_like(f)
    return {
        "qlstm": (same.qlstm(f, i, o), (sigmoid(f), sigmoid(i), sigmoid(o))),
        "reversed qlstm": (same.qlstm(f, i, o, alpha=1.5), (sigmoid(-f) ** 1.5, sigmoid(i), sigmoid(o))),
        "unbounded qlstm": (same.qlstm(f, i, o, alpha=-1.0), (one, sigmoid(i), sigmoid(o))),
        "rg-lru": (same.rg_lru(f, i, rates), (a, (1 - a**2).sqrt() * sigmoid(i), one)),
        "hgrn": (same.hgrn(f, 0.9), (forget, 1 - forget, one)),
    }


@pytest.mark.parametrize("name", ["qlstm", "reversed qlstm", "unbounded qlstm", "rg-lru", "hgrn"])
def test_lstm_variants_are_recurrences_of_one_state(name: str) -> None:
    operator, gates = lstm_variants()[name]

    assert operator.batch_shape == (D,)
    assert operator.state_size([3]).tolist() == [1]
    for d in range(D):
        assert difference(operator[d], loop(*(gate[:, d, None] for gate in gates))) <= LIMIT
    others = [other for key, (other, _) in lstm_variants().items() if key != name]
    assert min(difference(operator, other) for other in others) > MARGIN
    assert (operator.hankel_singular_values([10, 20])[..., 1:] <= 1e-12).all()


def test_the_input_scale_of_rg_lru_survives_a_gate_near_one() -> None:
    shut = torch.full((4, 1), -34.0).double()  # sigmoid 1.7e-15: a is 1 to the last digit but one
    scale = same.rg_lru(shut, torch.full_like(shut, 50.0), torch.zeros(1).double()).B
    log_decay = 8 * math.log(2) * math.exp(-34)

    torch.testing.assert_close(scale, torch.full_like(scale, math.sqrt(2 * log_decay)), rtol=1e-6, atol=0)
