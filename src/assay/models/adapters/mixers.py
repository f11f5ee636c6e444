"""Every mixer of `assay.nn`, and yours if it is one: it hands out its operator itself."""

from __future__ import annotations

import torch

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import Reading, adapter
from assay.nn._mixer import Mixer
from assay.operators import ConvolutionOperator, DenseOperator, SequenceOperator


@adapter("Mixer", "the mixers of assay.nn", matches=lambda module: isinstance(module, Mixer))
def read_mixer(call: MixerCall) -> Reading:
    """The operator for what went into the mixer; the output is what passed through its `mixed`."""
    mixer: Mixer = call.module
    features = mixer.features(call.hidden_states)
    operator = mixer.to_operator(features)
    output = call.outputs["mixed"].to(call.hidden_states.dtype)  # where parts are in half precision, it is no better
    return Reading(operator, features.values, output, kind=_kind(operator))


def _kind(operator: SequenceOperator) -> str:
    if isinstance(operator, ConvolutionOperator):
        return "convolution"
    return "attention" if isinstance(operator, DenseOperator) and _is_attention(operator) else "recurrence"


def _is_attention(operator: DenseOperator) -> bool:
    """Whether every row is a probability distribution, as softmax leaves it."""
    T = operator.matrix
    ones = T.new_ones(()).expand(T.shape[:-1])
    return bool((T >= 0).all()) and torch.allclose(T.sum(-1), ones, atol=16 * torch.finfo(T.dtype).eps)
