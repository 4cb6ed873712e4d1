"""The page is for everybody: without JavaScript, by the keyboard, on a phone, and it is small."""

from __future__ import annotations

import gzip
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.harness.browser import missing
from tests.harness.page import (
    PHONE,
    WIDE,
    Open,
    add,
    follow,
    import_texts,
    make_failing_consumer,
    post,
    send,
    shown,
    until,
    verdict,
    wait_number,
    wait_shown,
    wait_text,
)
from tests.harness.support import (
    ROOT,
    NodeProcess,
    free_port_pair,
    request,
    run_nodes,
    wait_sockets,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

WEB = ROOT / "p2p_sync" / "web"


def test_it_works_without_javascript(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        import_texts(one, (f"text {n}" for n in range(250)))
        page = open_page(one, failing=True, java_script_enabled=False)
        page.fill("#address-in", two.address)
        follow(page, "#add button")
        wait_sockets(1, one, two)
        page.fill("#msg", "by a form")
        follow(page, "#send button")
        assert "1 peer" in page.inner_text("#verdict")
        assert re.search(r"\b1\b\s+connected socket\b", page.inner_text(".facts"))
        assert shown(page)[:2] == ["by a form", "text 249"]
        assert two.address in page.inner_text("#peers")
        assert not page.is_visible(".mesh-card") and not page.is_visible("#search")
        follow(page, "a >> text=Older")
        assert shown(page)[-1] == "text 0"
        follow(page, "a >> text=Newest")
        page.fill("#address-in", "what is this")
        follow(page, "#add button")
        assert page.is_visible("[role=alert]")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core; P2P_SYNC_TEST_NODE_MODULES names the directory that has it."""
    kept = os.environ.get("P2P_SYNC_TEST_NODE_MODULES")
    path = Path(kept or ".") / "node_modules" / "axe-core" / "axe.min.js"
    if not kept or not path.exists():
        pytest.skip("needs axe-core of npm in the directory that P2P_SYNC_TEST_NODE_MODULES names")
    return path.read_text()


def check(page: Any, axe: str, what: str) -> None:
    """Fail if axe-core finds anything in a page, or if it is wider than the window."""
    page.evaluate(f"{axe}; 0")
    found = page.evaluate("async () => (await axe.run()).violations")
    told = [(v["id"], [n["html"] + n["failureSummary"] for n in v["nodes"][:3]]) for v in found]
    assert not told, (what, told)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(open_page: Open, axe: str, scheme: str, size: dict[str, int]) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one, failing=True, color_scheme=scheme, viewport=size)
        verdict(page, "alone")
        check(page, axe, "alone")
        add(page, two.address)
        verdict(page, "in_sync")
        import_texts(one, ["long " * 1000, *(f"text {n}" for n in range(100))])
        add(page, f"127.0.0.1:{free_port_pair()}")
        wait_text(page, "#add-answer", "^Not connected")
        make_failing_consumer(one, "c" * 64)
        wait_text(page, "#consumer-rows", "no paper")
        make_failing_consumer(one, "parks", max_attempts=1, shared=True)
        request(one.port, "/api/v1/consumers/parks?limit=1")  # puts aside what has failed
        wait_text(page, "#parked", "1 attempt,")
        page.fill("#topic", "a/" + "b" * 62)
        send(page, "hello")
        wait_text(page, "#send-answer", "^Sent")
        check(page, axe, "in sync, with one that failed")
        page.click(".menu summary")
        check(page, axe, "an open menu")
        page.keyboard.press("Escape")
        page.click("#messages .topic")
        wait_text(page, "#filter", "^a/b")
        check(page, axe, "one topic")
        page.click("#filter")
        page.fill("#search", "text 1")
        wait_text(page, "#messages-note", "found")
        check(page, axe, "a search")
        one.process.send_signal(signal.SIGKILL)
        verdict(page, "lost")
        check(page, axe, "lost")


def test_what_is_touched_is_large(open_page: Open) -> None:
    """44 px, but for links in a text, and 16 px, or a phone zooms into the field."""
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one, viewport=PHONE, has_touch=True, is_mobile=True)
        for state in ("alone", "in_sync"):
            verdict(page, state)
            post(one, "text", "topic")
            page.locator("#messages .topic").first.wait_for()
            make_failing_consumer(one, state, max_attempts=1)
            request(one.port, f"/api/v1/consumers/{state}")  # now it is put aside
            page.locator("#parked button").first.wait_for()
            sizes = page.eval_on_selector_all(
                "a:not(.url), button, input, textarea, summary, th",
                """(all) => all.map((one) => [one.outerHTML.slice(0, 90),
                  one.getBoundingClientRect().height, getComputedStyle(one).fontSize])""",
            )
            shown = [entry for entry in sizes if entry[1] > 1]
            assert len(shown) > 8
            assert not [entry for entry in shown if entry[1] < 43.9]
            fields = [entry for entry in shown if entry[0].startswith(("<input", "<textarea"))]
            assert fields and not [entry for entry in fields if entry[2] != "16px"]
            one.add(two.address)


def test_forced_colours_leave_all_to_be_seen(open_page: Open, axe: str) -> None:
    with run_nodes(3, "--ephemeral") as (one, two, three):
        for node in (two, three):
            one.add(node.address)
        page = open_page(one, forced_colors="active", reduced_motion="reduce")
        verdict(page, "in_sync")
        check(page, axe, "forced colours")
        style = "(all) => all.map((one) => getComputedStyle(one)"
        for selector, part in (("#sign", "stroke"), ("#mesh .link line", "stroke")):
            colors = page.eval_on_selector_all(selector, f"{style}.{part})")
            canvas = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert colors and canvas not in colors
        moving = f"{style}.transitionDuration)"
        assert set(page.eval_on_selector_all("*", moving)) == {"0s"}


def test_the_keyboard_is_enough(open_page: Open) -> None:
    with run_nodes(3, "--ephemeral") as (one, two, three):
        page = open_page(one)
        verdict(page, "alone")
        reached: list[str] = []
        focused = "document.activeElement.id || document.activeElement.innerText"

        def tab_to(name: str) -> None:
            for _ in range(30):
                page.keyboard.press("Tab")
                reached.append(page.evaluate(focused))
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none" or "node" in reached[-1], reached[-1]
                if reached[-1] == name:
                    return
            raise AssertionError(reached)

        tab_to("search")
        tab_to("order")
        tab_to("msg")
        page.keyboard.type("typed")
        page.keyboard.press("Enter")
        wait_shown(page, "typed")
        tab_to("address-in")
        page.keyboard.type(two.address)
        page.keyboard.press("Enter")
        wait_text(page, "#add-answer", "^Connected")
        page.keyboard.type(three.address)
        page.keyboard.press("Enter")
        wait_text(page, "#add-answer", f"^Connected to {three.address}")
        wait_number(page, 2, "#mesh .node")
        page.focus("#mesh .node[tabindex='0']")
        first = wait_text(page, "#mesh-note", "127.0.0.1.*, connected")
        page.keyboard.press("ArrowRight")
        until(page, "(t) => document.getElementById('mesh-note').innerText !== t", first)
        assert page.locator("#mesh .node[tabindex='0']").count() == 1
        tab_to("\u22ef")
        page.keyboard.press("Enter")
        tab_to("Disconnect and forget")
        page.keyboard.press("Enter")
        wait_text(page, "#add-answer", "^Disconnected")


def test_nothing_jumps(open_page: Open) -> None:
    for size in (WIDE, PHONE):
        with run_nodes(2, "--ephemeral") as (one, two):
            import_texts(one, (f"text {n}" for n in range(100)))
            page = open_page(one, failing=True, viewport=size)
            verdict(page, "alone")
            request(one.port, f"/add?address={two.address}")
            verdict(page, "in_sync")
            until(page, "() => document.querySelector('#peers #add')")
            page.wait_for_timeout(300)
            page.evaluate("Object.assign(watched, {shift: 0, shifts: []})")  # the form has moved
            for n in range(3):
                post(two, f"news {n}")
                wait_shown(page, f"news {n}")
            two.process.kill()
            verdict(page, "alone")
            wait_text(page, "#peer-rows", "attempt")
            one.process.kill()
            verdict(page, "lost")
            shift = page.evaluate("watched.shift")
            assert shift < (0.02 if size == WIDE else 0.06), "\n".join(
                [f"{size}", *page.evaluate("watched.shifts")]
            )


def test_it_is_small(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        plain = node.get("/static/page.js")
        assert plain.text == (WEB / "static" / "page.js").read_text()
        packed = node.get("/static/page.js", **{"Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        for answer in (plain, packed):
            again = node.get("/static/page.js", **{"If-None-Match": answer.headers["etag"]})
            assert again.status == 304
        page = open_page(node)
        verdict(page, "alone")
        entries = (
            "performance.getEntries().filter((e) => e.encodedBodySize && !e.name.includes('/api/'))"
        )
        sizes = page.evaluate(f"{entries}.map((e) => [e.name, e.encodedBodySize])")
        names = {name.rpartition("/")[2] for name, _ in sizes}
        assert {"", "page.js", "mesh.js", "style.css"} <= names
        assert sum(size for _, size in sizes) < 60_000, sizes
        files = [path for path in WEB.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg")]
        assert sum(path.stat().st_size for path in files) < 120_000
        assert sum(len(path.read_text().splitlines()) for path in files) < 2400
