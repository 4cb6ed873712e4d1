"""Topics in the library and between nodes: who commits, reads and follows them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node, TopicError
from tests.harness.original import Original
from tests.harness.process import voluntary_waits
from tests.harness.support import DEADLINE, holds, wait_until


def texts(node: Node, topic: str = "") -> list[str]:
    return [message.data for message in node.messages(topic)]


def test_a_topic_reaches_every_node_and_the_next_start(tmp_path: Path) -> None:
    with Node(0, tmp_path) as one, Node(0) as other:
        one.connect(other.address)
        wait_until(lambda: other.sockets() == 1)
        sent = [
            one.commit("22", topic="sensors/a"),
            one.commit("plain"),
            other.commit("23", topic="sensors/b", copies=1, timeout=DEADLINE),
            *one.commit_all(("x", "y"), "bulk"),
        ]
        assert [m.topic for m in sent] == ["sensors/a", "", "sensors/b", "bulk", "bulk"]
        for node in (one, other):
            wait_until(lambda node=node: len(node.messages()) == 5)  # type: ignore[misc]
            assert texts(node, "sensors/a") == ["22"] and texts(node, "sensors/b") == ["23"]
            assert texts(node, "bulk") == ["x", "y"] and texts(node, "sensors") == []
        assert one.status().messages.digest == other.status().messages.digest
    with Node(0, tmp_path) as one:
        assert texts(one, "sensors/b") == ["23"] and len(texts(one)) == 5


def test_many_messages_of_alternating_topics_keep_their_order_and_topics() -> None:
    mixed = [(f"{n}", ("", "a", "b")[n % 3] if n < 300 else "c", "", "") for n in range(3_000)]
    with Node(0) as node:
        commits = list(node.intake.commit_many(mixed))
        found = [commit.message(n) for commit in commits for n in range(len(commit.texts))]
        assert [(m.data, m.topic, "", "") for m in found] == mixed
        assert node.messages() == found
        assert len(commits) < 310, "those of one topic share an entry"


WRONG = ["a b", "ä", "a" * 65, "a\n", "#a", "a,b", "a\\b", "\0", " "]


@pytest.mark.parametrize("topic", [*WRONG, None, 5, b"a"])
def test_what_can_be_no_topic_is_refused(topic: Any) -> None:
    with Node(0) as node:
        calls = (
            lambda: node.commit("text", topic=topic),
            lambda: node.intake.begin("text", lambda: None, topic),
            lambda: list(node.commit_all(["text"], topic)),
            lambda: node.messages(topic),
            lambda: node.follow(0, 1.0, topic),
            lambda: node.on_message(print, topic),
        )
        for call in calls:
            with pytest.raises(TopicError, match=r"a topic (is at most 64|must be a str)"):
                call()
        assert node.messages() == []


def test_all_that_may_be_in_a_topic_is_taken() -> None:
    allowed = ["a", "Z", "0", ".", "_", "-", "/", "a/b-c_d.E/9", "x" * 64]
    with Node(0) as node:
        for topic in allowed:
            node.commit("text", topic=topic)
        assert [message.topic for message in node.messages()] == allowed


def test_callbacks_get_the_topic_that_they_ask_for() -> None:
    with Node(0) as node:
        every: list[tuple[str, str]] = []
        one: list[tuple[str, str]] = []
        node.on_message(lambda message: every.append((message.data, message.topic)))
        node.on_message(lambda message: one.append((message.data, message.topic)), "a")
        for n in range(30):
            node.commit(f"{n}", topic=("a", "b", "")[n % 3])
        wait_until(lambda: len(every) == 30)
        assert one == [pair for pair in every if pair[1] == "a"] and len(one) == 10


# -- following ------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Follows a topic in a thread of its own."""

    def __init__(self, node: Node, topic: str) -> None:
        super().__init__(daemon=True)
        self.found: list[str] = []
        self.pages = 0
        self._node = node
        self._topic = topic

    def run(self) -> None:
        for page in self._node.follow(0, 10 * DEADLINE, self._topic):
            self.found += [message.data for _, message in page]
            self.pages += 1


@contextmanager
def reader(node: Node, topic: str) -> Iterator[Reader]:
    thread = Reader(node, topic)
    thread.start()
    yield thread
    node.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_who_follows_a_topic_gets_all_of_it_and_nothing_else() -> None:
    with Node(0) as node:
        node.commit("before", topic="a")
        node.commit("other", topic="b")
        with reader(node, "a") as thread:
            wait_until(lambda: thread.found == ["before"])
            for n in range(200):
                node.commit(f"{n}", topic=("a", "b")[n % 2])
            wait_until(lambda: len(thread.found) == 101)
            assert thread.found[1:] == [f"{n}" for n in range(0, 200, 2)]


def test_messages_of_other_topics_do_not_wake_who_follows_a_rare_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Node(0) as node, reader(node, "rare") as thread:
        node.commit("first", topic="rare")
        wait_until(lambda: thread.found == ["first"])
        reads: list[str] = []
        arrivals = node.log.arrivals

        def counted(*given: Any, **more: Any) -> Any:
            reads.append(threading.current_thread().name)
            return arrivals(*given, **more)

        monkeypatch.setattr(node.log, "arrivals", counted)
        holds(lambda: reads == [], lambda: reads)
        before = voluntary_waits(thread)
        for n in range(300):
            node.commit(f"{n}", topic=("", "common")[n % 2])
        assert voluntary_waits(thread) - before < 3 and thread.name not in reads
        node.commit("second", topic="rare")
        wait_until(lambda: thread.found == ["first", "second"])


def test_who_follows_a_topic_learns_at_once_that_a_message_of_it_was_erased() -> None:
    with Node(0) as node, reader(node, "a") as thread:
        message = node.commit("secret", topic="a")
        wait_until(lambda: thread.found == ["secret"])
        node.erase(message.id)
        wait_until(lambda: thread.found == ["secret", ""])


def test_very_many_topics_do_not_hide_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node remembers the last messages of a bounded number of topics."""
    monkeypatch.setattr("p2p_sync.core.core.MAX_NOTED_TOPICS", 5)
    with Node(0) as node, reader(node, "rare") as thread:
        for n in range(60):
            node.commit(f"{n}", topic="rare" if n % 20 == 0 else f"topic-{n}")
        wait_until(lambda: thread.found == ["0", "20", "40"])


# -- originals ------------------------------------------------------------------------------------


def test_an_original_receives_the_text_alone() -> None:
    with Node(0) as node, Node(0) as far, Original() as leaf, Original() as guest:
        node.connect(far.address)
        node.connect(leaf.address)
        guest.add(node.address)
        wait_until(lambda: node.sockets() == 3 and guest.links() > 0, node.peers)
        node.commit("near", topic="secret/topic")
        far.commit("far", topic="secret/topic")
        wait_until(lambda: sorted(leaf.messages) == ["far", "near"], lambda: leaf.messages)
        wait_until(lambda: "near" in guest.messages, lambda: guest.messages)
        for frame in (*leaf.frames, *guest.frames):
            assert "topic" not in str(frame)
        leaf.commit("from the original")
        wait_until(lambda: "from the original" in texts(far))
        assert {m.topic for m in far.messages() if m.data.startswith("from")} == {""}
