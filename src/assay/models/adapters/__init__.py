"""Adapters: each turns one call of one kind of mixer into an operator. Register your own with `@adapter("ClassName")`.

@adapter("MyMixer", "gated recurrence of my paper")
def read_my_mixer(call: MixerCall) -> Reading:
    gate, b, c, v = ...            # from call.hidden_states, call.inputs, call.outputs, call.module
    operator = RecurrentOperator(gate, b, c)            # (batch, heads, length, state)
    return Reading(operator, values=v, output=flat_heads(call.inputs["out_proj"], num_heads))
"""

from assay.models.adapters._calls import MixerCall as MixerCall
from assay.models.adapters._calls import flat_heads as flat_heads
from assay.models.adapters._registry import Adapter as Adapter
from assay.models.adapters._registry import NotMeasuredError as NotMeasuredError
from assay.models.adapters._registry import Reading as Reading
from assay.models.adapters._registry import adapter as adapter
from assay.models.adapters._registry import adapter_for as adapter_for
from assay.models.adapters._registry import registered as registered

# isort: off
# They register themselves; what comes later is asked first, so softmax reads the attention that nothing else reads.
from assay.models.adapters import softmax, softmax_variants  # noqa: F401
from assay.models.adapters import delta, lightning, mamba, mamba2, mixers, rglru, rwkv, shortconv, xlstm  # noqa: F401
# isort: on

__all__ = ["Adapter", "MixerCall", "NotMeasuredError", "Reading", "adapter", "adapter_for", "flat_heads", "registered"]
