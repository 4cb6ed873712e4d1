"""Plain commits, which need no worker: answered as all others are, and in their turn."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from p2p_sync import Node
from p2p_sync.errors import LogError
from p2p_sync.web.answers import Answer
from p2p_sync.web.app import create_app
from p2p_sync.web.guard import Guard, guarded
from p2p_sync.web.plain import STORED, begin
from p2p_sync.web.serve import HttpServer
from tests.harness.http import exchange, serving
from tests.harness.support import DEADLINE, NodeProcess, pause, wait_until


def get(port: int, target: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", f"Host: localhost:{port}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", [(), ("Accept: text/html",), ("User-Agent: curl/8",)])
def test_the_answer_is_that_of_the_long_way(
    node: NodeProcess, version: str, fields: tuple[str, ...]
) -> None:
    def answer(target: str) -> bytes:
        request = get(node.port, target, "Connection: close", *fields, version=version)
        return re.sub(rb"\r\nDate: [^\r]*", b"", exchange(node.port, request))

    plain = answer("/commit?msg=text")
    assert plain == answer("/commit?msg=text&copies=0")
    assert b" 302 Found\r\n" in plain or b" 302 FOUND\r\n" in plain
    for query in ("msg", "msg=%zz", "msg=%ff", "msg=" + "x" * 70_000, "Msg=text", ""):
        assert answer(f"/commit?{query}") == answer(f"/commit?{query}&copies=0"), query


def test_answers_come_in_the_order_of_the_requests() -> None:
    """Of plain commits and others that one client sends at once; each shows to what follows it."""
    with NodeProcess() as node:
        targets = [f"/commit?msg={n}" if n % 3 else "/api/v1/status" for n in range(30)]
        requests = [get(node.port, target) for target in targets]
        requests.append(get(node.port, "/healthz", "Connection: close"))
        answers = re.split(rb"(?=HTTP/1\.1 )", exchange(node.port, b"".join(requests)))[1:]
        assert len(answers) == len(requests)
        committed = 0
        for target, answer in zip(targets, answers, strict=False):
            if target.startswith("/commit"):
                assert answer.startswith(b"HTTP/1.1 302 ")
                committed += 1
            else:
                assert f'"messages":{{"count":{committed},'.encode() in answer


def test_a_commit_behind_another_request_is_made_once() -> None:
    """A worker finds it on the connection, and the loop might answer it before it is begun."""
    made: list[str] = []

    def begin_slowly(head: Any, then: Callable[[], object]) -> Callable[[], Answer] | None:
        if head["PATH_INFO"] != "/plain":
            return None
        made.append("begun")
        then()
        pause(0.2)
        return STORED.safe

    def application(environ: Any, start_response: Any) -> list[bytes]:
        made.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with serving(application, begin=begin_slowly) as port:
        answers = exchange(port, get(port, "/") + get(port, "/plain", "Connection: close"))
    assert answers.count(b"HTTP/1.1 ") == 2
    assert len(made) == 2, f"each once: {made}"


def test_what_the_guard_refuses_is_not_begun() -> None:
    with Node(0) as node:
        guard = Guard(8000, "t" * 40)

        def head(**more: str) -> dict[str, str]:
            given = {"REQUEST_METHOD": "GET", "PATH_INFO": "/commit", "QUERY_STRING": "msg=text"}
            return {**given, "HTTP_HOST": "localhost:8000", **more}

        for wrong in (
            {"HTTP_HOST": "evil.example"},
            {"HTTP_HOST": ""},
            {"HTTP_ORIGIN": "http://evil.example"},
            {"HTTP_SEC_FETCH_SITE": "cross-site"},
            {"HTTP_X_FORWARDED_FOR": "8.8.8.8"},
            {"REQUEST_METHOD": "HEAD"},
            {"REQUEST_METHOD": "POST"},
            {"PATH_INFO": "/commit/"},
            {"HTTP_PURPOSE": "prefetch"},
            {"HTTP_SEC_PURPOSE": "prefetch"},
            {"QUERY_STRING": "msg=text&copies=1"},
            {"QUERY_STRING": "msg=%zz"},
            {"QUERY_STRING": ""},
        ):
            assert not begin(node, guard, head(**wrong), lambda: None), wrong
        assert node.messages() == []
        done = threading.Event()
        ready = begin(node, guard, head(), done.set)
        assert ready and done.wait(DEADLINE)
        assert ready().status == 302
        assert [message.data for message in node.messages()] == ["text"]


def test_what_is_begun_when_a_node_stops_is_told() -> None:
    told: list[int] = []
    with Node(0) as node:
        ends = [node.intake.begin(f"{n}", partial(told.append, n)) for n in range(200)]
    assert sorted(told) == [*range(200)], "once"
    for end in ends:
        assert end
        with suppress(LogError):
            end()


def test_a_signal_cuts_no_commit_off_in_the_middle() -> None:
    """What was answered by 302 is there after it, and there is no gap."""
    with NodeProcess() as node:
        acknowledged: list[str] = []
        refused: list[int] = []

        def client(name: int) -> None:
            try:
                for number in range(100_000):
                    text = f"{name}.{number}"
                    if (status := node.get("/commit?msg=" + quote(text)).status) != 302:
                        return refused.append(status)
                    acknowledged.append(text)
            except OSError:
                return None

        clients = [threading.Thread(target=client, args=(name,)) for name in range(4)]
        for thread in clients:
            thread.start()
        wait_until(lambda: len(acknowledged) > 200, "commits go on")
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(DEADLINE) == 0
        for thread in clients:
            thread.join(DEADLINE)
        assert "Traceback" not in node.log(), node.log()
        with NodeProcess(data_dir=node.data_dir) as again:
            held = set(again.messages().split(","))
            assert set(acknowledged) <= held
        assert set(refused) <= {503}, "a node that stops says so"


def test_what_is_begun_when_the_server_stops_is_answered() -> None:
    node = Node(0)
    with node, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        guard = Guard(port, "t" * 40)
        http = HttpServer("127.0.0.1", port)
        application = guarded(create_app(node), guard)
        loop = threading.Thread(
            target=http.run, args=(application, guard.room, partial(begin, node, guard))
        )
        append, stored = node.log.append, threading.Event()

        def slow(*arguments: Any) -> Any:
            stored.wait(DEADLINE)
            return append(*arguments)

        node.log.append = slow  # type: ignore[method-assign, assignment]
        loop.start()
        answers: list[bytes] = []
        request = get(port, "/commit?msg=text", "Connection: close")
        asking = [
            threading.Thread(target=lambda: answers.append(exchange(port, request)))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: commits(node) == 4, "all are under way")
        http.end()
        loop.join(DEADLINE)
        threading.Timer(0.2, stored.set).start()
        node.stop()
        http.stop()
        for thread in asking:
            thread.join(DEADLINE)
        assert sorted({answer[:12] for answer in answers}) <= [b"HTTP/1.1 302", b"HTTP/1.1 503"]
        assert len(answers) == 4 and all(answers)


def test_callbacks_that_are_set_later_get_what_comes_later() -> None:
    got: list[str] = []
    with Node(0) as node:
        node.commit("before")
        node.on_message(lambda message: got.append(message.data))
        node.on_message(lambda message: got.append(message.data))
        node.commit("after")
        wait_until(lambda: got == ["after", "after"])


def commits(node: Node) -> int:
    """How many commits are on their way to the disk."""
    with node._running().state.turn() as core:
        return len(core.commits.waiting)
