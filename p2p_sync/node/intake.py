"""How programs bring messages: they are checked, gathered into entries, given to the core, and
waited for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from ..core.commit import Commit
from ..core.core import Core
from ..core.turn import COPIES
from ..errors import MessageError, MessageTooLong, UnknownMessage
from ..metrics import Counters
from ..settings import MAX_BATCH, MAX_ENTRY_BYTES
from ..wire.entries import Entry
from ..wire.frames import Message, check_text, check_topic
from .state import State


class Intake:
    """Commits the messages of one node. For any thread.

    All methods raise MessageTooLong or MessageError for a text that cannot be a message, TopicError
    for what cannot be a topic ("" is none), and LogFull or LogError for what cannot be stored.
    """

    def __init__(self, state: State, counters: Counters, limit: int) -> None:
        """`limit` is that of a message, in bytes of UTF-8."""
        self._state = state
        self._counters = counters
        self._limit = limit

    def commit(self, text: str, copies: int, timeout: float, topic: str = "") -> Message:
        """Commit a message; return it once it is on disk, and nodes on `copies` other hosts hold
        it, too, or `timeout` seconds have passed."""
        self._check(text)
        check_topic(topic)
        commit = self._commit([text], topic, ack=copies > 0)
        held = 0
        if copies:
            # This thread waits once, for all: to wake for the disk would delay those who send.
            held = self._wait_copies(commit.origin, commit.first, copies, timeout, commit)
        self._finish(commit)
        return commit.message(copies=held)

    def begin(
        self, text: str, then: Callable[[], object], topic: str = ""
    ) -> Callable[[], None] | None:
        """Begin to commit a message. Return what waits for the end and raises an error if there was
        one; None, and nothing is begun, if this would have to wait for room.

        `then` is called in any thread once the message is on disk, or cannot be stored.
        """
        self._check(text)
        check_topic(topic)
        draft = Entry.of(0, [text], topic=topic)
        with self._state.turn() as core:
            if core.commits.full:
                return None
            commit = core.commits.commit(draft, [text], Future())
        commit.future.add_done_callback(lambda _: then())
        return partial(self._finish, commit)

    def commit_many(self, messages: Iterable[tuple[str, str]]) -> Iterator[Commit]:
        """Commit messages, each a text and its topic. Those of one topic that follow each other
        share an entry, as many as fit. Yield each entry once it is on disk, and all of those before
        an error is raised."""
        waiting: deque[Commit] = deque()
        last: Commit | None = None
        problem: Exception | None = None
        size = count = 0  # of what waits
        try:
            for batch, topic in self._batches(messages):
                last = self._commit(batch, topic, after=last)
                waiting.append(last)
                size, count = size + len(last.entry.text), count + len(batch)
                while size > 2 * MAX_ENTRY_BYTES or count > 2 * MAX_BATCH:
                    waiting[0].future.result()
                    first = waiting.popleft()
                    size, count = size - len(first.entry.text), count - len(first.texts)
                    yield first
        except Exception as error:
            problem = error
        for commit in waiting:
            commit.future.result()
            yield commit
        if problem:
            raise problem

    def erase(self, name: str) -> Message:
        """Erase the message with that id, and the copies of the same commit of an original; return
        it without its text once that is on disk. One that is erased already is returned as it is.

        Raises UnknownMessage, LogFull or LogError.
        """
        log = self._state.log
        message = log.message(name)
        if message is None:
            raise UnknownMessage(
                f"no message here has the id {name[:80]!r}; an id is ORIGIN:NUMBER, as the API and "
                "p2p-sync log --json show it; if it was deleted here, ask a node that keeps it"
            )
        if message.erased:
            return message
        names = log.copies_of(name)
        with self._state.turn_with_room() as core:
            commits = [core.commits.erase(each, Future()) for each in names]
        for commit in commits:
            commit.future.result()
        return log.message(name) or message

    def wait_copies(self, message: Message, copies: int, timeout: float) -> int:
        """Wait, `timeout` seconds at most, until nodes on `copies` other hosts hold a message of
        this node's own; return how many do."""
        with self._state.turn() as core:
            core.replica.expect_copies(message.origin, message.seq)
        return self._wait_copies(message.origin, message.seq, copies, timeout)

    def _wait_copies(
        self, origin: str, seq: int, copies: int, timeout: float, commit: Commit | None = None
    ) -> int:
        """As `wait_copies`. The message may be on its way to the disk, by that `commit`."""

        def count(core: Core) -> int:
            return core.replica.hosts(origin, seq)

        def is_over(core: Core) -> bool:
            if core.stopped or core.replica.vector.held(origin) >= seq:
                return core.stopped or count(core) >= copies
            return commit is not None and core.commits.has_failed(commit)

        with self._state.turn(COPIES, is_over, timeout) as core:
            return count(core)

    def _commit(
        self, texts: Sequence[str], topic: str, ack: bool = False, after: Commit | None = None
    ) -> Commit:
        """Commit messages as one entry, whose limits they keep; wait for its future."""
        draft = Entry.of(0, texts, topic=topic)
        with self._state.turn_with_room() as core:
            return core.commits.commit(draft, texts, Future(), ack=ack, after=after)

    def _finish(self, commit: Commit) -> None:
        """Wait until a single message is on disk."""
        commit.future.result()
        self._counters.time("commit_seconds", time.monotonic() - commit.begun)

    def _check(self, text: str) -> None:
        if problem := check_text(text, self._limit):
            long = type(text) is str and len(text.encode("utf-8", "surrogatepass")) > self._limit
            raise (MessageTooLong if long else MessageError)(problem)

    def _batches(self, messages: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], str]]:
        """Yield texts in batches for one entry of the log, each with its topic; those before an
        error come first."""
        batch: list[str] = []
        size, last = 0, ""
        try:
            for text, topic in messages:
                self._check(text)
                if topic != last:
                    check_topic(topic)
                length = len(text.encode())
                if batch and (size + length > MAX_ENTRY_BYTES or topic != last):
                    yield batch, last
                    batch, size = [], 0
                batch.append(text)
                size, last = size + length, topic
                if len(batch) == MAX_BATCH:
                    yield batch, last
                    batch, size = [], 0
        except Exception:
            if batch:
                yield batch, last
            raise
        if batch:
            yield batch, last
