"""The thread that writes to all streams, with a node of the library and connections that only note
what is sent: each piece is made once, and nobody waits for another."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import pytest

from p2p_sync import Node
from p2p_sync.disk.wanted import ALL, Wanted
from p2p_sync.errors import Busy, LogError
from p2p_sync.results import Status
from p2p_sync.settings import (
    API_MAX_LIMIT,
    BOARD_CHECK,
    HTTP_STREAM_PIECE,
    HTTP_STREAM_UNSENT,
    HTTP_STREAMS,
)
from p2p_sync.web.board import Board
from p2p_sync.web.feeds import LINES, Messages, Page, Spot
from p2p_sync.web.live import Form, Piece, Streams
from p2p_sync.web.places import KNOWN
from tests.harness.streams import Sink
from tests.harness.support import holds, wait_until

LOCALLY = {"REMOTE_ADDR": "127.0.0.1"}


class Counted(NamedTuple):
    """The messages of a node; counts the reads that bring something, by place."""

    feed: Messages
    reads: Counter[int]
    fails: list[LogError]

    @property
    def form(self) -> Form:
        return self.feed.form

    def look(self, now: float) -> float:
        return self.feed.look(now)

    def read(self, at: int) -> Piece:
        if self.fails:
            raise self.fails[0]
        piece = self.feed.read(at)
        self.reads[at] += bool(piece.data)
        return piece

    def __hash__(self) -> int:
        return id(self.reads)


def test_a_piece_is_made_once_for_all_streams_that_are_at_the_same_place() -> None:
    with Node(0) as node:
        streams, sinks = Streams(node), [Sink() for _ in range(50)]
        query = Counted(Messages(node, ALL, LINES), Counter(), [])
        for sink in sinks:
            streams.live(query, 0, LOCALLY).begin(sink)
        wait_until(lambda: all(sink.data == b"\n" for sink in sinks), "all have begun")
        query.reads.clear()
        node.commit("news")
        wait_until(lambda: all(b"news" in sink.data for sink in sinks))
        assert query.reads[0] == 1 and len({sink.data for sink in sinks}) == 1
        sinks[0].connected = False
        assert streams.count() == 49
    wait_until(lambda: all(sink.data.endswith(b"END") for sink in sinks[1:]), "the node stops")
    assert streams.count() == 0


def test_streams_that_read_the_log_side_by_side_share_the_pieces() -> None:
    with Node(0) as node:
        list(node.commit_all(f"{n}" for n in range(20_000)))
        streams, sinks = Streams(node), [Sink() for _ in range(20)]
        query = Counted(Messages(node, ALL, LINES), Counter(), [])
        for sink in sinks:
            streams.live(query, 0, LOCALLY).begin(sink)
        wait_until(lambda: all(sink.data.count(b"\n") == 20_001 for sink in sinks))
        assert sum(query.reads.values()) < 5 * len(query.reads), query.reads


def test_a_client_that_has_not_taken_what_was_sent_gets_no_more() -> None:
    with Node(0) as node:
        streams, slow, quick = Streams(node), Sink(), Sink()
        for sink in (slow, quick):
            streams.live(Messages(node, ALL, LINES), 0, LOCALLY).begin(sink)
        node.commit("first")
        wait_until(lambda: b"first" in slow.data)
        slow.unsent = HTTP_STREAM_UNSENT + 1
        for n in range(300):
            node.commit(f"text {n}")
        wait_until(lambda: b"text 299" in quick.data)
        assert b"text" not in slow.data
        slow.unsent = 0
        slow.drained()
        wait_until(lambda: slow.data == quick.data)


def test_a_log_that_cannot_be_read_ends_the_streams_that_need_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Node(0) as node:
        streams, bad, good = Streams(node), Sink(), Sink()
        broken = Counted(Messages(node, ALL, LINES), Counter(), [LogError("the disk is gone")])
        streams.live(Messages(node, ALL, LINES), 0, LOCALLY).begin(good)
        streams.live(broken, 0, LOCALLY).begin(bad)
        wait_until(lambda: bad.data.endswith(b"END"))
        node.commit("on")
        wait_until(lambda: b"on" in good.data)
    assert "ended a stream: the disk is gone" in caplog.text


def test_a_page_shows_the_last_state_while_the_log_cannot_be_read_and_ends_if_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Status:
        raise LogError("the disk is gone")

    with Node(0) as node:
        streams, board, sinks = Streams(node), Board(node), [Sink() for _ in range(3)]
        streams.live(Page(node, board), Spot(0, 0), LOCALLY).begin(sinks[0])
        wait_until(lambda: b"event: state" in sinks[0].data)
        monkeypatch.setattr(node, "status", fail)
        streams.live(Page(node, board), Spot(0, 0), LOCALLY).begin(sinks[1])
        wait_until(lambda: b"event: state" in sinks[1].data)
        streams.live(Page(node, Board(node)), Spot(0, 0), LOCALLY).begin(sinks[2])
        wait_until(lambda: sinks[2].data.endswith(b"END"))
        node.commit("on")
        wait_until(lambda: all(b'"data":"on"' in sink.data for sink in sinks[:2]))


def test_a_piece_has_a_bounded_size() -> None:
    with Node(0, max_message_bytes=60_000) as node:
        list(node.commit_all("x" * 50_000 for _ in range(100)))
        list(node.commit_all(f"{n}" for n in range(3_000)))
        for wanted in (ALL, Wanted(node=node.id)):  # from memory, and from the database
            query, at, count, more = Messages(node, wanted, LINES), 0, 0, True
            while more:
                data, at, more = query.read(at)
                assert len(data) < 2 * HTTP_STREAM_PIECE + 200 * API_MAX_LIMIT
                count += data.count(b"\n")
            assert count == 3_100


def test_streams_of_this_machine_and_of_others_are_counted_apart() -> None:
    with Node(0) as node:
        streams, query = Streams(node), Messages(node, ALL, LINES)
        remote = {"REMOTE_ADDR": "10.0.0.1"}
        for _ in range(HTTP_STREAMS):
            sink = Sink()
            sink.group = KNOWN
            streams.live(query, 0, remote).begin(sink)
        with pytest.raises(Busy):
            streams.live(query, 0, remote)
        streams.live(query, 0, LOCALLY).begin(Sink())


def test_without_a_page_nobody_asks_for_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    with Node(0) as node:
        status = node.status

        def count() -> Status:
            asked.append(1)
            return status()

        monkeypatch.setattr(node, "status", count)
        streams, board, sinks = Streams(node), Board(node), [Sink() for _ in range(20)]
        streams.live(Messages(node, ALL, LINES), 0, LOCALLY).begin(sinks[0])
        node.commit("one")
        wait_until(lambda: b"one" in sinks[0].data)
        assert not asked
        for sink in sinks[1:]:
            streams.live(Page(node, board), Spot(0, 0), LOCALLY).begin(sink)
        wait_until(lambda: all(b"state" in sink.data for sink in sinks[1:]))
        began, before = time.monotonic(), len(asked)
        holds(lambda: all(sink.data.count(b"event: state") == 1 for sink in sinks[1:]))
        assert len(asked) - before <= 2 + (time.monotonic() - began) / BOARD_CHECK, "once for all"
        for sink in sinks[1:]:
            sink.connected = False
        node.commit("two")
        wait_until(lambda: b"two" in sinks[0].data)
        before = len(asked)
        holds(lambda: len(asked) == before)
