"""The book in a browser, wide and narrow: its pages fit, and it asks no other host."""

import functools
import http.server
import json
import threading
import time

import pytest
from headless import browser_, pytestmark  # noqa: F401
from test_book import book_  # noqa: F401


@pytest.fixture(scope="module")
def address(book):
    """Where the book is served on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(book))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_no_page_is_wider_than_its_window(browser, address, book, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    names = sorted(path.relative_to(book).as_posix() for path in book.rglob("*.html"))
    modules = sorted((name for name in names if name.startswith("api/")), key=len)
    chosen = [name for name in names if not name.startswith(("api/", "_static", "genindex", "py-"))]
    wide = []
    for name in chosen + modules[-4:]:
        browser.get(f"{address}/{name}")
        script = "return document.scrollingElement.scrollWidth - window.innerWidth"
        inner = browser.execute_script("return window.innerWidth")
        if browser.execute_script(script) > 0 or inner > width:
            wide.append(name)
    assert not wide


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
