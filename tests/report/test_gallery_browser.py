"""The gallery in headless Chromium: it draws without errors, answers the reader, fits a phone, and is harmless."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery_records import CLAIMS, HOSTILE, about, claim, hostile_run, odd_figures, write_run

from assay.report.gallery import write_gallery

selenium = pytest.importorskip("selenium", reason="needs selenium (pip install assay[dev])")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

PAGES = ["index", "one", "many", "odd", "hostile"]

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five studies, one of them with the code's own name and family, and those that were never run."""
    root, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("out") / "site"
    write_run(root, "one", about=about("Zebras remember", year=2023))
    write_run(root, "many", about=about("Many rows", year=2024, authors="C. Zebra"), claims=CLAIMS[:1], rows=3_000)
    write_run(root, "odd", about=about("Odd figures"), claims=[claim("lonely", "fails", [], [])], figures=odd_figures())
    write_run(root, "effective-state-size", about=about("Of the library"), claims=CLAIMS[:2])
    hostile_run(root)
    write_gallery(root, out)
    return out


@pytest.fixture
def open_page(driver: Any, site: Path) -> Iterator[Open]:
    def open_(name: str, width: int = 1200, scheme: str = "light", scripts: bool = True) -> Any:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")
        page, _, anchor = name.partition("#")
        driver.get("about:blank")
        driver.get(f"{(site / page).as_uri()}.html" + (f"#{anchor}" if anchor else ""))
        WebDriverWait(driver, 20).until(lambda d: d.find_element(By.CSS_SELECTOR, "footer .legend"))
        return driver

    yield open_
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def shown(driver: Any, selector: str) -> list[str]:
    return [one.text for one in driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]


def write(driver: Any, field: str, words: str) -> None:
    box = driver.find_element(By.ID, field)
    box.clear()
    box.send_keys(words)


@pytest.mark.parametrize("name", PAGES)
def test_loads_without_console_errors_and_without_a_network(open_page: Open, name: str) -> None:
    driver = open_page(name)
    assert driver.get_log("browser") == []
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(one.startswith(("file:", "data:")) for one in loaded)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 400, 800, 1280])
def test_no_horizontal_scroll(open_page: Open, name: str, width: int) -> None:
    driver = open_page(name, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


# the index


def test_all_verdicts_are_at_once_to_be_seen(open_page: Open) -> None:
    driver = open_page("index")
    badges = driver.find_elements(By.CSS_SELECTOR, ".claims .badge")
    assert sorted({badge.text for badge in badges}) == ["fails", "holds", "inconclusive", "void"]
    sizes = {(badge.rect["width"], badge.rect["height"]) for badge in badges}
    assert len(sizes) == 1  # none is more to be seen than another
    colours = {(badge.text, badge.value_of_css_property("background-color")) for badge in badges}
    assert len(colours) == len({colour for _, colour in colours}) == 4
    assert all(contrast(driver, badge) >= 4.5 for badge in badges)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_their_ground(open_page: Open, scheme: str) -> None:
    driver = open_page("one", scheme=scheme)
    for selector in (".badge", ".square", "h1", ".lead", ".numbers b", ".numbers", ".reason b", ".source", "dt", "th"):
        for element in driver.find_elements(By.CSS_SELECTOR, selector)[:6]:
            assert contrast(driver, element) >= 4.5, (selector, element.text)


def contrast(driver: Any, element: Any) -> float:
    """The ratio of luminances of an element's words and of what is behind them, by WCAG 2."""
    script = """
      const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
      let node = arguments[0];
      const ink = rgb(getComputedStyle(node).color);
      while (node && (rgb(getComputedStyle(node).backgroundColor)[3] ?? 1) === 0) node = node.parentElement;
      return [ink, rgb(getComputedStyle(node ?? document.body).backgroundColor)];
    """
    inks = [
        sum(
            weight * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
            for weight, value in zip((0.2126, 0.7152, 0.0722), (part / 255 for part in colour[:3]), strict=True)
        )
        for colour in driver.execute_script(script, element)
    ]
    return (max(inks) + 0.05) / (min(inks) + 0.05)


def test_filters_of_the_index(open_page: Open) -> None:
    driver = open_page("index")
    everything = shown(driver, ".claims li")
    assert driver.find_element(By.ID, "found").text == f"{len(everything)} claims"

    verdict = Select(driver.find_element(By.ID, "verdict"))
    verdict.select_by_visible_text("void")
    assert {line.split()[0] for line in shown(driver, ".claims li")} == {"void"}
    assert shown(driver, ".card h2") != []
    verdict.select_by_visible_text("all")
    assert shown(driver, ".claims li") == everything

    write(driver, "search", "zebra")
    assert sorted(shown(driver, ".card h2")) == ["Many rows", "Zebras remember"]  # a title, and an author
    write(driver, "search", "zebra GROWTH")
    assert len(shown(driver, ".claims li")) == 1
    assert driver.find_element(By.ID, "found").text == f"1 of {len(everything)} claims"
    write(driver, "search", "")
    driver.find_element(By.ID, "search").send_keys("x", Keys.BACKSPACE)

    Select(driver.find_element(By.ID, "family")).select_by_visible_text("memory")
    assert shown(driver, ".card h2") == ["Of the library"]
    Select(driver.find_element(By.ID, "year")).select_by_visible_text("2023")
    assert shown(driver, ".card h2") == []
    driver.find_element(By.ID, "reset").click()
    assert shown(driver, ".claims li") == everything
    assert driver.switch_to.active_element.get_attribute("id") == "search"


def test_a_claim_has_a_link_of_its_own(open_page: Open) -> None:
    driver = open_page("index")
    driver.find_element(By.CSS_SELECTOR, "a[href='one.html#constants']").click()
    WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.ID, "h-claims"))
    target = driver.find_element(By.CSS_SELECTOR, ":target")
    assert target.get_attribute("id") == "constants"
    assert 0 <= driver.execute_script("return arguments[0].getBoundingClientRect().top", target) < 1000


