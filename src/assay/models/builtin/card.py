"""Write the cards of the built-in models: ``python -m assay.models.builtin.card``, after training both.

Every number in a card is computed here: bits per byte of the models on held-out text, beside `xz -9` and two n-gram
models that saw the same training tokens. The n-gram models interpolate all orders with Witten-Bell weights.
"""

from __future__ import annotations

import json
import lzma
import math

import numpy as np
import torch
from numpy.typing import NDArray

from assay.measures.uncertainty import surprisal
from assay.models.builtin.train import HERE, LENGTH, RECIPES, documents
from assay.models.load import load, quiet_transformers
from assay.models.text import read_text

Ids = NDArray[np.int64]

COPIED = 0.1  # of its lines of 40 characters or more

CARD = """# builtin:{kind}

{words}
{parameters:,} parameters, byte-level BPE vocabulary of {vocabulary:,}, safetensors in float16. Made to show
`assay measure` on a model that has learned to read, without a network. Not made for generating anything.

- **Data**: the help topics, docstrings and source files of Python's standard library ({python}; {documents:,}
  documents, {characters:.1f} million characters, {tokens:.1f} million tokens). {chosen} more documents, chosen by
  their hash, were held out. A docstring also stands in its source file, so only those {held_out} of them are scored of
  which fewer than {copied:.0%} of the longer lines stand in the training text. `builtin:text` was written for assay.
- **Licence**: the text is under the PSF licence; the weights are under that of assay (Apache-2.0).
- **Training**: `python -m assay.models.builtin.train {kind}`: {steps:,} steps of {batch} sequences of {length} tokens
  ({seen:.1f} million tokens), AdamW, learning rate {lr}, {minutes:.0f} minutes on one CPU core. Seed 0.

![Training loss over steps](loss.svg)

## Bits per byte

| | held-out documents | `builtin:text` |
|---|---:|---:|
{rows}

Held-out: {held_out} documents, {held_out_bytes:,} bytes; the text: {text_bytes:,} bytes; both in windows of {length}
tokens. The first token of a window is not counted, nor are its bytes;
`xz -9` gets all bytes at once, knows nothing beforehand, and pays for its container. The n-gram models were fitted to
the same training tokens and are interpolated over all orders (Witten-Bell). {verdict}
"""
WORDS = {
    "attention": "A Llama-style decoder: 4 layers of 4 heads, width 128, rotary positions, context of 512 tokens.",
    "mamba": "A Mamba: 4 layers, width 128, 256 channels with a state of 16 each.",
}


def unseen(held_out: list[str], training: list[str]) -> list[str]:
    """Documents of which hardly a line stands in a training document too: docstrings stand in their source as well."""
    everything = "\n".join(training)

    def share(text: str) -> float:
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) >= 40]
        return sum(line in everything for line in lines) / len(lines) if lines else 1.0

    return [text for text in held_out if share(text) < COPIED]


