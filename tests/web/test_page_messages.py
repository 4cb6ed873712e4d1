"""The messages on the page: read, found, sent, erased, of a topic."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from p2p_sync.settings import HTTP_WAITING
from tests.harness.api import post_all
from tests.harness.browser import missing
from tests.harness.http import get_bytes
from tests.harness.page import (
    PHONE,
    Open,
    add,
    follow,
    import_texts,
    post,
    send,
    shown,
    until,
    verdict,
    wait_list,
    wait_number,
    wait_shown,
    wait_text,
)
from tests.harness.support import (
    NodeProcess,
    run_nodes,
    wait_sockets,
    wait_until,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

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
            wanted = wanted if wanted.strip() else "(blank)"
            short = len(wanted) < 1000 and wanted.count("\n") < 10
            assert text == wanted if short else wanted.startswith(text.rstrip("\u2026\n"))
        page.click("text=show all 5,000 characters")
        wait_shown(page, "W" * 5000)
        page.click("text=show less")
        until(page, "() => document.getElementById('messages').innerText.length < 4000")
        strange = "#messages :is(img, svg, script, a:not(.erase, .topic), h1, mark)"
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


def has_texts(found: Any, texts: list[str]) -> bool:
    return bool(found.all_inner_texts() == texts)


def test_addresses_of_pages_are_links_and_nothing_else_is(open_page: Open) -> None:
    texts = {
        "see https://a.example/b?c=d&e=%22f#g, or not": ["https://a.example/b?c=d&e=%22f#g"],
        "(http://a.example/x_(y)) http://b.example.": [
            "http://a.example/x_(y)",
            "http://b.example",
        ],
        "javascript:alert(1) ftp://a.example www.a.example xhttps://a.example https://": [],
        "https://a.example/<img src=x onerror=alert(1)>": ["https://a.example/"],
        "https://user@a.example:99/": ["https://user@a.example:99/"],
    }
    with NodeProcess("--ephemeral") as node:
        import_texts(node, texts)
        page = open_page(node)
        wait_list(page, *[*texts][::-1])
        rows = page.locator("#messages li > p")
        for number, links in enumerate([*texts.values()][::-1]):
            found = rows.nth(number).locator("a")
            # The page without JavaScript, which is there at first, has no links.
            wait_until(partial(has_texts, found, links), f"the links {links}")
            for link in found.all():
                assert "noreferrer" in link.get_attribute("rel").split()
                assert link.get_attribute("href") == link.inner_text()


def test_what_is_found_is_marked_also_far_down_in_a_long_text(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, ["x" * 5000 + " Needle (1) " + "y" * 5000, "a https://n.example/needle"])
        page = open_page(node)
        page.fill("#search", "NEEDLE")
        wait_text(page, "#messages-note", "^2 found")
        assert page.locator("mark").all_inner_texts() == ["needle", "Needle"]
        assert page.locator("a mark").count() == 1
        page.fill("#search", "needle (1)")
        wait_text(page, "#messages-note", "^1 found")
        assert page.locator("mark").all_inner_texts() == ["Needle (1)"]
        page.fill("#search", "")
        wait_number(page, 0, "mark")


def test_a_search_has_filters(open_page: Open) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(NodeProcess("--ephemeral", "--name=web-1"))
        two = stack.enter_context(NodeProcess("--ephemeral", "--name=Web 2"))
        one.add(two.address)
        wait_sockets(1, one, two)
        post(one, "apple", "fruit")
        post(two, "apple pie", "cake")
        post(two, "pear", "fruit")
        page = open_page(one, failing=True)  # it asks for a topic that there cannot be
        wait_number(page, 3, "#messages li")
        for text, found in {
            "topic:fruit": ["pear", "apple"],
            "topic:fruit app": ["apple"],
            'from:"web 2" since:1h': ["pear", "apple pie"],
            f"from:{one.id[:8]}": ["apple"],
            "since:1h topic:cake from:web-1": [],
            "since:2020-01-02 pie": ["apple pie"],
            "topic: fruit app": ["apple"],
            'FROM:WEB-1 Topic:  "fruit"': ["apple"],
            "topic: from:web-1": ["apple"],
            "notopic:fruit": [],
        }.items():
            page.fill("#search", text)
            wait_list(page, *found)
            pattern = f"^{len(found)} found" if found else "^No messages match"
            wait_text(page, "#messages-note", pattern)
        for text, problem in {
            "since:soon": "^since: takes 10m",
            "from:nobody": "^No node is called .nobody. here",
            f"topic:{'x' * 300}": "topic",
        }.items():
            page.fill("#search", "apple")
            wait_list(page, "apple pie", "apple")
            page.fill("#search", text)
            wait_list(page)  # nothing of the search before
            wait_text(page, "#none", problem)
            wait_text(page, "#messages-note", problem)
        post(two, "apple late")
        post(one, "apple later")
        wait_text(page, "#count", "5")
        wait_list(page)
        page.fill("#search", "apple lat")
        wait_list(page, "apple later", "apple late")


def test_an_imported_message_is_from_the_node_that_committed_it_first(open_page: Open) -> None:
    with ExitStack() as stack:
        one, two, three = (
            stack.enter_context(NodeProcess("--ephemeral", f"--name={name}"))
            for name in ("first", "second", "third")
        )
        two.add(one.address)
        wait_sockets(1, one, two)
        line = {"id": f"{one.id}-1:2", "origin": f"{one.id}-1", "time": 10**12, "data": "old"}
        post_all(two.port, [line], "?skip=held")
        page = open_page(two)
        wait_text(page, "#messages li", r"from\s+first\s+\(imported\)")
        three.add(two.address)  # so it shows the names again
        wait_text(page, "#peers", "third")
        wait_text(page, "#messages li", r"from\s+first\s+\(imported\)")


def test_a_message_may_have_lines(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node)
        page.fill("#msg", "one")
        height = page.locator("#msg").bounding_box()["height"]
        page.press("#msg", "Shift+Enter")
        page.keyboard.type("two")
        assert page.locator("#msg").bounding_box()["height"] > height
        page.press("#msg", "Enter")
        wait_list(page, "one\ntwo")
        assert node.texts() == ["one\ntwo"]
        assert page.locator("#msg").bounding_box()["height"] == height
        post(node, " \n\u200b")
        wait_list(page, "(blank)", "one\ntwo")


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


TOP = """() => {
  const box = document.getElementById('scroll').getBoundingClientRect();
  const rows = [...document.querySelectorAll('#messages li')];
  const row = rows.find((li) => li.getBoundingClientRect().bottom > box.top);
  return [row.querySelector('p').textContent, row.getBoundingClientRect().top];
}"""
"""The text of the first message in sight, and where it is."""


def test_a_burst_does_not_freeze_the_page_nor_move_what_is_read(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, (f"before {n}" for n in range(200)))
        follower, reader = open_page(node), open_page(node)
        for page in (follower, reader):
            wait_number(page, 50, "#messages li")
        reader.eval_on_selector("#scroll", "(box) => box.scrollTop = 1200")
        before = reader.evaluate(TOP)
        clocks = {page: cpu_clock(page) for page in (follower, reader)}
        used = {page: clock() for page, clock in clocks.items()}
        import_texts(node, (f"burst {n}" for n in range(10_000)))
        wait_shown(follower, "burst 9999")
        wait_text(reader, "#fresh", "^10,000 new messages$")
        for page in (follower, reader):
            assert page.locator("#messages li").count() <= 300
            # Not how long it took: on a busy machine that says nothing of the page.
            assert clocks[page]() - used[page] < 0.5
        text, place = reader.evaluate(TOP)
        assert text == before[0] and abs(place - before[1]) < 2
        reader.click("#fresh")
        wait_shown(reader, "burst 9999")
        assert follower.evaluate("document.getElementById('scroll').scrollTop") == 0


def test_who_reads_before_the_scripts_have_begun_stays_where_they_are(open_page: Open) -> None:
    """The page comes with rows; its scripts replace them."""
    with NodeProcess("--ephemeral") as node:
        import_texts(node, (f"before {n}" for n in range(200)))
        page = open_page(node)
        wait_number(page, 50, "#messages li")
        waiting: list[Any] = []
        page.route("**/api/v1/messages?*", lambda route: waiting.append(route), times=1)
        with page.expect_request("**/api/v1/messages?*"):
            page.reload()
        wait_number(page, 200, "#messages li")
        page.eval_on_selector("#scroll", "(box) => box.scrollTop = 900")
        before = page.evaluate(TOP)
        waiting[0].continue_()
        wait_number(page, 50, "#messages li")
        text, place = page.evaluate(TOP)
        assert text == before[0] and abs(place - before[1]) < 2


def test_a_slow_first_answer_does_not_take_the_reader_back_to_the_newest(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        import_texts(node, (f"before {n}" for n in range(60)))
        page = open_page(node)
        wait_shown(page, "before 59")
        first: list[Any] = []
        page.route("**/api/v1/messages?*", lambda route: first.append(route), times=1)
        with page.expect_request("**/api/v1/messages?*"):
            page.reload()
        # The node tells its state again before the page has its first messages.
        post(node, "meanwhile")
        wait_text(page, "#count", "^61$")
        # The page pauses for a second between two reads. After this it would read at once.
        now = page.evaluate("() => performance.now()")
        until(page, "(time) => performance.now() > time + 1200", now)
        first[0].continue_()
        wait_shown(page, "meanwhile")
        page.eval_on_selector("#scroll", "(box) => box.scrollTop = 900")
        post(node, "later")
        wait_text(page, "#fresh", "^1 new message$")
        reads = page.evaluate("() => performance.getEntriesByType('resource').map((e) => e.name)")
        assert sum(url.endswith("&after=") for url in reads) == 1
        assert page.eval_on_selector("#scroll", "(box) => box.scrollTop") == 900


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
            down = "document.getElementById('scroll').scrollTop = 1e6;"
            rows = "document.querySelectorAll('#messages li').length"
            until(view, f"() => {{ {down} return {rows} >= 100; }}")
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
