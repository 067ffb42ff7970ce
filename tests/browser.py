"""A real browser for tests of pages: Debian's chromium, without a window."""

import contextlib
import shutil

import pytest
from selenium import webdriver


@contextlib.contextmanager
def opened(logs):
    """Yields the browser, or skips the test where none is installed.

    Args:
      logs: Level of each log that the browser keeps, such as {"browser": "ALL"}.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # As root it has no sandbox.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", logs)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser
