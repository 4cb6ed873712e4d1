"""Consumers: every message is handled, in order, whatever crashes."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import (
    ConsumerError,
    ConsumerInfo,
    ConsumerOptions,
    ConsumersInfo,
    CursorGone,
    LogError,
    Message,
    Node,
    UnknownConsumer,
)
from p2p_sync.core import consumer as rules
from p2p_sync.node import consumers as node_consumers
from tests.harness.support import wait_until


def take(node: Node, name: str = "c", limit: int = 100) -> list[str]:
    return [each.message.data for each in node.consumers.take(name, limit)]


def described(node: Node, name: str = "c") -> ConsumerInfo:
    (found,) = [each for each in node.consumers.status() if each.name == name]
    return found


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that have failed come again quickly."""
    monkeypatch.setattr(rules, "CONSUMER_RETRY_FIRST", 10)
    monkeypatch.setattr(rules, "CONSUMER_RETRY_LONGEST", 40)


# -- the library ----------------------------------------------------------------------------------


def test_a_function_gets_each_message_in_order_and_once(tmp_path: Path) -> None:
    got: list[str] = []
    with Node(0, tmp_path) as node:
        for number in range(5):
            node.commit(f"{number}")
        node.consume("c", lambda message: got.append(message.data))
        wait_until(lambda: len(got) == 5)
        node.commit("5")
        wait_until(lambda: len(got) == 6)
        wait_until(lambda: described(node).lag == 0)
    with Node(0, tmp_path) as node:
        node.commit("6")
        node.consume("c", lambda message: got.append(message.data))
        wait_until(lambda: len(got) == 7)
        wait_until(lambda: described(node).lag == 0)
    assert got == [f"{number}" for number in range(7)]


def test_a_message_that_fails_comes_again_before_those_behind_it(soon: None) -> None:
    got: list[str] = []

    def handle(message: Message) -> None:
        got.append(message.data)
        if message.data == "b" and got.count("b") < 3:
            raise OSError("the pager does not answer")

    with Node(0) as node:
        for text in "abc":
            node.commit(text)
        node.consume("c", handle)
        wait_until(lambda: described(node).error == "OSError: the pager does not answer")
        wait_until(lambda: got == ["a", "b", "b", "b", "c"], lambda: got)
        wait_until(lambda: described(node).lag == 0)
        assert described(node).error == "" and described(node).parked == 0


def test_a_message_that_fails_again_and_again_is_parked_and_can_be_retried(soon: None) -> None:
    got: list[str] = []
    broken = True

    def handle(message: Message) -> None:
        got.append(message.data)
        if broken and message.data == "b":
            raise ValueError("b")

    with Node(0) as node:
        ids = [node.commit(text).id for text in "abc"]
        node.consume("c", handle, max_attempts=3)
        wait_until(lambda: got == ["a", "b", "b", "b", "c"], lambda: got)
        ((parked, message),) = node.consumers.parked("c")
        assert (parked.id, parked.attempts, parked.error) == (ids[1], 3, "ValueError: b")
        assert message and message.data == "b"
        assert any(e.type == "parked" and ids[1] in e.text for e in node.events()[0])
        broken = False
        assert node.consumers.retry("c") == 1
        wait_until(lambda: got[5:] == ["b"])
        assert node.consumers.parked("c") == []


def test_a_parked_message_can_be_dropped(soon: None) -> None:
    with Node(0) as node:
        first, second = node.commit("a").id, node.commit("b").id
        node.consume("c", lambda message: 1 / 0, max_attempts=1)
        wait_until(lambda: described(node).parked == 2)
        assert node.consumers.drop("c", ["unknown"]) == 0
        assert node.consumers.drop("c", [first]) == 1
        assert [parked.id for parked, _ in node.consumers.parked("c")] == [second]


def test_a_consumer_may_begin_with_new_messages_or_at_a_cursor() -> None:
    with Node(0) as node:
        node.commit("a")
        cursor = node.log.cursor(node.log.last_arrival())
        node.commit("b")
        node.consumers.create("new", ConsumerOptions(), "new")
        node.consumers.create("cursor", ConsumerOptions(), cursor)
        node.consumers.create("first", ConsumerOptions())
        node.commit("c")
        assert take(node, "new") == ["c"]
        assert take(node, "cursor") == ["b", "c"]
        assert take(node, "first") == ["a", "b", "c"]
        with pytest.raises(CursorGone):
            node.consumers.create(
                "other", ConsumerOptions(), f"{'a' * len(cursor.partition('-')[0])}-7"
            )


def test_topics_and_own_messages_choose() -> None:
    with Node(0) as node, Node(0) as other:
        other.connect(node.address)
        node.commit("mine", topic="t")
        other.commit("theirs", topic="t")
        node.commit("none")
        wait_until(lambda: len(node.messages()) == 3)
        node.consumers.create("topic", ConsumerOptions(topic="t"))
        node.consumers.create("own", ConsumerOptions(own=True))
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


