"""`Node.consume`: a function is called with every message, in order, whatever crashes."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import (
    ConsumerError,
    ConsumerInUse,
    ConsumerOptions,
    ConsumersInfo,
    Consuming,
    LogError,
    Message,
    Node,
    NotRunning,
)
from p2p_sync.core import consumer as rules
from p2p_sync.settings import STOP_TIMEOUT
from tests.harness.consumers import described
from tests.harness.support import ROOT, wait_until


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that have failed come again quickly."""
    monkeypatch.setattr(rules, "CONSUMER_RETRY_FIRST", 10)
    monkeypatch.setattr(rules, "CONSUMER_RETRY_LONGEST", 40)


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


def run_program(directory: Path, handle: str) -> None:
    """Run a program that handles messages by `handle`, and ends once that has set `ready`."""
    program = f"""
import os, sys, threading, time
from p2p_sync import Node

ready, forever, consuming = threading.Event(), threading.Event(), None

def stopping():
    return consuming is not None and consuming.stopping  # a thread may begin before it is given

def handle(message):
    {handle}

with Node(0, sys.argv[1]) as node:
    consuming = node.consume("c", handle, max_attempts=3)
    ready.wait(60)
"""
    subprocess.run([sys.executable, "-c", program, directory], cwd=ROOT, check=False, timeout=60)


def test_a_message_that_kills_its_process_is_parked_and_those_behind_it_are_handled(
    tmp_path: Path,
) -> None:
    with Node(0, tmp_path) as node:
        list(node.commit_all("abc"))
        node.consumers.create("c", ConsumerOptions())
    for attempts in (1, 2, 3):
        run_program(tmp_path, "if message.data == 'b': os._exit(1)")
        with Node(0, tmp_path) as node:
            assert described(node).lag == 2
            assert described(node).attempts == attempts - 1, "the last one counts at the next start"
    got: list[str] = []
    with Node(0, tmp_path) as node:
        node.consume("c", lambda message: got.append(message.data), max_attempts=3)
        wait_until(lambda: got == ["c"])
        ((parked, message),) = node.consumers.parked("c")
        assert message and message.data == "b"
        assert (parked.attempts, parked.error) == (3, rules.UNANSWERED)


def test_a_stop_is_no_attempt_whether_the_message_under_way_ends_or_not(tmp_path: Path) -> None:
    with Node(0, tmp_path) as node:
        list(node.commit_all("abc"))
    run_program(tmp_path, "ready.set()\n    while not stopping(): time.sleep(0.01)")
    run_program(tmp_path, "ready.set(); forever.wait()")
    got: list[str] = []
    with Node(0, tmp_path) as node:
        about = described(node)
        assert (about.lag, about.lent, about.attempts, about.error) == (2, 0, 0, "")
        node.consume("c", lambda message: got.append(message.data))
        wait_until(lambda: described(node).lag == 0)
    assert got == ["b", "c"]


def test_a_parked_message_can_be_dropped(soon: None) -> None:
    with Node(0) as node:
        first, second = node.commit("a").id, node.commit("b").id
        node.consume("c", lambda message: 1 / 0, max_attempts=1)
        wait_until(lambda: described(node).parked == 2)
        assert node.consumers.drop("c", ["unknown"]) == 0
        assert node.consumers.drop("c", [first]) == 1
        assert [parked.id for parked, _ in node.consumers.parked("c")] == [second]


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
        assert len(node._running().readers._threads) == 1


def test_of_many_threads_that_begin_to_consume_one_does() -> None:
    with Node(0) as node:
        for number in range(5):
            accepted: list[Consuming] = []
            together = threading.Barrier(4)

            def begin(name: str, together: threading.Barrier, accepted: list[Consuming]) -> None:
                together.wait(10)
                with suppress(ConsumerError):
                    accepted.append(node.consume(name, print))

            arguments = (f"c{number}", together, accepted)
            threads = [threading.Thread(target=begin, args=arguments) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(accepted) == 1


def test_a_consumer_that_begins_while_the_node_stops_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(0)
    node.start()
    parts = node._running()
    create = parts.consumers.create

    def meanwhile(*arguments: Any) -> bool:
        new = create(*arguments)
        node.stop()
        return new

    monkeypatch.setattr(parts.consumers, "create", meanwhile)
    consuming = node.consume("c", print)
    wait_until(lambda: consuming.ended)
    with pytest.raises(NotRunning):
        parts.consume("other", print, ConsumerOptions(), "first")


def test_many_slow_functions_do_not_make_a_stop_long() -> None:
    stuck = threading.Event()
    node = Node(0)
    node.start()
    node.commit("a")
    begun = threading.Semaphore(0)

    def handle(_: Message) -> None:
        begun.release()
        stuck.wait(60)

    node.on_message(handle)
    node.commit("b")
    for number in range(4):
        node.consume(f"c{number}", handle)
    for _ in range(5):
        assert begun.acquire(timeout=10)
    begin = time.monotonic()
    node.stop()
    assert time.monotonic() - begin < 2 * STOP_TIMEOUT, "they are waited for side by side"
    stuck.set()


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
        warning = "3 messages put aside by the consumer parks; see: p2p-sync consumers parked parks"
        assert warning in node.status().warnings
        counts, _ = node.report.metrics()
        lags = {("good",): 3, ("bad",): 3, ("parks",): 0}
        assert counts["consumer_lag_messages"] == lags
        assert counts["consumer_attempts"][("bad",)] > 1
        assert counts["consumer_parked_messages"] == {("good",): 0, ("bad",): 0, ("parks",): 3}
        assert counts["consumer_missed_total"] == dict.fromkeys(lags, 0)


def test_a_consumer_is_not_deleted_while_its_thread_runs() -> None:
    got: list[str] = []
    with Node(0) as node:
        consuming = node.consume("c", lambda message: got.append(message.data))
        with pytest.raises(ConsumerInUse, match=r"which consume\(\) has returned"):
            node.consumers.delete("c")
        node.commit("a")
        wait_until(lambda: got == ["a"])
        consuming.stop()
        assert consuming.ended
        assert node.consumers.delete("c")
        assert node.consumers.status() == []


def test_a_consumer_goes_on_when_the_log_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p_sync.node.consuming.DISK_RETRY", 0.05)
    got: list[str] = []
    failed = threading.Semaphore(0)
    with Node(0) as node:
        arrivals = node.log.arrivals

        def fails(*_: object, **__: object) -> object:
            failed.release()
            raise LogError("the disk does not answer")

        monkeypatch.setattr(node.log, "arrivals", fails)
        node.consume("c", lambda message: got.append(message.data))
        node.commit("a")
        for _ in range(2):
            assert failed.acquire(timeout=10), "it tries again"
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


def test_a_function_may_stop_its_consumer() -> None:
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


def test_a_function_may_stop_the_node(tmp_path: Path) -> None:
    stopped = threading.Event()
    node = Node(0, tmp_path)
    node.start()

    def handle(_: Message) -> None:
        node.stop()  # this does not wait for itself
        stopped.set()

    node.commit("a")
    node.commit("b")
    consuming = node.consume("c", handle)
    assert stopped.wait(10)
    wait_until(lambda: consuming.ended)
    with Node(0, tmp_path) as again:
        assert (described(again).lag, described(again).attempts) == (2, 0), "it comes again"
