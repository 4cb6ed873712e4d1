"""Streams of the HTTP port: a client of events, and a connection that only notes what it gets."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from p2p_sync.web.places import LOCAL
from tests.harness.support import DEADLINE

EVENTS = "text/event-stream"


class Sent(NamedTuple):
    """A server-sent event."""

    type: str
    id: str
    data: Any


class Stream:
    """The answer to a request for a stream."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.retry = ""

    def block(self) -> dict[str, str]:
        """Return the fields up to the next empty line; a comment has the name "". Raises EOFError
        at the end of the stream."""
        fields: dict[str, str] = {}
        while (line := self.response.readline()) != b"\n":
            if not line:
                raise EOFError
            name, _, value = line.decode().rstrip("\n").partition(":")
            fields[name] = value.removeprefix(" ")
        self.retry = fields.get("retry", self.retry)
        return fields

    def events(self) -> Iterator[Sent]:
        """Yield the events until the stream ends, or it takes too long."""
        began = time.monotonic()
        while time.monotonic() - began < 3 * DEADLINE:
            try:
                fields = self.block()
            except EOFError:
                return
            if "event" in fields:
                yield Sent(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
        raise AssertionError("what is waited for does not come")

    def next(self, *types: str) -> Sent:
        """Return the next event of one of these types; of any with none."""
        return next(event for event in self.events() if not types or event.type in types)


@contextmanager
def streaming(port: int, target: str, **headers: str) -> Iterator[Stream]:
    """A stream of server-sent events. `headers` have `_` for `-`."""
    fields = {"Accept": EVENTS} | {n.replace("_", "-"): value for n, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", target, headers=fields)
        with connection.getresponse() as response:
            assert response.status == 200, response.read()
            assert response.headers["Content-Type"] == EVENTS
            yield Stream(response)
    finally:
        connection.close()


class Sink:
    """The connection of a stream, without a network."""

    group = LOCAL
    connected = True
    unsent = 0

    def __init__(self) -> None:
        self.data = b""
        self.drained: Callable[[], object] = lambda: None

    def push(self, data: bytes) -> None:
        self.data += data

    def end(self) -> None:
        self.data += b"END"
