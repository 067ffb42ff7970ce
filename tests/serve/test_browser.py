"""The page in a real browser: each way to search, keyboard, errors, phone, desktop, light, dark."""

import json

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from quantjax.data.decoding import pixel_limit
from tests.browser import opened
from tests.report.test_browser import contrast, luminance
from tests.serve import shops

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
PLANT = """
const [kind, bytes, name] = arguments;
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
const event = kind === 'paste'
  ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
  : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
document.body.dispatchEvent(event);
"""
IS_SETTLED = """
return document.querySelector('#title').textContent.trim() !== ''
  && !document.querySelector('[aria-busy]') && [...document.images].every(i => i.complete);
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shops.make(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def server(shop):
    with pixel_limit(100_000), shops.serving(shop, max_upload_bytes=100_000) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with opened({"browser": "ALL", "performance": "ALL"}) as browser:
        yield browser


def settle(browser):
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(IS_SETTLED))


def show(browser, server, state="", size="desktop", scheme="light"):
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")  # or a new state would be a change within the page
    browser.get(f"{server.url}#{state}")
    settle(browser)


def wait(browser, text):
    """Waits for a title; then for the answer to be drawn."""
    WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "title").text == text)
    settle(browser)


def tiles(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#grid a")


def rows(browser):
    """The rows of the items on the page, from their links; read at once, as the page may change."""
    links = browser.execute_script(
        "return [...document.querySelectorAll('#grid a')].map(a => a.hash)"
    )
    return [int(dict(part.split("=") for part in link[1:].split("&"))["row"]) for link in links]


def neighbours(server, options):
    return [item["row"] for item in server.ask(f"/api/search?{options}").json["neighbours"]]


def text(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector).text


def press(browser, key):
    # Not to an element: a key sent to the file input would be taken for the name of a file.
    webdriver.ActionChains(browser).send_keys(key).perform()


PHOTO = shops.png((200, 60, 50), noise=77)


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_new_image_is_searched_whichever_way_it_comes(browser, server, tmp_path, way):
    show(browser, server)
    if way == "choose":
        path = tmp_path / "new.png"
        path.write_bytes(PHOTO)
        browser.find_element(By.ID, "file").send_keys(str(path))
    else:
        browser.execute_script(PLANT, way, list(PHOTO), "new.png")
    wait(browser, "Nearest items")
    due = [item["row"] for item in server.send(PHOTO).json["neighbours"]]
    assert rows(browser) == due
    assert text(browser, "#asked b") == "new.png"
    image = browser.find_element(By.CSS_SELECTOR, "#asked img")
    assert image.get_attribute("src").startswith("blob:")
    assert image.get_property("naturalWidth") == 48
    assert "Encode" in text(browser, "#numbers")
    assert " ms" in text(browser, "#numbers")
    assert browser.get_log("browser") == []


def test_a_result_leads_to_its_own_neighbours_and_back(browser, server):
    show(browser, server, "row=4")
    assert rows(browser) == neighbours(server, "row=4")[: len(rows(browser))]
    first = rows(browser)[1]
    tiles(browser)[1].click()
    WebDriverWait(browser, 10).until(lambda b: f"row={first}" in b.current_url)
    WebDriverWait(browser, 10).until(lambda b: rows(b) == neighbours(server, f"row={first}"))
    settle(browser)
    assert text(browser, "#asked b") == server.ask(f"/api/search?row={first}").json["query"]["id"]
    browser.back()
    WebDriverWait(browser, 10).until(lambda b: rows(b) == neighbours(server, "row=4"))
    browser.refresh()
    settle(browser)
    assert rows(browser) == neighbours(server, "row=4")


def test_distances_of_each_kind_and_bytes_are_shown(browser, server):
    for mode in ("aqd", "sqd", "rerank"):
        show(browser, server, "row=4")
        browser.find_element(By.CSS_SELECTOR, f"label:has([value={mode}])").click()
        due = server.ask(f"/api/search?row=4&mode={mode}").json["neighbours"]
        rows_due = [item["row"] for item in due]
        WebDriverWait(browser, 10).until(lambda b, due=rows_due: rows(b) == due)
        settle(browser)
        shown = [float(each.text) for each in browser.find_elements(By.CLASS_NAME, "distance")]
        np.testing.assert_allclose(shown, [item["distance"] for item in due], rtol=0.01)
        number = text(browser, "#numbers dd:last-child")
        assert number == ("2 + 24 (vector)" if mode == "rerank" else "2")
    assert "24 items · 12-bit codes · 48 bytes in all" in text(browser, "#facts")


def test_the_filter_shows_one_class_alone(browser, server):
    show(browser, server)
    Select(browser.find_element(By.ID, "class")).select_by_value("green")
    WebDriverWait(browser, 10).until(lambda b: sorted(rows(b)) == list(range(8, 16)))
    browser.find_element(By.ID, "random").click()
    wait(browser, "Nearest items")
    assert set(rows(browser)) < set(range(8, 16))
    assert text(browser, "#status") == "7 of 8 items"
    Select(browser.find_element(By.ID, "class")).select_by_value("")
    WebDriverWait(browser, 10).until(lambda b: len(rows(b)) == 23)
    assert "green" in text(browser, "#status")
    assert "other class" in text(browser, "#status")


def test_the_keyboard_alone_browses_searches_and_filters(browser, server):
    show(browser, server)
    press(browser, "r")
    wait(browser, "Nearest items")
    press(browser, Keys.ARROW_RIGHT)
    columns = len({tile.location["x"] for tile in tiles(browser)})
    for key, due in (
        ("", 0), (Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, 1 + columns), (Keys.ARROW_LEFT, columns),
        (Keys.ARROW_UP, 0), (Keys.ARROW_UP, 0), (Keys.ARROW_LEFT, 0), (Keys.ARROW_RIGHT, 1),
    ):  # fmt: skip
        if key:
            press(browser, key)
        assert browser.switch_to.active_element == tiles(browser)[due]
    second = rows(browser)[1]
    press(browser, Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda b: rows(b) == neighbours(server, f"row={second}"))
    # A search by keyboard goes on from the first of the new items.
    assert browser.switch_to.active_element == tiles(browser)[0]
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "class"
    press(browser, "red")
    WebDriverWait(browser, 10).until(lambda b: set(rows(b)) <= set(range(16, 24)))
    press(browser, Keys.ESCAPE)
    press(browser, Keys.ESCAPE)
    wait(browser, "From the index")
    assert browser.current_url == f"{server.url}#"


def test_everything_that_can_be_pressed_is_reached_by_tab_and_has_a_name(browser, server):
    show(browser, server, "row=3")
    names = []
    for _ in range(12):
        press(browser, Keys.TAB)
        names.append(browser.switch_to.active_element.accessible_name)
    assert all(names)
    for due in ("Choose image", "Random item", "AQD", "Class"):
        assert any(due in name for name in names), due


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"no image", "Cannot read this image\ncannot identify image file"),
        (b"x" * 100_001, "Big.png has 100 kB; the limit is 100 kB."),
        (shops.png((1, 2, 3), size=(400, 400))[:90_000], "Cannot read this image\n160"),
    ],
    ids=["text", "bytes", "pixels"],
)
def test_a_broken_image_is_an_error_that_the_next_search_clears(browser, server, body, message):
    show(browser, server)
    browser.execute_script(PLANT, "drop", list(body), "big.png")
    wait(browser, "No results")
    assert text(browser, "#message").startswith(message)
    assert tiles(browser) == []
    browser.execute_script(PLANT, "drop", list(PHOTO), "new.png")
    wait(browser, "Nearest items")
    assert not browser.find_element(By.ID, "message").is_displayed()
    browser.get_log("browser")  # chromium logs the answers 422


def test_states_that_name_nothing_are_errors(browser, server):
    for state, message in (
        ("row=99", "Row must be from 0 to 23"),
        ("row=1&mode=euclid", "Mode must be one of aqd, sqd, rerank"),
        ("row=1&class=none", "The index has no such class"),
        ("upload=7", "That image was not kept. Choose it again."),
    ):
        show(browser, server, state)
        assert text(browser, "#message") == message
        assert text(browser, "#title") == "No results"
    browser.get_log("browser")


def test_a_server_that_is_gone_is_said(browser, shop):
    with shops.serving(shop) as server:
        show(browser, server)
    browser.find_element(By.ID, "random").click()
    wait(browser, "No results")
    assert text(browser, "#message") == "The server does not answer. Is it still running?"
    browser.get_log("browser")


def test_without_encoder_pictures_or_items_the_page_says_so(browser, shop):
    bare = shop._replace(encoder=None, root=None)
    with shops.serving(bare) as server:
        show(browser, server)
        assert "no encoder" in text(browser, "#prompt")
        assert not browser.find_element(By.ID, "choose").is_displayed()
        assert text(browser, "#grid .no-picture").endswith(".png")
        tiles(browser)[0].click()
        wait(browser, "Nearest items")
        assert "not needed" in text(browser, "#numbers")
        assert "searched by its kept vector" in text(browser, "#asked")
    index = bare.index
    empty = index._replace(codes=index.codes[:0], ids=index.ids[:0], labels=None, vectors=None)
    with shops.serving(bare._replace(index=empty)) as server:
        show(browser, server)
        assert text(browser, "#message").startswith("The index is empty")
        assert not browser.find_element(By.ID, "filter").is_displayed()
    assert browser.get_log("browser") == []


def test_names_of_items_are_text_and_never_html(browser, shop):
    name = '<img src=x onerror="document.title=1">/<b>.png'
    ids = np.array([name, *shop.index.ids[1:]], object)
    index = shop.index._replace(ids=ids, manifest={"classes": ["<i>blue</i>", "green", "red"]})
    with shops.serving(shop._replace(index=index, name="<u>name</u>")) as server:
        show(browser, server, "row=0")
        assert text(browser, "#asked b") == name
        assert "<i>blue</i>" in text(browser, "#asked figcaption")
        assert browser.title == "<u>name</u> · quantjax"
        assert browser.find_elements(By.CSS_SELECTOR, "main i, header u, [onerror]") == []
    browser.get_log("browser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", ["", "row=4", "row=4&class=red&mode=rerank", "row=99"])
def test_every_state_fits_and_is_readable(browser, server, state, size, scheme):
    show(browser, server, state, size, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]
    paper, ink, soft = browser.execute_script(
        "const c = (s) => getComputedStyle(document.querySelector(s)).color;"
        "return [getComputedStyle(document.body).backgroundColor, c('body'), c('#facts')]"
    )
    assert (luminance(paper) > 0.5) == (scheme == "light")
    assert contrast(paper, ink) > 7
    assert contrast(paper, soft) > 4.5
    pictures = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert all(pictures)
    browser.get_log("browser")


def test_nothing_is_asked_of_another_origin(browser, server):
    browser.get_log("performance")
    show(browser, server)
    browser.execute_script(PLANT, "drop", list(PHOTO), "new.png")
    wait(browser, "Nearest items")
    tiles(browser)[0].click()
    settle(browser)
    asked = [
        entry["params"]["request"]["url"]
        for entry in map(message_of, browser.get_log("performance"))
        if entry["method"] == "Network.requestWillBeSent"
    ]
    assert any("/api/search" in url for url in asked)
    own = (server.url, f"blob:{server.url}", "about:blank")
    assert [url for url in asked if not url.startswith(own)] == []


def message_of(entry):
    return json.loads(entry["message"])["message"]
