"""The recorder: the same numbers as a direct measurement, and a training that does not notice it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from assay.measures.state_size import entropy_ess, tolerance_ess
from assay.models.recorder import ESSRecorder
from assay.nn import GLA, LA, SA
from assay.operators import DenseOperator


class Own(nn.Module):
    """A module of a user's own, which no config describes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GLA(16, num_heads=2)
        self.second = nn.ModuleDict({"mixer": SA(16, num_heads=2)})
        self.noise = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.noise(self.first(x))
        return x + self.second["mixer"](x)


class Scalars:
    """Takes what a SummaryWriter takes."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.seen[tag, global_step] = scalar_value


def own() -> Own:
    torch.manual_seed(0)
    return Own()


def descend(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(steps):
        x = torch.randn(4, 20, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_rows_are_the_mean_ess_by_singular_values_of_every_block() -> None:
    model = own()
    x = torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(0))
    with ESSRecorder(model, samples=2, tolerance=1e-2) as recorder:
        model(x)

    model.eval()
    y = x[:2] + model.first(x[:2])
    operators = {"first": model.first.operator(x[:2]), "second.mixer": model.second["mixer"].operator(y)}
    table = recorder.table().set_index("mixer")
    assert set(table.index) == set(operators)
    for path, T in operators.items():
        sigma = DenseOperator(T.to_dense().detach().double()).hankel_singular_values(range(1, 20))
        assert table.entropy_ess[path] == pytest.approx(float(entropy_ess(sigma).mean()), rel=0.02)
        assert table.tolerance_ess[path] == pytest.approx(float(tolerance_ess(sigma, 1e-2).double().mean()), rel=0.05)
    assert table.tss.to_dict() == {"first": 8, "second.mixer": pytest.approx(10)}
    assert ((table.utilisation > 0) & (table.utilisation <= 1)).all()


def test_training_is_the_same_bit_by_bit_with_dropout_and_modes_of_ones_own() -> None:
    plain, watched = own(), own()
    for model in (plain, watched):
        model.first.eval()  # a part that is kept in evaluation mode
    torch.manual_seed(1)
    descend(plain, 5)
    torch.manual_seed(1)
    with ESSRecorder(watched, every=2) as recorder:
        descend(watched, 5)

    assert sorted({row["step"] for row in recorder.rows}) == [0, 2, 4]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert watched.training
    assert not watched.first.training


def test_the_curve_shows_the_model_and_not_the_data() -> None:
    model = own()
    with ESSRecorder(model, every=1) as recorder:
        with torch.no_grad():
            for step in range(3):  # other data, the same model
                model(torch.randn(4, 20, 16, generator=torch.Generator().manual_seed(step)))
        descend(model, 3)
    first = recorder.table().query("mixer == 'first'").entropy_ess.to_numpy()

    assert (first[:4] == first[0]).all()
    assert first[5] != first[0]
    before = len(recorder.rows)
    model(torch.randn(4, 20, 16))  # closed
    assert len(recorder.rows) == before


def test_evaluation_is_not_recorded() -> None:
    model = own().eval()
    with ESSRecorder(model, every=1) as recorder:
        model(torch.randn(1, 8, 16))

    assert recorder.rows == []


def test_a_writer_is_given_every_number() -> None:
    model, writer = own(), Scalars()
    with ESSRecorder(model, every=2, writer=writer) as recorder:
        descend(model, 3)

    assert len(writer.seen) == 2 * 2 * 4  # measurements, mixers, numbers
    last = recorder.rows[-1]
    assert writer.seen["ess/second.mixer/entropy_ess", 2] == last["entropy_ess"]


def test_tensorboard_reads_the_curve(tmp_path: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = own()
    with SummaryWriter(tmp_path) as writer, ESSRecorder(model, every=2, writer=writer) as recorder:
        descend(model, 3)
    read = EventAccumulator(str(tmp_path)).Reload()

    curve = [(event.step, event.value) for event in read.Scalars("ess/first/entropy_ess")]
    rows = [row for row in recorder.rows if row["mixer"] == "first"]
    assert curve == [(row["step"], pytest.approx(row["entropy_ess"], rel=1e-6)) for row in rows]


def test_a_model_of_transformers_with_padding_and_fused_attention() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    config._attn_implementation = "sdpa"
    model = GPT2LMHeadModel(config).train()
    ids = torch.randint(1, 32, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    with ESSRecorder(model, every=1) as recorder:
        model(input_ids=ids, attention_mask=mask, labels=ids)
    with ESSRecorder(model, every=1) as first, ESSRecorder(model, every=1) as second:
        model(input_ids=ids[:1])
        del first
    with ESSRecorder(model, every=1) as cut:
        model(input_ids=ids[1:, :10])

    assert model.config._attn_implementation == "sdpa"
    assert recorder.skipped == {}
    assert list(recorder.table().mixer) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    mean = (second.table().entropy_ess + cut.table().entropy_ess) / 2  # padding is as if it were not there
    assert recorder.table().entropy_ess.tolist() == pytest.approx(mean.tolist(), rel=1e-5)


def test_a_mixer_that_lies_about_its_operator_is_skipped_with_the_reason() -> None:
    class Liar(LA):
        def to_operator(self, features: Any) -> Any:
            return super().to_operator(features._replace(C=2 * features.C))

    model = nn.Sequential(Liar(16, num_heads=2), LA(16, num_heads=2))
    with ESSRecorder(model) as recorder:
        model(torch.randn(1, 8, 16))

    assert [row["mixer"] for row in recorder.rows] == ["1"]
    assert "fidelity" in recorder.skipped["0"]


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no mixer"):
        ESSRecorder(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="every is 0"):
        ESSRecorder(own(), every=0)
    with pytest.raises(ValueError, match="samples is 0"):
        ESSRecorder(own(), samples=0)
