"""The bodies of requests: where they end, where they are kept, and the messages in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from itertools import repeat
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, Protocol

from ..errors import InputError
from ..node.intake import Draft
from ..node.keys import check_key
from ..settings import HTTP_BODY_IN_MEMORY, HTTP_MAX_LINE, HTTP_READ, LAST_MOMENT
from ..wire.entries import SOURCE


class Failure(NamedTuple):
    """Why a request is refused that is not read to its end, or not kept."""

    code: int
    body: str  # a sentence


LONG_CHUNK_HEAD = Failure(400, "the size of a chunk, or the trailer, is too long")


def check_framing(head: bytes, version: str) -> None:
    """Raise InputError if two readers could disagree on where the request ends.

    `head` is the request line and the header lines.
    """
    lines = head.lower().split(b"\r\n")[1:]
    if not any(line.startswith(b"transfer-encoding") for line in lines):
        return
    fields = [line.partition(b":") for line in lines]
    names = [name for name, _, _ in fields]
    codings = [value.strip(b" \t") for name, _, value in fields if name == b"transfer-encoding"]
    folded = any(line.startswith((b" ", b"\t")) for line in lines)
    if version != "1.1" or b"content-length" in names or folded or codings != [b"chunked"]:
        raise InputError(
            "a body has either a Content-Length or one Transfer-Encoding: chunked, not both"
        )


def sentence(error: ValueError) -> str:
    """Say why the head of a request cannot be read."""
    return str(error) if isinstance(error, InputError) else "the request cannot be read"


class Body:
    """Keeps a body as it arrives, as waitress's own buffers do: a large one in a file.

    Bytes beyond `room` are counted, and not kept. If the file cannot be written, it is closed; the
    rest of the body is still read, since a client that is cut off gets no answer.
    """

    def __init__(self, room: int, directory: str | None) -> None:
        """`directory` is where the file is made; None: the system's temporary directory."""
        self.room = room
        self._directory = directory
        self._length = 0
        self._file: IO[bytes] = BytesIO()
        self._failure = ""

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > self.room or self._failure:
            return
        try:
            if isinstance(self._file, BytesIO) and self._length > HTTP_BODY_IN_MEMORY:
                begun, self._file = self._file, self._spool()
                self._file.write(begun.getvalue())
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def seal(self) -> Failure | None:
        """End the body; return why it could not be kept."""
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)
        if not self._failure:
            return None
        return Failure(
            507,
            f"the body could not be kept while it arrived ({self._failure}), and nothing of it is "
            "stored; send smaller pieces, or make room on the disk of the data directory",
        )

    def getfile(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        with suppress(OSError):  # what is not written yet could not be
            self._file.close()

    def _spool(self) -> IO[bytes]:
        return TemporaryFile(dir=self._directory)

    def _fail(self, error: OSError) -> None:
        self._failure = error.strerror or str(error)
        self.close()
        self._file = BytesIO()


class Readable(Protocol):
    """A body, as WSGI has it."""

    def read(self, size: int, /) -> bytes: ...


def message_of(body: bytes, topic: str, key: str) -> tuple[str, str, str]:
    """Return the text, the topic and the key of a message, {"data": text, "topic": topic, "key":
    key}; the latter are `topic` and `key` if the object has none. Raises InputError."""
    value = _json(body)
    return _member(value, "data"), _topic(value, topic), _key(value, key)


def text_of(body: bytes, name: str) -> str:
    """Return the text of a JSON object {name: text}; raises InputError."""
    return _member(_json(body), name)


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; raises InputError."""
    value = _json(body)
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    return value


def _member(value: Any, name: str) -> str:
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError(f'the body must be a JSON object: {{"{name}": "text"}}')
    return text


class Lines:
    """The messages of an NDJSON body, one per line: a JSON string, or an object as for one message.

    Empty lines are skipped. With `held`, what was exported is imported: objects whose `id` is held,
    and lines that are no shown messages, are skipped; the others have their id as their key, and
    the time and the node in it as their source. Iterating raises InputError at
    the first bad line. `line` is the number of the last line that was read, from 1; `skipped` is
    the number of skipped objects.
    """

    def __init__(
        self, body: Readable, topic: str, key: str, held: Callable[[str], bool] | None = None
    ) -> None:
        """`topic` is that of the lines that name none. Lines without a key have `key` and their
        number; "": they have none."""
        self._body = body
        self._topic = topic
        self._key = key
        self._held = held
        self.line = 0
        self.skipped = 0

    def __iter__(self) -> Iterator[Draft]:
        rest = b""
        while data := self._body.read(HTTP_READ):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) >= HTTP_MAX_LINE:
                lines.append(rest)  # will be refused: too long
            yield from self._messages(lines)
        yield from self._messages([rest])

    def _messages(self, lines: list[bytes]) -> Iterator[Draft]:
        strings, topic = _strings(lines), self._topic
        if strings and not self._key:
            for string in strings:
                self.line += 1
                yield string, topic, "", ""
            return
        for line, text in zip(lines, strings or repeat(None), strict=False):
            self.line += 1
            key = f"{self._key}\n{self.line}" if self._key else ""  # no key can be like that
            if text is not None:
                yield text, self._topic, key, ""
            elif len(line) >= HTTP_MAX_LINE:
                raise InputError("it is longer than any message can be")
            elif line.strip():
                value = _json(line)
                fields = value if self._held and isinstance(value, dict) else {}
                is_shown = fields.get("hidden") is not True and "erased" not in fields
                if not is_shown or set(fields) == {"exported"}:
                    continue
                text = _text(value)
                id = fields.get("id")
                if isinstance(id, str) and id:  # all ids of messages are texts
                    if self._held and self._held(id):
                        self.skipped += 1
                        continue
                    key = f"\n{id}"
                yield text, _topic(value, self._topic), _key(value, key), source_of(fields)


def _strings(lines: list[bytes]) -> list[str] | None:
    """Return the texts quickly if each line is a JSON string; else None."""
    try:
        # A JSON string cannot contain the end of a line. So if there are as many strings as lines,
        # and nothing else, each line is one string.
        values = json.loads(b"[%b]" % b",\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return values if len(values) == len(lines) and {str} == set(map(type, values)) else None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("it is not valid JSON (UTF-8)") from None


def _topic(value: Any, default: str) -> str:
    topic = value.get("topic", default) if isinstance(value, dict) else default
    if not isinstance(topic, str):
        raise InputError('the topic must be a text: {"data": "text", "topic": "topic"}')
    return topic


def _key(value: Any, default: str) -> str:
    if not isinstance(value, dict) or "key" not in value:
        return default
    check_key(value["key"])
    return str(value["key"])


def source_of(fields: Mapping[str, Any]) -> str:
    """Return the source of a message that was exported (see wire/entries.py), "" if that is not
    known, or beyond the year 9999. Of one that was imported before, it is the same as there."""
    if "source" in fields:
        source = fields["source"]
    elif "imported" in fields:
        before = fields["imported"] if isinstance(fields["imported"], dict) else {}
        source = f"{before.get('time')}:{before.get('node')}"
    else:
        source = f"{fields.get('time')}:{str(fields.get('origin')).partition('-')[0]}"
    fits = isinstance(source, str) and SOURCE.fullmatch(source)
    return source if fits and int(source.partition(":")[0]) <= LAST_MOMENT else ""


def _text(value: Any) -> str:
    text = value.get("data") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InputError('it must be a text, or an object with one: {"data": "text"}')
    return text
