"""The training loop: against one written in the plain way, against torch's own schedules, and against being killed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from assay import InputError
from assay.lab.training import logits_at, schedule, token_accuracy, token_loss, train
from assay.models import Backbone, BackboneConfig

VOCAB = 11


class Batch(NamedTuple):
    inputs: Tensor
    targets: Tensor


def draw(generator: torch.Generator) -> Batch:
    """The target is the token before; a third of the positions have none."""
    tokens = torch.randint(VOCAB, (4, 8), generator=generator)
    targets = tokens.roll(1, 1)
    targets[torch.rand(4, 8, generator=generator) < 1 / 3] = -100
    return Batch(tokens, targets)


def make(dropout: float = 0.0, *, backbone: bool = False) -> nn.Module:
    torch.manual_seed(7)
    if backbone:
        return Backbone(
            BackboneConfig("attention", vocab_size=VOCAB, d_model=8, mixers={"attention": {"num_heads": 1}})
        )
    return nn.Sequential(nn.Embedding(VOCAB, 8), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, VOCAB))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def stop_at(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["step"] >= step


def naive_loss(model: nn.Module, batch: Batch) -> Tensor:
    """All logits, and a loop over the targets."""
    output = model(batch.inputs)
    logits = getattr(output, "logits", output)
    terms = [
        -torch.log_softmax(logits[row, column], -1)[batch.targets[row, column]]
        for row, column in (batch.targets != -100).nonzero().tolist()
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("backbone", [False, True])
def test_loss_gradients_and_accuracy_are_those_of_all_logits(backbone: bool) -> None:
    model, batch = make(backbone=backbone).double(), draw(torch.Generator().manual_seed(0))
    found, expected = token_loss(model, batch), naive_loss(model, batch)
    parameters = list(model.parameters())
    for mine, naive in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(mine, naive, atol=1e-7)  # the loss itself is computed in float32
    assert math.isclose(found.item(), expected.item(), rel_tol=1e-6)

    output = model(batch.inputs)
    logits = getattr(output, "logits", output)
    asked = batch.targets != -100
    assert torch.allclose(logits_at(model, batch.inputs, asked), logits[asked], atol=1e-12)
    right = [
        int(logits[row, column].argmax() == batch.targets[row, column]) for row, column in asked.nonzero().tolist()
    ]
    assert token_accuracy(model, batch) == sum(right) / len(right)
    shifted = Batch(batch.inputs, batch.targets.roll(1, 0))  # the control
    assert abs(token_loss(model, shifted).item() - expected.item()) > 1e-3


def test_it_is_the_plain_loop() -> None:
    """AdamW with clipping, and torch's own linear and cosine schedules."""
    steps, clip = 20, 0.5
    model, plain = make(), make()
    rows = train(model, draw, steps=steps, seed=3, lr=0.02, weight_decay=0.3, warmup=0.25, clip=clip, every=5)

    optimizer = AdamW(plain.parameters(), 0.02, weight_decay=0.3)
    rates = [LinearLR(optimizer, 1 / 5, total_iters=4), CosineAnnealingLR(optimizer, steps)]
    losses, norms = [], []
    for step in range(steps):
        loss = naive_loss(plain, draw(torch.Generator().manual_seed(3 * 1_000_003 + step)))
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(value.grad.square().sum().item() for value in plain.parameters()))
        for value in plain.parameters():
            value.grad *= min(1.0, clip / (norm + 1e-6))
        optimizer.step()
        for rate in rates:
            rate.step()
        losses.append(loss.item())
        norms.append(norm)

    assert torch.allclose(weights(model), weights(plain), atol=2e-6)
    assert max(norms) > clip  # the control: it was clipped, and the rates matter
    for other in ({"clip": 100.0}, {"warmup": 0.5}, {"lr": 0.021}, {"weight_decay": 0.0}, {"seed": 4}):
        settings = {"seed": 3, "lr": 0.02, "weight_decay": 0.3, "warmup": 0.25, "clip": clip} | other
        train(changed := make(), draw, steps=steps, **settings)
        assert not torch.allclose(weights(changed), weights(plain), atol=1e-4), other
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20]
    assert rows[0]["loss"] is None
    means = [sum(losses[start : start + 5]) / 5 for start in (0, 5, 10, 15)]
    assert [row["loss"] for row in rows[1:]] == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.25), (7, 0.0), (1, 0.1), (10, 1.0)])
def test_the_schedule_is_that_of_torch(steps: int, warmup: float) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = max(1, round(warmup * steps))
    rates = [LinearLR(optimizer, 1 / rise, total_iters=rise - 1)] if rise > 1 else []
    rates += [CosineAnnealingLR(optimizer, steps)]
    for step in range(steps):
        assert math.isclose(schedule(step, steps, warmup), optimizer.param_groups[0]["lr"], rel_tol=1e-9)
        optimizer.step()
        for rate in rates:
            rate.step()


