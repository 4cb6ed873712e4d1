"""The one loop that follows the log: for callbacks, for the HTTP stream and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..core.core import Core
from ..core.turn import ARRIVAL
from ..disk.log import Page
from ..disk.wanted import Wanted
from ..settings import FOLLOWED
from ..wire.frames import Message
from .state import State


def follow(
    state: State, after: int, pause: float | None, topic: str = ""
) -> Iterator[Page[tuple[int, Message]]]:
    """Yield pages of the messages after arrival `after`, each with its number, as they come; with a
    `topic` only its own, and others do not wake this thread.

    An empty page means that nothing has come for `pause` seconds (None: there are no empty pages).
    `damaged` of a page counts the entries that were left out of it, and `missed` the messages that
    were deleted before they could be read. Ends when the node stops; raises LogError if the log
    cannot be read.
    """
    after = after or state.log.first()
    while True:
        with state.turn() as core:
            if core.stopped:
                return
            count = core.transactions
        page = state.log.arrivals(after, FOLLOWED, wanted=Wanted(topic))
        after = page.upto
        if page or page.damaged or page.missed:
            yield page
            continue
        if not page.complete:
            continue
        has_more = partial(_has_stored, after=count, topic=topic)
        with state.turn(ARRIVAL, has_more, pause) as core:
            quiet = not has_more(core)
        if quiet:
            yield page


def _has_stored(core: Core, after: int, topic: str) -> bool:
    return core.stopped or core.last_transaction(topic) > after
