"""The frames that keep the logs of our own nodes equal.

    SUMS      fingerprints of the sender's version vector (see core/fingerprints.py): of all of it
              when the link opens and now and then; of its branches or leaves where they differ.
    LOOK      "Which origins in these leaves do you hold otherwise than I do?" The answer is a HAVE.
    HAVE      what the sender has on disk of each origin: the number of messages, the running hash
              over them and the signature of both. Most often these are changes. The answer to a
              LOOK for all leaves may hold all of the sender's origins; then it is marked `last`.
    MESSAGES  runs of messages. A run is a piece of the log of one origin, without a gap; it ends
              with a signature.
    PRUNE     "I get these origins from elsewhere: announce them by HAVE instead."
    FORK      "Our histories of an origin differ. This is mine: send me a run of yours, from the
              last of these marks on that you hold, too." Or the answer: "They do not differ."
    GRAFT     "Send me these origins, from these positions on."

Any of them may carry `have`, which saves a frame, and `ack`: a commit of the sender waits for
copies, so the receiver announces at once when it has what the frame names on disk.

`to_json` writes a frame; `from_dict`, which trusts nothing, reads one that is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ..codes import MAX_NUMBER
from ..settings import (
    MAX_BATCH,
    MAX_ENTRY_BYTES,
    MAX_FORK_MARKS,
    MAX_LOOKED_LEAVES,
    MAX_LOOKED_MARKS,
    MAX_ORIGINS_NAMED,
    MAX_SHIPPED,
)
from .cutoffs import MAX_CUTOFF, NO_HISTORY, is_cutoff
from .entries import NOTICE, Entry, chain, encode, read_entry, size_of
from .fields import list_of, number, origin_or_cutoff, running_hash, wrong
from .fields import origin as origin_of
from .fields import signature as signature_of
from .forks import Branch

BRANCHES = 64
"""Branches of fingerprints (see core/fingerprints.py), and leaves of each."""
LEAVES = BRANCHES * BRANCHES
MARK = 12
"""Hexadecimal digits of a sum or a mark."""
SALT = 16
"""Hexadecimal digits of a salt."""
_MARKS = re.compile(rf"(?:[0-9a-f]{{{MARK}}})*")
_TOTAL = re.compile(r"[0-9a-f]{32}")
_SALT = re.compile(rf"[0-9a-f]{{{SALT}}}")

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


@dataclass(frozen=True, slots=True)
class Run:
    """Messages `after`+1 ... `end` of one origin; `previous` is the running hash before them.

    `hashes`, the running hash after each entry, does not travel: the receiver works it out, a
    sender may leave it empty. `signature` is that of the head at the end; what this node commits
    has none before the writer has signed it. `skipped` messages before it are missing here, since
    no peer keeps them.
    """

    origin: str
    after: int
    previous: str
    entries: tuple[Entry, ...]
    hashes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    signature: str = NO_SIGNATURE
    skipped: int = field(default=0, compare=False)
    count: int = field(init=False, compare=False, repr=False)  # of the messages
    end: int = field(init=False, compare=False, repr=False)  # the number of the last one

    def __post_init__(self) -> None:
        count = sum([entry.length for entry in self.entries])
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "end", self.after + count)

    @property
    def newest(self) -> int:
        """The newest time of the entries, 0 with none."""
        return max([entry.time for entry in self.entries], default=0)

    @property
    def hash(self) -> str:
        """The running hash after the last message."""
        return self.hashes[-1] if self.hashes else self.previous

    @property
    def head(self) -> Head:
        """What an origin holds that ends with this run, which may be empty."""
        return Head(self.end, self.hash, self.signature)

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
            raise wrong("a run is not an object")
        origin, after = origin_of(data.get("origin")), number(data.get("after"), 0)
        first = "" if after else Branch.of(origin).first
        if after == 0 and not first and data.get("previous") != NO_HASH:
            raise wrong("a hash before the first message")
        has_none = after == 0 and data.get("previous") == NO_HASH
        previous = NO_HASH if has_none else running_hash(data.get("previous"))
        entries = tuple(map(read_entry, list_of(data.get("entries"), MAX_BATCH)))
        if not entries:
            raise wrong("an empty run")
        if len(entries) > 1:
            if any(entry.kind == NOTICE for entry in entries[:-1]):
                raise wrong("a notice inside of a run")  # where it has no signature of its own
            if sum(map(size_of, entries)) > MAX_ENTRY_BYTES:
                # It is shipped on whole, for it has one signature: so it must fit into our frames.
                raise wrong(f"a run of several entries with over {MAX_ENTRY_BYTES} bytes of text")
        signature = signature_of(data.get("signature"))
        run = Run(origin, after, previous, entries, chain(previous, entries), signature)
        number(run.end, 1)
        if first and run.hashes[0] != first:
            raise wrong("the first entry of a branch is not the one that its name says")
        return run


@dataclass(slots=True)  # one for each entry; a frozen one takes three times as long to make
class PackedRun:
    """A run as it is sent: `text` is the JSON of its entries, without the brackets around them, and
    `newest` the time of the last one. `notice`: it ends with a notice."""

    origin: str
    after: int
    previous: str
    count: int
    text: str
    newest: int
    signature: str = NO_SIGNATURE
    notice: bool = False

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
        return tuple(map(read_entry, json.loads(f"[{self.text}]")))


@dataclass(slots=True)
class Have:
    """What the sender has on disk. `last`: this is all. `clock` is what the sender's clock shows
    (ms since the epoch), None if it does not say; it is set when the frame is sent.

    `floors`: of these origins it keeps nothing up to that number any more, so it can ship only what
    follows. In an answer to LOOK `lacks` has the indexes of those of its marks that the sender does
    not have. The answer goes up to the key `next`, 0: it is complete."""

    have: Vector
    last: bool = False
    ack: bool = False
    clock: int | None = None
    next: int = 0
    lacks: tuple[int, ...] | None = None
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Sums:
    """Fingerprints of the sender's version vector: the `total` over its `origins`, which have so
    many `messages`; those of its `branches`, or of the leaves of some branches. `clock` is what the
    sender's clock shows. It keeps no message from before `since` (ms since the epoch); None: as it
    said before."""

    total: str
    origins: int
    messages: int
    branches: str = ""
    leaves: Mapping[int, str] | None = None
    clock: int | None = None
    have: Vector = field(default_factory=dict)
    ack: bool = False
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The sender wants to know which origins in these `leaves`, with keys from `start` up to
    `end`, the receiver holds otherwise. `known` are the marks of what the sender holds there, made
    with the `salt`."""

    leaves: Sequence[int]
    start: int
    end: int
    known: tuple[str, ...]
    salt: str = "0" * SALT
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Messages:
    """Runs of messages, at most MAX_SHIPPED in all."""

    runs: tuple[Run, ...]
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Prune:
    """The origins that the sender gets from elsewhere."""

    origins: tuple[str, ...]
    have: Vector = field(default_factory=dict)
    ack: bool = False


