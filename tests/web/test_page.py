"""The page at `/` in a real browser, on real nodes: what people see of nodes and of their peers."""

from __future__ import annotations

import itertools
import json
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.browser import missing
from tests.harness.page import (
    Open,
    add,
    color,
    import_texts,
    post,
    send,
    tone,
    until,
    verdict,
    wait_list,
    wait_number,
    wait_shown,
    wait_text,
)
from tests.harness.proxy import Proxy
from tests.harness.support import (
    SCALE,
    NodeProcess,
    free_port_pair,
    run_nodes,
    wait_until,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


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
        wait_number(here, 0, ".copies:not(:empty)")

        two.process.kill()
        verdict(here, "alone", "^Disconnected: 0 of 1 peer reachable$")
        assert here.get_attribute("#verdict", "data-missing") == "true"
        wait_text(here, "#missing", r"last seen \d[^$]*efused\s+(next try in \d+ s|retrying now)$")
        send(here, "while it is gone")
        wait_text(here, "#messages li:first-child .copies", "^not on .* yet$")
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
        wait_number(here, 0, ".copies:not(:empty)")
        wait_number(here, 0, "#missing li")


def test_a_peer_that_is_gone_is_named_and_amber_and_all_gone_is_red(open_page: Open) -> None:
    with run_nodes(3, "--ephemeral") as nodes:
        page = open_page(nodes[0])
        for other in nodes[1:]:
            nodes[0].add(other.address)
        verdict(page, "in_sync", "^In sync with 2 of 2 peers$")
        wait_text(page, "#verdict-note", "^All peers have every message.$")
        assert color(page) == tone(page, "good")
        gone = nodes[1].id
        nodes[1].process.kill()
        verdict(page, "degraded", "^1 of 2 peers is unreachable$")
        wait_text(page, "#verdict-note", "^Everyone else is in sync.$")
        wait_text(page, "#missing", r"last seen \d[^$]*efused\s+(next try in|retrying)")
        title = page.get_attribute("#missing b", "title")
        assert title == f"{gone}, {nodes[1].address}"
        assert color(page) == tone(page, "warn")
        nodes[2].process.kill()
        verdict(page, "alone", "^Disconnected: 0 of 2 peers reachable$")
        wait_number(page, 2, "#missing li")
        assert color(page) == tone(page, "bad")
        tones = {tone(page, name) for name in ("good", "warn", "bad", "info", "soft")}
        assert len(tones) == 5, "they can be told apart"
        noscript = nodes[0].get("/", Accept="text/html").text
        assert "Disconnected: 0 of 2" in noscript and noscript.count("last seen 2") == 2


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


def choose(page: Any, action: str, peer: str) -> None:
    """Choose something in the menu of a peer."""
    page.click(f"[aria-label='Actions: {peer}']")
    page.click(f"[aria-label='{action}: {peer}']")


def test_peers_are_sorted_by_any_column_and_copied(open_page: Open) -> None:
    names = ["node-10", "node-9", "Alpha"]
    with ExitStack() as stack:
        here, *others = (
            stack.enter_context(NodeProcess("--ephemeral", "--name", name))
            for name in ["here", *names]
        )
        for other in others:
            here.add(other.address)
        page = open_page(here, permissions=["clipboard-read", "clipboard-write"])
        wait_number(page, 3, "#peer-rows .badge[data-state=connected]")

        def column(selector: str) -> list[str]:
            return list(page.locator(f"#peer-rows {selector}").all_inner_texts())

        wait_text(page, "#events", r"node-9 at ws://\S+ connected")
        page.click("th >> text=Peer")
        wait_until(lambda: column("b") == ["Alpha", "node-9", "node-10"])
        page.click("th >> text=Peer")
        wait_until(lambda: column("b") == ["node-10", "node-9", "Alpha"])
        assert page.get_attribute("th:first-child", "aria-sort") == "descending"
        page.click("th >> text=Address")
        addresses = sorted(other.address.removeprefix("ws://") for other in others)
        wait_until(lambda: sorted(column(".where")) == addresses)
        where = others[0].address.removeprefix("ws://")
        for action, text in (("Copy address", others[0].address), ("Copy id", others[0].id)):
            page.click(f"[aria-label='Actions: {where}']")
            page.click(f"[aria-label='{action}: {where}']")
            until(page, "async (t) => await navigator.clipboard.readText() === t", text)
            page.keyboard.press("Escape")
            assert not page.is_visible(f"[aria-label='{action}: {where}']")
        page.click(f"[aria-label='Actions: {where}']")
        page.click("h1")
        wait_number(page, 0, ".menu[open]")


def test_a_peer_is_disconnected_retried_and_forgotten_by_its_buttons(open_page: Open) -> None:
    dead = f"127.0.0.1:{free_port_pair()}"
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one)
        add(page, dead)
        wait_text(page, "#add-answer", "^Not connected.*refused.*keeps trying")
        wait_text(page, "#peer-rows", r"[2-9] attempts")
        choose(page, "Retry now", dead)
        wait_text(page, "#peer-rows", r"\b1 attempt,")  # it counts anew
        wait_text(page, "#add-answer", "^Not connected.*refused.*keeps trying")
        choose(page, "Forget", dead)
        wait_text(page, "#add-answer", f"^Forgot {dead}")
        until(page, "() => !document.querySelector('#peer-rows tr')")
        add(page, two.address)
        wait_text(page, "#add-answer", "^Connected")
        choose(page, "Disconnect and forget", two.address.removeprefix("ws://"))
        wait_text(page, "#add-answer", "^Disconnected from .* and forgot its address")
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


