"""The chunked kernel against the recurrence it stands for, and its mixers against their papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.nn._linear_attention import (
    _chunked,
    linear_attention,
    linear_attention_before_update,
    linear_attention_step,
)
from assay.nn._mixer import Mixer
from assay.nn.contract import check_mixer
from assay.nn.gla import GatedLinearAttention
from assay.nn.linear_attention import LinearAttention, WeightedLinearAttention
from assay.nn.mamba2 import Mamba2
from assay.nn.retention import Retention
from assay.nn.rwkv6 import RWKV6

B, H, N, C = 2, 3, 4, 5
MIXERS = [LinearAttention, WeightedLinearAttention, GatedLinearAttention, Retention, Mamba2, RWKV6]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def naive(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, bonus: Tensor | None = None) -> Tensor:
    """The recurrence, one token after the other; with a bonus the state is read before the token enters it."""
    length = v.shape[-2]
    a = torch.ones_like(k[..., :1]) if log_decay is None else log_decay.exp()
    a = a.expand(*a.shape[:-2], length, a.shape[-1])
    S = torch.zeros(*v.shape[:-2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    outputs = []
    for t in range(length):
        update = k[..., t, :, None] * v[..., t, None, :]
        after = a[..., t, :, None] * S + update
        read = after if bonus is None else S + bonus[..., None] * update
        outputs.append((q[..., t, :, None] * read).sum(-2))
        S = after
    return torch.stack(outputs, dim=-2)


def decays(kind: str, length: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
    shape = {"head": (B, H, length, 1), "constant": (H, 1, 1), "channel": (B, H, length, N), "fixed": (H, 1, N)}
    if kind == "none":
        return None
    what, _, strength = kind.partition(" ")
    size = {"": 0.1, "strong": 4.0, "extreme": 60.0}[strength]
    return -size * draw(*shape[what], seed=7, dtype=dtype).abs()


KINDS = ["none", "constant", "fixed", "head", "head extreme", "channel", "channel strong", "channel extreme"]


def same(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.parametrize("length", [1, 2, 37, 64, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_recurrence(kind: str, length: int) -> None:
    tensors = [draw(B, H, length, n, seed=s) for s, n in enumerate((N, N, C))]
    if (log_decay := decays(kind, length)) is not None:
        tensors.append(log_decay)
    results = []
    for function in (linear_attention, naive):
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = function(*leaves)
        grads = torch.autograd.grad((y * draw(*y.shape, seed=9)).sum(), leaves)
        results.append([y.detach(), *grads])

    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-10 * max(1.0, float(theirs.norm()))


def test_the_comparison_sees_a_missing_decay() -> None:
    """The control: the kernel without decay, or with another one, is far from the recurrence."""
    q, k, v = (draw(B, H, 70, n, seed=s) for s, n in enumerate((N, N, C)))
    a = decays("channel", 70)
    assert a is not None

    right = naive(q, k, v, a)

    assert same(linear_attention(q, k, v), right) > 0.1
    assert same(linear_attention(q, k, v, a.roll(1, -2)), right) > 1e-2


@pytest.mark.parametrize("kind", ["head", "head extreme", "channel", "channel strong", "channel extreme"])
def test_strong_decays_neither_underflow_nor_overflow_in_float32(kind: str) -> None:
    """Where some tokens forget everything and the others nothing, the ratio of cumulative products is not finite."""
    length = 200
    q, k, v = (draw(B, H, length, n, seed=s) for s, n in enumerate((N, N, C)))
    a = decays(kind, length)
    assert a is not None
    a = a * (torch.arange(length) % 5 == 0)[:, None]
    leaves = [t.float().requires_grad_() for t in (q, k, v, a)]

    y = linear_attention(*leaves)
    y.square().sum().backward()

    assert same(y.double(), naive(q, k, v, a)) < 1e-5
    assert all(torch.isfinite(t.grad).all() for t in leaves if t.grad is not None)
    if "strong" in kind or "extreme" in kind:  # the control
        b = a.float().cumsum(-2)
        ratio = ((q.float() * b.exp()) @ (k.float() / b.exp()).mT).tril() @ v.float()
        assert not torch.isfinite(ratio).all()


def test_a_decay_of_zero_forgets_everything() -> None:
    q, k, v = (draw(1, 1, 150, n, seed=s) for s, n in enumerate((N, N, C)))
    a = torch.zeros(1, 1, 150, N, dtype=torch.float64)
    a[:, :, 100] = -torch.inf

    y = linear_attention(q, k, v, a)

    alone = linear_attention(q[:, :, 100:], k[:, :, 100:], v[:, :, 100:])
    assert same(y[:, :, 100:], alone) < 1e-12
    assert same(y[:, :, :100], linear_attention(q, k, v)[:, :, :100]) < 1e-12


@pytest.mark.parametrize("kind", ["constant", "head", "channel"])
def test_the_state_can_be_read_before_the_update(kind: str) -> None:
    q, k, v = (draw(B, H, 70, n, seed=s) for s, n in enumerate((N, N, C)))
    bonus, a = draw(H, N, seed=4), decays(kind, 70)
    assert a is not None

    y = linear_attention_before_update(q, k, v, a, bonus[:, None])

    assert same(y, naive(q, k, v, a, bonus)) < 1e-12
    assert same(y, naive(q, k, v, a)) > 0.1  # the control: another convention


def test_steps_are_the_recurrence() -> None:
    q, k, v = (draw(B, H, 20, n, seed=s) for s, n in enumerate((N, N, C)))
    a = decays("channel", 20)
    assert a is not None
    state, outputs = None, []
    for t in range(20):
        y, state = linear_attention_step(q[:, :, t], k[:, :, t], v[:, :, t], a[:, :, t], state)
        outputs.append(y)

    assert same(torch.stack(outputs, -2), naive(q, k, v, a)) < 1e-12


def test_keys_may_be_shared_by_heads() -> None:
    q, k, v = draw(B, 1, 70, N), draw(B, 1, 70, N, seed=1), draw(B, H, 70, C, seed=2)
    a = decays("head", 70)

    shared = linear_attention(q, k, v, a)

    assert same(shared, linear_attention(q.expand(B, H, -1, -1), k.expand(B, H, -1, -1), v, a)) < 1e-12


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (draw(B, H, 150, n, seed=s).bfloat16() for s, n in enumerate((N, N, C)))
    a = decays("channel", 150, torch.float32)
    assert a is not None

    y = linear_attention(q, k, v, a)

    assert y.dtype == torch.bfloat16
    assert torch.equal(y, linear_attention(q.float(), k.float(), v.float(), a).bfloat16())


def test_autocast_leaves_the_kernel_in_float32() -> None:
    """Half precision ends at 65,504 = exp(11); exponents go up to 60."""
    q, k, v = (draw(B, H, 150, n, seed=s, dtype=torch.float32) for s, n in enumerate((N, N, C)))
    a = -0.9 * torch.ones(B, H, 150, N)

    with torch.autocast("cpu", torch.float16):
        y = linear_attention(q, k, v, a)

    assert torch.equal(y, linear_attention(q, k, v, a))
    with torch.autocast("cpu", torch.float16):  # the control: the same without that care
        assert not torch.isfinite(_chunked(q, k, v, a)).all()


def test_forward_mode_and_reverse_mode_agree() -> None:
    """Tangents run through the kernel as well, many at a time."""
    q, k, v = (draw(1, 1, 70, n, seed=s) for s, n in enumerate((N, N, C)))
    a = decays("channel strong", 70)
    assert a is not None
    tangent, cotangent = draw(3, *q.shape, seed=5), draw(1, 1, 70, C, seed=6)

    def f(x: Tensor) -> Tensor:
        return linear_attention(x, k * x.cos(), v, a[:1, :1] * x.square())

    pushed = torch.func.vmap(lambda t: torch.func.jvp(f, (q,), (t,))[1])(tangent)
    (pulled,) = torch.func.vjp(f, q)[1](cotangent)

    assert torch.allclose((pushed * cotangent).sum((1, 2, 3, 4)), (tangent * pulled).sum((1, 2, 3, 4)), rtol=1e-9)


def saved_numbers(function: Callable[..., Tensor], *tensors: Tensor) -> int:
    """How many numbers autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function(*(t.clone().requires_grad_() for t in tensors))
        return sum(kept.values()) + 0 * result.numel()


