"""The page at `/` in a real browser, on real nodes: what people see, and that nothing else goes on.

Every page of these tests fails its test at the end if it wrote an error to the console or asked
anybody but its node.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.settings import HTTP_WAITING
from tests.harness.browser import missing
from tests.harness.http import get_bytes
from tests.harness.proxy import Proxy
from tests.harness.receiver import Receiver
from tests.harness.support import (
    DEADLINE,
    ROOT,
    SCALE,
    NodeProcess,
    free_port_pair,
    request,
    run_nodes,
    wait_sockets,
    wait_until,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

WEB = ROOT / "p2p_sync" / "web"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
MILLISECONDS = DEADLINE * 1000

# Kept from the first moment on: shifts of the layout, and the verdicts that were shown.
WATCH = """
window.watched = { shift: 0, shifts: [], verdicts: [], bars: [] };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    // In the lists of news, what is new comes before the rest: that is what they are for.
    const news = "#messages, #events";
    const moved = entry.sources.filter((s) => !s.node?.parentElement?.closest(news));
    if (!moved.length) continue;
    watched.shift += entry.value;
    watched.shifts.push(entry.value + ": " + moved.map((s) => s.node?.outerHTML?.slice(0, 80)));
  }
}).observe({ type: "layout-shift", buffered: true });
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    const text = document.getElementById("verdict-text").textContent;
    if (watched.verdicts.at(-1) !== text) watched.verdicts.push(text);
    const bar = document.getElementById("progress");
    if (getComputedStyle(bar).visibility === "visible") watched.bars.push(bar.value);
  };
  new MutationObserver(look).observe(document.getElementById("verdict"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
});
"""


Open = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens the page of a node, as often as called; looks at the end what the pages have done."""
    with ExitStack() as stack:
        complaints: list[str] = []

        def opened(
            node: NodeProcess, *, path: str = "/", failing: bool = False, **options: Any
        ) -> Any:
            """`failing`: requests will fail, as they should, and the browser may say so."""
            context = chromium.new_context(**{"viewport": WIDE, "locale": "en-US", **options})
            stack.callback(context.close)
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            origin = f"http://127.0.0.1:{node.port}/"

            def said(message: Any) -> None:
                expected = failing and "Failed to load resource" in message.text
                if message.type in ("error", "warning") and not expected:
                    complaints.append(f"{message.text} {message.location}")

            def asked(request: Any) -> None:
                if not request.url.startswith(origin):
                    complaints.append(f"asked {request.url}")

            page.on("console", said)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("request", asked)
            if options.get("java_script_enabled", True):
                page.add_init_script(WATCH)
            page.goto(origin.rstrip("/") + path)
            return page

        yield opened
        assert not complaints


def until(page: Any, script: str, argument: Any = None) -> Any:
    """Wait until a function of the page returns something true; return that."""
    try:
        return page.wait_for_function(script, arg=argument).json_value()
    except Exception as error:
        raise AssertionError(f"{script} {argument}: {page.inner_text('body')}") from error


def wait_text(page: Any, selector: str, pattern: str) -> str:
    """Wait until the text of the element matches; return it."""
    script = """([selector, pattern]) => {
      const text = document.querySelector(selector)?.innerText;
      return new RegExp(pattern).test(text) && text;
    }"""
    return str(until(page, script, [selector, pattern]))


def verdict(page: Any, state: str, pattern: str = "") -> str:
    """Wait for a verdict: its state, which its colour and sign come from, and its words."""
    page.wait_for_selector(f"#verdict[data-state={state}]")
    assert page.get_attribute("#sign", "href") == f"#i-{state}"
    return wait_text(page, "#verdict-text", pattern)


def shown(page: Any) -> list[str]:
    """The messages in the list, in its order."""
    texts: list[str] = page.eval_on_selector_all(
        "#messages li > p", "(all) => all.map((one) => one.textContent)"
    )
    return texts


def wait_shown(page: Any, text: str) -> None:
    script = (
        "(t) => [...document.querySelectorAll('#messages li > p')].some((p) => p.textContent === t)"
    )
    until(page, script, text)


def wait_list(page: Any, *texts: str) -> None:
    """Wait until the list shows these messages, in this order."""
    wait_until(lambda: shown(page) == [*texts], lambda: f"{shown(page)} and not {[*texts]}")


def wait_number(page: Any, number: int, selector: str) -> None:
    """Wait until so many elements match."""
    found = page.locator(selector)
    wait_until(lambda: found.count() == number, lambda: f"{found.count()} and not {number}")


def follow(page: Any, selector: str) -> None:
    """Click what leads to another page, and wait until that is there."""
    with page.expect_navigation():
        page.click(selector)


