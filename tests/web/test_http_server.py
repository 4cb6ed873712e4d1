"""The HTTP server: framing, places for connections, clocks, descriptors, disks, and failures."""

from __future__ import annotations

import json
import re
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node, settings
from p2p_sync.web import places
from p2p_sync.web.app import create_app
from tests.harness.disk import small_files
from tests.harness.http import exchange, hello, serving
from tests.harness.process import cpu
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    NodeProcess,
    holds,
    is_open,
    request,
    silent_listener,
    wait_until,
)

MESSAGES = "/api/v1/messages"
JSON = {"Content-Type": "application/json"}
_LARGE = 8 * 1024 * 1024  # more than all buffers of a connection take
pytestmark = pytest.mark.usefixtures("unharmed")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, or all of 127.0.0.0/8")


def ask(sock: socket.socket, head: str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") -> bytes:
    """Send a request on a connection that stays open, and return the answer."""
    sock.settimeout(DEADLINE)
    sock.sendall(head.encode())
    answer = sock.recv(65536)
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", answer)
    missing = int(length[1]) - len(answer.partition(b"\r\n\r\n")[2]) if length else 0
    return answer + (sock.recv(missing, socket.MSG_WAITALL) if missing else b"")


# -- where a request ends -----------------------------------------------------------------------

CHUNKS = "0\r\n\r\n"
DISPUTED = {
    "both": "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "both, the other way round": "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "both, the length nothing": "Content-Length: 0\r\nTransfer-Encoding: chunked",
    "two lines": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "two codings": "Transfer-Encoding: chunked, chunked",
    "an empty coding": "Transfer-Encoding: , chunked",
    "no coding": "Transfer-Encoding:\r\nContent-Length: 5",
    "no coding alone": "Transfer-Encoding: ",
    "folded": "Transfer-Encoding: chunked\r\n , chunked",
    "folded to begin with": "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5",
    "in capitals": "TRANSFER-ENCODING: CHUNKED\r\ncontent-length: 5",
    "an unknown coding": "Transfer-Encoding: xchunked\r\nContent-Length: 5",
    "identity": "Transfer-Encoding: identity\r\nContent-Length: 5",
    "chunked is not the last": "Transfer-Encoding: chunked, gzip",
    "an odd space": "Transfer-Encoding: \x0bchunked",
    "a space before the colon": "Transfer-Encoding : chunked\r\nContent-Length: 5",
    "two lengths": "Content-Length: 5\r\nContent-Length: 5",
    "two lengths in one": "Content-Length: 5, 5",
    "a signed length": "Content-Length: +5",
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", DISPUTED.values(), ids=DISPUTED)
def test_a_request_whose_end_is_disputed_is_the_last(
    node: NodeProcess, fields: str, version: str
) -> None:
    smuggled = "GET /commit?msg=smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST / HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n{fields}"
    answer = exchange(node.port, f"{head}\r\n\r\n{CHUNKS}{smuggled}".encode())
    assert answer.count(b"HTTP/1.") == 1 and answer.split()[1] in (b"400", b"501")
    head, body = answer.decode().split("\r\n\r\n", 1)
    assert "connection: close" in head.lower() and "x-content-type-options" in head.lower()
    assert "cross-origin-opener-policy: same-origin" in head.lower()
    assert len(body.splitlines()) == 1, "a sentence"


def test_below_api_a_disputed_request_gets_a_problem_document(node: NodeProcess) -> None:
    head = "POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5"
    with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as sock:
        answer = ask(sock, f"{head}\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:p2p-sync:bad_request"


def test_chunks_alone_are_fine(node: NodeProcess) -> None:
    for name in ("Transfer-Encoding: chunked", "transfer-encoding:\tChunked "):
        with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as sock:
            head = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{name}\r\n\r\n{CHUNKS}"
            assert ask(sock, head).startswith(b"HTTP/1.1 200") and is_open(sock)


def test_a_path_with_two_slashes_has_the_room_of_one() -> None:
    body = b'"text of a line"\n' * 100_000
    with NodeProcess("--ephemeral") as node:
        kind = {"Content-Type": "application/x-ndjson"}
        answer = request(node.port, f"/{MESSAGES}", "POST", kind, body)
        assert (answer.status, json.loads(answer.body)["count"]) == (201, 100_000)


# -- places for connections ---------------------------------------------------------------------


def test_strangers_that_send_line_ends_hold_no_place_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "HTTP_IDLE", 1)
    with serving(hello) as port, ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(8)
        ]
        closed: set[int] = set()

        def all_are_cut() -> bool:
            for number, sock in enumerate(held):
                with suppress(OSError):
                    sock.send(b"\r\n" if number % 2 else b"\r\n\r\n")
                if not is_open(sock):
                    closed.add(number)
            return len(closed) == len(held)

        wait_until(all_are_cut, lambda: f"{len(closed)} are closed")


def test_an_answer_begins_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HTTP_IDLE", 3)
    with serving(hello) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        begun = time.monotonic()

        def answered() -> bool:
            return ask(sock).startswith(b"HTTP/1.1 200")

        holds(answered, "it is kept while it asks", 5.0)
        assert time.monotonic() - begun > 4
        wait_until(lambda: not is_open(sock), "it is closed when it does not")


def test_an_answer_that_takes_long_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HTTP_IDLE", 1)
    done = threading.Event()

    def slow(environ: Any, start_response: Any) -> Iterable[bytes]:
        done.wait(DEADLINE)
        return hello(environ, start_response)

    with serving(slow) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        holds(lambda: is_open(sock), "it is answered", 3.0)
        done.set()
        sock.settimeout(DEADLINE)
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_probes_are_answered_while_this_machine_holds_more_than_there_are() -> None:
    with NodeProcess("--http-host", "0.0.0.0") as node, ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            for _ in range(130)
        ]
        for number, sock in enumerate(held):
            with suppress(OSError):
                sock.sendall((b"\r\n", b"GET /healthz HTTP/1.1\r\n\r\n", b"GET", b"")[number % 4])
            assert node.get("/healthz").status == 200
        assert sum(map(is_open, held)) <= 101


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Connects from another host: in the server's eyes, all but 127.0.0.1 are."""
    monkeypatch.setattr(places, "is_loopback", lambda host: host == "127.0.0.1")
    monkeypatch.setattr(settings, "HTTP_CONNECTIONS", 12)
    monkeypatch.setattr(settings, "HTTP_CONNECTIONS_PER_HOST", 4)

    def connect(port: int, host: int) -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", port), DEADLINE, source_address=(f"127.0.1.{host}", 0)
        )

    return connect


