"""Links that stand still: silent ones are dropped, stuck ones are cut, slow ones are kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from p2p_sync import Node
from tests.harness.raw import DIRECTIONS, PING, PONG, TEXT, RawPeer, RawServer, linked, read_head
from tests.harness.support import DEADLINE, SCALE, pause, wait_until

HEARTBEAT = 0.2 * SCALE
SMALL_BUFFER = 4096
LONG = "x" * 60_000


@contextlib.contextmanager
def joined(direction: str, node: Node, receive_buffer: int = 0) -> Iterator[RawPeer]:
    before = node.sockets()
    with linked(direction, node.address, node.connect, receive_buffer=receive_buffer) as peer:
        wait_until(lambda: node.sockets() == before + 1, "the link is counted")
        yield peer


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_link_silent_for_two_heartbeats_is_dropped(direction: str) -> None:
    with Node(0, heartbeat=HEARTBEAT) as node, joined(direction, node) as peer:
        started = time.monotonic()
        pings = 0
        with contextlib.suppress(EOFError):
            for found in peer.frames():
                pings += found.opcode == PING
        assert pings, "it was asked first"
        assert HEARTBEAT < time.monotonic() - started < 2 * HEARTBEAT + 5 * SCALE
        wait_until(lambda: node.sockets() == 0, "the link leaves the list")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_link_that_answers_is_kept(direction: str) -> None:
    with Node(0, heartbeat=HEARTBEAT) as node, joined(direction, node) as peer:
        for _ in range(6):
            peer.send(PONG, peer.read_until(PING).payload)
        peer.ping()
        assert node.sockets() == 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_link_that_talks_is_not_silent(direction: str) -> None:
    with Node(0, heartbeat=HEARTBEAT) as node, joined(direction, node) as peer:
        deadline = time.monotonic() + 6 * HEARTBEAT
        while time.monotonic() < deadline:
            peer.send(TEXT, b'{"type":"LATER"}')
            pause(HEARTBEAT / 4)
        peer.ping()
        assert node.sockets() == 1


def test_a_silent_link_goes_alone() -> None:
    with (
        Node(0, heartbeat=HEARTBEAT) as node,
        Node(0, heartbeat=HEARTBEAT) as other,
        joined("accepted", node),
    ):
        other.connect(node.address)
        wait_until(lambda: node.sockets() == 2, "both are linked")
        wait_until(lambda: node.sockets() == 1, "the silent one is dropped")
        node.commit("still there")
        wait_until(lambda: [m.data for m in other.messages()] == ["still there"])
        assert node.sockets() == 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_link_whose_send_does_not_move_is_cut(direction: str) -> None:
    texts = [f"{i}-{LONG}" for i in range(120)]  # 7 MB, more than the kernel's buffers take
    with (
        Node(0, heartbeat=60, send_timeout=0.5 * SCALE) as node,
        Node(0, heartbeat=60) as other,
        joined(direction, node, SMALL_BUFFER) as stuck,
    ):
        other.connect(node.address)
        wait_until(lambda: node.sockets() == 2, "both are linked")
        for text in texts:
            node.commit(text)
        wait_until(lambda: node.sockets() == 1, "the stuck link is cut")
        wait_until(lambda: [m.data for m in other.messages()] == texts, "the other has all")
        got: list[str] = []
        with contextlib.suppress(EOFError):  # half a frame may stand at the end, nothing after it
            while True:
                got.append(stuck.read_message())
        assert got == texts[: len(got)]
        assert len(got) < len(texts)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_slow_link_that_moves_is_kept(direction: str) -> None:
    timeout = 0.5 * SCALE
    with (
        Node(0, heartbeat=60, send_timeout=timeout) as node,
        joined(direction, node) as slow,
    ):
        started = time.monotonic()
        committed = read = 0
        while time.monotonic() - started < 5 * timeout:
            while committed < read + 100:  # 6 MB ahead: the node's sends have to wait
                node.commit(f"{committed}-{LONG}")
                committed += 1
            for _ in range(20):
                assert slow.read_message() == f"{read}-{LONG}"
                read += 1
            pause(timeout / 5)
        assert node.sockets() == 1


@pytest.mark.parametrize("trickle", [False, True], ids=["silent", "trickling"])
def test_a_dial_that_is_not_answered_is_given_up(trickle: bool) -> None:
    with Node(0, handshake_timeout=0.5 * SCALE) as node, RawServer() as server:
        node.connect(server.address)
        with server.accept_tcp() as sock:
            read_head(sock)
            sock.settimeout(0.05)
            deadline = time.monotonic() + DEADLINE
            ended = False
            answer = iter(b"HTTP/1.1 101 Switching Protocols\r\nX-Filler: " + b"x" * 10_000)
            while not ended:
                assert time.monotonic() < deadline, "the node waits for ever"
                with contextlib.suppress(TimeoutError):
                    try:
                        ended = sock.recv(1) == b""
                    except ConnectionError:
                        ended = True
                with contextlib.suppress(ConnectionError):
                    if trickle:
                        sock.send(bytes([next(answer)]))
        assert node.sockets() == 0