def add(page: Any, address: str) -> None:
    page.fill("#address-in", address)
    page.press("#address-in", "Enter")


def send(page: Any, text: str) -> None:
    page.fill("#msg", text)
    page.press("#msg", "Enter")


def import_texts(node: NodeProcess, texts: Any) -> None:
    body = b"".join(json.dumps(text).encode() + b"\n" for text in texts)
    kind = {"Content-Type": "application/x-ndjson"}
    assert request(node.port, "/api/v1/messages", "POST", kind, body).status == 201


def post(node: NodeProcess, text: str, topic: str = "") -> None:
    kind = {"Content-Type": "application/json"}
    body = json.dumps({"data": text, "topic": topic}).encode()
    assert request(node.port, "/api/v1/messages", "POST", kind, body).status == 201


def make_failing_consumer(node: NodeProcess, name: str) -> None:
    """Make a consumer whose first message has failed."""
    kind = {"Content-Type": "application/json"}
    path = f"/api/v1/consumers/{name}"
    assert request(node.port, path, "PUT", kind).status == 201
    (given,) = json.loads(request(node.port, f"{path}?limit=1").body)["messages"]
    body = json.dumps({"position": given["position"], "error": "no paper " * 20}).encode()
    assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200


# -- two nodes ----------------------------------------------------------------------------------


def test_two_nodes_meet_talk_part_and_meet_again(open_page: Open, tmp_path: Path) -> None:
    port = free_port_pair()
    with NodeProcess() as one, ExitStack() as stack:
        two = stack.enter_context(NodeProcess(port=port, data_dir=tmp_path / "two"))
        here, there = open_page(one), open_page(two, failing=True)
        verdict(here, "alone", "^No peers yet$")
        verdict(there, "alone")

        add(here, f"127.0.0.1:{port + 1}")  # as people type it
        wait_text(here, "#add-answer", rf"^Connected to {two.address}")
        for page in (here, there):
            verdict(page, "in_sync", "^In sync with 1 of 1 peer")
            wait_text(page, "#sockets", "^1$")
            wait_text(page, "#events", "connected")
            wait_number(page, 1, "#mesh .node[data-state=connected]")
            wait_number(page, 1, "#peer-rows .badge[data-state=connected]")

        send(here, "hello from here")
        wait_text(here, "#send-answer", "^Sent. Stored here and on a peer")
        wait_shown(there, "hello from here")
        send(there, "hello from there")
        for page in (here, there):
            wait_list(page, "hello from there", "hello from here")
        wait_number(here, 2, ".copies[data-all=true]")

        two.process.kill()
        verdict(here, "alone", "^Disconnected: 0 of 1 peer reachable$")
        assert here.get_attribute("#verdict", "data-missing") == "true"
        wait_text(
            here, "#verdict-note", rf"^Can't reach .* at {two.address.removeprefix('ws://')} since "
        )
        wait_text(here, "#peer-rows", r"attempt.*(next try in \d+ s|retrying now)")
        wait_text(here, "#events", "disconnected")
        verdict(there, "lost", "^Lost contact with the node$")
        wait_text(there, "#verdict-note", "isn.t responding. Retrying")

        stack.enter_context(NodeProcess(port=port, data_dir=tmp_path / "two"))
        for page in (here, there):
            verdict(page, "in_sync", "^In sync with 1 of 1 peer")
        wait_text(there, "#contact", "^live$")
        wait_text(there, "#events", "connected[^$]*connected")  # of both runs
        send(here, "after the restart")
        wait_shown(there, "after the restart")


def test_a_peer_that_is_gone_is_named_and_amber_and_all_gone_is_red(open_page: Open) -> None:
    with run_nodes(3, "--ephemeral") as nodes:
        page = open_page(nodes[0])
        for other in nodes[1:]:
            nodes[0].add(other.address)
        verdict(page, "in_sync", "^In sync with 2 of 2 peers$")
        wait_text(page, "#verdict-note", "^All peers have every message.$")
        assert color(page) == tone(page, "good")
        nodes[1].process.kill()
        verdict(page, "degraded", "^1 of 2 peers is unreachable$")
        gone = nodes[1].address.removeprefix("ws://")
        note = rf"^Can't reach .* at {gone} since .*Everyone else is in sync.$"
        wait_text(page, "#verdict-note", note)
        assert color(page) == tone(page, "warn")
        nodes[2].process.kill()
        verdict(page, "alone", "^Disconnected: 0 of 2 peers reachable$")
        wait_text(page, "#verdict-note", r"^Can't reach .* and 1 other since ")
        assert color(page) == tone(page, "bad")
        tones = {tone(page, name) for name in ("good", "warn", "bad", "info", "soft")}
        assert len(tones) == 5, "they can be told apart"
        noscript = nodes[0].get("/", Accept="text/html").text
        assert "Disconnected: 0 of 2" in noscript and "and 1 other" in noscript


