"""Peers that others wrote: npm's ws, the stock websocket-client and the stock websocket-server."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket
from websocket_server import WebsocketServer

from p2p_sync import Node
from tests.harness.npm import node_modules
from tests.harness.raw import DIRECTIONS
from tests.harness.support import (
    DEADLINE,
    ROOT,
    NodeProcess,
    free_port_pair,
    request,
    wait_until,
)

HERE = ROOT / "tests" / "harness"
SOCKETS = json.dumps({"type": "SOCKETS", "addresses": []})


def message(text: str) -> str:
    return json.dumps({"type": "MESSAGE", "data": text})


@pytest.fixture(scope="session")
def modules() -> str:
    """The directory of Node's packages with ws in it."""
    try:
        return node_modules("ws")
    except LookupError as error:
        pytest.skip(str(error))


class WsPeer:
    """A process of ws_peer.js; without an address it listens, and has one of its own."""

    def __init__(self, modules: str, address: str = "") -> None:
        self.process = subprocess.Popen(
            ["node", str(HERE / "ws_peer.js"), *([address] if address else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_PATH": modules},
        )
        self.events: queue.Queue[list[Any]] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.address = "" if address else f"ws://127.0.0.1:{self.next('listening')[0]}"

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.put(json.loads(line))

    def next(self, kind: str) -> list[Any]:
        """What the next event of this kind says; those before it are passed over."""
        deadline = time.monotonic() + DEADLINE
        while True:
            event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            if event[0] == kind:
                return event[1:]

    def read_json(self, kind: str) -> Any:
        """The next frame of this type."""
        while (value := json.loads(self.next("text")[0]))["type"] != kind:
            pass
        return value

    def tell(self, method: str, *values: object) -> None:
        """Call a method of the WebSocket."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([method, *values]) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


@contextlib.contextmanager
def ws_linked(modules: str, direction: str, node: NodeProcess | Node) -> Iterator[WsPeer]:
    peer = WsPeer(modules, node.address if direction == "accepted" else "")
    with contextlib.closing(peer):
        if direction == "dialled":
            (node.add if isinstance(node, NodeProcess) else node.connect)(peer.address)
        peer.next("open")
        peer.tell("send", SOCKETS)
        wait_until(lambda: node.sockets() == 1, "the link is counted")
        yield peer


@pytest.fixture(params=DIRECTIONS)
def ws(modules: str, node: NodeProcess, request: pytest.FixtureRequest) -> Iterator[WsPeer]:
    """A peer of npm's ws in each direction."""
    with ws_linked(modules, request.param, node) as peer:
        yield peer
    wait_until(lambda: node.sockets() == 0, "the link leaves the list")


def test_ws_exchanges_sockets_and_messages(node: NodeProcess, ws: WsPeer) -> None:
    assert isinstance(ws.read_json("SOCKETS")["addresses"], list)
    node.commit("from ours \N{GRINNING FACE}, and")
    assert ws.read_json("MESSAGE")["data"] == "from ours \N{GRINNING FACE}, and"
    long = "from ws \N{GRINNING FACE} " + "x" * 60_000
    ws.tell("send", message(long))
    wait_until(lambda: long in node.messages(), "the message is shown")


def test_ws_sends_fragments_and_pings(node: NodeProcess, ws: WsPeer) -> None:
    text = message("in pieces")
    ws.tell("send", text[:10], {"fin": False})
    ws.tell("ping", "between")
    ws.tell("send", text[10:], {"fin": True})
    assert ws.next("pong") == ["between"]
    wait_until(lambda: "in pieces" in node.messages(), "the message is shown")


def test_ws_sees_its_close_code_echoed(node: NodeProcess, ws: WsPeer) -> None:
    ws.tell("close", 4001, "enough")
    assert ws.next("close")[0] == 4001


def test_ws_sees_why_it_is_refused(node: NodeProcess, ws: WsPeer) -> None:
    ws.tell("send", "[]")
    code, reason = ws.next("close")
    assert code in (1002, 1008)
    assert reason


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ws_answers_heartbeats_by_itself_and_is_told_of_the_stop(
    modules: str, direction: str
) -> None:
    with Node(0, heartbeat=0.2) as node, ws_linked(modules, direction, node) as peer:
        for _ in range(6):
            peer.next("ping")
        assert node.sockets() == 1
        node.stop()
        assert peer.next("close")[0] == 1001


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_original_node_on_ws_joins_and_is_joined(modules: str, direction: str) -> None:
    port = free_port_pair()

    def line() -> str:
        with contextlib.suppress(OSError):
            return request(port, "/").text
        return ""

    with NodeProcess() as node:
        original = subprocess.Popen(
            ["node", str(HERE / "original.js"), str(port)],
            env={**os.environ, "NODE_PATH": modules},
        )
        try:
            wait_until(line, "the original serves")
            if direction == "dialled":
                node.add(f"ws://127.0.0.1:{port + 1}")
            else:
                request(port, f"/add?address={node.address}")
            wait_until(lambda: node.sockets() == 1 and "sockets 1 " in line(), "linked")
            node.commit("ours")
            wait_until(lambda: line() == "No. sockets 1 ours", "the original shows it")
            request(port, "/commit?msg=theirs")
            wait_until(lambda: node.line() == "No. sockets 1 ours,theirs", "ours shows it")
            assert line() == "No. sockets 1 ours,theirs"
        finally:
            original.kill()
            original.wait(DEADLINE)
        wait_until(lambda: node.sockets() == 0, "the original leaves the list")
        assert "Traceback" not in node.log(), node.log()


Stock = tuple["queue.Queue[Any]", Callable[[str], object]]  # the frames it gets, how to send one


@contextlib.contextmanager
def stock_client(node: NodeProcess) -> Iterator[Stock]:
    """The app of websocket-client, which dials; in the end it is told what was wrong."""
    got: queue.Queue[Any] = queue.Queue()
    ended: queue.Queue[int | None] = queue.Queue()
    app = websocket.WebSocketApp(
        node.address,
        on_open=lambda app: app.send(SOCKETS),
        on_message=lambda _, text: got.put(json.loads(text)),
        on_close=lambda _, code, __: ended.put(code),
    )
    thread = threading.Thread(target=lambda: app.run_forever(suppress_origin=True))
    thread.start()
    try:
        yield got, app.send
        app.send("null")
        assert ended.get(timeout=DEADLINE) in (1002, 1008)
    finally:
        app.close()
        thread.join(DEADLINE)


@contextlib.contextmanager
def stock_server(node: NodeProcess) -> Iterator[Stock]:
    """websocket-server, which is dialled."""
    got: queue.Queue[Any] = queue.Queue()
    server = WebsocketServer(host="127.0.0.1", port=0)
    server.set_fn_new_client(lambda client, server: server.send_message(client, SOCKETS))
    server.set_fn_message_received(lambda _, __, text: got.put(json.loads(text)))
    server.run_forever(threaded=True)
    try:
        node.add(f"ws://127.0.0.1:{server.port}")
        yield got, server.send_message_to_all
    finally:
        server.shutdown_gracefully()


@pytest.mark.parametrize("stock", [stock_client, stock_server])
def test_the_stock_libraries_exchange_messages(
    node: NodeProcess, stock: Callable[[NodeProcess], contextlib.AbstractContextManager[Stock]]
) -> None:
    name = stock.__name__
    with stock(node) as (got, send):
        assert got.get(timeout=DEADLINE)["type"] == "SOCKETS"
        wait_until(lambda: node.sockets() == 1, "the link is counted")
        node.commit(f"to the {name}")
        while (value := got.get(timeout=DEADLINE))["type"] != "MESSAGE":
            pass
        assert value["data"] == f"to the {name}"
        send(message(f"from the {name}"))
        wait_until(lambda: f"from the {name}" in node.messages(), "the message is shown")
    wait_until(lambda: node.sockets() == 0, "the link leaves the list")
