"""Mixers built on long convolutions and time-invariant state spaces."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._diagonal_ssm import DiagonalStateSpace
from assay.nn._fft_convolution import convolution_step, fft_convolution
from assay.nn._long_filter import ExplicitFilter, ImplicitFilter
from assay.nn._mixer import Mixer
from assay.nn.base_conv import BaseConv
from assay.nn.contract import check_mixer
from assay.nn.h3 import H3
from assay.nn.hyena import Hyena
from assay.nn.long_convolution import LongConvolution
from assay.nn.s4d import S4D

MIXERS = {
    "s4d": partial(S4D, state_size=8),
    "s4d, real": partial(S4D, state_size=8, init="real"),
    "h3": partial(H3, state_size=8),
    "hyena": Hyena,
    "long convolution": LongConvolution,
    "long convolution, table": partial(LongConvolution, implicit=False, max_length=100),
    "base_conv": BaseConv,
    "base_conv, short": partial(BaseConv, kernel_size=3),
}


@pytest.mark.parametrize("name", MIXERS)
def test_contract(name):
    check_mixer(lambda: MIXERS[name](16))


@pytest.mark.parametrize("name", MIXERS)
def test_autocast(name):
    """Under bfloat16 the result stays near that of float32, gradients too, and is never NaN."""
    torch.manual_seed(0)
    mixer, x = MIXERS[name](32), torch.randn(2, 70, 32)
    exact = mixer(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        rough = mixer(x)
    rough.float().square().sum().backward()

    assert float((rough.detach() - exact).norm() / exact.norm()) < 0.03
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_weights_in_half_precision(name):
    mixer, x = MIXERS[name](32).bfloat16(), torch.randn(2, 9, 32).bfloat16()
    state = None
    for t in range(9):
        y, state = mixer.step(x[:, t], state)

    assert mixer(x).dtype == y.dtype == torch.bfloat16
    assert torch.isfinite(mixer(x)).all()


def drive(mixer: Mixer, length: int = 37) -> tuple[Tensor, Mixer]:
    return torch.randn(2, length, mixer.d_model, dtype=torch.double), mixer.double()


# --------------------------------------------------------------------------------------------------------- convolution


@pytest.mark.parametrize("length", [1, 2, 37, 64, 127])
def test_fft_convolution_is_the_sum(length):
    generator = torch.Generator().manual_seed(length)
    kernel = torch.randn(3, length, generator=generator, dtype=torch.double)
    x = torch.randn(2, 3, length, generator=generator, dtype=torch.double)

    y = fft_convolution(kernel, x)

    for b in range(2):
        for d in range(3):
            np.testing.assert_allclose(y[b, d], np.convolve(kernel[d], x[b, d])[:length], atol=1e-12)


def test_fft_convolution_has_the_gradients_of_a_toeplitz_matrix():
    kernel, x = torch.randn(20, dtype=torch.double), torch.randn(20, dtype=torch.double)
    weights = torch.randn(20, dtype=torch.double)
    T = torch.stack([torch.cat([torch.zeros(j, dtype=torch.double), kernel[: 20 - j]]) for j in range(20)], 1)

    _, (for_kernel, for_x) = torch.autograd.functional.vjp(fft_convolution, (kernel, x), weights)

    torch.testing.assert_close(for_x, T.mT @ weights)
    torch.testing.assert_close(for_kernel, torch.stack([(weights[k:] * x[: 20 - k]).sum() for k in range(20)]))


def test_fft_convolution_keeps_the_precision_given():
    x = torch.randn(8)

    assert fft_convolution(x, x).dtype == torch.float32
    assert fft_convolution(x.double(), x.double()).dtype == torch.float64
    assert fft_convolution(x, x.bfloat16()).dtype == torch.float32


def test_convolution_step_keeps_what_the_kernel_reaches():
    kernel, x = torch.randn(2, 3), torch.randn(1, 2, 9)
    past, outputs = None, []
    for t in range(9):
        y, past = convolution_step(kernel, past, x[..., t])
        outputs.append(y)

    torch.testing.assert_close(torch.stack(outputs, -1), fft_convolution(nn.functional.pad(kernel, (0, 6)), x))
    assert past.shape[-1] == 3


# -------------------------------------------------------------------------------------------------------- state spaces


@pytest.mark.parametrize("init", ["lin", "real"])
def test_kernel_is_the_impulse_response_of_the_sampled_system(init):
    """scipy discretises each channel's system; at t = 0 the kernel has D too."""
    torch.manual_seed(0)
    ssm = DiagonalStateSpace(3, state_size=6, init=init).double()
    kernel = ssm.kernel(50).detach().numpy()

    for channel in range(3):
        if init == "lin":
            A = np.zeros((6, 6))
            for n in range(3):
                A[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = [[-0.5, -np.pi * n], [np.pi * n, -0.5]]
            B = np.tile([1.0, 0.0], 3)[:, None]
            C = 2 * (ssm.C[channel].detach().numpy() * [1, -1]).reshape(1, 6)
        else:
            A, B, C = -np.diag(np.arange(1.0, 7)), np.ones((6, 1)), ssm.C[channel].detach().numpy()[None]
        A, B, C, *_ = cont2discrete((A, B, C, np.zeros((1, 1))), ssm.log_dt[channel].exp().item(), "zoh")
        expected = np.array([(C @ np.linalg.matrix_power(A, t) @ B).item() for t in range(50)])
        expected[0] += ssm.D[channel].item()
        np.testing.assert_allclose(kernel[channel], expected, rtol=1e-5, atol=1e-6)  # parameters were drawn in float32
        assert np.abs(kernel[channel] - np.roll(expected, 1)).max() > 1e-3


@pytest.mark.parametrize("length", [1, 2, 3, 37, 64])
def test_kernel_is_a_prefix_of_a_longer_one(length):
    ssm = DiagonalStateSpace(3, state_size=6, init="lin").double()

    torch.testing.assert_close(ssm.kernel(length), ssm.kernel(100)[:, :length])


def test_s4d_has_a_state_of_n_numbers():
    torch.manual_seed(0)
    x, mixer = drive(S4D(2, state_size=4), 40)
    operator = mixer.operator(x)

    assert operator.state_size([20]).tolist() == [4]
    singular = torch.linalg.svdvals(operator.to_dense()[0, :, 20:, :20]).detach()
    assert (singular[:, 4] < 1e-10 * singular[:, 0]).all()
    torch.testing.assert_close(operator.hankel_singular_values([20])[0, :, 0, :4].detach(), singular[:, :4])


# -------------------------------------------------------------------------------------------------------------- mixers


def test_h3_is_its_formula():
    """T_ij = q_i h_{i-j} kbar_j."""
    torch.manual_seed(0)
    x, mixer = drive(H3(6, state_size=4, shift_size=5))
    q, k, v = mixer.in_proj(x).chunk(3, -1)
    taps, h = mixer.shift.conv.weight[:, 0], mixer.ssm.kernel(37)
    y = torch.zeros_like(x)
    for i in range(37):
        for j in range(i + 1):
            shifted = sum(taps[:, -1 - s] * k[:, j - s] for s in range(min(j + 1, 5)))
            y[:, i] += q[:, i] * h[:, i - j] * shifted * v[:, j]

    torch.testing.assert_close(mixer(x), mixer.out_proj(y), rtol=1e-9, atol=1e-11)
    assert mixer.operator(x).state_size([10]).tolist() == [4]


def test_hyena_is_its_formula():
    """T_ij = x1_i h_{i-j} x2_j, with h's own number at lag 0."""
    torch.manual_seed(0)
    x, mixer = drive(Hyena(6))
    x1, x2, v = mixer.conv(mixer.in_proj(x)).chunk(3, -1)
    h = mixer.filter(37)
    y = torch.zeros_like(x)
    for i in range(37):
        y[:, i] = x1[:, i] * (
            sum(h[:, i - j] * x2[:, j] * v[:, j] for j in range(i + 1)) + mixer.skip * x2[:, i] * v[:, i]
        )

    torch.testing.assert_close(mixer(x), mixer.out_proj(y), rtol=1e-9, atol=1e-11)


def test_base_conv_is_its_formula():
    """The short one against the convolution of torch."""
    torch.manual_seed(0)
    x, mixer = drive(BaseConv(6, kernel_size=3))
    assert 0.4 < float(mixer.filter.kernel.detach().abs().max()) <= 3**-0.5
    mixer.bias.data.normal_()
    conv = nn.Conv1d(6, 6, 3, groups=6).double()
    conv.weight.data, conv.bias.data = mixer.filter.kernel.data.flip(-1)[:, None], mixer.bias.data

    expected = mixer.gate_proj(x) * conv(nn.functional.pad(x.mT, (2, 0))).mT

    torch.testing.assert_close(mixer(x), expected, rtol=1e-9, atol=1e-11)
    assert mixer.operator(x).state_size([1, 10]).tolist() == [1, 2]


def test_long_convolution_does_not_depend_on_the_input():
    x, mixer = drive(LongConvolution(6))

    T = mixer.operator(x).to_dense()

    torch.testing.assert_close(T[0], T[1])
    torch.testing.assert_close(T[0, :, 5:, 5:], T[0, :, :-5, :-5])  # Toeplitz
    torch.testing.assert_close(mixer(x), mixer.out_proj(nn.functional.gelu((T @ x.mT[..., None])[..., 0].mT)))


# ------------------------------------------------------------------------------------------------------------- filters


def test_implicit_filter_is_a_prefix_and_falls_as_its_window():
    filter_ = ImplicitFilter(5, max_length=100).double()

    torch.testing.assert_close(filter_(30), filter_(150)[:, :30])
    filter_.mlp = nn.Sequential(nn.Linear(33, 5))
    nn.init.zeros_(filter_.mlp[0].weight)
    nn.init.ones_(filter_.mlp[0].bias)  # the window alone is left
    window = filter_.double()(151).detach()
    assert window[0, 150].item() == pytest.approx(0.01, rel=1e-4)
    assert window[-1, 30].item() == pytest.approx(0.01, rel=1e-4)


def test_explicit_filter_ends_with_its_table():
    filter_ = ExplicitFilter(5, max_length=20)

    assert (filter_(50)[:, 20:] == 0).all()
    torch.testing.assert_close(filter_(50)[:, :20], filter_.kernel)
    torch.testing.assert_close(filter_(7), filter_.kernel[:, :7])
    torch.testing.assert_close(filter_.kernel.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: S4D(8, init="legs"), "init is 'legs'; expected"),
        (lambda: S4D(8, state_size=7), "state_size is 7; expected at least 1, and even"),
        (lambda: LongConvolution(8, implicit=False, max_length=0), "max_length is 0; expected at least 1"),
        (lambda: Hyena(8, max_length=0), "max_length is 0; expected at least 1"),
        (lambda: BaseConv(8, kernel_size=0), "kernel_size is 0; expected at least 1, or None"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(InputError, match=words):
        make()
