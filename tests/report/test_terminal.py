"""The terminal summary: what it says, and that nothing in a model or a text can break out of it."""

import io

import pytest
from rich.console import Console
from synthetic import synthetic_report

from assay.report import Report
from assay.report.terminal import MAX_ROWS, summary


def printed(report: Report, *, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    summary(report, Console(file=stream, width=width, force_terminal=colour))
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(encoding)


def test_says_what_was_measured_and_found() -> None:
    text = printed(synthetic_report(4, 2, 64, unmeasured={2: "not supported: FooMixer"}))
    assert text.startswith("synthetic-attention · 64 tokens · 1 min 23 s\n")
    assert "1.23 bits/byte" in text
    assert "ESS falls by 41 % [35, 47] at paragraph ends (n = 23)." in text
    assert "not measured: layer 2: not supported: FooMixer" in text
    assert "tolerance-" in text
    assert "attention\n" in text or "attention " in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_keeps_within_the_width_and_has_no_colour_when_piped(width: int) -> None:
    report = synthetic_report(12, 12, 64, unmeasured={3: "a reason that is long " * 8})
    report.layers["mixer"] = "AVeryLongNameOfAnAttentionMixer"
    text = printed(report, width=width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width


def test_eighty_columns_cut_no_number() -> None:
    report = synthetic_report(3, 2, 64)
    report.layers["utilisation"] = 1.0
    report.layers["tolerance_ess"] = 123.4
    text = printed(report)
    assert "fidelity" in text
    assert "100 % ██████" in text
    assert "e-07\n" in text


def test_deep_models_are_thinned_and_say_so() -> None:
    text = printed(synthetic_report(100, 1, 32))
    assert f"{MAX_ROWS} of 100 layers shown" in text
    assert len(text.splitlines()) < MAX_ROWS + 25
    assert "\n   99 " in text


def test_recurrent_models_have_no_column_of_attention_entropy() -> None:
    assert (
        "attention" not in printed(synthetic_report(2, 4, 64, kind="recurrence")).split("fidelity")[0].split("\n\n")[-1]
    )


def test_nothing_measured() -> None:
    text = printed(synthetic_report(3, 2, 64, unmeasured=dict.fromkeys(range(3), "not supported: FooMixer")))
    assert "not measured: layers 0, 1, 2: not supported: FooMixer" in text


@pytest.mark.parametrize(
    "hostile", ["\x1b[31mred\x1b[0m", "\x9b2J", "a\rb\x08", "[bold]x[/bold]", "[/]", "tail\\", "\ud800"]
)
def test_texts_show_harmlessly(hostile: str) -> None:
    report = synthetic_report(3, 2, 64, unmeasured={1: hostile}, hostile=[hostile])
    report.layers["mixer"] = hostile
    report.meta["warnings"] = [hostile]
    for encoding in ("utf-8", "ascii"):
        text = printed(report, encoding=encoding)
        assert not {
            c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000
        }
    assert "[bold]x[/bold]" in printed(report) or "bold" not in hostile
    assert "\x1b[31mred" not in printed(report, colour=True)


def test_a_console_without_utf8_gets_plain_characters() -> None:
    report = synthetic_report(3, 2, 64, unmeasured={1: "café"})
    text = printed(report, encoding="ascii")
    assert "caf\\xe9" in text
    assert "#" in text
