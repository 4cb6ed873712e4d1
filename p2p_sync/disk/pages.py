"""The log for people and programs: messages by arrival, in the shared order, and by a search.

The shared order is by time, origin and sequence number, and is an index: it is the same on every
node with the same messages. The order of arrival is this node's own and only grows, so a reader
that follows it misses nothing.

A page leaves out damaged entries and counts them. They are noted for the writer, which gets them
again (damage.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import TypeAlias, TypeVar

from .. import settings
from ..codes import MAX_NUMBER
from ..errors import CursorGone
from ..wire.entries import NOTICE
from ..wire.frames import Message, messages_in
from .copies import SHOWN
from .damage import DUE, Found, found, missing_before
from .erasing import copies_of, erased_by, find
from .folding import folded
from .recent import Recent
from .retention import Gone, begins_behind, held_between
from .rows import COLUMNS, exported, is_whole, messages_of, place_of
from .schema import LAST_ARRIVAL
from .store import Database, Store

logger = logging.getLogger("p2p_sync")

T = TypeVar("T")

Place: TypeAlias = tuple[int, str, int]
"""A place in the shared order: time, origin, sequence number."""

_NOTICES = f"SELECT {COLUMNS} FROM entries WHERE arrival > ? AND kind = 2 ORDER BY arrival"

_BEGINNING: Place = (-1, "", 0)
_END: Place = (MAX_NUMBER, "~", 0)


class Page(list[T]):
    """A list of what was read, and how many `damaged` entries were left out of it.

    If it was read by arrival, it goes up to the arrival `upto`, and `missed` messages on the way,
    of any topic, were deleted before they were read."""

    damaged = 0
    missed = 0
    upto = 0


class Pages:
    """The messages of one node, for readers. For any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards what follows, and the counts of the log
        self._arrival = 0  # the last one
        self._gone = Gone()  # what was deleted; the writer replaces it before it deletes more
        self._recent = Recent()
        self._found: set[Found] = set()  # damaged entries, for the writer
        self._named: set[str] = set()  # those that were logged

    # -- by arrival -----------------------------------------------------------------------------

    def last_arrival(self) -> int:
        """Return the number of the last arrival, 0 with none."""
        with self._lock:
            return self._arrival

    def arrivals(
        self, after: int, limit: int, hidden: bool = False, topic: str = ""
    ) -> Page[tuple[int, Message]]:
        """Return up to `limit` messages after arrival `after`, each with its number: those that
        are shown, or with `hidden` all; with a `topic` only its own. `upto` of the page is where to
        go on.

        Where a notice has arrived, the shown message that it erases comes again, without its text.
        """
        page: Page[tuple[int, Message]] = Page()
        bad: list[Found] = []
        with self._lock:
            newest = max(after, self._arrival)
            recent = None if topic else self._recent.arrived(after, limit)
        if recent is not None:
            for last, entry in recent:
                page += _numbered(messages_in(entry), last, after)
            return self._arrived(page, newest, limit, bad)
        shown = "" if hidden else f"AND {SHOWN}"
        filter, values = _of(topic)
        query = f"SELECT {COLUMNS} FROM entries WHERE arrival > ? {filter} {shown} ORDER BY arrival"
        with self._store.snapshot() as database:
            rows = database.execute(query, (after, *values))
            notices = () if hidden else database.execute(_NOTICES, (after,))
            for row in merge(rows, notices, key=itemgetter(-1)):
                if not is_whole(row):
                    bad.append(found(row))
                    continue
                page += _numbered([*messages_of(row)], row[-1], after)
                if row[4] == NOTICE and not hidden:
                    erased = erased_by(database, row)
                    page += [(row[-1], each) for each in erased if topic in ("", each.topic)]
                if len(page) >= limit:
                    break
            # After the read: what is gone by now may be missing in it.
            gone = self._gone.arrival
            full = len(page) >= limit
            upto = min(gone, page[limit - 1][0]) if full else gone
            if after < upto:
                page.missed = upto - after - held_between(database, after, upto)
        self._arrived(page, newest, limit, bad)
        page.upto = max(page.upto, upto)
        return page

    def _arrived(
        self, page: Page[tuple[int, Message]], newest: int, limit: int, bad: list[Found]
    ) -> Page[tuple[int, Message]]:
        """Finish a page. One that is not full has reached the `newest` arrival before it was read,
        or a later one; what it left out is hidden, or of other topics."""
        self._finished(page, limit, bad)
        last = page[-1][0] if page else 0
        page.upto = last if len(page) == limit else max(last, newest)
        return page

    def cursor(self, arrival: int) -> str:
        """Return the cursor of an arrival."""
        return self._store.cursors.text(arrival)

    def number(self, cursor: str) -> int:
        """Return the arrival at a cursor, whether it is kept or not; raises CursorGone for one of
        another log or beyond the end, InputError for what is no cursor."""
        return self._store.cursors.number(cursor, self.last_arrival())

    def place(self, cursor: str) -> int:
        """Return the arrival at a cursor.

        "" and "0" are the beginning of what is kept. Raises CursorGone for a cursor of another log,
        beyond the end, or before what is kept; InputError for what is no cursor.
        """
        try:
            number = self._store.cursors.number(cursor, self.last_arrival())
        except CursorGone:  # readers may see a transaction before its writer is back
            with self._store.reading() as database:
                (newest,) = database.execute(LAST_ARRIVAL).fetchone()
            number = self._store.cursors.number(cursor, newest)
        first = self.first()
        if number >= first:
            return number
        if cursor in ("", "0"):
            return first
        missed = first - number
        messages = "1 message" if missed == 1 else f"{missed:,} messages"
        raise CursorGone(
            f"{messages} behind after {'was' if missed == 1 else 'were'} deleted, since this node "
            "does not keep more; continue from next",
            self.cursor(first),
            missed,
        )

    def first(self) -> int:
        """Return the arrival behind which nothing was deleted yet, or the first entry begins."""
        gone = self._gone.arrival
        if not gone:
            return 0
        with self._store.reading() as database:
            return min(gone, begins_behind(database, gone))

    def complete_since(self) -> int | None:
        """Return since when the log is complete (ms since the epoch); None if it always was."""
        return self._gone.time + 1 if self._gone.time else None

    # -- one message ----------------------------------------------------------------------------

    def message(self, name: str) -> Message | None:
        """Return the message with that id; None if it is not here. Raises LogError."""
        with self._store.reading() as database:
            return find(database, name)

    def copies_of(self, name: str) -> list[str]:
        """Return the ids of the messages to erase with that one, it included: copies of the same
        commit of an original. Raises LogError."""
        with self._store.reading() as database:
            return copies_of(database, name)

    # -- in the shared order --------------------------------------------------------------------

    def ordered(self, after: Place, limit: int, topic: str = "") -> Page[Message]:
        """Return up to `limit` shown messages after a place in the shared order; with a `topic`
        only its own."""
        page: Page[Message] = Page()
        bad: list[Found] = []
        filter, values = _of(topic)
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM entries WHERE {SHOWN} {filter} "
                "AND (time, origin, seq) >= (?, ?, (SELECT coalesce(max(seq), 0) "
                "FROM entries WHERE time = ? AND origin = ? AND seq <= ?)) "
                "ORDER BY time, origin, seq",
                (*values, *after[:2], *after),  # the entry that holds it may reach beyond
            )
            for row in rows:
                if not is_whole(row):
                    bad.append(found(row))
                    continue
                last = page[-1].order if page else after  # a damaged index goes back
                new = (message for message in messages_of(row) if message.order > last)
                page += islice(new, limit - len(page))
                if len(page) == limit:
                    break
        return self._finished(page, limit, bad)

    def all(self, topic: str = "") -> Iterator[Message]:
        """Yield all shown messages in the shared order, a page at a time; with a `topic` only its
        own."""
        place = _BEGINNING
        while page := self.ordered(place, 1000, topic):
            yield from page
            place = page[-1].order

    def export(self) -> Iterator[Page[str]]:
        """Yield the lines of an export (see export.py) of all messages that are here now: of each
        origin they end with a signed one."""
        place, last = _BEGINNING, self.last_arrival()
        with self._store.reading() as database:  # for copies that arrive again meanwhile
            ends = dict(database.execute("SELECT origin, n FROM origins"))
        while True:
            page: Page[str] = Page()
            bad: list[Found] = []
            with self._store.reading() as database:
                rows = database.execute(
                    f"SELECT {COLUMNS}, {SHOWN}, {DUE} FROM entries e "
                    "WHERE (time, origin, seq) > (?, ?, ?) ORDER BY time, origin, seq LIMIT ?",
                    (*place, settings.EXPORTED),
                ).fetchall()
            for *row, shown, due, floor in rows:
                if not is_whole(row):
                    bad.append(found(row))
                elif row[-1] <= last or row[1] <= ends.get(row[0], 0):  # else it has come meanwhile
                    missing = missing_before(row, due, floor)
                    bad += [missing] if missing else []
                    page += exported(row, not shown, row[1] != due and not missing)
            page.damaged = len(bad)
            self._note(bad)
            yield page
            if len(rows) < settings.EXPORTED:
                return
            place = place_of(rows[-1])

    def newest(self, limit: int, before: Place | None = None, topic: str = "") -> Page[Message]:
        """Return up to `limit` shown messages, the newest first: the last ones, or the last ones
        `before` a place; with a `topic` only its own."""
        page: Page[Message] = Page()
        bad: list[Found] = []
        with self._store.reading() as database:
            for message in _backwards(database, before or _END, topic, bad):
                page.append(message)
                if len(page) == limit:
                    break
        return self._finished(page, limit, bad)

    def search(
        self, text: str, limit: int, before: Place | None = None, topic: str = ""
    ) -> tuple[Page[Message], Place | None]:
        """Return shown messages `before` a place that contain `text`, the newest first, and the
        place to continue from; None: the search has reached the beginning of the log.

        Case and the composition of letters do not matter. The beginning of an id finds its
        messages, too. With a `topic` only its own are searched. One call reads a bounded part of
        the log and returns up to `limit` messages, of about 1 MiB; there may be more, even if it
        finds none.
        """
        wanted = folded(text)
        page: Page[Message] = Page()
        bad: list[Found] = []
        place, more = before or _END, False
        size = scanned = count = 0
        with self._store.reading() as database:
            for message in _backwards(database, place, topic, bad):
                more = (
                    len(page) == limit
                    or size > settings.MAX_SEARCH_FOUND
                    or count == settings.MAX_SEARCH_MESSAGES
                    or scanned > settings.MAX_SEARCH_CHARACTERS
                )
                if more:  # this message is one too many, and shows that there is one
                    break
                place = message.order
                count += 1
                text = folded(message.data)
                scanned += len(text) if text.isascii() else settings.SEARCH_FOLDING * len(text)
                named = len(wanted) >= settings.LEAST_SEARCHED_ID and message.id.startswith(wanted)
                if named or wanted in text:
                    page.append(message)
                    size += len(message.data)
        return self._finished(page, limit, bad), place if more else None

    # -- damage ---------------------------------------------------------------------------------

    def _finished(self, page: Page[T], limit: int, bad: list[Found]) -> Page[T]:
        """Cut a page to `limit`, and note the damage found on it."""
        del page[limit:]
        page.damaged = len(bad)
        self._note(bad)
        return page

    def _note(self, bad: Iterable[Found]) -> None:
        """Note damaged entries for the writer, and log each once."""
        for entry in bad:
            name = f"{entry[0]}:{entry[1]}"
            with self._lock:
                self._found.add(entry)
                new = name not in self._named and len(self._named) < settings.MAX_DAMAGE_NAMED
                if new:
                    self._named.add(name)
            if new:
                logger.error(
                    "the entry %s of the log is damaged, check the disk; it is neither shown nor "
                    "sent, and comes again from a peer that has it",
                    name,
                )


