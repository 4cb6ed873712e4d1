"""An export: all messages of a log in a file, with all that proves them without a node.

Each line is a JSON object, a message, in the shared order: `id`, `origin`, `seq`, `time`, `data`,
`topic` and `source` (see entries.py) if it has them, and `heard` if it is a copy of a commit of an
original node. A copy that nodes do not show is `hidden`; it is part of its origin's log all the
same. So is a `notice`, whose `data` is the id of a message that it erases. A message that is erased
has `erased` in the place of `data`: the place, the time and the signature of that notice; the last
message of its entry has the SHA-256 of the text as `digest` then. Messages that were committed
together are one entry, and each names the number of its first message as `entry`. The last message
of an entry has the running `hash` of its origin, and if the entry is signed (see signing.py)
`signature` and `public_key`. The last line of an export counts the messages: {"exported": number}.

The first messages of an origin may have been deleted. The first entry after these has the running
hash before it, as `previous`.

What a check proves of an origin: its node has signed exactly these messages, from the first (or
from a `previous` on) to the last. It cannot prove that the node has not committed further ones
since, or other ones instead.

Pure. Memory grows with the origins, not with the messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..codes import MAX_NUMBER
from ..errors import ProtocolError
from ..settings import MAX_BATCH, MAX_ENTRY_BYTES, MAX_MESSAGE_BYTES
from .entries import HEARD, NOTICE, PLAIN, SOURCE, TOPIC, Entry, chain, read_entry, size_of
from .entries import encode as to_json
from .fields import ORIGIN
from .forks import Branch
from .frames import check_text
from .identity import KEY, KEY_DIGITS, SIGNATURE, node_of_key
from .logframes import NO_HASH, NO_SIGNATURE, Run
from .signing import are_erased, is_genuine

HIDDEN = b',"hidden":true'
"""Lines of messages that nodes do not show contain this, and no other line does: within a text of
JSON, a quote comes after a backslash."""


_NO_BACKUP = ", so this is no backup, or it is damaged: give a file that `backup` has written"


class Problem(NamedTuple):
    """What is wrong with an export, at which line (from 1; 0: at its end) and message."""

    line: int
    id: str
    text: str


def to_lines(
    origin: str,
    seq: int,
    entry: Entry,
    previous: str,
    signature: str,
    hidden: bool = False,
    gap: bool = False,
) -> Iterator[str]:
    """Yield the lines of an entry whose first message is number `seq`, each with its line end.
    `gap`: messages before it were deleted."""
    by = {erasure.seq: erasure[1:] for erasure in entry.erasures}
    flags = {HEARD: ("heard",), NOTICE: ("notice",)}.get(entry.kind, ())
    about = {"topic": entry.topic, "source": entry.source}
    fields: dict[str, Any] = {name: text for name, text in about.items() if text}
    fields |= dict.fromkeys((*flags, *(("hidden",) if hidden else ())), True)
    fields |= {"entry": seq} if entry.length > 1 else {}
    fields |= {"previous": previous} if gap else {}
    for number, text in enumerate(entry.texts, seq):
        if number == seq + entry.length - 1:
            (fields["hash"],) = chain(previous, [entry])
            if entry.erased:
                fields["digest"] = entry.digest
            if signature:
                fields["signature"] = signature[KEY_DIGITS:]
                fields["public_key"] = signature[:KEY_DIGITS]
        start = _start(origin, number, entry.time)
        if text is None:
            yield f"{start}{_end({'erased': by.get(number, []), **fields})}\n"
        else:
            yield f'{start},"data":{to_json(text)}{_end(fields)}\n'
        fields.pop("previous", None)


def _start(origin: str, seq: int, time: int) -> str:
    """Return the line of a message up to its text."""
    return f'{{"id":"{origin}:{seq}","origin":"{origin}","seq":{seq},"time":{time}'


def _end(fields: dict[str, Any]) -> str:
    """Return the line of a message after its text."""
    return f",{to_json(fields)[1:]}" if fields else "}"


@dataclass(slots=True)
class _Origin:
    """How far the log of one origin has been read."""

    n: int = 0
    hash: str = NO_HASH
    signed: int = 0
    wrong: bool = False  # what comes after the first problem cannot be checked
    texts: list[str | None] = field(default_factory=list)  # of an entry that has begun
    by: list[Any] = field(default_factory=list)  # its erasures
    first: tuple[Any, ...] = ()  # the number of that entry, its time, kind, topic and source
    entries: int = 0  # after the last signed one, and the bytes of their texts
    size: int = 0


class Checker:
    """Checks the lines of one export. Give it all of them, then ask for `end`."""

    def __init__(self) -> None:
        self.messages = self.hidden = self.signatures = 0
        self.deleted = 0  # messages that were deleted before the export
        self._lines = 0
        self._origins: dict[str, _Origin] = {}
        self._last: tuple[int, str, int] = (-1, "", 0)  # the place of the line before
        self._exported: int | None = None
        self.run: Run | None = None  # the entry that the last line has completed
        self._open: _Origin | None = None  # that with the last line, if its entry goes on
        self._end = b""  # of further lines of that entry

    @property
    def origins(self) -> int:
        """How many origins there are."""
        return len(self._origins)

    def line(self, raw: bytes) -> Problem | None:
        """Check the next line; return what is wrong with it."""
        self._lines += 1
        self.run = None
        if self._open and self._goes_on(self._open, raw):
            return None
        self._open = None
        try:
            fields = _decode(raw.decode("utf-8"))
        except UnicodeDecodeError:
            return self._foreign("not UTF-8")
        except (ValueError, RecursionError):
            return self._foreign("not JSON")
        if self._exported is not None:
            return self._problem("", "a line after the last one")
        if isinstance(fields, dict) and set(fields) == {"exported"}:
            self._exported = fields["exported"] if type(fields["exported"]) is int else -1
            return None
        if not _is_message(fields):
            return self._foreign("not a message as an export has them")
        name, seq, time = fields["origin"], fields["seq"], fields["time"]
        origin = self._origins.setdefault(name, _Origin())
        self.messages += 1
        self.hidden += "hidden" in fields
        late, self._last = self._last >= (time, name, seq), (time, name, seq)
        if origin.wrong:
            return None
        text = "not in the shared order" if late else self._follows(origin, fields)
        origin.wrong = bool(text)
        if origin.texts and not text:
            self._open = origin
            same = {name: fields[name] for name in ("topic", "source", "entry") if name in fields}
            self._end = _end(same).encode()
        return self._problem(fields["id"], text) if text else None

    def _goes_on(self, origin: _Origin, raw: bytes) -> bool:
        """Take in a line inside of an entry, which is like the one before but for its number and
        its text; return whether it is. Of large entries nearly all lines are."""
        time, name, seq = self._last
        start = f'{_start(name, seq + 1, time)},"data":'.encode()
        if not (raw.startswith(start) and raw.endswith(self._end)):
            return False
        try:
            text = json.loads(raw[len(start) : -len(self._end)].decode("utf-8"))
        except (ValueError, RecursionError):
            return False
        if check_text(text, MAX_MESSAGE_BYTES) or len(origin.texts) == MAX_BATCH:
            return False
        origin.texts.append(text)
        self.messages += 1
        self._last = time, name, seq + 1
        return True

    def end(self) -> Iterator[Problem]:
        """Yield what is wrong with the export as a whole, after its last line."""
        if not self._lines:
            yield Problem(0, "", f"the file is empty{_NO_BACKUP}")
            return
        for name, origin in self._origins.items():
            end = origin.n + len(origin.texts)
            if not origin.wrong and origin.signed != end:
                text = "no signature covers the messages up to this one, the last of its origin"
                yield Problem(0, f"{name}:{end}", text)
        if self._exported is None:
            yield Problem(0, "", "the last line is missing, which counts the messages: cut short")
        elif self._exported != self.messages:
            text = f"the last line counts {self._exported} messages, there are {self.messages}"
            yield Problem(0, "", text)

    def _foreign(self, text: str) -> Problem:
        """Return the problem that a line is no message, with a hint if that is the first line."""
        return self._problem("", text if self._lines > 1 else text + _NO_BACKUP)

    def _problem(self, name: str, text: str) -> Problem:
        return Problem(self._lines, name, text)

    def _follows(self, origin: _Origin, fields: dict[str, Any]) -> str:
        """Take in the next message of an origin; return why it does not follow, "" if it does."""
        name, seq, time = fields["origin"], fields["seq"], fields["time"]
        due = origin.n + len(origin.texts) + 1
        if "previous" in fields:
            if origin.texts or origin.signed != origin.n:
                return "the messages before those that were deleted do not end with a signature"
            if seq > due:
                self.deleted += seq - due
                origin.n = origin.signed = seq - 1
                origin.hash, due = fields["previous"], seq
            elif seq == 1 and Branch.of(name).first:
                origin.hash = fields["previous"]
            elif seq == due and fields["previous"] != origin.hash:
                return "the hash before it does not fit"
        if seq > due:
            missing = f"message {due} is" if seq == due + 1 else f"messages {due} to {seq - 1} are"
            return f"{missing} missing before it"
        if seq < due:
            return "it was there before"
        kind = HEARD if "heard" in fields else NOTICE if "notice" in fields else PLAIN
        about = fields.get("topic", ""), fields.get("source", "")
        first = fields.get("entry", seq), time, kind, *about
        if origin.texts and first != origin.first:
            return "the entry before it does not end"
        if not origin.texts and first[0] != seq:
            return "its entry does not begin here"
        if len(origin.texts) == MAX_BATCH:
            return "its entry has too many messages"
        origin.first = first
        origin.texts.append(fields.get("data"))
        if fields.get("erased"):
            origin.by.append([seq, *fields["erased"]])
        if "hash" not in fields:
            return "" if "entry" in fields else "its hash is missing"
        try:
            whole = _entry(origin, fields.get("digest"))
        except ProtocolError as error:
            return f"its entry is wrong: {error.reason}"
        signature = (
            fields["public_key"] + fields["signature"] if "public_key" in fields else NO_SIGNATURE
        )
        hashes = chain(origin.hash, [whole])
        run = Run(name, first[0] - 1, origin.hash, (whole,), hashes, signature)
        origin.n, origin.hash, origin.texts, origin.by = seq, hashes[-1], [], []
        origin.entries, origin.size = origin.entries + 1, origin.size + size_of(whole)
        too_much = origin.entries > MAX_BATCH or origin.size > MAX_ENTRY_BYTES
        if origin.entries > 1 and too_much:
            return "too much is between two signatures"
        if kind == NOTICE and not signature:
            return "it erases a message, and is not signed"
        if origin.hash != fields["hash"]:
            return "its hash does not fit: a text or a time of its entry, or the order, was changed"
        if first[0] == 1 and Branch.of(name).first not in ("", origin.hash):
            return "it is not the first entry of the branch in its id"
        if whole.erased and not are_erased(run):
            return "an erasure in its entry is not signed by the node that is named"
        self.run = run
        if not signature:
            return ""
        self.signatures += 1
        if not name.startswith(f"{node_of_key(fields['public_key'])}-"):
            return "its key is not that of the node in its id"
        if not is_genuine(name, run.head):
            return "its signature is wrong: the node has not signed these messages"
        origin.signed, origin.entries, origin.size = seq, 0, 0
        return ""


def _entry(origin: _Origin, digest: str | None) -> Entry:
    """Return the entry that is complete. Raises ProtocolError."""
    _, time, kind, topic, source = origin.first
    texts = origin.texts
    if None in texts:
        return read_entry([time, texts, kind, topic, source, {"digest": digest, "by": origin.by}])
    return read_entry([time, texts if len(texts) > 1 else texts[0], kind, topic, source])


_TEXTS = {
    "hash": re.compile("[0-9a-f]{32}"),
    "previous": re.compile("[0-9a-f]{32}"),
    "signature": re.compile(SIGNATURE),
    "public_key": re.compile(KEY),
    "origin": ORIGIN,
    "digest": re.compile("[0-9a-f]{64}"),
    "topic": TOPIC,
    "source": SOURCE,
}


_FLAGS = {"heard", "hidden", "notice"}
_FIELDS = {"id", "seq", "time", "data", "entry", "erased", *_FLAGS, *_TEXTS}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError if a name comes twice, which programs read differently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


_decode = json.JSONDecoder(object_pairs_hook=_once).decode


def _is_message(fields: Any) -> bool:
    """Return whether a line has the form of a message."""
    if not isinstance(fields, dict) or "origin" not in fields or not fields.keys() <= _FIELDS:
        return False
    is_signed = "public_key" in fields
    if ("signature" in fields) != is_signed or (is_signed and "hash" not in fields):
        return False
    for number in (fields.get("seq"), fields.get("time"), fields.get("entry", 1)):
        if type(number) is not int or not 0 <= number <= MAX_NUMBER:
            return False
    for name, value in fields.items():
        if name in _TEXTS and not (isinstance(value, str) and _TEXTS[name].fullmatch(value)):
            return False
        if name in _FLAGS and value is not True:
            return False
    single = [flag for flag in ("heard", "notice") if flag in fields]
    if len(single) > 1 or (single and "entry" in fields) or ("hidden" in fields and not single):
        return False  # only copies of one message are heard, and only these and notices are hidden
    if "erased" in fields:
        if "data" in fields or "notice" in fields or not isinstance(fields["erased"], list):
            return False
    elif check_text(fields.get("data"), MAX_MESSAGE_BYTES):
        return False
    return bool(fields.get("id") == f"{fields['origin']}:{fields['seq']}")