class NGram:
    """Interpolated: `p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))`, t(h) the number of kinds of w after h."""

    def __init__(self, documents: list[list[int]], order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        self.tables: list[tuple[Ids, Ids, Ids, Ids, Ids]] = []
        for n in range(1, order + 1):
            codes = np.concatenate([self._codes(np.array(ids, dtype=np.int64), n) for ids in documents])
            grams, counts = np.unique(codes, return_counts=True)
            histories, first = np.unique(grams // vocabulary, return_index=True)
            self.tables.append(
                (grams, counts, histories, np.add.reduceat(counts, first), np.diff([*first, len(grams)]))
            )

    def _codes(self, ids: Ids, n: int) -> Ids:
        """Each n-gram as one number in base V (V^5 < 2^63)."""
        if len(ids) < n:
            return np.zeros(0, dtype=np.int64)
        code = np.zeros(len(ids) - n + 1, dtype=np.int64)
        for k in range(n):
            code = code * self.vocabulary + ids[k : len(ids) - n + 1 + k]
        return code

    def bits(self, ids: list[int]) -> float:
        """Of all tokens but the first."""
        tokens = np.array(ids, dtype=np.int64)
        p = np.full(len(tokens), 1 / self.vocabulary)
        for n in range(1, self.order + 1):
            grams, counts, histories, totals, kinds = self.tables[n - 1]
            codes = self._codes(tokens, n)
            count = _look_up(codes, grams, counts)
            total, kind = (_look_up(codes // self.vocabulary, histories, values) for values in (totals, kinds))
            lower = p[n - 1 :]
            p[n - 1 :] = np.where(total > 0, (count + kind * lower) / np.maximum(total + kind, 1), lower)
        return float(-np.log2(p[1:]).sum())


def _look_up(keys: Ids, known: Ids, values: Ids) -> Ids:
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[at] == keys, values[at], 0)


def main() -> None:
    with quiet_transformers():
        models = {kind: load(f"builtin:{kind}") for kind in RECIPES}
    tokenizer = models["attention"].tokenizer
    training, chosen = documents()
    held_out = unseen(chosen, training)
    encoded = [[0, *ids] for ids in tokenizer(training, verbose=False).input_ids]
    windows = {
        "held-out": [part for ids in tokenizer(held_out, verbose=False).input_ids for part in _chunks(ids)],
        "text": _chunks(tokenizer(read_text("builtin:text")[0], verbose=False).input_ids),
    }
    rows = {
        f"`builtin:{kind}`": _row(windows, tokenizer, lambda ids, m=m.model: _bits(m, ids))
        for kind, m in models.items()
    }
    for name, order in (("bigram", 2), ("5-gram", 5)):
        rows[name] = _row(windows, tokenizer, NGram(encoded, order, tokenizer.vocab_size).bits)
    rows["`xz -9`"] = {where: _xz(tokenizer, found) for where, found in windows.items()}
    for kind, loaded in models.items():
        own = rows[f"`builtin:{kind}`"]
        table = "\n".join(f"| {name} | {row['held-out']:.2f} | {row['text']:.2f} |" for name, row in rows.items())
        folder = HERE / kind
        facts = json.loads((folder / "training.json").read_text())
        card = CARD.format(
            kind=kind, words=WORDS[kind], parameters=sum(p.numel() for p in loaded.model.parameters()),
            vocabulary=tokenizer.vocab_size, python=_python(), documents=len(training), chosen=len(chosen),
            copied=COPIED, held_out=len(held_out),
            characters=sum(map(len, training)) / 1e6, tokens=sum(map(len, encoded)) / 1e6, steps=facts["steps"],
            batch=facts["batch"], length=LENGTH, seen=facts["tokens"] / 1e6, lr=facts["lr"],
            minutes=facts["seconds"] / 60, rows=table, verdict=_verdict(own, rows),
            held_out_bytes=_bytes(tokenizer, windows["held-out"]), text_bytes=_bytes(tokenizer, windows["text"]),
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "loss.svg").write_text(_curve(facts["loss_curve"]), encoding="utf-8")
        (folder / "training.json").write_text(
            json.dumps(facts | {"held_out_bits_per_byte": round(own["held-out"], 3)}) + "\n"
        )
        print(card)


def _chunks(ids: list[int]) -> list[list[int]]:
    return [ids[k : k + LENGTH] for k in range(0, len(ids), LENGTH) if len(ids) > k + 1]


def _row(windows: dict[str, list[list[int]]], tokenizer, bits) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Bits per byte of a model on each text."""
    return {where: sum(map(bits, found)) / _bytes(tokenizer, found) for where, found in windows.items()}


def _bytes(tokenizer, windows: list[list[int]]) -> int:  # type: ignore[no-untyped-def]
    """Of all tokens but the first of each window."""
    return sum(len(tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False).encode()) for ids in windows)


@torch.no_grad()
def _bits(model: torch.nn.Module, ids: list[int]) -> float:
    tokens = torch.tensor(ids)
    return float(surprisal(model(input_ids=tokens[None]).logits[0], tokens)[1:].sum())


def _xz(tokenizer, windows: list[list[int]]) -> float:  # type: ignore[no-untyped-def]
    text = "".join(tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in windows).encode()
    return 8 * len(lzma.compress(text, preset=9)) / len(text)


def _verdict(own: dict[str, float], rows: dict[str, dict[str, float]]) -> str:
    """Which of the others this model beats on held-out documents."""
    others = {name: row["held-out"] for name, row in rows.items() if row is not own}
    beaten = [name for name, bits in others.items() if own["held-out"] < bits]
    not_beaten = [name for name in others if name not in beaten]
    words = f"On held-out documents this\nmodel is better than {', '.join(beaten) or 'none of the others'}"
    return f"{words}, and not better than {', '.join(not_beaten)}." if not_beaten else f"{words}."


def _python() -> str:
    import platform

    return f"Python {platform.python_version()}"


def _curve(points: list[list[float]]) -> str:
    """Training loss (nats a token, one batch each) over steps, as a small picture."""
    width, height, left, bottom = 640, 240, 50, 36
    last, top = int(points[-1][0]), math.ceil(max(loss for _, loss in points))

    def at(step: float, loss: float) -> tuple[float, float]:
        return left + (width - left - 10) * step / last, height - bottom - (height - bottom - 10) * loss / top

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    ticks = "".join(
        f'<line x1="{left}" x2="{width - 10}" y1="{at(0, v)[1]:.1f}" y2="{at(0, v)[1]:.1f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{at(0, v)[1] + 4:.1f}" text-anchor="end">{v}</text>'
        for v in range(0, top + 1, 2)
    )
    steps = "".join(
        f'<text x="{at(s, 0)[0]:.1f}" y="{height - bottom + 16}" text-anchor="middle">{s:,}</text>'
        for s in range(0, last + 1, max(100, last // 400 * 100))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#555"><rect width="{width}" height="{height}" fill="#fff"/>{ticks}{steps}'
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.8"/>'
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">step</text>'
        f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">'
        "loss, nats a token</text></svg>\n"
    )


if __name__ == "__main__":
    main()
