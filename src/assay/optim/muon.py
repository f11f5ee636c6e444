"""Which parameters Muon is for, and Muon for them beside AdamW for the rest."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import nn
from torch.optim import AdamW, Muon

HEADS_AND_ROUTERS = ("head", "lm_head", "router")


class MuonSplit(NamedTuple):
    """`matrices`: what Muon is for. `rest`: all other parameters that are trained. In the order of the model."""

    matrices: list[nn.Parameter]
    rest: list[nn.Parameter]


def split_muon_params(model: nn.Module, *, never: Collection[str] = HEADS_AND_ROUTERS) -> MuonSplit:
    """The two-dimensional `weight`s of hidden layers, and everything else.

    A matrix is what is called `weight`, has two dimensions, belongs to no embedding and to no module named in `never`:
    so embeddings, a head (tied or not), routers, norms, biases, and tables such as a decay for each channel and state
    are the rest. Experts that are stacked into one parameter of three dimensions are the rest, too, as
    `torch.optim.Muon` takes none; `assay.nn.MoEFeedForward` keeps each expert's matrices apart. A fused matrix of
    queries, keys and values is one matrix here.
    """
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    never_matrices = {
        id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
    } | {id(p) for name, p in model.named_parameters() if set(name.split(".")) & set(never)}
    split = MuonSplit([], [])
    for name, p in model.named_parameters():
        is_matrix = name.rpartition(".")[2] == "weight" and p.ndim == 2 and id(p) not in never_matrices
        if id(p) not in frozen:
            (split.matrices if is_matrix else split.rest).append(p)
    return split


def muon_and_adamw(
    model: nn.Module, *, lr: float = 0.02, weight_decay: float = 0.1, rest_lr: float = 3e-3, momentum: float = 0.95
) -> tuple[Muon, AdamW]:
    """`torch.optim.Muon` for the matrices of `split_muon_params`, AdamW for the rest: both to be stepped.

        train(model, draw, steps=300, seed=0, optimizers=muon_and_adamw(model))

    Steps of Muon are scaled by `sqrt(max(1, m / n))`, the original way; a rate of 0.02 is usual there. AdamW has the
    betas (0.9, 0.95), and no weight decay, which embeddings and norms do without.
    Source: Jordan et al. 2024, *Muon*, and Mehta et al. 2025 (arXiv 2509.24406).
    """
    matrices, rest = split_muon_params(model)
    return (
        Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum),
        AdamW(rest, lr=rest_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
