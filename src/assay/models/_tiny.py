"""A tiny random model of any causal-LM architecture in transformers, from its config alone: nothing is downloaded.

The default config is shrunk by the names of its fields, and its lists of layers are cut so that every kind of layer
(sliding, full and linear attention, mixture of experts, …) is still there. What these rules cannot know is in `EXTRA`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay._errors import InputError, ModelError, nearest

MAX_PARAMETERS = 20_000_000
VOCABULARY = 128
LENGTH = 24
"""Tokens of the input; windows, chunks and blocks below are shorter, so that all of them show."""

_WIDTH, _HEADS, _HEAD_DIM = 64, 4, 16

SIZES: dict[str, int] = {
    name: size
    for size, names in {
        VOCABULARY: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
        _WIDTH: "hidden_size n_embd d_model emb_dim embedding_size input_embedding_size output_embedding_size "
        "hidden_size_global",
        96: "intermediate_size ffn_dim dff dim_ff d_ff d_inner ffn_hidden_size feed_forward_size "
        "decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp dense_intermediate_size mlp_dim",
        2: "decoder_layers encoder_layers num_encoder_layers num_decoder_layers depth num_global_layers "
        "max_window_layers num_experts_per_tok moe_topk moe_k n_group n_groups num_key_value_heads zero_expert_num "
        "global_attn_every_n_layers linear_num_key_heads index_n_heads o_groups altup_num_inputs "
        "swa_num_key_value_heads index_topk_blocks heads_per_ngram hc_mult hc_count "
        "n_layers_per_attn_res_block split_ngram_parts",
        1: "first_k_dense_replace num_dense_layers topk_group",
        _HEADS: "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "linear_num_heads encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "swa_num_attention_heads linear_num_value_heads num_experts num_local_experts n_routed_experts "
        "moe_num_experts index_block_size",
        _HEAD_DIM: "head_dim dim_head v_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim kv_channels "
        "attention_head_size swa_head_dim index_head_dim mamba_head_dim q_lora_rank kv_lora_rank "
        "o_lora_rank laurel_rank adapter_rank hidden_size_per_layer_input hc_lowrank router_hidden_size "
        "rel_extent rotary_dim",
        8: "qk_rope_head_dim qk_nope_head_dim state_size ssm_state_size mamba_d_state mamba_n_heads "
        "mamba_num_heads sliding_window sliding_window_size attention_window_size window_size "
        "attention_chunk_size chunk_size mamba_chunk_size block_size index_topk local_attn_chunk_length "
        "lsh_attn_chunk_length local_attention local_attention_window_len keep_window_size d_rel "
        "gated_norm_rank block_multiple_of",
        32: "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size image_size "
        "moe_shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
        "bias_max_distance relative_max_distance position_bias_max_distance max_target_positions",
        256: "max_position_embeddings n_positions n_ctx max_seq_len context_length encoder_hash_byte_group_vocab "
        "original_max_position_embeddings ngram_vocab_size_base image_seq_length max_source_positions",
    }.items()
    for name in names.split()
}  # fmt: skip
"""Field of a config -> its size in a tiny model; a default that is smaller, None or False stays."""

_SLIDING = ["sliding_attention", "full_attention"]
_LINEAR = ["linear_attention", "full_attention"]
_CONV = ["conv", "full_attention"]
_INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
            "indexer_compress_ratio": 4, "ple_layer_ids": [1], "eos_token_id": 2}  # fmt: skip
_DOTS3 = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
          "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 16, "sliding_window": 8}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 1e4}

EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},  # what it changes itself into when it first runs as a decoder
    "cohere_compass_text": {"layer_types": _SLIDING, "rope_parameters": dict.fromkeys(_SLIDING, _ROPE)},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "layer_types": _SLIDING},
    "dots3_note": {"text_config": _DOTS3, "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64},
                   "audio_config": {"adapter_out_dim": 64, "adapter_input_size": 64}},
    "dots3_note_text": _DOTS3,
    "gemma3n_text": {"num_hidden_layers": 3, "num_kv_shared_layers": 1, "intermediate_size": 96,
                     "layer_types": [*_SLIDING, "full_attention"], "activation_sparsity_pattern": [0.95, 0.0, 0.0]},
    "granitemoehybrid": {"layer_types": _LINEAR},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": _CONV},
    "lfm2_moe": {"layer_types": _CONV},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"attn_layers": ["local", "lsh"], "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32]},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
}  # fmt: skip
"""Model type -> what its tiny config needs besides; a nested dict is for a nested config."""

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_blocks")


def architectures() -> list[str]:
    """The model types that transformers maps to a causal language model, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def check_architecture(name: str) -> None:
    """Raise `InputError` for a name that is not one of the architectures."""
    if name not in architectures():
        hint = nearest(name, architectures())
        raise InputError(f"no causal language model {name!r} in the installed transformers{hint}")


