"""Character models of Python's help texts: by AdamW or Muon, full or latent attention, dense or expert MLPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from assay.data import Windows, python_help, random_windows, split_documents, tokenise
from assay.lab.training import token_loss, train
from assay.models.backbone import Backbone, BackboneConfig
from assay.nn.latent_attention import LatentAttention
from assay.nn.moe import MoEFeedForward, expert_load, load_entropy
from assay.optim.muon import muon_and_adamw

Row = dict[str, Any]


class Experts(nn.Module):
    """A `MoEFeedForward` where an MLP stood; it keeps the balance loss and the load of the last batch."""

    def __init__(self, moe: MoEFeedForward) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        y, self.balance_loss = self.moe(x)
        with torch.no_grad():
            routing = self.moe.route(x.flatten(0, -2))
            self.load = expert_load(routing.experts, len(self.moe.experts))
        return y


def build(*, mixer: str, balance: str | None, vocabulary: int, width: int, layers: int) -> Backbone:
    """mixer: "attention", "latent-attention", or "latent-attention without positions"; balance: of the experts, None
    for a dense MLP. Three experts work on a token, two of eight and a shared one, each a third as wide as the MLP."""
    name = mixer.split()[0]
    options = {"latent-attention": {"kv_lora_rank": width // 2, "qk_rope_head_dim": width // 8}}
    config = BackboneConfig(
        f"{name}*{layers}", vocabulary, width, mixers={key: options[key] for key in options if key == name}
    )
    model = Backbone(config)
    for module in model.modules():
        if isinstance(module, LatentAttention) and mixer.endswith("without positions"):
            nn.init.zeros_(module.k_rope.weight).requires_grad_(False)
    layer: Any
    if balance is not None:
        for layer in model.layers:
            layer.mlp = Experts(MoEFeedForward(width, round(8 * width / 9), balance=balance))
    return model


def loss_with_balance(model: nn.Module, batch: Windows) -> Tensor:
    loss = token_loss(model, batch)
    return loss + sum(module.balance_loss for module in model.modules() if isinstance(module, Experts))


def text_model(
    *, optimizer: str, lr: float, rest_lr: float, mixer: str, balance: str | None, width: int, layers: int,
    batch: int, length: int, steps: int, seed: int, device: str,
) -> Row:  # fmt: skip
    """Loss in nats a character on held-out documents; with experts, how evenly they are used in the worst layer."""
    corpus = tokenise(python_help(), "character")
    parts = split_documents(corpus, generator=torch.Generator().manual_seed(seed))
    text, held_out = (torch.cat(part.documents).to(device) for part in parts)
    test = random_windows(held_out, 128, seq_len=length, generator=torch.Generator(device).manual_seed(seed))
    model = build(
        mixer=mixer, balance=balance, vocabulary=len(corpus.vocabulary), width=width, layers=layers
    ).to(device)  # fmt: skip

    def measured(model: nn.Module) -> Row:
        row = {"test_loss": token_loss(model, test).item()}
        used = [load_entropy(module.load).item() for module in model.modules() if isinstance(module, Experts)]
        return row | ({"evenness": min(used)} if used else {})

    if optimizer == "AdamW":
        optimizers: Any = [AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)]
    else:
        optimizers = muon_and_adamw(model, lr=lr, rest_lr=rest_lr)
        if optimizer == "normalised momentum":
            optimizers[0].param_groups[0]["ns_steps"] = 0
    rows = train(
        model, lambda generator: random_windows(text, batch, seq_len=length, generator=generator),
        steps=steps, seed=seed, loss=loss_with_balance, optimizers=optimizers, measure=measured,
    )  # fmt: skip
    return {"train_loss": rows[-1]["loss"]} | {k: rows[-1].get(k, float("nan")) for k in ("test_loss", "evenness")}
