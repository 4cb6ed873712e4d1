"""The frames that keep the logs of our own nodes equal: HAVE, MESSAGES, PRUNE and GRAFT.

    HAVE      what the sender has on disk of each origin: the number of messages, the running hash
              over them and the signature of both. When a link opens, this is the whole version
              vector (its last frame is marked `last`), later the changes. `next` is set in an
              answer to `more`: the index of the next entry of the vector, 0 at its end.
    MESSAGES  runs of messages. A run is a piece of the log of one origin, without a gap; it ends
              with a signature.
    PRUNE     "I get these origins from elsewhere: announce them by HAVE instead."
    GRAFT     "Send me these origins, from these positions on." `more` asks for a piece of the
              version vector again, from that index on, because the sender of GRAFT remembers only
              so many claims of one peer.

Any of them may carry `have`, which saves a frame, and `ack`: a commit of the sender waits for
copies, so the receiver announces at once when it has what the frame names on disk.

`to_json` writes a frame; `from_dict`, which trusts nothing, reads one that is decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ..codes import MAX_NUMBER, PROTOCOL_ERROR
from ..errors import ProtocolError
from ..settings import MAX_BATCH, MAX_ENTRY_BYTES, MAX_MESSAGE_BYTES, MAX_ORIGINS_NAMED, MAX_SHIPPED
from .identity import KEY, NODE_ID, SIGNATURE

NO_HASH = ""
"""The running hash over no messages."""

NO_SIGNATURE = ""
"""The signature of an entry inside of a run: the one at its end covers it."""


class Head(NamedTuple):
    """The messages 1 ... `n` of an origin: how many, the running hash over them, and the signature
    of the origin's node over both (see signing.py)."""

    n: int
    hash: str
    signature: str


NOTHING_HELD = Head(0, NO_HASH, NO_SIGNATURE)

Vector: TypeAlias = Mapping[str, Head]
"""origin -> what is held of it"""

ORIGIN = re.compile(NODE_ID + r"-[0-9]{1,19}")
"""A node's id, a dash and the number of the start that has begun the origin."""
_HASH = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = re.compile(KEY + SIGNATURE)


class Entry(NamedTuple):
    """What was committed together at `time` (ms since the epoch), stored and shipped as one.

    Of one message `text` is its text, and `heard` says that it comes from an original node. Of
    more, `length`, it is the JSON of a list of their texts, as `Entry.of` makes it.
    """

    time: int
    text: str
    heard: bool = False
    length: int = 1

    @staticmethod
    def of(time: int, texts: Sequence[str], heard: bool = False) -> Entry:
        """Return the entry of one text or more, up to MAX_BATCH and MAX_ENTRY_BYTES."""
        if len(texts) == 1:
            return Entry(time, texts[0], heard)
        return Entry(time, encode(texts), False, len(texts))

    @property
    def texts(self) -> list[str]:
        """The texts of the messages."""
        return [self.text] if self.length == 1 else list(json.loads(self.text))

    def pack(self) -> str:
        """Return the JSON text: [time, text], [time, text, 1] if it was heard, [time, [text, ...]]
        of many."""
        if self.length > 1:
            return f"[{self.time},{self.text}]"
        return encode((self.time, self.text, 1) if self.heard else (self.time, self.text))


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry's text."""
    return len(entry.text) if entry.text.isascii() else len(entry.text.encode())


