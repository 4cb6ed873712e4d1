"""Forgets the origins that nodes have ended, and ends old ones of this node (wire/cutoffs.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ..core.deduplication import node_of
from ..errors import LogError
from ..settings import CUTOFF_CHECK, ENDED_STEP, KEEP_PAUSE, KEEP_RETRY
from ..wire.cutoffs import NO_HISTORY, cutoff_of, is_cutoff
from ..wire.identity import Identity
from ..wire.logframes import Run
from ..wire.signing import sign
from .state import State

logger = logging.getLogger("p2p_sync")


class Forgetting:
    """Part of the writer's thread: it does a little at a time between the transactions."""

    def __init__(self, state: State, identity: Identity) -> None:
        """`identity` signs the cutoffs of this node."""
        self._state = state
        self._log = state.log
        self._identity = identity
        self._ended: list[str] = []  # origins to look at, whether something of them is kept
        self._due = time.monotonic()

    def appended(self, runs: Iterable[Run]) -> None:
        """These runs are on disk; the core gets to know of it after this: end the origins that are
        older than the cutoffs among them. Raises LogError."""
        for run in runs:
            node, after = node_of(run.origin), ""
            while is_cutoff(run.origin):
                names, after = self._log.ended(node, after)
                with self._state.turn() as core:
                    core.replica.forgetting.end(names)
                self._ended += names
                self._due = time.monotonic()
                if not after:
                    break

    def pause(self, most: float) -> float:
        """Return for how long the writer may wait for work, at most so many seconds."""
        return max(0.0, min(most, self._due - time.monotonic()))

    def step(self) -> None:
        """Do the next step if it is time."""
        if time.monotonic() < self._due:
            return
        try:
            self._step()
        except LogError as error:
            logger.warning("old origins cannot be forgotten now: %s", error)
            self._due = time.monotonic() + KEEP_RETRY
            return
        self._due = time.monotonic() + (KEEP_PAUSE if self._ended else CUTOFF_CHECK)

    def _step(self) -> None:
        if self._ended:
            some, self._ended = self._ended[:ENDED_STEP], self._ended[ENDED_STEP:]
            unkept = self._log.unkept(some)
            with self._state.turn() as core:
                forgotten = core.replica.forgetting.forget(unkept)
            if forgotten:
                self._log.forget(forgotten)
        else:
            self._cut()

    def _cut(self) -> None:
        """Make a cutoff of this node if it ends something, and look again at what is ended."""
        with self._state.turn() as core:
            latest, present = core.cutoff(), core.replica.origin
            self._ended = [*core.replica.vector.ended]
        if latest and (before := self._log.cutoff(latest, present, set(self._ended))):
            name = cutoff_of(self._identity.node)
            signature = sign(self._identity, name, before, NO_HISTORY)
            with self._state.turn() as core:
                core.commits.cut(before, signature)