def _of(topic: str) -> tuple[str, tuple[str, ...]]:
    """Return the condition that an entry is of a topic ("": of any), and its values. Without the
    second half no index of topics would be used."""
    return ("AND topic = ? AND topic <> ''", (topic,)) if topic else ("", ())


def _backwards(
    database: Database, before: Place, topic: str, bad: list[Found]
) -> Iterator[Message]:
    """Yield the shown messages before a place, the newest first, of a topic or of all (""); add
    damaged entries on the way to `bad`."""
    filter, values = _of(topic)
    rows = database.execute(
        f"SELECT {COLUMNS} FROM entries WHERE {SHOWN} {filter} AND (time, origin, seq) < (?, ?, ?) "
        "ORDER BY time DESC, origin DESC, seq DESC",
        (*values, *before),
    )
    for row in rows:
        if not is_whole(row):
            bad.append(found(row))
            continue
        for message in messages_of(row, backwards=True):
            if message.order < before:
                yield message


def _numbered(messages: list[Message], last: int, after: int) -> list[tuple[int, Message]]:
    """Return the messages of an entry that arrived after `after`, with their numbers; `last` is
    that of the last one."""
    numbered = enumerate(messages, last - len(messages) + 1)
    return [(number, message) for number, message in numbered if number > after]
