"""An entry of the log: what was committed together, stored and shipped as one.

The running hash of an origin covers of each entry its time, kind, length, topic, source, and the
SHA-256 of its text, the *digest*. So the history can be checked without the text, and a text can be
erased.

Erasing a message is a commit, too: a *notice* in the log of the node that erases it, with the id of
the message as its text. A notice has a signature of its own. Whoever stores it replaces the text by
nothing, and keeps the digest and the *erasure*: where the notice is, and what proves it. So an
erased message can be shipped to nodes that do not have the notice, and nobody can erase a message
without having signed it.

What this gives up: an entry of many messages has one digest. Once one of its messages is erased,
nothing proves the others of that entry any more.

Messages that were imported have a *source*: when they were first committed and by which node, as
whoever imported them says.

On the wire an entry is a list, without what is at its default at the end:

    [time, text, kind, topic, source]             one message, or a notice
    [time, [text, ...], 0, topic, source]         many
    [time, [null, text, ...], kind, topic, source, {"digest": ..., "by": [erasure, ...]}]
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..settings import (
    ENTRY_BYTES,
    ERASURE_BYTES,
    MAX_BATCH,
    MAX_ENTRY_BYTES,
    MAX_ERASURES,
    MAX_MESSAGE_BYTES,
    MAX_TOPIC,
)
from .fields import digest, list_of, number, origin, running_hash, signature, wrong

PLAIN, HEARD, NOTICE = range(3)
"""The kinds of entries: messages of programs and people; a copy of a commit of an original node;
and a notice, which is no message."""

TOPIC = re.compile(rf"[A-Za-z0-9._/-]{{1,{MAX_TOPIC}}}")
"""The form of a topic; a message may also have none, "" """

SOURCE = re.compile(r"[0-9]{1,16}:[0-9a-f]{32}")
"""The form of a source, the time (ms since the epoch) and the id of a node; "" is none."""

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns the JSON text of a value, without spaces."""


class Erasure(NamedTuple):
    """Message `seq` of its origin was erased at `time` by the notice `origin`:`after`+1.

    `previous` is the running hash before that notice, and `signature` proves it.
    """

    seq: int
    origin: str
    after: int
    previous: str
    time: int
    signature: str

    def hash(self, target: str) -> str:
        """Return the running hash after the notice, which erases the message with the id
        `target`."""
        return chain(self.previous, [Entry(self.time, target, NOTICE)])[0]


UNNAMED = Erasure(0, "", 0, "", 0, "")
"""In the place of an erasure beyond MAX_ERASURES."""


class Entry(NamedTuple):
    """What was committed together at `time` (ms since the epoch).

    Of one message `text` is its text. Of more, `length`, it is the JSON of a list of their texts,
    as `Entry.of` makes it. If messages of it are erased, `erased` is the JSON of the digest and the
    erasures, and there is null in the place of a text; of one message `text` is the digest then.
    """

    time: int
    text: str
    kind: int = PLAIN
    length: int = 1
    topic: str = ""
    erased: str = ""
    source: str = ""

    @staticmethod
    def of(
        time: int, texts: Sequence[str], kind: int = PLAIN, topic: str = "", source: str = ""
    ) -> Entry:
        """Return the entry of one text or more, up to MAX_BATCH and MAX_ENTRY_BYTES."""
        if len(texts) == 1:
            return Entry(time, texts[0], kind, 1, topic, "", source)
        return Entry(time, encode(texts), PLAIN, len(texts), topic, "", source)

    @property
    def texts(self) -> list[str | None]:
        """The texts of the messages; None of an erased one."""
        if self.length > 1:
            return list(json.loads(self.text))
        return [None if self.erased else self.text]

    @property
    def digest(self) -> str:
        """The SHA-256 of the text (64 hex digits), as it was committed."""
        if self.erased:
            return str(json.loads(self.erased)["digest"])
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def erasures(self) -> list[Erasure]:
        """The messages that are erased, and by what."""
        return [Erasure(*item) for item in json.loads(self.erased)["by"]] if self.erased else []

    def erase(self, first: int, erasure: Erasure) -> Entry:
        """Return the entry without one of its messages; `first` is the number of the first one.

        Two nodes may erase one message; then the earlier notice counts. Of more than MAX_ERASURES
        the first are named. So it does not matter in which order the notices come.
        """
        texts, by = self.texts, {item.seq: item for item in self.erasures}
        known = by.get(erasure.seq, erasure)
        by[erasure.seq] = min(known, erasure, key=lambda item: (item.time, item.origin, item.after))
        texts[erasure.seq - first] = None
        found = {"digest": self.digest, "by": sorted(by.values())[:MAX_ERASURES]}
        text = encode(texts) if self.length > 1 else self.digest
        return self._replace(text=text, erased=encode(found))

    def shifted(self, by: int) -> Entry:
        """Return the entry when its messages have numbers that are smaller by so much."""
        if not self.erased:
            return self
        about = json.loads(self.erased)
        erasures = [[seq - by, *rest] for seq, *rest in about["by"]]
        return self._replace(erased=encode({**about, "by": erasures}))

    def pack(self) -> str:
        """Return the JSON text of the entry as it is on the wire."""
        if self.erased:
            texts = self.text if self.length > 1 else "[null]"
            about = f'{self.kind},"{self.topic}","{self.source}",{self.erased}'
            return f"[{self.time},{texts},{about}]"
        text = self.text if self.length > 1 else encode(self.text)
        if self.source:
            return f'[{self.time},{text},{self.kind},"{self.topic}","{self.source}"]'
        kind = f",{self.kind}" if self.kind or self.topic else ""
        topic = f',"{self.topic}"' if self.topic else ""
        return f"[{self.time},{text}{kind}{topic}]"


