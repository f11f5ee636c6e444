"""Mixers built on element-wise recurrences, and the scans they run on."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import MambaConfig, RecurrentGemmaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from assay._errors import InputError
from assay.nn import _scan, _selective_scan
from assay.nn._mixer import Mixer
from assay.nn._scan import scan
from assay.nn._selective_scan import selective_scan
from assay.nn.contract import check_mixer
from assay.nn.hgrn import HGRN
from assay.nn.lstm import LSTM
from assay.nn.mamba import Mamba
from assay.nn.qlstm import QLSTM
from assay.nn.rg_lru import RGLRU

MIXERS = {
    "mamba": Mamba,
    "rg_lru": RGLRU,
    "hgrn": HGRN,
    "qlstm": QLSTM,
    "qlstm, reversed gate": partial(QLSTM, reversed_gate=True),
    "lstm": LSTM,
}
LENGTHS = [1, 2, 7, 50, 300]


def naive_scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    states, state = [], initial
    for a, b in zip(decay.unbind(-2), inputs.unbind(-2), strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states, -2)


def naive_selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    outputs, state = [], torch.zeros(A.shape, dtype=A.dtype)
    for t in range(x.shape[-2]):
        d, u = delta[..., t, :, None], x[..., t, :, None]
        state = torch.exp(d * A) * state + d * B[..., t, None, :] * u
        outputs.append((state * C[..., t, None, :]).sum(-1))
    return torch.stack(outputs, -2)


def scan_inputs(length: int, channels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Decays in [0, 1], some exactly 0 and some exactly 1."""
    generator = torch.Generator().manual_seed(length)
    decay = torch.rand(2, length, channels, generator=generator, dtype=torch.double)
    decay[:, ::7] = 0
    decay[:, 1::9] = 1
    inputs = torch.randn(2, length, channels, generator=generator, dtype=torch.double)
    return decay, inputs, torch.randn(2, channels, generator=generator, dtype=torch.double)


