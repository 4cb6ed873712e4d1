"""What the link layer owes to a program that imports it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from p2p_sync import Node
from p2p_sync.net import stream
from p2p_sync.net.link import Link
from p2p_sync.net.stream import Stream
from p2p_sync.net.websocket import FrameReader
from tests.harness import raw
from tests.harness.links import Keeper, Served
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


@contextmanager
def linked() -> Iterator[tuple[Keeper, Link, socket.socket]]:
    ours, theirs = socket.socketpair()
    keeper = Keeper()
    served = Served(ours, keeper)
    theirs.settimeout(DEADLINE)
    wait_until(lambda: keeper.askers, "the sender has asked")
    try:
        yield keeper, served.link, theirs
    finally:
        served.link.cut("the test is over")
        served.join()
        theirs.close()


def read_texts(sock: socket.socket, count: int) -> list[str]:
    frames = FrameReader(Stream(sock, DEADLINE), False, 1 << 20)
    return [found.text or "" for _ in range(count) if (found := frames.read())]


def test_a_link_sends_what_its_owner_has_in_order_by_one_thread() -> None:
    with linked() as (keeper, link, theirs):

        def add(name: int) -> None:
            for number in range(200):
                keeper.texts.append(f"{name}.{number}")
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
        assert keeper.askers == {f"send {link}"}


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
    with linked() as (keeper, _, theirs):
        began = time.monotonic()
        theirs.sendall(data)
        wait_until(lambda: keeper.received_at)
        assert keeper.received_at - began > 0.9 * 4 * COUNT / 1000


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
        wait_until(lambda: all(keeper.received_at for keeper, _, _ in ends))
        took = max(keeper.received_at for keeper, _, _ in ends) - began
        assert took > 1.5 * 4 * count / 1000, "longer than each would take alone"