def tiny_config(model_type: str) -> Any:
    """The default config of an architecture, shrunk. Raises `InputError` for one that transformers does not have."""
    from transformers import CONFIG_MAPPING

    check_architecture(model_type)
    return _shrink(CONFIG_MAPPING[model_type], EXTRA.get(model_type, {}))


def tiny_model(model_type: str, seed: int = 0) -> nn.Module:
    """A random model of an architecture in float32 on the CPU, in evaluation mode, with eager attention.

    Parameters that the architecture sets to a constant (norms to 1, gates and output projections to 0) get noise, so
    that no mixer is switched off. Raises `InputError` for an unknown architecture, `ModelError` for a model of more
    than `MAX_PARAMETERS` parameters, and whatever transformers raises where it cannot build one.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # takes no memory, whatever the size
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(tiny_config(model_type)).parameters())
    if size > MAX_PARAMETERS:
        raise ModelError(f"too large: {size:,} parameters, of {MAX_PARAMETERS:,} at most")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type), attn_implementation="eager").float().eval()
        _wake(model)
    return model


def tiny_input(seed: int = 0) -> Tensor:
    """Token ids for a tiny model, (1, LENGTH), int64; none of them is a special token."""
    return torch.randint(3, 100, (1, LENGTH), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _wake(model: nn.Module) -> None:
    """Noise for every parameter that is constant, of a tenth of its size, or of 0.1 where it is zero."""
    for parameter in model.parameters():
        first = parameter.flatten()[:1]
        if parameter.numel() and bool((parameter == first).all()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1 * (float(first.abs()) or 1.0))


def _shrink(config_class: Any, extra: Mapping[str, Any]) -> Any:
    default = config_class()
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if (value := _small(field.name, field.default)) is not None:
            values[field.name] = value
    values |= _key_value_heads(config_class, values) | _layers(default)
    for name in default.sub_configs:
        if (part := getattr(default, name, None)) is not None:
            values[name] = _shrink(type(part), extra.get(name, {}))
    return config_class(**values | {name: value for name, value in extra.items() if name not in default.sub_configs})


def _small(name: str, default: Any) -> Any:
    """What a field is in a tiny config, or None to leave it."""
    if name in ("initializer_range", "init_std") and isinstance(default, float):
        return 0.2  # 0.02 is for wide models: here it would make all attention alike
    if name == "is_decoder":
        return True
    if name in _TOKENS:
        return _TOKENS[name] if default is not None else None
    if not isinstance(default, int) or isinstance(default, bool):
        return None
    if name.endswith(("token_id", "token_index")):
        return min(default, VOCABULARY - 1)
    return min(default, SIZES[name]) if name in SIZES else None


def _key_value_heads(config_class: Any, values: dict[str, Any]) -> dict[str, int]:
    """As many as there are query heads where that is the default; one stays one."""
    heads, pairs = getattr(config_class, "num_attention_heads", None), getattr(config_class, "num_key_value_heads", 0)
    return {"num_key_value_heads": values["num_attention_heads"]} if pairs and heads == pairs else {}


def _layers(default: Any) -> dict[str, Any]:
    """Fewer layers, with every kind of layer: the lists that have an entry a layer, and the field with their length."""
    fields = vars(default)
    name = next((n for n in _LAYERS if isinstance(fields.get(n), int)), None)
    if name is None:
        return {}
    count = fields[name]
    lists = {n: list(v) for n, v in fields.items() if isinstance(v, list | tuple) and _is_per_layer(v, count)}
    seen: set[tuple[str, Any]] = set()
    chosen = []
    for index in range(count):
        kinds = {(n, v[index]) for n, v in lists.items()}
        if index < 2 or not kinds <= seen:
            chosen.append(index)
        seen |= kinds
    return {name: len(chosen)} | {n: [v[i] for i in chosen] for n, v in lists.items()}


def _is_per_layer(values: Sequence[Any], count: int) -> bool:
    """Whether a list has an entry a layer; the indices of all layers are no such list."""
    plain = all(isinstance(value, str | int | float) for value in values)
    return plain and len(values) == count and list(values) != list(range(count))