def size_of(entry: Entry) -> int:
    """Return what an entry takes of the limit of a run, in bytes: the texts that are left, or what
    the erasures may come to take if they are more. So erasing makes no run longer."""
    text = entry.text
    if entry.erased:
        text = encode([left for left in entry.texts if left is not None])
    size = len(text) if text.isascii() else len(text.encode())
    least = _SMALLEST if entry.length == 1 else smallest(entry.length)
    return size if size > least else least


def smallest(length: int) -> int:
    """Return the least that an entry of so many messages takes of the limit of a run.

    The largest frame has six times the limit of a run, since JSON may escape each byte of a text by
    six. That leaves room for the erasures of all messages, and for topics."""
    return ENTRY_BYTES + ERASURE_BYTES * min(length, MAX_ERASURES)


_SMALLEST = smallest(1)  # by far the most


def chain(previous: str, entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the running hash (32 hex digits) after each of `entries`, where it was `previous`
    before them. Pure: no lock needed."""
    sha256 = hashlib.sha256
    hashes = []
    for entry in entries:
        time, text, kind, length, topic, erased, source = entry
        inner = entry.digest if erased else sha256(text.encode()).hexdigest()
        data = f"{previous} {time} {kind} {length} {topic} {source} {inner}".encode()
        previous = sha256(data).hexdigest()[:32]
        hashes.append(previous)
    return tuple(hashes)


def read_entry(value: Any) -> Entry:
    """Check an entry as it is on the wire. Raises ProtocolError."""
    if not isinstance(value, list) or not 2 <= len(value) <= 6:
        raise wrong("an entry is not [time, text]")
    time, texts, kind, topic, source = number(value[0], 0), value[1], PLAIN, "", ""
    several = isinstance(texts, list)
    if len(value) > 2:
        kind = value[2]
        if type(kind) is not int or kind not in (PLAIN, HEARD, NOTICE):
            raise wrong("an entry of an unknown kind")
        if len(value) > 3:
            topic = value[3]
            if topic != "" and (not isinstance(topic, str) or not TOPIC.fullmatch(topic)):
                raise wrong("not a topic")
            if len(value) > 4:
                source = value[4]
                fits = isinstance(source, str) and (not source or SOURCE.fullmatch(source))
                if not fits or (source and kind):
                    raise wrong("not a source")
    if len(value) == 6:
        return _erased(time, texts, kind, topic, value[5], source)
    if several and not 2 <= len(texts) <= MAX_BATCH:
        raise wrong(f"an entry of several texts has 2 to {MAX_BATCH}")
    if several and kind:
        raise wrong("several texts of another kind than 0")
    texts = texts if several else [texts]
    _check_texts(texts)
    return Entry.of(time, texts, kind, topic, source)


def _check_texts(texts: list[Any]) -> None:
    if {str} != set(map(type, texts)):
        raise wrong("a text is not a string")
    try:
        size = len("".join(texts).encode())  # a lone surrogate stays one, whatever is before it
    except UnicodeEncodeError:
        raise wrong("a text with a lone surrogate") from None
    if size > MAX_ENTRY_BYTES:
        raise wrong(f"an entry over {MAX_ENTRY_BYTES} bytes")
    if size > MAX_MESSAGE_BYTES and max(len(text.encode()) for text in texts) > MAX_MESSAGE_BYTES:
        raise wrong(f"a message over {MAX_MESSAGE_BYTES} bytes")


def _erased(time: int, texts: Any, kind: int, topic: str, about: Any, source: str) -> Entry:
    """Check an entry with erased messages. Whether the erasures are genuine is checked with the
    signatures of the run."""
    texts = list_of(texts, MAX_BATCH)
    if kind == NOTICE or (kind and len(texts) != 1):
        raise wrong("an erased entry of a wrong kind")
    left = [text for text in texts if text is not None]
    if len(left) == len(texts):
        raise wrong("an erased entry has all its texts")
    if left:
        _check_texts(left)
    if not isinstance(about, dict):
        raise wrong("an erased entry does not say by what")
    by = sorted(map(_erasure, list_of(about.get("by"), MAX_ERASURES)))
    if len(by) != min(len(texts) - len(left), MAX_ERASURES):
        raise wrong("an erased entry does not say by what")
    inner = digest(about.get("digest"))
    text = encode(texts) if len(texts) > 1 else inner
    return Entry(time, text, kind, len(texts), topic, encode({"digest": inner, "by": by}), source)


def _erasure(value: Any) -> Erasure:
    if not isinstance(value, list) or len(value) != 6:
        raise wrong("not an erasure")
    seq, name, after, previous, time, signed = value
    after = number(after, 0)
    before = running_hash(previous) if after else ""
    if not after and previous != "":
        raise wrong("a hash before the first message")
    return Erasure(number(seq, 1), origin(name), after, before, number(time, 0), signature(signed))
