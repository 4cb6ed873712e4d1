"""Consumers: each handles every message at least once. The rules are in core/consumer.py.

Of a consumer nothing is kept in memory but when its readers were heard. Each call reads it, applies
a rule and stores it, in one transaction; so any thread may call, no lock is needed, and two readers
never get one message. What is lent is stored before the reader gets it, and what is acknowledged
before the call returns. These transactions are not synced: kill -9 undoes none of them, and after a
power cut the last messages may be handled again.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import chain, repeat
from typing import NamedTuple

from ..core.consumer import Consumer, Pause, Span
from ..core.effects import MISSED, PARKED, Note
from ..core.verdict import numbered
from ..cursors import START
from ..disk import consumers
from ..disk.consumers import Parked
from ..disk.store import Database, Store
from ..disk.wanted import Wanted
from ..errors import ConsumerError, ConsumerInUse, LogError, NotLent, UnknownConsumer
from ..names import check_consumer
from ..results import ConsumerInfo
from ..settings import (
    API_MAX_LIMIT,
    CONSUMER_LOOK,
    MAX_ACK_WAIT,
    MAX_ATTEMPTS,
    MAX_CONSUMER_ERROR,
    MAX_CONSUMERS,
    MAX_LENT,
    MAX_PARKED,
    PARKED_LISTED,
)
from ..wire.frames import Message, check_topic
from .consumer_status import Heard, info_of
from .follow import count_stored, wait_stored
from .journal import Journal
from .state import State

_POSITION = re.compile(rf"((?:{START.pattern}-)?[0-9]{{1,19}})(?:\.([0-9]{{1,19}}))?")
_NOT_LENT = "its reader has this message no more; it may have taken too long"


@dataclass(frozen=True)
class ConsumerOptions:
    """What a consumer is to handle, and how; see core/consumer.py."""

    topic: str = ""
    own: bool = False
    ack_wait: float = 30.0
    max_attempts: int = 0
    shared: bool = False


@dataclass(frozen=True)
class HookOptions(ConsumerOptions):
    """Those of the consumer of a webhook, with its URL as people may see it."""

    hook: str = ""


class Given(NamedTuple):
    """A message that a consumer is to handle: its position, which acknowledges it, and how often it
    has failed, since it was retried if it was put aside before. The position is that of this
    delivery: another reader gets another one."""

    position: str
    message: Message
    attempts: int


class _Nothing(NamedTuple):
    """No message can be lent now. One may come back by itself after `pause` seconds; 0: there may
    be one already."""

    pause: float


_AGAIN = _Nothing(0.0)


class Consumers:
    """The consumers of one node. For any thread.

    All methods raise LogError if the database cannot be read or written, and those that take a name
    UnknownConsumer, unless they say something else.
    """

    def __init__(
        self, state: State, store: Store, journal: Journal, has_thread: Callable[[str], bool]
    ) -> None:
        """`has_thread` says whether a thread of this node reads the consumer of that name, or is
        about to make it."""
        self._state = state
        self._log = state.log
        self._store = store
        self._journal = journal
        self._has_thread = has_thread
        self._readers = Heard(_now())
        with suppress(LogError):  # it can be read at least
            self._go_back()

    # -- what there is --------------------------------------------------------------------------

    def create(
        self,
        name: str,
        options: ConsumerOptions,
        start: str = "first",
        only: Collection[str] | None = None,
    ) -> bool:
        """Make a consumer, or give other options to the one of that name, with `only` those that
        this names; return whether it is new. A new one has all `options`, whatever `only` names.

        A new one begins at the first message that is kept, with `start` "new" behind the last one,
        or behind a cursor of the log or the position of a message; another one stays where it is.
        Raises ConsumerError, TopicError or CursorGone.
        """
        _check(name, options, start)
        names = [option.name for option in fields(options)]
        if isinstance(only, str) or any(each not in names for each in only or ()):
            raise ConsumerError(f"only is a list of names of options, of {', '.join(names)}")
        with self._store.reading() as database:
            known = consumers.load(database, name) is not None
        position = None if known else self._begin(start)
        with self._store.writing() as database:
            consumer = consumers.load(database, name)
            new = consumer is None
            if consumer is None:
                if position is None:
                    raise ConsumerError(f"the consumer {name} was deleted meanwhile; make it again")
                if len(consumers.names(database)) >= MAX_CONSUMERS:
                    raise ConsumerError(f"there are {MAX_CONSUMERS} consumers; delete one first")
                # No other consumer of that name, which somebody may have read, has its versions.
                version = secrets.randbits(48)
                consumer = Consumer(position, version=version, made=version)
            for option in names:
                if new or only is None or option in only:
                    setattr(consumer, option, getattr(options, option))
            consumers.save(database, name, consumer)
        if new:
            self._readers.note(name, _now())
        return new

    def delete(self, name: str) -> bool:
        """Forget a consumer; return False if there is none of that name. Raises ConsumerInUse while
        a thread of this node, by `Node.consume` or for a webhook, handles its messages."""
        with self._store.writing() as database:
            consumer = consumers.load(database, name)
            if consumer and self._has_thread(name):  # within: it cannot make the consumer now
                raise ConsumerInUse(
                    f"the webhook {consumer.hook} uses the consumer {name}; start the node without "
                    "that webhook, then delete it"
                    if consumer.hook
                    else f"a function of this program handles the messages of the consumer {name}; "
                    "stop its thread, which consume() has returned, then delete it"
                )
            self._readers.forget(name)
            return consumers.delete(database, name)

    def status(self) -> list[ConsumerInfo]:
        """Return what there is to know of each consumer."""
        last = self._log.last_arrival()
        with self._store.reading() as database:
            return [
                self._info(database, name, consumer, last)
                for name in consumers.names(database)
                if (consumer := consumers.load(database, name))
            ]

    def info(self, name: str) -> ConsumerInfo:
        """Return what there is to know of one consumer."""
        last = self._log.last_arrival()
        with self._store.reading() as database:
            return self._info(database, name, _load(database, name), last)

    def _info(self, database: Database, name: str, consumer: Consumer, last: int) -> ConsumerInfo:
        lag = consumers.lag(database, consumer, last, self._store.node)
        parked = consumers.count_parked(database, name)
        silent = self._readers.silent_since(name, consumer, _now())
        return info_of(name, consumer, self._log.cursor(consumer.position), lag, parked, silent)

    # -- handling -------------------------------------------------------------------------------

    def take(
        self, name: str, limit: int, wait: float = 0.0, has_gone: Callable[[], bool] = bool
    ) -> list[Given]:
        """Lend the next messages, up to `limit`, and return them. While a reader has something,
        there are none, unless the consumer is `shared`. With none, wait up to `wait` seconds for
        some; return [] after that, or if the node stops. `has_gone` says whether the reader does
        not wait any more; then nothing is lent. Raises ConsumerError."""
        if type(limit) is not int or limit < 1 or not wait >= 0:
            raise ConsumerError("take() needs a limit of 1 or more, and a wait of 0 s or more")
        stored = time.monotonic()
        end = stored + wait
        read = (0, 0)  # a version of the consumer, and up to where nothing is for it
        while True:
            count = count_stored(self._state)
            if count is None or has_gone():
                return []
            with self._store.reading() as database:
                consumer = _load(database, name)
                full = consumers.count_parked(database, name) >= MAX_PARKED
            self._readers.note(name, _now())
            topic, given = consumer.topic, consumer.given
            if consumer.version == read[0]:
                consumer.given = read[1]
            found = self._lend(name, consumer, min(limit, API_MAX_LIMIT), full)
            if isinstance(found, list):
                return found
            now = time.monotonic()
            over = found.pause > 0 and now >= end
            if consumer.given > given and (over or now - stored >= CONSUMER_LOOK):
                # What is deleted there was not for it, so that must not count as missed, also not
                # after a restart.
                self._save(name, consumer, consumer.version)
                stored = now
            if over:
                return []
            read = consumer.version, consumer.given
            if found.pause > 0:
                wait_stored(self._state, count, topic, min(end - now, found.pause, CONSUMER_LOOK))

    def ack(self, name: str, position: str) -> None:
        """The message that was given with that position is handled, and so are those that were
        taken with it before it. Again is fine, and so is late. Raises NotLent if this consumer has
        not given it, ConsumerError if it is no position, or CursorGone."""
        number, delivery = self._parsed(position)
        with self._hearing(name) as (_, consumer):
            if not consumer.ack(number, delivery, _now()):
                raise NotLent("this message was not taken yet; acknowledge what was")

    def fail(self, name: str, position: str, error: str) -> None:
        """The message that was given with that position could not be handled; those that were taken
        with it before it are. It comes again after a pause. Raises NotLent if its reader has it no
        more, ConsumerError or CursorGone."""
        if not isinstance(error, str):
            raise ConsumerError(f"error is a text that says why, not {error!r:.40}")
        error = error[:MAX_CONSUMER_ERROR].encode("utf-8", "replace").decode()
        number, delivery = self._parsed(position)
        with self._hearing(name) as (_, consumer):
            if not consumer.fail(number, delivery, error, _now()):
                raise NotLent(_NOT_LENT)

    def extend(self, name: str, position: str) -> None:
        """The reader of the message that was given with that position needs more time: it gets
        `ack_wait` seconds from now on, for those that it was taken with, too. Raises NotLent if
        that reader has it no more, ConsumerError or CursorGone."""
        number, delivery = self._parsed(position)
        with self._hearing(name) as (_, consumer):
            if not consumer.extend(number, delivery, _now()):
                raise NotLent(_NOT_LENT)

    def release(self, name: str, crashed: bool = False) -> None:
        """Take back what readers have: there are none any more. If they have `crashed`, that counts
        as an attempt."""
        with self._changing(name) as (_, consumer):
            consumer.crash(_now()) if crashed else consumer.release(_now())

    # -- what was put aside ---------------------------------------------------------------------

    def parked(self, name: str, limit: int = PARKED_LISTED) -> list[tuple[Parked, Message | None]]:
        """Return the first messages that are parked, up to `limit`, 1,000 at most; None for one
        that is not kept. Raises ConsumerError."""
        if type(limit) is not int or limit < 1:
            raise ConsumerError("parked() needs a limit of 1 or more")
        with self._store.reading() as database:
            _load(database, name)
            found = consumers.parked(database, name, min(limit, PARKED_LISTED))
        return [(each, self._log.message(each.id)) for each in found]

    def retry(self, name: str, ids: list[str] | None = None) -> int:
        """Have messages handled again that are parked, all of them or those with these ids, the
        first ones if readers may not have as many at a time; return how many. Raises
        ConsumerError."""
        with self._changing(name) as (database, consumer):
            found = _chosen(database, name, ids)[: max(0, MAX_LENT - consumer.waiting)]
            consumer.again([each.arrival for each in found], _now())
            consumers.unpark(database, name, [each.arrival for each in found])
        return len(found)

    def drop(self, name: str, ids: list[str] | None = None) -> int:
        """Forget messages that are parked, all of them or those with these ids; return how many.
        Raises ConsumerError."""
        with self._changing(name) as (database, _):
            found = _chosen(database, name, ids)
            consumers.unpark(database, name, [each.arrival for each in found])
        return len(found)

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self, start: str) -> int:
        """Return the arrival behind which a new consumer begins."""
        if start == "first":
            return self._log.first()
        return self._log.place(start.partition(".")[0], "start")

    def _go_back(self) -> None:
        last = self._log.last_arrival()
        with self._store.reading() as database:
            found = consumers.every(database)
        for name, consumer in found:
            if consumer.go_back(last):
                self._save(name, consumer, consumer.version)
        with self._store.writing(durable=False) as database:
            consumers.unpark_behind(database, last)

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[Database, Consumer]]:
        with self._store.writing(durable=False) as database:
            consumer = _load(database, name)
            consumer.expire(_now())
            yield database, consumer
            consumers.save(database, name, consumer)

    @contextmanager
    def _hearing(self, name: str) -> Iterator[tuple[Database, Consumer]]:
        """As `_changing`, for what a reader says."""
        with self._changing(name) as changing:
            self._readers.note(name, _now())
            yield changing

    def _lend(
        self, name: str, consumer: Consumer, limit: int, full: bool
    ) -> list[Given] | _Nothing:
        """Lend the next messages and return them."""
        now = _now()
        if consumer.expire(now) and not self._save(name, consumer, consumer.version):
            return _AGAIN
        version = consumer.version
        if (span := consumer.exhausted()) and not full:
            return self._park(name, consumer, version, span)
        follows = consumer.next(now)
        if isinstance(follows, Pause):
            return _Nothing(follows.ms / 1000)
        room = MAX_LENT - (0 if follows else consumer.waiting)
        if room <= 0:
            return _Nothing(CONSUMER_LOOK)
        limit = min(limit, room)
        if follows:
            found, deleted = self._held(follows.numbers[:limit])
            missed = consumer.missed
            numbers = consumer.lend_again(found, limit, now, deleted)
            if not self._save(name, consumer, version):
                return _AGAIN
            self._note_missed(name, consumer.missed - missed)
            if not numbers:
                return _AGAIN
            return self._given([found[number] for number in numbers], consumer.lent[-1])
        return self._lend_new(name, consumer, version, limit)

    def _lend_new(
        self, name: str, consumer: Consumer, version: int, limit: int
    ) -> list[Given] | _Nothing:
        """As `_lend`, of what was not lent before."""
        node = self._store.node if consumer.own else ""
        page = self._log.arrivals(consumer.given, limit, wanted=Wanted(consumer.topic, node))
        chosen = {number: message for number, message in page if not message.erased}
        if not chosen and not page.missed:
            consumer.given = page.upto
            return _Nothing(CONSUMER_LOOK) if page.complete else _AGAIN
        consumer.missed += page.missed
        consumer.lend([*chosen], page.upto, _now())
        if not self._save(name, consumer, version):
            return _AGAIN
        self._note_missed(name, page.missed, maybe=bool(consumer.topic or consumer.own))
        return self._given([*chosen.values()], consumer.lent[-1]) if chosen else _AGAIN

    def _given(self, messages: Sequence[Message], span: Span) -> list[Given]:
        """Return the messages of a span that was just lent, as its reader gets them."""
        return [
            Given(f"{self._log.cursor(number)}.{span.delivery}", message, attempts)
            for number, message, attempts in zip(
                span.numbers, messages, chain([span.attempts], repeat(0)), strict=False
            )
        ]

    def _parsed(self, position: str) -> tuple[int, int]:
        """Return the number and the delivery in the position of a message."""
        match = _POSITION.fullmatch(position) if isinstance(position, str) else None
        if match is None:
            raise ConsumerError(
                "position must be that of a message that this node has given to the consumer"
            )
        return self._log.number(match[1], "position"), int(match[2] or 0)

    def _held(self, numbers: Sequence[int]) -> tuple[dict[int, Message], list[int]]:
        """Return the messages with these numbers that are kept, without those that are erased, and
        the numbers of those that a limit has deleted."""
        found = self._log.arrived(numbers)
        upto = self._log.deleted_upto()  # after the read: it may have lacked what is deleted now
        deleted = [number for number in numbers if number <= upto and number not in found]
        return {number: each for number, each in found.items() if not each.erased}, deleted

    def _note_missed(self, name: str, count: int, maybe: bool = False) -> None:
        """Have an event say how many messages were missed. With `maybe` some were not for the
        consumer: of what was deleted before it looked there, nobody knows the topic."""
        if count:
            what = ("up to " if maybe else "") + numbered(count, "message")
            text = f"the consumer {name} has missed {what}, deleted before it had handled them"
            self._journal.note(Note(MISSED, text))

    def _park(self, name: str, consumer: Consumer, version: int, span: Span) -> _Nothing:
        held, deleted = self._held(span.numbers[:1])
        found = held.values()
        consumer.park(bool(deleted))
        if not self._save(
            name,
            consumer,
            version,
            [Parked(span.numbers[0], each.id, span.attempts, span.error, _now()) for each in found],
        ):
            return _AGAIN
        self._note_missed(name, len(deleted))
        for each in found:
            self._journal.note(
                Note(
                    PARKED,
                    f"the consumer {name} has put the message {each.id} aside after "
                    f"{numbered(span.attempts, 'attempt')}: {span.error}",
                )
            )
        return _AGAIN

    def _save(
        self, name: str, consumer: Consumer, version: int, parked: list[Parked] | None = None
    ) -> bool:
        """Store a consumer, unless another thread has done so since it was read."""
        with self._store.writing(durable=False) as database:
            if _load(database, name).version != version:
                return False
            consumers.save(database, name, consumer)
            for message in parked or []:
                consumers.park(database, name, message)
        return True


def _check(name: str, options: ConsumerOptions, start: str) -> None:
    check_consumer(name)
    check_topic(options.topic)
    wait, attempts = options.ack_wait, options.max_attempts
    if type(wait) not in (int, float) or not 0.1 <= wait <= MAX_ACK_WAIT:
        raise ConsumerError(f"ack_wait is a number of seconds from 0.1 to {MAX_ACK_WAIT:.0f}")
    if type(options.own) is not bool or type(options.shared) is not bool:
        raise ConsumerError("own and shared are True or False")
    if type(start) is not str or not (start in ("first", "new") or _POSITION.fullmatch(start)):
        raise ConsumerError(
            "start is 'first', 'new', the next of an earlier answer (a cursor of the log), or the "
            f"position of a message, not {start!r:.40}"
        )
    if type(attempts) is not int or not 0 <= attempts <= MAX_ATTEMPTS:
        raise ConsumerError(f"max_attempts is a whole number from 0 to {MAX_ATTEMPTS}; 0: no limit")


def _chosen(database: Database, name: str, ids: list[str] | None) -> list[Parked]:
    if isinstance(ids, str):
        raise ConsumerError(f"ids is a list of ids of messages, such as [{ids[:80]!r}]")
    return [each for each in consumers.parked(database, name) if ids is None or each.id in ids]


def _load(database: Database, name: str) -> Consumer:
    consumer = consumers.load(database, name)
    if consumer is None:
        raise UnknownConsumer(f"there is no consumer {name!r:.80}; make it first")
    return consumer


def _now() -> int:
    return int(time.time() * 1000)
