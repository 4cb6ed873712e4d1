"""Streams of server-sent events, and what all streams have in common: they hold no thread, and no
client can hold up the others."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack
from itertools import islice

import pytest

from p2p_sync.settings import (
    HTTP_STREAMS,
    HTTP_THREADS,
    PAGE_NEWS,
)
from tests.harness.api import post_all, read_pages
from tests.harness.http import get_bytes
from tests.harness.process import cpu, held, memory
from tests.harness.proxy import Proxy
from tests.harness.streams import EVENTS, Sent, streaming
from tests.harness.support import (
    DEADLINE,
    SCALE,
    NodeProcess,
    changed,
    free_port_pair,
    is_open,
    request,
    run_nodes,
    wait_sockets,
    wait_until,
)

FOLLOW = "/api/v1/messages/follow"
PAGE = "/api/v1/stream"
TARGETS = (FOLLOW, "/api/v1/events", PAGE)


def asking(port: int, target: str = FOLLOW) -> socket.socket:
    """A connection on which a stream was asked for."""
    sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
    sock.sendall(get_bytes(port, target))
    return sock


def open_streams(node: NodeProcess) -> int:
    found = re.search(r"^p2p_sync_http_streams (\d+)", node.get("/metrics").text, re.M)
    assert found
    return int(found[1])


def texts(events: list[Sent]) -> list[str]:
    return [event.data["data"] for event in events]


# -- messages and events --------------------------------------------------------------------------


def test_messages_come_as_events_and_a_browser_goes_on_where_it_was() -> None:
    with run_nodes(2, "--ephemeral") as (here, there):
        here.add(there.address)
        wait_sockets(1, here, there)
        post_all(here.port, [f"before\n{n}" for n in range(250)])
        with streaming(here.port, FOLLOW) as stream:
            found = list(islice(stream.events(), 250))
            there.commit("from there")
            found.append(stream.next())
            assert stream.retry == "1000"
        assert {event.type for event in found} == {"message"}
        assert [event.data for event in found] == read_pages(here.port, "arrival")[0]
        place = found[199].id
        again = {"Last_Event_ID": place}
        for target, headers in ((f"{FOLLOW}?after={place}", {}), (f"{FOLLOW}?after=0", again)):
            with streaming(here.port, target, **headers) as stream:
                assert list(islice(stream.events(), 51)) == found[200:]


def test_a_topic_and_an_erased_message_come_as_events(node: NodeProcess) -> None:
    kind = {"Content-Type": "application/json"}
    for n in range(6):
        body = json.dumps({"data": f"{n}", "topic": ("a", "b")[n % 2]}).encode()
        request(node.port, "/api/v1/messages", "POST", kind, body)
    with streaming(node.port, FOLLOW) as every, streaming(node.port, f"{FOLLOW}?topic=b") as some:
        found = [list(islice(every.events(), 6)), list(islice(some.events(), 3))]
        assert [texts(events) for events in found] == [[*"012345"], [*"135"]]
        first = found[1][0].data["id"]
        assert request(node.port, f"/api/v1/messages/{first}", "DELETE").status == 200
        for stream in (every, some):
            event = stream.next()
            assert (event.type, event.data["id"], event.data["data"]) == ("erased", first, None)
            assert event.data["erased"]["node"] == node.id


def test_the_events_of_the_node_come_as_events_and_without_asking_for_them_as_before() -> None:
    with run_nodes(2, "--ephemeral") as (here, there):
        with streaming(here.port, "/api/v1/events") as stream:
            first = stream.next()
            assert (first.type, first.data["type"]) == ("event", "started")
            here.add(there.address)
            event = stream.next()
            assert (event.type, event.data["type"]) == ("event", "joined")
            assert here.api("events")["events"] == [first.data, event.data], "by polling"
            there.process.kill()
            other = stream.next()
            assert other.data["type"] == "left"
        with streaming(here.port, "/api/v1/events", Last_Event_ID=event.id) as stream:
            assert stream.next() == other
        assert here.api("events")["next"] >= other.id


@pytest.mark.parametrize("target", TARGETS)
def test_a_place_that_is_none_is_refused(node: NodeProcess, target: str) -> None:
    for headers in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "1-1"}):
        answer = request(node.port, target, headers={"Accept": EVENTS, **headers})
        assert answer.status == 400, answer
        assert json.loads(answer.body)["detail"].startswith("Last-Event-ID must be the next of")
    answer = request(node.port, f"{target}?before=1", headers={"Accept": EVENTS})
    assert answer.status == 400 and "no parameter 'before'" in json.loads(answer.body)["detail"]
    gone = {"Accept": EVENTS, "Last-Event-ID": "01234567-1"}
    if target != PAGE:
        answer = request(node.port, target, headers=gone)
        assert answer.status == 410 and json.loads(answer.body)["next"].endswith("-0")
        assert "Last-Event-ID belongs to another log" in json.loads(answer.body)["detail"]


# -- the stream of the page -----------------------------------------------------------------------


def test_the_page_is_told_all_that_it_shows() -> None:
    with run_nodes(2, "--ephemeral") as (here, there):
        here.commit("before it opened")
        with streaming(here.port, PAGE) as stream:
            first = stream.next()
            assert (first.type, first.data["verdict"]["state"]) == ("state", "alone")
            told, asked = ({**state, "resources": None} for state in (first.data, here.status()))
            assert told == asked
            assert first.data["resources"]["memory"] > 0  # it may have grown since
            assert stream.next() == Sent("consumers", first.id, {"consumers": []})
            assert stream.next() == Sent("peers", first.id, {"peers": []})
            here.add(there.address)
            joined = in_sync = False
            while not (joined and in_sync):
                event = stream.next("event", "state")
                joined |= event.type == "event" and event.data["type"] == "joined"
                in_sync |= event.type == "state" and event.data["verdict"]["state"] == "in_sync"
            there.commit("hello")
            message = stream.next("message")
            assert (message.data["data"], message.data["copies"]) == ("hello", 1)
            here.commit("from here")
            mine = stream.next("message").data
            copies, count = mine["copies"], 2
            while (copies, count) != (1, 3):
                event = stream.next("copies", "state")
                if event.type == "copies":
                    copies = event.data.get(mine["id"], mine)["copies"]
                else:
                    count = event.data["messages"]["count"]
        with streaming(here.port, PAGE, Last_Event_ID=message.id) as stream:
            assert texts([stream.next("message")]) == ["from here"], "what came meanwhile"
        for place in ("01234567-5.01234567-5", message.id.replace("-", "-9")):
            with streaming(here.port, f"{PAGE}?after={place}") as stream:
                assert stream.next("reload", "message").type == "reload"
                assert stream.next("event").data["id"] == 1
                here.commit("on from here")
                assert texts([stream.next("message")]) == ["on from here"]


def test_a_change_of_the_peers_is_told_at_once(node: NodeProcess) -> None:
    dead = f"ws://127.0.0.1:{free_port_pair()}"
    with streaming(node.port, PAGE) as stream:
        assert stream.next("peers").data == {"peers": []}
        node.add(dead)
        lists = (event.data["peers"] for event in stream.events() if event.type == "peers")
        found = next(peers[0] for peers in lists if peers and peers[0]["attempts"])
        assert found["address"] == dead and found["last_error"]
        key = found["key"]
        assert request(node.port, f"/api/v1/peers/{key}", "DELETE").status == 204
        began = time.monotonic()
        assert next(peers for peers in lists if not peers) == []
        assert time.monotonic() - began < 0.9 * SCALE, "not by the look once a second"


def test_of_many_messages_the_page_is_told_to_read_the_newest() -> None:
    with NodeProcess("--ephemeral") as node:
        _burst(node)


def _burst(node: NodeProcess) -> None:
    with streaming(node.port, PAGE) as stream:
        place = stream.next("state").id
        post_all(node.port, [f"{n}" for n in range(10_000)])
        node.commit("last")
        sent: list[Sent] = []
        while not sent or sent[-1].id.partition(".")[0] != node.api("messages?after=new")["next"]:
            sent.append(stream.next("message", "reload"))
        assert len(sent) < 500, "not each of 10,000"
    with streaming(node.port, f"{PAGE}?after={place}") as stream:
        assert stream.next("reload", "message").type == "reload"
    with streaming(node.port, f"{PAGE}?after={sent[-1].id}") as stream:
        post_all(node.port, ["few"] * (PAGE_NEWS - 1))
        sent = []
        while sum(event.type == "message" for event in sent) < PAGE_NEWS - 1:
            sent.append(stream.next("message", "reload"))
        assert {event.type for event in sent} == {"message"}


# -- what streams cost ----------------------------------------------------------------------------


def test_streams_hold_no_thread_and_there_is_a_limit() -> None:
    with NodeProcess("--ephemeral") as node, ExitStack() as stack:
        before = held(node, "task")
        for n in range(HTTP_STREAMS):
            stack.enter_context(streaming(node.port, TARGETS[n % 3]))
        assert HTTP_STREAMS > HTTP_THREADS
        assert held(node, "task") <= before + 1, "one thread for all"
        assert open_streams(node) == HTTP_STREAMS
        for target in TARGETS:
            for method in ("GET", "HEAD"):
                answer = request(node.port, target, method, {"Accept": EVENTS})
                assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert node.commit("others are served").status == 302
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            for _ in range(90)
        ]
        for sock in connections:  # streams take none of their places
            sock.sendall(get_bytes(node.port, "/healthz"))
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
        stack.pop_all().close()
        wait_until(lambda: open_streams(node) == 0, lambda: open_streams(node))
        with streaming(node.port, FOLLOW) as stream:
            assert texts([stream.next()]) == ["others are served"]


def test_idle_streams_cost_next_to_nothing() -> None:
    with run_nodes(2, "--ephemeral") as (node, other), ExitStack() as stack:
        node.add(other.address)
        wait_sockets(1, node, other)
        for _ in range(50):
            stack.enter_context(streaming(node.port, PAGE)).next("peers")
        before, began = cpu(node), time.monotonic()
        wait_until(lambda: time.monotonic() - began > 5)
        assert cpu(node) - before < 0.15, "less than 3 % of a core for all of them"


def test_nobody_waits_for_a_client_that_reads_nothing() -> None:
    limits = {"HTTP_STUCK": 3.0 * SCALE}
    with NodeProcess("--ephemeral", command=changed(**limits)) as node, ExitStack() as stack:
        deaf = [stack.enter_context(asking(node.port)) for _ in range(20)]
        wait_until(lambda: open_streams(node) == len(deaf))
        before = memory(node)
        with streaming(node.port, FOLLOW) as stream:
            post_all(node.port, [f"{n:060000}" for n in range(700)])
            found = list(islice(stream.events(), 700))
        assert [text[-9:] for text in texts(found)] == [f"{n:09}" for n in range(700)]
        assert memory(node) - before < 40 + 20 * 1.5, "the log, and a piece each"
        wait_until(lambda: open_streams(node) == 0, "they are closed")
        for sock in deaf:
            assert not is_open(sock) or sock.recv(1 << 16)


def test_a_slow_client_gets_each_message_once_and_in_order() -> None:
    with NodeProcess("--ephemeral") as node, Proxy(node.port) as proxy:
        post_all(node.port, [f"{n:05000}" for n in range(5_000)])
        proxy.rate(4_000_000)
        with streaming(proxy.port, FOLLOW) as stream:
            events = stream.events()
            found = list(islice(events, 2_000))
            with streaming(node.port, f"{FOLLOW}?after={found[-1].id}") as other:
                assert texts(list(islice(other.events(), 3_000)))[-1] == f"{4_999:05000}"
                began = time.monotonic()
                node.commit("news")
                assert texts([other.next()]) == ["news"]
                assert time.monotonic() - began < 1.0 * SCALE, "while the slow one lags behind"
            proxy.rate(0)
            found += islice(events, 3_001)
        assert [text.lstrip("0") for text in texts(found)][1:] == [
            *map(str, range(1, 5_000)),
            "news",
        ]


def test_a_slow_client_learns_how_much_was_deleted_before_it_got_there() -> None:
    with NodeProcess("--ephemeral", "--keep-messages", "100") as node, Proxy(node.port) as proxy:
        with streaming(proxy.port, FOLLOW) as stream:
            node.commit("first")
            assert texts([stream.next()]) == ["first"]
            proxy.stall()
            for _ in range(10):
                post_all(node.port, ["x" * 50_000] * 100)
            wait_until(lambda: node.count <= 200, lambda: node.count)
            proxy.heal()
            got, missed = 0, 0
            while got + missed < 1_000:
                event = stream.next()
                if event.type == "missed":
                    missed += event.data["missed"]
                else:
                    got += 1
        assert missed > 0 and got + missed == 1_000


def test_a_line_or_a_comment_comes_while_nothing_else_does() -> None:
    command = changed(API_STREAM_PAUSE=0.1)
    with NodeProcess("--ephemeral", command=command) as node:
        for target in TARGETS:
            with streaming(node.port, target) as stream:
                comments = 0
                while comments < 3:
                    comments += "" in stream.block()


# -- HTTP -----------------------------------------------------------------------------------------


def answered(node: NodeProcess, request: str) -> bytes:
    """What comes first on a connection that sends these lines."""
    head = "\r\n".join([request, "Host: localhost", f"Accept: {EVENTS}", "", ""])
    with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as sock:
        sock.sendall(head.encode())
        answer = sock.recv(1 << 16)
        while b"\r\n\r\n" not in answer or (
            not request.startswith("HEAD") and b"retry: 1000\n\n" not in answer
        ):
            answer += sock.recv(1 << 16)
        return answer


@pytest.mark.parametrize("target", TARGETS)
def test_each_way_of_asking_is_understood(node: NodeProcess, target: str) -> None:
    for version in ("1.0", "1.1"):
        head, _, body = answered(node, f"GET {target} HTTP/{version}").partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/{version} 200 OK".encode()) and EVENTS.encode() in head
        assert b"Connection: close" in head and b"Cache-Control: no-cache" in head
        assert (b"chunked" in head) == (version == "1.1")
        assert re.match(rb"([0-9A-F]+\r\n)?retry: 1000\n\n", body)
        head, _, body = answered(node, f"HEAD {target} HTTP/{version}").partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/{version} 200 OK".encode()) and body == b""
    wait_until(lambda: open_streams(node) == 0)


def test_requests_before_a_stream_are_answered_and_those_behind_it_are_not() -> None:
    with NodeProcess("--ephemeral") as node:
        _pipeline(node)


def _pipeline(node: NodeProcess) -> None:
    requests = [get_bytes(node.port, path) for path in ("/healthz", "/commit?msg=a", FOLLOW)]
    behind = get_bytes(node.port, "/commit?msg=behind")
    with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as sock:
        sock.sendall(b"".join(requests) + behind)
        answer = b""
        while b'"data": "a"' not in answer:
            answer += sock.recv(1 << 16)
        for _ in range(3):
            sock.sendall(behind * 100)
        node.commit("b")
        while b'"data": "b"' not in answer:
            answer += sock.recv(1 << 16)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"302", b"200"]
    assert node.texts() == ["a", "b"]
    wait_until(lambda: open_streams(node) == 0, "its end is noticed")


def test_stopping_ends_all_streams_at_once_and_in_order() -> None:
    with NodeProcess() as node, ExitStack() as stack:
        streams = [stack.enter_context(streaming(node.port, t)) for t in TARGETS for _ in range(10)]
        deaf = stack.enter_context(asking(node.port))
        post_all(node.port, [*"abc"])
        for stream in streams[:10]:
            assert texts(list(islice(stream.events(), 3))) == [*"abc"]
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 2 * SCALE
        for stream in streams:
            list(stream.events())  # to the end, and it is whole
        deaf.close()
        assert "Traceback" not in node.log(), node.log()
