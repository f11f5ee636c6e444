"""The page as text: self-contained, within its size, and nothing in a model or a text becomes markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_report

from assay.report import Report
from assay.report._page import FEWEST, MOST, POINTS, mean_interval, pack, page_data, recall_bins, thin
from assay.report._text import visible
from assay.report.html import render

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\x1b[31mred\x1b[0m",
    "\ud800",
    "\u202eevil",
    "{{ 7 * 7 }}{% raw %}",
    "\u2028\u2029",
    "a\x00b",
    "&lt;b&gt; ' \" `",
]


class _Page(HTMLParser):
    """Elements with their attributes, and the contents of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page() -> str:
    return render(synthetic_report(4, 4, 128, windows=2, unmeasured={2: HOSTILE[1]}, hostile=HOSTILE))


def data_of(page: str) -> dict[str, Any]:
    data = json.loads(_Page(page).scripts[0])
    assert isinstance(data, dict)
    return data


def test_is_self_contained(page: str) -> None:
    elements = _Page(page).elements
    assert not [tag for tag, _ in elements if tag in {"link", "img", "iframe", "object", "embed", "base", "form", "a"}]
    assert not [attrs for _, attrs in elements if {"src", "href", "srcset", "action"} & set(attrs)]
    assert not [attrs for _, attrs in elements if any(name.startswith("on") for name in attrs)]
    own = page[: page.index("// https://d3js.org")] + page.split("</script>")[-2]
    assert not re.search(r"https?://|@import|url\((?!#hatch)", own)
    policy = [attrs["content"] for _, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none';")


def test_texts_cannot_break_out(page: str) -> None:
    parsed = _Page(page)
    assert len(parsed.scripts) == 4  # data, d3, Plot, ours
    assert "<" not in parsed.scripts[0]
    assert "&" not in parsed.scripts[0]
    page.encode("utf-8")  # no lone surrogates
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e]", "".join(parsed.scripts[0]))
    assert "\x1b" not in page
    assert "\x00" not in page
    vocabulary = data_of(page)["tokens"]["vocabulary"]
    for text in (HOSTILE[0], "␛[31mred␛[0m", "\\ud800", "\\u202eevil", "\\u2028\\u2029", "a␀b", HOSTILE[9]):
        assert text in vocabulary
    assert "&lt;img src=x onerror=alert(1)&gt;</h1>" in page
    assert "not measured: &lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb\tc", "a⏎b␉c"), ("\x7f\x9b", "␡\\x9b"), ("naïve 漢字 🙂", "naïve 漢字 🙂"), ("\udfff", "\\udfff")],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_cuts_long_texts() -> None:
    assert visible("x" * 50, limit=10) == "x" * 9 + "…"


def test_reads_without_scripts(page: str) -> None:
    body = page[: page.index('<script type="application/json"')]
    assert "<b>41 %</b> [35, 47] at paragraph ends" in body
    assert body.count("<tr") == 5
    assert "MiB" in body or "KiB" in body
    assert "<noscript>" in body


def test_nothing_measured() -> None:
    page = render(synthetic_report(3, 4, 64, unmeasured=dict.fromkeys(range(3), "not supported: FooMixer")))
    assert "No layer was measured, so there is no map" in page
    assert "No attention layer was measured." in page
    assert page.count("not measured: not supported: FooMixer") == 3
    assert 'id="map"' not in page


def test_recurrent_model_has_no_attention() -> None:
    page = render(synthetic_report(2, 16, 64, kind="recurrence"))
    assert "No attention layers in this model." in page
    assert 'id="attention"' not in page


def test_least_meta_and_empty_tables() -> None:
    report = synthetic_report(1, 1, 20)
    keys = ("model", "architecture", "text", "num_tokens", "num_windows", "window_length")
    empty = {name: getattr(report, name).iloc[:0] for name in ("modulation", "geometry", "uncertainty", "recall")}
    assert "Too few delimiters" in render(
        Report(meta={key: report.meta[key] for key in keys}, findings=[], **{**_tables(report), **empty})
    )


