"""Transformers trained on prompts without and with the hidden activations of random networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import AdamW

from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import MLPTasks
from assay.icl.cot_model import CoTPromptModel, cot_loss
from assay.lab import Row
from assay.lab.training import train
from assay.optim.muon import split_muon_params
from assay.optim.stacked_muon import StackedMuon

MODES = {"ICL": (0, 0), "CoT-I": (1, 0), "CoT-I/O": (1, 1)}  # which of the activations are read, and predicted


def trained(
    *, mode: str, d: int, k: int, layers: int, points: int, depth: int, width: int, heads: int, steps: int,
    batch: int, optimizer: str, lr: float, tested_on: int, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """One row for each position of a prompt: squared error over the mean square of y, by roll-out. With it, for the
    whole prompt, what shuffling tokens does to the loss of a step: see `_shuffled`."""
    sampler = InContext(MLPTasks(d, k, layers=layers), GaussianInputs())
    reads, predicts = ((layers - 1) * one for one in MODES[mode])
    model = CoTPromptModel(d, k, reads, predicts, points, d_model=width, num_layers=depth,
                           num_heads=heads).to(device)  # fmt: skip
    optimizers = None  # AdamW alone
    if optimizer == "muon":
        matrices, rest = split_muon_params(model)
        optimizers = (StackedMuon(matrices, lr=lr), AdamW(rest, lr=3e-3, weight_decay=0, fused=True))
    train(model, lambda g: sampler.sample(batch, points, generator=g), steps=steps, seed=seed, loss=cot_loss, lr=lr,
          optimizers=optimizers)  # fmt: skip
    model.eval()
    fresh = torch.Generator(device).manual_seed(2**40 + seed)
    p = sampler.sample(tested_on, points, generator=fresh)
    order = torch.rand(tested_on, points, generator=fresh, device=device).argsort(-1)
    with torch.no_grad():
        scale = p.ys.square().mean()
        errors = (model.rollout(p.xs, p.hidden, p.ys) - p.ys).square().mean(0) / scale
        # the same with the activations of other examples before the last one
        strange = [_reorder(state, order) for state in p.hidden]
        broken = (model.rollout(p.xs, strange, p.ys) - p.ys).square().mean(0) / scale
        whole = _shuffled(model, p, order) if predicts else {}
    found = zip(errors.tolist(), broken.tolist(), strict=True)
    return [whole | {"position": i + 1, "risk": risk, "risk_shuffled": other} for i, (risk, other) in enumerate(found)]


def _shuffled(model: CoTPromptModel, p: Prompts, order: Tensor) -> Row:
    """By how much the losses of the first step and the last rise where tokens of other steps, or of their own, are put
    in another order, the targets as they were. A step that is filtered does not see those of the others."""
    strange = [_reorder(state, order) for state in p.hidden]
    plain = model(p.xs, p.hidden, p.ys)
    xs = model(_reorder(p.xs, order), p.hidden, p.ys)  # input of the first step
    ys = model(p.xs, p.hidden, _reorder(p.ys[..., None], order)[..., 0])  # output of the last, here never the target
    inputs = model(p.xs, strange, p.ys)  # input of the last
    reverse = model(p.xs, [state.flip(1) for state in p.hidden], p.ys)
    return {
        "first_by_others": (ys - plain)[0].item(), "first_by_own": (xs - plain)[0].item(),
        "last_by_others": (xs - plain)[-1].item(), "last_by_own": (inputs - plain)[-1].item(),
        "last_by_own_reversed": (reverse - plain)[-1].item(),
    }  # fmt: skip


def _reorder(values: Tensor, order: Tensor) -> Tensor:
    """Examples in another order, (B, N, m), by order (B, N)."""
    return values.gather(1, order[..., None].expand_as(values))
