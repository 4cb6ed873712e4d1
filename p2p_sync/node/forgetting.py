"""Forgets the origins that nodes have ended, and ends old ones of this node (wire/cutoffs.py)."""

from __future__ import annotations

import logging
import time
from collections import deque

from ..core.deduplication import node_of
from ..errors import LogError
from ..settings import CUTOFF_CHECK, CUTOFFS_STEP, ENDED_STEP, KEEP_PAUSE, KEEP_RETRY, NEVER
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
        self._fresh: list[Run] = []  # cutoffs that came with what is being stored now
        self._cutoffs: deque[Run] = deque()  # those that end something first ...
        self._after = ""  # ... the first one up to this origin
        self._ready: list[Run] = []  # those that have, and are to be stored
        self._ended: list[str] = []  # origins to look at, whether something of them is kept
        self._step_at = self._cut_at = time.monotonic()

    def take(self, runs: list[Run]) -> list[Run]:
        """Keep back the cutoffs among the runs that are to be stored next, until the origins that
        are older are ended; return the others, and those that were kept back before."""
        due, self._ready = self._ready, []
        self._cutoffs += self._fresh  # what was taken with them is stored: look at all there is
        self._fresh = [run for run in runs if is_cutoff(run.origin)]
        if self._fresh:
            runs = [run for run in runs if not is_cutoff(run.origin)]
            self._step_at = time.monotonic()
        return runs + due

    def failed(self) -> None:
        """The log could not be written: peers send the cutoffs again."""
        self._fresh, self._ready, self._after = [], [], ""
        self._cutoffs.clear()

    @property
    def due(self) -> float:
        """When the writer has something to do for this; on the monotonic clock."""
        return -NEVER if self._ready else self._step_at

    def step(self) -> None:
        """Do the next step if it is time."""
        now = time.monotonic()
        if now < self._step_at:
            return
        try:
            self._end()
            self._forget()
            if now >= self._cut_at:
                self._cut()
                self._cut_at = now + CUTOFF_CHECK
        except LogError as error:
            logger.warning("old origins cannot be forgotten now: %s", error)
            self._step_at = time.monotonic() + KEEP_RETRY
            return
        busy = self._fresh or self._cutoffs or self._ended
        self._step_at = time.monotonic() + KEEP_PAUSE if busy else self._cut_at

    def _end(self) -> None:
        """End some of the origins that are older than the cutoffs that wait."""
        for _ in range(CUTOFFS_STEP):
            if not self._cutoffs:
                return
            first = self._cutoffs[0]
            node = node_of(first.origin)
            names, self._after = self._log.ended(node, first.end, self._after)
            if names:
                with self._state.turn() as core:
                    core.replica.forgetting.end(names)
            if self._after:
                return
            self._ready.append(self._cutoffs.popleft())

    def _forget(self) -> None:
        """Forget some of the ended origins, if nothing of them is kept."""
        if not self._ended:
            return
        unkept = self._log.unkept(self._ended[:ENDED_STEP])
        with self._state.turn() as core:
            forgotten = core.replica.forgetting.forget(unkept)
        if forgotten:
            self._log.forget(forgotten)
        del self._ended[:ENDED_STEP]

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