def selective_inputs(length: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    draw = partial(torch.randn, generator=generator, dtype=torch.double)
    delta = nn.functional.softplus(draw(2, length, 3))
    return draw(2, length, 3), delta, -draw(3, 4).exp(), draw(2, length, 4), draw(2, length, 4)


def assert_same_with_gradients(
    one: Callable[..., Tensor], other: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y, expected = one(*leaves), other(*leaves)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    for mine, theirs in zip(
        torch.autograd.grad((y * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------------- scan


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("large", [0, 10**9], ids=["step by step", "chunks side by side"])
def test_scan_is_the_loop(length, large, monkeypatch):
    monkeypatch.setattr(_scan, "_LARGE_CPU", large)

    assert_same_with_gradients(scan, naive_scan, scan_inputs(length))


def test_a_wrong_loop_is_refused():
    """The control of the test above: the decay of the next token instead of this one's."""
    decay, inputs, initial = scan_inputs(50)
    with pytest.raises(AssertionError):
        assert_same_with_gradients(scan, lambda a, b, h: naive_scan(a.roll(-1, -2), b, h), (decay, inputs, initial))


def test_decay_is_expanded():
    decay, inputs, _ = scan_inputs(50)

    shared = scan(decay[:1, :, :1], inputs)

    torch.testing.assert_close(shared, naive_scan(decay[:1, :, :1], inputs, torch.zeros_like(inputs[:, 0])))


def test_scan_survives_decays_whose_products_underflow():
    """Ratios of cumulative products, the control, do not."""
    decay, inputs = torch.full((1, 3000, 2), 1e-3), torch.ones(1, 3000, 2)

    h = scan(decay, inputs)
    products = decay.cumprod(1)
    by_ratios = products * (inputs / products).cumsum(1)

    torch.testing.assert_close(h[:, 10:], torch.full((1, 2990, 2), 1 / (1 - 1e-3)))
    assert not torch.isfinite(by_ratios).all()


def test_scan_has_second_derivatives_and_tangents():
    decay, inputs, initial = scan_inputs(12, channels=2)
    leaves = tuple(tensor.requires_grad_() for tensor in (decay, inputs, initial))

    assert torch.autograd.gradcheck(scan, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scan, leaves)
    for k in range(3):  # both run under vmap
        fixed = [tensor.detach() for tensor in leaves]
        by_rows, by_columns = (f(scan, argnums=k)(*fixed) for f in (torch.func.jacrev, torch.func.jacfwd))
        torch.testing.assert_close(by_rows, by_columns)

        def total(*inputs: Tensor) -> Tensor:
            return scan(*inputs).pow(3).sum()

        second, by_rows = (f(torch.func.jacrev(total, k), k)(*fixed) for f in (torch.func.jacfwd, torch.func.jacrev))
        torch.testing.assert_close(second, by_rows)


def test_scan_in_half_precision_is_done_in_float32():
    decay, inputs, _ = scan_inputs(300)

    h = scan(decay.bfloat16(), inputs.bfloat16())

    assert h.dtype == torch.float32
    expected = naive_scan(decay.bfloat16().double(), inputs.bfloat16().double(), torch.zeros(2, 5, dtype=torch.double))
    torch.testing.assert_close(h.double(), expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ selective scan


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chunk", [1, 2 * 3 * 4 * 11, 2**18], ids=["chunks of 1", "chunks of 11", "one chunk"])
def test_selective_scan_is_the_loop(length, chunk, monkeypatch):
    monkeypatch.setattr(_selective_scan, "_CHUNK", chunk)

    assert_same_with_gradients(selective_scan, naive_selective_scan, selective_inputs(length))


def test_a_wrong_selective_loop_is_refused():
    """The control: B one token late."""
    with pytest.raises(AssertionError):
        assert_same_with_gradients(
            selective_scan,
            lambda x, delta, A, B, C: naive_selective_scan(x, delta, A, B.roll(1, -2), C),
            selective_inputs(50),
        )


def test_selective_scan_has_tangents_and_batched_gradients(monkeypatch):
    monkeypatch.setattr(_selective_scan, "_CHUNK", 2 * 3 * 4 * 5)
    leaves = tuple(tensor.requires_grad_() for tensor in selective_inputs(12))

    assert torch.autograd.gradcheck(selective_scan, leaves, check_forward_ad=True)
    for k in range(5):  # both run under vmap
        fixed = [tensor.detach() for tensor in leaves]
        by_rows, by_columns = (f(selective_scan, argnums=k)(*fixed) for f in (torch.func.jacrev, torch.func.jacfwd))
        torch.testing.assert_close(by_rows, by_columns)


def test_selective_scan_never_keeps_all_states():
    """What is kept for the gradient is a part of the (L, D, N) numbers that the plain form, the control, keeps."""
    length, channels, size = 2048, 128, 16
    x = torch.randn(1, length, channels, requires_grad=True)
    delta, A = torch.rand(1, length, channels), -torch.ones(channels, size)
    B = C = torch.randn(1, length, size)

    def plain() -> Tensor:
        decay = torch.exp(delta[..., None] * A).flatten(-2)
        h = scan(decay, ((delta * x)[..., None] * B[..., None, :]).flatten(-2))
        return (h.unflatten(-1, A.shape) * C[..., None, :]).sum(-1)

    assert kept(lambda: selective_scan(x, delta, A, B, C)) < 0.25 * length * channels * size
    assert kept(plain) > 1.0 * length * channels * size


def kept(forward: Callable[[], Tensor]) -> int:
    """Numbers held for the gradient."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = forward()
    assert y.requires_grad
    return sum(held.values())


# -------------------------------------------------------------------------------------------------------------- mixers


@pytest.mark.parametrize("name", MIXERS)
def test_contract(name, monkeypatch):
    monkeypatch.setattr(_selective_scan, "_CHUNK", 2**13)  # so that Mamba has several chunks

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


def test_mamba_is_that_of_transformers():
    torch.manual_seed(0)
    x, mixer = drive(Mamba(24, state_size=8))
    config = MambaConfig(hidden_size=24, state_size=8, num_hidden_layers=1, use_mambapy=False)
    theirs = MambaMixer(config, layer_idx=0).double().eval()
    theirs.load_state_dict(
        {name.replace("conv.conv.", "conv1d."): value for name, value in mixer.state_dict().items()}
        | {"conv1d.weight": mixer.conv.conv.weight}
    )

    expected = theirs(x)

    torch.testing.assert_close(mixer(x), expected, rtol=1e-6, atol=1e-8)  # theirs keeps A in float32
    mixer.D.data += 0.1
    assert not torch.allclose(mixer(x), expected)


def test_mamba_starts_with_the_steps_of_the_paper():
    delta = nn.functional.softplus(Mamba(256).dt_proj.bias)

    assert 0.999e-3 <= delta.min() < 2e-3
    assert 0.05 < delta.max() <= 0.1001
    assert (delta < 1e-2).float().mean().item() == pytest.approx(0.5, abs=0.1)  # log-uniform: half of them below


def test_mamba_state_is_16_per_inner_channel():
    x, mixer = drive(Mamba(8), 40)
    operator = mixer.operator(x)

    assert operator.batch_shape == (2, 16)
    assert operator.state_size([20]).tolist() == [16]


def test_rg_lru_is_that_of_transformers():
    """Theirs starts sequences (position 0) without the factor sqrt(1 - a^2); from position 1 on they are the same."""
    torch.manual_seed(0)
    x, mixer = drive(RGLRU(24, num_heads=3))
    theirs = RecurrentGemmaRglru(RecurrentGemmaConfig(hidden_size=24, lru_width=24, num_attention_heads=3)).double()
    weight, bias = mixer.gate_weight.data, mixer.gate_bias.data + torch.randn(3, 16)
    mixer.gate_bias.data = bias
    theirs.load_state_dict(
        {
            "recurrent_param": mixer.Lambda.data,
            "recurrent_gate_weight": weight[..., :8],
            "recurrent_gate_bias": bias[:, :8],
            "input_gate_weight": weight[..., 8:],
            "input_gate_bias": bias[:, 8:],
        }
    )
    features = mixer.features(x)
    u = features.values[..., 0].mT

    expected = theirs(u, torch.arange(1, 38).expand(2, -1))

    torch.testing.assert_close(mixer.mix(features)[..., 0].mT, expected, rtol=1e-5, atol=1e-6)  # theirs keeps float32
    assert not torch.allclose(mixer.mix(features)[..., 0].mT, theirs(u, torch.arange(37).expand(2, -1)), rtol=1e-3)


def test_rg_lru_starts_with_the_decays_of_the_paper():
    decay = torch.exp(-8 * nn.functional.softplus(RGLRU(400).Lambda))

    assert 0.8999 <= decay.min() < 0.905
    assert 0.994 < decay.max() <= 0.9991


def test_rg_lru_survives_saturated_gates():
    """A recurrence gate of 0 makes a = 1, where sqrt(1 - a^2) has no slope."""
    mixer = RGLRU(8)
    mixer.gate_bias.data[:, :2] = -200.0  # the recurrence gates of 2 of each head's channels

    x = torch.randn(1, 20, 8, requires_grad=True)
    mixer(x).sum().backward()

    assert mixer.features(x).decay.max() == 1
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def test_hgrn_is_its_formula():
    torch.manual_seed(0)
    x, mixer = drive(HGRN(8, lower_bound=0.3))
    z_f, z_c, z_g = mixer.in_proj(x).chunk(3, -1)
    state, outputs = torch.zeros(2, 8), []
    for t in range(x.shape[1]):
        forget = 0.3 + 0.7 * torch.sigmoid(z_f[:, t])
        state = forget * state + (1 - forget) * nn.functional.silu(z_c[:, t])
        outputs.append(mixer.out_proj(mixer.norm(torch.sigmoid(z_g[:, t]) * state)))

    torch.testing.assert_close(mixer(x), torch.stack(outputs, 1), rtol=1e-6, atol=1e-7)  # gamma is kept in float32
    assert mixer.features(x).forget.min() >= 0.3 - 1e-6


@pytest.mark.parametrize("reversed_gate", [False, True])
def test_qlstm_is_its_formula(reversed_gate):
    torch.manual_seed(0)
    x, mixer = drive(QLSTM(8, reversed_gate=reversed_gate))
    if reversed_gate:
        assert mixer.alpha == 1
        mixer.alpha.data.fill_(1.7)
    u, z = mixer.in_proj(x).chunk(2, -1)
    values, z_f, z_i, z_o = mixer.gate_proj(mixer.conv(u)).chunk(4, -1)
    state, outputs = torch.zeros(2, 16), []
    for t in range(x.shape[1]):
        # the reversed gate as S6 writes it
        forget = torch.exp(-1.7 * nn.functional.softplus(z_f[:, t])) if reversed_gate else torch.sigmoid(z_f[:, t])
        state = forget * state + torch.sigmoid(z_i[:, t]) * values[:, t]
        outputs.append(mixer.out_proj(torch.sigmoid(z_o[:, t]) * state * nn.functional.gelu(z[:, t])))

    torch.testing.assert_close(mixer(x), torch.stack(outputs, 1), rtol=1e-9, atol=1e-11)


def test_lstm_is_that_of_torch():
    torch.manual_seed(0)
    x, mixer = drive(LSTM(8))
    theirs = nn.LSTM(8, 8, batch_first=True).double()

    def reordered(rows: Tensor) -> Tensor:  # theirs: i, f, g, o
        i, f, o, g = rows.chunk(4)
        return torch.cat([i, f, g, o])

    theirs.weight_ih_l0.data = reordered(mixer.in_proj.weight.data)
    theirs.weight_hh_l0.data = reordered(mixer.recurrent_weight.data.mT)
    theirs.bias_ih_l0.data = reordered(mixer.in_proj.bias.data)
    theirs.bias_hh_l0.data.zero_()

    torch.testing.assert_close(mixer(x), theirs(x)[0], rtol=1e-9, atol=1e-11)
    assert (mixer.in_proj.bias[8:16] == 1).all()
    mixer.in_proj.bias.data[8:16] += 0.1
    assert not torch.allclose(mixer(x), theirs(x)[0])


@pytest.mark.parametrize("cls", [RGLRU, HGRN, LSTM])
def test_a_state_of_one_number_has_rank_one(cls):
    x, mixer = drive(cls(8), 30)

    spectrum = mixer.operator(x).hankel_singular_values([10, 20])

    assert spectrum.shape[-1] == 1
    dense = torch.linalg.svdvals(mixer.operator(x).to_dense()[..., 10:, :10]).detach()
    torch.testing.assert_close(spectrum[..., 0, 0].detach(), dense[..., 0])
    assert float(dense[..., 1].max()) < 1e-12 * float(dense[..., 0].max())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RGLRU(10, num_heads=4), "d_model is 10; expected a positive multiple of num_heads = 4"),
        (lambda: HGRN(8, lower_bound=1.0), "lower_bound is 1.0; expected a number between 0 and 1"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mamba(16, state_size=0), "state_size is 0; expected at least 1"),
        (lambda: Mamba(16, conv_size=0), "conv_size is 0; expected at least 1"),
        (lambda: QLSTM(16, expand=0), "expand is 0; expected at least 1"),
    ],
)
def test_sizes_below_one_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        make()
