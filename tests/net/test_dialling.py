"""What a node says when it dials, and what it makes of answers that are none."""

from __future__ import annotations

import base64
import contextlib
import re
import resource
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from p2p_sync import Node
from p2p_sync.address import parse_address
from p2p_sync.errors import DialError
from p2p_sync.net.credentials import Credentials
from p2p_sync.net.dialer import Dialer
from p2p_sync.settings import MAX_DIALS, Settings
from p2p_sync.wire.proof import Handshake
from tests.harness.member import hello, identities
from tests.harness.raw import (
    CLOSE,
    TEXT,
    RawServer,
    begin,
    close_payload,
    dial,
    frame,
    read_head,
    welcome,
)
from tests.harness.secret import US
from tests.harness.support import (
    DEADLINE,
    SCALE,
    NodeProcess,
    free_port_pair,
    pause,
    silent_listener,
    wait_until,
)

HOST = "127.0.0.1"


def handshake(_binding: str) -> Handshake:
    """The opening handshake of a node."""
    return begin(US, dialled=True)


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    """A node whose environment names a proxy that nobody serves."""
    proxy = f"http://127.0.0.1:{free_port_pair()}"
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY")
    with NodeProcess(environment={**dict.fromkeys(names, proxy), "no_proxy": ""}) as node:
        yield node
        assert "Traceback" not in node.log(), node.log()


def test_the_opening_has_no_origin_and_goes_past_proxies(node: NodeProcess) -> None:
    with RawServer() as server:
        node.add(server.address)
        with server.accept() as peer:
            start, *lines = peer.head.split("\r\n")
            fields = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
            assert start == "GET / HTTP/1.1"
            assert fields["host"] == f"127.0.0.1:{server.port}"
            assert fields["upgrade"].lower() == "websocket"
            assert "upgrade" in fields["connection"].lower()
            assert fields["sec-websocket-version"] == "13"
            assert len(base64.b64decode(fields["sec-websocket-key"])) == 16
            assert "origin" not in fields
            assert peer.read_json()["type"] == "SOCKETS"


def test_frames_may_come_in_the_segment_of_the_answer(node: NodeProcess) -> None:
    with RawServer() as server:
        node.add(server.address)
        with server.accept_tcp() as sock:
            head, _ = read_head(sock)
            early = b'{"type":"MESSAGE","data":"early"}'
            sock.sendall(welcome(head) + frame(TEXT, early, masked=False))
            wait_until(lambda: "early" in node.messages(), "the message is shown")


COOKIES = {
    "of the whole of 127": b"a=b; domain=1",
    "of a suffix": b"a=b; domain=0.0.1; path=/; max-age=86400",
    "of the host": b"a=b",
    "of a host with a dot before": b"a=b; domain=.127.0.0.1",
    "with line breaks in octal": b'x="1\\015\\012X-Injected: 1\\015\\012"; domain=0.0.1',
    "as long as an answer may be": b"a=" + b"A" * 15_000 + b"; domain=0.0.1",
    "twice": b"a=b; domain=0.0.1\r\nSet-Cookie2: c=d; domain=0.0.1",
}


@pytest.mark.parametrize("cookie", COOKIES.values(), ids=COOKIES)
def test_what_one_peer_answers_shows_in_no_other_dial(node: NodeProcess, cookie: bytes) -> None:
    with RawServer() as hostile, RawServer() as other:
        node.add(hostile.address)
        with hostile.accept_tcp() as sock:
            head, _ = read_head(sock)
            sock.sendall(welcome(head).replace(b"\r\n\r\n", b"\r\nSet-Cookie: %s\r\n\r\n" % cookie))
            wait_until(lambda: node.sockets() == 1, "the answer is accepted")
        for server in (other, hostile):
            node.add(server.address)
            with server.accept() as peer:
                assert normal(peer.head) == normal(head), (
                    "only the host, the key and the nonce differ"
                )


def normal(head: str) -> str:
    """The head of a handshake with its port, its key and its nonce left out."""
    parts = r"(?<=Sec-WebSocket-Key: )\S{24}|(?<=Host: 127.0.0.1:)[0-9]+|[0-9a-f]{64}$"
    return re.sub(parts, "", head)


