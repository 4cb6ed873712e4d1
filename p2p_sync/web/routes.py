"""What a route is, what it is asked, and what it answers; app.py gives the routes to Flask."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

from ..disk.wanted import ALL, Wanted
from ..errors import Busy, InputError
from ..settings import HTTP_WAITING, LEAST_NODE
from ..wire.frames import check_topic
from .answers import EVENTS_TYPE, TEXT_TYPE, Answer, Head
from .bodies import Readable
from .live import Live
from .query import names, parameter

FILTERS = "topic node since until"
"""The parameters that choose messages."""
_NODE = re.compile(f"[0-9a-f]{{{LEAST_NODE},32}}")
_MOMENT = re.compile("[0-9]{1,16}")
DESCRIPTION = "see /api/v1/openapi.json"


class Stream(NamedTuple):
    """An answer that is sent while it is made. `end` is called once, when it is over."""

    pieces: Iterable[str]
    kind: str  # its media type
    end: Callable[[], None]


@dataclass(frozen=True)
class Asked:
    """A request to a route. All methods raise InputError for what is not valid."""

    head: Head
    stream: Readable
    parts: Mapping[str, str] = field(default_factory=dict)  # of the path
    example: str = DESCRIPTION  # a valid request, or where to find one

    @property
    def query(self) -> str:
        """The query string, one character for each byte."""
        return str(self.head["QUERY_STRING"])

    def has_gone(self) -> bool:
        """Return whether nobody waits for the answer any more, as far as the server knows."""
        return bool(self.head.get("waitress.client_disconnected", bool)())

    def body(self) -> bytes:
        """Return the whole body; the guard has limited its size."""
        return self.stream.read(-1)

    def argument(self, name: str, default: str | None = "") -> str:
        """Return a parameter of the query. With the `default` None it has to be there."""
        return parameter(self.query, name, self.example, default)

    def number(self, name: str, default: int, least: int, most: float) -> int:
        """Return a parameter that is a whole number."""
        text = self.argument(name, str(default))
        fits = text.isascii() and text.isdigit() and len(text) < 20
        if not fits or not least <= int(text) <= most:
            raise InputError(
                f"{name} is a whole number from {least} to {most:g}, not {text[:40]!r}"
            )
        return int(text)

    def seconds(self, name: str, default: float, most: float) -> float:
        """Return a parameter that is a time in seconds."""
        text = self.argument(name, f"{default:g}")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise InputError(f"{name} is a number of seconds up to {most:g}, not {text[:40]!r}")
        return value

    @property
    def wants_events(self) -> bool:
        """Whether the client asks for server-sent events rather than for JSON."""
        accepted = str(self.head.get("HTTP_ACCEPT", "")).lower()
        return EVENTS_TYPE in accepted and "json" not in accepted

    @property
    def after(self) -> tuple[str, str]:
        """The cursor that the request names, "" with none, and where it names it. A browser that
        opens a stream again names the place where it was in a header; that counts."""
        if known := self.head.get("HTTP_LAST_EVENT_ID"):
            return str(known), "Last-Event-ID"
        return self.argument("after"), "after"

    def topic(self) -> str:
        """Return the topic that the query names, "" with none."""
        topic = self.argument("topic")
        check_topic(topic)
        return topic

    def wanted(self) -> Wanted:
        """Return which messages the query asks for: FILTERS."""
        node = self.argument("node")
        if node and not _NODE.fullmatch(node):
            raise InputError(
                f"node is the id of a node, or its first {LEAST_NODE} or more digits (0-9, a-f), "
                f"not {node[:40]!r}"
            )
        since = self._moment("since", ALL.since)
        return Wanted(self.topic(), node, since, self._moment("until", ALL.until))

    def _moment(self, name: str, default: int) -> int:
        text = self.argument(name, str(default))
        if not _MOMENT.fullmatch(text) or int(text) > ALL.until:
            raise InputError(
                f"{name} is a time in milliseconds since 1970, as in the messages, such as "
                f"1764000000000, not {text[:40]!r}"
            )
        return int(text)


class Route(NamedTuple):
    """What answers the requests with one method to one path."""

    method: str
    path: str  # with {name} for a part that differs
    answer: Callable[[Asked], Answer | Stream | Live]
    # The parameters that its query may have, separated by spaces. None: others are ignored.
    takes: str | None = ""
    example: str = DESCRIPTION

    def check(self, query: str) -> None:
        """Raise InputError if the query string has a parameter that the route does not know."""
        if self.takes is None:
            return
        known = self.takes.split()
        for name in names(query):
            if name not in known:
                named = ", ".join(known) if known else "none"
                raise InputError(f"there is no parameter {name[:40]!r} here; there are: {named}")


class Slots:
    """Limits the requests that hold a thread for long, so that threads are left for others."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(HTTP_WAITING)

    def take(self) -> None:
        """Take a slot, to be given back by `free`; raises Busy if there is none."""
        if not self._free.acquire(blocking=False):
            raise Busy(f"{HTTP_WAITING} requests wait or stream already; try again in a moment")

    def free(self) -> None:
        """Give a slot back."""
        self._free.release()

    @contextmanager
    def held(self, needed: bool = True) -> Iterator[None]:
        """Hold a slot for the block, if one is needed."""
        if needed:
            self.take()
        try:
            yield
        finally:
            if needed:
                self.free()

    def stream(self, pieces: Iterable[str], kind: str) -> Stream:
        """Return a stream that holds a slot until it ends; raises Busy."""
        self.take()
        return Stream(pieces, kind, self.free)


def json_of(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return an answer in JSON. `value` may hold what the library returns (results.py)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=vars)
    return Answer(status, [("Content-Type", "application/json")], text.encode())


def polled(value: Any) -> Answer:
    """Return an answer in JSON that clients ask for again and again: it has an ETag, so that who
    has it already gets a 304."""
    answer = json_of(value)
    tag = hashlib.sha1(answer.body, usedforsecurity=False).hexdigest()
    return answer._replace(fields=[*answer.fields, ("ETag", f'"{tag}"')])


def moved(path: str) -> Answer:
    """Return a redirect to another path of this node."""
    fields = [("Content-Type", TEXT_TYPE), ("Location", path)]
    return Answer(HTTPStatus.FOUND, fields, f"See {path}\n".encode())
