"""The routes whose answers are sent while they are made: export, and those that go on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from ..disk.log import Page
from ..disk.wanted import Wanted
from ..errors import CursorGone, LogError
from ..node.node import Node
from . import feeds
from .answers import NDJSON_TYPE
from .board import Board
from .live import Live, Streams
from .messages import left_out
from .routes import Asked, Route, Slots, Stream

logger = logging.getLogger("p2p_sync")


def stream_routes(node: Node, slots: Slots, streams: Streams) -> list[Route]:
    """Return the routes."""
    page = feeds.Page(node, Board(node))

    def export(_: Asked) -> Stream:
        return slots.stream(_exported(node.log.export()), NDJSON_TYPE)

    def follow(asked: Asked) -> Live:
        form = feeds.SENT_EVENTS if asked.wants_events else feeds.LINES
        topic, origin, since, _ = asked.wanted()
        messages = feeds.Messages(node, Wanted(topic, origin, since), form)
        return streams.live(messages, node.log.place(*asked.after), asked.head)

    def stream(asked: Asked) -> Live:
        return streams.live(page, _spot(node, *asked.after), asked.head)

    return [
        Route("GET", "/api/v1/messages/export", export),
        Route("GET", "/api/v1/messages/follow", follow, "after topic node since"),
        Route("GET", "/api/v1/stream", stream, "after"),
    ]


def _spot(node: Node, id: str, name: str) -> feeds.Spot:
    """Return the place of an id in the stream of the page. Without one, it begins with the messages
    of the future and with all events that are kept. Errors call it `name`."""
    message, _, event = id.partition(".")
    try:
        arrival = node.log.place(message, name) if message else node.log.last_arrival()
    except CursorGone:
        arrival = -1
    try:
        return feeds.Spot(arrival, node.journal.place(event, name))
    except CursorGone:
        return feeds.Spot(arrival, 0)


def _exported(pages: Iterator[Page[str]]) -> Iterator[str]:
    """Yield the lines of an export. Without the last one, which counts them, it is not whole."""
    count = 0
    try:
        for page in pages:
            if page.damaged:
                yield json.dumps(left_out(page)) + "\n"
            count += len(page)
            yield "".join(page)
        yield json.dumps({"exported": count}) + "\n"
    except LogError as error:
        logger.warning("ended an export: %s", error)
