"""An entry as a row of the database, and its checksum. Pure.

Disks change what they hold, so each row has a CRC-32 of all columns but `leader` and `arrival`,
which change when copies are matched again, and `copied`, which only that matching reads. Every
reader compares it before it uses a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias
from zlib import crc32

from ..wire.entries import HEARD, NOTICE, Entry, chain
from ..wire.export import to_lines
from ..wire.frames import Message
from ..wire.frames import messages_of as messages_in
from ..wire.logframes import NO_HASH, NO_SIGNATURE, Head, PackedRun, Run

Row: TypeAlias = Sequence[Any]
"""The columns COLUMNS of an entry; texts as bytes, since a damaged one may be no UTF-8."""
COLUMNS = (
    "origin, seq, count, time, kind, previous, topic, erased, data, signature, source, sum, arrival"
)
INSERTED = COLUMNS.replace("arrival", "copied, arrival")
VALUES = f"({', '.join('?' * 14)})"
"""The columns of a row that is inserted, and its place in the statement."""

# The numbers in a row, for its checksum.
_pack = Struct(">qqqq").pack


def stored(run: Run, arrival: int) -> tuple[list[Row], list[PackedRun]]:
    """Return the rows of a run whose messages arrive after `arrival`, with the columns INSERTED and
    texts as str, and its entries packed for sending."""
    rows: list[Row] = []
    packed: list[PackedRun] = []
    name = run.origin
    after, previous = run.after, run.previous
    signature = NO_SIGNATURE
    for n, (entry, running) in enumerate(zip(run.entries, run.hashes, strict=True), 1):
        if n == len(run.entries):
            signature = run.signature
        arrival += entry.length
        *row, _ = _row(name, after + 1, entry, previous, signature, arrival)
        copied = bytes.fromhex(entry.digest) if entry.kind == HEARD else None
        rows.append((*row, copied, arrival))
        text, time, count, notice = entry.pack(), entry.time, entry.length, entry.kind == NOTICE
        packed.append(PackedRun(name, after, previous, count, text, time, signature, notice))
        after, previous = after + count, running
    return rows, packed


def _row(origin: str, seq: int, entry: Entry, previous: str, signature: str, arrival: int) -> Row:
    time, text, kind, count, topic, erased, source = entry
    before, signed = bytes.fromhex(previous), bytes.fromhex(signature)
    columns = origin, seq, count, time, kind, before, topic, erased, text, signed, source
    encoded = origin.encode(), topic.encode(), erased.encode(), text.encode(), source.encode()
    return (*columns, _checksum(seq, count, time, kind, before, signed, *encoded), arrival)


def _checksum(
    seq: int, count: int, time: int, kind: int, previous: bytes, signature: bytes,
    origin: bytes, topic: bytes, erased: bytes, data: bytes, source: bytes,
) -> int:  # fmt: skip
    numbers = _pack(seq, count, time, kind)
    rest = b"%b %b %b %b %b%b" % (origin, topic, erased, source, previous, signature)
    return crc32(data, crc32(numbers + rest))


def is_whole(row: Row) -> bool:
    """Return whether a row that was read is what was stored."""
    origin, seq, count, time, kind, previous, topic, erased, data, signature, source, sum, _ = row
    try:
        texts = origin, topic, erased, data, source
        return bool(sum == _checksum(seq, count, time, kind, previous, signature, *texts))
    except (TypeError, StructError):  # not even of the right type
        return False


def changed(row: Row, entry: Entry, signature: bytes) -> Row:
    """Return a whole row with another entry in it, and another signature."""
    name, before, arrival = row[0].decode(), row[5].hex(), row[-1]
    return _row(name, row[1], entry, before, signature.hex(), arrival)


def renamed(row: Row, origin: str, seq: int, entry: Entry) -> Row:
    """Return a whole row as that of another origin, with its first number there and its entry."""
    return _row(origin, seq, entry, row[5].hex(), row[9].hex(), row[-1])


def name_of(row: Row) -> str:
    """Return the origin in a row that may be damaged."""
    origin = row[0]
    return origin.decode("utf-8", "replace") if isinstance(origin, bytes) else "?"


def entry_of(row: Row) -> Entry:
    """Return the entry in a whole row."""
    _, _, count, time, kind, _, topic, erased, data, _, source, *_ = row
    if not topic and not erased and not source:
        return Entry(time, data.decode(), kind, count)
    texts = topic.decode(), erased.decode(), source.decode()
    return Entry(time, data.decode(), kind, count, *texts)


def messages_of(row: Row, *, backwards: bool = False) -> Iterator[Message]:
    """Yield the messages in a whole row, or `backwards` from the last one."""
    return messages_in(row[0].decode(), row[1], entry_of(row), backwards=backwards)


def length_of(row: Row) -> int:
    """Return the bytes of the text in a row that may be damaged."""
    return len(row[8]) if isinstance(row[8], bytes) else 0


def place_of(row: Row) -> tuple[int, str, int]:
    """Return the place of a row in the shared order."""
    return row[3], name_of(row), row[1]


def exported(row: Row, hidden: bool, gap: bool) -> Iterator[str]:
    """Yield the lines of a whole row in an export; `gap`: messages before it are gone."""
    origin, seq, previous, signature = row[0].decode(), row[1], row[5].hex(), row[9].hex()
    gap = gap or (seq == 1 and previous != NO_HASH)  # a branch: its history begins elsewhere
    return to_lines(origin, seq, entry_of(row), previous, signature, hidden, gap)


def packed(row: Row) -> PackedRun:
    """Return a whole row packed for sending."""
    text, before, signature = entry_of(row).pack(), row[5].hex(), row[9].hex()
    name, after, notice = row[0].decode(), row[1] - 1, row[4] == NOTICE
    return PackedRun(name, after, before, row[2], text, row[3], signature, notice)


def is_signed(row: Row) -> bool:
    """Return whether a row has a signature, so that an origin can end with it."""
    return bool(row[9])


def end_of(row: Row) -> int:
    """Return the number of the last message in a whole row."""
    return int(row[1] + row[2] - 1)


def head_of(row: Row) -> Head:
    """Return what an origin holds that ends with a whole row."""
    running = chain(row[5].hex(), [entry_of(row)])[-1]
    return Head(end_of(row), running, row[9].hex())
