"""Links under load: slow, dead and greedy peers cost the others nothing, and stopping works."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.harness.http import Http, commit_bytes
from tests.harness.process import cpu, held, memory
from tests.harness.raw import BINARY, DIRECTIONS, PING, TEXT, RawPeer, dial, linked, tcp
from tests.harness.support import DEADLINE, SCALE, NodeProcess, wait_until

SMALL_BUFFER = 4096
LONG = "x" * 60_000


@pytest.fixture
def node() -> Iterator[NodeProcess]:
    """A new node for each test: what it holds and how large it is belongs to the test."""
    with NodeProcess() as node:
        yield node
        assert "Traceback" not in node.log(), node.log()


def commit_all(node: NodeProcess, texts: list[str]) -> None:
    """Commit over one connection."""
    with Http(node.port) as http:
        for text in texts:
            http.ask(commit_bytes(node.port, text), 302)


@contextlib.contextmanager
def many(node: NodeProcess, count: int, *, receive_buffer: int = 0) -> Iterator[list[RawPeer]]:
    """Peers in both directions by turns, each counted."""
    before = node.sockets()
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(
                linked(DIRECTIONS[i % 2], node.address, node.add, receive_buffer=receive_buffer)
            )
            for i in range(count)
        ]
        wait_until(lambda: node.sockets() == before + count, "all are counted")
        yield peers


def test_a_peer_that_stops_reading_delays_nobody(node: NodeProcess) -> None:
    with many(node, 2, receive_buffer=SMALL_BUFFER), many(node, 2) as readers:
        for i in range(200):  # 12 MB, more than the kernel's buffers take
            started = time.monotonic()
            commit_all(node, [f"{i}-{LONG}"])
            for reader in readers:
                assert reader.read_message() == f"{i}-{LONG}"
            assert time.monotonic() - started < 2 * SCALE, f"message {i} was delayed"


def test_what_is_sent_is_sent_whole_or_the_link_is_closed(node: NodeProcess) -> None:
    """A peer that reads late gets whole frames in order, to the last or to the link's end."""
    texts = [f"{i}-{LONG}" for i in range(120)]
    with many(node, 2, receive_buffer=SMALL_BUFFER) as late:
        commit_all(node, texts)
        for peer in late:
            got: list[str] = []
            with contextlib.suppress(EOFError):
                while len(got) < len(texts):
                    got.append(peer.read_message())
            assert got == texts[: len(got)]
            assert got, "at least what fits into the kernel's buffers arrives"


def test_a_dead_peer_costs_only_its_own_link(node: NodeProcess) -> None:
    with many(node, 6) as peers:
        for dead in peers[1:4]:
            dead.abort()
        commit_all(node, ["after-the-death"])
        for peer in (peers[0], *peers[4:]):
            assert peer.read_message() == "after-the-death"
        wait_until(lambda: node.sockets() == 3, "the dead ones leave the list")


def test_small_messages_in_a_row_do_not_wait_for_acknowledgements(node: NodeProcess) -> None:
    """Without TCP_NODELAY the second waits for the peer's delayed ACK, 40 ms."""
    if not hasattr(socket, "TCP_QUICKACK"):
        pytest.skip("needs TCP_QUICKACK to delay acknowledgements")
    gaps = []
    with many(node, 1) as (peer,):
        peer.ping()
        for i in range(15):
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            commit_all(node, [f"{i}a", f"{i}b"])
            assert peer.read_message() == f"{i}a"
            started = time.monotonic()
            assert peer.read_message() == f"{i}b"
            gaps.append(time.monotonic() - started)
    assert statistics.median(gaps) < 0.02 * SCALE


def test_unmasking_costs_little(node: NodeProcess) -> None:
    """32 MiB of masked frames: at one step per byte they took over two seconds."""
    with many(node, 2) as (client, server):
        cost = {}
        for peer in (server, client):  # the server's frames are the same without masks
            data = peer.frame(TEXT, b'{"type":"LATER","pad":"%s"}' % (b"x" * 1_000_000))
            before = cpu(node)
            for _ in range(32):
                peer.send_bytes(data)
            peer.ping()
            cost[peer] = cpu(node) - before
        assert cost[client] - cost[server] < 1 * SCALE


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_answers_that_nobody_reads_are_bounded(node: NodeProcess, direction: str) -> None:
    with linked(direction, node.address, node.add, receive_buffer=SMALL_BUFFER) as peer:
        wait_until(lambda: node.sockets() == 1, "the link is counted")
        before = memory(node)
        data = peer.frame(PING, b"x" * 125) * 1000
        sent = 0
        peer.sock.settimeout(2)  # a node that reads no more has bounded them as well
        with contextlib.suppress(OSError):
            while sent < 24 << 20:
                peer.send_bytes(data)
                sent += len(data)
        assert memory(node) - before < 16
        with dial(node.address) as other:
            other.ping()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_refused_peer_that_goes_on_is_cut(node: NodeProcess, direction: str) -> None:
    with linked(direction, node.address, node.add) as peer:
        deadline = time.monotonic() + DEADLINE
        with contextlib.suppress(ConnectionError):
            while True:  # it neither reads nor answers the CLOSE
                peer.send(BINARY, b"more")
                assert time.monotonic() < deadline, "the node listens for ever"
        wait_until(lambda: node.sockets() == 0, "the link leaves the list")


def test_messages_that_nobody_reads_are_bounded(node: NodeProcess) -> None:
    with many(node, 16, receive_buffer=SMALL_BUFFER):
        before = memory(node)
        commit_all(node, [f"{i}-{LONG}" for i in range(200)])  # 12 MB, held once for all
        assert memory(node) - before < 100


def test_churn_ends_at_the_baseline(node: NodeProcess) -> None:
    def churn(count: int) -> None:
        for i in range(count):
            with dial(node.address) as peer:
                if i % 2:
                    peer.send_sockets()
                    peer.read_json()
                if i % 4 == 3:
                    peer.abort()
        wait_until(lambda: node.sockets() == 0, "all have left")

    churn(4)
    tasks, files = held(node, "task"), held(node, "fd")
    churn(200)
    wait_until(lambda: held(node, "task") <= tasks, f"threads are back at {tasks}")
    wait_until(lambda: held(node, "fd") <= files, f"descriptors are back at {files}")


# The stop


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_stop_tells_every_peer(node: NodeProcess, signum: int) -> None:
    with many(node, 7) as peers:
        for peer in peers:
            peer.ping()
        node.process.send_signal(signum)
        for peer in peers:
            assert peer.read_close()[0] == 1001
        assert node.process.wait(DEADLINE) == 0


def test_stop_takes_two_seconds_while_peers_block(node: NodeProcess) -> None:
    """Peers that do not read, a handshake that does not end, dials that nobody answers."""
    with many(node, 4, receive_buffer=SMALL_BUFFER), contextlib.ExitStack() as stack:
        stack.enter_context(tcp(node.address)).sendall(b"GET / HTTP/1.1\r\n")
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(3):
            node.add(f"ws://127.0.0.1:{deaf.getsockname()[1]}")
        assert select.select([deaf], [], [], DEADLINE)[0], "it is being dialled"
        commit_all(node, [f"{i}-{LONG}" for i in range(120)])
        started = time.monotonic()
        assert node.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 2 * SCALE
