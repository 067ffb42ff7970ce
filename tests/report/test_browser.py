"""A run's page in a real browser: phone and desktop, light and dark."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from quantjax import report
from tests.browser import opened
from tests.report.test_report import FIGURES

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
WIDTH = "return document.documentElement.scrollWidth"
PICTURES = "return [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt])"
COLOURS = """
const body = getComputedStyle(document.body);
const text = document.querySelector('#training svg text');
return [body.backgroundColor, body.color, getComputedStyle(text).fill];
"""


@pytest.fixture(scope="module")
def page(digits):
    """The page of a short run of the main job."""
    return digits / report.PAGE


@pytest.fixture(scope="module")
def browser():
    with opened({"browser": "ALL"}) as browser:
        yield browser


def show(browser, page, size, scheme):
    """Opens a page at a size, in a light or dark colour scheme."""
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def luminance(colour):
    """Returns the relative luminance of rgb(r, g, b), by WCAG 2."""
    channels = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.by_default("phone-light", "desktop-dark")
def test_everything_is_rendered_and_nothing_is_wider_than_the_page(browser, page, size, scheme):
    show(browser, page, size, scheme)
    for name in FIGURES:
        svg = browser.find_element(By.CSS_SELECTOR, f"#{name} svg")
        assert svg.size["width"] > 300, name
        assert svg.size["height"] > 100, name
        assert svg.get_attribute("aria-label")
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) == 3 * 4 * 9
    assert all(drawn and alt for drawn, alt in pictures)
    assert browser.execute_script(WIDTH) <= SIZES[size][0]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_page_and_figures_is_readable(browser, page, scheme):
    show(browser, page, "desktop", scheme)
    paper, ink, label = browser.execute_script(COLOURS)
    assert (luminance(paper) > 0.5) == (scheme == "light")
    assert contrast(paper, ink) > 7
    assert contrast(paper, label) > 4.5


def test_the_keyboard_alone_reaches_the_sections(browser, page):
    show(browser, page, "desktop", "light")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.text == "Results"
    first.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda b: b.current_url.endswith("#examples"))
    names = browser.execute_script(
        "return [...document.querySelectorAll('[tabindex], details')].map(e => "
        "e.getAttribute('aria-label') || e.innerText)"
    )
    assert all(names)
