"""The page in headless Chromium: it loads without errors, answers to clicks, fits a phone, and stays harmless."""

import base64
import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import synthetic_report

from assay.report import Report

selenium = pytest.importorskip("selenium", reason="needs selenium (pip install assay[dev])")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.browser
HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "\x1b[31m", "\ud800"]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "small": synthetic_report(4, 4, 128, windows=2, unmeasured={2: HOSTILE[1]}, hostile=HOSTILE),
        "gpt2": synthetic_report(12, 12, 512),
        "recurrent": synthetic_report(3, 16, 128, kind="recurrence"),
        "nothing": synthetic_report(2, 2, 32, unmeasured={0: "not supported: A", 1: "not supported: A"}),
        "large": synthetic_report(48, 32, 2048, evaluated=256),
        "tiny": synthetic_report(1, 1, 16),
        "hybrid": hybrid_report(),
    }
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(report.to_html(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in reports}


def hybrid_report() -> Report:
    """Recurrent layers between layers of attention: the former have no attention entropy; some fits failed."""
    report = synthetic_report(4, 4, 64)
    recurrent = report.heads["layer"] % 2 == 1
    columns = ["attention_entropy", "normalised_entropy", "first_token_mass", "previous_token_mass", "regime"]
    report.heads.loc[recurrent, columns] = None
    report.layers.loc[report.layers["layer"] % 2 == 1, "kind"] = "recurrence"
    report.geometry["alpha_req"] = float("nan")
    report.geometry["alpha_r2"] = float("nan")
    attention = report.attention[report.attention["layer"] % 2 == 0]
    return dataclasses.replace(report, attention=attention)


@pytest.fixture
def open_page(driver: Any, pages: dict[str, Path]) -> Open:
    def open_(name: str, width: int = 1200, scheme: str = "light") -> Any:
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")
        driver.get(pages[name].as_uri())
        WebDriverWait(driver, 20).until(lambda d: d.find_element(By.ID, "h-layers"))
        return driver

    return open_


def curve(driver: Any) -> str:
    path = driver.find_element(By.CSS_SELECTOR, "#curve .entropy-curve path")
    return str(path.get_attribute("d"))


def background(driver: Any) -> str:
    return str(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("name", ["small", "gpt2", "recurrent", "nothing", "large", "tiny", "hybrid"])
def test_loads_without_console_errors(open_page: Open, name: str) -> None:
    driver = open_page(name)
    assert driver.get_log("browser") == []
    assert len(driver.find_elements(By.CSS_SELECTOR, ".chart svg")) >= (3 if name == "nothing" else 6)
    assert [c for c in driver.find_elements(By.CSS_SELECTOR, ".chart") if not c.find_elements(By.TAG_NAME, "svg")] == []


def test_makes_no_requests(open_page: Open) -> None:
    driver = open_page("small")
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_selecting_a_head_changes_the_curve(open_page: Open) -> None:
    driver = open_page("gpt2")
    seen = [curve(driver)]
    Select(driver.find_element(By.ID, "layer")).select_by_value("5")
    seen.append(curve(driver))
    Select(driver.find_element(By.ID, "head")).select_by_value("7")
    seen.append(curve(driver))
    assert "Layer 5, head 7" in driver.find_element(By.ID, "curve-readout").text
    Select(driver.find_element(By.ID, "layer")).select_by_value("model")
    seen.append(curve(driver))
    assert len(set(seen)) == 4


def test_clicking_the_map_follows_that_head(open_page: Open) -> None:
    driver = open_page("gpt2")
    cells = driver.find_elements(By.CSS_SELECTOR, "#map svg g[aria-label=cell] rect")
    ActionChains(driver).move_to_element(cells[40]).pause(0.1).click().perform()
    chosen = (
        driver.find_element(By.ID, "layer").get_property("value"),
        driver.find_element(By.ID, "head").get_property("value"),
    )
    assert chosen == ("3", "4")


def test_hover_shows_the_token_in_its_context(open_page: Open) -> None:
    driver = open_page("gpt2")
    chart = driver.find_element(By.CSS_SELECTOR, "#curve svg")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(driver).move_to_element_with_offset(chart, 30, 30).pause(0.1).perform()
    readout = driver.find_element(By.ID, "curve-readout")
    assert "entropy-ESS" in readout.text
    assert readout.find_elements(By.TAG_NAME, "mark")


def test_quantities_of_the_map(open_page: Open) -> None:
    driver = open_page("gpt2")
    select = Select(driver.find_element(By.ID, "quantity"))
    assert len(select.options) == 6
    seen = set()
    for option in [option.get_property("value") for option in select.options]:
        select.select_by_value(str(option))
        seen.add(driver.find_element(By.ID, "map").get_attribute("innerHTML"))
    assert len(seen) == 6
    assert driver.get_log("browser") == []


def test_screenshot_is_not_blank(open_page: Open) -> None:
    driver = open_page("gpt2")
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": False})
    assert distinct_bytes(base64.b64decode(shot["data"])) > 5_000


@pytest.mark.parametrize("name", ["small", "gpt2", "recurrent", "large"])
@pytest.mark.parametrize("width", [360, 390, 800])
def test_no_horizontal_scroll(open_page: Open, name: str, width: int) -> None:
    driver = open_page(name, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_charts_follow_the_width(open_page: Open) -> None:
    driver = open_page("gpt2", width=1200)
    before = driver.find_element(By.CSS_SELECTOR, "#curve svg").rect["width"]
    metrics = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    narrower = lambda d: d.find_element(By.CSS_SELECTOR, "#curve svg").rect["width"] < before - 200  # noqa: E731
    WebDriverWait(driver, 10, ignored_exceptions=[Exception]).until(narrower)


def test_dark_mode(open_page: Open) -> None:
    driver = open_page("gpt2", scheme="dark")
    dark, map_dark = background(driver), driver.find_element(By.ID, "map").get_attribute("innerHTML")
    driver = open_page("gpt2", scheme="light")
    assert background(driver) != dark
    assert driver.find_element(By.ID, "map").get_attribute("innerHTML") != map_dark


def test_prints_in_light_colours(open_page: Open) -> None:
    driver = open_page("small", scheme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert background(driver) == "rgb(255, 255, 255)"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert driver.get_log("browser") == []


def test_hostile_tokens_are_only_text(open_page: Open) -> None:
    driver = open_page("small")
    assert HOSTILE[0] in driver.find_element(By.ID, "strip").text
    assert driver.find_element(By.TAG_NAME, "h1").text == HOSTILE[0]
    assert driver.find_elements(By.TAG_NAME, "img") == []
    span = driver.find_element(By.CSS_SELECTOR, "#strip span[data-token='1']")
    ActionChains(driver).move_to_element(span).pause(0.1).perform()
    assert HOSTILE[0] in driver.find_element(By.ID, "strip-readout").text
    assert not driver.execute_script(
        "return !!document.querySelector('#strip *:not(span), .readout img, .readout script')"
    )
    with pytest.raises(Exception, match="no such alert"):
        _ = driver.switch_to.alert


def distinct_bytes(png: bytes) -> int:
    """How many different runs of 12 bytes the image data has: few in a blank picture."""
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(data)
    return len({raw[i : i + 12] for i in range(0, len(raw), 12)})
