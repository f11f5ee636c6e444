"""What `effective_state_size` runs on state modulation: whether a model lets go of its state where a document ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, Field, PositiveFloat
from torch import Tensor

from assay.data import mqar_stream, python_help
from assay.data.stream import Stream
from assay.lab import Check, Claim, Row, Unit, grid, mark, plot
from assay.lab.training import token_accuracy, train
from assay.measures.modulation import delimiter_fall, positions_needed
from assay.measures.state_size import tolerance_ess
from assay.models import Backbone, BackboneConfig
from assay.models.load import load
from assay.models.trace import MixerTrace, trace
from assay.nn import BaseConv
from assay.operators import SequenceOperator
from assay.studies.memory._ess_recall import operators

TOLERANCE = 0.1  # of the largest singular value of the head in the sequence


def trained_modulation(
    *, mixer: str, forgetting: bool, state: int, width: int, pattern: str, pairs: int, vocab_size: int, steps: int,
    batch: int, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """Streams of four documents of recall, to be forgotten or not: accuracy, the mean fall of ESS at the end of a
    document, and the mean ESS along the stream. Documents to be forgotten have the same keys with other values, and a
    separator between them; the others have keys of their own and no separator."""

    def draw(examples: int, generator: torch.Generator) -> Stream:
        return mqar_stream(
            examples, document_len=4 * pairs, num_kv_pairs=pairs, conflicting=forgetting, separated=forgetting,
            vocab_size=vocab_size, power_a=0.1, generator=generator,
        )  # fmt: skip

    name = f"ess-{mixer.lower()}"
    mixers = {name: {"num_heads": width // state}}
    layers = pattern.format(mixer=name)
    model = Backbone(BackboneConfig(layers, vocab_size=vocab_size, d_model=width, mixers=mixers, mlp_ratio=2))
    train(model.to(device), lambda generator: draw(batch, generator), steps=steps, seed=seed, lr=5e-3)
    test = draw(128, torch.Generator(device).manual_seed(2**40 + seed))
    ends = (test.boundaries - int(not forgetting)).tolist()  # the separator, or the last token of a document
    with torch.no_grad():
        found = [T for mixer, T in operators(model, test.inputs[:16]) if not isinstance(mixer, BaseConv)]
    curves = torch.stack([_along(T, range(1, T.length)).mean(1) for T in found]).flatten(
        0, 1
    )  # (layers * batch, L - 1)
    curves = torch.nn.functional.pad(curves, (1, 0))
    fall = torch.tensor([delimiter_fall(curve, ends).mean() for curve in curves.numpy()]).mean()
    streams = "to forget" if forgetting else "nothing to forget"
    known = {"mixer": mixer, "streams": streams, "fall": fall, "accuracy": token_accuracy(model, test)}
    return [known | {"position": i, "ess": ess} for i, ess in enumerate(curves.mean(0).tolist())]


def document_ends(*, model: str, texts: int, words: int, tolerances: tuple[float, ...], device: str) -> list[Row]:
    """The mean fall of a language model's ESS where one of four unrelated passages ends and the next begins: with its
    end-of-text token between them, with a period, and with nothing. Passages are of the help that comes with Python.

    Raises `ModelError` where the model cannot be opened, such as one of the hub without a network.
    """
    loaded = load(model, device=device)
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    separators: dict[str, list[int]] = {
        "end of text": [tokenizer.eos_token_id],
        "period": tokenizer.encode(".", add_special_tokens=False)[-1:],
        "nothing": [],
    }
    falls: dict[tuple[str, float], list[float]] = {}
    for _ in range(texts):
        passages = [tokenizer.encode(text, add_special_tokens=False) for text in passages_of(4, words)]
        for name, separator in separators.items():
            ids, ends = joined(passages, separator, start=tokenizer.eos_token_id)
            for tolerance, curve in total_ess(loaded.model, ids, ends, tolerances).items():
                falls.setdefault((name, tolerance), []).extend(delimiter_fall(curve, ends).tolist())
    return [
        {"model": model, "separator": name, "tolerance": tolerance, "fall": sum(values) / max(1, len(values))}
        for (name, tolerance), values in falls.items()
    ]


def passages_of(count: int, words: int) -> list[str]:
    """Passages of so many words from different help topics, chosen at random."""
    topics = [topic for text in python_help() if len(topic := text.split()) > words]
    chosen = [topics[k] for k in torch.randperm(len(topics))[:count].tolist()]
    starts = [int(torch.randint(len(topic) - words, ())) for topic in chosen]
    return [" ".join(topic[start : start + words]) for topic, start in zip(chosen, starts, strict=True)]


def joined(passages: Sequence[Sequence[int]], separator: Sequence[int], *, start: int) -> tuple[list[int], list[int]]:
    """The tokens of passages with a separator between them, after the token `start`; and the last token of each but the
    last passage, with its separator.

    >>> joined([[5, 6], [7]], [1], start=0)
    ([0, 5, 6, 1, 7], [3])
    >>> joined([[5, 6], [7]], [], start=0)
    ([0, 5, 6, 7], [2])
    """
    ids, ends = [start], []
    for number, passage in enumerate(passages):
        ids += passage
        if number < len(passages) - 1:
            ids += separator
            ends.append(len(ids) - 1)
    return ids, ends


def total_ess(
    model: torch.nn.Module, ids: Sequence[int], ends: Sequence[int], tolerances: Sequence[float]
) -> dict[float, Tensor]:
    """Tolerance-ESS along the tokens, summed over layers and heads, (L,), for each tolerance; NaN where it is not
    needed for its fall at the tokens `ends`."""
    where = sorted({position for one in positions_needed(len(ids), ends) for position in one[1:]})
    curves = {tolerance: torch.full((len(ids),), torch.nan, dtype=torch.float64) for tolerance in tolerances}
    for curve in curves.values():
        curve[where] = 0

    def on_mixer(found: MixerTrace) -> None:
        if found.reading is not None:
            sigma = found.reading.operator.hankel_singular_values(where)[0]
            for tolerance, curve in curves.items():
                curve[where] += tolerance_ess(sigma, tolerance).sum(0).cpu()

    trace(model, torch.tensor([list(ids)], device=next(model.parameters()).device), on_mixer=on_mixer)
    return curves


def _along(T: SequenceOperator, positions: Sequence[int]) -> Tensor:
    """Tolerance-ESS relative to the largest singular value at any of the positions, (B, H, P), on the CPU: operators of
    linear attention have any scale."""
    sigma = T.hankel_singular_values(positions)
    largest = sigma.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(sigma.dtype).tiny)
    return tolerance_ess(sigma / largest, TOLERANCE).double().cpu()


def fall_of(rows: pd.DataFrame, mixer: str, streams: str) -> float:
    return float(rows[(rows.mixer == mixer) & (rows.streams == streams)].fall.iloc[0])


def beyond_la(rows: pd.DataFrame, streams: str) -> float:
    return fall_of(rows, "GLA", streams) - fall_of(rows, "LA", streams)


def fall_at(rows: pd.DataFrame, model: str, separator: str) -> float:
    """At the tolerance from which on the paper sees the modulation of such a model, as far as it was used."""
    own = rows[(rows.model == model) & (rows.separator == separator)]
    return float(own[own.tolerance == VISIBLE[model][0]].fall.iloc[0])


def lost_by_period(rows: pd.DataFrame, model: str) -> float:
    """The part of the fall at end of text that is not there at a period."""
    return 1 - fall_at(rows, model, "period") / fall_at(rows, model, "end of text")


ATTENTION, MAMBA = "builtin:attention", "builtin:mamba"
VISIBLE = {ATTENTION: (0.1, 0.02), MAMBA: (1.0, 0.5)}  # tolerance, and least fall


def falls_at_end(model: str) -> Claim:
    least = VISIBLE[model][1]
    return Claim(
        f"document-ends-{model.removeprefix('builtin:')}",
        f"{model} lets go of some of its state at an end-of-text token.",
        source="section on state modulation in language models, here on a model of a million parameters",
        experiment=document_ends,
        checks=(Check("fall of ESS at end of text", lambda rows: fall_at(rows, model, "end of text"), ">=", least),),
        controls=(
            Check("fall of ESS between unrelated passages without a separator",
                  lambda rows: fall_at(rows, model, "nothing"), ">=", least),
        ),
    )  # fmt: skip


CLAIMS = (
    Claim(
        "trained-modulation",
        "Where keys come to mean something else, trained GLA empties its state at separators, more than LA.",
        source="section on state modulation, here on streams of recall",
        experiment=trained_modulation,
        checks=(
            Check("fall of ESS at separators, GLA minus LA", lambda rows: beyond_la(rows, "to forget"), ">=", 0.2),
        ),
        controls=(
            Check("the same where nothing need be forgotten", lambda rows: beyond_la(rows, "nothing to forget"),
                  ">=", 0.2),
        ),
    ),
    falls_at_end(ATTENTION),
    falls_at_end(MAMBA),
    Claim(
        "period-for-end-of-text",
        "A period in the place of the end-of-text token costs a recurrence most of its modulation, but not attention.",
        source="section on state modulation in language models, here on models of a million parameters",
        experiment=document_ends,
        checks=(
            Check(f"part of the fall of {MAMBA} that a period costs",
                  lambda rows: lost_by_period(rows, MAMBA), ">=", 0.5),
        ),
        controls=(
            Check(f"the same of {ATTENTION}", lambda rows: lost_by_period(rows, ATTENTION), ">=", 0.5),
        ),
    ),
)  # fmt: skip


class ModulationConfig(BaseModel):
    """Fields of the study."""

    stream_mixers: list[Literal["GLA", "LA", "WLA", "SA"]] = Field(
        default=["GLA", "LA"], description="trained on streams of documents"
    )
    stream_pairs: int = Field(default=4, ge=1, description="keys in each document of a stream")
    stream_steps: int = Field(default=300, ge=1, description="of training on streams")
    stream_pattern: str = Field(default="base-conv-short,{mixer}", description="layers of the models of streams")
    stream_vocab: int = Field(default=64, ge=5, description="tokens in streams")
    models: list[str] = Field(default=[ATTENTION, MAMBA], description="language models read at ends of documents")
    texts: int = Field(default=6, ge=1, description="of four passages each, read by each of these models")
    words: int = Field(default=60, ge=20, description="in each passage")
    tolerances: list[PositiveFloat] = Field(default=[0.01, 0.1, 1.0], description="of the ESS of these models")


SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"stream_mixers": [], "models": []},
    "laptop": {},
    "paper": {
        "stream_mixers": ["GLA", "LA", "SA"], "stream_pairs": 32, "stream_vocab": 8192,
        "stream_pattern": "{mixer}*2", "stream_steps": 140_000, "texts": 64,
    },
}  # fmt: skip


def units(config: ModulationConfig) -> Iterator[Unit]:
    yield from grid(
        trained_modulation, mixer=config.stream_mixers, forgetting=[True, False], state=16, width=64,
        pattern=config.stream_pattern, pairs=config.stream_pairs, vocab_size=config.stream_vocab,
        steps=config.stream_steps, batch=16,
    )  # fmt: skip
    yield from grid(
        document_ends, model=config.models, texts=config.texts, words=config.words, tolerances=tuple(config.tolerances)
    )


def figures(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Of the rows of all experiments; a figure without rows is left out."""
    found = []
    legend = {"legend": True}
    streams = rows[rows.experiment == "trained_modulation"]
    if not streams.empty:
        curve = streams[streams.streams == "to forget"].groupby(["mixer", "position"], as_index=False)[["ess"]].mean()
        found.append(
            plot("State along four documents, after training",
                 mark("line", curve, x="position", y="ess", stroke="mixer"),
                 x={"label": "position (token)"}, y={"label": "tolerance-ESS"}, color=legend)
        )  # fmt: skip
    ends = rows[rows.experiment == "document_ends"]
    if not ends.empty:
        ends = ends[
            [VISIBLE.get(model, (0.1,))[0] == tau for model, tau in zip(ends.model, ends.tolerance, strict=True)]
        ]
        fall = ends.groupby(["model", "separator"], as_index=False)[["fall"]].mean()
        found.append(
            plot("What a language model lets go of between two documents",
                 mark("barX", fall, x="fall", y="separator", fy="model", fill="separator"),
                 mark("ruleX", [0]),
                 x={"label": "fall of ESS (part of the state)"}, y={"label": None}, fy={"label": None},
                 marginLeft=90, marginRight=120)
        )  # fmt: skip
    return found
