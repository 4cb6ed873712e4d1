"""The one loop that follows the log: for callbacks, for the HTTP stream and for programs. And what
readers wait with for more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from ..core.core import Core
from ..core.turn import ARRIVAL
from ..disk.log import Page
from ..disk.wanted import ALL, Wanted
from ..settings import FOLLOWED, NEVER
from ..wire.frames import Message
from .state import State


def follow(
    state: State, after: int, pause: float | None, wanted: Wanted = ALL
) -> Iterator[Page[tuple[int, Message]]]:
    """Yield pages of the messages after arrival `after`, each with its number, as they come; only
    those that are `wanted`. Those of other topics do not wake this thread.

    An empty page means that nothing has come for `pause` seconds (None: there are no empty pages).
    `damaged` of a page counts the entries that were left out of it, and `missed` the messages that
    were deleted before they could be read. Ends when the node stops; raises LogError if the log
    cannot be read.
    """
    after = after or state.log.first()
    quiet = time.monotonic()  # since then
    while True:
        count = count_stored(state)
        if count is None:
            return
        page = state.log.arrivals(after, FOLLOWED, wanted=wanted)
        after = page.upto
        if page or page.damaged or page.missed:
            yield page
            quiet = time.monotonic()
            continue
        due = NEVER if pause is None else quiet + pause
        if page.complete:
            left = None if pause is None else max(0.0, due - time.monotonic())
            wait_stored(state, count, wanted.topic, left)
        if time.monotonic() >= due:
            yield page
            quiet = time.monotonic()


def count_stored(state: State) -> int | None:
    """Return how many transactions with messages were stored; None once the node stops."""
    with state.turn() as core:
        return None if core.stopped else core.transactions


def wait_stored(state: State, after: int, topic: str, timeout: float | None) -> None:
    """Wait until there is a transaction behind the number `after` with messages of a topic ("": of
    any), the node stops, or `timeout` seconds have passed (None: for ever)."""
    has_stored = partial(_has_stored, after=after, topic=topic)
    with state.turn(ARRIVAL, has_stored, timeout):
        pass


def _has_stored(core: Core, after: int, topic: str) -> bool:
    return core.stopped or core.last_transaction(topic) > after
