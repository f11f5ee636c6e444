"""A small causal language model of any mixers, in the format of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from assay._errors import InputError
from assay.models._pattern import parse_pattern
from assay.nn._norm import RMSNorm


class BackboneConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """What a `Backbone` is made of.

    Args:
        pattern: the mixers from the first layer to the last, by their names in `assay.nn.MIXERS`: "attention,gla*3" is
            one attention layer and three of gla, "(attention,gla)*2" repeats both.
        vocab_size: number of tokens.
        d_model: width.
        mixers: options of the mixers by name, such as `{"gla": {"num_heads": 8}}`.
        mlp_ratio: width of the MLP's hidden layer over d_model; 0 for layers without an MLP.
        norm_eps: of the norms before mixers, MLPs and head.
        tie_word_embeddings: whether the head's matrix is the embedding's.

    Raises `InputError` for a pattern that cannot be read or names an unknown mixer, for options of a mixer that is
    not in the pattern, and for sizes that are out of range.
    """

    model_type = "assay-backbone"
    attribute_map = {"hidden_size": "d_model"}  # noqa: RUF012  (a class attribute in transformers)

    def __init__(
        self,
        pattern: str = "attention,gla*3",
        vocab_size: int = 1024,
        d_model: int = 128,
        mixers: dict[str, dict[str, Any]] | None = None,
        mlp_ratio: float = 8 / 3,
        norm_eps: float = 1e-5,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("num_hidden_layers", None)  # follows from the pattern
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        for name, value, low in (("vocab_size", vocab_size, 1), ("d_model", d_model, 1), ("mlp_ratio", mlp_ratio, 0)):
            if not value >= low:
                raise InputError(f"{name} is {value}; expected at least {low}")
        self.pattern = pattern
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.mixers = mixers or {}
        self.mlp_ratio = mlp_ratio
        self.norm_eps = norm_eps
        layers = self.layers
        self.num_hidden_layers = len(layers)
        if unused := [name for name in self.mixers if name not in layers]:
            raise InputError(f"mixers has options for {unused[0]!r}, which is not in the pattern {pattern!r}")

    @property
    def layers(self) -> list[str]:
        """The name of each layer's mixer."""
        return parse_pattern(self.pattern, _mixers())

    @property
    def num_attention_heads(self) -> int:
        """The most heads of a layer, by which the memory of a measurement is estimated."""
        return max(self.mixers.get(name, {}).get("num_heads", 4) for name in self.layers)


class Backbone(PreTrainedModel):  # type: ignore[misc]
    """Embedding, layers of a mixer and a SwiGLU MLP with an RMSNorm before each, RMSNorm, head.

    `Backbone(BackboneConfig("attention,gla*3", vocab_size=1024, d_model=128))`; `save_pretrained` and `from_pretrained`
    are those of transformers, and `assay measure FOLDER` opens what they wrote. Positions are the mixers' business.
    Embedding and head are drawn from N(0, 1 / d_model): a fixed 0.02, right at the widths of large models, hides the
    tokens behind the mixers' output in small ones. MLPs are drawn as `nn.Linear` (0.02 at GPT-2's width), their last
    matrices divided by sqrt(2 layers) as in GPT-2 (Radford et al. 2019, section 2.3); mixers draw their own.
    """

    config_class = BackboneConfig
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(BackboneLayer(config, name) for name in config.layers)
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for weight in (self.embedding.weight, self.head.weight):
            nn.init.normal_(weight, std=config.d_model**-0.5)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every part has drawn its weights when it was made."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,  # noqa: ARG002
        logits_to_keep: Tensor | None = None,
    ) -> CausalLMOutput:
        """Logits (B, L, V) for the tokens (B, L), and the loss where labels are given.

        Args:
            attention_mask: (B, L), 1 for tokens and 0 for padding, which must stand behind them.
            labels: (B, L), usually `input_ids` themselves; token t is predicted from those before it. -100 is left out.
            use_cache: without effect; see `step`.
            logits_to_keep: (B, L), boolean; logits are then (N, V), at its N true positions only. Not with labels.

        Raises `InputError` for padding that is not at the end, and for `labels` with `logits_to_keep`.
        """
        if attention_mask is not None and bool((attention_mask.diff(dim=1) > 0).any()):
            raise InputError("attention_mask has padding before tokens; expected padding on the right only")
        if labels is not None and logits_to_keep is not None:
            raise InputError("labels and logits_to_keep are both given; expected one of them")
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x if logits_to_keep is None else x[logits_to_keep]))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def step(self, tokens: Tensor, states: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """One token of each sequence, (B,), and the states after those before (None at the start): the logits for the
        next one, (B, V), and the states after it.

        Time and memory of a step do not grow with the text, except for attention, which keeps its keys and values.
        """
        x = self.embedding(tokens)
        states = states or [None] * len(self.layers)
        after = []
        layer: Any
        for layer, before in zip(self.layers, states, strict=True):
            x, state = layer.step(x, before)
            after.append(state)
        return self.head(self.norm(x)), after


class BackboneLayer(nn.Module):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))`: (B, L, d_model) -> the same."""

    def __init__(self, config: BackboneConfig, name: str) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        try:
            self.mixer = _mixers()[name](config.d_model, **config.mixers.get(name, {}))
        except TypeError as error:
            raise InputError(f"mixers[{name!r}] is {config.mixers.get(name)}: {error}") from None
        width = round(config.mlp_ratio * config.d_model)
        self.mlp = SwiGLUMLP(config.d_model, width, config.num_hidden_layers) if width else None
        self.mlp_norm = RMSNorm(config.d_model, eps=config.norm_eps) if width else None

    def forward(self, x: Tensor) -> Tensor:
        return self._mlp(x + self.mixer(self.mixer_norm(x)))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, d_model) and the mixer's state -> the same after this token."""
        y, state = self.mixer.step(self.mixer_norm(x), state)
        return self._mlp(x + y), state

    def _mlp(self, x: Tensor) -> Tensor:
        return x if self.mlp is None or self.mlp_norm is None else x + self.mlp(self.mlp_norm(x))


class SwiGLUMLP(nn.Module):
    """`W_3 (silu(W_1 x) o W_2 x)`. Source: Shazeer 2020 (arXiv 2002.05202), eq. 6."""

    def __init__(self, d_model: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)
        with torch.no_grad():
            self.down.weight.div_((2 * num_layers) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * value)


def _mixers() -> dict[str, Any]:
    import assay.nn

    return assay.nn.MIXERS


AutoConfig.register(BackboneConfig.model_type, BackboneConfig, exist_ok=True)
AutoModelForCausalLM.register(BackboneConfig, Backbone, exist_ok=True)
