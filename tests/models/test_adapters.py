"""Every family of real models, built at random from its config: the operator is the mixer."""

import weakref

import pytest
import torch
import transformers as tf

import assay
from assay.models.adapters import MixerCall, Reading, flat_heads
from assay.models.adapters._registry import _REGISTRY
from assay.models.contract import CHECKS, check_adapter
from assay.models.trace import MixerTrace, trace
from assay.operators import DenseOperator, RecurrentOperator

SIZE = dict(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            bos_token_id=0, eos_token_id=0, pad_token_id=0)  # fmt: skip
GROUPED = SIZE | dict(num_key_value_heads=2)
NARROW = GROUPED | dict(head_dim=16)
SMALL = dict(vocab_size=128, hidden_size=64, bos_token_id=0, eos_token_id=0)

FALCON_H1 = dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_ssm=128, mamba_d_state=16, mamba_n_groups=2,
                 mamba_chunk_size=16)  # fmt: skip
LFM = GROUPED | dict(layer_types=["conv", "full_attention"])
INKLING = NARROW | dict(
    unpadded_vocab_size=128, swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=16,
    sliding_window_size=9, d_rel=8, rel_extent=16, n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=32,
)  # fmt: skip
LATENT = SIZE | dict(
    num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
    n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, n_shared_experts=1, n_group=1, topk_group=1,
    first_k_dense_replace=1,
)  # fmt: skip


def deepseek_v4(layer_types: list[str]) -> tf.DeepseekV4Config:
    return tf.DeepseekV4Config(
        **(SIZE | dict(num_hidden_layers=len(layer_types))), num_key_value_heads=1, head_dim=16, q_lora_rank=16,
        layer_types=layer_types, compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
        mlp_layer_types=["moe"] * len(layer_types), sliding_window=9, n_routed_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=32, o_groups=2, o_lora_rank=16, index_n_heads=2, index_head_dim=16, index_topk=4,
        hc_mult=2, partial_rotary_factor=0.5,
    )  # fmt: skip