@dataclass(frozen=True, slots=True)
class Graft:
    """origin -> the position after which the sender wants it shipped."""

    after: Mapping[str, int]
    have: Vector = field(default_factory=dict)
    ack: bool = False


Mark: TypeAlias = tuple[int, str]
"""A place in a history: the number of a message, and the running hash after it."""


@dataclass(frozen=True, slots=True)
class Fork:
    """What the sender holds of an `origin` that the two sides hold otherwise (see forks.py): its
    `head`, and `marks` of its history. These do not travel in an answer that the histories `agree`;
    it has the running hash of the head that was shown. A question has none (None).

    Of a question, `above` is where the sender's marks begin, and `common` is the last mark that the
    receiver holds, too; neither travels.
    """

    origin: str
    head: Head
    marks: Sequence[Mark] = ()
    agree: str | None = None
    have: Vector = field(default_factory=dict)
    ack: bool = False
    above: int = field(default=0, compare=False)
    common: int = field(default=0, compare=False)


LogFrame: TypeAlias = Have | Messages | Prune | Graft | Sums | Look | Fork
LOG_FRAMES = (Have, Messages, Prune, Graft, Sums, Look, Fork)
LOG_TYPES = ("HAVE", "MESSAGES", "PRUNE", "GRAFT", "SUMS", "LOOK", "FORK")


