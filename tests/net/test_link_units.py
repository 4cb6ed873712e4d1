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
    """A link's owner that has the texts of `queue` sent, and notes which thread asked for them."""

    def __init__(self) -> None:
        self.queue: deque[str] = deque()
        self.askers: set[str] = set()
        self.received_at = 0.0

    def next_texts(self, link: Link) -> tuple[list[str], float]:
        self.askers.add(threading.current_thread().name)
        texts = list(self.queue)
        self.queue.clear()
        return texts, float("inf")

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


def test_who_helps_sends_in_the_place_of_a_sender_that_waits() -> None:
    with linked() as (texts, link, theirs):
        wait_until(lambda: not link._busy, "it waits")
        texts.askers.clear()
        for number in range(5):
            texts.queue.append(f"{number}")
            link.help()
            assert not texts.queue, "it was sent here"
        assert texts.askers == {threading.current_thread().name}
        link.send("queued")
        assert read_texts(theirs, 6) == ["0", "1", "2", "3", "4", "queued"]


def test_what_one_who_helps_cannot_write_at_once_is_left_to_the_sender() -> None:
    large = ["x" * 1_000_000 + f"{number}" for number in range(5)]
    with linked() as (texts, link, theirs):
        for text in large:
            texts.queue.append(text)
            link.help()  # it does not wait
        link.send("queued")
        got = read_texts(theirs, 6)
        assert got.index("queued") > 0 and [text for text in got if text != "queued"] == large


@pytest.mark.parametrize("helped", [True, False], ids=["by a helper", "by the sender"])
def test_what_was_queued_before_there_was_more_to_send_goes_first(helped: bool) -> None:
    with linked() as (texts, link, theirs):
        wait_until(lambda: not link._busy, "it waits")

        def next_texts(link: Link) -> tuple[list[str], float]:
            if not texts.queue:
                return [], float("inf")
            link.send("SOCKETS")  # as the reader does while a sender is about to ask
            return [texts.queue.popleft()], float("inf")

        texts.next_texts = next_texts  # type: ignore[method-assign]
        texts.queue.append("HAVE")
        (link.help if helped else link.wake)()
        assert read_texts(theirs, 2) == ["SOCKETS", "HAVE"]


def test_many_who_help_at_once_send_each_text_once() -> None:
    with linked() as (texts, link, theirs):

        def add(name: int) -> None:
            for number in range(200):
                texts.queue.append(f"{name}.{number}")
                link.help()

        helpers = [threading.Thread(target=add, args=(name,)) for name in range(4)]
        for helper in helpers:
            helper.start()
        got = read_texts(theirs, 800)
        for helper in helpers:
            helper.join(DEADLINE)
        assert sorted(got) == sorted(f"{name}.{n}" for name in range(4) for n in range(200))


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