def color(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.getElementById('verdict-text')).color"))


def tone(page: Any, name: str) -> str:
    """The colour that the style sheet has for what is good, a warning, bad, in progress or calm."""
    made = "Object.assign(document.body.appendChild(document.createElement('i')), {id: 'probe'})"
    page.evaluate(f"{made}.style.color = 'var(--{name})'")
    found = page.evaluate("getComputedStyle(document.getElementById('probe')).color")
    page.evaluate("document.getElementById('probe').remove()")
    return str(found)


def test_new_messages_arrive_within_a_second(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node)
        verdict(page, "alone")
        took = []
        for n in range(5):
            began = time.monotonic()
            post(node, f"news {n}")
            script = "(t) => document.querySelector('#messages li > p')?.textContent === t"
            until(page, script, f"news {n}")
            took.append(time.monotonic() - began)
        assert sorted(took)[2] < 1.2 * SCALE, took  # the median: a busy machine delays one or two


def test_the_usual_slip_is_explained_and_mended_by_a_click(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one)
        add(page, f"http://127.0.0.1:{two.port}/")
        wait_text(page, "#add-answer", "Not connected.*HTTP port")
        page.click(f"#add-answer >> text=Add {two.address}")
        wait_text(page, "#add-answer", f"^Connected to {two.address}")
        add(page, one.address)
        wait_text(page, "#add-answer", "this node itself")


def test_a_peer_is_disconnected_retried_and_forgotten_by_its_buttons(open_page: Open) -> None:
    dead = f"127.0.0.1:{free_port_pair()}"
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one)
        add(page, dead)
        wait_text(page, "#add-answer", "^Not connected.*refused.*keeps trying")
        wait_text(page, "#peer-rows", r"[2-9] attempts")
        page.click(f"[aria-label='Retry now: {dead}']")
        wait_text(page, "#peer-rows", r"\b1 attempt,")  # it counts anew
        wait_text(page, "#add-answer", "^Not connected.*refused.*keeps trying")
        page.click(f"[aria-label='Forget: {dead}']")
        wait_text(page, "#add-answer", f"^Forgot {dead}")
        until(page, "() => !document.querySelector('#peer-rows tr')")
        add(page, two.address)
        wait_text(page, "#add-answer", "^Connected")
        page.click("text=Disconnect")
        wait_text(page, "#add-answer", "^Disconnected")
        wait_text(page, "#events", "disconnected")


def test_who_joins_late_sees_it_catch_up(open_page: Open) -> None:
    count = 30_000
    with run_nodes(2, "--ephemeral") as (one, two), Proxy(one.port + 1) as proxy:
        import_texts(one, (f"{n} " + "x" * 300 for n in range(count)))
        proxy.delay(0.06)  # a slow line
        page = open_page(two)
        verdict(page, "alone")
        add(page, proxy.address)
        verdict(page, "catching_up", r"^Catching up: [\d,]+ of 30,000$")
        wait_text(page, "#verdict-note", r"to go, about \d+ (s|min) left")
        verdict(page, "in_sync")
        watched = page.evaluate("watched")
        steps = [text for text in watched["verdicts"] if text.startswith("Catching up")]
        assert len(steps) > 2 and watched["bars"] == sorted(watched["bars"])
        assert 0 < watched["bars"][-1] < 1000
        wait_text(page, "#events", "caught up: 30,000 messages")
        wait_text(page, "#count", "^30,000$")


def test_a_peer_that_does_not_take_messages_is_behind(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two), Proxy(two.port + 1) as proxy:
        import_texts(one, (f"{n} " + "x" * 300 for n in range(30_000)))
        proxy.delay(0.06)
        page = open_page(one)
        add(page, proxy.address)
        verdict(page, "behind", r"^1 peer is up to [\d,]+ messages behind$")
        wait_text(page, "#peer-rows", r"[\d,]+ messages")


# -- messages -----------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "<a href=javascript:alert(1)>click</a>",
    "{{ 7 * 7 }} ${7 * 7}",
    "\u202egnp.exe",
    "</li></ol><h1>not a title</h1>",
    "\x00\x07\x1b[31m",
    "a\u0301" * 300,
    "W" * 5000,
    "\n" * 500,
    "",
]


