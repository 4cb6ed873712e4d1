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
from typing import TypeVar

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
from .wanted import ALL, ARRIVAL, BACKWARDS, FORWARDS, Place, Search, Wanted

logger = logging.getLogger("p2p_sync")

T = TypeVar("T")

_NOTICES = (
    f"SELECT {COLUMNS} FROM entries WHERE arrival > ? AND arrival <= ? AND kind = 2 "
    "ORDER BY arrival"
)

BEGINNING: Place = (-1, "", 0)
"""The place before all messages."""
_END: Place = (MAX_NUMBER, "~", 0)


class Page(list[T]):
    """A list of what was read, and how many `damaged` entries were left out of it. It is `complete`
    if there is nothing more now in its direction.

    If it was read by arrival, it goes up to the arrival `upto`, and `missed` messages on the way,
    of any kind, were deleted before they were read. Otherwise `place` is where to go on, None: at
    the beginning."""

    damaged = 0
    missed = 0
    upto = 0
    place: Place | None = None
    complete = False


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
        self,
        after: int,
        limit: int,
        hidden: bool = False,
        wanted: Wanted = ALL,
        size: int = MAX_NUMBER,
    ) -> Page[tuple[int, Message]]:
        """Return up to `limit` messages after arrival `after`, each with its number: those that
        are shown, or with `hidden` all; only those that are `wanted`. It ends with the entry that
        brings the texts to more than `size` characters. `upto` of the page is where to go on; a
        page that is not `complete` may be empty.

        Where a notice has arrived, the shown message that it erases comes again, without its text.
        """
        page: Page[tuple[int, Message]] = Page()
        bad: list[Found] = []
        with self._lock:
            newest = max(after, self._arrival)
            recent = self._recent.arrived(after, limit + 1) if wanted == ALL else None
        stop: int | None = None
        if recent is not None:
            for last, entry in recent:
                page += _numbered(messages_in(entry), last, after)
                size -= len(entry.text)
                if len(page) > limit:
                    break
                if size < 0:
                    stop = last
                    break
            return self._arrived(page, newest, limit, bad, stop)
        with self._store.snapshot() as database:
            search = Search(database, wanted, ARRIVAL, (after,), (MAX_NUMBER,), hidden)
            stop = search.end.arrival if search.end else None
            span = after, MAX_NUMBER if stop is None else stop
            notices = () if hidden else database.execute(_NOTICES, span)
            entries = merge(search.rows(), notices, key=itemgetter(-1))
            for looked, row in enumerate(entries, 1):
                if not is_whole(row):
                    bad.append(found(row))
                else:
                    page += _numbered([*messages_of(row)], row[-1], after)
                    size -= len(row[8])
                    if row[4] == NOTICE and not hidden:
                        erased = erased_by(database, row)
                        page += [(row[-1], each) for each in erased if wanted.has(each)]
                if looked == settings.MAX_FILTERED or size < 0:
                    stop = row[-1]
                if len(page) > limit or stop == row[-1]:
                    break
            # After the read: what is gone by now may be missing in it.
            gone = self._gone.arrival
            if len(page) > limit:
                stop = page[limit - 1][0]
            upto = gone if stop is None else min(gone, stop)
            if after < upto:
                page.missed = upto - after - held_between(database, after, upto)
        return self._arrived(page, max(newest, upto), limit, bad, stop)

    def _arrived(
        self,
        page: Page[tuple[int, Message]],
        newest: int,
        limit: int,
        bad: list[Found],
        stop: int | None = None,
    ) -> Page[tuple[int, Message]]:
        """Finish a page that has been read up to the arrival `stop`. None: to the `newest` arrival
        before it was read, or a later one; what it left out is hidden, or not wanted."""
        if len(page) > limit:
            stop = page[limit - 1][0]
        last = page[-1][0] if page else 0
        self._finished(page, limit, bad)
        page.complete = stop is None
        page.upto = max(last, newest) if stop is None else stop
        return page

    def arrived(self, numbers: Iterable[int]) -> dict[int, Message]:
        """Return the shown messages that have arrived with these numbers, which ascend, by number;
        without those that are not here."""
        sought = [*numbers]
        arrived: dict[int, Message] = {}
        bad: list[Found] = []
        upto = 0
        query = (
            f"SELECT {COLUMNS}, {SHOWN} FROM entries WHERE arrival >= ? ORDER BY arrival LIMIT 1"
        )
        with self._store.reading() as database:
            for number in sought:
                if number <= upto:
                    continue
                row = database.execute(query, (number,)).fetchone()
                if row is None:
                    break
                *row, shown = row
                upto = row[-1]
                if not is_whole(row):
                    bad.append(found(row))
                elif shown:
                    arrived.update(_numbered([*messages_of(row)], upto, 0))
        self._note(bad)
        return {number: arrived[number] for number in sought if number in arrived}

    def cursor(self, arrival: int) -> str:
        """Return the cursor of an arrival."""
        return self._store.cursors.text(arrival)

    def number(self, cursor: str, name: str = "after") -> int:
        """Return the arrival at a cursor, whether it is kept or not; raises CursorGone for one of
        another log or beyond the end, InputError for what is no cursor. They call it `name`."""
        try:
            return self._store.cursors.number(cursor, self.last_arrival(), name)
        except CursorGone:  # readers may see a transaction before its writer is back
            with self._store.reading() as database:
                (newest,) = database.execute(LAST_ARRIVAL).fetchone()
            return self._store.cursors.number(cursor, newest, name)

    def place(self, cursor: str, name: str = "after") -> int:
        """Return the arrival at a cursor.

        "" and "0" are the beginning of what is kept, "new" is the end. Raises CursorGone for a
        cursor of another log, beyond the end, or before what is kept; InputError for what is no
        cursor. They call it `name`.
        """
        number = self.number(cursor, name)
        first = self.first()
        if number >= first:
            return number
        if cursor in ("", "0"):
            return first
        missed = first - number
        messages = "1 message" if missed == 1 else f"{missed:,} messages"
        raise CursorGone(
            f"{messages} behind {name} {'was' if missed == 1 else 'were'} deleted, since this node "
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

    def deleted_upto(self) -> int:
        """Return the last arrival that was deleted; some before it may be here yet."""
        return self._gone.arrival

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

    def ordered(self, after: Place, limit: int, wanted: Wanted = ALL) -> Page[Message]:
        """Return up to `limit` shown messages after a place in the shared order, only those that
        are `wanted`. `place` of the page is where to go on; a page that is not `complete` may be
        empty."""
        page: Page[Message] = Page()
        bad: list[Found] = []
        with self._store.reading() as database:
            place = max(_beginning(database, after), (wanted.since, "", 0))
            search = Search(database, wanted, FORWARDS, place, (wanted.until, "", 0))
            for row in search.rows():
                if not is_whole(row):
                    bad.append(found(row))
                    continue
                last = page[-1].order if page else after  # a damaged index goes back
                new = (message for message in messages_of(row) if message.order > last)
                page += islice(new, limit + 1 - len(page))
                if len(page) > limit:
                    break
        has_more = len(page) > limit
        self._finished(page, limit, bad)
        page.place = page[-1].order if page else after
        page.complete = not has_more and not search.end
        if search.end and not has_more:
            page.place = search.end.place
        return page

    def all(self, wanted: Wanted = ALL) -> Iterator[Message]:
        """Yield all shown messages that are `wanted` in the shared order, a page at a time."""
        place = BEGINNING
        while True:
            page = self.ordered(place, 1000, wanted)
            yield from page
            if page.complete:
                return
            place = page.place or place

    def export(self) -> Iterator[Page[str]]:
        """Yield the lines of an export (see export.py) of all messages that are here now: of each
        origin they end with a signed one."""
        place, last = BEGINNING, self.last_arrival()
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

    def newest(
        self, limit: int, before: Place | None = None, wanted: Wanted = ALL
    ) -> Page[Message]:
        """Return up to `limit` shown messages, the newest first: the last ones, or the last ones
        `before` a place; only those that are `wanted`."""
        page: Page[Message] = Page()
        bad: list[Found] = []
        with self._store.reading() as database:
            search = _backwards(database, before, wanted)
            for message in _messages(search, before, bad):
                page.append(message)
                if len(page) == limit:
                    break
        return self._finished(page, limit, bad)

    def search(
        self, text: str, limit: int, before: Place | None = None, wanted: Wanted = ALL
    ) -> Page[Message]:
        """Return shown messages `before` a place that contain `text`, the newest first, only those
        that are `wanted`. `place` of the page is where to go on; it is `complete` if the search has
        reached the beginning of the log.

        Case and the composition of letters do not matter. The beginning of an id finds its
        messages, too. One call reads a bounded part of the log and returns up to `limit` messages,
        of about 1 MiB; there may be more, even if it finds none.
        """
        sought = folded(text)
        page: Page[Message] = Page()
        page.place = before
        bad: list[Found] = []
        more = False
        size = scanned = count = 0
        with self._store.reading() as database:
            search = _backwards(database, before, wanted)
            for message in _messages(search, before, bad):
                more = (
                    len(page) == limit
                    or size > settings.MAX_SEARCH_FOUND
                    or count == settings.MAX_SEARCH_MESSAGES
                    or scanned > settings.MAX_SEARCH_CHARACTERS
                )
                if more:  # this message is one too many, and shows that there is one
                    break
                page.place = message.order
                count += 1
                text = folded(message.data)
                scanned += len(text) if text.isascii() else settings.SEARCH_FOLDING * len(text)
                named = len(sought) >= settings.LEAST_SEARCHED_ID and message.id.startswith(sought)
                if named or sought in text:
                    page.append(message)
                    size += len(message.data)
        if search.end and not more:
            page.place = search.end.place
        page.complete = not more and not search.end
        return self._finished(page, limit, bad)

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


def _beginning(database: Database, after: Place) -> Place:
    """Return the place of the entry that holds the message at a place, since it may reach beyond;
    if there is none, one up to which there is no other entry."""
    query = "SELECT coalesce(max(seq), 0) FROM entries WHERE time = ? AND origin = ? AND seq <= ?"
    (first,) = database.execute(query, after).fetchone()
    return *after[:2], first


def _backwards(database: Database, before: Place | None, wanted: Wanted) -> Search:
    """Return the search from a place, or the end, back to the first entry that is wanted."""
    last = min(before or _END, (wanted.until, "", 0))
    return Search(database, wanted, BACKWARDS, (wanted.since, "", 0), last)


def _messages(search: Search, before: Place | None, bad: list[Found]) -> Iterator[Message]:
    """Yield the messages before a place that a search finds, the newest first; add damaged entries
    on the way to `bad`."""
    for row in search.rows():
        if not is_whole(row):
            bad.append(found(row))
            continue
        for message in messages_of(row, backwards=True):
            if before is None or message.order < before:
                yield message


def _numbered(messages: list[Message], last: int, after: int) -> list[tuple[int, Message]]:
    """Return the messages of an entry that arrived after `after`, with their numbers; `last` is
    that of the last one."""
    numbered = enumerate(messages, last - len(messages) + 1)
    return [(number, message) for number, message in numbered if number > after]
