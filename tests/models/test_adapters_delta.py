"""Delta-rule mixers and lightning attention of real models, built at random from their configs."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import assay.models.adapters.delta
import assay.models.adapters.lightning  # noqa: F401
from assay.models.contract import check_adapter
from assay.models.trace import MixerTrace, trace

SIZE = dict(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            num_key_value_heads=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=0)  # fmt: skip
FIRST = dict(layer_types=["linear_attention", "full_attention"])
EXPERTS = dict(num_experts_per_tok=1, moe_intermediate_size=32)
SHARED = EXPERTS | dict(num_experts=2, shared_expert_intermediate_size=32)
# two key heads for four value heads, and sizes that differ
GATED = SIZE | FIRST | dict(head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=12,
                            linear_value_head_dim=16)  # fmt: skip
LATENT = SIZE | dict(kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16, num_key_value_heads=4)
KIMI = LATENT | FIRST | EXPERTS | dict(mlp_layer_types=["dense", "sparse"])
LING = KIMI | dict(head_dim=16, num_local_experts=2, n_group=1, topk_group=1)


def glm(**changes: Any) -> tf.PreTrainedModel:
    """The text side of a model that also sees; its attention layers, which are sparse, are left out."""
    text = LATENT | EXPERTS | changes
    text |= dict(layer_types=["linear_attention"] * 2, mlp_layer_types=["dense", "sparse"], linear_head_dim=12,
                 linear_num_heads=4, n_routed_experts=2, hc_mult=2, q_lora_rank=16, index_topk=8, index_kpool=4,
                 index_head_dim=8, index_n_heads=2, qk_rope_head_dim=0)  # fmt: skip
    eyes = dict(depth=1, hidden_size=32, num_heads=2, image_size=28, patch_size=14, out_hidden_size=64,
                intermediate_size=32, projection_intermediate_size=32)  # fmt: skip
    model = tf.Glm5NextForConditionalGeneration(tf.Glm5NextConfig(text_config=text, vision_config=eyes))
    model.config.vocab_size = 128
    return model


def causal(config: type[tf.PretrainedConfig], **sizes: Any) -> Callable[[], nn.Module]:
    return lambda: tf.AutoModelForCausalLM.from_config(config(**sizes))


DELTA = {
    "qwen3_next": causal(tf.Qwen3NextConfig, **GATED, **SHARED),
    "qwen3_next, one key head each": causal(tf.Qwen3NextConfig, **GATED | dict(linear_num_key_heads=4), **SHARED),
    "qwen3_5": causal(tf.Qwen3_5TextConfig, **GATED),
    "qwen3_5_moe": causal(tf.Qwen3_5MoeTextConfig, **GATED, **SHARED),
    "qwen4_exp": causal(tf.Qwen4ExpTextConfig, **GATED | dict(layer_types=["linear_attention"] * 2), **SHARED,
                        hc_count=2, hc_lowrank=8),
    "olmo_hybrid": causal(tf.OlmoHybridConfig, **GATED),
    "olmo_hybrid, eigenvalues above 0": causal(tf.OlmoHybridConfig, **GATED, linear_allow_neg_eigval=False),
    "kimi_linear": causal(tf.KimiLinearConfig, **KIMI, num_local_experts=2, linear_head_dim=12, linear_num_heads=4),
    "bailing_hybrid": causal(tf.BailingHybridConfig, **LING),
    "bailing_hybrid, softplus gate": causal(tf.BailingHybridConfig, **LING, kda_safe_gate=False),
    "glm5_next": glm,
    "glm5_next, softplus gate": lambda: glm(linear_lower_bound=None),
}  # fmt: skip
FAMILIES = DELTA | {
    # blocks of 7: four for the 24 tokens of the contract, the last one cut
    "minimax": causal(tf.MiniMaxConfig, **SIZE | FIRST, head_dim=16, block_size=7, num_local_experts=2,
                      num_experts_per_tok=1),
}  # fmt: skip


@torch.no_grad()
def tiny(family: str) -> nn.Module:
    """A random model whose heads remember: as they are drawn, most decays leave nothing after one token."""
    model = FAMILIES[family]().float().eval()
    model.set_experts_implementation("eager")  # the default one has no float64
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.uniform_(-1, 1)
        if name.endswith("dt_bias"):
            parameter.normal_(-2)
    return model


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def tokens(length: int = 24) -> Tensor:
    return torch.randint(3, 128, (2, length))


def recurrent(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> MixerTrace:
    return trace(model, ids, mask, layers=[0]).mixers[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_contract_holds(family: str) -> None:
    check_adapter(lambda: tiny(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_before_a_text_is_not_remembered(family: str) -> None:
    """T v is the output behind the padding only if nothing of the padding is in the state."""
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, :5] = 0
    found = recurrent(tiny(family), tokens(), mask)
    assert found.reading.kind == "recurrence"
    assert found.fidelity < 1e-5


class Double(TorchFunctionMode):
    """Turns casts to float32 into casts to float64, for models that insist on float32 inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.to:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {n: torch.float64 if a is torch.float32 else a for n, a in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def in_float64(model: nn.Module) -> nn.Module:
    """Lightning attention keeps tables of powers of its decay, rounded to float32: these are made anew."""
    for mixer in model.double().modules():
        if hasattr(mixer, "decay_factors"):
            mixer.query_decay, mixer.key_decay, mixer.diagonal_decay = mixer.decay_factors(mixer.slope_rate)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_in_float32_is_rounding(family: str) -> None:
    """In float64 it is gone; 70 tokens are more than one chunk of the models' own algorithms."""
    model, ids = tiny(family), tokens(70)
    single = recurrent(model, ids).fidelity
    with Double():
        double = recurrent(in_float64(model), ids).fidelity
    assert 1e-9 < single < 1e-5
    assert double < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_read_within_its_rounding(family: str) -> None:
    assert recurrent(tiny(family).bfloat16(), tokens()).fidelity < 1e-2


def test_lightning_attention_needs_no_help_to_run_in_float64() -> None:
    assert recurrent(in_float64(tiny("minimax")), tokens()).fidelity < 1e-12


@dataclass
class Rule:
    """What a model gives to its own delta rule: (B, L, heads, channels), g in logarithms."""

    query: Tensor
    key: Tensor
    g: Tensor
    beta: Tensor


def watch_rule(family: str, monkeypatch: pytest.MonkeyPatch) -> list[Rule]:
    """The list fills up as the model runs."""
    name = family.partition(",")[0]
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    rule = next(n for n in ("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention") if hasattr(module, n))
    own = getattr(module, rule)
    seen: list[Rule] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, *, g: Tensor, beta: Tensor, **rest: Any) -> Any:
        seen.append(Rule(query, key, g, beta))
        return own(query, key, value, g=g, beta=beta, **rest)

    monkeypatch.setattr(module, rule, spy)
    return seen