def test_hostile_messages_are_shown_as_text(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        for text in HOSTILE:
            post(node, text)
        page = open_page(node, failing=True)
        wait_text(page, "#messages-note", "End of the log")
        texts = shown(page)
        assert len(texts) == len(HOSTILE)
        for text, hostile in zip(texts[::-1], HOSTILE, strict=True):
            wanted = hostile or "(empty)"
            short = len(wanted) < 1000 and wanted.count("\n") < 10
            assert text == wanted if short else wanted.startswith(text.rstrip("\u2026\n"))
        page.click("text=show all 5,000 characters")
        wait_shown(page, "W" * 5000)
        strange = "#messages :is(img, svg, script, a:not(.erase, .topic), h1)"
        assert page.locator(strange).count() == 0
        wide = "() => document.documentElement.scrollWidth <= innerWidth"
        assert page.evaluate(wide)
        page.fill("#search", "<img src=x")
        wait_text(page, "#messages-note", "^1 found")
        add(page, "ws://<img src=x onerror=alert(1)>:1")
        wait_text(page, "#add-answer", "^Not added")
        page = open_page(node, path="/?before=<img src=x>", failing=True, java_script_enabled=False)
        assert page.is_visible("[role=alert]") and page.locator("main img").count() == 0
        page.click("text=Back to the page")
        page.locator("#verdict").wait_for()


def test_any_length_of_log_is_paged_through_in_both_orders(open_page: Open) -> None:
    texts = [f"message {n}" for n in range(1000)]
    with NodeProcess("--ephemeral") as node:
        import_texts(node, texts)
        page = open_page(node)
        wait_shown(page, "message 999")
        for order, first in (("first", True), ("last", False)):
            wait_text(page, "#order", f"Sort: newest {order}")
            seen: list[str] = []
            wait_until(partial(see_older, page, seen), "the first one is in sight")
            assert set(seen) == set(texts)
            assert page.locator("#messages li").count() <= 300
            listed = [int(text.split()[1]) for text in shown(page)]
            assert listed == sorted(listed, reverse=first), "without gaps"
            assert max(listed) - min(listed) + 1 == len(listed)
            page.click("#fresh")
            wait_shown(page, "message 999")
            page.click("#order")
        page.click("#order")
        page.reload()
        wait_text(page, "#order", "Sort: newest last")  # it is remembered
        wait_shown(page, "message 999")
        at_end = "(box) => box.scrollTop + box.clientHeight > box.scrollHeight - 9"
        wait_until(lambda: page.eval_on_selector("#scroll", at_end), "the newest in sight")


def see_older(page: Any, seen: list[str]) -> bool:
    """Scroll to the older end; note what is there; return whether it is the beginning."""
    seen += shown(page)
    last = page.inner_text("#order") == "Sort: newest last"
    page.eval_on_selector(
        "#scroll", f"(box) => box.scrollTop = {'0' if last else 'box.scrollHeight'}"
    )
    return "message 0" in seen


def test_a_search_reads_the_whole_log(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        post(node, "The NEEDLE, \u00c4pfel")
        import_texts(node, (f"hay {n}" for n in range(45_000)))
        page = open_page(node)
        page.fill("#search", "needle, \u00e4p")
        wait_text(page, "#messages-note", "^1 found")
        assert shown(page) == ["The NEEDLE, \u00c4pfel"]
        page.fill("#search", "no such thing")
        wait_text(page, "#none", "No messages match \u201cno such thing\u201d")
        page.fill("#search", "hay 4499")
        wait_text(page, "#messages-note", "^11 found")
        page.fill("#search", "")
        wait_shown(page, "hay 44999")


def test_a_search_that_begins_while_the_page_loads_is_carried_out(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, ["needle", *(f"hay {n}" for n in range(60))])
        page = open_page(node)
        held: list[Any] = []
        page.route("**/api/v1/stream?*", lambda route: held.append(route), times=1)
        with page.expect_request("**/api/v1/stream?*"):
            page.reload()
        page.fill("#search", "needle")
        held[0].continue_()
        wait_text(page, "#messages-note", "^1 found")
        assert shown(page) == ["needle"]


def cpu_clock(page: Any) -> Callable[[], float]:
    """What returns the seconds of CPU that the thread of a page has used for its tasks."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))

    return read


def test_a_burst_does_not_freeze_the_page_nor_move_what_is_read(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, (f"before {n}" for n in range(200)))
        follower, reader = open_page(node), open_page(node)
        for page in (follower, reader):
            wait_shown(page, "before 199")
        reader.evaluate("document.getElementById('scroll').scrollTop = 1200")
        top = """() => {
          const box = document.getElementById('scroll').getBoundingClientRect();
          const rows = [...document.querySelectorAll('#messages li')];
          const row = rows.find((li) => li.getBoundingClientRect().bottom > box.top);
          return [row.firstChild.textContent, row.getBoundingClientRect().top];
        }"""
        until(reader, "() => document.getElementById('scroll').scrollTop === 1200")
        before = reader.evaluate(top)
        clocks = {page: cpu_clock(page) for page in (follower, reader)}
        used = {page: clock() for page, clock in clocks.items()}
        import_texts(node, (f"burst {n}" for n in range(10_000)))
        wait_shown(follower, "burst 9999")
        wait_text(reader, "#fresh", "^10,000 new messages$")
        for page in (follower, reader):
            assert page.locator("#messages li").count() <= 300
            # Not how long it took: on a busy machine that says nothing of the page.
            assert clocks[page]() - used[page] < 0.5
        text, place = reader.evaluate(top)
        assert text == before[0] and abs(place - before[1]) < 2
        reader.click("#fresh")
        wait_shown(reader, "burst 9999")
        assert follower.evaluate("document.getElementById('scroll').scrollTop") == 0


# -- topics -------------------------------------------------------------------------------------


def test_a_topic_is_sent_shown_and_chosen_by_a_click(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        one.add(two.address)
        wait_sockets(1, one, two)
        post(one, "plain")
        page = open_page(two)
        verdict(page, "in_sync")
        assert not page.is_visible("#filter")
        page.fill("#topic", "sensors/a")
        send(page, "22 C")
        wait_text(page, "#send-answer", "^Sent")
        wait_shown(page, "22 C")
        assert [(m.get("topic"), m["data"]) for m in one.api("messages")["messages"]] == [
            (None, "plain"), ("sensors/a", "22 C")
        ]  # fmt: skip
        label = page.locator("#messages li", has_text="22 C").locator(".topic")
        assert label.inner_text() == "sensors/a"
        wait_number(page, 1, "#messages .topic")
        label.click()
        wait_list(page, "22 C")
        assert page.url.endswith("/?topic=sensors%2Fa")
        wait_text(page, "#filter", "^sensors/a")
        post(one, "of another topic", "sensors/b")
        post(one, "23 C", "sensors/a")
        wait_text(page, "#count", "^4$")
        wait_list(page, "23 C", "22 C")
        page.reload()
        verdict(page, "in_sync")
        wait_list(page, "23 C", "22 C")
        assert page.input_value("#topic") == "sensors/a"
        page.fill("#search", "22")
        wait_text(page, "#messages-note", "^1 found$")
        page.fill("#search", "")
        wait_number(page, 2, "#messages li")
        page.click("#filter")
        wait_number(page, 4, "#messages li")
        assert page.url.endswith(f":{two.port}/") and not page.is_visible("#filter")
        page.go_back()
        wait_number(page, 2, "#messages li")
        wait_text(page, "#filter", "^sensors/a")


def test_the_topic_that_is_chosen_can_be_read_back_to_its_first_message(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, ({"data": f"{n}", "topic": ("a", "b")[n % 2]} for n in range(400)))
        page = open_page(node, path="/?topic=b")
        wait_shown(page, "399")
        bottom = (
            "() => { const s = document.getElementById('scroll'); s.scrollTop = s.scrollHeight;"
        )
        wanted = [f"{n}" for n in range(399, 0, -2)]
        rows = "[...document.querySelectorAll('#messages li')]"
        texts = f"{rows}.map((li) => li.firstChild.textContent)"
        until(
            page,
            f"{bottom.replace('()', '(wanted)', 1)} return {texts}.join() === wanted; }}",
            ",".join(wanted),
        )


def test_a_bad_topic_is_refused_and_the_message_is_kept(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node, failing=True)
        page.fill("#topic", "no topic")
        send(page, "text")
        wait_text(page, "#send-answer", "^Not sent: a topic is at most 64 letters")
        assert page.input_value("#msg") == "text" and node.count == 0
        page.fill("#topic", "")
        page.press("#msg", "Enter")
        wait_shown(page, "text")
        assert page.locator("#messages .topic").count() == 0


def test_topics_work_without_javascript(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, ({"data": f"{n}", "topic": ("a", "b")[n % 2]} for n in range(500)))
        page = open_page(node, java_script_enabled=False)
        page.fill("#msg", "by a form")
        page.fill("#topic", "no topic")
        page.click("#send button")
        assert page.url.endswith(f":{node.port}/"), "the browser says what a topic may be"
        page.fill("#topic", "b")
        follow(page, "#send button")
        assert shown(page)[:2] == ["by a form", "499"]
        follow(page, "#messages .topic >> nth=0")
        assert page.url.endswith("/?topic=b") and page.inner_text("#filter").startswith("b")
        assert shown(page) == ["by a form", *(f"{n}" for n in range(499, 101, -2))]
        follow(page, "a >> text=Older")
        assert shown(page) == [f"{n}" for n in range(101, 0, -2)]
        follow(page, "a >> text=Newest")
        assert shown(page)[0] == "by a form" and page.url.endswith("/?topic=b")
        follow(page, "#filter")
        assert shown(page)[:3] == ["by a form", "499", "498"]


# -- erasing ------------------------------------------------------------------------------------


def test_a_message_is_erased_by_a_button_that_asks_first(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        two.add(one.address)
        import_texts(one, [f"text {n}" for n in range(120)])
        wait_until(lambda: two.count == 120, "both have all")
        page, other = open_page(one), open_page(two, viewport=PHONE)
        wait_shown(page, "text 119")
        wait_shown(other, "text 119")
        wait_number(other, 50, "#messages li")
        for view in (page, other):  # the window is longer than what is asked for again and again
            view.evaluate("document.getElementById('scroll').scrollTop = 1e6")
            until(view, "() => document.querySelectorAll('#messages li').length >= 100")
        row = "#messages li:nth-child(2)"
        page.hover(row)
        page.click(f"{row} .erase")
        page.click(f"{row} >> text=Cancel")
        page.hover(row)
        page.click(f"{row} .erase")
        assert one.count == 120 and shown(page)[1] == "text 118"
        page.click(f"{row} .question button >> text=Erase")
        for view in (page, other):
            wait_text(view, f"{row} p", r"^\(erased .* by .*\)$")
            assert "text 118" not in view.content()
            assert not view.query_selector(f"{row} .erase")
            assert shown(view)[0] == "text 119" and shown(view)[2] == "text 117"
        assert "was erased by node" in wait_text(other, "#events", "was erased")


def test_a_message_is_erased_without_javascript(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, ["first", "<b>second</b> & more", "third"])
        page = open_page(node, java_script_enabled=False)
        follow(page, "#messages li:nth-child(2) .erase")
        assert page.inner_text("blockquote") == "<b>second</b> & more"
        follow(page, "text=Cancel")
        follow(page, "#messages li:nth-child(2) .erase")
        follow(page, "button")
        assert page.url.endswith(f":{node.port}/")
        assert shown(page)[0] == "third" and shown(page)[2] == "first"
        assert re.fullmatch(r"\(erased .* by .*\)", shown(page)[1])
        assert page.locator("#messages .erase").count() == 2


# -- for everybody ------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(open_page: Open, axe: str, scheme: str, size: dict[str, int]) -> None:
    def check(page: Any, what: str) -> None:
        page.evaluate(f"{axe}; 0")
        found = page.evaluate("async () => (await axe.run()).violations")
        told = [(v["id"], [n["html"] + n["failureSummary"] for n in v["nodes"][:3]]) for v in found]
        assert not told, (what, told)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what

    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one, failing=True, color_scheme=scheme, viewport=size)
        verdict(page, "alone")
        check(page, "alone")
        add(page, two.address)
        verdict(page, "in_sync")
        import_texts(one, ["long " * 1000, *(f"text {n}" for n in range(100))])
        add(page, f"127.0.0.1:{free_port_pair()}")
        wait_text(page, "#add-answer", "^Not connected")
        make_failing_consumer(one, "c" * 64)
        wait_text(page, "#consumer-rows", "no paper")
        page.fill("#topic", "a/" + "b" * 62)
        send(page, "hello")
        wait_text(page, "#send-answer", "^Sent")
        check(page, "in sync, with one that failed")
        page.click("#messages .topic")
        wait_text(page, "#filter", "^a/b")
        check(page, "one topic")
        page.click("#filter")
        page.fill("#search", "text 1")
        wait_text(page, "#messages-note", "found")
        check(page, "a search")
        one.process.send_signal(signal.SIGKILL)
        verdict(page, "lost")
        check(page, "lost")


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
        tab_to("Disconnect")
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
            for n in range(3):
                post(two, f"news {n}")
                wait_shown(page, f"news {n}")
            two.process.kill()
            verdict(page, "alone")
            wait_text(page, "#peer-rows", "attempt")
            one.process.kill()
            verdict(page, "lost")
            shift = page.evaluate("watched.shift")
            assert shift < 0.02, (size, shift, page.evaluate("watched.shifts"))


def test_places_in_the_picture_are_kept_when_others_join_and_go(open_page: Open) -> None:
    with run_nodes(4, "--ephemeral") as nodes:
        page = open_page(nodes[0])
        places = """() => Object.fromEntries([...document.querySelectorAll('#mesh .node')]
          .map((n) => [n.getAttribute('aria-label').match(/127[^,]*/)[0],
            n.getAttribute('transform')]))"""
        before: dict[str, str] = {}
        for count, node in enumerate(nodes[1:], 1):
            add(page, node.address)
            wait_number(page, count, "#mesh .node")
            now = page.evaluate(places)
            assert before.items() <= now.items()
            before = now
        nodes[1].process.kill()
        page.wait_for_selector("#mesh .node[data-state=failed]")
        assert page.evaluate(places) == before


@pytest.mark.parametrize("count", [1, 8, 30, 100])
def test_the_picture_is_readable_with_any_number_of_peers(open_page: Open, count: int) -> None:
    ids = [f"{n * 0x9E3779B97F4A7C15 % 2**64:032x}" for n in range(1, count + 1)]
    linked = [ids[:n][-3:] for n in range(count)]
    peers = [
        {
            "key": ids[n][-12:],
            "id": ids[n],
            "address": f"ws://10.0.0.{n}:8001",
            "rtt_ms": 1.5,
            "state": "connected",
            "direction": ("in", "out")[n % 2],
            "since": 0,
            "behind": 0,
            "attempts": 0,
            "last_error": "",
            "next_try_s": None,
            "version": "1",
            "sent": {"messages": 1, "bytes": 9},
            "received": {"messages": 1, "bytes": 9},
            "by_hand": False,
            "source": None,
            "links": linked[n],
        }
        for n in range(count)
    ]
    with NodeProcess("--ephemeral") as node:
        status = node.api("status")
        told = f"event: state\ndata: {json.dumps(status)}\n\n"
        told += f"event: peers\ndata: {json.dumps({'peers': peers})}\n\n"
        page = open_page(node)
        page.route("**/api/v1/stream?*", lambda route: route.fulfill(body=told))
        page.reload()
        wait_number(page, count, "#mesh .node")
        discs = page.eval_on_selector_all(
            "#mesh circle",
            """(all) => all.map((disc) => {
          const box = disc.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2, box.width / 2];
        })""",
        )
        for n, (x, y, size) in enumerate(discs):
            assert size > 6
            for other in discs[:n]:
                apart = ((x - other[0]) ** 2 + (y - other[1]) ** 2) ** 0.5
                assert apart > size + other[2], "no disc covers another"
        links = sum(len(each) for each in linked)
        assert page.locator("#mesh .chords path").count() == links
        page.focus("#mesh .node[tabindex='0']")
        wait_text(page, "#mesh-note", "^10.0.0.*node .*connected.*1.5 ms")


def test_a_page_that_does_not_reach_its_node_at_first_tries_again(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        post(node, "hello")
        page = open_page(node, failing=True)
        page.route("**/api/v1/stream?*", lambda route: route.abort(), times=1)
        page.reload()
        verdict(page, "lost", "^Lost contact with the node$")
        verdict(page, "alone")
        wait_shown(page, "hello")
        wait_text(page, "#contact", "^live$")


def test_it_is_quiet_while_nobody_looks(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node)
        verdict(page, "alone")
        page.evaluate("""() => {
          Object.defineProperty(document, 'hidden', { get: () => window.away ?? true });
          document.dispatchEvent(new Event('visibilitychange'));
        }""")
        page.wait_for_timeout(1500)  # what is under way ends
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(2500)
        assert asked == []
        post(node, "while it was hidden")
        page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        wait_shown(page, "while it was hidden")


def test_nodes_have_names_and_the_id_comes_on_hover(open_page: Open) -> None:
    markup = "<b>x</b><img src=x onerror=y()>"
    with ExitStack() as stack:
        names = ("one", markup, "web", "Web")
        nodes = [stack.enter_context(NodeProcess("--ephemeral", f"--name={n}")) for n in names]
        here, *others = nodes
        for other in others:
            here.add(other.address)
            other.commit(f"from {other.id}")
        page = open_page(here)
        verdict(page, "in_sync")
        rows = "[...document.querySelectorAll('#peer-rows tr')]"
        shown = f"{rows}.map((row) => row.querySelector('b').textContent).sort().join()"
        until(page, f"(t) => {shown} === t", ",".join(sorted(names[1:])))
        for name, other in zip(names[1:], others, strict=True):
            whose = f"document.querySelector(`#messages code[title^='origin {other.id}-']`)"
            until(page, f"(t) => {whose}?.textContent === t", f"{name} ({other.id[:8]})")
        page.locator("#mesh text.name", has_text=f"({others[1].id[:8]})").wait_for(state="attached")
        assert page.locator("main img").count() == 0
        others[0].process.kill()
        wait_text(
            page, "#verdict-note", r"Can't reach <b>x</b><img src=x onerror=y\(\)> \(.{8}\) at 127"
        )


def test_consumers_show_how_far_they_are_and_what_keeps_them(open_page: Open) -> None:
    with Receiver(lambda _: 500) as receiver, NodeProcess("--hook", receiver.url) as node:
        path = "/api/v1/consumers/printer"
        kind = {"Content-Type": "application/json"}
        options = b'{"topic": "t", "max_attempts": 1}'
        assert request(node.port, path, "PUT", kind, options).status == 201
        page = open_page(node)
        post(node, "a", "t")
        hook, printer = (f"#consumer-rows tr:nth-child({number})" for number in (1, 2))
        wait_text(page, hook, r"^hook-\w{8}\s+http://\S+/\s+HTTP 500 .*\s+1\s+\d\s")
        wait_text(page, printer, r"^printer\s+topic t\s+1\s+0\s+0\s+0\s*$")
        wait_text(page, "#warnings", "messages wait for the webhook")
        (given,) = json.loads(request(node.port, path).body)["messages"]
        body = json.dumps({"position": given["position"], "error": "<b>no paper</b>"}).encode()
        assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200
        request(node.port, path)
        wait_text(page, printer, r"^printer\s+topic t\s+<b>no paper</b>\s+0\s+0\s+1\s")
        for name in json.loads(node.get("/api/v1/consumers").body)["consumers"]:
            request(node.port, f"/api/v1/consumers/{name['name']}", "DELETE")
        until(page, "() => document.getElementById('consumers').hidden")


def test_it_is_small(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node)
        verdict(page, "alone")
        entries = (
            "performance.getEntries().filter((e) => e.encodedBodySize && !e.name.includes('/api/'))"
        )
        sizes = page.evaluate(f"{entries}.map((e) => [e.name, e.encodedBodySize])")
        names = {name.rpartition("/")[2] for name, _ in sizes}
        assert {"", "page.js", "mesh.js", "style.css"} <= names
        assert sum(size for _, size in sizes) < 100_000, sizes
        files = [path for path in WEB.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg")]
        assert sum(path.stat().st_size for path in files) < 100_000
        assert sum(len(path.read_text().splitlines()) for path in files) < 1800


def test_an_empty_message_is_refused_and_one_that_is_there_shows(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        assert node.get("/commit?msg=").status == 302, "as the original does"
        page = open_page(node)
        wait_text(page, "#messages li p", r"^\(empty\)$")
        page.click("#send button")
        wait_text(page, "#send-answer", "^Not sent: the message is empty")
        send(page, " ")
        wait_text(page, "#send-answer", "^Sent")
        answer = node.get("/api/v1/messages")
        assert [message["data"] for message in json.loads(answer.body)["messages"]] == ["", " "]


def test_a_message_is_sent_without_waiting_while_too_many_requests_wait(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (node, other), ExitStack() as stack:
        node.add(other.address)
        page = open_page(node, failing=True)
        verdict(page, "in_sync", "^In sync with 1 of 1 peer")
        place = node.api("events")["next"]
        poll = get_bytes(node.port, f"/api/v1/events?timeout=30&after={place}")
        for _ in range(HTTP_WAITING):
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            waiting.sendall(poll)
        wait_until(lambda: node.get("/api/v1/messages/export").status == 503, "all slots are taken")
        send(page, "sent all the same")
        wait_text(page, "#send-answer", "^Sent")
        assert other.texts() or wait_until(lambda: other.texts() == ["sent all the same"])


def test_a_message_whose_answer_was_lost_is_sent_again_and_stored_once(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node, failing=True)

        def lose(route: Any) -> None:
            if route.request.method == "POST":
                route.fetch()
                route.abort()
            else:
                route.continue_()

        page.route("**/api/v1/messages*", lose)
        send(page, "once")
        wait_text(page, "#send-answer", "^No answer from the node. Send it again")
        assert node.texts() == ["once"]
        page.unroute("**/api/v1/messages*")
        page.click("#send button")
        wait_text(page, "#send-answer", "^Sent")
        send(page, "once")  # the same text, but another message
        wait_until(lambda: node.texts() == ["once", "once"], node.texts)


def test_without_javascript_an_empty_message_is_refused_too(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        node.commit("")
        page = open_page(node, java_script_enabled=False)
        assert page.inner_text("#messages li p") == "(empty)"
        page.click("#send button")
        assert page.url.endswith(f":{node.port}/"), "the browser asks for a text"
        page.fill("#msg", "text")
        follow(page, "#send button")
        wait_until(lambda: len(node.api("messages")["messages"]) == 2)
