"""Each rule says what the numbers say, with its interval or n, and nothing where there is nothing to say."""

import re

import pandas as pd
import pytest
from synthetic import synthetic_report

from assay.report import Report, findings


@pytest.fixture
def report() -> Report:
    return synthetic_report(3, 4, 200, seed=0)


def rule(name: str, report: Report) -> str | None:
    return getattr(findings, f"_{name}")(report)


def test_at_most_seven_sentences_each_with_its_n(report: Report) -> None:
    found = findings.find(report)
    assert 4 <= len(found) <= 7
    for finding in found:
        assert re.search(r"n = \d|\d+ of \d+", finding.text), finding.text
        assert finding.text.endswith(".")
    assert len({finding.rule for finding in found}) == len(found)


def test_memory_used(report: Report) -> None:
    report.memory["ess_floats"], report.memory["cache_floats"] = 30.0, 200.0
    assert "carries 30 numbers of state" in rule("memory_used", report)
    assert "15 % of the 200 that its cache holds" in rule("memory_used", report)
    report.memory["cache_floats"] = float("nan")
    assert rule("memory_used", report) is None


def test_layers_that_differ(report: Report) -> None:
    report.layers["utilisation"] = [0.5, 0.09, 0.6]
    report.heads.loc[report.heads["layer"] == 1, "utilisation"] = 0.09
    text = rule("layers_that_differ", report)
    assert text.startswith("Layer 1 uses 9 % of the state it could ([9, 9], n = 4 heads); layer 2 uses 60 %")


@pytest.mark.parametrize(
    ("fall", "low", "high", "text"),
    [
        (0.41, 0.35, 0.47, "ESS falls by 41.0 % at paragraph ends ([35.0, 47.0] %, n = 12)."),
        (-0.2, -0.3, -0.1, "ESS rises by 20.0 % at paragraph ends ([10.0, 30.0] %, n = 12)."),
        (0.1, -0.1, 0.3, "ESS does not measurably change at paragraph ends (fall [-10.0, 30.0] %, n = 12)."),
    ],
)
def test_state_at_delimiters(report: Report, fall: float, low: float, high: float, text: str) -> None:
    row = {"scope": "model", "delimiter": "paragraph", "n": 12, "fall": fall, "low": low, "high": high}
    object.__setattr__(report, "modulation", pd.DataFrame([row]))
    assert rule("state_at_delimiters", report) == text


def test_no_interval_no_sentence(report: Report) -> None:
    row = {"scope": "model", "delimiter": "paragraph", "n": 1, "fall": 0.5, "low": None, "high": None}
    object.__setattr__(report, "modulation", pd.DataFrame([row]))
    assert rule("state_at_delimiters", report) is None


def test_first_token(report: Report) -> None:
    report.heads["first_token_mass"] = 0.1
    assert rule("first_token", report).startswith("No head parks its attention on the first token")
    report.heads.loc[report.heads.index[6], "first_token_mass"] = 0.93  # layer 1, head 2
    assert rule("first_token", report) == (
        "Head 1.2 attends to the first token with 93 % of its mass; 1 of n = 12 heads give it more than half."
    )


def test_recall_of_bigrams(report: Report) -> None:
    report.recall["hit"] = [k % 4 == 0 for k in range(len(report.recall))]
    report.recall["surprisal"] = [2.0 if hit else 5.0 for hit in report.recall["hit"]]
    assert "cost 2.0 bits, others 5.0: 3.0 bits less [3.0, 3.0] (n = " in rule("recall_of_bigrams", report)
    report.recall["hit"] = ~report.recall["hit"].astype(bool)
    assert "cost 5.0 bits, others 2.0: 3.0 bits more [3.0, 3.0] (n = " in rule("recall_of_bigrams", report)
    report.recall["surprisal"] = [float(k % 7) for k in range(len(report.recall))]
    assert "no measurable difference" in rule("recall_of_bigrams", report)


def test_not_measured(report: Report) -> None:
    assert rule("not_measured", report) is None
    report.layers["measured"] = [True, False, False]
    report.layers["reason"] = ["", "not supported: Foo", "not supported: Foo"]
    assert rule("not_measured", report) == "2 of 3 mixers were not measured: not supported: Foo."
