"""Without a transformer: one step filtered by attention; a network learned step by step, and from its ends alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import MLPTasks
from assay.icl.cot_filter import filter_attention, filter_step, step_pairs
from assay.icl.layerwise_fit import layerwise_in_context_fit
from assay.lab import Row
from assay.lab.training import train


def filtering(*, d: int, k: int, layers: int, examples: int, prompts: int, sharpness: float, seed: int) -> Row:
    """Attention filters every step of a prompt; what is left is learned by least squares. Errors in the mean square
    over that of y, the median over prompts, on the last 20 points, which no prompt shows."""
    per_example, width = layers + 1, max(d, k)
    shown, hidden, unseen = _split(d, k, layers, examples, prompts, 20, seed)
    parts = [nn.functional.pad(one, (0, width - one.shape[-1])) for one in (shown.xs, *hidden, shown.ys[..., None])]
    prompt = torch.stack(parts, dim=2).flatten(1, 2)  # x, s_1, ..., y, x, ...

    def attend(step: int, sharpness: float) -> Tensor:
        return filter_attention(prompt.shape[1], step, per_example, sharpness=sharpness)[:, 1:] @ prompt

    def learned(shift: int) -> float:
        """Each step from what is left by the filter of the step `shift` behind it."""
        left = [attend((step - 1 + shift) % layers + 1, sharpness) for step in range(1, layers + 1)]
        pairs = [step_pairs(one, step, per_example) for step, one in enumerate(left, start=1)]
        outputs = [after.clamp(min=0)[..., :k] for _, after in pairs[:-1]]
        fit = layerwise_in_context_fit(pairs[0][0][..., :d], outputs, pairs[-1][1][..., 0], unseen.xs)
        return _median_error(fit.predictions, unseen.ys)

    steps = range(1, layers + 1)
    largest = prompt.abs().max()
    wanted = {step: filter_step(prompt, step, per_example) for step in steps}
    return {
        "error": max(((attend(s, sharpness) - wanted[s]).abs().max() / largest).item() for s in steps),
        "error_blunt": max(((attend(s, 1.0) - wanted[s]).abs().max() / largest).item() for s in steps),
        "learned": learned(0),
        "learned_other_step": learned(1),
    }


def risk(
    *, d: int, k: int, examples: int, prompts: int, restarts: int, steps: int, lr: float, seed: int, device: str
) -> Row:
    """Error on 200 unseen points of one's own prompt, in units of the variance of y, the median over prompts: with the
    hidden activations, with them in another order, and without them; this also for each half of the prompts.
    O(prompts restarts steps examples d k)."""
    shown, hidden, unseen = _split(d, k, 2, examples, prompts, 200, seed)
    order = torch.rand(prompts, examples, generator=torch.Generator().manual_seed(2**41 + seed)).argsort(-1)
    shuffled = [state.gather(1, order[..., None].expand_as(state)) for state in hidden]
    fits = {"step_by_step": hidden, "shuffled": shuffled}
    found = {name: layerwise_in_context_fit(shown.xs, one, shown.ys, unseen.xs) for name, one in fits.items()}
    errors = {name: _median_error(fit.predictions, unseen.ys) for name, fit in found.items()}
    answers = _direct(shown, unseen.xs, 2 * k, restarts, steps, lr, seed, device)
    whole = found["step_by_step"].identified[0].double().mean().item()
    halves = {
        "direct": slice(None),
        "direct_first_half": slice(prompts // 2),
        "direct_other_half": slice(prompts // 2, None),
    }
    errors |= {name: _median_error(answers[part], unseen.ys[part]) for name, part in halves.items()}
    return errors | {"identified": whole}


class StackedMLPs(nn.Module):
    """Independent networks `<relu(x W), v>`, one for each of M prompts: (M, N, d) -> (M, N)."""

    def __init__(self, num_networks: int, d: int, neurons: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(num_networks, d, neurons) / math.sqrt(d))
        self.v = nn.Parameter(torch.randn(num_networks, neurons, 1) / math.sqrt(neurons))

    def forward(self, xs: Tensor) -> Tensor:
        return (torch.relu(xs @ self.w) @ self.v)[..., 0]


def _direct(
    shown: Prompts, queries: Tensor, neurons: int, restarts: int, steps: int, lr: float, seed: int, device: str
) -> Tensor:
    """Answers (B, Q) of a network of so many neurons trained by Adam on the pairs of each prompt: the restart that fits
    them best."""
    xs, ys = (one.float().to(device).repeat_interleave(restarts, dim=0) for one in (shown.xs, shown.ys))
    model = StackedMLPs(len(xs), xs.shape[-1], neurons).to(device)

    def losses(model: nn.Module) -> Tensor:
        error: Tensor = (model(xs) - ys).square()
        return error.mean(-1)

    train(model, lambda _: None, steps=steps, seed=seed, loss=lambda model, _: losses(model).sum(), lr=lr,
          weight_decay=0.0, clip=math.inf)  # fmt: skip
    with torch.no_grad():
        best = losses(model).unflatten(0, (-1, restarts)).argmin(-1)
        answers = model(queries.float().to(device).repeat_interleave(restarts, dim=0)).unflatten(0, (-1, restarts))
    return answers[torch.arange(len(best)), best].cpu()


def _split(
    d: int, k: int, layers: int, examples: int, prompts: int, unseen: int, seed: int
) -> tuple[Prompts, list[Tensor], Prompts]:
    """Prompts, their hidden activations, and further points of the same tasks. The networks are the same for any number
    of examples."""
    tasks = MLPTasks(d, k, layers=layers)
    drawn = InContext(tasks, GaussianInputs(), dtype=torch.float64).sample(
        prompts, examples + unseen, generator=torch.Generator().manual_seed(seed)
    )
    ends = (slice(None, examples), slice(examples, None))
    shown, other = (Prompts(drawn.xs[:, at], drawn.ys[:, at], drawn.clean[:, at], drawn.tasks) for at in ends)
    return shown, [state[:, :examples] for state in drawn.hidden], other


def _median_error(answers: Tensor, truth: Tensor) -> float:
    return ((answers - truth).square().mean(-1) / truth.square().mean(-1)).median().item()
