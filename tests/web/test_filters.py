"""One message by its id, and pages of those that fit: of a node, of a span of time, of a topic."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest

from p2p_sync import Node
from tests.harness.api import bulk, post_all, problem
from tests.harness.support import DEADLINE, SCALE, NodeProcess, request, wait_until

MESSAGES = "/api/v1/messages"
JSON = {"Content-Type": "application/json"}
ORDERS = ["arrival", "time", "newest"]
MOST = 2**53


def read(node: NodeProcess, query: str, limit: int = 1000) -> list[dict[str, Any]]:
    """All messages that a query finds, page by page, as long as there may be more."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = node.api(f"messages?limit={limit}&after={quote(after)}&{query}")
        assert len(page["messages"]) <= limit
        found += page["messages"]
        after = page["next"]
        if page["complete"]:
            return found


def streamed(node: NodeProcess, query: str, count: int) -> list[dict[str, Any]]:
    """The first messages of a stream."""
    found: list[dict[str, Any]] = []
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=DEADLINE)
    with closing(connection):
        connection.request("GET", f"{MESSAGES}/follow?{query}")
        response = connection.getresponse()
        while len(found) < count:
            line = response.readline()
            assert line, found
            found.extend([json.loads(line)] if line.strip() else [])
    assert all(message.pop("next") for message in found)
    return found


@pytest.fixture(scope="module")
def mesh() -> Iterator[list[NodeProcess]]:
    """Three nodes with the same 12 messages, 4 of each, of 2 topics; no test adds more."""
    with NodeProcess("--ephemeral") as one:
        peer = "--peer", one.address
        with NodeProcess("--ephemeral", *peer) as two, NodeProcess("--ephemeral", *peer) as three:
            nodes = [one, two, three]
            for n in range(12):
                post_all(nodes[n % 3].port, [{"data": f"{n}", "topic": "odd" if n % 2 else ""}])
                wait_until(lambda n=n: all(node.count == n + 1 for node in nodes))  # type: ignore[misc]
            yield nodes


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_filters_hold_in_each_order(mesh: list[NodeProcess], order: str, limit: int) -> None:
    node = mesh[1]
    every = read(node, f"order={order}")
    assert len(every) == 12
    middle, end = sorted(message["time"] for message in every)[3:9:5]
    for writer in mesh:
        own = [message for message in every if message["origin"].startswith(writer.id)]
        assert len(own) == 4
        for name in (writer.id, writer.id[:8]):
            query = f"order={order}&node={name}"
            assert read(node, query, limit) == own
            found = [m for m in own if middle <= m["time"] < end]
            assert read(node, f"{query}&since={middle}&until={end}", limit) == found
            odd = [m for m in own if m.get("topic") == "odd"]
            assert read(node, f"{query}&topic=odd", limit) == odd
    found = [message for message in every if message["time"] >= middle]
    assert read(node, f"order={order}&since={middle}", limit) == found and len(found) < 12
    found = [message for message in every if message["time"] < end]
    assert read(node, f"order={order}&until={end}", limit) == found and len(found) < 12
    assert read(node, f"order={order}&node={'0' * 32}") == []
    assert read(node, f"order={order}&since={end}&until={middle}") == []
    assert read(node, f"order={order}&node=&since=0&until={MOST}") == every


def test_a_search_keeps_to_its_filters(mesh: list[NodeProcess]) -> None:
    one = mesh[0]
    own = [f"{n}" for n in range(9, -1, -3)]
    query = f"order=newest&node={one.id}"
    assert [m["data"] for m in read(mesh[2], f"{query}&q=3")] == ["3"]
    newest = read(mesh[2], query)
    assert [m["data"] for m in newest] == own
    query += f"&until={newest[0]['time']}&copies=1&limit=1"
    assert one.api(f"messages?{query}")["messages"][0]["data"] == "6"
    # Peers confirm within a second or two.
    wait_until(lambda: one.api(f"messages?{query}")["messages"][0]["copies"] == 2, "two copies")