def test_no_state_is_kept_for_every_token() -> None:
    length, n = 1024, 32
    q, k, v, g = (draw(1, 1, length, n, seed=s, dtype=torch.float32) for s in range(4))
    a = -0.1 * g.abs()

    ours = saved_numbers(linear_attention, q, k, v, a)

    assert ours < length * n * n / 2
    assert saved_numbers(naive, q, k, v, a) > length * n * n  # the control


# --- the mixers


@pytest.mark.parametrize("mixer", MIXERS)
def test_contract(mixer: type[Mixer]) -> None:
    check_mixer(lambda: mixer(32))


@pytest.mark.parametrize("mixer", MIXERS)
def test_autocast_changes_nothing_but_precision(mixer: type[Mixer]) -> None:
    torch.manual_seed(0)
    layer, x = mixer(32), draw(2, 100, 32, dtype=torch.float32)

    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.float().square().sum().backward()

    assert same(y.detach().float(), layer(x).detach()) < 0.05
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


def test_the_rows_of_linear_attention_sum_to_one() -> None:
    T = LinearAttention(32).double().operator(draw(1, 50, 32)).to_dense()

    assert torch.allclose(T.sum(-1), torch.ones_like(T[..., 0]))
    assert (T >= 0).all()


def test_retention_is_a_decayed_rotation() -> None:
    """T_nm = gamma^(n-m) Re(q_n conj(k_m) e^{i theta (n-m)}) / sqrt(N), with complex numbers."""
    layer, x = Retention(32, num_heads=2).double(), draw(1, 40, 32)
    q, k = (t.unflatten(-1, (2, 2, 8)).permute(0, 2, 1, 4, 3) for t in layer.qk(x).chunk(2, dim=-1))  # (1, H, L, 8, 2)
    q, k = torch.view_as_complex(q.contiguous()), torch.view_as_complex(k.contiguous())
    theta = 10_000 ** (-torch.arange(8, dtype=torch.float64) / 8)
    lag = torch.arange(40)[:, None] - torch.arange(40)
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6], dtype=torch.float64)[:, None, None]
    turned = torch.einsum(
        "bhnc,bhmc,nmc->bhnm", q, k.conj(), torch.polar(torch.ones(1).double(), lag[..., None] * theta)
    )

    expected = (gamma ** lag.clamp(min=0) * turned.real / 4).tril()

    assert torch.allclose(layer.operator(x).to_dense(), expected, atol=1e-12)


