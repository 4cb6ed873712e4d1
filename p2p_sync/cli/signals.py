"""The signals of the process.

The constructors install the handlers, before anything heavy is imported. Until a node runs, nothing
is open that would have to be closed, so a signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, and the signal of supervisors.
_ENDS = (signal.SIGINT, signal.SIGTERM)


class CommandSignals:
    """The signals of a command that talks to a running node: they end it, and it cleans up."""

    def __init__(self) -> None:
        """Install the handlers; a signal that the parent process ignores stays ignored."""
        self._running = False
        self._holding = False
        self._kept = 0  # the signal that came while one was held
        for number in (*_ENDS, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._end)

    def run(self) -> None:
        """From now on raise, so that files are closed and removed: KeyboardInterrupt for SIGINT,
        SystemExit with 128 and the number for the others."""
        self._running = True

    @property
    def has_come(self) -> bool:
        """Whether a signal is held."""
        return self._kept > 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block end before a signal is raised. A second one is raised at once."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            kept, self._kept = self._kept, 0
            if kept:
                self._end(kept, None)

    def _end(self, number: int, _: Any) -> None:
        if not self._running:
            os._exit(128 + number)
        if self._holding and not self._kept:
            self._kept = number
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


class NodeSignals:
    """The signals of a process that runs a node.

    SIGINT and SIGTERM end the node. SIGHUP ends it if its terminal was closed; it reloads secrets
    and certificates if the node has no terminal, still has it, or was started by nohup.
    """

    def __init__(self) -> None:
        """Install the handlers, for SIGINT too: a shell starts background jobs that ignore it."""
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._tied = not nohup and _has_terminal()  # to a terminal, and ends with it
        self._end: Callable[[str], object] | None = None
        self._reload: Callable[[], object] | None = None
        self._hung_up = False
        for number in _ENDS:
            signal.signal(number, self._ended)
        signal.signal(signal.SIGHUP, self._hang_up)

    def run(
        self, end: Callable[[str], object], reload: Callable[[], object], hang_up: float
    ) -> None:
        """From now on call `end` with the reason, in any thread and maybe more than once; and
        `reload`, in a thread of its own.

        A SIGHUP may come `hang_up` seconds before the terminal is gone.
        """
        self._patience = hang_up
        self._reload = reload
        self._end = end
        if self._hung_up:
            self._hang_up()

    def ignore(self) -> None:
        """From now on do nothing: the node is being stopped."""
        self._reload = lambda: None
        self._end = lambda _: None

    def _ended(self, number: int, _: Any) -> None:
        if self._end is None:
            os._exit(0)
        self._end(signal.Signals(number).name)

    def _hang_up(self, *_: Any) -> None:
        if self._end is None:
            self._hung_up = True
            if self._tied and not _has_terminal():
                os._exit(0)
        else:
            threading.Thread(target=self._after_hang_up, name="hang-up", daemon=True).start()

    def _after_hang_up(self) -> None:
        deadline = time.monotonic() + self._patience
        while self._tied and time.monotonic() < deadline:
            if not _has_terminal():
                if self._end:
                    self._end("its terminal was closed")
                return
            time.sleep(0.02)
        if self._reload:
            self._reload()


def _has_terminal() -> bool:
    """Return whether the process has a controlling terminal now."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
