"""A small causal transformer between any read-in and a linear read-out, for prompts of vectors or of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.models.backbone import BackboneConfig, BackboneLayer
from assay.nn._norm import RMSNorm


class SmallTransformer(nn.Module):
    """Read-in plus learned absolute positions, layers of softmax attention and a SwiGLU MLP, RMSNorm, linear read-out.

        SmallTransformer(nn.Linear(5, 64), 1, d_model=64, num_layers=3, num_heads=2, max_len=22)  # of vectors
        SmallTransformer(nn.Embedding(12, 64), 12, d_model=64, num_layers=2, num_heads=4, max_len=64)  # of tokens

    The layers are those of `Backbone`, whose mixers carry positions themselves; here the positions are learned vectors
    that are added to the input, N(0, 0.02^2) at first, as in GPT-2 (Radford et al. 2019), which most experiments on
    in-context learning use.

    Args:
        read_in: (B, L, ...) or token ids (B, L) -> (B, L, d_model).
        out_dim: of the read-out.
        max_len: positions that there are.

    Raises `InputError` for sizes that do not fit.
    """

    def __init__(
        self, read_in: nn.Module, out_dim: int, *, d_model: int, num_layers: int, num_heads: int, max_len: int
    ) -> None:
        super().__init__()
        for name, value in (("out_dim", out_dim), ("num_layers", num_layers), ("max_len", max_len)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected at least 1")
        config = BackboneConfig(
            f"attention*{num_layers}",
            d_model=d_model,
            mixers={"attention": {"num_heads": num_heads, "positions": "none"}},
        )
        self.max_len = max_len
        self.read_in = read_in
        self.positions = nn.Parameter(0.02 * torch.randn(max_len, d_model))
        self.layers = nn.ModuleList(BackboneLayer(config, name) for name in config.layers)
        self.norm = RMSNorm(d_model)
        self.read_out = nn.Linear(d_model, out_dim)

    def forward(self, inputs: Tensor, offset: int | Tensor = 0) -> Tensor:
        """(B, L, out_dim). The first position is `offset`, a number or one for each sequence, (B,), int64.

        Raises `InputError` where the sequence ends behind `max_len`, and for inputs that an embedding or a linear
        read-in does not take.
        """
        return self.read_out(self.norm(self.hidden_states(inputs, offset)[-1]))

    def hidden_states(self, inputs: Tensor, offset: int | Tensor = 0) -> list[Tensor]:
        """What each layer hands on, (B, L, d_model) each, before the last norm. Raises as `forward`."""
        self._check(inputs)
        length = inputs.shape[1]
        first = torch.as_tensor(offset, device=inputs.device)
        if length + int(first.max()) > self.max_len or int(first.min()) < 0:
            raise InputError(
                f"inputs have {length} positions, from {int(first.max())} on; expected them within max_len = "
                f"{self.max_len}"
            )
        where = first[..., None] + torch.arange(length, device=inputs.device)  # (L,) or (B, L)
        x = self.read_in(inputs) + self.positions[where]
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states

    def _check(self, inputs: Tensor) -> None:
        found = f"inputs are {inputs.dtype} of shape {tuple(inputs.shape)}"
        if isinstance(self.read_in, nn.Embedding):
            most = self.read_in.num_embeddings - 1
            whole = not inputs.is_floating_point()
            if inputs.ndim != 2 or not whole or bool(((inputs < 0) | (inputs > most)).any()):
                within = f", from {int(inputs.min())} to {int(inputs.max())}" if whole and inputs.numel() else ""
                raise InputError(f"{found}{within}; expected ids (B, L) from 0 to {most}")
        elif isinstance(self.read_in, nn.Linear):
            width = self.read_in.in_features
            if inputs.ndim != 3 or inputs.shape[-1] != width:
                raise InputError(f"{found}; expected (B, L, {width})")
