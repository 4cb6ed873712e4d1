"""Consumers: every message is lent, in order, whatever readers say or do not say."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import ConsumerError, ConsumerOptions, CursorGone, Node, NotLent, UnknownConsumer
from p2p_sync.core.turn import ARRIVAL
from p2p_sync.node import consumer_status
from p2p_sync.node import consumers as node_consumers
from tests.disk.test_witness import set_back
from tests.harness.consumers import described, take
from tests.harness.support import wait_until


def test_a_consumer_may_begin_with_new_messages_or_at_a_cursor() -> None:
    with Node(0) as node:
        node.commit("a")
        cursor = node.log.cursor(node.log.last_arrival())
        node.commit("b")
        node.consumers.create("new", ConsumerOptions(), "new")
        node.consumers.create("cursor", ConsumerOptions(), cursor)
        node.consumers.create("first", ConsumerOptions())
        node.consumers.create("other", ConsumerOptions())
        (given,) = node.consumers.take("other", 1)
        node.consumers.create("position", ConsumerOptions(), given.position)
        node.commit("c")
        assert take(node, "new") == ["c"]
        assert take(node, "position") == ["b", "c"]
        assert take(node, "cursor") == ["b", "c"]
        assert take(node, "first") == ["a", "b", "c"]
        with pytest.raises(CursorGone):
            node.consumers.create(
                "gone", ConsumerOptions(), f"{'a' * len(cursor.partition('-')[0])}-7"
            )


def test_topics_and_own_messages_choose() -> None:
    with Node(0) as node, Node(0) as other:
        other.connect(node.address)
        node.commit("mine", topic="t")
        other.commit("theirs", topic="t")
        node.commit("none")
        wait_until(lambda: len(node.messages()) == 3)
        node.consumers.create("topic", ConsumerOptions(topic="t", shared=True))
        node.consumers.create("own", ConsumerOptions(own=True, shared=True))
        assert sorted(take(node, "topic")) == ["mine", "theirs"]
        assert take(node, "own") == ["mine", "none"]
        other.commit("theirs again")
        wait_until(lambda: len(node.messages()) == 4)
        assert take(node, "own") == take(node, "topic") == []
        assert described(node, "own").lag == 2, "they are not acknowledged yet"
        node.commit("last")
        assert take(node, "own") == ["last"]


def test_erased_messages_are_left_out() -> None:
    with Node(0) as node:
        ids = [node.commit(text).id for text in "abc"]
        node.consumers.create("c", ConsumerOptions())
        node.erase(ids[0])
        assert take(node) == ["b", "c"]
        node.consumers.release("c")
        node.erase(ids[1])
        assert take(node) == ["c"], "it was erased while it waited"
        assert take(node) == []


def test_nothing_newer_is_lent_while_a_reader_has_something() -> None:
    with Node(0) as node:
        list(node.commit_all("abc"))
        node.consumers.create("c", ConsumerOptions(ack_wait=0.3))
        assert take(node, limit=1) == ["a"]
        assert take(node) == [], "another reader waits"
        again = node.consumers.take("c", 9, wait=10)
        assert [each.message.data for each in again] == ["a"], "its reader did not answer"
        node.consumers.ack("c", again[0].position)
        assert take(node) == ["b", "c"]


def test_a_reader_that_waits_gets_the_next_one_when_another_one_is_done() -> None:
    with Node(0) as node:
        list(node.commit_all("ab"))
        node.consumers.create("c", ConsumerOptions())
        (a,) = node.consumers.take("c", 1)
        threading.Timer(0.2, lambda: node.consumers.ack("c", a.position)).start()
        assert [each.message.data for each in node.consumers.take("c", 1, wait=10)] == ["b"]


def test_a_reader_of_a_former_consumer_says_nothing_about_the_messages_of_the_new_one() -> None:
    with Node(0) as node:
        list(node.commit_all("abc"))
        node.consumers.create("c", ConsumerOptions())
        former = node.consumers.take("c", 3)[-1].position
        node.consumers.delete("c")
        node.consumers.create("c", ConsumerOptions())
        assert take(node) == ["a", "b", "c"]
        with pytest.raises(NotLent):
            node.consumers.ack("c", former)
        with pytest.raises(NotLent):
            node.consumers.extend("c", former)
        with pytest.raises(NotLent):
            node.consumers.fail("c", former, "no")
        assert (described(node).lag, described(node).lent, described(node).error) == (3, 3, "")


def test_a_reader_that_is_late_neither_fails_nor_keeps_what_another_one_has(
    tmp_path: Path,
) -> None:
    with Node(0, tmp_path) as node:
        list(node.commit_all("ab"))
        node.consumers.create("c", ConsumerOptions(ack_wait=0.2))
        (late,) = node.consumers.take("c", 1)
        node.consumers.create("c", ConsumerOptions(ack_wait=60))
        (other,) = node.consumers.take("c", 1, wait=10)
        assert (other.message, other.attempts) == (late.message, 1)
    with Node(0, tmp_path) as node:
        with pytest.raises(NotLent):
            node.consumers.fail("c", late.position, "no")
        with pytest.raises(NotLent):
            node.consumers.extend("c", late.position)
        assert described(node).lent == 1
        node.consumers.extend("c", other.position)
        node.consumers.ack("c", late.position)
        assert described(node).lent == 0, "it was handled, by whomever"
        node.consumers.ack("c", other.position)
        assert take(node) == ["b"]


def test_readers_share_a_consumer() -> None:
    with Node(0) as node:
        for number in range(200):
            node.commit(f"{number}")
        node.consumers.create("c", ConsumerOptions(shared=True))
        got: list[str] = []

        def read() -> None:
            while given := node.consumers.take("c", 7):
                got.extend(each.message.data for each in given)
                node.consumers.ack("c", given[-1].position)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(int, got)) == [*range(200)]
        assert described(node).lag == 0


def test_what_is_not_acknowledged_in_time_comes_again() -> None:
    with Node(0) as node:
        node.commit("a")
        node.consumers.create("c", ConsumerOptions(ack_wait=0.2))
        assert take(node) == ["a"]
        assert take(node) == []
        (again,) = node.consumers.take("c", 1, wait=10)
        assert (again.message.data, again.attempts) == ("a", 1)
        assert "in time" in str(described(node).error)


def test_a_reader_waits_for_a_message() -> None:
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions(topic="t"))
        threading.Timer(0.2, lambda: node.commit("a", topic="t")).start()
        begin = time.monotonic()
        assert [each.message.data for each in node.consumers.take("c", 1, wait=10)] == ["a"]
        assert time.monotonic() - begin < 5


def test_a_slow_consumer_is_overtaken_and_says_what_it_missed() -> None:
    with Node(0, keep_messages=2_000) as node:
        node.consumers.create("c", ConsumerOptions())
        for start in range(0, 8_000, 1_000):
            list(node.commit_all(f"{number}" for number in range(start, start + 1_000)))
        wait_until(lambda: node.log.count()[0] <= 4_000)
        got: list[str] = []
        while given := node.consumers.take("c", 1_000):
            got += [each.message.data for each in given]
            node.consumers.ack("c", given[-1].position)
        missed = described(node).missed
        assert isinstance(missed, int) and missed + len(got) == 8_000 and missed >= 4_000
        assert got == [f"{number}" for number in range(missed, 8_000)]
        texts = [event.text for event in node.events()[0] if event.type == "missed"]
        assert any(f"consumer c has missed {missed:,} messages" in text for text in texts)


def test_what_a_consumer_of_a_topic_may_have_missed_is_an_upper_bound() -> None:
    with Node(0, keep_messages=2_000) as node:
        node.consumers.create("c", ConsumerOptions(topic="t"))
        for _ in range(6):
            list(node.commit_all(["x"] * 1_000))
        wait_until(lambda: node.log.first() > 0)
        assert take(node) == []
        missed = described(node).missed
        assert missed > 0, "nobody knows the topics of what was deleted"
        (text,) = [event.text for event in node.events()[0] if event.type == "missed"]
        assert f"consumer c has missed up to {missed:,} messages" in text


def test_what_is_deleted_while_a_reader_has_it_or_it_waits_is_missed() -> None:
    with Node(0, keep_messages=2_000) as node:
        for text in "abcd":
            node.commit(text)
        node.consumers.create("waits", ConsumerOptions())
        node.consumers.create("parks", ConsumerOptions(max_attempts=1))
        for name in ("waits", "parks"):
            given = node.consumers.take(name, 3)
            node.consumers.fail(name, given[1].position, "later")
        for _ in range(4):
            list(node.commit_all(["x"] * 2_000, topic="other"))
        wait_until(lambda: node.log.first() >= 2_004)
        for name in ("waits", "parks"):
            node.consumers.take(name, 1, wait=5)
            found = described(node, name)
            deleted = node.log.deleted_upto()
            assert found.missed == deleted - 1, "all but the first, which was handled"
            assert found.parked == 0
            texts = [event.text for event in node.events()[0] if event.type == "missed"]
            assert any(f"consumer {name} has missed" in text for text in texts)


def behind(node: Node, name: str) -> int:
    """How far a consumer is behind the end, whatever is for it."""
    return node.log.last_arrival() - node.log.number(described(node, name).position)


def test_what_was_not_for_a_consumer_is_not_missed_also_after_a_restart(tmp_path: Path) -> None:
    with Node(0, tmp_path, keep_messages=2_000) as node:
        node.consumers.create("c", ConsumerOptions(topic="alarm"))
        node.consumers.create("waits", ConsumerOptions(topic="alarm"))
        reader = threading.Thread(target=lambda: node.consumers.take("waits", 1, wait=60))
        reader.start()
        for _ in range(4):
            list(node.commit_all(["x"] * 2_000, topic="other"))
            assert take(node) == []
            wait_until(lambda: behind(node, "waits") == 0)
        wait_until(lambda: node.log.first() >= 2_000)
    reader.join()
    with Node(0, tmp_path, keep_messages=2_000) as node:
        for name in ("c", "waits"):
            assert take(node, name) == []
            assert (described(node, name).missed, described(node, name).lag) == (0, 0)
        assert not [event for event in node.events()[0] if event.type == "missed"]


def test_a_message_that_is_erased_before_it_is_taken_does_not_wait_for_ever() -> None:
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions())
        node.erase(node.commit("a").id)
        assert take(node) == []
        assert described(node).lag == 0


def test_a_consumer_that_is_made_anew_begins_where_it_should() -> None:
    with Node(0) as node:
        for text in "abc":
            node.commit(text)
        node.consumers.create("c", ConsumerOptions(), "new")
        assert take(node) == []
        node.consumers.delete("c")
        node.consumers.create("c", ConsumerOptions())
        assert take(node) == ["a", "b", "c"]


def test_a_consumer_that_is_made_anew_while_it_is_read_is_not_the_former_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Node(0) as node:
        for text in "abc":
            node.commit(text)
        node.consumers.create("c", ConsumerOptions())
        arrivals = node.log.arrivals

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(node.log, "arrivals", arrivals)
            node.consumers.delete("c")
            node.consumers.create("c", ConsumerOptions(), "new")
            return arrivals(*args, **kwargs)

        monkeypatch.setattr(node.log, "arrivals", meanwhile)
        assert take(node) == []
        node.commit("d")
        assert take(node) == ["d"]


def test_messages_that_were_put_aside_are_retried_each_by_itself_and_without_reading_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Node(0) as node:
        list(node.commit_all(f"{number}" for number in range(3_000)))
        node.consumers.create("c", ConsumerOptions(max_attempts=1, shared=True))
        last = ""
        while given := node.consumers.take("c", 1_000):
            last = last or given[-1].position
            for each in given:
                if each.message.data in ("0", "1", "2999"):
                    node.consumers.fail("c", each.position, "no")
                    break
            else:
                node.consumers.ack("c", given[-1].position)
        node.erase(node.consumers.parked("c")[1][0].id)
        assert node.consumers.retry("c") == 3
        node.consumers.ack("c", last)  # once more: its reader had no answer
        monkeypatch.setattr(node.log, "arrivals", None)
        assert take(node) == ["0"]
        assert take(node) == ["2999"]


def test_not_more_is_retried_than_readers_may_have_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_consumers, "MAX_LENT", 3)
    with Node(0) as node:
        list(node.commit_all("abcde"))
        node.consumers.create("c", ConsumerOptions(max_attempts=1, shared=True))
        while given := node.consumers.take("c", 1):
            node.consumers.fail("c", given[0].position, "no")
        assert node.consumers.retry("c") == 3
        assert node.consumers.retry("c") == 0
        given = [each for _ in range(4) for each in node.consumers.take("c", 9)]
        assert [each.message.data for each in given] == ["a", "b", "c"]
        node.consumers.ack("c", given[1].position)
        assert (node.consumers.retry("c"), described(node).parked) == (1, 1)


def test_what_is_not_for_a_consumer_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(0) as node, Node(0) as other:
        other.connect(node.address)
        node.commit("mine")
        list(other.commit_all(f"{number}" for number in range(2_000)))
        wait_until(lambda: node.log.count()[0] == 2_001)
        node.consumers.create("c", ConsumerOptions(own=True, shared=True))
        (given,) = node.consumers.take("c", 1)
        assert take(node) == []
        arrivals = node.log.arrivals
        begun: list[int] = []

        def noted(after: int, *args: Any, **kwargs: Any) -> Any:
            begun.append(after)
            return arrivals(after, *args, **kwargs)

        monkeypatch.setattr(node.log, "arrivals", noted)
        node.consumers.extend("c", given.position)
        assert take(node) == []
        node.consumers.ack("c", given.position)
        assert take(node) == []
        assert {*begun} == {2_001}


def test_a_message_may_be_acknowledged_before_its_writer_is_back() -> None:
    with Node(0) as node:
        node.commit("a", topic="t")
        node.consumers.create("c", ConsumerOptions(topic="t"))
        (given,) = node.consumers.take("c", 1)
        with node.log._lock:
            node.log._arrival -= 1  # as it is until the writer has noted its transaction
        node.consumers.ack("c", given.position)
        assert described(node).lent == 0


def test_numbers_that_are_used_again_after_damage_are_not_skipped(tmp_path: Path) -> None:
    with Node(0, tmp_path) as node:
        list(node.commit_all("abc"))
        node.consumers.create("c", ConsumerOptions())
        node.consumers.create("lent", ConsumerOptions(shared=True))
        node.consumers.create("parked", ConsumerOptions(max_attempts=1), "new")
        node.consumers.ack("c", node.consumers.take("c", 3)[-1].position)
        node.commit("d")
        node.consumers.ack("c", node.consumers.take("c", 3)[-1].position)
        assert take(node, "lent") == ["a", "b", "c", "d"]
        node.consumers.fail("parked", node.consumers.take("parked", 1)[0].position, "no")
        assert take(node, "parked") == []
        assert [each.arrival for each, _ in node.consumers.parked("parked")] == [4]
    with closing(sqlite3.connect(tmp_path / "node.db")) as database, database:
        database.execute("UPDATE entries SET data = 'damaged' WHERE arrival = 4")
    with Node(0, tmp_path) as node:
        node._running().store.indexes_damaged = True
        node.log.mend_indexes()  # this deletes the last entry
    with Node(0, tmp_path) as node:
        assert node.log.last_arrival() == 3
        node.commit("e")
        assert take(node) == ["e"]
        assert take(node, "lent") == ["e"], "others are lent still"
        node.consumers.release("lent")
        assert take(node, "lent") == ["a", "b", "c"]
        assert node.consumers.parked("parked") == [], "4 is the number of another message now"
        assert node.consumers.retry("parked") == 0
        assert take(node, "parked") == ["e"]


def test_what_is_parked_stays_the_same_message_when_its_origin_is_found_to_fork(
    tmp_path: Path,
) -> None:
    data, older = tmp_path / "data", tmp_path / "older"
    with Node(0) as peer:
        with Node(0, data) as node:
            node.commit("kept")
        shutil.copytree(data, older)
        with Node(0, data) as node:
            node.connect(peer.address)
            lost = [node.commit(text) for text in ("then one", "then two")]
            wait_until(lambda: len(peer.messages()) == 3)
        set_back(data, older)
        with Node(0, data) as node:
            node.consumers.create("c", ConsumerOptions(max_attempts=1), "new")
            apart = [node.commit(text) for text in ("now one", "now two")]
            assert apart[0].id == lost[0].id, "used twice"
            while given := node.consumers.take("c", 1):
                node.consumers.fail("c", given[0].position, "no")
            assert described(node).parked == 2
            node.connect(peer.address)
            wait_until(lambda: len(node.messages()) == 5)
            parked = node.consumers.parked("c")
            assert [message and message.data for _, message in parked] == ["now one", "now two"]
            assert node.consumers.retry("c", [parked[0][0].id]) == 1
            assert take(node, limit=1) == ["now one"]
            assert node.consumers.drop("c") == 1


WRONG: list[Callable[[Node], object]] = [
    lambda node: node.consume("a b", print),
    lambda node: node.consume("", print),
    lambda node: node.consume("a" * 65, print),
    lambda node: node.consume("c", print, max_attempts=-1),
    lambda node: node.consumers.create("c", ConsumerOptions(ack_wait=0)),
    lambda node: node.consumers.create("c", ConsumerOptions(ack_wait=float("nan"))),
    lambda node: node.consume(".", print),
    lambda node: node.consume("..", print),
    lambda node: node.consume("a/b", print),
    lambda node: node.consume("a%2Fb", print),
    lambda node: node.consume("a\n", print),
    lambda node: node.consume("\x00", print),
    lambda node: node.consume("\u00e4", print),
    lambda node: node.consume(5, print),  # type: ignore[arg-type]
    lambda node: node.consume("c", None),  # type: ignore[arg-type]
    lambda node: node.consume("c", print, max_attempts=2.5),  # type: ignore[arg-type]
    lambda node: node.consume("c", print, max_attempts="3"),  # type: ignore[arg-type]
    lambda node: node.consume("c", print, start=5),  # type: ignore[arg-type]
    lambda node: node.consume("c", print, start="nonsense"),
    lambda node: node.consumers.create("c", ConsumerOptions(ack_wait="3")),  # type: ignore[arg-type]
    lambda node: node.consumers.create("c", ConsumerOptions(own="no")),  # type: ignore[arg-type]
    lambda node: node.consumers.create("c", ConsumerOptions(shared=1)),  # type: ignore[arg-type]
    lambda node: node.consumers.take("known", 1.5),  # type: ignore[arg-type]
    lambda node: node.consumers.fail("known", "1", OSError()),  # type: ignore[arg-type]
    lambda node: node.consumers.retry("known", "1"),  # type: ignore[arg-type]
    lambda node: node.consumers.drop("known", "1"),  # type: ignore[arg-type]
    lambda node: node.consumers.ack("known", node.log.cursor(1)),
    lambda node: node.consumers.ack("known", "x"),
    lambda node: node.consumers.ack("known", 1),  # type: ignore[arg-type]
    lambda node: node.consumers.take("known", 0),
    lambda node: node.consumers.take("known", -1),
    lambda node: node.consumers.take("known", 1, float("nan")),
    lambda node: node.consumers.fail("known", node.log.cursor(1), "nobody has it"),
    lambda node: node.consumers.extend("known", node.log.cursor(1)),
]


@pytest.mark.parametrize("call", WRONG)
def test_what_is_wrong_is_refused(call: Callable[[Node], object]) -> None:
    with Node(0) as node:
        node.consumers.create("known", ConsumerOptions())
        node.commit("a")
        with pytest.raises(ConsumerError):
            call(node)
        assert take(node, "known") == ["a"]
        assert [each.name for each in node.consumers.status()] == ["known"]


def test_a_wrong_start_is_explained() -> None:
    with Node(0) as node, pytest.raises(ConsumerError, match=r"^start is 'first', 'new', .*'soon'"):
        node.consume("c", print, start="soon")


def test_where_a_consumer_begins_matters_only_when_it_is_made() -> None:
    with Node(0, keep_messages=2_000) as node:
        node.commit("a")
        cursor = node.log.cursor(1)
        node.consumers.create("c", ConsumerOptions(), cursor)
        for _ in range(4):
            list(node.commit_all(["x"] * 2_000))
        wait_until(lambda: node.log.first() > 1)
        assert not node.consumers.create("c", ConsumerOptions(), cursor), "a program starts again"
        with pytest.raises(CursorGone):
            node.consumers.create("new", ConsumerOptions(), cursor)


def test_a_reader_that_waits_ends_when_the_node_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_consumers, "CONSUMER_LOOK", 60.0)
    node = Node(0)
    node.start()
    consumers, state = node.consumers, node._running().state
    consumers.create("c", ConsumerOptions())
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.append(consumers.take("c", 1, wait=60)))
    reader.start()
    wait_until(lambda: state._waiting[ARRIVAL])
    node.stop()
    reader.join(10)
    assert got == [[]], "it is woken, and gets nothing"


def test_two_that_change_other_options_at_once_do_not_undo_each_other() -> None:
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions(topic="t", ack_wait=7))

        def change(only: str, options: ConsumerOptions) -> None:
            for _ in range(20):
                assert not node.consumers.create("c", options, only=[only])

        changes = [
            threading.Thread(target=change, args=("shared", ConsumerOptions(shared=True))),
            threading.Thread(target=change, args=("max_attempts", ConsumerOptions(max_attempts=3))),
        ]
        for thread in changes:
            thread.start()
        for thread in changes:
            thread.join()
        found = described(node)
        assert (found.topic, found.ack_wait) == ("t", 7), "which nobody has named"
        assert found.shared and found.max_attempts == 3


def test_an_unknown_consumer_is_said_to_be_unknown() -> None:
    with Node(0) as node:
        for call in (
            lambda: node.consumers.take("c", 1),
            lambda: node.consumers.ack("c", "0"),
            lambda: node.consumers.parked("c"),
            lambda: node.consumers.retry("c"),
        ):
            with pytest.raises(UnknownConsumer, match="'c'"):
                call()
        assert not node.consumers.delete("c")


def test_what_readers_have_at_a_time_is_bounded() -> None:
    with Node(0) as node:
        list(node.commit_all(f"{number}" for number in range(3_000)))
        node.consumers.create("c", ConsumerOptions(shared=True))
        first = node.consumers.take("c", 1_000)
        second = node.consumers.take("c", 900)
        third = node.consumers.take("c", 1_000)
        assert [len(first), len(second), len(third)] == [1_000, 900, 100]
        assert node.consumers.take("c", 1) == []
        node.consumers.ack("c", first[-1].position)
        assert len(node.consumers.take("c", 1)) == 1


def test_a_place_in_another_log_is_called_as_the_caller_calls_it() -> None:
    with Node(0) as node:
        with pytest.raises(CursorGone, match="start belongs to another log"):
            node.consumers.create("c", ConsumerOptions(), "01234567-1")
        node.consumers.create("c", ConsumerOptions())
        with pytest.raises(CursorGone, match="position belongs to another log"):
            node.consumers.ack("c", "01234567-1.1")


def test_a_consumer_that_nobody_reads_says_since_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_status, "CONSUMER_SILENT", 0.3)
    begin = int(time.time() * 1000)
    with Node(0, tmp_path) as node:
        node.consumers.create("c", ConsumerOptions())
        assert described(node).no_reader_since is None, "it was made just now"
        made = wait_until(lambda: described(node).no_reader_since)
        assert begin <= made <= int(time.time() * 1000)
        node.commit("a")
        (given,) = node.consumers.take("c", 1)
        reader = threading.Timer(0.5, lambda: node.consumers.ack("c", given.position))
        reader.start()
        while reader.is_alive():
            assert described(node).no_reader_since is None, "one has a message"
        assert wait_until(lambda: described(node).no_reader_since) >= made + 500
        waiting = threading.Thread(target=lambda: node.consumers.take("c", 1, 1.5))
        waiting.start()
        wait_until(lambda: described(node).no_reader_since is None, "one waits for a message")
    waiting.join()
    stopped = int(time.time() * 1000)
    with Node(0, tmp_path) as node:
        assert wait_until(lambda: described(node).no_reader_since) >= stopped


def test_who_changes_options_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_status, "CONSUMER_SILENT", 0.1)
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions())
        made = wait_until(lambda: described(node).no_reader_since)
        assert not node.consumers.create("c", ConsumerOptions(topic="t"))
        assert described(node).no_reader_since == made


@pytest.mark.parametrize("only", ["topic", ["topik"]])
def test_an_option_that_there_is_not_is_refused(only: Any) -> None:
    with Node(0) as node, pytest.raises(ConsumerError, match="of topic, own, ack_wait"):
        node.consumers.create("c", ConsumerOptions(), only=only)


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_a_limit_of_what_was_put_aside_that_is_none_is_refused(limit: Any) -> None:
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions())
        with pytest.raises(ConsumerError, match="limit of 1 or more"):
            node.consumers.parked("c", limit)
