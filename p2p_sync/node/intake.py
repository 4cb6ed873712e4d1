"""How programs bring messages: they are checked, gathered into entries, given to the core, and
waited for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, TypeAlias

from ..core.commit import Commit, Key, Keyed
from ..core.core import Core
from ..core.turn import COPIES
from ..errors import KeyReused, MessageError, MessageTooLong, UnknownMessage
from ..metrics import Counters
from ..settings import MAX_BATCH, MAX_ENTRY_BYTES
from ..wire.entries import PLAIN, Entry
from ..wire.frames import Message, check_text, check_topic
from .keys import Keys, key_of
from .state import State

Draft: TypeAlias = tuple[str, str, str, str]
"""A message that is to be committed: its text, topic, idempotency key and source; all but the text
may be ""."""


class Intake:
    """Commits the messages of one node. For any thread.

    All methods raise MessageTooLong or MessageError for a text that cannot be a message, TopicError
    for what cannot be a topic ("" is none), KeyReused for an idempotency key of another message,
    and LogFull or LogError for what cannot be stored.
    """

    def __init__(self, state: State, keys: Keys, counters: Counters, limit: int) -> None:
        """`limit` is that of a message, in bytes of UTF-8."""
        self._state = state
        self._keys = keys
        self._counters = counters
        self._limit = limit

    def commit(
        self, text: str, copies: int, timeout: float, topic: str = "", key: str = ""
    ) -> Commit:
        """Commit a message; return once it is on disk, and nodes on `copies` other hosts hold it,
        too, or `timeout` seconds have passed; `copies` of the commit say how many do. A message
        that the `key` has named before is not committed again."""
        self._check(text)
        check_topic(topic)
        (commit,) = self._commit_batch(_Batch([text], topic, "", [key]), ack=copies > 0)
        if commit.repeated:
            commit.copies = self.wait_copies({commit.origin: commit.first}, copies, timeout)
            return commit
        if copies:
            # This thread waits once, for all: to wake for the disk would delay those who send.
            first = commit.origin, commit.first
            commit.copies = self._wait_copies(*first, copies, timeout, commit)
        self._finish(commit)
        return commit

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

    def commit_many(self, messages: Iterable[Draft]) -> Iterator[Commit]:
        """Commit messages. Those of one topic and source that follow each other share an entry, as
        many as fit. Yield each entry once it is on disk, and all of those
        before an error is raised. Messages that keys have named before are yielded in their places,
        too, as `repeated`."""
        waiting: deque[Commit] = deque()
        last: Commit | None = None
        problem: Exception | None = None
        size = count = 0  # of what waits
        try:
            for batch in self._batches(messages):
                for commit in self._commit_batch(batch, after=last):
                    last = last if commit.repeated else commit
                    waiting.append(commit)
                    size, count = size + len(commit.entry.text), count + commit.count
                while size > 2 * MAX_ENTRY_BYTES or count > 2 * MAX_BATCH:
                    waiting[0].future.result()
                    first = waiting.popleft()
                    size, count = size - len(first.entry.text), count - first.count
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
            raise UnknownMessage(name)
        if message.erased:
            return message
        names = log.copies_of(name)
        with self._state.turn_with_room() as core:
            commits = [core.commits.erase(each, Future()) for each in names]
        for commit in commits:
            commit.future.result()
        return log.message(name) or message

    def wait_copies(self, ends: Mapping[str, int], copies: int, timeout: float) -> int:
        """Wait, `timeout` seconds at most, until nodes on `copies` other hosts hold messages of
        this node's own: of each origin those up to a number. Return how many hold the ones that the
        fewest do; 0 if there is nothing to wait for."""
        if not copies or not ends:
            return 0
        with self._state.turn() as core:
            for origin, seq in ends.items():
                core.replica.expect_copies(origin, seq)
        end = time.monotonic() + timeout
        return min(
            self._wait_copies(origin, seq, copies, max(0.0, end - time.monotonic()))
            for origin, seq in ends.items()
        )

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

    def _commit_batch(
        self, batch: _Batch, ack: bool = False, after: Commit | None = None
    ) -> Iterator[Commit]:
        """Commit messages as one entry, whose limits they keep; wait for its future. Where keys
        have named some of them before there are more parts, in the order of the batch."""
        texts, topic, source, given = batch
        if not any(given):
            yield self._commit(Entry.of(0, texts, PLAIN, topic, source), texts, ack, after)
            return
        keys = [
            key_of(key, text, topic) if key else None
            for key, text in zip(given, texts, strict=True)
        ]
        known = self._keys.claim([key for key in keys if key])
        start = 0
        try:
            while start < len(texts):
                first = keys[start]
                end = start + 1
                if first and first.name in known:
                    if known[first.name].digest != first.digest:
                        raise KeyReused(_reused(given[start], known[first.name]))
                    while end < len(texts) and _follows(known, first, keys[end], end - start):
                        end += 1
                    commit = _repeated(known[first.name], texts[start:end], topic, source)
                else:
                    while end < len(texts) and not ((key := keys[end]) and key.name in known):
                        end += 1
                    draft = Entry.of(0, texts[start:end], PLAIN, topic, source)
                    parts = texts[start:end], ack, after, keys[start:end]
                    commit = after = self._commit(draft, *parts)
                start = end
                yield commit
        finally:
            self._keys.release(key for key in keys[start:] if key and key.name not in known)

    def _commit(
        self,
        draft: Entry,
        texts: Sequence[str],
        ack: bool = False,
        after: Commit | None = None,
        keys: Sequence[Key | None] = (),
    ) -> Commit:
        with self._state.turn_with_room() as core:
            commit = core.commits.commit(draft, texts, Future(), ack=ack, after=after, keys=keys)
        if keys:
            named = [key for key in keys if key]
            commit.future.add_done_callback(lambda _: self._keys.release(named))
        return commit

    def _finish(self, commit: Commit) -> None:
        """Wait until a single message is on disk."""
        commit.future.result()
        self._counters.time("commit_seconds", time.monotonic() - commit.begun)

    def _check(self, text: str) -> None:
        if problem := check_text(text, self._limit):
            long = type(text) is str and len(text.encode("utf-8", "surrogatepass")) > self._limit
            raise (MessageTooLong if long else MessageError)(problem)

    def _batches(self, messages: Iterable[Draft]) -> Iterator[_Batch]:
        """Yield messages in batches for one entry of the log, without a key twice; those before an
        error come first."""
        batch = _Batch([], "", "", [])
        texts, last_topic, last_source, keys = batch
        used: set[str] = set()  # of these keys
        size = 0
        try:
            for text, topic, key, source in messages:
                self._check(text)
                size += len(text.encode())
                other = topic != last_topic or source != last_source or (key and key in used)
                if other or size > MAX_ENTRY_BYTES or not texts:
                    if other:
                        check_topic(topic)
                    if texts:
                        yield batch
                    batch = _Batch([], topic, source, [])
                    texts, last_topic, last_source, keys = batch
                    used, size = set(), len(text.encode())
                texts.append(text)
                keys.append(key)
                if key:
                    used.add(key)
                if len(texts) == MAX_BATCH:  # at once: the next message may take its time
                    yield batch
                    texts = []
        except Exception:
            if texts:
                yield batch
            raise
        if texts:
            yield batch


class _Batch(NamedTuple):
    texts: list[str]
    topic: str
    source: str
    keys: list[str]  # of each message


def _reused(key: str, known: Keyed) -> str:
    """Say what has named another message, which one, and what to do."""
    id = f"{known.origin}:{known.seq}"
    name, is_made, place = key.partition("\n")  # see web/bodies.py
    if not is_made:
        return f"the key {key!r} has named another message, {id}; use a new key"
    if name:
        return (
            f"with the key {name!r} number {place} was another message before, {id}; use a new "
            "key, or send the same messages in the same order, and new ones behind them"
        )
    return (
        f"with the id {place[:80]!r} another text or topic was imported before, as {id}; to "
        "import this one, too, leave its id out"
    )


def _follows(known: Mapping[bytes, Keyed], first: Key, key: Key | None, by: int) -> bool:
    """Return whether `key` has named the message that is `by` behind the one that `first` has
    named, and was committed with it."""
    if not key or key.name not in known:
        return False
    one, other = known[first.name], known[key.name]
    same = other.origin == one.origin and other.time == one.time and other.digest == key.digest
    return same and other.seq == one.seq + by


def _repeated(known: Keyed, texts: Sequence[str], topic: str, source: str) -> Commit:
    """Return messages that keys have named before as a commit that is done."""
    done: Future[None] = Future()
    done.set_result(None)
    entry = Entry.of(known.time, texts, PLAIN, topic, source)
    return Commit(known.origin, known.seq, entry, texts, 0, time.monotonic(), done, repeated=True)
