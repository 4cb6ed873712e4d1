"""An entry as a row of the database, and its checksum. Pure.

Disks change what they hold, so each row has a CRC-32 of all columns that never change (`leader` and
`arrival` do, when copies are matched again). Every reader compares it before it uses a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias
from zlib import crc32

from ..wire.export import to_lines
from ..wire.frames import Message
from ..wire.logframes import NO_SIGNATURE, Entry, Head, PackedRun, Run
from ..wire.logframes import chain as hashes_of

Row: TypeAlias = Sequence[Any]
"""The columns COLUMNS of an entry; texts as bytes, since a damaged one may be no UTF-8."""
COLUMNS = "origin, seq, count, time, heard, previous, data, signature, sum, arrival"

# The numbers in a row, for its checksum.
_pack = Struct(">qqqq").pack


def stored(run: Run, arrival: int) -> tuple[list[Row], list[PackedRun]]:
    """Return the rows of a run whose messages arrive after `arrival`, with texts as str, and its
    entries packed for sending."""
    rows: list[Row] = []
    packed: list[PackedRun] = []
    name, origin = run.origin, run.origin.encode()
    after, previous = run.after, run.previous
    signature = NO_SIGNATURE
    for n, (entry, running) in enumerate(zip(run.entries, run.hashes, strict=True), 1):
        if n == len(run.entries):
            signature = run.signature
        time, text, heard, count = entry
        before, signed = bytes.fromhex(previous), bytes.fromhex(signature)
        head = _pack(after + 1, count, time, heard) + origin + before + signed
        checksum = crc32(text.encode(), crc32(head))
        arrival += count
        rows.append((name, after + 1, count, time, heard, before, text, signed, checksum, arrival))
        packed.append(PackedRun(name, after, previous, count, entry.pack(), time, signature))
        after, previous = after + count, running
    return rows, packed


def is_whole(row: Row) -> bool:
    """Return whether a row that was read is what was stored."""
    origin, seq, count, time, heard, previous, data, signature, checksum, _ = row
    try:
        head = _pack(seq, count, time, heard) + origin + previous + signature
        return bool(crc32(data, crc32(head)) == checksum)
    except (TypeError, StructError):  # not even of the right type
        return False


def name_of(row: Row) -> str:
    """Return the origin in a row that may be damaged."""
    origin = row[0]
    return origin.decode("utf-8", "replace") if isinstance(origin, bytes) else "?"


def messages_of(row: Row) -> list[Message]:
    """Return the messages in a whole row."""
    origin, seq, count, time, heard, _, data, *_ = row
    name, text = origin.decode(), data.decode()
    if count == 1:
        return [Message(name, seq, time, text, bool(heard))]
    texts = enumerate(Entry(time, text, False, count).texts, seq)
    return [Message(name, number, time, text) for number, text in texts]


def place_of(row: Row) -> tuple[int, str, int]:
    """Return the place of a row in the shared order."""
    return row[3], name_of(row), row[1]


def exported(row: Row, hidden: bool) -> Iterator[str]:
    """Yield the lines of a whole row in an export."""
    origin, seq, count, time, heard, previous, data, signature, *_ = row
    entry = Entry(time, data.decode(), bool(heard), count)
    return to_lines(origin.decode(), seq, entry, previous.hex(), signature.hex(), hidden)


def packed(row: Row) -> PackedRun:
    """Return a whole row packed for sending."""
    origin, seq, count, time, heard, previous, data, signature, *_ = row
    text = Entry(time, data.decode(), heard, count).pack()
    before = previous.hex()
    return PackedRun(origin.decode(), seq - 1, before, count, text, time, signature.hex())


def is_signed(row: Row) -> bool:
    """Return whether a row has a signature, so that an origin can end with it."""
    return bool(row[7])


def head_of(row: Row) -> Head:
    """Return what an origin holds that ends with a whole row."""
    _, seq, count, time, heard, previous, data, signature, *_ = row
    entry = Entry(time, data.decode(), heard, count)
    running = hashes_of(previous.hex(), [entry])[-1]
    return Head(seq + count - 1, running, signature.hex())
