"""The delta rule: the chunked kernel against the definition, its stability, and the mixers made of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from assay._errors import InputError
from assay.nn._delta import delta_rule, delta_rule_step
from assay.nn.contract import check_mixer
from assay.nn.deltanet import DeltaNet, GatedDeltaNet
from assay.nn.rwkv7 import RWKV7

Rule = dict[str, Tensor]


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, read: Tensor, write: Tensor | None = None, log_decay: Tensor | None = None
) -> Tensor:
    """With the transitions as matrices."""
    write = k if write is None else write
    S = torch.zeros(*v.shape[:-2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    outputs = []
    for t in range(v.shape[-2]):
        decay = (
            torch.ones_like(k[..., t, :]) if log_decay is None else log_decay[..., t, :].exp().expand_as(k[..., t, :])
        )
        A = torch.diag_embed(decay) - write[..., t, :, None] * read[..., t, None, :]
        S = A @ S + k[..., t, :, None] * v[..., t, None, :]
        outputs.append((S.mT @ q[..., t, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=-2)


def inputs(kind: str, length: int, *, dtype: torch.dtype = torch.float64, batch: tuple[int, ...] = (2, 3)) -> Rule:
    """Of DeltaNet, Gated DeltaNet, Kimi's delta attention (a decay for each channel, tied), RWKV-7; N = 8, C = 5."""
    generator = torch.Generator().manual_seed(length)

    def draw(channels: int) -> Tensor:
        return torch.randn(*batch, length, channels, generator=generator, dtype=dtype)

    q, key, v, beta = draw(8), normalize(draw(8), dim=-1), draw(5), draw(1).sigmoid()
    by_head, by_channel = -softplus(draw(1)), -softplus(draw(8))
    if kind == "deltanet":
        return {"q": q, "k": beta * key, "v": v, "read": key}
    if kind == "gated":
        return {"q": q, "k": beta * key, "v": v, "read": by_head.exp() * key, "log_decay": by_head}
    if kind == "kda":
        return {"q": q, "k": beta * key, "v": v, "read": by_channel.exp() * key, "log_decay": by_channel}
    rate = draw(8).sigmoid()
    return {"q": q, "k": draw(8), "v": v, "read": key, "write": rate * key, "log_decay": by_channel / 4}


KINDS = ("deltanet", "gated", "kda", "rwkv7")


