"""What the link layer owes to a program that imports it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.net import stream
from p2p_sync.net.link import Link
from p2p_sync.net.opening import Opened
from p2p_sync.net.stream import Stream
from p2p_sync.net.websocket import FrameReader
from p2p_sync.settings import Settings
from tests.harness import raw
from tests.harness.support import DEADLINE, ROOT, wait_until


def test_importing_and_running_a_node_leaves_logging_alone() -> None:
    program = (
        "import logging; from p2p_sync import Node\n"
        "with Node(0): pass\n"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=DEADLINE)


def test_a_port_in_use_is_an_error_and_not_the_end_of_the_program() -> None:
    with Node(0) as first:
        port = int(first.address.rsplit(":", 1)[1])
        with pytest.raises(Exception, match=str(port)), Node(port):
            pass


class _Texts:
    """A link's owner that has the texts of `queue` sent, and notes which threads ask for them."""

    def __init__(self) -> None:
        self.queue: deque[str] = deque()
        self.askers: set[str] = set()
        self.received_at = 0.0

    def next_messages(self, link: Link) -> tuple[list[str], float]:
        self.askers.add(threading.current_thread().name)
        return [self.queue.popleft() for _ in range(len(self.queue))], float("inf")

    def received(self, link: Link, message: str | bytes) -> bool:
        self.received_at = time.monotonic()
        return True

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@contextmanager
def linked() -> Iterator[tuple[_Texts, Link, socket.socket]]:
    ours, theirs = socket.socketpair()
    texts = _Texts()
    link = Link(Opened(Stream(ours, 60.0), ("127.0.0.1", 1)), texts, Settings())
    reader = threading.Thread(target=link.run, daemon=True)
    reader.start()
    theirs.settimeout(DEADLINE)
    wait_until(lambda: texts.askers, "the sender has asked")
    try:
        yield texts, link, theirs
    finally:
        link.cut("the test is over")
        reader.join(DEADLINE)
        theirs.close()


def read_texts(sock: socket.socket, count: int) -> list[str]:
    frames = FrameReader(Stream(sock, DEADLINE), False, 1 << 20)
    return [found.text or "" for _ in range(count) if (found := frames.read())]


def test_a_link_sends_what_its_owner_has_in_order_by_one_thread() -> None:
    with linked() as (texts, link, theirs):

        def add(name: int) -> None:
            for number in range(200):
                texts.queue.append(f"{name}.{number}")
                link.wake()

        threads = [threading.Thread(target=add, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        got = read_texts(theirs, 800)
        for thread in threads:
            thread.join(DEADLINE)
        for name in range(4):
            mine = [text for text in got if text.startswith(f"{name}.")]
            assert mine == [f"{name}.{number}" for number in range(200)]
        assert texts.askers == {f"send {link}"}


def fragments(count: int) -> bytes:
    more = raw.frame(raw.CONTINUATION, b"x", fin=False, masked=True) * count
    return (
        raw.frame(raw.TEXT, b"x", fin=False, masked=True)
        + more
        + raw.frame(raw.CONTINUATION, masked=True)
    )


def control(opcode: int, count: int) -> bytes:
    between = raw.frame(opcode, masked=True) * count
    begin = raw.frame(raw.TEXT, b"x", fin=False, masked=True)
    return begin + between + raw.frame(raw.CONTINUATION, masked=True)


COUNT = 300
SLOW_TO_READ = {
    "small fragments": (fragments(COUNT), 1 << 16),
    "pings in a message": (control(raw.PING, COUNT), 1 << 16),
    "pongs in a message": (control(raw.PONG, COUNT), 1 << 16),
    "a frame in small pieces": (raw.frame(raw.TEXT, b"x" * COUNT, masked=True), 1),
}


@pytest.mark.parametrize(("data", "piece"), SLOW_TO_READ.values(), ids=SLOW_TO_READ)
def test_frames_without_news_use_a_quarter_of_the_readers_time(
    data: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces stand for records of TLS, which are read one at a time.

    Each step is taken to cost a millisecond, however busy the machine is.
    """
    ticks = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks) / 1000)
    monkeypatch.setattr(stream, "READ_SIZE", piece)
    with linked() as (texts, _, theirs):
        began = time.monotonic()
        theirs.sendall(data)
        wait_until(lambda: texts.received_at)
        assert texts.received_at - began > 0.9 * 4 * COUNT / 1000


def test_links_that_flood_use_a_quarter_of_the_time_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above: a step costs a millisecond. The links have a second before they count as floods."""
    ticks = defaultdict[int, Iterator[int]](itertools.count)
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks[threading.get_ident()]) / 1000)
    links, count = 4, 500
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(linked()) for _ in range(links)]
        began = time.monotonic()
        for _, _, theirs in ends:
            theirs.sendall(control(raw.PONG, count))
        wait_until(lambda: all(texts.received_at for texts, _, _ in ends))
        took = max(texts.received_at for texts, _, _ in ends) - began
        assert took > 1.5 * 4 * count / 1000, "longer than each would take alone"
