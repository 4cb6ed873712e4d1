"""What POST requests bring: one message as JSON, or many as NDJSON, read line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Protocol

from ..errors import InputError
from ..settings import HTTP_MAX_LINE, HTTP_READ


class Readable(Protocol):
    """A body, as WSGI has it."""

    def read(self, size: int) -> bytes: ...


def text_of(body: bytes, name: str) -> str:
    """Return the text of a JSON object {name: text}; raises InputError."""
    value = _json(body)
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError(f'the body must be a JSON object: {{"{name}": "text"}}')
    return text


class Lines:
    """The texts of an NDJSON body, one a line: a JSON string, or an object as for one message.

    Empty lines are passed over, and objects with an `id` of which `held` is true. Iterating raises
    InputError at the first that is wrong; `line` is the number of the last that was read, from 1,
    and `skipped` counts those that are held.
    """

    def __init__(self, body: Readable, held: Callable[[str], bool] = lambda _: False) -> None:
        self._body = body
        self._held = held
        self.line = 0
        self.skipped = 0

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while data := self._body.read(HTTP_READ):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) >= HTTP_MAX_LINE:
                lines.append(rest)  # is refused for its length
            yield from self._texts(lines)
        yield from self._texts([rest])

    def _texts(self, lines: list[bytes]) -> Iterator[str]:
        for line, text in zip(lines, _strings(lines) or repeat(None), strict=False):
            self.line += 1
            if text is not None:
                yield text
            elif len(line) >= HTTP_MAX_LINE:
                raise InputError("it is longer than any message can be")
            elif line.strip():
                value = _json(line)
                text = _text(value)
                if isinstance(value, dict) and self._held(str(value.get("id"))):
                    self.skipped += 1
                else:
                    yield text


def _strings(lines: list[bytes]) -> list[str] | None:
    """Return the texts of lines that are each nothing but a JSON string, quickly; or None."""
    try:
        # A string may not go on behind the end of a line: with as many as there are lines, and
        # nothing else, each line is one.
        values = json.loads(b"[%b]" % b",\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return values if len(values) == len(lines) and {str} == set(map(type, values)) else None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("it is not JSON in UTF-8") from None


def _text(value: Any) -> str:
    text = value.get("data") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InputError('it must be a text, or an object with one: {"data": "text"}')
    return text