def test_the_index_is_used_by_keys_alone(open_page: Open) -> None:
    driver = open_page("index")
    seen = []
    for _ in range(7):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        active = driver.switch_to.active_element
        seen.append(active.get_attribute("id") or active.get_attribute("href").rpartition("/")[2])
    assert seen[:5] == ["index.html#content", "search", "family", "verdict", "year"]
    assert seen[5].endswith(".html")
    assert "#" in seen[6]


# a study


@pytest.mark.parametrize("name", ["one", "odd"])
def test_all_figures_are_drawn(open_page: Open, name: str) -> None:
    driver = open_page(name)
    boxes = driver.find_elements(By.CSS_SELECTOR, ".figures .chart")
    undrawn = [box.text for box in boxes if not box.find_elements(By.TAG_NAME, "svg")]
    assert undrawn == (["This figure cannot be drawn: nothing was measured for it"] if name == "odd" else [])


def test_series_differ_by_more_than_colour(open_page: Open) -> None:
    driver = open_page("one")
    lines = driver.find_elements(By.CSS_SELECTOR, "#figure-0 g[aria-label=line]")
    assert len({line.get_attribute("stroke-dasharray") for line in lines}) == len(lines) == 4
    strokes = [line.find_element(By.TAG_NAME, "path").get_attribute("stroke") for line in lines]
    assert len(set(strokes)) == 4
    samples = driver.find_elements(By.CSS_SELECTOR, "#figure-0 .key svg line")
    assert [sample.get_attribute("stroke") for sample in samples] == strokes
    assert shown(driver, "#figure-0 .key > span") == ["attention", "GLA", "Mamba", "Hyena"]


def test_all_ticks_of_a_logarithmic_axis_have_their_numbers(open_page: Open) -> None:
    driver = open_page("one")
    ticks = driver.find_elements(By.CSS_SELECTOR, "#figure-0 g[aria-label='x-axis tick label'] text")
    assert [tick.text for tick in ticks] == ["4", "8", "16", "32", "64", "128"]


@pytest.mark.parametrize("width", [400, 1280])
def test_names_along_an_axis_are_not_cut_off(open_page: Open, width: int) -> None:
    driver = open_page("odd", width=width)
    for title, axis in (("Cells", "y"), ("Long names", "x")):
        chart = driver.find_element(By.CSS_SELECTOR, f".figures svg[aria-label='{title}']")
        inside = chart.rect
        names = chart.find_elements(By.CSS_SELECTOR, f"g[aria-label='{axis}-axis tick label'] text")
        assert len(names) == 12
        for name in names:
            assert inside["x"] - 1 <= name.rect["x"]
            assert name.rect["y"] + name.rect["height"] <= inside["y"] + inside["height"] + 1


def test_pointing_at_a_curve_shows_its_numbers(open_page: Open) -> None:
    driver = open_page("one")
    for index, mark, words in ((0, "dot] path", "mixer"), (1, "dot] circle", "pairs"), (2, "bar] rect", "share of")):
        chart = driver.find_element(By.ID, f"figure-{index}")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
        target = chart.find_elements(By.CSS_SELECTOR, f"g[aria-label={mark}")[3]
        ActionChains(driver).move_to_element(target).pause(0.1).perform()
        WebDriverWait(driver, 5).until(lambda _: chart.find_elements(By.CSS_SELECTOR, "g[aria-label=tip] text"))  # noqa: B023
        (tip,) = [tip.text for tip in chart.find_elements(By.CSS_SELECTOR, "g[aria-label=tip] text")]
        assert words in tip


