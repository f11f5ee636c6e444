"""Tokens instead of characters: why a model that knows no context but its token comes near the entropy of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from assay.lab import Paper, Resources, Study, StudyConfig, Unit, grid, mark, plot
from assay.lab.resources import training_resources
from assay.studies.attention_theory._tok_claims import CLAIMS
from assay.studies.attention_theory._tok_dictionaries import dictionaries, hidden_chains
from assay.studies.attention_theory._tok_transformer import transformer
from assay.studies.attention_theory._tok_transformer_claims import CLAIMS as TRANSFORMER_CLAIMS

Size = Annotated[int, Field(ge=1)]
Flip = Annotated[float, Field(gt=0, lt=0.5)]


class TokenizationMarkov(Study):
    """Models over learned tokens come near the entropy rate of a Markov source; over characters they are slow to."""

    slug = "tokenization-markov"
    paper = Paper(
        "Toward a Theory of Tokenization in LLMs (An Analysis of Tokenization: Transformers under Markov Data)",
        "Rajaraman, Jiao, Ramchandran", 2024, "2404.08335", "NeurIPS"
    )  # fmt: skip
    claims = CLAIMS + TRANSFORMER_CLAIMS

    class Config(StudyConfig):
        orders: list[Size] = Field(default=[1, 2, 4], description="of the switching sources; 1, 2 and 4 are judged")
        flip: Flip = Field(default=0.1, description="probability of a flip")
        hidden_flip: Flip = Field(default=0.05, description="the same, of the chain that is read with errors")
        misread: Flip = Field(default=0.05, description="probability that a symbol of it is")
        rare_flip: Flip = Field(default=0.02, description="the same, of the source where fixed lengths do badly")
        lengths: tuple[Size, ...] = Field(default=(1, 2, 3, 5, 9), description="of fixed-length tokens")
        sizes: tuple[Size, ...] = Field(default=(8, 32, 128, 512, 2048), description="tokens in learned dictionaries")
        train_chars: Size = Field(default=200_000, description="text for a dictionary and its unigram model")
        test_chars: Size = Field(default=400_000, description="text on which they are tested")
        tokens: Size = Field(default=16, description="in the transformer's BPE dictionary")
        text_chars: Size = Field(default=400_000, description="text to train a transformer on")
        held_out_chars: Size = Field(default=20_000, description="text on which it is tested")
        width: Size = Field(default=32, description="of the transformer, a multiple of 4")
        depth: Size = Field(default=2, description="its layers")
        context: Size = Field(default=64, description="positions in a window")
        batch_chars: Size = Field(default=1024, description="characters in a step")
        steps: int = Field(default=400, ge=0, description="of training; with 0 nothing is trained")
        points: Size = Field(default=40, description="tests in the course of training")
        lrs: list[Annotated[float, Field(gt=0)]] = Field(
            default=[0.01, 0.03], description="learning rates; of each the best is taken"
        )

    scales = {
        "smoke": Config(lengths=(1, 2, 3, 5), sizes=(32, 128, 512), train_chars=60_000, test_chars=100_000,
                        steps=0),
        "laptop": Config(),
        "paper": Config(orders=[1, 2, 4, 8], train_chars=2_000_000, test_chars=500_000, text_chars=20_000_000,
                        width=256, depth=6, context=512, batch_chars=16_384, steps=8000, points=400,
                        lrs=[0.0003, 0.001]),
    }  # fmt: skip
    seconds = {"smoke": 5, "laptop": 360, "paper": 400_000}

    def units(self, config: Config) -> Iterator[Unit]:
        chars = {"train_chars": config.train_chars, "test_chars": config.test_chars}
        text: dict[str, Any] = {"lengths": config.lengths, "sizes": config.sizes, **chars}
        yield from grid(dictionaries, source="switching", order=config.orders, flip=config.flip, **text)
        yield from grid(dictionaries, source="rare flips", order=1, flip=config.rare_flip, **text)
        yield from grid(dictionaries, source="fair coins", order=1, flip=0.5, **text)
        yield from grid(hidden_chains, flip=config.hidden_flip, misread=config.misread, **chars)
        if config.steps:
            yield from grid(
                transformer, order=config.orders, flip=config.flip, num_tokens=config.tokens,
                train_chars=config.text_chars, test_chars=config.held_out_chars, width=config.width,
                depth=config.depth, context=config.context, batch_chars=config.batch_chars, steps=config.steps,
                lr=config.lrs, points=config.points,
            )  # fmt: skip

    def resources(self, unit: Unit) -> Resources:
        given = unit.settings
        if unit.experiment in (dictionaries, hidden_chains):
            return Resources(gpus=0, memory=4e8 + 200 * given["train_chars"])
        tokens = given["batch_chars"] + given["test_chars"] // 5  # tested without gradients, all windows at once
        needed = training_resources(tokens=tokens, width=given["width"], layers=given["depth"])
        return replace(needed, memory=needed.memory + 60 * given["train_chars"])

    def figure(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        log, legend = {"type": "log"}, {"legend": True}
        of = {str(name): own for name, own in rows.groupby("experiment")}
        learned = of["dictionaries"].query("dictionary in ('LZW', 'LZW of fair coins', 'BPE')").copy()
        figures = []
        for order in (1, 4):
            own = learned[(learned.source == "switching") & (learned.order == order)]
            means = own.groupby(["dictionary", "size"], as_index=False)[["ratio", "bound", "entropy_rate"]].mean()
            lzw = means[means.dictionary == "LZW"].assign(bound=lambda one: one.bound / one.entropy_rate)
            plain = float(np.mean(own.marginal_entropy / own.entropy_rate))
            figures.append(
                plot(
                    f"Unigram models of tokens, order {order}",
                    mark("line", means, x="size", y="ratio", stroke="dictionary", marker=True),
                    mark("line", lzw[np.isfinite(lzw.bound)], x="size", y="bound", strokeDasharray="4 3"),
                    mark("ruleY", [plain], stroke="gray", strokeDasharray="2 4"),
                    mark("ruleY", [1.0]),
                    x={**log, "label": "tokens in the dictionary"}, y={"label": "loss over the entropy rate"},
                    color=legend, caption="dashed: the LZW bound, from memory; dotted: characters",
                )
            )  # fmt: skip
        if "transformer" in of:
            seen = of["transformer"].copy()
            seen["ratio"] = seen.nats / seen.entropy_rate
            seen["model"] = seen.tokens + ", order " + seen.order.astype(int).astype(str)
            course = seen[seen.lr == seen.lr.max()].groupby(["model", "chars"], as_index=False)[["ratio"]].mean()
            figures.append(
                plot("Transformers in training", mark("line", course, x="chars", y="ratio", stroke="model"),
                     mark("ruleY", [1.0]), x={"label": "characters seen"}, y={"label": "loss over the entropy rate"},
                     color=legend)
            )  # fmt: skip
        return figures
