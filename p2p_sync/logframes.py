"""The frames that keep the logs of our own nodes equal: HAVE, MESSAGES, PRUNE and GRAFT.

    HAVE      what the sender durably holds of each origin: the number of messages and the running
              hash over them. The whole version vector at a link's opening (the last frame of it
              is marked `last`), later the news.
    MESSAGES  runs of messages, each run a piece of one origin's log, without a gap.
    PRUNE     "I get these origins from elsewhere: tell me by HAVE instead of shipping them."
    GRAFT     "Ship me these origins, from these positions on."

Any of them may carry `have`, so that what is to be told rides along with what is sent anyway, and
`ack`: a commit of the sender waits for copies, so the receiver tells soon (not within the usual
second) once it durably holds what the frame names.

`to_json` writes a frame; `from_dict`, which trusts nothing, reads one that is decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .codes import MAX_NUMBER, PROTOCOL_ERROR
from .config import MAX_MESSAGE_BYTES
from .errors import ProtocolError

MAX_ENTRIES = 2_500
"""Origins named in one frame; at some 90 bytes each that stays below 256 KiB."""
MAX_BATCH = 1_000
"""Messages in one frame."""

NO_HASH = ""
"""The running hash over no messages."""

Vector: TypeAlias = Mapping[str, tuple[int, str]]
"""origin -> (number of messages held, running hash over them)"""

ORIGIN = re.compile(r"[0-9a-f]{16}-[0-9]{1,16}")
"""A node's id, a dash and the number of its start."""
_HASH = re.compile(r"[0-9a-f]{32}")


class Entry(NamedTuple):
    """One message: `time` of its commit (ms since the epoch), `text`, and whether it was `heard`
    from an original node rather than committed on a node of ours."""

    time: int
    text: str
    heard: bool = False


def chain(previous: str, messages: Iterable[Entry]) -> tuple[str, ...]:
    """Return the running hash (32 hex digits) after each of `messages`, where it was `previous`
    before them. Pure: no lock needed."""
    hashes = []
    sha256 = hashlib.sha256
    for time, text, heard in messages:
        previous = sha256(f"{previous} {time} {heard:d} {text}".encode()).hexdigest()[:32]
        hashes.append(previous)
    return tuple(hashes)


def encode(value: Any) -> str:
    """Return the JSON text of `value`, as short as it can be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Run:
    """Messages `after`+1 ... `end` of one origin; `previous` is the running hash before them.

    `hashes`, the running hash after each, does not travel: the receiver works it out, a sender
    may leave it empty.
    """

    origin: str
    after: int
    previous: str
    messages: tuple[Entry, ...]
    hashes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def end(self) -> int:
        """The sequence number of the last message."""
        return self.after + len(self.messages)

    def beyond(self, position: int) -> Run:
        """Return the part after `position`, which lies in after ... end-1."""
        if position == self.after:
            return self
        cut = position - self.after
        hashes = self.hashes
        return Run(self.origin, position, hashes[cut - 1], self.messages[cut:], hashes[cut:])

    @staticmethod
    def from_dict(data: Any) -> Run:
        """Check one run and work out its hashes. Raises ProtocolError."""
        if not isinstance(data, dict):
            raise _wrong("a run is not an object")
        origin, after = _origin(data.get("origin")), _number(data.get("after"), 0)
        if after == 0 and data.get("previous") != NO_HASH:
            raise _wrong("a hash before the first message")
        previous = _hash(data.get("previous")) if after else NO_HASH
        messages = _messages(_list(data.get("messages"), MAX_BATCH))
        if not messages:
            raise _wrong("an empty run")
        _number(after + len(messages), 1)
        return Run(origin, after, previous, messages, chain(previous, messages))


@dataclass(frozen=True, slots=True)
class PackedRun:
    """A run as it is kept and sent: `text` is the JSON of its `count` messages, a list with
    [time, text] of each, and a 1 behind the text of one that was heard."""

    origin: str
    after: int
    previous: str
    count: int
    text: str

    @staticmethod
    def of(run: Run) -> PackedRun:
        """Pack a run."""
        text = pack(run.messages)
        return PackedRun(run.origin, run.after, run.previous, len(run.messages), text)

    @property
    def end(self) -> int:
        """The sequence number of the last message."""
        return self.after + self.count

    @property
    def messages(self) -> tuple[Entry, ...]:
        """The messages."""
        return unpack(self.text)

    @property
    def size(self) -> int:
        """The bytes of `text`."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


def pack(messages: Iterable[Entry]) -> str:
    """Return the JSON text of messages."""
    return encode([(time, text, 1) if heard else (time, text) for time, text, heard in messages])