def known(head: Any) -> bool:
    return "HTTP_AUTHORIZATION" in head


TOKEN = "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"


@LINUX
def test_one_host_has_few_connections(distant: Callable[..., Any]) -> None:
    with serving(hello, known=known) as port, ExitStack() as stack:
        other = stack.enter_context(distant(port, 2))
        assert ask(other).startswith(b"HTTP/1.1 200")
        held = [stack.enter_context(distant(port, 1)) for _ in range(20)]
        wait_until(lambda: sum(map(is_open, held)) == 4, "the oldest make room")
        assert all(map(is_open, held[-4:])) and ask(held[-1]).startswith(b"HTTP/1.1 200")
        assert ask(other).startswith(b"HTTP/1.1 200"), "another host is not concerned"


@LINUX
def test_many_hosts_leave_room_for_each_other_this_machine_and_the_token(
    distant: Callable[..., Any],
) -> None:
    with serving(hello, known=known) as port, ExitStack() as stack:
        member = stack.enter_context(distant(port, 99))
        assert ask(member, TOKEN).startswith(b"HTTP/1.1 200")
        local = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert ask(local).startswith(b"HTTP/1.1 200")
        held = []
        for host in range(1, 31):
            held += [stack.enter_context(distant(port, host)) for _ in range(3)]
            newest = stack.enter_context(distant(port, 200))
            assert ask(newest).startswith(b"HTTP/1.1 200"), "a new connection is answered"
            newest.close()
        wait_until(lambda: sum(map(is_open, held)) <= 12, "the oldest make room")
        assert ask(member, TOKEN).startswith(b"HTTP/1.1 200"), "the token has places of its own"
        assert ask(local).startswith(b"HTTP/1.1 200"), "this machine has places of its own"