def to_json(frame: LogFrame) -> str:
    """Return the JSON text of a frame."""
    if isinstance(frame, Messages):
        return messages_to_json(map(PackedRun.of, frame.runs), frame.have, frame.ack)
    data: dict[str, Any] = {"type": type(frame).__name__.upper()}
    if isinstance(frame, Prune):
        data["origins"] = frame.origins
    elif isinstance(frame, Fork):
        data["origin"] = frame.origin
        if frame.head.n:
            data["head"] = frame.head
        data |= {"marks": frame.marks} if frame.agree is None else {"agree": frame.agree}
    elif isinstance(frame, Graft):
        data["after"] = frame.after
    elif isinstance(frame, Look):
        data |= {"leaves": spans(frame.leaves), "start": frame.start, "end": frame.end}
        data |= {"known": "".join(frame.known), "salt": frame.salt}
    elif isinstance(frame, Sums):
        data["all"] = frame.total, frame.origins, frame.messages
        if frame.branches:
            data["branches"] = frame.branches
        if frame.leaves is not None:
            data["leaves"] = frame.leaves
        if frame.since is not None:
            data["since"] = frame.since
    else:
        if frame.last:
            data["last"] = True
        if frame.floors:
            data["floors"] = frame.floors
        if frame.lacks is not None:
            data["lacks"] = frame.lacks
        if frame.next:
            data["next"] = frame.next
    if isinstance(frame, (Have, Sums)) and frame.clock is not None:
        data["clock"] = frame.clock
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
    clock = data.get("clock")
    clock = clock if clock is None else number(clock, 0)
    if kind == "HAVE":
        lacks = _numbers(data["lacks"], MAX_LOOKED_MARKS) if "lacks" in data else None
        floors = _positions(data, "floors", 1, required=False)
        after = number(data.get("next", 0), 0)
        return Have(have, _flag(data, "last"), ack, clock, after, lacks, floors)
    if kind == "MESSAGES":
        runs = tuple(map(Run.from_dict, list_of(data.get("runs"), MAX_BATCH)))
        if sum([run.count for run in runs]) > MAX_SHIPPED:
            raise wrong(f"more than {MAX_SHIPPED} messages in a frame")
        return Messages(runs, have, ack)
    if kind == "PRUNE":
        origins = list_of(data.get("origins"), MAX_ORIGINS_NAMED)
        return Prune(tuple(map(origin_of, origins)), have, ack)
    if kind == "GRAFT":
        return Graft(_positions(data, "after", 0, required=True), have, ack)
    if kind == "FORK":
        return _fork(data, have, ack)
    if kind == "SUMS":
        return _sums(data, clock, have, ack)
    if kind == "LOOK":
        leaves = _leaves(data.get("leaves"))
        start, end = number(data.get("start"), 0), number(data.get("end"), 0)
        salt, known = data.get("salt"), _marks(data.get("known"), MAX_LOOKED_MARKS)
        if not isinstance(salt, str) or not _SALT.fullmatch(salt):
            raise wrong("not a salt")
        return Look(leaves, start, end, known, salt, have, ack)
    raise wrong("not a frame of the log")


def _table(data: Mapping[str, Any], name: str, *, required: bool) -> Iterable[tuple[Any, Any]]:
    table = data.get(name)
    if table is None and not required:
        return ()
    if not isinstance(table, dict):
        raise wrong(f"{name} is not an object")
    if len(table) > MAX_ORIGINS_NAMED:
        raise wrong(f"more than {MAX_ORIGINS_NAMED} entries in {name}")
    return table.items()


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise wrong(f"{name} is neither true nor false")
    return value


def _numbers(value: Any, limit: int, below: int = MAX_NUMBER) -> tuple[int, ...]:
    numbers = tuple(number(item, 0) for item in list_of(value, limit))
    if any(item >= below for item in numbers):
        raise wrong("not a number in its range")
    return numbers