def test_readers_share_a_consumer() -> None:
    with Node(0) as node:
        for number in range(200):
            node.commit(f"{number}")
        node.consumers.create("c", ConsumerOptions())
        got: list[str] = []

        def read() -> None:
            while given := node.consumers.take("c", 7):
                got.extend(each.message.data for each in given)
                node.consumers.ack("c", given[-1].number)

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
            node.consumers.ack("c", given[-1].number)
        missed = described(node).missed
        assert isinstance(missed, int) and missed + len(got) == 8_000 and missed >= 4_000
        assert got == [f"{number}" for number in range(missed, 8_000)]
        assert any(e.type == "missed" and "consumer c" in e.text for e in node.events()[0])


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


def test_an_error_that_cannot_say_what_it_is_is_a_failure_like_others(
    soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "p2p_sync")  # a worker of pytest cannot send such a text

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    got: list[str] = []

    def handle(message: Message) -> None:
        got.append(message.data)
        if len(got) == 1:
            raise Mute
        if len(got) == 2:
            raise ValueError("\ud800 is no text")

    with Node(0) as node:
        node.commit("a")
        node.consume("c", handle, max_attempts=2)
        wait_until(lambda: described(node).parked == 1)
        assert got == ["a", "a"]
        assert node.consumers.parked("c")[0][0].error == "ValueError: ? is no text"


def test_a_consumer_has_one_thread_at_a_time() -> None:
    with Node(0) as node:
        node.consumers.create("c", ConsumerOptions(), "new")
        consuming = node.consume("c", print)
        for _ in range(3):
            with pytest.raises(ConsumerError, match="stop that one first"):
                node.consume("c", print, topic="t")
            assert described(node).topic == "", "what is refused changes nothing"
            consuming.stop()
            consuming = node.consume("c", print)
        assert len(node._running().consuming) == 1


def test_messages_that_were_put_aside_are_retried_each_by_itself_and_without_reading_all_others(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node(0) as node:
        list(node.commit_all(f"{number}" for number in range(3_000)))
        node.consumers.create("c", ConsumerOptions(max_attempts=1))
        while given := node.consumers.take("c", 1_000):
            for each in given:
                if each.message.data in ("0", "1", "2999"):
                    node.consumers.fail("c", each.number, "no")
                    break
            else:
                node.consumers.ack("c", given[-1].number)
        node.erase(node.consumers.parked("c")[1][0].id)
        assert node.consumers.retry("c") == 3
        node.consumers.ack("c", 1_500)  # once more: its reader had no answer
        monkeypatch.setattr(node.log, "arrivals", None)
        assert take(node) == ["0"]
        assert take(node) == ["2999"]


def test_not_more_is_retried_than_readers_may_have_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_consumers, "MAX_LENT", 3)
    with Node(0) as node:
        list(node.commit_all("abcde"))
        node.consumers.create("c", ConsumerOptions(max_attempts=1))
        while given := node.consumers.take("c", 1):
            node.consumers.fail("c", given[0].number, "no")
        assert node.consumers.retry("c") == 3
        assert node.consumers.retry("c") == 0
        assert [take(node) for _ in range(4)] == [["a"], ["b"], ["c"], []]
        node.consumers.ack("c", 2)
        assert (node.consumers.retry("c"), described(node).parked) == (1, 1)


def test_what_is_not_for_a_consumer_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(0) as node, Node(0) as other:
        other.connect(node.address)
        node.commit("mine")
        list(other.commit_all(f"{number}" for number in range(2_000)))
        wait_until(lambda: node.log.count()[0] == 2_001)
        node.consumers.create("c", ConsumerOptions(own=True))
        (given,) = node.consumers.take("c", 1)
        assert take(node) == []
        arrivals = node.log.arrivals
        begun: list[int] = []

        def noted(after: int, *args: Any, **kwargs: Any) -> Any:
            begun.append(after)
            return arrivals(after, *args, **kwargs)

        monkeypatch.setattr(node.log, "arrivals", noted)
        node.consumers.extend("c", given.number)
        assert take(node) == []
        node.consumers.ack("c", given.number)
        assert take(node) == []
        assert {*begun} == {2_001}


def test_a_message_may_be_acknowledged_before_its_writer_is_back() -> None:
    with Node(0) as node:
        node.commit("a", topic="t")
        node.consumers.create("c", ConsumerOptions(topic="t"))
        (given,) = node.consumers.take("c", 1)
        cursor = node.log.cursor(given.number)
        with node.log._lock:
            node.log._arrival -= 1  # as it is until the writer has noted its transaction
        assert node.log.number(cursor) == given.number


