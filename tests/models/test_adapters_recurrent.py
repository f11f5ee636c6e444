"""T of a recurrent mixer against a loop over the recurrence as its paper prints it, in float64."""

from collections.abc import Callable

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from assay.models.adapters import Reading
from assay.models.adapters.rwkv import wkv
from assay.models.adapters.xlstm import mlstm
from assay.models.trace import trace

SMALL = dict(vocab_size=128, hidden_size=32, num_hidden_layers=1, bos_token_id=0, eos_token_id=0, pad_token_id=0)
IDS = torch.arange(20)[None] + 3
LENGTH = IDS.shape[1]


def noisy(model: nn.Module) -> nn.Module:
    """Noise on every parameter: initial weights leave gates shut and biases at zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


def read(model: nn.Module, path: str) -> tuple[nn.Module, Reading, dict[str, Tensor]]:
    """The mixer of the first layer, what the adapter read, and the outputs of the mixer's sub-modules, (L, ...)."""
    mixer, outputs, handles = model.get_submodule(path), {}, []
    for name, child in mixer.named_children():
        handles.append(child.register_forward_hook(lambda _, __, y, n=name: outputs.update({n: y})))
    (found,) = trace(model, IDS, layers=[0]).mixers
    for handle in handles:
        handle.remove()
    return mixer, found.reading, {name: y[0] for name, y in outputs.items() if isinstance(y, Tensor)}


def by_impulses(respond: Callable[[Tensor], Tensor]) -> Tensor:
    """The matrix of a linear map of (L,) to (..., L): its response to each unit impulse."""
    return torch.stack([respond(row) for row in torch.eye(LENGTH, dtype=torch.float64)], dim=-1)


def assert_same(T: Tensor, expected: Tensor, wrong: Tensor) -> None:
    """`wrong` is the control: another recurrence, which must not pass."""
    scale = expected.abs().max()
    assert (T - expected).abs().max() <= 1e-10 * scale
    assert (T - wrong).abs().max() >= 1e-3 * scale


def test_rglru() -> None:
    """Griffin, equations 1 to 4; the first step starts a sequence."""
    config = tf.RecurrentGemmaConfig(**SMALL, num_attention_heads=2, lru_width=32, intermediate_size=48)
    mixer, reading, found = read(noisy(tf.RecurrentGemmaForCausalLM(config)), "model.layers.0.temporal_block")
    lru, x = mixer.rg_lru, found["conv_1d"].mT[:LENGTH]

    def gate(name: str) -> Tensor:
        weight = torch.block_diag(*getattr(lru, f"{name}_gate_weight"))
        return torch.sigmoid(x @ weight + getattr(lru, f"{name}_gate_bias").flatten())

    decay = torch.sigmoid(-lru.recurrent_param.double())  # Griffin's a; softplus(L) = -log sigmoid(-L)
    i, r = gate("input"), gate("recurrent")

    def respond(impulse: Tensor, c: float = 8.0) -> Tensor:
        h, out = torch.zeros(32, dtype=torch.float64), []
        for t in range(LENGTH):
            a = decay ** (c * r[t])
            h = i[t] * impulse[t] if t == 0 else a * h + (1 - a**2).sqrt() * i[t] * impulse[t]
            out.append(h)
        return torch.stack(out, dim=-1)

    T = reading.operator.to_dense()[0]
    assert_same(T, by_impulses(respond), by_impulses(lambda impulse: respond(impulse, c=7.0)))
    assert torch.equal(reading.values[0, ..., 0].mT, x)


def test_rwkv() -> None:
    """RWKV, equation 16, as it stands."""
    config = tf.RwkvConfig(**(SMALL | dict(num_hidden_layers=2)), context_length=64)
    mixer, reading, found = read(noisy(tf.RwkvForCausalLM(config)), "rwkv.blocks.0.attention")
    w, u, k = mixer.time_decay.exp(), mixer.time_first, found["key"]

    def respond(impulse: Tensor, bonus: Tensor = u) -> Tensor:
        out = []
        for t in range(LENGTH):
            past = [torch.exp(-(t - 1 - j) * w + k[j]) for j in range(t)]
            now = torch.exp(bonus + k[t])
            numerator = sum((p * impulse[j] for j, p in enumerate(past)), now * impulse[t])
            out.append(numerator / (sum(past) + now))
        return torch.stack(out, dim=-1)

    T = reading.operator.to_dense()[0]
    assert_same(T, by_impulses(respond), by_impulses(lambda impulse: respond(impulse, 0 * u)))


def test_rwkv_does_not_overflow() -> None:
    """Keys of +-2,000, whose exponentials no float holds: each row still sums to 1."""
    generator = torch.Generator().manual_seed(0)
    key = 2000 * torch.randn(3, 50, generator=generator, dtype=torch.float64)
    T = wkv(key, torch.tensor([[0.0], [1.0], [30.0]]).double(), torch.zeros(3, 1).double()).to_dense()
    assert torch.allclose(T.sum(-1), torch.ones(3, 50).double())
    # equation 16 with weights that are a softmax over the past and present
    lag = torch.arange(50)[:, None] - torch.arange(50) - 1
    logits = torch.where(lag >= 0, key[1, None] - lag, torch.where(lag == -1, key[1, None], -torch.inf))
    assert torch.allclose(T[1], logits.softmax(-1))


def xlstm_config(**more: object) -> tf.xLSTMConfig:
    # in this mode the state is not held in float32
    return tf.xLSTMConfig(**SMALL, num_heads=2, mode="train", chunk_size=5, eps=0.0, **more)


