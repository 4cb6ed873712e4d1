"""Deletes what the node need not keep, in small steps between the writer's transactions."""

from __future__ import annotations

import logging
import time

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
        self._due = time.monotonic() if self._age or any(self._limits) else NEVER
        names = ("keep", "keep_bytes", "keep_messages")
        limits = [f"{name}={value}" for name in names if (value := getattr(settings, name))]
        if limits:
            logger.info("older messages are deleted here beyond the limits: %s", ", ".join(limits))

    def pause(self, most: float) -> float:
        """Return for how long the writer may wait for work, at most so many seconds."""
        return max(0.0, min(most, self._due - time.monotonic()))

    def step(self, stored: int) -> None:
        """Delete some entries if it is time; `stored` have just been added."""
        now = time.monotonic()
        self._stored += stored
        if self._due == NEVER or (now < self._due and self._stored < KEEP_STEP):
            return
        most = min(max(KEEP_STEP, 2 * self._stored), KEEP_MOST)
        self._stored = 0
        try:
            more = self._state.log.shrink(self._now(now), most)
        except LogError as error:
            logger.warning("messages beyond the limits cannot be deleted now: %s", error)
            self._due = now + KEEP_RETRY
            return
        self._due = time.monotonic() + (KEEP_PAUSE if more else KEEP_CHECK)

    def _now(self, now: float) -> Limits:
        """Return the limits as of now. Where this machine's clock is ahead of most others, theirs
        count: else it would delete too much."""
        if self._age is None or now < self._ages_from:
            return self._limits
        with self._state.turn() as core:
            wall = core.wall - max(0, core.dates.difference(core.wall, core.now))
        return self._limits._replace(since=wall - self._age)