def chain(previous: str, entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the running hash (32 hex digits) after each of `entries`, where it was `previous`
    before them. Pure: no lock needed."""
    hashes = []
    for time, text, heard, length in entries:
        kind = length if length > 1 else int(heard)
        data = f"{previous} {time} {kind} {text}".encode()
        previous = hashlib.sha256(data).hexdigest()[:32]
        hashes.append(previous)
    return tuple(hashes)


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns the JSON text of a value, without spaces."""


@dataclass(frozen=True, slots=True)
class Run:
    """Messages `after`+1 ... `end` of one origin; `previous` is the running hash before them.

    `hashes`, the running hash after each entry, does not travel: the receiver works it out, a
    sender may leave it empty. `signature` is that of the head at the end; what this node commits
    has none before the writer has signed it.
    """

    origin: str
    after: int
    previous: str
    entries: tuple[Entry, ...]
    hashes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    signature: str = NO_SIGNATURE
    count: int = field(init=False, compare=False, repr=False)  # of the messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", sum(entry.length for entry in self.entries))

    @property
    def end(self) -> int:
        """The sequence number of the last message."""
        return self.after + self.count

    @property
    def head(self) -> Head:
        """What an origin holds that ends with this run."""
        return Head(self.end, self.hashes[-1], self.signature)

    def beyond(self, position: int) -> Run | None:
        """Return the part after `position`, which lies in after ... end; it may be empty. None
        where no entry ends there."""
        if position == self.after:
            return self
        after, previous = self.after, self.previous
        for n, entry in enumerate(self.entries):
            if after >= position:
                break
            after, previous = after + entry.length, self.hashes[n]
        else:
            n = len(self.entries)
        if after > position:
            return None
        entries, hashes = self.entries[n:], self.hashes[n:]
        return Run(self.origin, after, previous, entries, hashes, self.signature)

    @staticmethod
    def from_dict(data: Any) -> Run:
        """Check one run and work out its hashes. Raises ProtocolError."""
        if not isinstance(data, dict):
            raise _wrong("a run is not an object")
        origin, after = _origin(data.get("origin")), _number(data.get("after"), 0)
        if after == 0 and data.get("previous") != NO_HASH:
            raise _wrong("a hash before the first message")
        previous = _hash(data.get("previous")) if after else NO_HASH
        entries = tuple(map(_entry, _list(data.get("entries"), MAX_BATCH)))
        if not entries:
            raise _wrong("an empty run")
        if len(entries) > 1 and sum(map(size_of, entries)) > MAX_ENTRY_BYTES:
            # It is shipped on whole, for it has one signature: so it must fit into our frames, too.
            raise _wrong(f"a run of several entries with over {MAX_ENTRY_BYTES} bytes of text")
        signature = _signature(data.get("signature"))
        run = Run(origin, after, previous, entries, chain(previous, entries), signature)
        _number(run.end, 1)
        return run


@dataclass(slots=True)  # one for each entry; a frozen one takes three times as long to make
class PackedRun:
    """A run as it is sent: `text` is the JSON of its entries, without the brackets around them, and
    `newest` the time of the last one."""

    origin: str
    after: int
    previous: str
    count: int
    text: str
    newest: int
    signature: str = NO_SIGNATURE

    @staticmethod
    def of(run: Run) -> PackedRun:
        """Pack a run."""
        text = ",".join(entry.pack() for entry in run.entries)
        newest = run.entries[-1].time if run.entries else 0
        return PackedRun(
            run.origin, run.after, run.previous, run.count, text, newest, run.signature
        )

    @property
    def end(self) -> int:
        """The sequence number of the last message."""
        return self.after + self.count

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries."""
        return tuple(map(_entry, json.loads(f"[{self.text}]")))


@dataclass(frozen=True, slots=True)
class Have:
    """What the sender has on disk. `last` marks the end of the version vector when a link opens;
    `clock` is what the sender's clock shows (ms since the epoch), None if it does not say.

    `next` is set in an answer to `Graft.more`: the index to ask for next, 0 at the end."""

    have: Vector
    last: bool = False
    ack: bool = False
    clock: int | None = None
    next: int | None = None


@dataclass(frozen=True, slots=True)
class Messages:
    """Runs of messages, at most MAX_SHIPPED in all."""

    runs: tuple[Run, ...]
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Prune:
    """The origins that the sender gets from elsewhere. It accepts those in `refused` from this peer
    not at all, because the two have different contents of them; it shows what it holds itself."""

    origins: tuple[str, ...]
    refused: Vector = field(default_factory=dict)
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Graft:
    """origin -> the position after which the sender wants it shipped; `more`: the index from which
    it wants a piece of the receiver's version vector."""

    after: Mapping[str, int]
    have: Vector = field(default_factory=dict)
    ack: bool = False
    more: int | None = None


LogFrame: TypeAlias = Have | Messages | Prune | Graft
LOG_FRAMES = (Have, Messages, Prune, Graft)
LOG_TYPES = ("HAVE", "MESSAGES", "PRUNE", "GRAFT")


def to_json(frame: LogFrame) -> str:
    """Return the JSON text of a frame."""
    if isinstance(frame, Messages):
        return messages_to_json(map(PackedRun.of, frame.runs), frame.have, frame.ack)
    data: dict[str, Any] = {"type": type(frame).__name__.upper()}
    if isinstance(frame, Prune):
        data["origins"] = frame.origins
        if frame.refused:
            data["refused"] = frame.refused
    elif isinstance(frame, Graft):
        data["after"] = frame.after
        if frame.more is not None:
            data["more"] = frame.more
    else:
        data["last"] = frame.last
        if frame.clock is not None:
            data["clock"] = frame.clock
        if frame.next is not None:
            data["next"] = frame.next
    if frame.have or isinstance(frame, Have):
        data["have"] = frame.have
    if frame.ack:
        data["ack"] = True
    return encode(data)


def messages_to_json(runs: Iterable[PackedRun], have: Vector, ack: bool) -> str:
    """Return the JSON text of a MESSAGES frame."""
    texts = [
        f'{{"origin":"{run.origin}","after":{run.after},"previous":"{run.previous}",'
        f'"entries":[{run.text}],"signature":"{run.signature}"}}'
        for run in runs
    ]
    rest = f',"have":{encode(have)}' if have else ""
    rest += ',"ack":true' if ack else ""
    return f'{{"type":"MESSAGES","runs":[{",".join(texts)}]{rest}}}'


def from_dict(data: Mapping[str, Any]) -> LogFrame:
    """Check a decoded JSON object whose `type` is one of LOG_TYPES and return its frame.

    Fields that are not known are ignored. Raises ProtocolError with the reason.
    """
    kind = data.get("type")
    have = _vector(data, "have", required=kind == "HAVE")
    ack = _flag(data, "ack")
    if kind == "HAVE":
        clock = data.get("clock")
        clock = clock if clock is None else _number(clock, 0)
        return Have(have, _flag(data, "last"), ack, clock, _index(data, "next"))
    if kind == "MESSAGES":
        runs = tuple(Run.from_dict(item) for item in _list(data.get("runs"), MAX_BATCH))
        if sum(run.count for run in runs) > MAX_SHIPPED:
            raise _wrong(f"more than {MAX_SHIPPED} messages in a frame")
        return Messages(runs, have, ack)
    if kind == "PRUNE":
        origins = _list(data.get("origins"), MAX_ORIGINS_NAMED)
        refused = _vector(data, "refused", required=False)
        return Prune(tuple(map(_origin, origins)), refused, have, ack)
    if kind == "GRAFT":
        after = _table(data, "after", required=True)
        wanted = {_origin(origin): _number(n, 0) for origin, n in after}
        return Graft(wanted, have, ack, _index(data, "more"))
    raise _wrong("not a frame of the log")


def _wrong(reason: str) -> ProtocolError:
    return ProtocolError(PROTOCOL_ERROR, f"a frame about the log: {reason}")


def _table(data: Mapping[str, Any], name: str, *, required: bool) -> Iterable[tuple[Any, Any]]:
    table = data.get(name)
    if table is None and not required:
        return ()
    if not isinstance(table, dict):
        raise _wrong(f"{name} is not an object")
    if len(table) > MAX_ORIGINS_NAMED:
        raise _wrong(f"more than {MAX_ORIGINS_NAMED} entries in {name}")
    return table.items()


def _list(value: Any, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong("a list is missing")
    if len(value) > limit:
        raise _wrong(f"a list of more than {limit}")
    return value


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(f"{name} is neither true nor false")
    return value


def _index(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return None if value is None else _number(value, 0)


def _number(value: Any, least: int) -> int:
    if type(value) is not int or not least <= value <= MAX_NUMBER:
        raise _wrong("not a number in its range")
    return value


def _origin(value: Any) -> str:
    if not isinstance(value, str) or not ORIGIN.fullmatch(value):
        raise _wrong("not an origin")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise _wrong("not a running hash")
    return value


def _signature(value: Any) -> str:
    if not isinstance(value, str) or not _SIGNATURE.fullmatch(value):
        raise _wrong("not a signature")
    return value


def _vector(data: Mapping[str, Any], name: str, *, required: bool) -> Vector:
    table = _table(data, name, required=required)
    return {_origin(origin): _head(entry) for origin, entry in table}


def _head(value: Any) -> Head:
    if not isinstance(value, list) or len(value) != 3:
        raise _wrong("a head is not [number, hash, signature]")
    return Head(_number(value[0], 1), _hash(value[1]), _signature(value[2]))


def _entry(value: Any) -> Entry:
    if not isinstance(value, list) or len(value) not in (2, 3):
        raise _wrong("an entry is not [time, text]")
    time, texts = _number(value[0], 0), value[1]
    several = isinstance(texts, list)
    if several and (len(value) == 3 or not 2 <= len(texts) <= MAX_BATCH):
        raise _wrong(f"an entry of several texts has 2 to {MAX_BATCH}, none of them heard")
    if not isinstance(texts, list):
        texts = [texts]
    if {str} != set(map(type, texts)):
        raise _wrong("a text is not a string")
    try:
        size = len("".join(texts).encode())  # a lone surrogate stays one, whatever is before it
    except UnicodeEncodeError:
        raise _wrong("a text with a lone surrogate") from None
    if size > MAX_ENTRY_BYTES:
        raise _wrong(f"an entry over {MAX_ENTRY_BYTES} bytes")
    if size > MAX_MESSAGE_BYTES and max(len(text.encode()) for text in texts) > MAX_MESSAGE_BYTES:
        raise _wrong(f"a message over {MAX_MESSAGE_BYTES} bytes")
    if len(value) == 3 and value[2] != 1:
        raise _wrong("a third element that is not 1")
    return Entry.of(time, texts, len(value) == 3)
