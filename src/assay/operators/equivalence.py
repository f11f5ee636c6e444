"""One system, many mixers: attention, state-space models and gated RNNs as the same linear recurrence.

The dynamical-systems framework (Sieber et al. 2024, arXiv 2405.15731) writes a mixer as
`h_i = A_i h_{i-1} + B_i v_i,  y_i = C_i h_i` with diagonal A_i, which is a `RecurrentOperator`. Each function here is
one of its statements. Where a mixer is known in two forms, both can be built; that they agree is the statement.

Shapes: L positions, N features (the state of each value channel), m the width of queries and keys, d channels, `...`
any batch shape. Attention shares one operator among its value channels; what has gates for each of d channels has the
batch shape (..., d). Dtypes are kept. Nothing is divided by a product of decays, and normalisers that may leave the
range of floats are taken as logarithms.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor
from torch.nn.functional import elu, logsigmoid, softplus

from assay._errors import InputError
from assay.operators._dense import DenseOperator
from assay.operators._recurrent import RecurrentOperator

# ---- attention


def attention_matrix(phi_q: Tensor, psi_k: Tensor, normaliser: Tensor) -> DenseOperator:
    """Attention as it is defined: `T_ij = phi(q_i)^T psi(k_j) / eta_i` for j <= i.

    Args:
        phi_q, psi_k: features of queries and keys, (..., L, N).
        normaliser: eta, (..., L), nowhere 0.
    """
    return DenseOperator((phi_q @ psi_k.mT).tril() / normaliser[..., None])


def separable_attention(phi_q: Tensor, psi_k: Tensor, normaliser: Tensor) -> RecurrentOperator:
    """The same as a recurrence: attention is a linear system if its kernel separates, `zeta(q, k) = phi(q)^T psi(k)`.

    `A_i = eta_{i-1} / eta_i,  B_i = psi(k_i) / eta_i,  C_i = phi(q_i)`: what is carried is normalised, and normalised
    anew at each step. Arguments as in `attention_matrix`. A_0 meets no state and is 1.
    Raises `InputError` where eta is 0.
    """
    ratio = normaliser[..., :-1] / normaliser[..., 1:]
    A = torch.cat([torch.ones_like(normaliser[..., :1]), ratio], dim=-1)
    return RecurrentOperator(A[..., None], psi_k / normaliser[..., None], phi_q)


def causal_normaliser(phi_q: Tensor, psi_k: Tensor) -> Tensor:
    """`eta_i = phi(q_i)^T sum_{j <= i} psi(k_j)`, with which the rows of T sum to 1: (..., L)."""
    return (phi_q * psi_k.cumsum(-2)).sum(-1)


def linear_attention(q: Tensor, k: Tensor) -> RecurrentOperator:
    """Linear attention is separable, with `phi = psi = elu + 1` and rows that sum to 1: a state of N = m.

    q, k: (..., L, m). Source: Katharopoulos et al. 2020.
    """
    phi_q, psi_k = elu(q) + 1, elu(k) + 1
    return separable_attention(phi_q, psi_k, causal_normaliser(phi_q, psi_k))


def normalised_attention(q: Tensor, k: Tensor, log_normaliser: Tensor) -> RecurrentOperator:
    """Normalised attention: `T_ij = q_i^T k_j / eta_i`, where eta_i depends on token i alone, such as `exp(w^T u_i)`.

    The paper's proposal: to choose the normaliser freely is what attention can learn from SSMs.
    q, k: (..., L, m); log_normaliser: log eta, (..., L).
    Raises `InputError` where 1 / eta itself is out of range.
    """
    ratio = -log_normaliser.diff(dim=-1, prepend=log_normaliser[..., :1])
    return RecurrentOperator(ratio.exp()[..., None], k * torch.exp(-log_normaliser)[..., None], q)


# ---- softmax attention


def softmax_attention(q: Tensor, k: Tensor) -> DenseOperator:
    """`T_ij = exp(q_i^T k_j / sqrt(m))` over the sum of its row, causal: its kernel does not separate for any finite N.

    q, k: (..., L, m).
    """
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return DenseOperator(scores.masked_fill(future, -torch.inf).softmax(-1))


def taylor_features(x: Tensor, degree: int, *, symmetric: bool = True) -> Tensor:
    """phi with `phi(x)^T phi(y) = sum_{p <= degree} (x^T y)^p / p!`, the start of exp(x^T y): (..., m) -> (..., N).

    `phi = [1, x, x (x) x / sqrt(2!), ..]`, N = 1 + m + .. + m^degree. `symmetric` merges the products that differ in
    order only, with the weight sqrt(p! / alpha!) for the multi-index alpha: N = C(m + degree, degree).
    Raises `InputError` for a negative degree.
    """
    if degree < 0:
        raise InputError(f"degree is {degree}; expected 0 or more")
    every = range(x.shape[-1])
    features = [torch.ones_like(x[..., 0])]
    for p in range(1, degree + 1):
        for factors in combinations_with_replacement(every, p) if symmetric else product(every, repeat=p):
            repeats = math.prod(map(math.factorial, Counter(factors).values())) if symmetric else math.factorial(p)
            features.append(x[..., list(factors)].prod(-1) / repeats**0.5)
    return torch.stack(features, dim=-1)


def taylor_attention(q: Tensor, k: Tensor, degree: int) -> RecurrentOperator:
    """Softmax attention with exp cut after `degree` terms: separable, with a state of N = C(m + degree, degree).

    On bounded inputs it tends to softmax attention as N grows. Odd degrees can give negative weights and
    normalisers near 0: prefer even ones. q, k: (..., L, m).
    """
    scale = q.shape[-1] ** -0.25
    phi_q, psi_k = (taylor_features(x * scale, degree) for x in (q, k))
    return separable_attention(phi_q, psi_k, causal_normaliser(phi_q, psi_k))


# ---- state-space models


def s6(delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> RecurrentOperator:
    """Mamba's S6 without its skip: `A_i = exp(-Delta_i a),  B_i = Delta_i b_i,  C_i = c_i` in each of d channels.

    Args:
        delta: Delta, (..., L, d), above 0.
        rates: a, (d, N), above 0.
        b, c: input and output vectors, shared by the channels, (..., L, N).

    Batch shape (..., d). Source: Gu & Dao 2023.
    """
    steps = delta.mT[..., None]  # (..., d, L, 1)
    return RecurrentOperator(torch.exp(-steps * rates[:, None]), steps * b[..., None, :, :], c[..., None, :, :])


def s6_as_gated_linear_attention(delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> RecurrentOperator:
    """S6 as one gated linear attention for all channels: `alpha_i = exp(-Delta_i a)`, keys `Delta_i b_i`, queries c.

    They coincide when neither Delta nor a differ from channel to channel; arguments as in `s6`, batch shape (...).
    Raises `InputError` when they differ: then each channel has an operator of its own.
    """
    delta, rates = _shared(delta, "delta"), _shared(rates.mT, "rates")
    return RecurrentOperator(torch.exp(-delta[..., None] * rates), delta[..., None] * b, c)


def s6_as_ssd(delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> RecurrentOperator:
    """S6 as Mamba-2's SSD, and hence as separable attention: in addition, A_i must be a multiple of the identity.

    Arguments as in `s6`, batch shape (...). Raises `InputError` when a differs over the state or channels, or Delta
    over channels.
    """
    delta, rate = _shared(delta, "delta"), _shared(_shared(rates, "rates")[None], "rates")[0]
    return ssd(-rate * delta, delta[..., None] * b, c)


def ssd(log_decay: Tensor, b: Tensor, c: Tensor) -> RecurrentOperator:
    """SSD (Mamba-2): `A_i = a_i I,  B_i = b_i,  C_i = c_i` with one number a_i.

    log_decay: log a, (..., L), at most 0; b (Delta is in it), c: (..., L, N). Source: Dao & Gu 2024.
    """
    return RecurrentOperator(log_decay.exp()[..., None], b, c)


def ssd_as_attention(log_decay: Tensor, b: Tensor, c: Tensor) -> DenseOperator:
    """SSD is separable attention: `T_ij = c_i^T (eta_j b_j) / eta_i` with the normaliser `eta_i = 1 / (a_0 .. a_i)`.

    Normalised attention divides by eta_i alone; SSD has it in the keys as well. eta overflows soon, eta_j / eta_i =
    `exp(log a_{j+1} + .. + log a_i)` does not. Arguments as in `ssd`. O(L^2 N).
    """
    total = log_decay.cumsum(-1)
    span = total[..., :, None] - total[..., None, :]
    future = torch.ones(span.shape[-2:], dtype=torch.bool, device=span.device).triu(1)
    return DenseOperator((c @ b.mT) * span.masked_fill(future, -torch.inf).exp())


# ---- gated RNNs: one number of state for each channel


def gated_rnn(forget: Tensor, input_gate: Tensor, output_gate: Tensor) -> RecurrentOperator:
    """`A_i = f_i,  B_i = i_i,  C_i = o_i`: the framework with N = 1. Gates (..., L, d); batch shape (..., d)."""
    return RecurrentOperator(*(gate.mT[..., None] for gate in (forget, input_gate, output_gate)))


def reversed_sigmoid(z: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    """`sigmoid(-z)^a = exp(-a softplus(z))`: S6's decay is a sigmoid gate seen from behind. Shape of z."""
    return torch.exp(rate * logsigmoid(-z))


