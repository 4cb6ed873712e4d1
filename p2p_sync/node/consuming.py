"""Threads that have the messages of a consumer handled: by a function of the program that embeds
the node, or by what a webhook leads to (hooks.py)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import LogError, NotLent, UnknownConsumer
from ..settings import CONSUMER_BATCH, CONSUMER_LOOK, DISK_RETRY, STOP_TIMEOUT
from ..wire.frames import Message
from .consumers import Consumers, Given

logger = logging.getLogger("p2p_sync")


class Consuming:
    """A thread that is the only reader of a consumer."""

    def __init__(
        self, consumers: Consumers, name: str, handle: Callable[[Sequence[Given]], object]
    ) -> None:
        """The consumer `name` exists. `handle` handles some messages, and acknowledges them."""
        self.name = name
        self._consumers = consumers
        self._handle = handle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"consume {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether no further message is to be handled."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have no further message handled, and wait a short time for the one that is under way,
        unless this thread handles it. For any thread."""
        self.end()
        self.join()

    def end(self) -> None:
        """Have no further message handled."""
        self._stopping.set()

    def join(self) -> None:
        """Wait a short time until no message is being handled."""
        if self._thread.ident and threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT)

    def leave(self) -> None:
        """The node stops: give back what was not handled. It has not failed, and comes again, also
        what is being handled yet."""
        if self._thread.is_alive():
            with suppress(LogError, UnknownConsumer):
                self._consumers.release(self.name)

    def _run(self) -> None:
        try:
            self._handle_all()
        finally:
            self.leave()

    def _handle_all(self) -> None:
        failing = False
        crashed = True  # who has something yet was killed
        while not self.stopping:
            try:
                self._consumers.release(self.name, crashed)
                crashed = False
                while not self.stopping:
                    if given := self._consumers.take(self.name, CONSUMER_BATCH, CONSUMER_LOOK):
                        self._handle(given)
                    failing = False
            except NotLent:  # somebody has made the consumer anew meanwhile
                continue
            except UnknownConsumer:
                logger.warning("the consumer %s was deleted: it handles no more", self.name)
                return
            except Exception as error:
                if not failing and not self.stopping:
                    fault = None if isinstance(error, LogError) else error  # of this program
                    logger.error("the consumer %s waits: %s", self.name, error, exc_info=fault)
                failing = True
                self._stopping.wait(DISK_RETRY)


class Calling(Consuming):
    """Has each message handled by a function. If that returns, the message is acknowledged; if it
    raises an error, it is called again with the message after a pause."""

    def __init__(
        self, consumers: Consumers, name: str, function: Callable[[Message], object]
    ) -> None:
        super().__init__(consumers, name, self._call)
        self._function = function

    def _call(self, given: Sequence[Given]) -> None:
        for position, message, attempts in given:
            if self.stopping:
                return
            try:
                self._function(message)
            except BaseException as error:  # also an exit: it would end this thread alone
                logger.warning(
                    "the consumer %s could not handle %s (attempt %d)",
                    self.name,
                    message.id,
                    attempts + 1,
                    exc_info=error,
                )
                self._consumers.fail(self.name, position, _described(error))
                return
            self._consumers.ack(self.name, position)


def _described(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # its class has an error of its own
        return name
