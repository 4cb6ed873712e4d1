"""The thread that stores messages, one transaction at a time.

Messages that arrive while a transaction is on its way to the disk are stored together in the next
one (group commit). Between two transactions it may delete old messages (retention.py).
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress

from ..core.commit import Keyed
from ..core.core import Core
from ..core.peer import Peer
from ..core.turn import WORK
from ..errors import LogError
from ..settings import DISK_CHECK, DISK_RETRY, STOP_TIMEOUT, Settings
from ..wire.forks import Branch
from ..wire.identity import Identity
from ..wire.logframes import Run
from ..wire.signing import signed
from .forgetting import Forgetting
from .retention import Retention
from .state import State

logger = logging.getLogger("p2p_sync")


class Writer:
    """The thread `writer`."""

    def __init__(self, state: State, identity: Identity, settings: Settings) -> None:
        """`identity` signs what this node commits."""
        self._state = state
        self._work = state.turn(WORK, lambda core: core.commits.has_work)
        self._identity = identity
        self._log = state.log
        self._retention = Retention(state, settings)
        self._forgetting = Forgetting(state, identity)
        self._origin = ""  # of the commits
        self._keyed: list[Keyed] = []  # the messages with keys among the runs that were taken
        self._keep_keys = int(settings.keep_keys * 1000)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread once it has stored what waits for it; the core must have stopped before.
        Commits that are not stored then fail."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(STOP_TIMEOUT)
        with self._state.turn() as core:
            core.commits.give_up()

    def _run(self) -> None:
        runs: list[Run] = []
        while True:
            if not runs:
                # Without work, look now and then whether the files are still there.
                due = min(self._retention.due, self._forgetting.due)
                self._work.timeout = min(due - time.monotonic(), DISK_CHECK)
                with self._work as core:
                    runs = self._take(core)
                    over = core.stopped and not runs
                if over:
                    return
            try:
                runs = self._store(runs)
            except Exception as error:
                runs = []
                self._fail(error)
            self._retention.step()
            self._forgetting.step()

    def _take(self, core: Core) -> list[Run]:
        """Return the runs to store."""
        self._origin = core.replica.origin
        self._keyed = core.commits.take_keyed()
        return self._forgetting.take(core.commits.to_store())

    def _store(self, runs: list[Run]) -> list[Run]:
        """Store runs, if there are any; return the next ones. Raises LogError."""
        self._drop_damaged()
        self._log.begin(self._origin)
        if runs:
            runs = signed(runs, self._identity)
            arrivals = self._log.append(runs, self._keyed, self._keep_keys)
            self._retention.appended(runs)
        else:
            self._log.check()
        left = self._left_copies()
        with self._state.turn() as core:
            erased = self._log.take_erased()
            if runs:
                # What is erased already must not be handed to originals as it came.
                core.stored(runs, (0, 0) if erased else arrivals)
            for item in erased:
                core.note_erased(*item)
            with suppress(LogError):  # the next start finds them
                for name in left:
                    core.commits.erase(name, Future())
            disputed = core.commits.next_disputed()
            if disputed is None:
                return self._take(core)
        return self._place(*disputed)

    def _place(self, peer: Peer, run: Run) -> list[Run]:
        """Store a run where it belongs (see core/placing.py); return the next runs. Raises
        LogError."""
        placed = self._log.find_place(run)
        if placed and placed.run:
            with self._state.turn() as core:
                if not core.commits.clear(Branch.of(run.origin).base):
                    core.commits.dispute(peer, run)
                    return self._take(core)
            placed = self._log.place_run(run)
        with self._state.turn() as core:
            core.placed(peer, run, placed)
            for item in self._log.take_erased():
                core.note_erased(*item)
            return self._take(core)

    def _left_copies(self) -> list[str]:
        try:
            return self._log.left_copies()
        except LogError as error:
            logger.error("copies of erased messages are left for now: %s", error)
            return []

    def _drop_damaged(self) -> None:
        """Mend the indexes, and keep of each origin only the messages before its first damaged
        entry."""
        self._log.mend_indexes()
        for name, head in self._log.losses():
            with self._state.turn() as core:
                held = core.lose(name, head)
            if held is not None:  # else messages of that origin are on their way: later
                self._log.lose(name, head, held)

    def _fail(self, error: Exception) -> None:
        """Fail all commits that wait, and try the disk until it can be written again."""
        if not isinstance(error, LogError):
            logger.error("storing messages failed", exc_info=error)
            error = LogError(f"this node failed: {error}")
        logger.error("messages cannot be stored, and new ones are refused: %s", error)
        self._forgetting.failed()
        with self._state.turn() as core:
            core.commits.failed(error)
        while not self._stopping.wait(DISK_RETRY):
            try:
                self._log.probe()
            except LogError:
                continue
            logger.info("messages can be stored again")
            with self._state.turn() as core:
                core.commits.recovered()
            return
