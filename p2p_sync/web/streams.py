"""The routes whose answers are sent while they are made: export and follow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from ..disk.log import Log, Page
from ..errors import LogError
from ..node.fields import fields_of
from ..node.node import Node
from ..settings import API_STREAM_PAUSE
from ..wire.frames import Message
from .answers import NDJSON_TYPE
from .messages import left_out
from .routes import Asked, Route, Slots, Stream

logger = logging.getLogger("p2p_sync")


def stream_routes(node: Node, slots: Slots) -> list[Route]:
    """Return the routes."""

    def export(_: Asked) -> Stream:
        return slots.stream(_exported(node.log.export()), NDJSON_TYPE)

    def follow(asked: Asked) -> Stream:
        after = node.log.place(asked.argument("after"))
        topic, origin, since, _ = asked.wanted()
        pages = node.follow(after, API_STREAM_PAUSE, topic, origin, since)
        return slots.stream(_followed(pages, node.log), NDJSON_TYPE)

    return [
        Route("GET", "/api/v1/messages/export", export),
        Route("GET", "/api/v1/messages/follow", follow, "after topic node since"),
    ]


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


def _followed(pages: Iterator[Page[tuple[int, Message]]], log: Log) -> Iterator[str]:
    yield "\n"  # sends the head of the answer
    try:
        for page in pages:
            if lacks := left_out(page):
                yield json.dumps(lacks) + "\n"
            yield (
                "".join(
                    json.dumps(
                        {**fields_of(message), "next": log.cursor(number)}, ensure_ascii=False
                    )
                    + "\n"
                    for number, message in page
                )
                or "\n"
            )
    except LogError as error:  # a client that asks again gets the error
        logger.warning("ended a stream of messages: %s", error)
