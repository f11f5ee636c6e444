"""Distillation: its errors written out, a student that can be the teacher, and one that is too small."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.lab.distillation import distil, entering, operator_error, output_error
from assay.nn import GLA, LA, Mixer


def noise(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 12, 16, generator=generator)


@torch.no_grad()
def test_errors_are_relative_squares_over_all_sequences_and_heads() -> None:
    torch.manual_seed(0)
    teacher, student = GLA(16, num_heads=2), GLA(16, num_heads=2)
    x = noise(torch.Generator().manual_seed(0))
    T_t, T_s = (mixer.operator(x).to_dense() for mixer in (teacher, student))
    above = sum(float((T_s[b, h] - T_t[b, h]).norm()) ** 2 for b in range(4) for h in range(2))
    below = sum(float(T_t[b, h].norm()) ** 2 for b in range(4) for h in range(2))

    assert operator_error(teacher, student, x).item() == pytest.approx(above / below, rel=1e-4)
    expected = float((student(x) - teacher(x)).norm() ** 2 / teacher(x).norm() ** 2)
    assert output_error(teacher, student, x).item() == pytest.approx(expected, rel=1e-4)
    assert operator_error(teacher, teacher, x) == 0


def test_each_step_lowers_its_own_error_and_the_teacher_stays() -> None:
    torch.manual_seed(0)
    teacher: Mixer = GLA(16, num_heads=2)
    student: Mixer = GLA(16, num_heads=2)
    before = [p.clone() for p in teacher.parameters()]
    values = student.get_submodule("W_V").weight.clone()

    rows = distil(teacher, student, noise, seed=0, operator_steps=60, output_steps=60, lr=2e-2)

    assert [row["stage"] for row in rows] == ["start", "operator", "output"]
    assert rows[1]["operator_error"] < 0.5 * rows[0]["operator_error"]
    assert rows[2]["output_error"] < 0.3 * rows[1]["output_error"]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert teacher.training
    # control: the operator has no part in the values, so its step alone must leave them
    other = GLA(16, num_heads=2)
    start = other.W_V.weight.clone()
    distil(teacher, other, noise, seed=0, operator_steps=5, output_steps=1, lr=1e-12)
    torch.testing.assert_close(other.W_V.weight, start)
    assert not torch.equal(student.get_submodule("W_V").weight, values)


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 4 heads, and the teacher 2"):
        operator_error(GLA(16, num_heads=2), LA(16, num_heads=4), torch.randn(1, 6, 16))


def test_entering_is_what_the_layer_is_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.GELU(), LA(16, num_heads=2))
    x = torch.randn(2, 6, 16)

    seen = entering(model, model[2], x)

    torch.testing.assert_close(seen, model[1](model[0](x)))
    assert not seen.requires_grad
    with pytest.raises(ValueError, match="did not run"):
        entering(model, LA(16, num_heads=2), x)
