"""Threads that have the messages of a consumer handled: by a function of the program that embeds
the node, or by what a webhook leads to (hooks.py)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import ConsumerInUse, LogError, NotLent, NotRunning
from ..settings import CONSUMER_BATCH, CONSUMER_LOOK, DISK_RETRY, STOP_TIMEOUT
from ..wire.frames import Message
from .consumers import ConsumerOptions, Consumers, Given

logger = logging.getLogger("p2p_sync")


class Consuming:
    """A thread that is the only reader of a consumer."""

    def __init__(
        self,
        consumers: Consumers,
        name: str,
        options: ConsumerOptions,
        start: str,
        handle: Callable[[Sequence[Given]], object],
    ) -> None:
        """The parameters are those of `Consumers.create`. `handle` handles some messages, and
        acknowledges them."""
        self.name = name
        self._consumers = consumers
        self._options = options
        self._start = start
        self._handle = handle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"consume {name}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether no further message is to be handled."""
        return self._stopping.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended: `stop` was called, or the node stops. None: without a
        limit; else `timeout` seconds at most. Return whether it has. For any thread but this."""
        self._thread.join(timeout)
        return self.ended

    def stop(self) -> None:
        """Have no further message handled, and wait up to two seconds for the one that is under
        way, unless this thread handles it. For any thread."""
        self._end()
        self._join(time.monotonic() + STOP_TIMEOUT)

    def _begin(self) -> None:
        """Make the consumer, unless it is there, and begin. Raises what `Consumers.create` does."""
        self._consumers.create(self.name, self._options, self._start)
        self._thread.start()

    def _end(self) -> None:
        """Have no further message handled."""
        self._stopping.set()

    def _join(self, until: float) -> None:
        """Wait until no message is being handled, up to a time of the monotonic clock."""
        if self._thread.ident and threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, until - time.monotonic()))

    def _leave(self) -> None:
        """Give back what was not handled. It has not failed, and comes again, also what is being
        handled yet."""
        if self._thread.is_alive():
            with suppress(LogError):
                self._consumers.release(self.name)

    def _run(self) -> None:
        try:
            self._handle_all()
        finally:
            self._leave()

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
            except NotLent:  # a program has said meanwhile that it has failed
                continue
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
        self,
        consumers: Consumers,
        name: str,
        options: ConsumerOptions,
        start: str,
        function: Callable[[Message], object],
    ) -> None:
        super().__init__(consumers, name, options, start, self._call)
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


class Readers:
    """The threads of one node that have messages handled: one for each name. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._threads: dict[str, Consuming] = {}  # also those that are about to begin
        self._stopping = False

    def start(self, thread: Consuming) -> None:
        """Make the consumer of a thread, and begin it. Raises ConsumerInUse if another thread has
        that consumer, NotRunning after `end`, and what `Consumers.create` raises."""
        with self._lock:
            if self._stopping:
                raise NotRunning("the node is stopping")
            self._threads = {name: each for name, each in self._threads.items() if not each.ended}
            if thread.name in self._threads:
                raise ConsumerInUse(
                    f"the consumer {thread.name} has a thread already; stop that one first"
                )
            self._threads[thread.name] = thread
        try:
            thread._begin()
        except BaseException:
            with self._lock:
                del self._threads[thread.name]
            raise

    def has(self, name: str) -> bool:
        """Return whether the consumer `name` has a thread, which may be about to begin."""
        thread = self._threads.get(name)
        return thread is not None and not thread.ended

    def end(self) -> None:
        """Have no further message handled, and begin no further thread."""
        with self._lock:
            self._stopping = True
            threads = [*self._threads.values()]
        for thread in threads:
            thread._end()

    def join(self, until: float) -> None:
        """Wait until no message is being handled, up to a time of the monotonic clock; give back
        what is not handled then. Call `end` first."""
        threads = [*self._threads.values()]
        for thread in threads:
            thread._join(until)
        for thread in threads:
            thread._leave()


def _described(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # its class has an error of its own
        return name