@LINUX
def test_what_is_being_answered_is_not_closed_for_a_newcomer(distant: Callable[..., Any]) -> None:
    done = threading.Event()

    def slow(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            done.wait(DEADLINE)
        return hello(environ, start_response)

    with serving(slow, known=known) as port, ExitStack() as stack:
        waits = stack.enter_context(distant(port, 1))
        waits.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sends = stack.enter_context(distant(port, 1))
        sends.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nbegun")
        assert ask(stack.enter_context(distant(port, 1))).startswith(b"HTTP/1.1 200")
        held = [stack.enter_context(distant(port, 1)) for _ in range(20)]
        wait_until(lambda: sum(map(is_open, held)) == 2, "the idle ones make room")
        done.set()
        sends.sendall(b"done")
        for sock in (waits, sends):
            sock.settimeout(DEADLINE)
            assert sock.recv(12) == b"HTTP/1.1 200"


@LINUX
def test_answers_that_strangers_do_not_read_hold_no_place(distant: Callable[..., Any]) -> None:
    begun = threading.Semaphore(0)

    def large(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/large":
            return hello(environ, start_response)
        start_response("200 OK", [("Content-Length", f"{_LARGE}")])
        begun.release()
        return [bytes(_LARGE)]

    with serving(large, known=known) as port, ExitStack() as stack:
        for host in range(1, 7):
            for _ in range(2):
                sock = stack.enter_context(distant(port, host))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert begun.acquire(timeout=DEADLINE)
                assert sock.recv(1, socket.MSG_PEEK)
        newcomer = stack.enter_context(distant(port, 200))
        assert ask(newcomer).startswith(b"HTTP/1.1 200"), "a new connection is answered"
        member = stack.enter_context(distant(port, 201))
        assert ask(member, TOKEN).startswith(b"HTTP/1.1 200"), "so is a client with the token"


@LINUX
def test_strangers_that_go_on_asking_leave_room_for_others_of_their_host(
    distant: Callable[..., Any],
) -> None:
    begun, done = threading.Semaphore(0), threading.Event()

    def slow(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            begun.release()
            done.wait(DEADLINE)
        return hello(environ, start_response)

    with serving(slow, known=known) as port, ExitStack() as stack:
        stack.callback(done.set)
        for _ in range(4):
            sock = stack.enter_context(distant(port, 1))
            assert ask(sock).startswith(b"HTTP/1.1 200")
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert begun.acquire(timeout=DEADLINE)
        for head in ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", TOKEN):
            newcomer = stack.enter_context(distant(port, 1))
            assert ask(newcomer, head).startswith(b"HTTP/1.1 200"), "a new connection is answered"


# -- clocks -------------------------------------------------------------------------------------


def step(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have the system's clock of this process step."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


@pytest.mark.parametrize("seconds", [-3600, 3600, 60 * 365 * 24 * 3600])
def test_a_clock_that_steps_neither_keeps_nor_closes_connections(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(settings, "HTTP_IDLE", 3)
    with serving(hello) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        assert ask(sock).startswith(b"HTTP/1.1 200")
        step(monkeypatch, seconds)
        holds(lambda: is_open(sock), "it is not silent for long", 1.5)
        wait_until(lambda: not is_open(sock), "it is closed in time", 10)


@pytest.mark.parametrize("seconds", [0, -3600, 3600])
def test_an_answer_that_nobody_reads_is_given_up_also_when_the_clock_steps(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(settings, "HTTP_STUCK", 2.0)
    begun, ended = threading.Event(), threading.Event()

    def endless(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        begun.set()
        try:
            while True:
                yield b"x" * 1_000_000
        finally:
            ended.set()

    with serving(endless) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert begun.wait(DEADLINE)
        step(monkeypatch, seconds)
        assert not ended.wait(1.0), "it may take a moment"
        assert ended.wait(DEADLINE), "the thread is free again"


def test_a_node_gets_ready_though_its_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_listener() as (address, _), Node(0, peers=[address]) as node:
        assert "just started" in node.unready()
        step(monkeypatch, -3600)
        wait_until(lambda: not node.unready(), node.unready)


def test_a_server_stops_in_time_though_the_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, asked = threading.Event(), threading.Event()

    def stuck(environ: Any, start_response: Any) -> Iterable[bytes]:
        asked.set()
        done.wait(DEADLINE)
        return hello(environ, start_response)

    real = time.time
    with socket.socket() as sock, serving(stuck) as port:
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(DEADLINE)
        begun = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: real() - 10 * (time.monotonic() - begun))
    done.set()
    assert time.monotonic() - begun < 5


# -- descriptors --------------------------------------------------------------------------------


def limited(limit: str) -> list[str]:
    """The command that runs a node below a limit of descriptors."""
    return ["bash", "-c", f'ulimit -{limit}; exec "$0" "$@"', *RUN_NODE]


@LINUX
@pytest.mark.parametrize("offset", [0, 1], ids=["http", "peers"])
def test_without_descriptors_a_port_waits_and_says_so_once(offset: int) -> None:
    with NodeProcess(command=limited("n 64")) as node, ExitStack() as stack:
        before = cpu(node)
        for _ in range(90):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.2)
            with suppress(OSError):
                sock.connect(("127.0.0.1", node.port + offset))
        wait_until(lambda: node.logged("cannot be accepted", "too many open files"))
        holds(lambda: node.log().count("cannot be accepted") == 1, "it says so once", 3.0)
        assert cpu(node) - before < 1.5 and "Traceback" not in node.log(), node.log()
        stack.close()
        wait_until(lambda: node.commit("after").status == 302, "it serves again")
        with socket.create_connection(("127.0.0.1", node.port + 1), DEADLINE) as peer:
            assert ask(peer).startswith(b"HTTP/1.1 426")


@LINUX
def test_a_node_raises_its_limit_of_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with NodeProcess("--ephemeral", command=limited("Sn 100")) as node:
        soft, now = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        assert (soft, now) == (min(10_000, hard) if hard > 0 else 10_000, hard)
    with NodeProcess("--ephemeral", command=limited("n 100")) as node:
        assert resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE) == (100, 100)


# -- large bodies and answers -------------------------------------------------------------------


@pytest.fixture
def no_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))


SIZES = [65_535, 65_536, 65_537, 200_000, 3_000_000]


@pytest.mark.usefixtures("no_temporary_directory")
@pytest.mark.parametrize("size", SIZES)
def test_large_bodies_are_kept_in_the_directory(tmp_path: Path, size: int) -> None:
    with serving(hello, directory=tmp_path) as port:
        assert request(port, "/", "POST", {}, b"x" * size).text == f"{size}"
    assert list(tmp_path.iterdir()) == [], "the files have no names"


@pytest.mark.usefixtures("no_temporary_directory")
@pytest.mark.parametrize("directory", [None, Path("/proc/nothing"), Path("/dev/null")])
def test_a_body_that_cannot_be_kept_is_answered_507(directory: Path | None) -> None:
    with serving(hello, directory=directory) as port:
        small = b"x" * 60_000
        for path, kind in ((MESSAGES, "application/problem+json"), ("/add", "text/plain")):
            answer = request(port, path, "POST", {}, b"x" * 3_000_000)
            assert answer.status == 507 and answer.headers["content-type"].startswith(kind)
            assert "nothing of it is stored" in answer.text
            assert request(port, path, "POST", {}, small).text == "60000"


def test_a_disk_that_fills_up_while_a_body_arrives() -> None:
    text = "\\u00e9" * 20_000
    with NodeProcess() as node:
        body = f'{{"data":"{text}"}}'.encode()
        with small_files(node, 80_000):
            answer = request(node.port, MESSAGES, "POST", JSON, body)
            assert answer.status == 507 and "kept" in json.loads(answer.body)["detail"]
        assert request(node.port, MESSAGES, "POST", JSON, body).status == 201
        assert node.messages() == "\u00e9" * 20_000


@pytest.mark.usefixtures("no_temporary_directory")
def test_large_answers_need_no_temporary_directory() -> None:
    def large(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"x" * 8_000_000] * 5

    with serving(large) as port, socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        holds(lambda: is_open(sock), "it is not read yet", 0.5)
        sock.settimeout(DEADLINE)
        size = 0
        while piece := sock.recv(1 << 20):
            size += len(piece)
        assert size > 40_000_000


# -- failures -----------------------------------------------------------------------------------

PAGE = {"Accept": "text/html,*/*"}


def test_a_node_that_has_stopped_answers_503() -> None:
    with serving(create_app(Node(0))) as port:
        for path in ("/", "/readyz", "/commit?msg=x", "/add?address=ws://127.0.0.1:1", "/metrics"):
            for headers in ({}, PAGE):
                answer = request(port, path, headers=headers)
                assert (answer.status, "stopping" in answer.text) == (503, True), path
                assert int(answer.headers["retry-after"]) > 0
        for path in ("status", "peers", "messages", "events", "messages/follow?after="):
            answer = request(port, f"/api/v1/{path}")
            assert (answer.status, answer.headers["content-type"]) == (
                503,
                "application/problem+json",
            )
        for kind, body in (("json", b'{"data":"x"}'), ("x-ndjson", b'"x"\n')):
            fields = {"Content-Type": f"application/{kind}"}
            assert request(port, MESSAGES, "POST", fields, body).status == 503
        assert request(port, "/healthz").status == 200
        assert request(port, "/nothing", headers=PAGE).status == 404


def test_what_fails_is_not_asked_again_for_its_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def fail(*_: object, **__: object) -> None:
        asked.append("once more")
        raise RuntimeError("the node is broken")

    with Node(0) as node, serving(create_app(node)) as port:
        for name in ("status", "peers", "connect", "unready"):
            monkeypatch.setattr(node, name, fail)
        monkeypatch.setattr(node.intake, "commit", fail)
        for path in ("/", "/commit?msg=x&copies=0", "/add?address=127.0.0.1:1", "/readyz"):
            asked.clear()
            answer = request(port, path, headers=PAGE)
            assert answer.status == 500 and len(asked) == 1
            assert re.search(r'role="alert">[^<]*failed', answer.text)
            assert "broken" not in answer.text, "no traceback reaches a user"
            if path != "/":
                assert request(port, path).text.count("\n") == 1, "a sentence"
        assert request(port, "/nothing", headers=PAGE).status == 404
    assert "the node is broken" in caplog.text
