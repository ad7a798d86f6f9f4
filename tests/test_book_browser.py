"""The book in a browser, wide and narrow: it fits, its menu, search and figures work, offline."""

import functools
import http.server
import json
import threading
import time

import pytest
from headless import browser_, pytestmark, webdriver  # noqa: F401
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_book import book_  # noqa: F401

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(book):
    """Where the book is served on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(book))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(params=WIDTHS)
def width(request, browser):
    """The browser's window at each size in turn."""
    wide, high = WIDTHS[request.param]
    size = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": wide < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return request.param


def test_no_page_is_wider_than_its_window(browser, address, book, width):
    names = sorted(path.relative_to(book).as_posix() for path in book.rglob("*.html"))
    modules = sorted((name for name in names if name.startswith("api/")), key=len)
    chosen = [name for name in names if not name.startswith(("api/", "_static", "genindex", "py-"))]
    wide = []
    for name in chosen + modules[-4:]:
        browser.get(f"{address}/{name}")
        script = "return document.scrollingElement.scrollWidth - window.innerWidth"
        inner = browser.execute_script("return window.innerWidth")
        if browser.execute_script(script) > 0 or inner > WIDTHS[width][0]:
            wide.append(name)
    assert not wide


def test_a_figure_enlarges_and_escape_puts_it_back(browser, address, width):
    def found(css):
        return browser.find_elements("css selector", css)

    browser.get(f"{address}/notebooks/03_sufficiency.html")
    figure = found("article img.enlarges")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    before = figure.size["width"]
    figure.click()
    wait = WebDriverWait(browser, 10)
    (large,) = wait.until(lambda _: found("dialog.enlarged[open] img"))
    assert large.get_attribute("src") == figure.get_attribute("src")
    assert width == "phone" or large.size["width"] > before
    webdriver.ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    wait.until(lambda _: not found("dialog.enlarged[open]"))


def test_no_request_leaves_the_machine(browser, address):
    browser.get_log("performance")
    for page in ("index.html", "notebooks/02_disentanglement.html", "search.html?q=mask"):
        browser.get(f"{address}/{page}")
        time.sleep(0.3)
    logged = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in logged if "requestWillBeSent" == e["method"][8:]
    ]
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
