"""What asks the systems: a bare keep-alive HTTP client, many of them at once, and patience."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from tests.bench.results import in_ms
from tests.harness.support import DEADLINE

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}

# A scenario's step that takes longer than this has failed. Seconds.
PATIENCE = 300.0

# The shortest pause between two questions how far a system is. Seconds.
_PAUSE = 0.004


def text(number: int, name: str = "m") -> str:
    """A message of 100 bytes."""
    return f"{name}-{number:09d}-".ljust(100, "x")


def get_bytes(port: int, target: str) -> bytes:
    """A GET request."""
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def post_bytes(port: int, target: str, body: bytes, kind: str) -> bytes:
    """A POST request."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def commit_bytes(port: int, what: str) -> bytes:
    """The request that commits `what` at a node, ours or an original one."""
    return get_bytes(port, f"/commit?msg={quote(what, safe='')}")


def answer_length(data: bytes | bytearray) -> int:
    """How many bytes the answer at the start of `data` has; 0 where its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = _LENGTH.search(data, 0, end)
    return end + 4 + (int(length[1]) if length else 0)


class Http:
    """One keep-alive connection; a context manager."""

    def __init__(self, port: int, timeout: float = DEADLINE) -> None:
        self.port = port
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = bytearray()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        """The next answer: its status and body."""
        while not (length := answer_length(self._rest)) or len(self._rest) < length:
            chunk = self._sock.recv(1 << 16)
            if not chunk:
                raise EOFError("the connection ended before the answer")
            self._rest += chunk
        whole = bytes(self._rest[:length])
        del self._rest[:length]
        return int(whole.split(b" ", 2)[1]), whole[whole.find(b"\r\n\r\n") + 4 :]

    def ask(self, data: bytes, *expected: int) -> bytes:
        """Send a request and return the body of its answer, which has a status of `expected`."""
        self.send(data)
        status, body = self.answer()
        assert status in expected, f"{status} {body[:500]!r}"
        return body

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def wait_held(held: Callable[[], int], goal: int, timeout: float = PATIENCE) -> None:
    """Ask until `held` is `goal`: seldom while it is far, for each question costs CPU, too."""
    begun = time.monotonic()
    first = last = held()
    while last < goal:
        elapsed = time.monotonic() - begun
        assert elapsed < timeout, f"{last} of {goal} messages within {timeout:g} s"
        left = (goal - last) * elapsed / (last - first) if last > first else 0.05
        time.sleep(min(0.25, max(_PAUSE, left / 2)))
        last = held()


@dataclass(frozen=True)
class Load:
    """What many clients achieved."""

    requests: int
    seconds: float
    figures: dict[str, float]  # the delay of an answer


def drive(port: int, target: str, clients: int, seconds: float) -> Load:
    """Have keep-alive `clients` ask for `target` as fast as they are answered, by wrk if it is
    there."""
    if shutil.which("wrk"):
        return by_wrk(port, target, clients, seconds)
    return by_hand(port, target, clients, seconds)


def by_wrk(port: int, target: str, clients: int, seconds: float) -> Load:
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{whole}s", "--latency", "--timeout", "30s"]
    address = f"http://127.0.0.1:{port}{target}"
    done = subprocess.run(
        [*command, address], capture_output=True, text=True, timeout=whole + 60, check=True
    )
    counted = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", done.stdout)
    assert counted, done.stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    assert not refused, done.stdout
    delays = {}
    for share, name in (("50", "median ms"), ("99", "p99 ms")):
        found = re.search(rf"\b{share}(?:\.000)?%\s+([\d.]+)(us|ms|s)", done.stdout)
        if found:
            delays[name] = float(found[1]) * _UNITS[found[2]]
    taken = float(counted[2]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[counted[3]]
    return Load(int(counted[1]), taken, delays)


def by_hand(port: int, target: str, clients: int, seconds: float) -> Load:
    request = get_bytes(port, target)
    delays: list[float] = []
    with selectors.DefaultSelector() as selector:
        socks = [socket.create_connection(("127.0.0.1", port), DEADLINE) for _ in range(clients)]
        try:
            begun = time.perf_counter()
            end = begun + seconds
            for sock in socks:
                selector.register(sock, selectors.EVENT_READ, [bytearray(), time.perf_counter()])
                sock.sendall(request)
            while selector.get_map():
                ready = selector.select(DEADLINE)
                assert ready, "no answer"
                for key, _ in ready:
                    _read_answer(selector, key, request, end, delays)
            taken = time.perf_counter() - begun
        finally:
            for sock in socks:
                sock.close()
    return Load(len(delays), taken, in_ms(delays))


def _read_answer(
    selector: selectors.BaseSelector,
    key: selectors.SelectorKey,
    request: bytes,
    end: float,
    delays: list[float],
) -> None:
    """Take what has come on one connection; ask again after a whole answer, until the `end`."""
    assert isinstance(key.fileobj, socket.socket)
    sock, (data, sent) = key.fileobj, key.data
    chunk = sock.recv(1 << 16)
    assert chunk, "the connection ended before the answer"
    data += chunk
    length = answer_length(data)
    if not length or len(data) < length:
        return
    assert data.split(b" ", 2)[1] in (b"200", b"201", b"302"), bytes(data[:500])
    del data[:length]
    now = time.perf_counter()
    delays.append(now - sent)
    if now < end:
        key.data[1] = now
        sock.sendall(request)
    else:
        selector.unregister(sock)
