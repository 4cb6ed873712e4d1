"""Messages of this node on their way to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..wire.entries import HEARD, Entry
from ..wire.frames import Message


class Key(NamedTuple):
    """An idempotency key, and the message that it names; hashes of both."""

    name: bytes
    digest: bytes


class Keyed(NamedTuple):
    """A message that a key has named: what was committed, its place and its time (ms)."""

    name: bytes
    digest: bytes
    origin: str
    seq: int
    time: int


@dataclass(slots=True, eq=False)
class Commit:
    """Messages of this node that have their ids and are on their way to the disk.

    `texts` are the messages in `entry`, whose sequence numbers begin with `first`. `future` belongs
    to the shell, whose threads wait for it. `begun` is the time of the commit on the monotonic
    clock. `repeated`: a key has named these messages, which are on disk, before.
    """

    origin: str
    first: int
    entry: Entry
    texts: Sequence[str]
    failures: int  # of the disk, before it
    begun: float
    future: Any
    repeated: bool = False
    copies: int = 0  # that are known of, if somebody has waited for them

    @property
    def last(self) -> int:
        """The sequence number of the last message."""
        return self.first + len(self.texts) - 1

    @property
    def count(self) -> int:
        """How many messages there are."""
        return len(self.texts)

    def message(self, index: int = 0) -> Message:
        """Return one of the messages with its identity."""
        entry, text = self.entry, self.texts[index]
        heard, seq = entry.kind == HEARD, self.first + index
        about = entry.topic, None, self.copies, entry.source
        return Message(self.origin, seq, entry.time, text, heard, *about)