@pytest.mark.parametrize("order", ORDERS)
def test_each_page_says_whether_there_is_more(mesh: list[NodeProcess], order: str) -> None:
    for limit, complete in ((11, False), (12, True), (13, True)):
        page = mesh[0].api(f"messages?order={order}&limit={limit}")
        assert page["complete"] is complete
    page = mesh[0].api(f"messages?order={order}&after={quote(page['next'])}")
    assert page["complete"] is True and page["messages"] == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "query, says",
    [
        ("node=abc", "first 4 or more digits"),
        ("node=ABCD", "0-9, a-f"),
        ("node=web-1", "id of a node"),
        (f"node={'a' * 33}", "id of a node"),
        ("since=2026-11-01", "milliseconds since 1970"),
        ("since=", "milliseconds"),
        ("until=-1", "milliseconds"),
        (f"until={MOST + 1}", "milliseconds"),
        ("until=1.5", "milliseconds"),
        ("since=1&since=2", "given twice"),
        ("before=1", "there are: after, limit, order, q, copies, topic, node, since, until"),
    ],
)
def test_what_is_no_filter_gets_400(
    mesh: list[NodeProcess], order: str, query: str, says: str
) -> None:
    answer = mesh[0].get(f"{MESSAGES}?order={order}&{query}")
    assert says in problem(answer, 400)["detail"]


def test_a_stream_keeps_to_its_filters(mesh: list[NodeProcess]) -> None:
    every = read(mesh[0], "order=arrival")
    middle = every[6]["time"]
    own = [message for message in every if message["origin"].startswith(mesh[1].id)]
    assert streamed(mesh[0], f"node={mesh[1].id}", 4) == own
    late = [message for message in every if message["time"] >= middle]
    assert streamed(mesh[0], f"since={middle}", len(late)) == late
    odd = [message for message in own if message["data"] in ("7",)]
    query = f"topic=odd&node={mesh[1].id[:4]}&since={middle}"
    assert streamed(mesh[0], query, 1) == odd
    problem(mesh[0].get(f"{MESSAGES}/follow?until=1"), 400)


def test_a_quiet_stream_shows_that_it_lives_while_others_commit() -> None:
    """Messages that it leaves out wake the node, and are no sign of life for the client."""
    quiet = 5 * SCALE
    with Node(0) as node:
        pages = node.follow(0, 0.5, node="ffff")
        stop = threading.Event()
        begun = time.monotonic()

        def commit() -> None:
            while not stop.wait(0.05) and time.monotonic() < begun + 3 * quiet:
                node.commit("of another node")

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            assert [next(pages), next(pages)] == [[], []]
            assert time.monotonic() - begun < 2 * quiet
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("path", ["messages", "events"])
def test_new_is_the_place_behind_the_last_one(node: NodeProcess, path: str) -> None:
    page = node.api(f"{path}?after=new")
    assert page[path] == [] and page["next"] == node.api(f"{path}?after=new")["next"]
    node.commit("behind it")
    if path == "messages":
        found = node.api(f"messages?after={page['next']}")["messages"]
        assert [message["data"] for message in found] == ["behind it"]
    for order in ("time", "newest"):
        problem(node.get(f"{MESSAGES}?after=new&order={order}"), 400)


def test_the_place_of_a_commit_leads_to_the_message(node: NodeProcess) -> None:
    for query, status in (("", 201), ("?copies=1&timeout=0", 202)):
        body = b'{"data": "here", "topic": "t", "key": "place%b"}' % query.encode()
        answer = request(node.port, MESSAGES + query, "POST", JSON, body)
        assert answer.status == status
        told = json.loads(answer.body)
        where = answer.headers["location"]
        assert where == f"{MESSAGES}/{told['id']}"
        again = request(node.port, MESSAGES, "POST", JSON, body)
        assert again.headers["location"] == where, "the first answer"
        shown = node.get(where)
        del told["copies"]
        assert shown.status == 200 and json.loads(shown.body) == told
        tag = {"If-None-Match": shown.headers["etag"]}
        assert node.get(where, **tag).status == 304
        erased = request(node.port, where, "DELETE")
        assert erased.status == 200 and node.get(where, **tag).body == erased.body
        assert json.loads(erased.body)["data"] is None
    assert "location" not in bulk(node.port, ["one", "two"]).headers


def test_a_message_of_a_bulk_commit_and_of_a_peer_is_found(mesh: list[NodeProcess]) -> None:
    for message in read(mesh[0], "order=time"):
        for node in mesh:
            assert node.api(f"messages/{quote(message['id'], safe='')}") == message


@pytest.mark.parametrize("id", ["x:1", f"{'a' * 32}-1:1", ":", f"{'a' * 32}-1:{'9' * 30}", "a:b:c"])
def test_a_message_that_is_not_there_gets_404(node: NodeProcess, id: str) -> None:
    detail = problem(node.get(f"{MESSAGES}/{quote(id)}"), 404)["detail"]
    assert "no message here has the id" in detail
    assert problem(request(node.port, f"{MESSAGES}/{quote(id)}", "DELETE"), 404)["detail"] == detail
    problem(node.get(f"{MESSAGES}/{quote(id)}?x=1"), 400)
