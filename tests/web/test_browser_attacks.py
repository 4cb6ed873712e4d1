"""A real browser that is led to a node by a page, a redirect or a link of somebody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.browser import missing
from tests.harness.support import DEADLINE, NodeProcess, holds, wait_until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

STRANGER = "ws://stranger.invalid:8001"
ADD = "/add?address=" + quote(STRANGER, safe="")


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(DEADLINE * 1000)
    yield context.new_page()
    context.close()


@contextmanager
def elsewhere(content: str, redirect: str = "") -> Iterator[str]:
    """The URL of a page of another origin, or of one that redirects."""
    asked = threading.Event()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_response(302 if redirect else 200)
            if redirect:
                self.send_header("Location", redirect)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
            assert asked.is_set()
        finally:
            server.shutdown()
            thread.join()


def test_no_page_can_use_another_spelling_of_this_machine(page: Any) -> None:
    names = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433"]
    names += ["127.1", "0x7f000001", "017700000001", "127.0.0.2", "0.0.0.0", "localhost."]
    with NodeProcess("--ephemeral") as node:
        content = '<meta name="referrer" content="no-referrer">'
        for name in names:
            url = f"http://{name}:{node.port}{ADD}"
            content += f'<img src="{url}"><script src="{url}"></script>'
            content += f'<link rel="stylesheet" href="{url}"><iframe src="{url}"></iframe>'
            content += f'<video src="{url}"></video><object data="{url}"></object>'
        with elsewhere(content) as url:
            page.goto(url)
            holds(lambda: node.addresses() == [])
        assert "stranger" not in node.log()


def test_a_redirect_from_a_typed_address_asks_and_the_button_connects(page: Any) -> None:
    with NodeProcess("--ephemeral") as node:
        with elsewhere("", f"http://127.0.0.1:{node.port}{ADD}") as url:
            page.goto(url)
        assert STRANGER in page.inner_text("main") and node.addresses() == []
        page.click("text=Cancel")
        page.wait_for_selector("#add")
        assert node.addresses() == []
        page.goto(f"http://127.0.0.1:{node.port}{ADD}")
        page.click("button")
        page.wait_for_selector("#peer-rows tr")
        wait_until(lambda: node.addresses() == [STRANGER])
        page.goto(f"http://127.0.0.1:{node.port}{ADD}")
        assert page.query_selector("#add"), "it is known now"


def test_the_form_of_the_page_asks_nothing(page: Any) -> None:
    with NodeProcess("--ephemeral") as node:
        page.goto(f"http://127.0.0.1:{node.port}/")
        page.fill("#address-in", STRANGER)
        page.click("#add button")
        page.wait_for_selector("#peer-rows tr")
        assert node.addresses() == [STRANGER]


def test_a_browser_that_comes_over_plain_http_can_press_the_button(page: Any) -> None:
    """It sends no fetch metadata to a host that it does not trust, and the token is in a cookie."""
    with NodeProcess("--http-host", "0.0.0.0", "--http-name", "node.test") as node:
        token = (node.data_dir / "http-token").read_text().strip()
        home = f"http://0.0.0.0:{node.port}"
        page.goto(f"{home}/?token={quote(token)}")
        page.wait_for_selector("#add")
        page.goto(home + ADD)
        page.click("button")
        page.wait_for_selector("#peer-rows tr")
        assert STRANGER in page.inner_text("#peer-rows")
