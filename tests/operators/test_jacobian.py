"""The Jacobian of a linear operator is the operator; of other modules it is what torch and finite differences say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode

from assay._errors import InputError
from assay.measures.state_size import entropy_ess, state_size_profile
from assay.operators import ConvolutionOperator, DenseOperator, RecurrentOperator, SequenceOperator, _jacobian
from assay.operators._jacobian import JacobianOperator
from assay.operators._range_finder import randomised_singular_values


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_operators(length: int) -> dict[str, SequenceOperator]:
    return {
        "dense": DenseOperator(draw(length, length).tril()),
        "recurrent": RecurrentOperator(draw(length, 3).sigmoid(), draw(length, 3, seed=1), draw(length, 3, seed=2)),
        "convolution": ConvolutionOperator(draw(length), output_gate=draw(length, seed=1)),
    }


class CausalBlock(nn.Module):
    """A whole block, attention and feed-forward, as torch has it."""

    def __init__(self, width: int, *, causal: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, norm_first=True).eval()
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1) if self.causal else None
        return self.block(x, src_mask=mask, is_causal=self.causal)


class GatedMLPMixer(nn.Module):
    """`W ((M u) * silu(V u))`, M a learned causal matrix over positions: (B, L, D) -> (B, L, E)."""

    def __init__(self, length: int, width: int, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.positions = nn.Parameter(torch.randn(length, length) / length**0.5)
        self.gate, self.out = nn.Linear(width, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.positions.tril() @ x) * nn.functional.silu(self.gate(x)))


def lstm(inputs: int, hidden: int) -> nn.LSTM:
    torch.manual_seed(2)
    return nn.LSTM(inputs, hidden, batch_first=True).double()


def gpt2_block(width: int) -> nn.Module:
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Model

    torch.manual_seed(3)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=width, vocab_size=8, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2Model(config).double().eval()

    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(inputs_embeds=x, use_cache=False).last_hidden_state

    return Embedded()


def by_autograd(module: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """torch's own, for one sample (L, D): (L E, L D)."""

    def flat(sample: Tensor) -> Tensor:
        y = module(sample[None])
        return (y[0] if isinstance(y, tuple) else y)[0]

    J = jacobian(flat, x)
    return J.flatten(2).flatten(0, 1)


def direct(J: Tensor, positions: list[int], inputs: int, outputs: int) -> list[Tensor]:
    return [torch.linalg.svdvals(J[i * outputs :, : i * inputs]) for i in positions]


@pytest.mark.parametrize("name", ["dense", "recurrent", "convolution"])
def test_the_jacobian_of_a_linear_operator_is_the_operator(name: str) -> None:
    operator = linear_operators(12)[name]
    J = JacobianOperator(operator.apply, draw(12, 1, seed=5))
    positions = [1, 5, 11]

    assert J.channels == 1
    torch.testing.assert_close(J.to_dense(), operator.to_dense(), rtol=0, atol=1e-12)
    values = draw(12, 4, seed=6)  # four channels that share it
    torch.testing.assert_close(J.apply(values), operator.apply(values), rtol=0, atol=1e-12)
    T, found = operator.to_dense(), J.hankel_singular_values(positions)
    for k, expected in enumerate(direct(T, positions, 1, 1)):
        torch.testing.assert_close(found[k, : len(expected)], expected, rtol=0, atol=1e-12)
        assert not found[k, len(expected) :].any()
    assert J.state_size(positions).tolist() == positions


