"""Following the messages over HTTP: a stream of lines, that ends with the node or its reader."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.harness.api import post_all, read_pages
from tests.harness.support import (
    DEADLINE,
    SCALE,
    NodeProcess,
    run_nodes,
    wait_sockets,
)


@contextmanager
def following(node: NodeProcess, query: str = "") -> Iterator[http.client.HTTPResponse]:
    """The answer to a request to follow, up to its first line, which is empty."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=DEADLINE)
    try:
        connection.request("GET", f"/api/v1/messages/follow{query}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert response.readline() == b"\n", "its reader knows at once that it follows"
        yield response
    finally:
        connection.close()


def messages(response: http.client.HTTPResponse, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        line = response.readline()
        assert line, f"the stream ended after {len(found)}"
        if line.strip():
            found.append(json.loads(line))
    return found


def quick(pause: float) -> list[str]:
    """A node whose streams say that they are alive more often."""
    program = (
        "import sys; from p2p_sync.web import live; from p2p_sync.cli import main; "
        f"live.API_STREAM_PAUSE = {pause}; sys.exit(main())"
    )
    return [sys.executable, "-c", program]


def test_what_is_there_and_what_comes_arrives_in_order_and_once() -> None:
    with run_nodes(2) as (here, there):
        here.add(there.address)
        wait_sockets(1, here, there)
        post_all(here.port, [f"before {n}" for n in range(2500)])
        with following(here) as response:
            found = messages(response, 2500)
            there.commit("from there\u2028\n")
            post_all(here.port, [f"after {n}" for n in range(100)])
            found += messages(response, 101)
        listed, after = read_pages(here.port, "arrival")
        nexts = [message.pop("next") for message in found]
        assert found == listed and len(set(nexts)) == len(nexts) and nexts[-1] == after
        with following(here, f"?after={nexts[2499]}") as response:
            assert [{**m, "next": ""} for m in messages(response, 101)] == [
                {**m, "next": ""} for m in listed[2500:]
            ], "it goes on after what was read"


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30])
def test_a_place_that_is_none_is_refused(after: str) -> None:
    with NodeProcess("--ephemeral") as node:
        answer = node.get(f"/api/v1/messages/follow?after={after}")
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
        assert "after" in json.loads(answer.body)["detail"]


def test_an_empty_line_comes_while_nothing_else_does() -> None:
    with NodeProcess("--ephemeral", command=quick(0.1)) as node, following(node) as response:
        assert [response.readline() for _ in range(3)] == [b"\n"] * 3
        node.commit("and on")
        assert [message["data"] for message in messages(response, 1)] == ["and on"]


def test_stopping_ends_streams_within_two_seconds() -> None:
    with NodeProcess() as node, ExitStack() as stack:
        reading, deaf = [stack.enter_context(following(node)) for _ in range(2)]
        for _ in range(13):
            stack.enter_context(following(node, "?after=0"))
        post_all(node.port, ["x" * 60_000] * 400)  # more than is buffered for one who reads nothing
        messages(reading, 400)
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 2 * SCALE
        deaf.close()
        assert "Traceback" not in node.log(), node.log()
        assert reading.readline() == b""