CONFIGS = {
    "gpt2": lambda: tf.GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SIZE),
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "mistral": lambda: tf.MistralConfig(**GROUPED, sliding_window=9),
    "qwen2": lambda: tf.Qwen2Config(**GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**NARROW),
    "gemma2": lambda: tf.Gemma2Config(**NARROW, sliding_window=9),
    "gemma3": lambda: tf.Gemma3TextConfig(**NARROW, sliding_window=9),
    "phi3": lambda: tf.Phi3Config(**GROUPED),
    "bitnet (norm behind attention)": lambda: tf.BitNetConfig(**GROUPED),
    "granite_swa (sinks as a scale)": lambda: tf.GraniteSWAConfig(**GROUPED, sliding_window=9),
    "afmoe (gated attention)": lambda: tf.AfmoeConfig(**NARROW, num_experts=2, num_experts_per_tok=1,
                                                      num_dense_layers=2, sliding_window=9),
    "bloom": lambda: tf.BloomConfig(**SMALL, n_layer=2, n_head=4),
    "mpt": lambda: tf.MptConfig(vocab_size=128, d_model=64, n_layers=2, n_heads=4),
    "opt": lambda: tf.OPTConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, ffn_dim=96,
                                word_embed_proj_dim=64, pad_token_id=1),
    "falcon": lambda: tf.FalconConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4),
    "falcon with alibi": lambda: tf.FalconConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, alibi=True),
    "falcon grouped": lambda: tf.FalconConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
                                              new_decoder_architecture=True),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "starcoder2": lambda: tf.Starcoder2Config(**GROUPED, sliding_window=9),
    "mixtral": lambda: tf.MixtralConfig(**GROUPED, num_local_experts=2),
    "gpt_oss": lambda: tf.GptOssConfig(**NARROW, num_local_experts=2, num_experts_per_tok=1, sliding_window=9),
    "mamba": lambda: tf.MambaConfig(**SMALL, num_hidden_layers=2, pad_token_id=0),
    "mamba2": lambda: tf.Mamba2Config(**SMALL, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=16,
                                      n_groups=2, chunk_size=16, pad_token_id=0),
    "falcon_mamba": lambda: tf.FalconMambaConfig(**SMALL, num_hidden_layers=2, pad_token_id=0),
    "jamba": lambda: tf.JambaConfig(**GROUPED, attn_layer_period=2, attn_layer_offset=1, num_experts=2),
    "granitemoehybrid": lambda: tf.GraniteMoeHybridConfig(
        **GROUPED, layer_types=["mamba", "attention"], num_local_experts=2, num_experts_per_tok=1,
        shared_intermediate_size=32, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16),
    "nemotron_h": lambda: tf.NemotronHConfig(
        **GROUPED, head_dim=16, layers_block_type=["mamba", "attention"], mamba_num_heads=8, mamba_head_dim=16,
        ssm_state_size=16, n_groups=2, chunk_size=16),
    "zamba2": lambda: tf.Zamba2Config(
        **GROUPED, layers_block_type=["mamba", "hybrid"], hybrid_layer_ids=[1], mamba_d_state=16, mamba_headdim=16,
        n_mamba_heads=8, mamba_ngroups=2, chunk_size=16, num_mem_blocks=1, adapter_rank=4),
    "bamba": lambda: tf.BambaConfig(**GROUPED, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16,
                                    mamba_d_state=16, mamba_chunk_size=16),
    "falcon_h1": lambda: tf.FalconH1Config(**GROUPED, **FALCON_H1, ssm_multipliers=[0.5, 1.5, 2.0, 0.7, 1.2],
                                           ssm_in_multiplier=0.8),
    "falcon_h1 with a gated norm": lambda: tf.FalconH1Config(**GROUPED, **FALCON_H1, mamba_rms_norm=True),
    "zamba": lambda: tf.ZambaConfig(**(SIZE | dict(num_hidden_layers=3)), num_key_value_heads=4, mamba_d_state=8,
                                    mamba_dt_rank=4,
                                    layers_block_type=["linear_attention", "hybrid", "hybrid"]),
    "recurrent_gemma": lambda: tf.RecurrentGemmaConfig(
        **(SIZE | dict(num_hidden_layers=3, w_init_variance_scale=1.0)), lru_width=64, attention_window_size=9),
    "rwkv": lambda: tf.RwkvConfig(**SMALL, num_hidden_layers=2, context_length=64),
    "xlstm": lambda: tf.xLSTMConfig(**SMALL, num_hidden_layers=2, num_heads=4, chunk_size=8),
    "lfm2": lambda: tf.Lfm2Config(**LFM, block_multiple_of=8),
    "lfm2 with biases": lambda: tf.Lfm2Config(**LFM, block_multiple_of=8, conv_bias=True),
    "lfm2_moe": lambda: tf.Lfm2MoeConfig(**LFM, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32,
                                         num_dense_layers=1),
    "lfm3": lambda: tf.Lfm3Config(**LFM, head_dim=16),
    "inkling": lambda: tf.InklingTextConfig(**INKLING, layer_types=["hybrid_sliding", "hybrid"],
                                            mlp_layer_types=["dense", "sparse"], n_shared_experts=1),
    "inkling2": lambda: tf.Inkling2TextConfig(**INKLING, layer_types=["sliding_attention", "full_attention"],
                                              n_layers_per_attn_res_block=1),
    "diffllama": lambda: tf.DiffLlamaConfig(**GROUPED),
    "jetmoe": lambda: tf.JetMoeConfig(**(GROUPED | dict(num_attention_heads=4)), kv_channels=16, num_local_experts=4,
                                      num_experts_per_tok=2),
    "deepseek_v2 (latent attention)": lambda: tf.DeepseekV2Config(**LATENT),
    "deepseek_v3 (latent attention)": lambda: tf.DeepseekV3Config(**LATENT),
    "deepseek_v32 (indexed attention)": lambda: tf.DeepseekV32Config(**LATENT, index_topk=8, index_head_dim=16,
                                                                     index_n_heads=8, head_dim=8),
    "deepseek_v4 (rotated values)": lambda: deepseek_v4(["sliding_attention"] * 2),
    "longcat_flash (two mixers a layer)": lambda: tf.LongcatFlashConfig(
        **{name: LATENT[name] for name in LATENT if name not in ("num_hidden_layers", "intermediate_size")}
        | dict(num_layers=2, ffn_hidden_size=96, expert_ffn_hidden_size=32, num_experts_per_tok=2, head_dim=8)),
    "xlm (parallel lists)": lambda: tf.XLMConfig(vocab_size=128, emb_dim=64, n_layers=2, n_heads=4, causal=True,
                                                 max_position_embeddings=64),
}  # fmt: skip

ABSOLUTE = "positions are counted from the first column, padding or not"
NO_MASK = "padding before a sequence enters the state: the model has no mask for it"
EXCEPTIONS: dict[str, dict[str, str]] = {
    "gpt2": {"left padding": ABSOLUTE},
    "xlm (parallel lists)": {"left padding": ABSOLUTE},
    "recurrent_gemma": {"left padding": NO_MASK},
    "xlstm": {"left padding": NO_MASK},
}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_adapter_contract_holds(family: str) -> None:
    check_adapter(
        lambda: tf.AutoModelForCausalLM.from_config(CONFIGS[family]()).float(), exceptions=EXCEPTIONS.get(family)
    )


def tiny(family: str = "llama") -> torch.nn.Module:
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(CONFIGS[family]()).float()


IDS = torch.arange(20)[None] + 3


