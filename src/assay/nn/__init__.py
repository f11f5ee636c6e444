"""Mixers to train with: `(batch, length, d_model) -> same`, each of which hands out its operator.

    mixer = GatedLinearAttention(64, num_heads=4)
    y = mixer(x)                                   # in parallel, for training
    y_t, state = mixer.step(x[:, t], state)        # token by token
    T = mixer.operator(x)                          # what assay.operators and assay.measures read

`MIXERS` has them by the names that the pattern of an `assay.models.Backbone` uses.
"""

from collections.abc import Callable
from functools import partial

from assay.nn._mixer import Mixer as Mixer
from assay.nn.attention import SoftmaxAttention as SoftmaxAttention
from assay.nn.autocorrelation_conv import AutocorrelationConv as AutocorrelationConv
from assay.nn.base_conv import BaseConv as BaseConv
from assay.nn.deltanet import DeltaNet as DeltaNet
from assay.nn.deltanet import GatedDeltaNet as GatedDeltaNet
from assay.nn.ess_classes import GLA as GLA
from assay.nn.ess_classes import GLAS6 as GLAS6
from assay.nn.ess_classes import LA as LA
from assay.nn.ess_classes import S6 as S6
from assay.nn.ess_classes import SA as SA
from assay.nn.ess_classes import WLA as WLA
from assay.nn.gla import GatedLinearAttention as GatedLinearAttention
from assay.nn.h3 import H3 as H3
from assay.nn.hgrn import HGRN as HGRN
from assay.nn.hyena import Hyena as Hyena
from assay.nn.latent_attention import LatentAttention as LatentAttention
from assay.nn.linear_attention import LinearAttention as LinearAttention
from assay.nn.linear_attention import WeightedLinearAttention as WeightedLinearAttention
from assay.nn.long_convolution import LongConvolution as LongConvolution
from assay.nn.lstm import LSTM as LSTM
from assay.nn.mamba import Mamba as Mamba
from assay.nn.mamba2 import Mamba2 as Mamba2
from assay.nn.moe import MoEFeedForward as MoEFeedForward
from assay.nn.moe import expert_load as expert_load
from assay.nn.moe import load_entropy as load_entropy
from assay.nn.normalised_attention import NormalisedAttention as NormalisedAttention
from assay.nn.prefix_linear_attention import PrefixLinearAttention as PrefixLinearAttention
from assay.nn.prefix_linear_attention import set_prefix_len as set_prefix_len
from assay.nn.qlstm import QLSTM as QLSTM
from assay.nn.recording import recorded_operators as recorded_operators
from assay.nn.retention import Retention as Retention
from assay.nn.rg_lru import RGLRU as RGLRU
from assay.nn.rwkv6 import RWKV6 as RWKV6
from assay.nn.rwkv7 import RWKV7 as RWKV7
from assay.nn.s4d import S4D as S4D
from assay.nn.scaled_fused_ffn import ScaledFusedFFN as ScaledFusedFFN
from assay.nn.selective_attention import SelectiveAttention as SelectiveAttention
from assay.nn.sigma_reparam import SigmaReparam as SigmaReparam
from assay.nn.sigma_reparam import convert_to_sigma_reparam as convert_to_sigma_reparam
from assay.nn.sigma_reparam import remove_normalisation as remove_normalisation
from assay.nn.sigma_reparam import sigma_reparam as sigma_reparam
from assay.nn.strip import strip_nonlinearities as strip_nonlinearities
from assay.nn.temperature_attention import TemperatureAttention as TemperatureAttention

MIXERS: dict[str, Callable[..., Mixer]] = {
    "attention": SoftmaxAttention,
    "sliding-attention": partial(SoftmaxAttention, window=128),
    "latent-attention": LatentAttention,
    "temperature-attention": TemperatureAttention,
    "selective-attention": SelectiveAttention,
    "linear-attention": LinearAttention,
    "normalised-attention": NormalisedAttention,
    "weighted-linear-attention": WeightedLinearAttention,
    "gla": GatedLinearAttention,
    "retnet": Retention,
    "mamba2": Mamba2,
    "rwkv6": RWKV6,
    "rwkv7": RWKV7,
    "deltanet": DeltaNet,
    "gated-deltanet": GatedDeltaNet,
    "s4d": S4D,
    "mamba": Mamba,
    "rg-lru": RGLRU,
    "hgrn": HGRN,
    "qlstm": QLSTM,
    "qlstm-reversed": partial(QLSTM, reversed_gate=True),
    "lstm": LSTM,
    "hyena": Hyena,
    "long-convolution": LongConvolution,
    "h3": H3,
    "base-conv": BaseConv,
    "base-conv-short": partial(BaseConv, kernel_size=3),
    "autocorrelation-conv": AutocorrelationConv,
    # as Parnichkun et al. 2025 parameterise them
    "ess-la": LA,
    "ess-wla": WLA,
    "ess-gla": GLA,
    "ess-sa": SA,
    "ess-s6": S6,
    "ess-gla-s6": GLAS6,
}

__all__ = [
    "GLA",
    "GLAS6",
    "H3",
    "HGRN",
    "LA",
    "LSTM",
    "MIXERS",
    "QLSTM",
    "RGLRU",
    "RWKV6",
    "RWKV7",
    "S4D",
    "S6",
    "SA",
    "WLA",
    "AutocorrelationConv",
    "BaseConv",
    "DeltaNet",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "Hyena",
    "LatentAttention",
    "LinearAttention",
    "LongConvolution",
    "Mamba",
    "Mamba2",
    "Mixer",
    "MoEFeedForward",
    "NormalisedAttention",
    "PrefixLinearAttention",
    "Retention",
    "ScaledFusedFFN",
    "SelectiveAttention",
    "SigmaReparam",
    "SoftmaxAttention",
    "TemperatureAttention",
    "WeightedLinearAttention",
    "convert_to_sigma_reparam",
    "expert_load",
    "load_entropy",
    "recorded_operators",
    "remove_normalisation",
    "set_prefix_len",
    "sigma_reparam",
    "strip_nonlinearities",
]
