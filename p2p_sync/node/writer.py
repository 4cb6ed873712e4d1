"""Group commit: one thread stores what many commit and many links bring, a transaction at a time.

While one transaction is on its way to the disk, what comes meanwhile gathers for the next.
"""

from __future__ import annotations

import logging
import threading

from ..disk.log import Log
from ..errors import LogError
from ..net.link import wake
from .reporter import Reporter
from .state import State

logger = logging.getLogger("p2p_sync")

# How long after a failure the disk is tried again. Seconds.
_RETRY = 1.0

# An idle writer looks this often whether the files of the log are still there. Seconds.
_IDLE = 0.5

# After a transaction of few messages the writer sends them itself on a few links, rather than wake
# their senders: a change of thread takes longer than that.
_FEW_MESSAGES = 32
_FEW_LINKS = 8

_STOP_TIMEOUT = 2.0


class Writer:
    """The thread `writer`."""

    def __init__(self, state: State, log: Log, reporter: Reporter) -> None:
        self._state = state
        self._log = log
        self._reporter = reporter
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to store what the state hands out."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the state has to be stopped before."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        while (runs := self._state.pending(_IDLE)) is not None:
            try:
                for name, n, running in self._log.losses():
                    held = self._state.lose(name, n, running)
                    if held is not None:
                        self._log.lose(name, n, running, held)
                if not runs:
                    self._log.check()
                    continue
                self._log.append(runs)
            except LogError as error:
                self._fail(error)
            except Exception as error:
                logger.exception("storing messages failed")
                self._fail(LogError(f"this node failed: {error}"))
            else:
                woken, tickets = self._state.stored(runs)
                few = _FEW_LINKS if sum(run.count for run in runs) <= _FEW_MESSAGES else 0
                for link in woken[:few]:
                    link.help()
                wake(woken[few:])
                for ticket in tickets:
                    ticket.settle(True)
                self._reporter.stored()

    def _fail(self, error: LogError) -> None:
        """Drop all that waits, and try the disk until it takes something again."""
        logger.error("messages cannot be stored, and none are taken: %s", error)
        for ticket in self._state.failed(error):
            ticket.settle(False)
        while not self._stopping.wait(_RETRY):
            try:
                self._log.probe()
            except LogError:
                continue
            logger.info("messages can be stored again")
            wake(self._state.recovered())
            return