def test_a_sliding_window_bounds_the_state() -> None:
    """gemma2 alternates: its first layer has a window of 9 and can carry 8 positions, its second any number."""
    first, second = trace(tiny("gemma2"), IDS).mixers
    assert first.reading.operator.state_size([15]).tolist() == [8]
    assert second.reading.operator.state_size([15]).tolist() == [15]


def test_an_attention_sink_takes_mass_away() -> None:
    """gpt_oss drops a sink column: the rows of T sum to less than 1, and T v is still the output."""
    weights = trace(tiny("gpt_oss"), IDS).mixers[0].reading.operator.to_dense()
    assert (weights.sum(-1) < 1 - 1e-3).all()


def test_the_model_is_left_as_it_was() -> None:
    model = tiny().train()
    model.config._attn_implementation = "sdpa"
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    trace(model, IDS)

    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


class Unknown(torch.nn.Module):
    """A mixer that nobody registered: a cumulative mean."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(64, 64)

    def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        steps = torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return self.proj(hidden_states.cumsum(1) / steps), None


def test_an_unknown_mixer_is_named_and_the_rest_is_measured() -> None:
    model = tiny()
    model.model.layers[0].self_attn = Unknown()
    first, second = trace(model, IDS).mixers

    assert (first.reading, first.reason) == (None, "not supported: Unknown")
    assert second.fidelity < 1e-5


def test_a_user_registers_an_adapter_of_their_own() -> None:
    """In a few lines, without touching the library; the README shows the same."""
    model = tiny()
    model.model.layers[0].self_attn = Unknown()

    @assay.adapter("Unknown", "cumulative mean")
    def read(call: MixerCall) -> Reading:
        batch, length, _ = call.hidden_states.shape
        mean = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
        operator = DenseOperator(mean.expand(batch, 1, length, length))
        return Reading(operator, call.hidden_states[:, None], flat_heads(call.inputs["proj"], 1))

    try:
        first = trace(model, IDS).mixers[0]
        assert first.fidelity < 1e-6
        check_adapter(lambda: model, exceptions={"left padding": "the mean runs over the padding too"})
    finally:
        _REGISTRY.pop()


def test_an_adapter_that_is_wrong_is_not_believed() -> None:
    """The control of the fidelity gate: a recurrence with a wrong decay does not explain the output."""
    model = tiny("mamba")

    @assay.adapter("MambaMixer")
    def read(call: MixerCall) -> Reading:
        true = next(a for a in _REGISTRY if a.name == "MambaMixer").read(call)
        op = true.operator
        return Reading(RecurrentOperator(op.A * 0.9, op.B, op.C, op.D), true.values, true.output, true.gate)

    try:
        found = trace(model, IDS).mixers
    finally:
        _REGISTRY.pop()
    assert all(mixer.reading is None for mixer in found)
    assert "does not explain the output" in found[0].reason


def test_activations_that_are_not_finite_are_refused_with_the_layer() -> None:
    model = tiny()
    model.model.layers[1].mlp.down_proj.weight.data.fill_(torch.inf)
    with pytest.raises(assay.ModelError, match="NaN or infinite after layer 1"):
        trace(model, IDS)


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(assay.InputError, match="layer 5 is not in the model; expected 0 to 1"):
        trace(tiny(), IDS, layers=[5])


def test_one_layer_of_attention_is_held_at_a_time() -> None:
    """With a consumer, the weights of a layer are gone from memory when the next layer's are there."""

    def alive(keep: bool) -> list[list[bool]]:
        """For each mixer, whether the weights of those before it are still there."""
        seen: list[weakref.ref[torch.Tensor]] = []
        found, kept = [], []

        def consume(mixer: MixerTrace) -> None:
            found.append([weights() is not None for weights in seen])
            seen.append(weakref.ref(mixer.reading.operator.matrix))
            kept.append(mixer.reading if keep else None)

        trace(tiny("gpt2"), IDS, on_mixer=consume)
        return found

    assert alive(keep=False) == [[], [False]]
    assert alive(keep=True) == [[], [True]]  # the control: a consumer that holds on to its reading


def test_a_window_that_the_weights_do_not_keep_to_is_not_believed() -> None:
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 5
    assert trace(model, IDS).mixers[0].reading.operator.attention_window is None


def test_the_contract_itself_can_fail() -> None:
    with pytest.raises(AssertionError, match="take its exception out"):
        check_adapter(tiny, exceptions={"batch": "none"})
    with pytest.raises(ValueError, match="no check 'nothing'"):
        check_adapter(tiny, exceptions={"nothing": "none"})
    model = tiny()
    model.model.layers[0].self_attn = Unknown()
    with pytest.raises(AssertionError, match="'measured': Unknown: not supported"):
        check_adapter(lambda: model)
    assert len(CHECKS) == 9