def test_the_status_and_the_metrics_tell_of_consumers_that_do_not_get_on(soon: None) -> None:
    with Node(0) as node:
        assert node.status().consumers == ConsumersInfo(0, 0, 0, 0)
        for text in "abc":
            node.commit(text)
        node.consumers.create("good", ConsumerOptions())
        node.consume("bad", lambda message: 1 / 0, max_attempts=0)
        wait_until(lambda: node.status().consumers == ConsumersInfo(2, 1, 0, 0))
        assert node.status().warnings == [
            "messages wait for the consumer bad: ZeroDivisionError: division by zero"
        ]
        node.consume("parks", lambda message: 1 / 0, max_attempts=1)
        wait_until(lambda: node.status().consumers == ConsumersInfo(3, 1, 3, 0))
        assert "3 messages put aside by the consumer parks" in node.status().warnings
        counts, _ = node.report.metrics()
        lags = {("good",): 3, ("bad",): 3, ("parks",): 0}
        assert counts["consumer_lag_messages"] == lags
        assert counts["consumer_attempts"][("bad",)] > 1
        assert counts["consumer_parked_messages"] == {("good",): 0, ("bad",): 0, ("parks",): 3}
        assert counts["consumer_missed_total"] == dict.fromkeys(lags, 0)


def test_numbers_that_are_used_again_after_damage_are_not_skipped(tmp_path: Path) -> None:
    with Node(0, tmp_path) as node:
        list(node.commit_all("abc"))
        node.consumers.create("c", ConsumerOptions())
        node.consumers.create("lent", ConsumerOptions())
        node.consumers.ack("c", node.consumers.take("c", 3)[-1].number)
        node.commit("d")
        node.consumers.ack("c", node.consumers.take("c", 3)[-1].number)
        assert take(node, "lent") == ["a", "b", "c", "d"]
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


WRONG: list[Callable[[Node], object]] = [
    lambda node: node.consume("a b", print),
    lambda node: node.consume("", print),
    lambda node: node.consume("a" * 65, print),
    lambda node: node.consume("c", print, max_attempts=-1),
    lambda node: node.consumers.create("c", ConsumerOptions(ack_wait=0)),
    lambda node: node.consumers.create("c", ConsumerOptions(ack_wait=float("nan"))),
    lambda node: node.consumers.ack("known", 99),
    lambda node: node.consumers.take("known", 0),
    lambda node: node.consumers.take("known", -1),
    lambda node: node.consumers.take("known", 1, float("nan")),
    lambda node: node.consumers.fail("known", 1, "nobody has it"),
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


def test_an_unknown_consumer_is_said_to_be_unknown() -> None:
    with Node(0) as node:
        for call in (
            lambda: node.consumers.take("c", 1),
            lambda: node.consumers.ack("c", 1),
            lambda: node.consumers.parked("c"),
            lambda: node.consumers.retry("c"),
        ):
            with pytest.raises(UnknownConsumer, match="'c'"):
                call()
        assert not node.consumers.delete("c")


def test_a_consumer_that_is_deleted_ends_its_thread() -> None:
    with Node(0) as node:
        consuming = node.consume("c", print)
        assert node.consumers.delete("c")
        wait_until(lambda: not consuming._thread.is_alive())
        assert node.consumers.status() == []


def test_a_consumer_goes_on_when_the_log_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p_sync.node.consuming.DISK_RETRY", 0.05)
    got: list[str] = []
    with Node(0) as node:
        arrivals = node.log.arrivals

        def fails(*_: object, **__: object) -> object:
            raise LogError("the disk does not answer")

        monkeypatch.setattr(node.log, "arrivals", fails)
        node.consume("c", lambda message: got.append(message.data))
        node.commit("a")
        monkeypatch.setattr(node.log, "arrivals", arrivals)
        wait_until(lambda: got == ["a"])


def test_an_exit_in_a_function_is_a_failure_like_others(soon: None) -> None:
    got: list[str] = []

    def handle(message: Message) -> None:
        got.append(message.data)
        if len(got) == 1:
            raise SystemExit(3)

    with Node(0) as node:
        node.commit("a")
        node.consume("c", handle)
        wait_until(lambda: got == ["a", "a"])


def test_a_function_may_stop_its_consumer_and_the_node() -> None:
    with Node(0) as node:
        done = threading.Event()

        def handle(_: Message) -> None:
            consuming.stop()
            done.set()

        node.commit("a")
        node.commit("b")
        consuming = node.consume("c", handle, start="first")
        assert done.wait(10)
        wait_until(lambda: not consuming._thread.is_alive())
        assert described(node).lag == 1


def test_what_readers_have_at_a_time_is_bounded() -> None:
    with Node(0) as node:
        list(node.commit_all(f"{number}" for number in range(3_000)))
        node.consumers.create("c", ConsumerOptions())
        first = node.consumers.take("c", 1_000)
        second = node.consumers.take("c", 900)
        third = node.consumers.take("c", 1_000)
        assert [len(first), len(second), len(third)] == [1_000, 900, 100]
        assert node.consumers.take("c", 1) == []
        node.consumers.ack("c", first[-1].number)
        assert len(node.consumers.take("c", 1)) == 1
