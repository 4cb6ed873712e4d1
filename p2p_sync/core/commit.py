"""Messages of this node on their way to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..wire.entries import HEARD, Entry
from ..wire.frames import Message


@dataclass(slots=True, eq=False)
class Commit:
    """Messages of this node that have their ids and are on their way to the disk.

    `texts` are the messages in `entry`, whose sequence numbers begin with `first`. `future` belongs
    to the shell, whose threads wait for it. `begun` is the time of the commit on the monotonic
    clock.
    """

    origin: str
    first: int
    entry: Entry
    texts: Sequence[str]
    failures: int  # of the disk, before it
    begun: float
    future: Any

    @property
    def last(self) -> int:
        """The sequence number of the last message."""
        return self.first + len(self.texts) - 1

    def message(self, index: int = 0, copies: int = 0) -> Message:
        """Return one of the messages with its identity; `copies` are those that are known of."""
        entry, text = self.entry, self.texts[index]
        heard, seq = entry.kind == HEARD, self.first + index
        return Message(self.origin, seq, entry.time, text, heard, entry.topic, copies=copies)