def mlstm_by_the_paper(q: Tensor, k: Tensor, i: Tensor, f: Tensor, floor: float = 1.0) -> Tensor:
    """xLSTM, equations 19 to 24 without the output gate: (H, L, N) and (H, L) to T (H, L, L)."""
    k = k / k.shape[-1] ** 0.5

    def respond(impulse: Tensor) -> Tensor:
        C = n = torch.zeros_like(q[:, 0])  # the matrix memory for one value channel
        out = []
        for t in range(LENGTH):
            C = f[:, t, None] * C + i[:, t, None] * impulse[t] * k[:, t]
            n = f[:, t, None] * n + i[:, t, None] * k[:, t]
            out.append((C * q[:, t]).sum(-1) / (n * q[:, t]).sum(-1).abs().clamp(min=floor))
        return torch.stack(out, dim=-1)

    return by_impulses(respond)


def test_mlstm() -> None:
    _, reading, found = read(noisy(tf.xLSTMForCausalLM(xlstm_config())), "backbone.blocks.0.mlstm_layer")
    q, k = (found[name].unflatten(-1, (2, -1)).transpose(0, 1) for name in ("q", "k"))
    gates = [15 * torch.tanh(found[f"{name}gate_preact"] / 15).mT for name in ("i", "f")]
    i, f = gates[0].exp(), gates[1].sigmoid()
    T = reading.operator.to_dense()[0]
    assert_same(T, mlstm_by_the_paper(q, k, i, f), mlstm_by_the_paper(q, k, i, f, floor=1e-3))


def test_both_branches_of_the_denominator() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, LENGTH, 4, generator=generator, dtype=torch.float64)
    log_i, forget = torch.randn(2, 2, LENGTH, generator=generator, dtype=torch.float64)
    log_f = nn.functional.logsigmoid(forget)
    for shift in (-3.0, 0.0, 3.0):
        T = mlstm(q, k, log_i + shift, log_f, 0.0).to_dense()
        expected = mlstm_by_the_paper(q, k, (log_i + shift).exp(), log_f.exp())
        assert (T - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_mlstm_does_not_overflow() -> None:
    """Input gates of exp(5,000): the denominator takes them out again."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, LENGTH, 4, generator=generator, dtype=torch.float64)
    log_i = torch.zeros(2, LENGTH, dtype=torch.float64)
    log_f = nn.functional.logsigmoid(torch.randn(2, LENGTH, generator=generator, dtype=torch.float64))
    large, huge = (mlstm(q, k, log_i + shift, log_f, 0.0).to_dense() for shift in (50.0, 5000.0))
    assert torch.allclose(large, huge)
    assert torch.isfinite(mlstm(q, k, log_i - 5000.0, log_f, 0.0).to_dense()).all()


def test_mlstm_with_fused_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers from the same weights in one matrix (which this transformers can load but not initialise)."""
    single = noisy(tf.xLSTMForCausalLM(xlstm_config()))
    monkeypatch.setattr(tf.xLSTMPreTrainedModel, "_init_weights", lambda *_: None)
    fused = tf.xLSTMForCausalLM(xlstm_config(weight_mode="fused")).double().eval()
    parts = {
        "mlstm_layer.qkv_opreact.weight": [f"mlstm_layer.{name}.weight" for name in ("q", "k", "v", "ogate_preact")],
        "mlstm_layer.ifgate_preact.weight": [f"mlstm_layer.{name}gate_preact.weight" for name in ("i", "f")],
        "mlstm_layer.ifgate_preact.bias": [f"mlstm_layer.{name}gate_preact.bias" for name in ("i", "f")],
        "ffn.proj_up_gate_z.weight": ["ffn.proj_up_gate.weight", "ffn.proj_up.weight"],
    }
    weights, block = single.state_dict(), "backbone.blocks.0."
    for new, old in parts.items():
        weights[block + new] = torch.cat([weights.pop(block + name) for name in old])
    fused.load_state_dict(weights)
    one, other = (trace(model, IDS).mixers[0] for model in (single, fused))
    assert other.fidelity < 1e-9
    assert torch.allclose(one.reading.operator.to_dense(), other.reading.operator.to_dense())


@pytest.mark.parametrize("bias", [False, True])
def test_short_convolution(bias: bool) -> None:
    """LFM2: y = c * conv(b * x), a kernel of three steps; T leaves the kernel's bias out."""
    config = tf.Lfm2Config(**SMALL, intermediate_size=48, num_attention_heads=2, num_key_value_heads=2,
                           layer_types=["conv"], conv_bias=bias)  # fmt: skip
    mixer, reading, found = read(noisy(tf.Lfm2ForCausalLM(config)), "model.layers.0.conv")
    b, c, x = found["in_proj"].mT.chunk(3)
    kernel = mixer.conv.weight[:, 0].flip(-1)

    def respond(impulse: Tensor, reach: int = 3) -> Tensor:
        out = []
        for t in range(LENGTH):
            out.append(c[:, t] * sum(kernel[:, s] * b[:, t - s] * impulse[t - s] for s in range(min(reach, t + 1))))
        return torch.stack(out, dim=-1)

    T = reading.operator.to_dense()[0]
    assert_same(T, by_impulses(respond), by_impulses(lambda impulse: respond(impulse, reach=2)))
    assert reading.operator.state_size([1, 2, 10]).tolist() == [1, 2, 2]
    expected = (T @ x[..., None])[..., 0] + (c * mixer.conv.bias[:, None] if bias else 0)
    assert torch.allclose(mixer.out_proj(expected.mT), found["out_proj"])