def error(one: Tensor, other: Tensor) -> float:
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 150])
def test_chunks_give_what_the_definition_gives(kind: str, length: int) -> None:
    rule = inputs(kind, length)
    assert error(delta_rule(**rule), by_definition(**rule)) < 1e-12
    assert error(delta_rule(**{n: t.float() for n, t in rule.items()}), by_definition(**rule)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_definition(kind: str) -> None:
    rule = {name: tensor.requires_grad_() for name, tensor in inputs(kind, 70).items()}
    weights = torch.randn(2, 3, 70, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad((delta_rule(**rule) * weights).sum(), list(rule.values()))
    theirs = torch.autograd.grad((by_definition(**rule) * weights).sum(), list(rule.values()))
    for name, one, other in zip(rule, ours, theirs, strict=True):
        assert error(one, other) < 1e-11, name


@pytest.mark.parametrize("kind", KINDS)
def test_step_gives_the_same(kind: str) -> None:
    rule = inputs(kind, 20)
    state, outputs = None, []
    for t in range(20):
        y, state = delta_rule_step(**{name: tensor[..., t, :] for name, tensor in rule.items()}, state=state)
        outputs.append(y)
    assert error(torch.stack(outputs, -2), by_definition(**rule)) < 1e-13


def test_the_check_sees_a_decay_that_comes_one_token_late() -> None:
    """The control of the comparisons above."""
    rule = inputs("kda", 150)
    late = {**rule, "log_decay": rule["log_decay"].roll(1, -2)}
    assert error(delta_rule(**late), by_definition(**rule)) > 1e-2


def test_any_batch_shape() -> None:
    for batch in ((), (3,), (2, 1, 2)):
        rule = inputs("rwkv7", 70, batch=batch)
        y = delta_rule(**rule)
        assert y.shape == rule["v"].shape
        assert error(y, by_definition(**rule)) < 1e-12


@pytest.mark.parametrize("strength", [1.0, 30.0, 1e4, math.inf])
@pytest.mark.parametrize("kind", ["gated", "kda"])
def test_decays_of_any_strength(kind: str, strength: float) -> None:
    """In float32, with every fifth decay strong: values and gradients are finite, and right after it."""
    rule = inputs(kind, 150)
    log_decay = 0.01 * rule["log_decay"]
    log_decay[..., ::5, :] = -strength
    rule["log_decay"] = log_decay
    rule["read"] = log_decay.exp() * normalize(rule["k"], dim=-1)
    single = {name: tensor.float().requires_grad_() for name, tensor in rule.items()}
    y = delta_rule(**single)
    assert error(y, by_definition(**rule)) < 1e-5
    grads = torch.autograd.grad(y.square().sum(), list(single.values()))
    assert all(bool(torch.isfinite(g).all()) for g in grads)


def test_ratios_of_cumulated_decays_would_not_do() -> None:
    """The control: the usual way, exp(b_i - b_j) with b cumulated in float32, is 1000 times less accurate there."""
    log_decay = -torch.full((150,), 0.01)
    log_decay[:75] = -1e4
    b = log_decay.cumsum(0)
    assert abs(float(torch.exp(b[140] - b[100])) / math.exp(-0.4) - 1) > 1e-2
    S = {"q": torch.ones(150, 1), "k": torch.zeros(150, 1), "v": torch.ones(150, 1), "read": torch.zeros(150, 1)}
    S["k"][100] = 1
    y = delta_rule(**S, log_decay=log_decay[:, None])
    assert float(y[140, 0]) == pytest.approx(math.exp(-0.4), rel=1e-5)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_state_that_is_overwritten_or_reflected_stays_bounded(beta: float) -> None:
    """Keys that hardly differ and beta = 1 (overwrite) or 2 (reflect) over 1,000 tokens, in float32.

    Transitions of norm 1 forget no error, so rounding may add up over the tokens, but not grow beyond that.
    """
    generator = torch.Generator().manual_seed(0)
    key = normalize(torch.ones(1000, 8) + 0.01 * torch.randn(1000, 8, generator=generator), dim=-1)
    rule = {"q": key, "k": beta * key, "v": torch.randn(1000, 3, generator=generator), "read": key}
    exact = by_definition(**{name: tensor.double() for name, tensor in rule.items()})
    assert error(delta_rule(**rule), exact) < 1000 * torch.finfo(torch.float32).eps


def test_what_was_written_under_a_key_is_read_back_and_replaced() -> None:
    """beta = 1, orthonormal keys: a dictionary. The closed form of DeltaNet."""
    keys = torch.eye(4, dtype=torch.float64)
    order = torch.tensor([0, 1, 2, 0, 3, 1])
    values = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = keys[order]
    asked = keys[torch.tensor([0, 0, 1, 0, 2, 1])]
    y = delta_rule(asked, k, values, k)
    torch.testing.assert_close(y, values[[0, 0, 1, 3, 2, 5]])


def test_half_precision_and_autocast() -> None:
    rule = inputs("kda", 100)
    y = delta_rule(**{name: tensor.bfloat16() for name, tensor in rule.items()})
    assert y.dtype == torch.bfloat16
    assert error(y, by_definition(**{name: t.bfloat16().double() for name, t in rule.items()})) < 5e-3
    with torch.autocast("cpu", torch.bfloat16):
        inside = delta_rule(**{name: tensor.float() for name, tensor in rule.items()})
    assert error(inside, by_definition(**rule)) < 1e-5  # the kernel itself stays in float32


MIXERS = {"deltanet": DeltaNet, "gated_deltanet": GatedDeltaNet, "rwkv7": RWKV7}


@pytest.mark.parametrize("name", MIXERS)
def test_the_mixer_contract(name: str) -> None:
    check_mixer(lambda: MIXERS[name](32))
    check_mixer(lambda: MIXERS[name](24, num_heads=2))


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_in_mixed_precision(name: str) -> None:
    torch.manual_seed(0)
    mixer, x = MIXERS[name](32), torch.randn(2, 70, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    assert error(y, mixer(x)) < 5e-2
    y.float().square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in mixer.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_widths_that_do_not_divide(name: str) -> None:
    with pytest.raises(InputError, match="d_model is 30"):
        MIXERS[name](30)


def test_a_convolution_of_no_tokens() -> None:
    with pytest.raises(InputError, match="conv_size is 0"):
        DeltaNet(32, conv_size=0)


def test_gated_deltanet_with_decay_1_and_an_open_gate_is_deltanet_with_wider_values() -> None:
    """alpha = exp(-exp(A_log) ..) goes to 1 with A_log to minus infinity: the same operator."""
    torch.manual_seed(0)
    plain, gated = DeltaNet(16, num_heads=2).double(), GatedDeltaNet(16, num_heads=2).double()
    for name in ("q", "k", "beta", "q_conv", "k_conv"):
        getattr(gated, name).load_state_dict(getattr(plain, name).state_dict())
    nn.init.constant_(gated.A_log, -60.0)
    x = torch.randn(1, 30, 16, dtype=torch.float64)
    torch.testing.assert_close(gated.operator(x).to_dense(), plain.operator(x).to_dense())
    nn.init.constant_(gated.A_log, 0.0)
    assert error(gated.operator(x).to_dense(), plain.operator(x).to_dense()) > 1e-2


def test_initial_decays_of_gated_deltanet_lie_where_mamba_2_has_them() -> None:
    torch.manual_seed(0)
    mixer = GatedDeltaNet(512, num_heads=256)
    A, dt = mixer.A_log.detach().exp(), softplus(mixer.dt_bias.detach())
    assert 0 < float(A.min()) < 1
    assert 15 < float(A.max()) <= 16
    assert 1e-3 <= float(dt.min()) < 2e-3
    assert 5e-2 < float(dt.max()) <= 0.1 + 1e-6


def test_rwkv7_against_its_formulas() -> None:
    """Row vectors as in the paper: S_t = S_{t-1} (diag(w) - kh^T (a o kh)) + v^T kt, head by head."""
    torch.manual_seed(0)
    mixer = RWKV7(16, num_heads=2).double()
    with torch.no_grad():
        mixer.bonus.normal_()
        mixer.norm.weight.normal_()
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    r, w, k, v, a, g = (x[0] + mu * (before - x)[0] for mu in mixer.shift)
    r, k, v = r @ mixer.r.weight.T, k @ mixer.k.weight.T, v @ mixer.v.weight.T

    def low_rank(lora: nn.Sequential, z: Tensor, inner: object) -> Tensor:
        out = inner(z @ lora[0].weight.T) @ lora[2].weight.T
        return out if lora[2].bias is None else out + lora[2].bias

    w = torch.exp(-math.exp(-0.5) / (1 + torch.exp(-low_rank(mixer.w_lora, w, torch.tanh))))
    a = torch.sigmoid(low_rank(mixer.a_lora, a, lambda z: z))
    g = low_rank(mixer.g_lora, g, torch.sigmoid)
    removal, kt = k * mixer.removal_scale, k * (1 + (a - 1) * mixer.replacement)
    out = torch.zeros_like(x[0])
    for h in range(2):
        part = slice(8 * h, 8 * h + 8)
        S = torch.zeros(8, 8, dtype=torch.float64)
        for t in range(12):
            kh = removal[t, part] / removal[t, part].norm()
            S = S @ (torch.diag(w[t, part]) - torch.outer(kh, a[t, part] * kh)) + torch.outer(v[t, part], kt[t, part])
            y = S @ r[t, part]
            y = (y - y.mean()) / (y.var(unbiased=False) + 8e-5).sqrt() * mixer.norm.weight[part] + mixer.norm.bias[part]
            bonus = (r[t, part] * mixer.bonus[h, 0] * kt[t, part]).sum() * v[t, part]
            out[t, part] = g[t, part] * (y + bonus)
    torch.testing.assert_close(mixer(x)[0], out @ mixer.out.weight.T)


def test_against_transformers() -> None:
    """Gated DeltaNet's operator as the reference code of Qwen3-Next computes it."""
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    torch.manual_seed(0)
    mixer = GatedDeltaNet(32)
    f = mixer.features(torch.randn(2, 100, 32))
    q, k, v, g, beta = (
        t.transpose(1, 2) for t in (f.q * math.sqrt(8), f.key, f.values, f.log_decay[..., 0], f.beta[..., 0])
    )
    theirs = qwen.torch_recurrent_gated_delta_rule(q, k, v, g, beta)[0].transpose(1, 2)
    assert error(mixer.mix(f), theirs) < 1e-5
