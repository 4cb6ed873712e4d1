"""The one loop that follows the log: for callbacks, for the HTTP stream and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..core.core import Core
from ..core.turn import ARRIVAL
from ..disk.log import Page
from ..settings import FOLLOWED
from ..wire.frames import Message
from .state import State


def follow(state: State, after: int, pause: float | None) -> Iterator[Page[tuple[int, Message]]]:
    """Yield pages of the messages after arrival `after`, each with its number, as they come.

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
        newest = state.log.last_arrival()
        page = state.log.arrivals(after, FOLLOWED)
        # A page that is not full has reached the newest arrival; what it left out is hidden.
        after = page.upto if len(page) >= FOLLOWED else max(page.upto, newest)
        if page or page.damaged or page.missed:
            yield page
            continue
        with state.turn(ARRIVAL, partial(_has_stored, after=count), pause) as core:
            quiet = core.transactions == count and not core.stopped
        if quiet:
            yield page


def _has_stored(core: Core, after: int) -> bool:
    return core.stopped or core.transactions > after