def unpack(text: str) -> tuple[Entry, ...]:
    """Return the messages that `pack` has made `text` of."""
    return tuple(Entry(item[0], item[1], len(item) == 3) for item in json.loads(text))


@dataclass(frozen=True, slots=True)
class Have:
    """What the sender durably holds; `last` marks the end of the opening's version vector."""

    have: Vector
    last: bool = False
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Messages:
    """Runs of messages, at most MAX_BATCH messages in all."""

    runs: tuple[Run, ...]
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Prune:
    """The origins that the sender gets from elsewhere; those in `refused` it does not take from
    this peer at all, for the two hold different contents of them."""

    origins: tuple[str, ...]
    refused: tuple[str, ...] = ()
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Graft:
    """origin -> the position after which the sender wants it shipped."""

    after: Mapping[str, int]
    have: Vector = field(default_factory=dict)
    ack: bool = False


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
    else:
        data["last"] = frame.last
    if frame.have or isinstance(frame, Have):
        data["have"] = frame.have
    if frame.ack:
        data["ack"] = True
    return encode(data)


def messages_to_json(runs: Iterable[PackedRun], have: Vector, ack: bool) -> str:
    """Return the JSON text of a MESSAGES frame."""
    texts = [
        f'{{"origin":"{run.origin}","after":{run.after},"previous":"{run.previous}",'
        f'"messages":{run.text}}}'
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
    told = _table(data, "have", required=kind == "HAVE")
    have = {_origin(origin): _claim(entry) for origin, entry in told}
    ack = _flag(data, "ack")
    if kind == "HAVE":
        return Have(have, _flag(data, "last"), ack)
    if kind == "MESSAGES":
        runs = tuple(Run.from_dict(item) for item in _list(data.get("runs"), MAX_BATCH))
        if sum(len(run.messages) for run in runs) > MAX_BATCH:
            raise _wrong(f"more than {MAX_BATCH} messages in a frame")
        return Messages(runs, have, ack)
    if kind == "PRUNE":
        origins = _list(data.get("origins"), MAX_ENTRIES)
        refused = _list(data.get("refused", []), MAX_ENTRIES)
        return Prune(tuple(map(_origin, origins)), tuple(map(_origin, refused)), have, ack)
    if kind == "GRAFT":
        after = _table(data, "after", required=True)
        return Graft({_origin(origin): _number(n, 0) for origin, n in after}, have, ack)
    raise _wrong("not a frame of the log")


def _wrong(reason: str) -> ProtocolError:
    return ProtocolError(PROTOCOL_ERROR, f"a frame about the log: {reason}")


def _table(data: Mapping[str, Any], name: str, *, required: bool) -> Iterable[tuple[Any, Any]]:
    table = data.get(name)
    if table is None and not required:
        return ()
    if not isinstance(table, dict):
        raise _wrong(f"{name} is not an object")
    if len(table) > MAX_ENTRIES:
        raise _wrong(f"more than {MAX_ENTRIES} entries in {name}")
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


def _claim(value: Any) -> tuple[int, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong("an entry of have is not [number, hash]")
    return _number(value[0], 1), _hash(value[1])


def _messages(items: list[Any]) -> tuple[Entry, ...]:
    """Check messages, quickly where they are as almost all are: not heard, none near the limit."""
    if {list} == set(map(type, items)) and {2} == set(map(len, items)):
        times = [item[0] for item in items]
        texts = [item[1] for item in items]
        if {int} == set(map(type, times)) and {str} == set(map(type, texts)):
            short = 4 * max(map(len, texts)) <= MAX_MESSAGE_BYTES
            if short and min(times) >= 0 and max(times) <= MAX_NUMBER and _encodable(texts):
                return tuple(map(Entry, times, texts))
    return tuple(map(_message, items))


def _encodable(texts: list[str]) -> bool:
    """Return whether UTF-8 can hold all the texts."""
    try:
        "".join(texts).encode()  # a lone surrogate stays one, whatever comes before it
    except UnicodeEncodeError:
        return False
    return True


def _message(value: Any) -> Entry:
    if not isinstance(value, list) or len(value) not in (2, 3):
        raise _wrong("a message is not [time, text]")
    time, text = _number(value[0], 0), value[1]
    if not isinstance(text, str):
        raise _wrong("a text is not a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _wrong("a text with a lone surrogate") from None
    if size > MAX_MESSAGE_BYTES:
        raise _wrong(f"a message over {MAX_MESSAGE_BYTES} bytes")
    if len(value) == 3 and value[2] != 1:
        raise _wrong("a mark of a hearing that is not 1")
    return Entry(time, text, len(value) == 3)