def test_the_plots_have_scales_and_times_and_outlive_a_reload(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        one.add(two.address)
        page = open_page(one)
        verdict(page, "in_sync")
        line = "#rates .plot:nth-child(1) path.second"
        figure = "#rates .plot:nth-child(1) .second b"

        def points() -> int:
            return str(page.get_attribute(line, "d") or "").count(",")

        number = itertools.count()

        def is_scaled() -> bool:
            """Commit, between two looks of the page at least once, and see the scale."""
            import_texts(one, (f"{next(number)}" for _ in range(30)))
            top = "document.querySelector('#rates .plot:nth-child(1) .top')?.textContent"
            return bool(re.fullmatch(r"[125][0,k]*/s", page.evaluate(top) or ""))

        wait_until(is_scaled, "a scale")
        wait_until(lambda: points() >= 3)
        before = points()
        page.reload()
        wait_until(lambda: points() >= before)
        wait_text(page, "#rates-time", "^now$")
        page.focus("#rates")
        for _ in range(before + 3):  # to the first sample, and no farther
            page.keyboard.press("ArrowLeft")
        wait_text(page, "#rates-time", r"\d:\d\d:\d\d")
        page.hover("#rates .field >> nth=0")
        wait_text(page, "#rates-time", r"\d:\d\d:\d\d")
        wait_text(page, figure, r"^\d")
        assert page.get_attribute("#rates .cursor >> nth=0", "d")
        page.hover("h1")
        page.evaluate("document.activeElement.blur()")
        wait_text(page, "#rates-time", "^now$")


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
    linked = [dict.fromkeys(ids[:n][-3:], "") for n in range(count)]
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
        pairs = zip(names[1:], others, strict=True)
        labels = [f"{name} ({other.id[:8]})" for name, other in pairs]
        until(page, f"(t) => {shown} === t", ",".join(sorted(labels)))
        titles = f"{rows}.map((row) => row.querySelector('b').title).sort().join()"
        until(page, f"(t) => {titles} === t", ",".join(sorted(other.id for other in others)))
        for name, other in zip(names[1:], others, strict=True):
            whose = f"document.querySelector(`#messages code[title^='origin {other.id}-']`)"
            until(page, f"(t) => {whose}?.textContent === t", f"{name} ({other.id[:8]})")
        page.locator("#mesh text.name", has_text=f"({others[1].id[:8]})").wait_for(state="attached")
        assert page.locator("main img").count() == 0
        page.dblclick("header b")
        page.keyboard.press("Control+C")
        page.fill("#msg", "")
        page.keyboard.press("Control+V")
        assert page.input_value("#msg") == f"one ({here.id})", "a copied name brings the id"
        others[0].process.kill()
        wait_text(page, "#missing b", r"^<b>x</b><img src=x onerror=y\(\)> \(.{8}\)$")


def test_thousands_of_names_do_not_stop_the_page(open_page: Open) -> None:
    script = """async () => {
      const { noteNames, withoutIds } = await import("/static/names.js?other");
      const links = Object.fromEntries([...Array(3000)].map((_, n) => [`${n}`.padStart(32, "0"), `host-${n}`]));
      noteNames({ id: "f".repeat(32), name: "own" }, [{ id: "e".repeat(32), name: "Own", links }]);
      const began = performance.now();
      const texts = [...Array(200)].map(() => withoutIds("connected to host-7 (00000000), own (ffffffff)"));
      return [texts.at(-1), performance.now() - began];
    }"""  # noqa: E501
    with NodeProcess("--ephemeral") as node:
        text, took = open_page(node).evaluate(script)
        assert text == "connected to host-7, own (ffffffff)"
        assert took < 1_000 * SCALE
