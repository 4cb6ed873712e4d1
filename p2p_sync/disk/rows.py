"""An entry as a row of the database, and its checksum. Pure.

Disks change what they hold, so each row has a CRC-32 of all columns that never change (`leader` and
`arrival` do, when copies are matched again). Every reader compares it before it uses a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias
from zlib import crc32

from ..wire.frames import Message
from ..wire.logframes import Entry, PackedRun, Run
from ..wire.logframes import chain as hashes_of

Row: TypeAlias = Sequence[Any]
"""The columns COLUMNS of an entry; texts as bytes, since a damaged one may be no UTF-8."""
COLUMNS = "origin, seq, count, time, heard, previous, data, sum, arrival"

# The numbers in a row, for its checksum.
_pack = Struct(">qqqq").pack


def stored(run: Run, arrival: int) -> tuple[list[Row], list[PackedRun]]:
    """Return the rows of a run whose messages arrive after `arrival`, with texts as str, and its
    entries packed for sending."""
    rows: list[Row] = []
    packed: list[PackedRun] = []
    name, origin = run.origin, run.origin.encode()
    after, previous = run.after, run.previous
    for entry, running in zip(run.entries, run.hashes, strict=True):
        time, text, heard, count = entry
        before = bytes.fromhex(previous)
        head = _pack(after + 1, count, time, heard) + origin + before
        checksum = crc32(text.encode(), crc32(head))
        arrival += count
        rows.append((name, after + 1, count, time, heard, before, text, checksum, arrival))
        packed.append(PackedRun(name, after, previous, count, entry.pack()))
        after, previous = after + count, running
    return rows, packed


def is_whole(row: Row) -> bool:
    """Return whether a row that was read is what was stored."""
    origin, seq, count, time, heard, previous, data, checksum, _ = row
    try:
        head = _pack(seq, count, time, heard) + origin + previous
        return bool(crc32(data, crc32(head)) == checksum)
    except (TypeError, StructError):  # not even of the right type
        return False


def name_of(row: Row) -> str:
    """Return the origin in a row that may be damaged."""
    origin = row[0]
    return origin.decode("utf-8", "replace") if isinstance(origin, bytes) else "?"


def messages_of(row: Row) -> list[Message]:
    """Return the messages in a whole row."""
    origin, seq, count, time, heard, _, data, _, _ = row
    name, text = origin.decode(), data.decode()
    if count == 1:
        return [Message(name, seq, time, text, bool(heard))]
    texts = enumerate(Entry(time, text, False, count).texts, seq)
    return [Message(name, number, time, text) for number, text in texts]


def packed(row: Row) -> PackedRun:
    """Return a whole row packed for sending."""
    origin, seq, count, time, heard, previous, data, _, _ = row
    text = Entry(time, data.decode(), heard, count).pack()
    return PackedRun(origin.decode(), seq - 1, previous.hex(), count, text)


def end_of(row: Row) -> tuple[int, str]:
    """Return the number of the last message in a whole row, and the running hash after it."""
    _, seq, count, time, heard, previous, data, _, _ = row
    entry = Entry(time, data.decode(), heard, count)
    return seq + count - 1, hashes_of(previous.hex(), [entry])[-1]