def spans(numbers: Sequence[int]) -> list[int]:
    """Return the first and the last of each row of successive numbers, all in one list."""
    if isinstance(numbers, range):
        return [numbers[0], numbers[-1]]
    ends: list[int] = []
    for item in numbers:
        if ends and item == ends[-1] + 1:
            ends[-1] = item
        else:
            ends += [item, item]
    return ends


def _leaves(value: Any) -> Sequence[int]:
    """Check spans of leaves."""
    ends = _numbers(value, 2 * MAX_LOOKED_LEAVES, LEAVES)
    if ends == (0, LEAVES - 1):
        return range(LEAVES)
    pairs = list(zip(ends[::2], ends[1::2], strict=False))
    leaves = tuple(leaf for first, last in pairs for leaf in range(first, last + 1))
    if len(ends) % 2 or tuple(sorted(set(leaves))) != leaves:
        raise wrong("leaves are not in their order")
    return leaves


def _marks(value: Any, limit: int, least: int = 0) -> tuple[str, ...]:
    """Check marks or sums, MARK digits each, joined."""
    if not isinstance(value, str) or not _MARKS.fullmatch(value):
        raise wrong("no sums")
    if not least <= len(value) // MARK <= limit:
        raise wrong("too many sums, or too few")
    return tuple(value[at : at + MARK] for at in range(0, len(value), MARK))


def _sums(data: Mapping[str, Any], clock: int | None, have: Vector, ack: bool) -> Sums:
    total = list_of(data.get("all"), 3)
    if len(total) < 3 or not isinstance(total[0], str) or not _TOTAL.fullmatch(total[0]):
        raise wrong("no sum of all")
    branches = data.get("branches", "")
    if branches != "":
        _marks(branches, BRANCHES, BRANCHES)
    leaves = None
    if "leaves" in data:
        table = data["leaves"]
        if not isinstance(table, dict) or not {*table} <= {*map(str, range(BRANCHES))}:
            raise wrong("leaves of no branches")
        for value in table.values():
            _marks(value, BRANCHES, BRANCHES)
        leaves = {int(branch): value for branch, value in table.items()}
    origins, messages = number(total[1], 0), number(total[2], 0)
    since = number(data["since"], 0) if "since" in data else None
    return Sums(total[0], origins, messages, branches, leaves, clock, have, ack, since)


def _fork(data: Mapping[str, Any], have: Vector, ack: bool) -> Fork:
    head = _head(data["head"]) if "head" in data else NOTHING_HELD
    if "agree" in data:
        shown = data["agree"]
        shown = NO_HASH if shown == NO_HASH else running_hash(shown)
        return Fork(origin_of(data.get("origin")), head, (), shown, have, ack)
    marks = list_of(data.get("marks"), MAX_FORK_MARKS)
    if not all(isinstance(mark, list) and len(mark) == 2 for mark in marks):
        raise wrong("a mark is not [number, hash]")
    marks = [(number(n, 1), running_hash(running)) for n, running in marks]
    return Fork(origin_of(data.get("origin")), head, marks, None, have, ack)


def _positions(data: Mapping[str, Any], name: str, least: int, *, required: bool) -> dict[str, int]:
    """Check a table of numbers of messages by origin."""
    table = _table(data, name, required=required)
    return {origin_of(origin): number(n, least) for origin, n in table}


def _vector(data: Mapping[str, Any], name: str, *, required: bool) -> Vector:
    heads: dict[str, Head] = {}
    for origin, value in _table(data, name, required=required):
        head = heads[origin_or_cutoff(origin)] = _head(value)
        if is_cutoff(origin) and (head.hash != NO_HISTORY or head.n > MAX_CUTOFF):
            raise wrong("a cutoff with a hash, or too late")
    return heads


def _head(value: Any) -> Head:
    if not isinstance(value, list) or len(value) != 3:
        raise wrong("a head is not [number, hash, signature]")
    return Head(number(value[0], 1), running_hash(value[1]), signature_of(value[2]))