def test_a_loaded_report_renders_the_same(tmp_path: Path) -> None:
    report = synthetic_report(3, 2, 64, kind="recurrence", unmeasured={1: "not supported: FooMixer"})
    first = render(report)
    report.save(tmp_path / "out")
    assert len(render(Report.load(tmp_path / "out"))) == pytest.approx(len(first), rel=1e-3)


@pytest.mark.parametrize(("layers", "heads", "length", "megabytes"), [(12, 12, 512, 2.0), (48, 32, 2048, 4.0)])
def test_size(layers: int, heads: int, length: int, megabytes: float) -> None:
    report = synthetic_report(layers, heads, length, seed=1)
    page = render(report)
    assert len(page.encode()) <= megabytes * 1e6
    curves = data_of(page)["curves"]
    assert len(curves["heads"]) == layers * heads
    lengths = [len(curves["grids"][curve[2]]) for curve in curves["heads"]]
    assert min(lengths) >= FEWEST
    assert max(lengths) <= MOST
    assert sum(lengths) <= POINTS


def test_size_of_extremes() -> None:
    """Far more heads than budgeted, and a long text of tokens that are all different, long and full of markup."""
    wide = render(synthetic_report(128, 96, 64, evaluated=20))
    assert len(wide.encode()) <= 4e6
    curves = data_of(wide)["curves"]
    assert (len(curves["heads"]), len(curves["layers"])) == (0, 128)
    long = synthetic_report(2, 2, 1024, windows=40)
    long.tokens["text"] = [f"<&>{i}" * 10 for i in range(len(long.tokens))]
    assert len(render(long).encode()) <= 2e6


def test_pack_keeps_four_digits_and_missing_values() -> None:
    values = np.array([0.0, 1.2345, np.nan, 987.6])
    scale, text = pack(values)
    codes = np.frombuffer(__import__("base64").b64decode(text), dtype="<u2")
    np.testing.assert_allclose(codes[[0, 1, 3]] * scale, values[[0, 1, 3]], atol=987.6 / 65_534)
    assert codes[2] == 65_535


def test_thin_keeps_ends_and_delimiters() -> None:
    tokens = np.arange(10_000)
    kept = thin(tokens, 200, np.array([4_321, 7_777]))
    assert len(kept) <= 200
    assert {0, 4_321, 7_777, 9_999} <= set(kept.tolist())
    assert thin(tokens[:50], 200, np.array([])).tolist() == list(range(50))


def test_curves_hold_the_numbers_of_the_table() -> None:
    report = synthetic_report(2, 3, 40)
    shuffled = report.state_size.sample(frac=1, random_state=0)
    data = page_data(Report(meta=report.meta, findings=[], **{**_tables(report), "state_size": shuffled}))
    own = report.state_size.query("layer == 1 and head == 2")
    curve = next(c for c in data["curves"]["heads"] if c[:2] == [1, 2])
    scale, text = curve[4]
    codes = np.frombuffer(__import__("base64").b64decode(text), dtype="<u2")
    assert data["curves"]["grids"][curve[2]] == own["token"].tolist()
    np.testing.assert_allclose(codes * scale, own["entropy_ess"], atol=1e-3)


def test_recall_bins() -> None:
    surprisal = [1.0, 2.0, 3.0, 4.0, 9.0, 5.0, 6.0]
    frame = pd.DataFrame({"token": range(7), "hit": [True] * 5 + [False] * 2, "distance": [4, 5, 6, 7, 8, None, None]})
    frame["surprisal"] = surprisal
    bins = recall_bins(frame)
    assert [(b["from"], b["to"], b["n"], b["mean"]) for b in bins["hits"]] == [(4, 7, 4, 2.5), (8, 15, 1, 9.0)]
    assert bins["hits"][1]["low"] is None
    assert bins["other"]["mean"] == 5.5


def test_interval_is_that_of_student() -> None:
    values = np.arange(10.0)  # t(0.975, 9) = 2.2622
    half = 2.2622 * values.std(ddof=1) / 10**0.5
    interval = mean_interval(values)
    assert interval["high"] - interval["mean"] == pytest.approx(half, rel=5e-3)


def _tables(report: Report) -> dict[str, pd.DataFrame]:
    return {name: value for name, value in vars(report).items() if isinstance(value, pd.DataFrame)}