@pytest.mark.parametrize("name", ["dense", "recurrent", "convolution"])
def test_channels_that_are_mixed_afterwards_make_a_kronecker_product(name: str) -> None:
    operator, W = linear_operators(9)[name], draw(2, 3, seed=7)
    J = JacobianOperator(lambda x: operator.apply(x) @ W.mT, draw(2, 9, 3, seed=8))
    values, T = draw(2, 9, 3, seed=9), operator.to_dense()

    assert (J.batch_shape, J.channels) == ((2,), 3)
    torch.testing.assert_close(J.to_dense(), torch.kron(T, W).expand(2, -1, -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(J.apply(values), operator.apply(values) @ W.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(J.apply_transpose(values[..., :2]), T.mT @ values[..., :2] @ W, rtol=0, atol=1e-12)
    products = torch.outer(direct(T, [4], 1, 1)[0], torch.linalg.svdvals(W)).flatten().sort(descending=True).values
    found = J.hankel_singular_values([4])
    torch.testing.assert_close(found[..., 0, : len(products)], products.expand(2, -1), rtol=0, atol=1e-12)
    assert found[..., len(products) :].max() < 1e-12  # kron(H, W) is wider than it has rank
    assert J.state_size([4]).tolist() == [12]


MODULES = {
    "lstm": (lambda: lstm(3, 4), 3),
    "gated mlp": (lambda: GatedMLPMixer(10, 4, 3).double(), 4),
    "block": (lambda: CausalBlock(4).double(), 4),
    "gpt2": (lambda: gpt2_block(4), 4),
}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_the_derivative_that_torch_and_finite_differences_give(name: str) -> None:
    make, width = MODULES[name]
    module, x, v = make(), draw(2, 10, width), draw(2, 10, width, seed=1)
    J = JacobianOperator(module, x)
    expected = torch.stack([by_autograd(module, sample) for sample in x])

    torch.testing.assert_close(J.to_dense(), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        y = [module(x + step * v) for step in (1e-5, -1e-5)]
    after, before = (z[0] if isinstance(z, tuple) else z for z in y)
    torch.testing.assert_close(J.apply(v), (after - before) / 2e-5, rtol=0, atol=1e-7)
    w = draw(*after.shape, seed=2)
    torch.testing.assert_close(J.apply_transpose(w).flatten(1), (w.flatten(1)[:, None] @ expected)[:, 0])
    positions = list(range(1, 10))
    found = J.hankel_singular_values(positions)
    for sample in range(2):
        for k, sigma in enumerate(direct(expected[sample], positions, width, after.shape[-1])):
            torch.testing.assert_close(found[sample, k, : len(sigma)], sigma, rtol=0, atol=1e-11)


def test_an_lstm_carries_no_more_than_its_hidden_and_its_cell_state() -> None:
    positions, x = list(range(1, 16)), draw(16, 6)
    hidden = 3
    rank = (JacobianOperator(lstm(6, hidden), x).hankel_singular_values(positions) > 1e-12).sum(-1)

    assert rank.max() == 2 * hidden
    # the control: attention of the same width has no such bound
    rank = (JacobianOperator(CausalBlock(6).double(), x).hankel_singular_values(positions) > 1e-12).sum(-1)
    assert rank.max() > 4 * hidden


def test_state_size_profile_reads_it() -> None:
    T = draw(14, 14).tril()
    profile = state_size_profile(JacobianOperator(DenseOperator(T).apply, torch.ones(14, 1).double()))
    expected = state_size_profile(DenseOperator(T))
    torch.testing.assert_close(profile.entropy_ess, expected.entropy_ess)
    torch.testing.assert_close(profile.tolerance_ess, expected.tolerance_ess)

    x = draw(2, 14, 3)
    profile = state_size_profile(JacobianOperator(lstm(3, 2), x), positions="adaptive")
    J = by_autograd(lstm(3, 2), x[1])
    at = profile.positions.tolist()
    expected_ess = [entropy_ess(sigma) for sigma in direct(J, at, 3, 2)]
    torch.testing.assert_close(profile.entropy_ess[1], torch.stack(expected_ess))


# ---- the range finder


def decaying(size: tuple[int, int], rate: float, seed: int) -> Tensor:
    m, n = size
    U, V = torch.linalg.qr(draw(m, m, seed=seed)).Q, torch.linalg.qr(draw(n, n, seed=seed + 1)).Q
    sigma = torch.exp(-rate * torch.arange(min(m, n), dtype=torch.float64))
    return (U[:, : len(sigma)] * sigma) @ V[:, : len(sigma)].mT


def search(H: Tensor, seed: int, *, rank: int = 512, tolerance: float = 1e-3) -> tuple[Tensor, float]:
    """Singular values padded to all of H's, and the estimate."""
    generator = torch.Generator().manual_seed(seed)
    sigma, error = randomised_singular_values(
        lambda v: v @ H.mT, lambda w: w @ H, H.shape[1], rank=rank, tolerance=tolerance, generator=generator
    )
    return nn.functional.pad(sigma, (0, min(H.shape) - len(sigma))), error


@pytest.mark.parametrize("rate", [0.03, 0.2, 1.0])
@pytest.mark.parametrize("rank", [32, 512])
def test_the_error_estimate_is_honest(rate: float, rank: int) -> None:
    for seed in range(60):
        H = decaying((90, 120), rate, seed)
        sigma, error = search(H, seed, rank=rank)
        true = torch.linalg.svdvals(H)
        off = float((true - sigma).max())
        assert (sigma <= true + 1e-13).all()
        assert (true <= (sigma.square() + error**2).sqrt() + 1e-13).all()
        assert error <= 4 * max(off, 1e-5)  # and not too cautious
        # the control: a rank that is too small is told
        assert (error <= 1e-3 * true[0]) == (rank == 512 or rate == 1.0)


def test_an_estimate_that_is_ten_times_smaller_would_not_be_honest() -> None:
    """Where a single direction was not found, all there is to see of it is its share in 16 random vectors."""
    H, missed, missed_by_a_tenth = decaying((90, 120), 0, 0)[:, :33], 0, 0
    for seed in range(100):
        sigma, error = search(H, seed, rank=32)
        off = float((torch.linalg.svdvals(H) - sigma).max())
        assert off > 0.01
        missed += off > error
        missed_by_a_tenth += off > error / 10
    assert missed == 0
    assert missed_by_a_tenth > 50


def test_an_estimate_is_needed_most_where_nothing_decays() -> None:
    H = draw(80, 80) / 80**0.5
    sigma, error = search(H, 0, rank=32)

    assert float((torch.linalg.svdvals(H) - sigma).max()) > 0.5
    assert error > 0.5


def test_ranks_below_a_batch_of_probes_and_zero_blocks() -> None:
    H = draw(50, 3) @ draw(3, 40)
    sigma, error = search(H, 0)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(H), rtol=0, atol=1e-12)
    assert error < 1e-10
    sigma, error = search(torch.zeros(20, 30).double(), 0)
    assert (sigma.max(), error) == (0, 0)
    assert len(search(decaying((40, 40), 0.1, 0), 0, rank=7)[0].nonzero()) == 7  # never more than asked for


def test_all_ways_to_the_spectra_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, positions = lstm(4, 6), draw(2, 20, 4), [2, 9, 17]
    whole, error = JacobianOperator(module, x).hankel_spectrum(positions)
    assert not error.any()
    monkeypatch.setattr(_jacobian, "WHOLE", 0)
    each, error = JacobianOperator(module, x).hankel_spectrum(positions)
    assert not error.any()
    torch.testing.assert_close(each, whole, rtol=0, atol=1e-12)
    few = {"rank": 20, "tolerance": 1e-6}
    searched, error = JacobianOperator(module, x, **few).hankel_spectrum(positions)
    assert (error > 0).tolist() == [[False, True, False]] * 2  # 8 by 108 and 80 by 18 are small, 36 by 66 is not
    assert (error <= 1e-6 * whole[..., 0]).all()
    size = searched.shape[-1]
    assert ((whole[..., :size] - searched).abs().amax(-1) <= error + 1e-13).all()

    again = JacobianOperator(module, x, **few).hankel_spectrum([9])
    assert torch.equal(again[0][:, 0], searched[:, 1, : again[0].shape[-1]])  # the same seed, the same numbers
    other = JacobianOperator(module, x, **few, seed=1).hankel_spectrum([9])
    assert not torch.equal(other[0], again[0])


def test_a_rank_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jacobian, "WHOLE", 0)
    J = JacobianOperator(CausalBlock(6).double(), draw(16, 6), rank=4)
    sigma, error = J.hankel_spectrum([8])
    true = torch.linalg.svdvals(by_autograd(CausalBlock(6).double(), draw(16, 6))[48:, :48])

    assert error[0] > 0.1 * true[0]
    assert 0 < float((true[:4] - sigma[0]).max()) <= error[0]
    with pytest.warns(UserWarning, match="4 singular values leave an error of .* raise rank"):
        J.hankel_singular_values([8])


class Largest(TorchDispatchMode):
    """Entries of the largest tensor made inside."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return found


def test_the_search_holds_nothing_of_the_size_of_the_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    length, width = 48, 24
    monkeypatch.setattr(_jacobian, "ENTRIES", length * width)
    gate = torch.nn.functional.silu
    decay = torch.exp(-torch.arange(length).double())
    smooth = ConvolutionOperator(decay, output_gate=draw(length))
    mix = draw(width, width) / width**0.5
    J = JacobianOperator(lambda x: smooth.apply(gate(x @ mix)), draw(length, width), rank=64, tolerance=1e-2)
    with Largest() as dense:
        exact = J.hankel_spectrum([24])[0][0, 0]
    monkeypatch.setattr(_jacobian, "WHOLE", 0)
    with Largest() as searched:
        sigma, error = J.hankel_spectrum([24])

    assert 0 < error[0] <= 1e-2 * exact
    assert abs(sigma[0, 0] - exact) <= error[0]
    assert dense.entries >= (length * width) ** 2  # the control: forming J does
    assert searched.entries <= 64 * length * width


# ---- derivatives of every kind


class SecondDerivativeOnly(torch.autograd.Function):
    """x^2 without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class FirstDerivativeOnly(SecondDerivativeOnly):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class WrongDerivative(SecondDerivativeOnly):
    """Its forward mode is wrong, its reverse mode right."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ARG004
        return 3 * tangent


@pytest.mark.parametrize("function", [SecondDerivativeOnly, WrongDerivative])
def test_forward_products_without_a_forward_derivative(function: type[torch.autograd.Function]) -> None:
    x, v = draw(2, 6, 3), draw(2, 6, 3, seed=1)
    J = JacobianOperator(lambda x: function.apply(x.cumsum(1)), x)

    torch.testing.assert_close(J.apply(v), 2 * x.cumsum(1) * v.cumsum(1))


def test_without_second_derivatives_reverse_products_are_left() -> None:
    x = draw(6, 3)
    J = JacobianOperator(lambda x: FirstDerivativeOnly.apply(x.cumsum(1)), x)

    expected = direct(J.to_dense(), [3], 3, 3)[0]
    torch.testing.assert_close(J.hankel_singular_values([3])[0], expected)
    with pytest.raises(InputError, match="no forward-mode derivative"):
        J.apply(x)


@pytest.mark.parametrize("module", [lstm(8, 5).float(), CausalBlock(8)], ids=["lstm", "block"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_fused_kernels_in_float32_and_any_grad_mode(module: nn.Module, mode: Any) -> None:
    x, v = draw(2, 10, 8).float(), draw(2, 10, 8, seed=1)
    with mode():
        J = JacobianOperator(module, x)
        single, double = J.apply(v.float()), J.double().apply(v)

    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
    assert next(module.parameters()).dtype == torch.float32  # double() took a copy
    assert all(p.grad is None for p in module.parameters())


def test_a_half_precision_module_is_taken_as_it_is() -> None:
    J = JacobianOperator(CausalBlock(8).bfloat16(), draw(8, 8).bfloat16())

    assert J.dtype == torch.bfloat16
    assert J.hankel_singular_values([4]).dtype == torch.float64


# ---- as an operator among others


def test_one_channel_can_be_added_composed_and_realised() -> None:
    T = draw(10, 10).tril()
    J = JacobianOperator(DenseOperator(T).apply, draw(2, 10, 1))
    other = DenseOperator(draw(10, 10, seed=3).tril())

    torch.testing.assert_close((J + other).to_dense(), (T + other.matrix).expand(2, -1, -1))
    torch.testing.assert_close(J.compose(other).to_dense(), (T @ other.matrix).expand(2, -1, -1))
    torch.testing.assert_close(J.realise().operator.to_dense(), T.expand(2, -1, -1))
    assert int(J.truncate(2).state_sizes.max()) == 2

    wide = JacobianOperator(lambda x: x.cumsum(-2).repeat(1, 1, 2), draw(10, 1))  # one channel in, two out
    for refused in (lambda: wide + wide, lambda: wide.compose(wide), wide.realise, lambda: wide.truncate(2)):
        with pytest.raises(InputError, match="mixes 2 channels"):
            refused()


def test_windows_and_samples_are_parts_of_it() -> None:
    module, x = CausalBlock(4).double(), draw(2, 3, 9, 4)
    J = JacobianOperator(lambda x: module(x)[..., :3], x)
    dense = J.to_dense()
    assert dense.shape == (2, 3, 27, 36)
    part = J[1, 2].window(2, 7)

    assert (part.length, part.batch_shape) == (5, ())
    torch.testing.assert_close(part.to_dense(), dense[1, 2, 6:21, 8:28])
    v = draw(5, 4, seed=4)
    torch.testing.assert_close(part.apply(v).flatten(), dense[1, 2, 6:21, 8:28] @ v.flatten())
    torch.testing.assert_close(part.double().to_dense(), part.to_dense())
    torch.testing.assert_close(
        part.hankel_singular_values([2])[0, :6], direct(dense[1, 2, 6:21, 8:28], [2], 4, 3)[0][:6]
    )
    torch.testing.assert_close(
        J[:, 1].apply(draw(9, 4)), torch.einsum("byx,x->by", dense[:, 1], draw(36)).unflatten(1, (9, 3))
    )
    assert J.hankel_spectrum([])[0].shape[:3] == (2, 3, 0)


def leaks_one_ahead(x: Tensor) -> Tensor:
    """Only every fourth output sees the next input."""
    ahead = torch.cat([x[:, 1:], x[:, :1] * 0], dim=1)
    return x.cumsum(1) + ahead * (torch.arange(x.shape[1]) % 4 == 2)[None, :, None]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (CausalBlock(4, causal=False).double(), "not causal: outputs before position"),
        (lambda x: x.flip(1), "not causal"),
        (leaks_one_ahead, "not causal"),
        (lambda x: x - 1e-3 * x.mean(1, keepdim=True), "not causal"),
        (lambda x: x.cumsum(1) - x.mean(0), "mixes the samples"),
        (nn.Dropout(0.5), r"different outputs for the same input; call module.eval\(\)"),
        (lambda x: x.mT, r"made \(2, 4, 12\) of x \(2, 12, 4\); expected \(2, 12\)"),
        (lambda x: {"y": x}, "made dict of x"),
        (lambda x: x / (x - x), "NaN or infinite outputs"),
        (lambda x: (x * 0).sqrt(), "NaN or infinite derivatives"),
        (lambda x: x.detach(), "no derivative"),
    ],
)
def test_modules_that_are_refused(module: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        JacobianOperator(module, draw(2, 12, 4))


def test_an_fft_leaves_rounding_before_the_diagonal_and_is_causal_still() -> None:
    delay = torch.zeros(64)
    delay[40] = 1  # outputs before 40 are nothing but rounding
    J = JacobianOperator(ConvolutionOperator(delay).apply, torch.randn(64, 2))

    assert (J.hankel_singular_values([32]) > 0.5).sum() == 2 * 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.ones(3)}, r"x has shape \(3,\)"),
        ({"x": torch.ones(0, 3, 1)}, r"x has shape \(0, 3, 1\)"),
        ({"x": torch.ones(3, 1, dtype=torch.long)}, "torch.int64"),
        ({"x": torch.full((3, 1), torch.nan)}, "x holds NaN"),
        ({"x": torch.ones(3, 1), "rank": 0}, "rank is 0"),
        ({"x": torch.ones(3, 1), "tolerance": 0.0}, "tolerance is 0.0"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        JacobianOperator(lambda x: x.cumsum(-2), **arguments)


def test_values_positions_and_windows_that_are_refused() -> None:
    J = JacobianOperator(lambda x: x.cumsum(-2), torch.ones(2, 5, 3))
    with pytest.raises(InputError, match=r"values has shape \(5, 2\); expected \(2, 5, 3\)"):
        J.apply(torch.ones(5, 2))
    with pytest.raises(InputError, match="position 5 is outside"):
        J.hankel_singular_values([5])
    with pytest.raises(InputError, match="window is 3 to 6"):
        J.window(3, 6)


def test_a_sequence_of_one_token_has_no_position() -> None:
    J = JacobianOperator(nn.Linear(3, 2), torch.ones(1, 3))

    assert J.to_dense().shape == (2, 3)
    assert J.hankel_singular_values([]).shape[0] == 0