def test_gated_linear_attention_forgets_as_its_gate_says() -> None:
    layer, x = GatedLinearAttention(32, num_heads=2, gate_temperature=4.0).double(), draw(1, 30, 32)
    alpha = layer.decay(x).sigmoid() ** (1 / 4)
    q, k = layer.q(x)[0], layer.k(x)[0]
    T = torch.zeros(2, 30, 30, dtype=torch.float64)
    for i in range(30):
        for j in range(i + 1):
            each = q[i] * k[j] * alpha[0, j + 1 : i + 1].prod(0) / math.sqrt(8)
            T[:, i, j] = each.unflatten(0, (2, 8)).sum(-1)

    assert torch.allclose(layer.operator(x).to_dense()[0], T, atol=1e-12)


def test_the_decays_of_weighted_linear_attention_ignore_the_input() -> None:
    layer = WeightedLinearAttention(32).double()
    one, other = (layer.operator(draw(1, 30, 32, seed=s)).A for s in (0, 1))

    assert torch.equal(one, other)
    assert torch.allclose(one, torch.tensor(0.5 ** (1 / 16)).double())


def test_mamba2_is_that_of_transformers() -> None:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    config = Mamba2Config(hidden_size=32, state_size=16, num_heads=4, head_dim=16, n_groups=1, expand=2, chunk_size=8)
    theirs, ours = Mamba2Mixer(config, layer_idx=0).double(), Mamba2(32, state_size=16).double()
    with torch.no_grad():
        for p in theirs.parameters():  # as they stand, some are 0
            p.add_(0.1 * torch.randn_like(p))
    state = {name.replace("conv1d", "conv.conv"): p for name, p in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = draw(2, 45, 32)

    with torch.no_grad():
        assert same(ours(x), theirs(x)) < 1e-6  # theirs computes parts in float32


def test_mamba2_starts_as_published() -> None:
    torch.manual_seed(0)
    layer = Mamba2(64, num_heads=64)
    delta, a = torch.nn.functional.softplus(layer.dt_bias.detach()), layer.A_log.detach().exp()

    assert 1e-3 <= float(delta.min()) < 3e-3
    assert 3e-2 < float(delta.max()) <= 1e-1
    assert 1 <= float(a.min()) < 3 < 14 < float(a.max()) <= 16


def test_rwkv6_is_its_formula() -> None:
    """Token shift with data-dependent mixing, decay exp(-exp(d)), bonus: token by token, as in the paper."""
    torch.manual_seed(0)
    layer, x = RWKV6(16, num_heads=2).double(), draw(1, 20, 16)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    S, last, outputs = torch.zeros(2, 8, 8, dtype=torch.float64), torch.zeros(16, dtype=torch.float64), []
    for token in x[0]:
        base = token + (last - token) * layer.mix_x
        mixed = {}
        for index, name in enumerate("wkvrg"):
            low = torch.tanh(base @ layer.mix_in[:, 32 * index : 32 * (index + 1)])
            mixed[name] = token + (last - token) * (layer.mix_base[index] + low @ layer.mix_out[index])
        d = layer.decay_base + torch.tanh(mixed["w"] @ layer.decay_in) @ layer.decay_out
        r, k, v = (getattr(layer, name)(mixed[name]).view(2, 8) for name in "rkv")
        kv = k[:, :, None] * v[:, None, :]
        outputs.append(torch.einsum("hn,hnc->hc", r, S + layer.bonus[:, :, None] * kv).flatten())
        S = torch.exp(-torch.exp(d)).view(2, 8, 1) * S + kv
        last = token
    normed = torch.nn.functional.group_norm(torch.stack(outputs), 2, layer.norm.weight, layer.norm.bias, 64e-5)
    features = layer.features(x)

    assert same(layer.finish(layer.mix(features), features)[0], layer.out(normed * features.gate[0])) < 1e-10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearAttention(30), "d_model is 30; expected a positive multiple of num_heads = 4"),
        (lambda: RWKV6(32, num_heads=0), "num_heads is 0; expected at least 1"),
        (lambda: Retention(36), "d_model is 36; expected an even number for each of num_heads = 4"),
        (lambda: GatedLinearAttention(36), r"expand_k \* d_model is 18; expected a positive multiple"),
        (lambda: WeightedLinearAttention(32, gate_temperature=0.0), "gate_temperature is 0.0; expected a number above"),
        (lambda: Mamba2(33), r"expand \* d_model is 66; expected a positive multiple of num_heads = 4"),
        (lambda: Mamba2(32, state_size=0), "state_size is 0; expected at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Callable[[], Mixer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
