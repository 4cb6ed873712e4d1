"""The log for senders: what it holds of an origin, and runs of its messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from ..errors import LogDamaged, LogDeleted, LogError, LogMoved
from ..settings import MAX_BATCH, MAX_PAUSE_MS, MAX_SHIPPED
from ..wire.entries import smallest
from ..wire.logframes import NOTHING_HELD, Head, Mark, PackedRun
from . import damage, forks, origins
from .damage import GAP, Found
from .origins import NO_FLOOR, Floor
from .pages import Pages
from .rows import COLUMNS, Row, is_whole, packed
from .store import Store


class Sending(Pages):
    """The messages of one node, for senders. For any thread."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._floors: dict[str, Floor] = {}  # those that are not 0; only the writer changes them

    def head(self, origin: str) -> Head:
        """Return what the log holds of an origin, NOTHING_HELD if that cannot be read now."""
        with suppress(LogError), self._store.reading() as database:
            return origins.head(database, origin)
        return NOTHING_HELD

    def floors(self) -> dict[str, int]:
        """Return the origins of which the first messages are not held, each with the number of the
        last of these."""
        with self._lock:
            return {name: floor.n for name, floor in self._floors.items() if floor.n}

    def hash_at(self, origin: str, n: int) -> str | None:
        """Return the running hash over the first `n` messages of an origin; "" if no entry ends
        there; None if the log does not hold them all, or cannot be read now."""
        with suppress(LogError), self._store.reading() as database:
            return forks.hash_at(database, origin, n)
        return None

    def marks(self, origin: str, above: int) -> list[Mark]:
        """Return places of an origin's history after number `above`, few of very many, by which a
        peer finds out where its own history differs; [] if they cannot be read now."""
        with suppress(LogError), self._store.reading() as database:
            return forks.marks(database, origin, above)
        return []

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[PackedRun, int]:
        """Return messages `after`+1 to `upto` of `origin`, and the bytes that are left of `size`.

        Returns whole entries, the last of which is signed. So they may begin before `after` and end
        after `upto`. They end before `upto` if there are more than `size` bytes, but not before the
        first signed entry; or before a pause of more than MAX_PAUSE_MS, so that no message waits
        for the clock because of one that comes a day after it. Raises LogDeleted if the first of
        them is not kept any more, LogMoved if it is in another branch now, LogError if it cannot be
        read.
        """
        with self._lock:
            entries = self._recent.find(origin, after)
        joined = _joined(entries, upto, size)
        bad: list[Found] = []
        if joined is None:
            with self._store.reading() as database:
                rows = database.execute(
                    f"SELECT {COLUMNS} FROM entries WHERE origin = ? "
                    "AND seq >= (SELECT max(seq) FROM entries WHERE origin = ? AND seq <= ?) "
                    "ORDER BY seq",
                    (origin, origin, after + 1),
                )
                joined = _joined(_whole(rows, origin, after, bad), upto, size)
                is_gone = joined is None and bad[0][2] == GAP
                if is_gone and origins.head(database, origin).n <= after:
                    raise LogMoved(f"{origin}:{after + 1} has another id now")
        with self._lock:
            floor = self._floor(origin).n
        if after < floor:  # now: it may have been deleted meanwhile
            raise LogDeleted(origin, floor)
        self._note(bad)
        if joined is None:
            raise LogDamaged(f"this node's copy of {origin}:{after + 1} is damaged")
        return joined

    def _floor(self, name: str) -> Floor:
        return self._floors.get(name, NO_FLOOR)


def _whole(rows: Iterable[Row], origin: str, after: int, bad: list[Found]) -> Iterator[PackedRun]:
    """Yield the entries in `rows` from the one that has message `after`+1 on, up to the first that
    is damaged or missing, which is added to `bad`."""
    end = None
    for row in rows:
        if not is_whole(row):
            bad.append(damage.found(row))
            break
        entry = packed(row)
        if entry.after != end if end is not None else not entry.after <= after < entry.end:
            break
        end = entry.end
        yield entry
    else:
        if end is not None:
            return
    bad.append((origin, (after if end is None else end) + 1, GAP))


def _joined(entries: Iterable[PackedRun], upto: int, size: int) -> tuple[PackedRun, int] | None:
    """Join the entries that begin before `upto` and fit in `size` bytes, up to a signed one; return
    them and the bytes that are left. None if none of the entries is signed."""
    chosen: list[PackedRun] = []
    count, left = 0, size  # as far as the last signed one
    for entry in entries:
        text = entry.text
        length = len(text) if text.isascii() else len(text.encode())
        size -= max(length, smallest(entry.count))
        if count:
            is_long = (
                size < 0 or entry.end - chosen[0].after > MAX_SHIPPED or len(chosen) == MAX_BATCH
            )
            ends = count == len(chosen)
            if is_long or (
                ends and (entry.after >= upto or entry.newest - chosen[-1].newest > MAX_PAUSE_MS)
            ):
                break
        chosen.append(entry)
        if entry.signature:
            count, left = len(chosen), size
        if entry.notice:
            break
    if count < 2:
        return (chosen[0], left) if count else None
    first, last = chosen[0], chosen[count - 1]
    joined = ",".join(entry.text for entry in chosen[:count])
    length = last.end - first.after
    return (
        PackedRun(
            first.origin, first.after, first.previous, length, joined, last.newest, last.signature
        ),
        left,
    )
