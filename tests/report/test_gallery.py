"""The gallery: which run it shows, what its pages say, that texts stay texts, and what it overwrites."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from gallery_records import (
    CLAIMS,
    FAILS,
    HOLDS,
    HOSTILE,
    NOTHING,
    TINY,
    UNDEFINED,
    about,
    check,
    hostile_run,
    write_run,
)

from assay._errors import AssayError, InputError, OutputError
from assay.report.gallery import write_gallery
from assay.report.gallery_interval import in_words, picture, short
from assay.report.gallery_runs import find_runs
from assay.study_cli import app


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data = ""
        self._in = ""
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.data += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def gallery(root: Path, out: Path, *slugs: str, force: bool = False) -> Path:
    write_gallery(root, out, slugs=slugs, force=force)
    return out


def report(*arguments: object) -> None:
    app(args=["report", *map(str, arguments)], prog_name="assay study", standalone_mode=False)


# which run is shown


def test_larger_scales_go_first_and_then_newer_runs(tmp_path: Path) -> None:
    for day, name in enumerate(["laptop-a", "laptop-b", "smoke-c", "custom-d"], start=1):
        write_run(tmp_path, "one", name=name, created=f"2026-01-0{day}T00:00:00.000+00:00", rows=day)
    (shown,) = find_runs(tmp_path, ["one"])
    assert shown.record is not None
    assert (shown.record["scale"], shown.record["created"][:10]) == ("laptop", "2026-01-02")
    assert len(shown.rows) == 2  # of the same run

    write_run(tmp_path, "one", name="paper-e", created="2025-01-01T00:00:00.000+00:00")
    (shown,) = find_runs(tmp_path, ["one"])
    assert shown.record is not None
    assert shown.record["scale"] == "paper"


def test_a_run_with_settings_of_ones_own_does_not_stand_for_its_scale(tmp_path: Path) -> None:
    changed = {"seeds": 2, "states": [4], "rate": 0.001}
    write_run(tmp_path, "one", name="laptop-a", config=changed, created="2026-02-02T00:00:00.000+00:00")
    page = Page(gallery(tmp_path, tmp_path / "out", "one") / "one.html").text
    assert "assay study run one --scale laptop seeds=2 states=4" in page
    assert "4 instead of 4, 8" in page

    write_run(tmp_path, "one", name="laptop-b", created="2026-01-01T00:00:00.000+00:00")
    page = Page(gallery(tmp_path, tmp_path / "out", "one") / "one.html").text
    assert "assay study run one --scale laptop Settings" in page
    assert "instead of" not in page


def test_the_command_can_be_typed_as_it_is(tmp_path: Path) -> None:
    write_run(tmp_path, "one", config={"seeds": 3, "states": [["4, 5"], []], "rate": 0.123456789})
    page = Page(gallery(tmp_path, tmp_path / "out", "one") / "one.html").text
    assert """assay study run one --scale laptop seeds=3 'states=[["4, 5"],[]]' rate=0.123456789 Settings""" in page

    write_run(tmp_path, "two", name="custom-a")  # from Python: no command does the same
    assert "assay study run" not in Page(gallery(tmp_path, tmp_path / "other", "two") / "two.html").text


def test_studies_that_were_never_run_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    shown = find_runs(tmp_path)
    assert [one.slug for one in shown if one.record is not None] == ["one"]
    assert "effective-state-size" in [one.slug for one in shown if one.record is None]

    index = Page(gallery(tmp_path, tmp_path / "out") / "index.html").text
    assert "Not run yet" in index
    assert "assay study run effective-state-size" in index
    assert not (tmp_path / "out" / "effective-state-size.html").exists()


def test_a_record_that_says_nothing_of_its_study_is_completed_from_the_code(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "effective-state-size")
    record = json.loads((folder / "run.json").read_text())
    for name in ("about", "machine", "commit", "units", "failed", "unit_seconds", "versions", "device"):
        del record[name]
    (folder / "run.json").write_text(json.dumps(record))
    unknown = write_run(tmp_path, "of-nobody")
    (unknown / "run.json").write_text(json.dumps(record | {"study": "of-nobody"}))

    out = gallery(tmp_path, tmp_path / "out")
    assert "Quantifying Memory Utilization" in Page(out / "effective-state-size.html").text
    assert {"tag": "h1", "text": "of-nobody"} in headings(out / "of-nobody.html")


def headings(file: Path) -> list[dict[str, str]]:
    found = re.findall(r"<(h[1-4])[^>]*>(.*?)</\1>", file.read_text("utf-8"), re.DOTALL)
    return [{"tag": tag, "text": re.sub(r"<[^>]*>", "", text).strip()} for tag, text in found]


# what the pages say


def test_every_verdict_is_in_words_on_both_pages(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    out = gallery(tmp_path, tmp_path / "out")
    verdicts = [claim["verdict"] for claim in CLAIMS]

    index, page = Page(out / "index.html"), Page(out / "one.html")
    assert [line["data-verdict"] for line in index.all("li") if "data-verdict" in line] == verdicts
    badges = re.findall(r'<span class="badge (\w+)">(\w+)</span>', (out / "one.html").read_text())
    assert [word for word, _ in badges[: len(verdicts)]] == verdicts
    assert all(style == word for style, word in badges)
    for claim in CLAIMS:
        assert claim["text"] in index.text
        assert claim["text"] in page.text
        assert {"class": f"claim {claim['verdict']}", "id": claim["claim"]} in page.all("article")
        assert f"one.html#{claim['claim']}" in [link.get("href") for link in index.all("a")]
    assert "fails, as it must 0.478 [0.443, 0.513] ≥ 0.9, 5 seeds" in page.text
    assert "holds, and must not 0.95 [0.94, 0.96] ≥ 0.9, 5 seeds" in page.text
    assert "undefined ≥ 0.9, 3 seeds, 1 undefined" in page.text


def test_paper_settings_and_provenance(tmp_path: Path) -> None:
    machine = {"processor": "A processor", "cores": 2, "memory_gib": 16, "accelerator": "A card"}
    write_run(tmp_path, "one", commit="0123456789abcdef+", machine=machine, device="cuda", failed=3)
    page = Page(gallery(tmp_path, tmp_path / "out") / "one.html")

    assert "https://arxiv.org/abs/2504.19561" in [link.get("href") for link in page.all("a")]
    for words in (
        "A. Newcomer, B. Oldhand",
        "state sizes of the mixer",
        "assay study run one --scale laptop --device cuda",
        "3 units failed",
        "0123456789ab, with changes",
        "A processor, 2 cores",
        "A card",
        "2026-01-02 03:04 UTC",
        "12 min 34 s",
        "2.13.0",
    ):
        assert words in page.text


def test_the_page_about_a_study_is_named_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.report.gallery.REPOSITORY", tmp_path)
    (tmp_path / "docs" / "studies").mkdir(parents=True)
    (tmp_path / "docs" / "studies" / "one.md").write_text("# One\n")
    for name in ("one", "two"):
        write_run(tmp_path / "results", name)
    out = gallery(tmp_path / "results", tmp_path / "out")
    assert "docs/studies/one.md in the repository" in Page(out / "one.html").text
    assert "docs/studies" not in Page(out / "two.html").text


def test_rows_come_as_table_and_as_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "one", rows=5)
    out = gallery(tmp_path, tmp_path / "out")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    assert (out / "one.rows.jsonl").read_bytes() == (folder / "rows.jsonl").read_bytes()
    table = list(csv.DictReader(io.StringIO((out / "one.csv").read_text("utf-8"))))
    assert [{name: value for name, value in row.items() if value} for row in table] == [
        {name: str(value) for name, value in row.items()} for row in rows
    ]
    memory, theory = json.loads(Page(out / "one.html").data)["rows"]
    assert (memory["name"], memory["columns"]) == ("memory", ["seed", "ess"])
    assert memory["rows"] == [[0, 1.0], [2, 0.333333], [4, 0.2]]
    assert theory["columns"] == ["seed", "ess", "bound"]


def test_the_table_ends_where_a_page_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.report.gallery.MOST_ROWS", 4)
    write_run(tmp_path, "one", rows=10)
    out = gallery(tmp_path, tmp_path / "out")
    page = Page(out / "one.html")

    assert sum(len(table["rows"]) for table in json.loads(page.data)["rows"]) == 4
    assert "The table has the first of them, the files all." in page.text
    assert len((out / "one.csv").read_text().splitlines()) == 11


def test_pages_lead_only_to_files_that_are_there(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    write_run(tmp_path, "two")
    out = gallery(tmp_path, tmp_path / "out")
    for file in out.glob("*.html"):
        page = Page(file)
        targets = [tag.get("href") for tag in [*page.all("a"), *page.all("link")]]
        targets += [tag["src"] for tag in page.all("script") if "src" in tag]
        for target in filter(None, targets):
            name, _, anchor = target.partition("#")
            if target.startswith(("https://arxiv.org/abs/", "data:,")):
                continue
            other = out / name if name else file
            assert other.is_file(), target
            assert not anchor or f'id="{anchor}"' in other.read_text("utf-8"), target


# texts stay texts


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    out = gallery(tmp_path, tmp_path / "out")
    for name in ("index.html", "hostile.html"):
        page, source = Page(out / name), (out / name).read_text("utf-8")
        assert "alert(1)" in page.text
        assert page.all("img") == []
        assert all("src" in tag or tag.get("type") == "application/json" for tag in page.all("script"))
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert not set(source) & {"\x1b", "\u2028"}
    data = Page(out / "hostile.html").data
    assert not set(data) & set("<>&")
    assert json.loads(data)["figures"][0]["title"].startswith(HOSTILE.partition("\x1b")[0])
    command = re.search(r"<code>(assay study run .*?)</code>", (out / "hostile.html").read_text("utf-8"))
    assert command is not None
    assert "--device &#39;&lt;script&gt;" in command[1]  # quoted for a shell


def test_numbers_that_json_does_not_have_are_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "one", rows=1)
    (folder / "rows.jsonl").write_text('{"experiment": "memory", "seed": 0, "ess": NaN, "loss": Infinity}\n')
    data = json.loads(Page(gallery(tmp_path, tmp_path / "out") / "one.html").data)
    assert data["rows"][0]["rows"] == [[0, None, None]]


# what is overwritten


def test_a_gallery_is_replaced_without_leftovers(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "one")
    write_run(tmp_path / "results", "two")
    out = gallery(tmp_path / "results", tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    (out / "notes.html").write_text("mine")
    gallery(tmp_path / "results", out, "two")

    assert not list(out.glob("one.*"))
    assert {"two.html", "two.csv", "two.rows.jsonl", "index.html", "notes.txt", "notes.html"} <= {
        file.name for file in out.iterdir()
    }
    assert "one.html" not in (out / "index.html").read_text("utf-8")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_what_is_no_gallery_is_not_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "one")
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        gallery(tmp_path / "results", out)
    assert [file.name for file in out.iterdir()] == ["index.html"]
    assert (out / "index.html").read_text() == "mine"

    gallery(tmp_path / "results", out, force=True)
    assert "What papers claim" in (out / "index.html").read_text("utf-8")


def test_results_are_only_read(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "one")
    before = {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()}
    gallery(tmp_path / "results", tmp_path / "out")
    assert {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()} == before


# the command, and its mistakes


def test_the_command_says_where_the_gallery_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_run(tmp_path / "cache" / "assay" / "studies", "one")
    report()
    assert capsys.readouterr().out == f"1 study: {Path('assay-gallery') / 'index.html'}\n"
    assert (tmp_path / "assay-gallery" / "one.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--results", "nowhere"],
            "no runs in nowhere; make them by: assay study run --all --scale smoke --out nowhere",
        ),
        (["efective-state-size"], "no study 'efective-state-size' (did you mean 'effective-state-size'?)"),
        (["ones"], "no study 'ones' (did you mean 'one'?); see: assay study list"),
        (["???"], "no study '???'; see: assay study list"),
        (["effective-state-size"], "no run of effective-state-size in results; make one by: assay study run"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("results"), "one")
    with pytest.raises(InputError) as caught:
        report(*(["--results", "results"] if "--results" not in arguments else []), *arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("assay-gallery").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"study": "one"}', '{"scale": 1}', "\ufeff"])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path, "one")
    (folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(AssayError, match=r"run\.json cannot be read; .* assay study run one"):
        gallery(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [None, '{"seed": 0}\n{"se'])
def test_missing_and_broken_rows_are_named(tmp_path: Path, text: str | None) -> None:
    file = write_run(tmp_path, "one") / "rows.jsonl"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(AssayError, match=r"rows\.jsonl cannot be read"):
        gallery(tmp_path, tmp_path / "out")


# the picture of a check


def test_picture_keeps_order_and_sides() -> None:
    for one in (HOLDS, FAILS, TINY):
        p = picture(one)
        assert p is not None
        named = {one["threshold"]: p["threshold"], one["mean"]: p["mean"], one["low"]: p["low"], one["high"]: p["high"]}
        places = named | {value: place for value, (place, _) in zip(one["values"].values(), p["seeds"], strict=True)}
        inorder = [place for _, place in sorted(places.items())]
        assert inorder == sorted(inorder)
        assert min(inorder) == 10
        assert max(inorder) == 90
        side = (p["threshold"], 100.0) if one["relation"] == ">=" else (0.0, p["threshold"])
        assert (p["start"], p["stop"]) == side
        inside = [p["start"] <= place <= p["stop"] for place, _ in p["seeds"]]
        assert all(inside) if one["verdict"] == "holds" else not any(inside)


def test_picture_is_logarithmic_where_that_is_needed_and_possible() -> None:
    def log(values: list[float | None], threshold: float) -> bool:
        p: dict[str, Any] | None = picture(check(values, "<=", threshold, "holds"))
        assert p is not None
        return bool(p["log"])

    assert log([2e-15, 3e-15], 1e-10)
    assert not log([2e-15, 3e-15], 0)
    assert not log([0.5, 0.7], 1)
    assert not log([-1e-12, 1.0], 1)

    p = picture(check([1e-8, 1e-4], "<=", 1.0, "holds", mean=1e-6, low=None, high=None))
    assert p is not None
    assert [p["seeds"][0][0], p["mean"], p["seeds"][1][0], p["threshold"]] == [10, 30, 50, 90]


def test_picture_of_little() -> None:
    p = picture(NOTHING)
    assert p is not None
    assert {place for place, _ in p["seeds"]} == {p["threshold"]} == {50.0}
    assert picture(UNDEFINED) is None
    assert picture(HOLDS | {"values": {}}) is None


def test_numbers_in_words() -> None:
    assert [short(value) for value in (0.95, -12.0, 2.3e-15, 1e7, 0, None, math.nan)] == [
        "0.95", "-12", "2.3e-15", "1e7", "0", "undefined", "undefined"
    ]  # fmt: skip
    assert in_words(TINY) == "2.4e-15 [1.65e-15, 3.15e-15] ≤ 1e-10, 5 seeds, each"
    assert in_words(check([1.0], ">", 0, "holds", low=None, high=None)) == "1 > 0, 1 seed"


def test_the_gallery_needs_no_code_of_the_studies(tmp_path: Path) -> None:
    """So that it is quick: records say what they are of, and torch stays where it is."""
    import subprocess
    import sys

    write_run(tmp_path / "results", "effective-state-size", about=about("As it was then"))
    code = f"""
import sys
from pathlib import Path
from assay.report.gallery import write_gallery
write_gallery(Path({str(tmp_path / "results")!r}), Path({str(tmp_path / "out")!r}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert "As it was then" in Page(tmp_path / "out" / "index.html").text
