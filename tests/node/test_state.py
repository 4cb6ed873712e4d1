"""The lock and the door: what a turn promises, whatever happens within it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from p2p_sync import Node
from p2p_sync.codes import PROTOCOL_ERROR
from p2p_sync.core.core import Core
from p2p_sync.core.effects import Dial, Effects
from p2p_sync.core.turn import WORK
from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from p2p_sync.errors import ProtocolError
from p2p_sync.net.link import Link
from p2p_sync.node.session import Session
from p2p_sync.node.state import State, _Turn
from p2p_sync.settings import Settings
from p2p_sync.wire.entries import Entry
from tests.harness.support import DEADLINE, wait_until

ADDRESS = "ws://10.0.0.2:1"


class Rig:
    """A state whose effects are kept instead of carried out."""

    def __init__(self, log: Log) -> None:
        core = Core("a" * 32, "", 8001, Settings(), {}, 0, 0, random.Random(1))
        self.done: list[Effects] = []
        self.state = State(core, log, self._perform)

    def _perform(self, effects: Effects) -> None:
        with self.state.turn():  # the lock is free
            pass
        self.done.append(effects)

    @property
    def others(self) -> list[object]:
        return [effect for effects in self.done for effect in effects.others]


@pytest.fixture
def rig() -> Iterator[Rig]:
    store = Store(None)
    try:
        yield Rig(Log(store))
    finally:
        store.close()


def test_effects_are_carried_out_after_the_lock_is_free(rig: Rig) -> None:
    with rig.state.turn() as core:
        core.connect(ADDRESS)
        core.tick()
        assert rig.done == []
    assert Dial(ADDRESS, 1) in rig.others


def test_what_was_decided_before_an_error_is_carried_out(rig: Rig) -> None:
    with pytest.raises(ProtocolError), rig.state.turn() as core:
        core.connect(ADDRESS)
        core.tick()
        raise ProtocolError(PROTOCOL_ERROR, "a frame must be JSON")
    assert Dial(ADDRESS, 1) in rig.others
    with rig.state.turn() as core:
        assert core.book.by_hand.keys() == {ADDRESS}


def test_turns_do_not_nest(rig: Rig) -> None:
    with rig.state.turn():
        with pytest.raises(AssertionError, match="nest"), rig.state.turn():
            pass
        with pytest.raises(AssertionError, match="nest"):
            _ = rig.state.sockets
    with rig.state.turn():
        pass


def test_a_turn_that_waits_begins_when_its_topic_changes_or_its_time_is_up(rig: Rig) -> None:
    began = time.monotonic()
    with rig.state.turn(WORK, lambda core: core.commits.has_work, 0.05) as core:
        assert not core.commits.to_store()
    assert time.monotonic() - began >= 0.05
    got: list[int] = []

    def take() -> None:
        with rig.state.turn(WORK, lambda core: core.commits.has_work) as core:
            got.append(sum(run.count for run in core.commits.to_store()))

    thread = threading.Thread(target=take)
    thread.start()
    with rig.state.turn() as core:
        core.commits.commit(Entry.of(0, ["one", "two"]), ["one", "two"], None)
    thread.join(DEADLINE)
    assert got == [2]


def test_a_turn_that_is_interrupted_while_it_waits_leaves_the_lock_free(rig: Rig) -> None:
    def interrupt(core: Core) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), rig.state.turn(WORK, interrupt):
        pass
    assert rig.state.sockets == []


@contextmanager
def failing_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The core fails at the next tick."""
    failed = threading.Event()
    tick = Core.tick

    def fail(core: Core) -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        tick(core)

    monkeypatch.setattr(Core, "tick", fail)
    yield failed


def test_a_fault_of_the_rules_does_not_end_the_thread_that_keeps_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_once(monkeypatch) as failed, Node(0) as node, Node(0) as other:
        assert failed.wait(DEADLINE)
        node.connect(other.address)
        wait_until(lambda: node.sockets() == 1, "it dials all the same")
    assert "ZeroDivisionError" in caplog.text


def test_a_commit_takes_the_lock_three_times_until_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the thread that commits, by the writer when it takes the message, and when it is stored;
    then a sender that waits has the message in its hands."""
    turns: list[tuple[object, str]] = []
    begin, ask = _Turn.__enter__, Session.next_messages

    def count(turn: _Turn) -> Core:
        core = begin(turn)
        turns.append((turn._state, threading.current_thread().name.split(" ")[0]))
        return core

    def note(session: Session, link: Link) -> tuple[Sequence[str], float]:
        found = ask(session, link)
        if any('"MESSAGES"' in text for text in found[0]):
            turns.append((session._state, "sent"))
        return found

    monkeypatch.setattr(_Turn, "__enter__", count)
    monkeypatch.setattr(Session, "next_messages", note)
    with Node(0) as node, Node(0) as other:
        node.connect(other.address)
        wait_until(lambda: node.sockets() == other.sockets() == 1)
        node.commit("the first one floods")
        wait_until(lambda: len(other.messages()) == 1)
        state, seen = node._running().state, []
        for number in range(20):
            turns.clear()
            node.commit(f"text {number}")
            wait_until(lambda: (state, "sent") in turns)
            mine = [thread for whose, thread in turns if whose is state]
            seen.append(mine[: mine.index("sent")])
        # Others take the lock now and then: the timer, the reader of what the peer says.
        shortest = min(seen, key=len)
        assert shortest == [threading.current_thread().name.split(" ")[0], "writer", "writer"]