def test_a_seed_decides_everything_and_the_generators_outside_do_not() -> None:
    runs = []
    for seed, outside in ((0, 1), (0, 2), (1, 1)):
        model = make(dropout=0.5)
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        rows = train(model, draw, steps=6, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append((weights(model), rows))

    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize("optimizer", ["adamw", "two"])
def test_resumed_from_a_checkpoint_it_is_the_same_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    """With dropout, weight decay and momentum. The run ends after each of its rows in turn."""

    def run(file: Path | None, stop: int) -> tuple[Tensor, list[dict[str, Any]]]:
        model = make(dropout=0.5)
        parts = (
            None
            if optimizer == "adamw"
            else [AdamW(model[0].parameters(), 0.01), SGD(model[1:].parameters(), 0.1, momentum=0.9)]
        )
        rows = train(
            model,
            draw,
            steps=9,
            seed=2,
            every=3,
            optimizers=parts,
            stop=stop_at(stop),
            checkpoint=file,
            measure=lambda model: {"norm": weights(model).norm().item(), "training": model.training},
        )
        assert model.training
        return weights(model), rows

    whole, rows = run(None, 9)
    file = tmp_path / "model.safetensors"
    for stop in (0, 3, 6, 9):
        weights_then, rows_then = run(file, stop)
        assert rows_then == rows[: stop // 3 + 1]
    assert torch.equal(weights_then, whole)
    assert torch.equal(run(file, 9)[0], whole)  # finished: nothing is trained
    assert not any(row["training"] for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_run_that_stops_between_rows_goes_on_from_the_last(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    calls = []

    def dying(generator: torch.Generator) -> Batch:
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return draw(generator)

    with pytest.raises(KeyboardInterrupt):
        train(make(), dying, steps=8, seed=0, every=2, checkpoint=file)
    rows = train(resumed := make(), dying, steps=8, seed=0, every=2, checkpoint=file)
    expected = train(whole := make(), draw, steps=8, seed=0, every=2)

    assert torch.equal(weights(resumed), weights(whole))
    assert rows == expected
    assert len(calls) == 6 + 4  # from step 4 on


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    train(make(), draw, steps=2, seed=0, checkpoint=file)
    kept = shutil.copy(file, tmp_path / "kept")
    for other in ({"seed": 1}, {"steps": 3}, {"lr": 1e-3}, {"clip": 2.0}, {"warmup": 0.2}, {"every": 1}):
        with pytest.raises(InputError, match="is of another model or other settings; remove it"):
            train(make(), draw, **({"steps": 2, "seed": 0} | other), checkpoint=file)
    with pytest.raises(InputError, match="is of another model or other settings"):
        train(nn.Sequential(nn.Embedding(VOCAB, VOCAB)), draw, steps=2, seed=0, checkpoint=file)
    assert file.read_bytes() == Path(kept).read_bytes()


def test_it_stops_when_a_row_is_good_enough_and_when_the_loss_is_not_finite() -> None:
    every = train(make(), draw, steps=50, seed=0, every=5, lr=0.05)
    enough = every[4]["loss"]
    first = next(index for index, row in enumerate(every) if index and row["loss"] <= enough)
    rows = train(make(), draw, steps=50, seed=0, every=5, lr=0.05, stop=lambda row: (row["loss"] or 9) <= enough)
    assert rows == every[: first + 1]
    assert first < len(every) - 1

    calls = []

    def breaking(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(0)
        return token_loss(model, batch) * (math.inf if len(calls) == 4 else 1)

    rows = train(make(), draw, steps=50, seed=0, every=5, loss=breaking)
    assert [row["step"] for row in rows] == [0, 5]
    assert math.isnan(rows[-1]["loss"])
    assert len(calls) == 5


def test_what_is_not_trained_stays_and_does_not_count() -> None:
    """The gradient of a part that no optimizer has is not piled up from step to step: that would shrink all steps."""
    model, frozen = make(), make()
    frozen[0].requires_grad_(False)
    for one in (model, frozen):
        parts = [SGD(one[2:].parameters(), 0.1)]
        train(one, draw, steps=10, seed=0, clip=100.0, optimizers=parts)
    assert torch.equal(weights(model), weights(frozen))

    norms = []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        norms.append(
            max((value.grad.norm().item() for value in model.parameters() if value.grad is not None), default=0)
        )
        return token_loss(model, batch)

    train(model, draw, steps=3, seed=0, optimizers=[SGD(model[2:].parameters(), 0.1)], loss=watched)
    assert norms == [0, 0, 0]


def test_a_module_that_is_no_backbone_may_return_logits_by_name() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make()

        def forward(self, tokens: Tensor) -> Any:
            return type("Named", (), {"logits": self.inner(tokens)})

    train(named := Output(), draw, steps=4, seed=0)
    train(plain := make(), draw, steps=4, seed=0)
    assert torch.equal(weights(named), weights(plain))


def test_a_backbone_learns() -> None:
    model = make(backbone=True)
    rows = train(model, draw, steps=30, seed=0, lr=0.02, every=15)

    assert rows[2]["loss"] < rows[1]["loss"] - 0.02


def test_bfloat16_computes_the_loss_under_autocast() -> None:
    seen = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(model(batch.inputs).dtype)
        return token_loss(model, batch)

    train(half := make(), draw, steps=3, seed=0, loss=loss, precision="bfloat16")
    train(whole := make(), draw, steps=3, seed=0, loss=loss)
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3
    assert {value.dtype for value in half.parameters()} == {torch.float32}
    assert not torch.equal(weights(half), weights(whole))
    assert torch.allclose(weights(half), weights(whole), atol=0.02)


def test_compiled_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the code that torch makes is right is torch's to test: here the graphs run as they are."""
    compiled = []

    def eager(self: nn.Module) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", eager)
    train(fast := make(), draw, steps=3, seed=0, compiled=True)
    train(plain := make(), draw, steps=3, seed=0)
    assert compiled == [fast]
    assert torch.allclose(weights(fast), weights(plain), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1, "every": 0}])
def test_wrong_numbers_are_named(wrong: dict[str, int]) -> None:
    name = "every" if "every" in wrong else "steps"
    with pytest.raises(InputError, match=f"{name} is 0; expected at least 1"):
        train(make(), draw, seed=0, **wrong)
