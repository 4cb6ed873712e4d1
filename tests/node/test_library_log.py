"""The log as programs use it: copies, restarts, callbacks, and clocks that disagree."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p_sync import LogError, Message, MessageError, Node
from tests.harness.clock import Machine
from tests.harness.library import link, texts
from tests.harness.original import Original
from tests.harness.support import DEADLINE, SCALE, NodeProcess, wait_until

# -- copies -----------------------------------------------------------------------------------


def test_a_commit_returns_when_another_node_holds_it() -> None:
    with Node(0) as here, Node(0) as there:
        link(here, there)
        for n in range(20):
            message = here.commit(f"text {n}", copies=1)
            assert message.copies == 1
            assert message in there.messages()


def test_copies_come_at_once_not_with_the_next_news() -> None:
    """Peers tell what they hold about once a second; while a commit waits, soon."""
    with Node(0) as here, Node(0, host="127.0.0.2") as one, Node(0, host="127.0.0.3") as other:
        link(here, one, other)
        before = time.monotonic()
        for n in range(20):
            assert here.commit(f"text {n}", copies=2, timeout=DEADLINE).copies == 2
        assert time.monotonic() - before < 10 * SCALE


def test_nodes_of_one_host_count_as_one_copy() -> None:
    with Node(0) as here, Node(0) as one, Node(0) as other:
        link(here, one, other)
        message = here.commit("text", copies=2, timeout=0.5)
        assert message.copies == 1
        wait_until(lambda: here.report.spread([message])[0].copies == 2, "both nodes have it")


def test_a_commit_without_enough_nodes_says_how_many_there_are() -> None:
    with Node(0) as here, Node(0) as there:
        link(here, there)
        before = time.monotonic()
        message = here.commit("text", copies=2, timeout=0.5)
        assert 0.4 < time.monotonic() - before < 0.5 + 5 * SCALE
        assert message.copies == 1
        assert texts(here) == ["text"], "it is stored all the same"


def test_a_commit_of_a_node_alone_has_no_copies() -> None:
    with Node(0) as node:
        before = time.monotonic()
        assert node.commit("text").copies == 0
        assert time.monotonic() - before < 2 * SCALE, "without copies it waits for nobody"
        assert node.commit("text", copies=1, timeout=0).copies == 0


def test_a_commit_that_waits_goes_on_when_a_node_comes() -> None:
    with Node(0) as here, Node(0) as late:
        found: list[Message] = []
        waiter = threading.Thread(
            target=lambda: found.append(here.commit("text", copies=1, timeout=DEADLINE))
        )
        waiter.start()
        wait_until(lambda: texts(here) == ["text"], "it is stored, and waits")
        assert not found
        late.connect(here.address)
        waiter.join(DEADLINE)
        assert [message.copies for message in found] == [1]
        assert texts(late) == ["text"]


def test_many_wait_for_copies_at_once() -> None:
    with Node(0) as here, Node(0) as there:
        link(here, there)
        found: list[Message] = []
        waiters = [
            threading.Thread(
                target=lambda n=n: found.append(here.commit(f"{n}", copies=1, timeout=DEADLINE))
            )
            for n in range(30)
        ]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            waiter.join()
        assert [message.copies for message in found] == [1] * 30
        assert sorted(texts(there), key=int) == [str(n) for n in range(30)]


def test_many_commits_can_wait_for_copies_of_the_last() -> None:
    with Node(0) as here, Node(0) as there:
        link(here, there)
        *_, last = here.commit_all(f"text {n}" for n in range(2500))
        assert here.intake.wait_copies({last.origin: last.seq}, 1, DEADLINE) == 1
        assert len(texts(there)) == 2500


# -- many at once -----------------------------------------------------------------------------


def test_many_commits_come_in_their_order() -> None:
    with Node(0) as node:
        expected = [f"text {n}" for n in range(3500)]
        messages = list(node.commit_all(iter(expected)))
        assert [message.data for message in messages] == expected
        assert [message.seq for message in messages] == list(range(1, 3501))
        assert node.messages() == messages


@pytest.mark.parametrize("before", [0, 1, 2500])
def test_a_bad_text_among_many_ends_them_and_those_before_are_stored(before: int) -> None:
    with Node(0) as node:
        given = [*(f"text {n}" for n in range(before)), "\ud800", "after it"]
        stored = []
        with pytest.raises(MessageError):
            for message in node.commit_all(given):
                stored.append(message)
        assert len(stored) == before
        assert node.messages() == stored
        assert node.commit("next").seq == before + 1


def test_what_is_yielded_is_stored_though_the_rest_is_not_asked_for() -> None:
    with Node(0) as node:
        stream = node.commit_all(f"text {n}" for n in range(5000))
        first = next(stream)
        assert first in node.messages()
        del stream
        held = texts(node)
        assert held == [f"text {n}" for n in range(len(held))]


def test_a_commit_after_the_end_is_an_error(tmp_path: Path) -> None:
    with Node(0, data_dir=tmp_path) as node:
        node.commit("text")
    with pytest.raises((LogError, ValueError)):
        node.commit("text")


# -- restarts ---------------------------------------------------------------------------------


def test_a_data_directory_keeps_the_messages(tmp_path: Path) -> None:
    with Node(0, data_dir=tmp_path) as node:
        kept = [node.commit(text) for text in ("one", "", "\0 three")]
        told = node.status().messages
    with Node(0, data_dir=tmp_path) as node:
        assert node.messages() == kept
        assert node.status().messages == told
        message = node.commit("four")
        assert message.origin[:32] == kept[0].origin[:32] == node.id
        assert message not in kept
        assert node.messages() == [*kept, message]


def test_peers_get_the_messages_of_earlier_starts(tmp_path: Path) -> None:
    kept: list[Message] = []
    for start in range(3):
        with Node(0, data_dir=tmp_path) as node:
            kept += node.commit_all(f"start {start}, text {n}" for n in range(10))
    with Node(0, data_dir=tmp_path) as node, Node(0) as other:
        other.connect(node.address)
        wait_until(lambda: len(other.messages()) == 30, "it has all")
        assert other.messages() == kept == node.messages()


def committed(directory: Path, batches: list[list[str]]) -> str:
    """Commit batches on a node of that directory; return the origin that they have."""
    with Node(0, data_dir=directory) as node:
        messages = [message for batch in batches for message in node.commit_all(batch)]
        return messages[0].origin


@pytest.mark.parametrize(
    ("batches", "split"),
    [
        ([["x"] * 900, *(["single"] for _ in range(200)), ["y"] * 1000], 1),
        ([["a" * 60_000], ["b" * 60_000], ["\x01" * 40_000] * 4], 2),
    ],
    ids=["messages", "bytes"],
)
def test_a_newcomer_is_shipped_frames_within_their_limits(
    tmp_path: Path, batches: list[list[str]], split: int
) -> None:
    first, second = "~", ""
    while first > second:  # shipped in this order, by their random names
        tmp_path = tmp_path / "again"
        first = committed(tmp_path, batches[:split])
        second = committed(tmp_path, batches[split:])
    with Node(0, data_dir=tmp_path) as node, Node(0) as other:
        other.connect(node.address)
        count = sum(map(len, batches))
        wait_until(lambda: other.log.count()[0] == count, "it has all")
        assert not any(other.status().misbehaviour.values())


def test_callbacks_get_what_comes_not_what_was_there(tmp_path: Path) -> None:
    with Node(0, data_dir=tmp_path) as node:
        for n in range(10):
            node.commit(f"old {n}")
    seen: list[str] = []
    again = Node(0, data_dir=tmp_path)
    again.on_message(lambda message: seen.append(message.data))
    with again, Node(0) as other:
        other.commit("of the other, before")
        again.commit("new")
        other.connect(again.address)
        wait_until(lambda: len(seen) >= 2, "both arrive")
        wait_until(lambda: len(texts(other)) == 12, "the other has all")
        other.commit("of the other, after")
        wait_until(lambda: len(seen) >= 3, "it arrives")
    assert seen == ["new", "of the other, before", "of the other, after"]


def test_callbacks_get_each_of_many_once() -> None:
    seen: list[Message] = []
    node = Node(0)
    node.on_message(seen.append)
    with node, Node(0) as other:
        other.connect(node.address)
        committers = [
            threading.Thread(
                target=lambda n=n, of=of: list(of.commit_all(f"{n}.{i}" for i in range(1200)))
            )
            for n, of in enumerate([node, other, node, other])
        ]
        for thread in committers:
            thread.start()
        for thread in committers:
            thread.join()
        wait_until(lambda: len(seen) >= 4800, lambda: f"{len(seen)} of 4800")
        assert len({message.id for message in seen}) == 4800 == len(seen)
        assert sorted(seen, key=lambda message: message.order) == node.messages()


# -- clocks -----------------------------------------------------------------------------------


@contextmanager
def shifted(seconds: int, peer: Node) -> Iterator[NodeProcess]:
    """A process whose clock is off by that much, linked with `peer`."""
    with Machine(seconds) as process:
        peer.connect(process.address)
        wait_until(lambda: process.sockets() == 1, "it is linked")
        yield process


@pytest.mark.parametrize("seconds", [-45, -5, 30])
def test_a_reply_sorts_after_what_it_replies_to(seconds: int) -> None:
    with Node(0) as node, shifted(seconds, node) as process:
        expected = []
        for n in range(5):
            node.commit(f"question {n}")
            wait_until(lambda: f"question {n}" in process.texts(), "it has arrived")  # noqa: B023
            process.commit(f"answer {n}")
            wait_until(lambda: f"answer {n}" in texts(node), "it has arrived")  # noqa: B023
            expected += [f"question {n}", f"answer {n}"]
        assert texts(node) == expected == process.texts()
        times = [message.time for message in node.messages()]
        assert times == sorted(set(times))


def test_a_clock_an_hour_ahead_is_not_followed() -> None:
    with Node(0) as node, shifted(3600, node) as process:
        process.commit("from the future")
        wait_until(lambda: texts(node) == ["from the future"], "it is kept")
        message = node.commit("from today")
        assert abs(message.time - time.time() * 1000) < 60_000
        assert texts(node) == ["from today", "from the future"]
        wait_until(lambda: process.texts() == texts(node), "the same order there")


def test_a_time_that_is_not_followed_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with Node(0) as node, shifted(3600, node) as process:
        process.commit("from the future")
        wait_until(lambda: texts(node) == ["from the future"], "it is kept")
        wait_until(
            lambda: any("ahead" in record.getMessage() for record in caplog.records), "it is told"
        )


def test_the_clock_goes_on_from_the_log_after_a_restart(tmp_path: Path) -> None:
    """Also where the times in it are those of another node, a little ahead of ours."""
    with Node(0, data_dir=tmp_path) as node, shifted(50, node) as process:
        process.commit("ahead")
        wait_until(lambda: texts(node) == ["ahead"], "it has arrived")
    with Node(0, data_dir=tmp_path) as node:
        node.commit("after a restart")
        assert texts(node) == ["ahead", "after a restart"]


def test_callbacks_go_on_after_a_hearing_that_is_not_shown() -> None:
    """The hearing of the other node comes later, so that it is hidden, and it arrives alone."""
    arrived: queue.Queue[str] = queue.Queue()
    with (
        Node(0, advertise="none") as here,
        Node(0, advertise="none") as there,
        Original() as first,
        Original() as second,
    ):
        here.on_message(lambda message: arrived.put(message.data))
        there.connect(here.address)
        first.add(here.address)
        second.add(there.address)
        wait_until(lambda: here.sockets() == there.sockets() == 2, "each has its original")
        first.commit("heard by both")
        wait_until(lambda: there.log.count() == (1, 0), "the first hearing is held by both")
        second.commit("heard by both")
        wait_until(lambda: here.log.count() == (2, 1), "the second one is held, and hidden")
        there.commit("after")
        assert [arrived.get(timeout=DEADLINE) for _ in range(2)] == ["heard by both", "after"]
