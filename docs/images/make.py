"""Make docs/images/report.png: measure the built-in attention model and photograph the top of its report.

Needs chromium and chromedriver: `.venv/bin/python docs/images/make.py`.
"""

import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import assay

WIDTH, HEIGHT = 1100, 1960


def main() -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-sync",
                     "--disable-background-networking", "--no-first-run", "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = assay.measure("builtin:attention", text_name="builtin:text").save(Path(folder) / "report")
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page.as_uri())
            time.sleep(2)
            driver.save_screenshot(str(Path(__file__).parent / "report.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
