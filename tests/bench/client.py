"""What asks the systems: many HTTP clients at once, and patience."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.results import in_ms
from tests.harness.http import answer_length, get_bytes
from tests.harness.support import DEADLINE

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}

# A scenario's step that takes longer than this has failed. Seconds.
PATIENCE = 300.0

# The shortest pause between two questions how far a system is. Seconds.
_PAUSE = 0.004


def text(number: int, name: str = "m") -> str:
    """A message of 100 bytes."""
    return f"{name}-{number:09d}-".ljust(100, "x")


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
class Served:
    """What many clients got answered."""

    requests: int
    seconds: float
    figures: dict[str, float]  # the delay of an answer


def drive(port: int, target: str, clients: int, seconds: float) -> Served:
    """Have keep-alive `clients` ask for `target` as fast as they are answered, by wrk if it is
    there."""
    if shutil.which("wrk"):
        return by_wrk(port, target, clients, seconds)
    return by_hand(port, target, clients, seconds)


def by_wrk(port: int, target: str, clients: int, seconds: float) -> Served:
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
    return Served(int(counted[1]), taken, delays)


def by_hand(port: int, target: str, clients: int, seconds: float) -> Served:
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
    return Served(len(delays), taken, in_ms(delays))


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
