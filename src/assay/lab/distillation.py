"""A mixer distilled into a smaller one, in two steps: first its operator, then its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.lab.training import train
from assay.nn import Mixer

if TYPE_CHECKING:
    from assay.lab.study import Row


def distil(
    teacher: Mixer,
    student: Mixer,
    draw: Callable[[torch.Generator], Tensor],
    *,
    seed: int,
    operator_steps: int = 800,
    output_steps: int = 3200,
    lr: float = 1e-3,
) -> list[Row]:
    """Train `student` in place to do what `teacher` does; the errors before, between and after the two steps.

    1. `operator_steps` of `operator_error`: the student's A, B and C learn T.
    2. `output_steps` of `output_error`: all of it learns what the layer puts out.

        student = GLA(64, num_heads=4)
        distil(teacher, student, lambda generator: entering(model, teacher, tokens(generator)), seed=0)

    Args:
        teacher: stays as it is.
        student: a mixer with as many heads; it may be of another class, and have a smaller state.
        draw: inputs of the layer, (B, L, d_model), made with a generator on the student's device.
        lr: of AdamW without weight decay, with the schedule of `train`, in each of the steps.

    Each row has `stage` ("start", "operator", "output"), and `operator_error` and `output_error` on one more draw.
    Source: Parnichkun et al. 2025 (arXiv 2504.19561), whose steps, rates and numbers of steps are the defaults; they
    train on one sequence at a time, and the student with dropout.
    Raises `InputError` where teacher and student have not the same number of heads.
    """
    device = next(student.parameters()).device
    held_out = draw(torch.Generator(device).manual_seed(2**40 + seed))
    training, frozen = teacher.training, [p for p in teacher.parameters() if p.requires_grad]
    teacher.eval().requires_grad_(False)
    rows = [_errors("start", teacher, student, held_out)]
    try:
        for stage, error, steps in (
            ("operator", operator_error, operator_steps),
            ("output", output_error, output_steps),
        ):
            train(student, draw, steps=steps, seed=seed, lr=lr, weight_decay=0, loss=_against(teacher, error))
            rows.append(_errors(stage, teacher, student, held_out))
    finally:
        teacher.train(training)
        for parameter in frozen:
            parameter.requires_grad_(True)
    return rows


def operator_error(teacher: Mixer, student: Mixer, x: Tensor) -> Tensor:
    """`||T_s - T_t||_F^2 / ||T_t||_F^2` for the inputs x, (B, L, d_model), over all sequences and heads: a scalar.

    O(L^2 N) for recurrences. Raises `InputError` where they have not the same number of heads.
    """
    ours, theirs = student.operator(x), teacher.operator(x)
    if ours.batch_shape != theirs.batch_shape:
        raise InputError(
            f"student has {ours.batch_shape[-1]} heads, and the teacher {theirs.batch_shape[-1]}; "
            "expected the same number, since each operator is compared with one"
        )
    return _relative(ours.to_dense(), theirs.to_dense())


def output_error(teacher: Mixer, student: Mixer, x: Tensor) -> Tensor:
    """`||y_s - y_t||^2 / ||y_t||^2` for the inputs x, (B, L, d_model), over all sequences: a scalar."""
    return _relative(student(x), teacher(x))


@torch.no_grad()
def entering(model: nn.Module, mixer: nn.Module, *inputs: Any) -> Tensor:
    """What enters `mixer`, (B, L, d_model), when the model that it is part of runs on `inputs`. Without gradients.

    Raises `InputError` where `mixer` does not run, as one that is no part of the model.
    """
    found: list[Tensor] = []
    hook = mixer.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        model(*inputs)
    finally:
        hook.remove()
    if not found:
        raise InputError(f"mixer is a {type(mixer).__name__} that did not run; expected a part of the model")
    return found[0]


def _relative(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().sum() / theirs.square().sum()


def _against(teacher: Mixer, error: Callable[[Mixer, Mixer, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    def loss(student: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(student, Mixer)
        return error(teacher, student, x)

    return loss


@torch.no_grad()
def _errors(stage: str, teacher: Mixer, student: Mixer, x: Tensor) -> Row:
    return {
        "stage": stage,
        "operator_error": operator_error(teacher, student, x).item(),
        "output_error": output_error(teacher, student, x).item(),
    }
