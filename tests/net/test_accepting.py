"""The peer port before a link is open: which handshakes get in, and what the others are told."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from p2p_sync import Node
from p2p_sync.net.credentials import Credentials
from p2p_sync.settings import MAX_UNPROVED
from tests.harness.member import hello, identities
from tests.harness.process import held
from tests.harness.raw import PING, RawPeer, ask, dial, handshake, paused, tcp
from tests.harness.support import DEADLINE, SCALE, NodeProcess, request, wait_until

NAME = "node.example"  # a name that the node is given


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess("--advertise", f"ws://{NAME}:8001") as node:
        yield node


@pytest.fixture(autouse=True)
def unharmed(node: NodeProcess) -> Iterator[None]:
    """After each test the node has lost all peers, takes a new one, and logged no traceback."""
    yield
    wait_until(lambda: node.sockets() == 0, "all peers of the test are gone")
    with dial(node.address) as peer:
        peer.send_sockets()
        wait_until(lambda: node.sockets() == 1, "a new peer gets in")
    wait_until(lambda: node.sockets() == 0, "and leaves")
    assert "Traceback" not in node.log()


def host(node: NodeProcess, name: str = "127.0.0.1") -> str:
    return f"{name}:{node.port + 1}"


def test_a_plain_get_is_told_to_upgrade(node: NodeProcess) -> None:
    answer = request(node.port + 1, "/")
    assert answer.status == 426
    assert "peer port" in answer.text and "HTTP port" in answer.text
    assert answer.headers["upgrade"].lower() == "websocket"
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.text.split()) > 3, "a sentence"


def test_the_handshake_is_answered_as_rfc_6455_has_it(node: NodeProcess) -> None:
    with dial(node.address, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==") as peer:
        lines = peer.head.lower().split("\r\n")
        assert "upgrade: websocket" in lines
        assert "connection: upgrade" in lines
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in peer.head


@pytest.mark.parametrize("connection", ["keep-alive, Upgrade", "upgrade"])
def test_headers_are_compared_as_http_has_it(node: NodeProcess, connection: str) -> None:
    dial(node.address, Connection=connection, Upgrade="WebSocket").close()


@pytest.mark.parametrize("size", [1, 7])
def test_a_handshake_may_come_in_pieces(node: NodeProcess, size: int) -> None:
    with tcp(node.address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = handshake(host(node))
        for start in range(0, len(data), size):
            sock.sendall(data[start : start + size])
        assert sock.recv(12) == b"HTTP/1.1 101"


def test_frames_may_come_in_the_segment_of_the_handshake(node: NodeProcess) -> None:
    with tcp(node.address) as sock:
        early = RawPeer(sock, client=True, head="").frame(PING, b"early")
        sock.sendall(handshake(host(node)) + early)
        data = b""
        while b"\x8a\x05early" not in data:
            data += sock.recv(4096)


BROKEN = {
    "no key": {"drop": "Sec-WebSocket-Key"},
    "a short key": {"Sec_WebSocket_Key": "c2hvcnQ="},
    "a key that is not base64": {"Sec_WebSocket_Key": "!" * 24},
    "two keys": {"extra": ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",)},
    "no host": {"drop": "Host"},
    "two hosts": {"extra": ("Host: 127.0.0.1",)},
    "POST": {"method": "POST"},
    "HTTP/1.0": {"version": "HTTP/1.0"},
    "a header without a colon": {"extra": ("nonsense",)},
    "bytes that are not text": {"extra": ("X-Odd: \x00\xff",), "drop": "Sec-WebSocket-Key"},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_handshake_gets_400(node: NodeProcess, broken: dict[str, str]) -> None:
    answer = ask(node.address, handshake(host(node), **broken))  # type: ignore[arg-type]
    assert answer.status == 400
    assert answer.body, "says why"


@pytest.mark.parametrize("field", [{"Connection": "keep-alive"}, {"Upgrade": "h2c"}], ids=str)
def test_a_request_for_something_else_is_refused(node: NodeProcess, field: dict[str, str]) -> None:
    assert ask(node.address, handshake(host(node), **field)).status in (400, 426)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"GET\r\n\r\n", b"\xff\x00 / HTTP/9\r\n\r\n"])
def test_what_is_not_http_gets_400(node: NodeProcess, data: bytes) -> None:
    assert ask(node.address, data).status == 400


@pytest.mark.parametrize("version", ["8", "", "013", "13, 13", "x"])
def test_another_protocol_version_is_told_the_right_one(node: NodeProcess, version: str) -> None:
    answer = ask(node.address, handshake(host(node), Sec_WebSocket_Version=version))
    assert answer.status in (400, 426)
    assert answer.headers["sec-websocket-version"] == "13"


OWN_PAGES = ["127.0.0.1", "localhost", "[::1]", "192.0.2.7", NAME]


@pytest.mark.parametrize("name", OWN_PAGES)
def test_a_page_of_the_same_origin_gets_in(node: NodeProcess, name: str) -> None:
    same = host(node, name)
    with dial(node.address, Host=same, Origin=f"http://{same}") as peer:
        assert peer.read_json()["type"] == "SOCKETS"


FOREIGN_PAGES = {
    "another site": ("127.0.0.1:{peer}", "https://evil.example"),
    "another port": ("127.0.0.1:{peer}", "http://127.0.0.1:{http}"),
    "the default port": ("127.0.0.1:{peer}", "http://127.0.0.1"),
    "another name of this host": ("127.0.0.1:{peer}", "http://localhost:{peer}"),
    "a rebound name": ("evil.example:{peer}", "http://evil.example:{peer}"),
    "a rebound name at the end": (f"evil.{NAME}:{{peer}}", f"http://evil.{NAME}:{{peer}}"),
    "our host as a prefix": ("127.0.0.1:{peer}", "http://127.0.0.1:{peer}.evil.example"),
    "our host as a user": ("127.0.0.1:{peer}", "http://127.0.0.1:{peer}@evil.example"),
    "a sandboxed page": ("127.0.0.1:{peer}", "null"),
    "with a user": ("127.0.0.1:{peer}", "http://127.0.0.1:{peer}@127.0.0.1:{peer}"),
    "both with a user": ("evil@127.0.0.1:{peer}", "http://evil@127.0.0.1:{peer}"),
    "with a path": ("127.0.0.1:{peer}", "http://127.0.0.1:{peer}/page"),
    "a zone": ("[::1%25lo]:{peer}", "http://[::1%25lo]:{peer}"),
    "short": ("127.1:{peer}", "http://127.1:{peer}"),
    "decimal": ("2130706433:{peer}", "http://2130706433:{peer}"),
    "a dot at the end": ("localhost.:{peer}", "http://localhost.:{peer}"),
    "mapped": ("127.0.0.1:{peer}", "http://[::ffff:127.0.0.1]:{peer}"),
    "an empty origin": ("127.0.0.1:{peer}", ""),
    "an origin that is none": ("127.0.0.1:{peer}", "http://[:{peer}"),
    "a port that is none": ("127.0.0.1:{peer}", "http://127.0.0.1:x"),
}


@pytest.mark.parametrize(("named", "origin"), FOREIGN_PAGES.values(), ids=FOREIGN_PAGES)
def test_a_page_of_another_origin_gets_403(node: NodeProcess, named: str, origin: str) -> None:
    ports = {"peer": node.port + 1, "http": node.port}
    host, page = named.format(**ports), origin.format(**ports)
    answer = ask(node.address, handshake(host, Origin=page))
    assert answer.status == 403
    assert answer.body, "says why"


def test_of_two_origins_the_foreign_one_counts(node: NodeProcess) -> None:
    own, foreign = f"Origin: http://{host(node)}", "Origin: http://evil.example"
    for extra in ((own, foreign), (foreign, own)):
        assert ask(node.address, handshake(host(node), extra=extra)).status in (400, 403)


@pytest.mark.parametrize("name", ["tunnel.example:1", "[2001:db8::1]", "anything"])
def test_a_peer_without_origin_may_use_any_host(node: NodeProcess, name: str) -> None:
    with dial(node.address, Host=name) as peer:
        assert peer.read_json()["type"] == "SOCKETS"


ENDLESS = {
    "lines": (b"GET / HTTP/1.1\r\n", b"X-Filler: " + b"x" * 1000 + b"\r\n"),
    "one line": (b"GET / HTTP/1.1\r\nX-Filler: ", b"x" * 1000),
    "small lines": (b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 200),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
def test_endless_headers_get_431(node: NodeProcess, start: bytes, more: bytes) -> None:
    with tcp(node.address) as sock:
        sent = sock.send(start)
        with contextlib.suppress(ConnectionError):
            while not select.select([sock], [], [], 0)[0]:
                sent += sock.send(more)
                assert sent < 8 << 20, "8 MiB of headers were taken"
        assert sock.recv(12) == b"HTTP/1.1 431"


def test_a_full_node_tells_addresses_and_closes_and_has_room_again_when_a_peer_leaves() -> None:
    with NodeProcess("--max-peers", "1") as node:
        with dial(node.address, identity=next(identities)) as peer:
            peer.send_json(hello(port=4321))
            wait_until(lambda: node.sockets() == 1)
            with dial(node.address) as second:
                second.send_sockets()
                assert second.read_json()["addresses"] == ["ws://127.0.0.1:4321"]
                assert second.read_close()[0] == 1013
            peer.ping()
            assert node.sockets() == 1

        def gets_in() -> bool:
            with contextlib.suppress(AssertionError), dial(node.address) as second:
                return second.read_json()["type"] == "SOCKETS"  # type: ignore[no-any-return]
            return False

        wait_until(gets_in, "the place is free again")
        assert "Traceback" not in node.log(), node.log()


def test_an_unfinished_handshake_is_ended_after_ten_seconds(node: NodeProcess) -> None:
    started = time.monotonic()
    deadline = started + 10 + 5 * SCALE
    with tcp(node.address) as silent, tcp(node.address) as trickling:
        data = iter(handshake(host(node), extra=("X-Filler: " + "x" * 1000,)))
        ended: dict[socket.socket, float] = {}
        while len(ended) < 2:
            assert time.monotonic() < deadline, f"still open: {2 - len(ended)} of 2"
            waiting = [sock for sock in (silent, trickling) if sock not in ended]
            for sock in select.select(waiting, [], [], 0.2)[0]:
                with contextlib.suppress(ConnectionError):
                    if sock.recv(4096):
                        continue  # an HTTP answer that tells it
                ended[sock] = time.monotonic() - started
            if trickling not in ended:
                with contextlib.suppress(ConnectionError):
                    trickling.send(bytes([next(data)]))
        assert min(ended.values()) > 9, "a slow peer has ten seconds"


def test_silent_sockets_keep_no_one_out(node: NodeProcess) -> None:
    before, threads = held(node, "fd"), held(node, "task")
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(tcp(node.address)) for _ in range(500)]
        assert request(node.port, "/").status == 200
        assert held(node, "task") <= threads + 5, "they have no threads"
        started = time.monotonic()
        with dial(node.address) as peer:
            peer.send_sockets()
            assert peer.read_json()["type"] == "SOCKETS"
            peer.ping()
            assert time.monotonic() - started < 15
            wait_until(lambda: node.sockets() == 1)
        wait_until(
            lambda: 500 - len(select.select(silent, [], [], 0)[0]) <= MAX_UNPROVED,
            "so many unfinished handshakes are left",
            5 * SCALE,
        )
        assert silent[0].recv(1) == b"", "the oldest had to go"
        silent[-1].sendall(handshake(host(node)))
        assert silent[-1].recv(12) == b"HTTP/1.1 101", "the newest may still go on"
    wait_until(lambda: held(node, "fd") <= before, "no descriptor stays")


def test_a_port_probe_leaves_no_trace(node: NodeProcess) -> None:
    before = held(node, "task"), held(node, "fd")
    log = node.log()
    probes = []
    for reset in (False, True) * 5:
        with tcp(node.address) as sock:
            probes.append("{}:{}".format(*sock.getsockname()))
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: held(node, "task") <= before[0] and held(node, "fd") <= before[1])
    news = node.log().removeprefix(log)
    assert not [probe for probe in probes if probe in news], news
    assert node.sockets() == 0


def test_a_fault_of_this_node_does_not_close_its_peer_port(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accepted, failures = Credentials.accepted, [ValueError("a fault of the test")]

    def fail_once(credentials: Credentials, connection: socket.socket) -> socket.socket:
        if failures:
            raise failures.pop()
        return accepted(credentials, connection)

    monkeypatch.setattr(Credentials, "accepted", fail_once)
    with Node(0) as node:
        with tcp(node.address) as unlucky:
            assert unlucky.recv(1) == b"", "its connection ends"
        with dial(node.address) as peer:
            peer.send_sockets()
            wait_until(lambda: node.sockets() == 1, "the next one gets in")
    assert "a fault of the test" in caplog.text


def test_a_rush_of_peers_gets_in_at_once(node: NodeProcess) -> None:
    """The kernel queues them all (a queue of 5 makes the sixth wait a second), none is lost."""
    barrier = threading.Barrier(50)
    peers: list[RawPeer] = []

    def join() -> None:
        barrier.wait(DEADLINE)
        peers.append(dial(node.address))
        peers[-1].send_sockets()

    with paused(node), contextlib.ExitStack() as stack:
        queued = [stack.enter_context(tcp_in_background(node.address)) for _ in range(50)]
        wait_until(
            lambda: len(select.select([], queued, [], 0)[1]) == 50,
            "the kernel takes 50 connections for a busy node",
            3 * SCALE,
        )
    joiners = [threading.Thread(target=join) for _ in range(50)]
    for thread in joiners:
        thread.start()
    for thread in joiners:
        thread.join(DEADLINE)
    try:
        wait_until(lambda: node.sockets() == 50, "all 50 are counted")
        for peer in peers:
            peer.ping()
    finally:
        for peer in peers:
            peer.close()


def tcp_in_background(address: str) -> socket.socket:
    host_, port = address.removeprefix("ws://").rsplit(":", 1)
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((host_, int(port)))
    return sock
