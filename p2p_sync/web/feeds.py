"""What streams show, and how it is written: as lines of JSON, or as server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..disk.wanted import Wanted
from ..node.fields import fields_of
from ..node.node import Node
from ..settings import API_MAX_LIMIT, HTTP_STREAM_PIECE, HTTP_STREAM_RETRY, NEVER, PAGE_NEWS
from ..wire.frames import Message
from .answers import EVENTS_TYPE, NDJSON_TYPE
from .board import Board
from .live import Form, Piece
from .messages import left_out


def text_of(value: Any) -> str:
    """Return JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=vars)


def sent_event(kind: str, value: Any, id: str = "") -> str:
    """Return a server-sent event. `id` is the place after it; "": the place is the same."""
    place = f"id: {id}\n" if id else ""
    return f"{place}event: {kind}\ndata: {text_of(value)}\n\n"


def kind_of(message: Message) -> str:
    """Return the type of the event that shows a message."""
    return "erased" if message.erased else "message"


LINES = Form(NDJSON_TYPE, b"\n", b"\n")
SENT_EVENTS = Form(EVENTS_TYPE, b"retry: %d\n\n" % (HTTP_STREAM_RETRY * 1000), b":\n\n")


class Messages(NamedTuple):
    """The messages of a node that are wanted, in the order of arrival. A place is the number of an
    arrival."""

    node: Node
    wanted: Wanted
    form: Form

    def look(self, now: float) -> float:
        return NEVER

    def read(self, at: int) -> Piece:
        log = self.node.log
        page = log.arrivals(at, API_MAX_LIMIT, wanted=self.wanted, size=HTTP_STREAM_PIECE)
        lacks = left_out(page)
        texts = [self._missed(lacks)] if lacks else []
        texts += [self._message(message, log.cursor(number)) for number, message in page]
        return Piece("".join(texts).encode(), page.upto, not page.complete)

    def _message(self, message: Message, cursor: str) -> str:
        fields = fields_of(message)
        if self.form is LINES:
            return json.dumps({**fields, "next": cursor}, ensure_ascii=False) + "\n"
        return sent_event(kind_of(message), fields, cursor)

    def _missed(self, lacks: Mapping[str, int]) -> str:
        return json.dumps(lacks) + "\n" if self.form is LINES else sent_event("missed", lacks)


class Events(NamedTuple):
    """The events of a node. A place is the id of an event."""

    node: Node
    form: Form = SENT_EVENTS

    def look(self, now: float) -> float:
        return NEVER

    def read(self, at: int) -> Piece:
        found, last, _ = self.node.events(at)
        cursor = self.node.journal.cursor
        texts = [sent_event("event", event, cursor(event.id)) for event in found]
        return Piece("".join(texts).encode(), last)


class Spot(NamedTuple):
    """A place in the stream of the page."""

    arrival: int  # -1: before the messages that are kept
    event: int
    revision: int = -1  # of the board


class Page(NamedTuple):
    """All that the page of a node shows. A place is a Spot."""

    node: Node
    board: Board
    form: Form = SENT_EVENTS

    def look(self, now: float) -> float:
        return self.board.look(now)

    def read(self, at: Spot) -> Piece:
        if at.revision < 0:  # a page that has just opened
            self.board.look(time.monotonic())
        place = self._id(max(at.arrival, 0), at.event)
        texts = [sent_event(kind, value, place) for kind, value in self.board.since(at.revision)]
        arrival = self._messages(at, texts)
        found, last, _ = self.node.events(at.event)
        for event in found:
            texts.append(sent_event("event", event, self._id(arrival, event.id)))
        revision = self.board.revision
        return Piece("".join(texts).encode(), Spot(arrival, last, revision))

    def _messages(self, at: Spot, texts: list[str]) -> int:
        """Add the messages after a place, if they are few; return the arrival up to which they
        are. Of many the page needs only the newest, and reads these itself."""
        log, newest = self.node.log, self.node.log.last_arrival()
        page = log.arrivals(max(at.arrival, 0), PAGE_NEWS)
        if at.arrival < 0 or page.missed or not page.complete:
            texts.append(sent_event("reload", {}, self._id(newest, at.event)))
            return newest
        messages = [message for _, message in page]
        spreads = self.board.watch_copies(messages)
        for (number, message), spread in zip(page, spreads, strict=True):
            fields = {**fields_of(message), **spread._asdict()}
            texts.append(sent_event(kind_of(message), fields, self._id(number, at.event)))
        return page.upto

    def _id(self, arrival: int, event: int) -> str:
        return f"{self.node.log.cursor(arrival)}.{self.node.journal.cursor(event)}"
