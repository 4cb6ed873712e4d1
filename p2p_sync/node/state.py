"""The shared state of a node: sockets, addresses and messages behind one lock with one door.

    with state.turn() as core:
        core.received(peer, frame)

A turn is the only way to change anything. It takes the lock, tells the core the time, and lends it.
At its end it wakes the threads that wait for a change, releases the lock, and then carries out the
core's decisions. Turns do not nest. Nothing blocks, sends, syncs or calls back within one.

An error that leaves a turn does not undo it: the core has changed, so its decisions before the
error are carried out, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any

from ..core.book import Known
from ..core.core import Core
from ..core.effects import Effects
from ..core.turn import NEWS, ROOM, SIGNALS
from ..disk.log import Log
from ..disk.wanted import Wanted
from ..settings import BREATH, NEVER
from ..wire.frames import Message


class State:
    """The state of one node. For any thread."""

    def __init__(self, core: Core, log: Log, perform: Callable[[Effects], object]) -> None:
        """`perform` carries out the effects of a turn, in its thread, with no lock held."""
        self.log = log
        self._core = core
        self._perform = perform
        # Guards the core and all below. Nobody takes it twice; but a condition of such a lock is
        # made and waited for in half the time.
        self._lock = threading.RLock()
        # By signal, for each turn that waits: whether it may begin, and what wakes its thread.
        self._waiting: dict[str, list[tuple[Callable[[], object], threading.Condition]]]
        self._waiting = {signal: [] for signal in SIGNALS}
        self._due = threading.Condition(self._lock)  # for the thread that waits for time
        self._timer = -NEVER  # when that thread wakes up by itself
        self._holder = 0  # the thread whose turn it is
        self._plain = _Turn(self)
        self._room = self.turn(ROOM, lambda core: not core.commits.full)
        # Called after each turn that has brought news, in its thread, with no lock held.
        self.watchers: list[Callable[[], object]] = []

    # -- the three ------------------------------------------------------------------------------

    @property
    def sockets(self) -> list[Any]:
        """The links that are open now."""
        with self.turn() as core:
            return [peer.link for peer in core.peers]

    @property
    def addresses(self) -> list[Known]:
        """The known addresses and their history."""
        with self.turn() as core:
            known = core.book.known.values()
            return [copy(entry) for entry in known if entry.by_hand or not entry.oneself]

    def messages(self, topic: str = "") -> Iterator[Message]:
        """Return the messages, or those of a topic, in the order that is the same on every node;
        they are read while you iterate."""
        return self.log.all(Wanted(topic))

    # -- the door -------------------------------------------------------------------------------

    def turn(
        self,
        signal: str | None = None,
        ready: Callable[[Core], object] | None = None,
        timeout: float | None = None,
    ) -> _Turn:
        """Return a turn: `with state.turn() as core`.

        With a `signal` (see turn.SIGNALS) the turn begins when `ready` returns something true, or
        after `timeout` seconds. `ready` is asked now, and by each turn that gives the signal, with
        the lock held: it takes no time, and changes nothing. So a thread wakes up for nothing but
        what it waits for. A node that stops gives all signals. A turn can be used again, then
        perhaps with another `timeout`.
        """
        if signal is None or ready is None:
            return self._plain
        return _Turn(self, signal, partial(ready, self._core), timeout)

    def turn_with_room(self) -> _Turn:
        """Return a turn that begins once the disk has caught up. So threads that bring messages
        faster than the disk stores them wait, and so do their peers."""
        return self._room

    def wait_due(self) -> bool:
        """Wait until the core's `tick` is due; return False after the node's stop."""
        core = self._core
        with self._lock:
            while not core.stopped:
                # A breath leaves the lock to others where there is more to do at once.
                now = time.monotonic()
                self._timer = max(core.deadline, now + BREATH)
                self._due.wait(self._timer - now if self._timer < NEVER else None)
                if time.monotonic() >= core.deadline:
                    break
            self._timer = -NEVER
            return not core.stopped


class _Turn:
    """Holds the lock and lends the core. There is one turn at a time, so one object serves all
    turns that do not wait, and another one all that wait for room."""

    def __init__(
        self,
        state: State,
        signal: str = "",
        ready: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._state = state
        self._signal = signal
        self._ready = ready
        self._begins = threading.Condition(state._lock)
        self.timeout = timeout

    def __enter__(self) -> Core:
        state, core, ready = self._state, self._state._core, self._ready
        me = threading.get_ident()
        assert state._holder != me, "turns do not nest"
        state._lock.acquire()
        try:
            if ready and not ready():
                self._wait(ready)
        except BaseException:  # the user presses Ctrl-C, for example
            state._lock.release()
            raise
        state._holder = me
        core.begin(time.monotonic(), wall_ms())
        return core

    def _wait(self, ready: Callable[[], object]) -> None:
        """Free the lock until the turn may begin, or the time is up."""
        waiting = self._state._waiting[self._signal]
        this = ready, self._begins
        waiting.append(this)
        try:
            self._begins.wait_for(ready, self.timeout)
        finally:
            waiting.remove(this)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state, core = self._state, self._state._core
        effects, changed = core.end()
        watchers = [*state.watchers] if state.watchers and not NEWS.isdisjoint(changed) else ()
        try:
            for signal in changed:
                for ready, begins in state._waiting[signal]:
                    if ready():
                        begins.notify()
            if core.deadline < state._timer:
                state._due.notify()
        finally:
            state._holder = 0
            state._lock.release()
        if effects.woken or effects.others:
            state._perform(effects)
        for watcher in watchers:
            watcher()


def wall_ms() -> int:
    """Return what this machine's clock shows, ms since the epoch."""
    return time.time_ns() // 1_000_000
