"""What `effective_state_size` distils: trained layers of much and of little ESS, into smaller states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor

from assay.lab import Check, Claim, Row, Unit, grid, mark, plot, spearman
from assay.lab.distillation import distil, entering
from assay.lab.training import token_accuracy, train
from assay.nn import GLA
from assay.studies.memory._ess_collapse import Task, make_model, middle_ess


def distilled(
    *, beta: float, heads: int, width: int, state: int, students: tuple[int, ...], task: tuple[int, ...],
    steps: int, lr: float, operator_steps: int, output_steps: int, distil_lr: float, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """A layer of GLA that was trained to recall, distilled into layers with smaller states: the errors after both
    steps, and the model's accuracy with the student in the teacher's place."""
    data = Task(*task)
    model = make_model("ess-gla", data, width, heads, state * heads // width, beta=beta).to(device)
    train(model, data.draw_batch, steps=steps, seed=seed, lr=lr)
    test = data.draw(256, torch.Generator(device).manual_seed(2**40 + seed))
    teacher: Any = model.layers[-1].mixer
    with torch.no_grad():
        norm = teacher.operator(entering(model, teacher, test.inputs[:8])).to_dense().norm()
    known = {"beta": beta, "ess": middle_ess(model, test), "norm": norm, "tss": state}
    known["teacher_accuracy"] = token_accuracy(model, test)

    def enters(generator: torch.Generator) -> Tensor:
        return entering(model, teacher, data.draw(4, generator).inputs)

    rows: list[Row] = []
    for size in students:
        student = GLA(width, num_heads=heads, expand_k=size * heads // width, beta=beta).to(device)
        errors = distil(
            teacher, student, enters, seed=seed, operator_steps=operator_steps, output_steps=output_steps, lr=distil_lr
        )
        model.layers[-1].mixer = student
        row = known | {"student": size, "student_ess": middle_ess(model, test), "accuracy": token_accuracy(model, test)}
        rows.append(row | {"operator_error": errors[1]["operator_error"], "output_error": errors[2]["output_error"]})
        model.layers[-1].mixer = teacher
    return rows


def follows(rows: pd.DataFrame, known: str, lost: str, student: int) -> float:
    """Rank correlation of what is known of the teachers with what students of one size lose."""
    own = rows[rows.student == student]
    return spearman(own[known], own.teacher_accuracy - own.accuracy if lost == "accuracy" else own[lost])


def distance(rows: pd.DataFrame, student: int) -> float:
    """How far the ESS of students of a size is from their teacher's, mean over teachers, relative."""
    own = rows[rows.student == student]
    return float(((own.student_ess - own.ess).abs() / own.ess).mean())


CLAIMS = (
    Claim(
        "student-nears-teacher",
        "The larger the student's state, the nearer its ESS comes to the teacher's.",
        source="section on distillation",
        experiment=distilled,
        checks=(
            Check("relative distance of ESS, smallest student less largest",
                  lambda rows: distance(rows, rows.student.min()) - distance(rows, rows.student.max()), ">", 0),
            Check("largest student: relative distance", lambda rows: distance(rows, rows.student.max()), "<=", 0.2),
        ),
        controls=(
            Check("smallest student: relative distance", lambda rows: distance(rows, rows.student.min()), "<=", 0.2),
        ),
    ),
    Claim(
        "trained-distillation",
        "The more ESS a trained layer has, the more is lost when it is distilled into a state that is too small.",
        source="section on distillation; here GLA by decays, in place of layers and checkpoints",
        experiment=distilled,
        checks=(
            Check("smallest student: rank correlation of the teacher's ESS and the error of the operator",
                  lambda rows: follows(rows, "ess", "operator_error", rows.student.min()), ">=", 0.5),
            Check("smallest student: rank correlation of the teacher's ESS and the accuracy that is lost",
                  lambda rows: follows(rows, "ess", "accuracy", rows.student.min()), ">=", 0.5),
        ),
        controls=(
            Check("smallest student: rank correlation of the teacher's TSS and the error of the operator",
                  lambda rows: follows(rows, "tss", "operator_error", rows.student.min()), ">=", 0.5),
            Check("largest student, for which every teacher's ESS is small: that of ESS and the accuracy that is lost",
                  lambda rows: follows(rows, "ess", "accuracy", rows.student.max()), ">=", 0.5),
        ),
    ),
)  # fmt: skip


class DistilledConfig(BaseModel):
    """Fields of the study's config."""

    teacher_betas: list[PositiveFloat] = Field(
        default=[1, 4, 16, 64], description="of GLA that is trained and distilled"
    )
    teacher_heads: int = Field(default=8, ge=1, description="of these layers and of their students")
    teacher_width: int = Field(default=32, ge=2, description="of these layers")
    teacher_state: int = Field(default=32, ge=2, description="TSS of these layers")
    students: list[PositiveInt] = Field(default=[4, 16], description="TSS of their students")
    teacher_pairs: int = Field(default=16, ge=4, description="that these layers recall, in 4 times as many tokens")
    teacher_vocab: int = Field(default=64, ge=10, description="tokens of these")
    teacher_batch: int = Field(default=16, ge=1, description="sequences of all these pairs in a step")
    teacher_steps: int = Field(default=300, ge=1, description="of training these layers")
    teacher_lr: float = Field(default=2e-2, gt=0, description="learning rate of these layers")
    operator_steps: int = Field(default=60, ge=1, description="of distillation, towards the operator")
    output_steps: int = Field(default=150, ge=1, description="of distillation, towards the output")
    distil_lr: float = Field(default=1e-2, gt=0, description="learning rate of distillation")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"teacher_betas": []},
    "laptop": {},
    "paper": {
        "teacher_width": 128, "teacher_state": 256, "students": [16, 32, 64, 128], "teacher_pairs": 128,
        "teacher_vocab": 8192, "teacher_batch": 64, "teacher_steps": 140_000, "teacher_lr": 2e-3,
        "operator_steps": 800, "output_steps": 3200, "distil_lr": 1e-3,
    },
}  # fmt: skip


def units(config: DistilledConfig) -> Iterator[Unit]:
    task = Task(config.teacher_pairs, 4, config.teacher_vocab, config.teacher_batch)
    yield from grid(
        distilled, beta=config.teacher_betas, heads=config.teacher_heads, width=config.teacher_width,
        state=config.teacher_state, students=tuple(config.students), task=tuple(task), steps=config.teacher_steps,
        lr=config.teacher_lr, operator_steps=config.operator_steps, output_steps=config.output_steps,
        distil_lr=config.distil_lr,
    )  # fmt: skip


def figures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of the rows of all experiments; none where nothing was distilled."""
    own = rows[rows.experiment == "distilled"]
    if own.empty:
        return []
    own = own.astype({"student": int}).astype({"student": str})
    return [
        plot("What distillation loses", mark("dot", own, x="ess", y="operator_error", stroke="student"),
             x={"label": "ESS of the teacher"}, y={"label": "relative error of the operator"},
             color={"legend": True, "label": "state of the student"})
    ]  # fmt: skip
