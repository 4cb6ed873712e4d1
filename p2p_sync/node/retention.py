"""Deletes what the node need not keep, in small steps between the writer's transactions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ..disk.retention import Limits
from ..errors import LogError
from ..settings import (
    KEEP_CHECK,
    KEEP_CLOCK,
    KEEP_MOST,
    KEEP_PAUSE,
    KEEP_RETRY,
    KEEP_STEP,
    NEVER,
    Settings,
)
from ..wire.logframes import Run
from .state import State

logger = logging.getLogger("p2p_sync")


class Retention:
    """Part of the writer's thread."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._age = None if settings.keep is None else int(settings.keep * 1000)
        self._limits = Limits(None, settings.keep_bytes, settings.keep_messages)
        self._ages_from = time.monotonic() + KEEP_CLOCK
        self._stored = 0  # entries, since the last step
        # When to look next whether something can be deleted; on the monotonic clock.
        self.due = time.monotonic() if self._age or any(self._limits) else NEVER
        names = ("keep", "keep_bytes", "keep_messages")
        limits = [f"{name}={value}" for name in names if (value := getattr(settings, name))]
        if limits:
            logger.info("older messages are deleted here beyond the limits: %s", ", ".join(limits))

    def appended(self, runs: Iterable[Run]) -> None:
        """These runs are on disk."""
        for run in runs:
            self._stored += len(run.entries)

    def step(self) -> None:
        """Delete some entries if it is time, or if many were added."""
        if self.due == NEVER:
            return
        now = time.monotonic()
        if now < self.due and self._stored < KEEP_STEP:
            return
        most = min(max(KEEP_STEP, 2 * self._stored), KEEP_MOST)
        self._stored = 0
        try:
            more = self._state.log.shrink(self._now(now), most)
        except LogError as error:
            logger.warning("messages beyond the limits cannot be deleted now: %s", error)
            self.due = now + KEEP_RETRY
            return
        self.due = time.monotonic() + (KEEP_PAUSE if more else KEEP_CHECK)

    def _now(self, now: float) -> Limits:
        """Return the limits as of now. Where this machine's clock is ahead of most others, theirs
        count: else it would delete too much."""
        if self._age is None or now < self._ages_from:
            return self._limits
        with self._state.turn() as core:
            wall = core.wall - max(0, core.dates.difference(core.wall, core.now))
        return self._limits._replace(since=wall - self._age)
