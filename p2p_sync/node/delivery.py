"""Hands each message to the functions that were given to `on_message`, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import LogError
from ..settings import DISK_RETRY
from ..wire.frames import Message
from .follow import follow
from .state import State

logger = logging.getLogger("p2p_sync")


class Callback(NamedTuple):
    """A function to call with each message of a topic ("": of any) after arrival `after`."""

    function: Callable[[Message], object]
    topic: str
    after: int


class Delivery:
    """Calls the callbacks of one node, in order of arrival, with no lock held."""

    def __init__(self, state: State, callbacks: Sequence[Callback]) -> None:
        """`callbacks` may change at any time; call `listen` once there are some."""
        self._state = state
        self._callbacks = callbacks
        self._delivered = 0  # the last arrival that was handed on
        self._listened = threading.Event()  # there is somebody to call back
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="callbacks", daemon=True)

    def start(self) -> None:
        """What arrives from now on is for the callbacks."""
        self._delivered = self._state.log.last_arrival()
        self._thread.start()

    def listen(self) -> None:
        """There are callbacks. Before that the thread sleeps: each message would wake it."""
        self._listened.set()

    def stop(self) -> None:
        """Begin no further call."""
        self._stopping.set()
        self._listened.set()

    def join(self, until: float) -> None:
        """Wait for the callback that runs, unless it is what calls this, up to a time of the
        monotonic clock."""
        if self._thread.ident and threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, until - time.monotonic()))

    def _deliver(self) -> None:
        """The thread `callbacks`: hand on each message, in order of arrival."""
        self._listened.wait()
        first = min((callback.after for callback in [*self._callbacks]), default=0)
        self._delivered = max(self._delivered, first)
        failing = False
        while not self._stopping.is_set():
            try:
                for page in follow(self._state, self._delivered, None):
                    failing = False
                    if page.missed:
                        logger.warning(
                            "the callbacks missed %d messages, which were deleted before they had "
                            "time for them",
                            page.missed,
                        )
                    for arrival, message in page:
                        self._delivered = arrival
                        self._call_back(arrival, message)
                return  # the node stops
            except LogError as error:
                if not failing:
                    logger.error("callbacks wait, since messages cannot be read: %s", error)
                failing = True
                self._stopping.wait(DISK_RETRY)

    def _call_back(self, arrival: int, message: Message) -> None:
        for callback in [*self._callbacks]:
            if arrival <= callback.after or callback.topic not in ("", message.topic):
                continue
            if callback not in self._callbacks:  # another one has taken it away
                continue
            try:
                callback.function(message)
            except BaseException:  # also an exit: it would end this thread for all of them
                logger.exception("the callback %r failed", callback.function)