def test_figures_follow_width_and_theme(open_page: Open) -> None:
    driver = open_page("one", scheme="dark")
    dark = driver.find_element(By.ID, "figure-0").get_attribute("innerHTML")
    driver = open_page("one")
    chart = driver.find_element(By.ID, "figure-0")
    assert chart.get_attribute("innerHTML") != dark
    before = chart.find_element(By.CSS_SELECTOR, "svg[aria-label]").rect["width"]
    metrics = {"width": 420, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    narrower = lambda d: d.find_element(By.CSS_SELECTOR, "#figure-0 svg[aria-label]").rect["width"] < before - 50  # noqa: E731
    WebDriverWait(driver, 10, ignored_exceptions=[Exception]).until(narrower)


def test_intervals_are_drawn_where_the_numbers_are(open_page: Open) -> None:
    driver = open_page("one")
    svg = driver.find_element(By.CSS_SELECTOR, "#recall .interval")
    centre = lambda one: one.rect["x"] + one.rect["width"] / 2  # noqa: E731
    seeds = [centre(dot) for dot in svg.find_elements(By.CSS_SELECTOR, "circle.seed")]
    values = [0.93, 0.95, 0.97, 0.94, 0.96]
    threshold, mean = (centre(svg.find_element(By.CSS_SELECTOR, f"line.{name}")) for name in ("threshold", "mean"))
    scale = (max(seeds) - threshold) / (0.97 - 0.9)
    for value, place in [*zip(values, seeds, strict=True), (0.95, mean)]:
        assert abs(threshold + scale * (value - 0.9) - place) < 1.5  # pixels


def test_rows_are_made_as_one_scrolls(open_page: Open) -> None:
    driver = open_page("many")
    made = lambda: len(driver.find_elements(By.CSS_SELECTOR, "#row-table tbody tr"))  # noqa: E731
    assert made() == 100
    driver.execute_script("const box = document.getElementById('row-table'); box.scrollTop = box.scrollHeight")
    WebDriverWait(driver, 5).until(lambda _: made() == 200)


def test_rows_are_sorted_and_filtered(open_page: Open) -> None:
    driver = open_page("many")
    first = lambda: [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#row-table tbody tr:first-child td")]  # noqa: E731
    assert first() == ["0", "1"]
    by_ess = driver.find_elements(By.CSS_SELECTOR, "#row-table th button")[1]
    by_ess.send_keys(Keys.ENTER)
    assert first()[0] == "2998"
    assert by_ess.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    by_ess.send_keys(Keys.ENTER)
    assert first() == ["0", "1"]

    write(driver, "row-filter", "seed > 2990")
    assert driver.find_element(By.ID, "row-count").text == "4 of 1,500 rows"
    write(driver, "row-filter", "no such text")
    assert driver.find_element(By.ID, "row-count").text == "0 of 1,500 rows"
    Select(driver.find_element(By.ID, "experiment")).select_by_visible_text("theory (1,500)")
    assert [head.text for head in driver.find_elements(By.CSS_SELECTOR, "#row-table th")] == ["seed", "ess", "bound"]


def test_hostile_texts_are_only_text(open_page: Open) -> None:
    begin = HOSTILE.partition("\x1b")[0]
    for name in ("index", "hostile"):
        driver = open_page(name)
        assert begin in driver.find_element(By.TAG_NAME, "main").text
        assert driver.find_elements(By.TAG_NAME, "img") == []
        with pytest.raises(Exception, match="no such alert"):
            _ = driver.switch_to.alert
    assert begin in driver.find_element(By.CSS_SELECTOR, "#figure-2 .chart, #figure-2").text
    assert "This figure cannot be drawn" in driver.find_element(By.ID, "figure-1").text


def test_pages_say_all_that_matters_without_scripts(open_page: Open) -> None:
    driver = open_page("index", scripts=False)
    assert len(shown(driver, ".claims li")) > 10
    assert not driver.find_element(By.ID, "filter").is_displayed()
    driver = open_page("one", scripts=False)
    assert len(shown(driver, ".claim .badge")) == len(CLAIMS)
    assert shown(driver, ".interval text") != []
    assert shown(driver, "noscript p") != []
    assert not driver.find_element(By.ID, "rows").is_displayed()


def test_prints_in_light_colours_with_everything_decisive(open_page: Open) -> None:
    driver = open_page("one", scheme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(shown(driver, ".claim .badge")) == len(CLAIMS)
    assert not driver.find_element(By.ID, "rows").is_displayed()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert driver.get_log("browser") == []