def test_dials_leave_nothing_behind_in_memory() -> None:
    dialer = Dialer(Settings(), Credentials(Settings()))

    def answer(server: RawServer, count: int) -> None:
        for number in range(count):
            with server.accept_tcp() as sock:
                cookie = b"Set-Cookie: a=%s; domain=d%d.example" % (b"A" * 15_000, number)
                sock.sendall(welcome(read_head(sock)[0])[:-2] + cookie + b"\r\n\r\n")

    with RawServer() as server:
        thread = threading.Thread(target=answer, args=(server, 60))
        thread.start()
        tracemalloc.start()
        try:
            for number in range(60):
                if number == 10:
                    before, _ = tracemalloc.get_traced_memory()
                opened = dialer.dial(
                    parse_address(server.address), ((HOST, server.port),), handshake
                )
                opened.stream.close()
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
            thread.join(DEADLINE)
    assert growth < 100_000, f"50 dials have left {growth:,} bytes behind"


def test_a_dial_waits_for_a_connection_that_takes_a_while() -> None:
    """A full backlog drops the first SYN, so the connection comes with the second, a second later:
    as over any network, it is not there at once."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((HOST, 0))
        server.listen(0)
        port = server.getsockname()[1]
        waiting = [stack.enter_context(socket.socket()) for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex((HOST, port))

        def serve() -> None:
            pause(0.2)  # the SYN of the dial has been dropped by then
            while True:
                sock, _ = server.accept()
                stack.enter_context(sock)
                sock.settimeout(DEADLINE)
                with contextlib.suppress(OSError, AssertionError):
                    if sock.getpeername()[1] not in ports:
                        sock.sendall(welcome(read_head(sock)[0]))
                        return

        ports = [sock.getsockname()[1] for sock in waiting]
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        dialer = Dialer(Settings(), Credentials(Settings()))
        opened = dialer.dial(parse_address(f"ws://{HOST}:{port}"), ((HOST, port),), handshake)
        opened.stream.close()
        thread.join(DEADLINE)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_redirects_are_not_followed(node: NodeProcess, status: int) -> None:
    with RawServer() as server, RawServer() as elsewhere:
        node.add(server.address)
        with server.accept_tcp() as sock:
            welcome_all_the_same = welcome(read_head(sock)[0]).partition(b"\r\n")[2]
            line = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {elsewhere.address}/\r\n"
            sock.sendall(line.encode() + welcome_all_the_same)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):
                    pass
        wait_until(lambda: node.logged(server.address, f"HTTP {status}"), "logged with the status")
        assert not select.select([elsewhere.listener], [], [], 0)[0]
        assert node.sockets() == 0


def wrong_accept(head: str) -> bytes:
    return welcome(head.replace("Key: ", "Key: x"))


def without(line: bytes) -> Callable[[str], bytes]:
    return lambda head: b"\r\n".join(x for x in welcome(head).split(b"\r\n") if line not in x)


def instead(answer: bytes) -> Callable[[str], bytes]:
    return lambda head: answer


NO_WELCOMES: dict[str, Callable[[str], bytes]] = {
    "nothing": instead(b""),
    "half an answer": lambda head: welcome(head)[:50],
    "not HTTP": instead(b"220 mail.example ESMTP\r\n\r\n"),
    "a page": instead(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "no room": instead(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
    "a wrong accept": wrong_accept,
    "no accept": without(b"Accept"),
    "no upgrade": without(b"Upgrade: "),
    "an extension that was not asked for": lambda head: welcome(head).replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    ),
    "two accepts": lambda head: welcome(head).replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Accept: again\r\n\r\n"
    ),
    "a subprotocol that was not asked for": lambda head: welcome(head).replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    ),
    "an older HTTP": lambda head: welcome(head).replace(b"1.1", b"1.0", 1),
    "a line that goes on": lambda head: welcome(head).replace(b"Upgrade\r\n", b"Upgrade\r\n x\r\n"),
    "another success": lambda head: welcome(head).replace(b"101", b"200", 1),
    "bytes that are no text": instead(b"HTTP/1.1 \xff\xfe\r\n\x00\r\n\r\n"),
}


@pytest.mark.parametrize("answer", NO_WELCOMES.values(), ids=NO_WELCOMES)
def test_an_answer_that_is_no_welcome_is_logged(
    node: NodeProcess, answer: Callable[[str], bytes]
) -> None:
    with RawServer() as server:
        node.add(server.address)
        with server.accept_tcp() as sock:
            head, _ = read_head(sock)
            sock.sendall(answer(head))
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):
                    pass  # the node ends the connection
        wait_until(lambda: server.address in node.log(), "logged with its address")
    assert node.sockets() == 0


def test_an_endless_answer_is_cut(node: NodeProcess) -> None:
    with RawServer() as server:
        node.add(server.address)
        with server.accept_tcp() as sock:
            read_head(sock)
            sent = sock.send(b"HTTP/1.1 101 Switching Protocols\r\n")
            with contextlib.suppress(ConnectionError):
                while sent < 16 << 20:
                    sent += sock.send(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            assert sent < 16 << 20, "16 MiB of headers were taken"
        wait_until(lambda: server.address in node.log(), "logged with its address")


def test_nothing_is_said_in_plaintext_to_a_wss_address() -> None:
    # A node of its own: another may redial what had this port before.
    with NodeProcess() as node, RawServer() as server:
        address = f"wss://127.0.0.1:{server.port}"
        refused = node.add(address).status == 400
        dialled = select.select([server.listener], [], [], 0 if refused else 2 * SCALE)[0]
        if dialled:
            with server.accept_tcp() as sock:
                assert sock.recv(1) in (b"\x16", b""), "a TLS ClientHello, if anything"
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        wait_until(lambda: refused or address in node.log(), "the failure is logged")
        assert node.sockets() == 0


def test_peers_that_die_in_any_phase_of_a_dial_are_dialled_again(node: NodeProcess) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RawServer()) for _ in range(4)]
        for server in servers:
            node.add(server.address)
        servers[0].accept_tcp().close()
        with servers[1].accept_tcp() as sock:
            read_head(sock)
        with servers[2].accept_tcp() as sock:
            sock.sendall(welcome(read_head(sock)[0])[:50])
        servers[3].accept().abort()
        for server in servers:
            peer = stack.enter_context(server.accept())
            peer.send_sockets()
            peer.ping()
        wait_until(lambda: node.sockets() == 4, "all are linked")
    wait_until(lambda: node.sockets() == 0, "all have left")


def test_dialling_the_port_of_the_page_names_the_likely_one(node: NodeProcess) -> None:
    with NodeProcess() as other:
        node.add(f"http://127.0.0.1:{other.port}")
        wait_until(
            lambda: [
                line
                for line in node.log().splitlines()
                if f":{other.port}" in line and str(other.port + 1) in line
            ],
            "the log names the port and the likely one",
        )
        assert node.sockets() == 0


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more for the time of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    probe = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(socket.socket())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in (probe, *taken):
            sock.close()


@pytest.mark.parametrize("endpoints", [1, 3])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_dial_without_descriptors_fails_with_the_reason(scheme: str, endpoints: int) -> None:
    settings = Settings(handshake_timeout=DEADLINE)
    dialer = Dialer(settings, Credentials(settings))
    address = parse_address(f"{scheme}://localhost:1")
    found: list[object] = []

    def dial() -> None:
        try:
            dialer.dial(address, ((HOST, 1),) * endpoints, handshake)
        except Exception as error:
            found.append(error)

    with no_descriptors():
        thread = threading.Thread(target=dial, daemon=True)
        thread.start()
        thread.join(DEADLINE)
    assert [type(error) for error in found] == [DialError], "the dial ends, and not by a defect"
    assert "Too many open files" in str(found[0])


def test_an_address_is_dialled_again_after_a_dial_got_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def start_later(thread: threading.Thread) -> None:
        if thread.name.startswith("dial ") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    with Node(0) as one, Node(0, redial_first=0.1, redial_longest=0.2) as other:
        other.connect(one.address)
        wait_until(lambda: refused and other.sockets() == 1, "the nodes are connected")


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves and says it has enough"])
def test_an_address_given_by_hand_is_dialled_whoever_says_to_be_there(leaves: bool) -> None:
    with NodeProcess() as node, RawServer() as server, dial(node.address) as other:
        other.send_sockets()
        wait_until(lambda: node.sockets() == 1)
        with dial(node.address, identity=next(identities)) as liar:
            liar.send_json(hello(address=server.address))
            wait_until(lambda: server.address in node.get("/api/v1/peers").text)
            node.add(server.address)
            server.accept_tcp().close()
            if leaves:
                liar.send(CLOSE, close_payload(1013))
                liar.read_close()
            server.accept_tcp().close()


def test_learned_addresses_that_keep_silent_do_not_delay_one_given_by_hand() -> None:
    with NodeProcess() as node, contextlib.ExitStack() as stack, RawServer() as server:
        silent = [stack.enter_context(silent_listener()) for _ in range(MAX_DIALS + 4)]
        with dial(node.address, identity=next(identities)) as peer:
            peer.send_json(hello(addresses=[address for address, _ in silent]))
            sockets = [listener for _, listener in silent]
            wait_until(lambda: len(select.select(sockets, [], [], 0)[0]) >= MAX_DIALS)
            began = time.monotonic()
            node.add(server.address)
            server.accept_tcp().close()
            assert time.monotonic() < began + 2 * SCALE