def published(rule: Rule, heads: int, *, decay_first: bool = True) -> Tensor:
    """T of the first sequence by the papers' recurrence, one matrix product after the other, (H, L, L), float64."""
    query, key, g, beta = (t[0].double() for t in (rule.query, rule.key, rule.g, rule.beta))
    length, size = key.shape[0], key.shape[-1]
    T = torch.zeros(heads, length, length, dtype=torch.float64)
    for h in range(heads):
        group = h // (heads // key.shape[1])
        for j in range(length):
            state = torch.zeros(size, dtype=torch.float64)
            for i in range(j, length):
                k = key[i, group] / (key[i, group].square().sum() + 1e-6).sqrt()
                q = query[i, group] / (query[i, group].square().sum() + 1e-6).sqrt() / size**0.5
                decay = torch.diag(g[i, h].exp().expand(size))
                erase = torch.eye(size, dtype=torch.float64) - beta[i, h] * torch.outer(k, k)
                state = (erase @ decay if decay_first else decay @ erase) @ state
                if i == j:
                    state = state + beta[i, h] * k
                T[h, i, j] = q @ state
    return T


@pytest.mark.parametrize("family", ["qwen3_next", "olmo_hybrid", "kimi_linear", "bailing_hybrid"])
def test_the_operator_is_the_published_delta_rule(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_rule(family, monkeypatch)
    found = recurrent(tiny(family), tokens(12))
    T = found.reading.operator.double().to_dense()[0]
    expected = published(seen[0], heads=4)
    remembered = expected.tril(-1).norm() / expected.norm()

    assert remembered > 0.3
    assert (T - expected).norm() < 1e-6 * expected.norm()
    other = published(seen[0], heads=4, decay_first=False)  # the control: one decay for all channels commutes
    assert ((T - other).norm() > 1e-3 * expected.norm()) == (seen[0].g.ndim == 4)


def test_the_operator_is_the_published_lightning_attention() -> None:
    """T_ij = exp(-s (i - j)) q_i . k_j, with the slopes of ALiBi scaled by depth (here the first of two layers)."""
    model, ids = in_float64(tiny("minimax")), tokens(12)
    found = recurrent(model, ids)
    layer = model.model.layers[0]
    states: list[Tensor] = []
    with layer.input_layernorm.register_forward_hook(lambda _, __, normed: states.append(normed)):
        model(ids)
    mixed = nn.functional.silu(states[0] @ layer.self_attn.qkv_proj.weight.T)[0].unflatten(-1, (4, 3, 16))
    expected = torch.zeros(4, 12, 12, dtype=torch.float64)
    for h in range(4):
        slope = 2.0 ** (-8 * (h + 1) / 4) * (1 + 1e-5)
        for i in range(12):
            for j in range(i + 1):
                expected[h, i, j] = torch.exp(torch.tensor(-slope * (i - j))) * (mixed[i, h, 0] @ mixed[j, h, 1])
    T = found.reading.operator.to_dense()[0]
    assert (T - expected).norm() < 1e-6 * expected.norm()
    assert (T - mixed[:, :, 0].movedim(1, 0) @ mixed[:, :, 1].permute(1, 2, 0).tril()).norm() > 1e-3 * expected.norm()
