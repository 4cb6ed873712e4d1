"""What the page asks for beside the rest of the API: events, messages back from the newest."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.api import post_all
from tests.harness.original import Original
from tests.harness.proxy import Proxy
from tests.harness.support import (
    DEADLINE,
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    run_nodes,
    wait_sockets,
    wait_until,
)

EVENTS = "/api/v1/events"
MESSAGES = "/api/v1/messages"


def asked(node: NodeProcess, target: str, status: int = 200) -> dict[str, Any]:
    answer = node.get(target)
    assert answer.status == status, answer.text
    value = json.loads(answer.body)
    assert isinstance(value, dict)
    return value


def happened(node: NodeProcess, kind: str = "") -> list[dict[str, Any]]:
    return [event for event in asked(node, EVENTS)["events"] if kind in ("", event["type"])]


def wait_events(node: NodeProcess, kind: str, count: int = 1) -> list[dict[str, Any]]:
    wait_until(
        lambda: len(happened(node, kind)) == count, lambda: f"{count} {kind}: {happened(node)}"
    )
    return happened(node, kind)


# -- of a node ----------------------------------------------------------------------------------


def test_peers_join_and_leave_once_each() -> None:
    with run_nodes(2) as (one, two):
        one.add(two.address)
        two.add(one.address)  # of two links between them one goes; nobody leaves
        wait_sockets(1, one, two)
        post_all(one.port, ["text"])
        wait_until(lambda: "text" in two.messages(), "the log flows")
        for node, other in ((one, two), (two, one)):
            (event,) = wait_events(node, "joined")
            told = asked(node, "/api/v1/status")["node"]
            assert asked(other, "/api/v1/status")["node"]["id"][:8] in event["text"]
            assert set(event) == {"id", "time", "type", "text", "peer"}
            assert told["started"] <= event["time"] <= time.time() * 1000
            assert asked(node, EVENTS)["started"] == told["started"]
        (entry,) = asked(one, "/api/v1/peers")["peers"]
        assert happened(one, "joined")[0]["peer"] == entry["key"]
        holds(lambda: not happened(one, "left") and not happened(two, "left"))
        two.process.kill()
        wait_events(one, "left")


def test_an_original_joins_and_leaves() -> None:
    with NodeProcess("--ephemeral") as node:
        with Original() as original:
            original.add(node.address)
            (event,) = wait_events(node, "joined")
            assert "original" in event["text"]
        wait_events(node, "left")


def test_an_address_that_keeps_failing_is_one_event_until_it_is_asked_for_again() -> None:
    dead = f"ws://127.0.0.1:{free_port_pair()}"
    with NodeProcess("--ephemeral") as node:
        node.add(dead)
        (event,) = wait_events(node, "dial_failed")
        assert dead in event["text"] and "refused" in event["text"]

        def attempts() -> int:
            return int(asked(node, "/api/v1/peers")["peers"][0]["attempts"])

        wait_until(lambda: attempts() >= 2, "it has failed again")
        assert [event["type"] for event in happened(node)] == ["started", "dial_failed"]
        node.add(dead)
        wait_events(node, "dial_failed", 2)


def test_who_turns_a_dial_down_refuses() -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        one.add(f"ws://127.0.0.1:{two.port}")  # the port of the page
        (event,) = wait_events(one, "refused")
        assert two.address in event["text"]


def test_catching_up_is_told_at_its_end() -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        post_all(one.port, (f"{n}" for n in range(2500)))
        two.add(one.address)
        (event,) = wait_events(two, "caught_up")
        assert "2,500" in event["text"] and event["peer"] is None
        for n in range(5):
            post_all(one.port, [f"later {n}"])
        wait_until(lambda: "later 4" in two.messages(), "they have arrived")
        assert len(happened(two, "caught_up")) == 1, "single messages are ordinary"


# -- asking for them ----------------------------------------------------------------------------


def test_a_poll_waits_for_the_next_event() -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        after = asked(one, EVENTS)["next"]
        began = time.monotonic()
        assert asked(one, f"{EVENTS}?timeout=1&after={after}")["events"] == []
        assert 0.9 < time.monotonic() - began < 1 + 5 * SCALE
        answers: list[dict[str, Any]] = []
        query = f"{EVENTS}?timeout=20&after={after}"
        thread = threading.Thread(target=lambda: answers.append(asked(one, query)))
        thread.start()
        one.add(two.address)
        thread.join(DEADLINE)
        assert [event["type"] for event in answers[0]["events"]] == ["joined"]
        assert [event["id"] for event in answers[0]["events"]] == [2]
        after = answers[0]["next"]
        assert asked(one, f"{EVENTS}?after={after}") == {**answers[0], "events": []}


def test_a_place_of_an_earlier_start_is_gone() -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        two.add(one.address)
        wait_events(one, "joined")
        earlier = asked(one, EVENTS)
        assert one.stop() == 0
        with NodeProcess("--ephemeral", port=one.port):
            two.add(one.address)
            wait_events(one, "joined")
            for after in (earlier["next"], "1", "99"):
                told = asked(one, f"{EVENTS}?after={after}&timeout=20", 410)
                assert asked(one, f"{EVENTS}?after={told['next']}") == asked(one, EVENTS)
            ahead = asked(one, EVENTS)["next"].partition("-")[0] + "-99"
            told = asked(one, f"{EVENTS}?after={ahead}", 410)
            assert told["next"] == asked(one, EVENTS)["next"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("after=-1", "next"),
        ("after=x", "next"),
        ("after=1&after=2", "twice"),
        ("timeout=31", "whole number"),
        ("timeout=-1", "whole number"),
        ("timeout=x", "whole number"),
    ],
)
def test_a_bad_poll_is_refused(node: NodeProcess, query: str, reason: str) -> None:
    assert reason in asked(node, f"{EVENTS}?{query}", 400)["detail"]


def test_a_node_stops_within_two_seconds_with_polls_open() -> None:
    with NodeProcess("--ephemeral") as node:
        query = f"{EVENTS}?after={asked(node, EVENTS)['next']}"
        threads = [threading.Thread(target=poll, args=(node, query)) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: node.get(f"{query}&timeout=1").status == 503, "all slots are taken")
        assert node.get(EVENTS).status == 200, "who does not wait needs none"
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 2 * SCALE
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def poll(node: NodeProcess, query: str) -> None:
    with suppress(OSError, http.client.HTTPException):  # the node is gone
        wait_until(lambda: node.get(f"{query}&timeout=30").status != 503, "a slot")


# -- back from the newest -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    """A node with a log that is longer than one search reads; no test adds to it."""
    with NodeProcess("--ephemeral") as process:
        post_all(process.port, ["\u00c4 Needle 100% _x_", *(f"hay {n}" for n in range(25_000))])
        yield process


def back(node: NodeProcess, query: str = "", limit: int = 200) -> Iterator[dict[str, Any]]:
    """The answers from the newest back to the beginning."""
    after = ""
    while True:
        target = f"{MESSAGES}?order=newest&limit={limit}&after={quote(after)}{query}"
        answer = asked(node, target)
        yield answer
        after = answer["next"]
        if answer["complete"]:
            return


def test_newest_goes_back_to_the_beginning(node: NodeProcess) -> None:
    pages = list(back(node, "", 1000))
    texts = [message["data"] for page in pages for message in page["messages"]]
    assert texts == [*(f"hay {n}" for n in reversed(range(25_000))), "\u00c4 Needle 100% _x_"]
    assert asked(node, f"{MESSAGES}?order=newest&after={pages[-1]['next']}")["complete"]


@pytest.mark.parametrize(
    ("text", "count"),
    [("needle", 1), ("\u00e4 NEE", 1), ("100% _", 1), ("hay 2499", 11), ("no", 0)],
)
def test_a_search_finds_what_holds_the_text(node: NodeProcess, text: str, count: int) -> None:
    pages = list(back(node, f"&q={quote(text)}"))
    found = [message["data"] for page in pages for message in page["messages"]]
    assert len(found) == count
    assert all(text.casefold() in data.casefold() for data in found)
    assert len(pages) == 2, "one search reads a bounded part"


def test_a_search_finds_an_id(node: NodeProcess) -> None:
    message = asked(node, f"{MESSAGES}?limit=1")["messages"][0]
    found = [m for page in back(node, f"&q={message['id']}") for m in page["messages"]]
    assert message in found and all(m["id"].startswith(message["id"]) for m in found)


def test_large_messages_make_short_pages() -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, (f"{n} " + "x" * 60_000 for n in range(60)))
        pages = list(back(node))
        assert len(pages) > 2
        assert max(sum(len(m["data"]) for m in page["messages"]) for page in pages) < 1_200_000
        texts = [message["data"].split()[0] for page in pages for message in page["messages"]]
        assert texts == [f"{n}" for n in reversed(range(60))]


@pytest.mark.parametrize(
    "query",
    [
        "order=newest&after=x",
        "order=newest&limit=0",
        "order=newest&copies=1&limit=201",
        "order=newest&copies=2",
        "order=newest&q=" + "x" * 201,
        "order=arrival&q=x",
        "order=time&copies=1",
    ],
)
def test_a_bad_question_is_refused(node: NodeProcess, query: str) -> None:
    assert asked(node, f"{MESSAGES}?{query}", 400)["detail"]


def test_copies_are_counted() -> None:
    with run_nodes(3, "--ephemeral") as nodes:
        post_all(nodes[0].port, ["alone"])

        def copies() -> list[int]:
            page = asked(nodes[0], f"{MESSAGES}?order=newest&limit=10&copies=1")
            return [message["copies"] for message in page["messages"]]

        assert copies() == [0]
        nodes[0].add(nodes[1].address)
        nodes[0].add(nodes[2].address)
        wait_until(lambda: copies() == [2], "both have it")
        nodes[1].process.kill()
        wait_until(lambda: copies() == [1], "one of them is gone")
        (message,) = asked(nodes[0], f"{MESSAGES}?order=newest")["messages"]
        assert not {"copies", "lacking"} & {*message}


def test_it_is_said_which_peers_lack_a_message() -> None:
    with run_nodes(2, "--ephemeral") as (here, there), Proxy(there.port + 1) as proxy:
        here.add(proxy.address)
        wait_sockets(1, here, there)

        def lacking(text: str) -> list[str]:
            page = asked(here, f"{MESSAGES}?order=newest&q={text}&copies=1")
            return list(page["messages"][0]["lacking"])

        proxy.stall()
        here.commit("news")
        assert lacking("news") == [there.id]
        proxy.heal()
        wait_until(lambda: lacking("news") == [], "it has confirmed it")