def qlstm(z_forget: Tensor, z_input: Tensor, z_output: Tensor, *, alpha: float | None = None) -> RecurrentOperator:
    """An LSTM whose gates do not see its last output: gates `sigmoid(z)`, logits (..., L, d); batch shape (..., d).

    With `alpha`, the forget gate is S6's, `sigmoid(-z)^relu(alpha)`.
    """
    forget = torch.sigmoid(z_forget) if alpha is None else reversed_sigmoid(z_forget, max(alpha, 0.0))
    return gated_rnn(forget, torch.sigmoid(z_input), torch.sigmoid(z_output))


def s6_as_gated_rnn(z: Tensor, b: Tensor, c: Tensor) -> RecurrentOperator:
    """S6 with N = 1 and a = 1 is a gated RNN with forget gate `sigmoid(-z)` and input gate `softplus(z)`, z the logits
    of Delta: qLSTM's class, with gates that are tied to each other.

    z: (..., L, d); b, c: (..., L, 1). Batch shape (..., d).
    """
    return gated_rnn(reversed_sigmoid(z), softplus(z) * b, c.expand(z.shape))


def rg_lru(z_recurrence: Tensor, z_input: Tensor, rates: Tensor, *, exponent: float = 8.0) -> RecurrentOperator:
    """RG-LRU: `a_i = exp(-8 softplus(Lambda) sigmoid(z_r)),  B_i = sqrt(1 - a_i^2) sigmoid(z_i),  C_i = 1`.

    z_recurrence, z_input: (..., L, d); rates: Lambda, (d,). Batch shape (..., d). Source: De et al. 2024.
    """
    log_decay = -exponent * softplus(rates) * torch.sigmoid(z_recurrence)
    kept = (-torch.expm1(2 * log_decay)).sqrt()  # not 1 - a^2, which loses all digits where a is near 1
    return gated_rnn(log_decay.exp(), kept * torch.sigmoid(z_input), torch.ones_like(kept))


def hgrn(z_forget: Tensor, lower_bound: Tensor | float) -> RecurrentOperator:
    """HGRN: `f_i = gamma + (1 - gamma) sigmoid(z),  B_i = 1 - f_i,  C_i = 1`.

    z_forget: (..., L, d); lower_bound: gamma, in [0, 1), a number or (d,). Batch shape (..., d).
    Source: Qin et al. 2023.
    """
    remembered = (1 - lower_bound) * torch.sigmoid(-z_forget)  # 1 - f
    return gated_rnn(1 - remembered, remembered, torch.ones_like(remembered))


def _shared(tensor: Tensor, name: str) -> Tensor:
    """(..., d) -> (...), where all d entries agree; raises `InputError` where they do not."""
    if not torch.equal(tensor, tensor[..., :1].expand_as(tensor)):
        raise InputError(
            f"{name} differs by up to {float((tensor - tensor[..., :1]).abs().max()):.3g}; expected one value"
        )
    return tensor[..., 0]
