"""Make the pictures of the pages: docs/images/report.png, the top of the report of the built-in attention model, and
docs/images/studies/SLUG.png, the figures of each study as the gallery draws them from results/.

Needs chromium and chromedriver: `.venv/bin/python docs/images/make.py`.
"""

import base64
import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import assay
from assay.report.gallery import write_gallery

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "results"
WIDTH, HEIGHT = 1100, 1960
PLACE = """
const { x, y, width, height } = document.querySelector(".figures").getBoundingClientRect();
return { x: x + scrollX, y: y + scrollY, width, height };
"""


def main() -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-sync",
                     "--disable-background-networking", "--no-first-run", "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = assay.measure("builtin:attention", text_name="builtin:text").save(Path(folder) / "report")
            driver.get(page.as_uri())
            time.sleep(2)
            driver.save_screenshot(str(HERE / "report.png"))
            figures(driver, Path(folder) / "site")
    finally:
        driver.quit()


def figures(driver: webdriver.Chrome, site: Path) -> None:
    write_gallery(RESULTS, site)
    (HERE / "studies").mkdir(exist_ok=True)
    for study in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        driver.get((site / f"{study.name}.html").as_uri())
        time.sleep(1)
        shot = {"format": "png", "captureBeyondViewport": True, "clip": driver.execute_script(PLACE) | {"scale": 1}}
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]
        (HERE / "studies" / f"{study.name}.png").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
