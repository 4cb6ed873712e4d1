"""The routes of the API about the node and its peers."""

from __future__ import annotations

from http import HTTPStatus

from ..address import parse_address
from ..node.node import Node
from ..settings import API_MAX_POLL
from .answers import Answer, Refused
from .bodies import text_of
from .feeds import Events
from .live import Live, Streams
from .routes import Asked, Route, Slots, json_of, polled


def api_routes(node: Node, slots: Slots, streams: Streams) -> list[Route]:
    """Return the routes."""

    def status(_: Asked) -> Answer:
        return polled(node.status())

    def peers(_: Asked) -> Answer:
        return polled({"peers": node.peers()})

    def connect(asked: Asked) -> Answer:
        address = str(parse_address(text_of(asked.body(), "address")))
        return json_of({"key": node.connect(address), "address": address}, HTTPStatus.ACCEPTED)

    def forget(asked: Asked) -> Answer:
        if not node.forget(asked.parts["key"]):
            raise _unknown_peer()
        return Answer(HTTPStatus.NO_CONTENT, [], b"")

    def retry(asked: Asked) -> Answer:
        if not node.retry(asked.parts["key"]):
            raise _unknown_peer()
        return Answer(HTTPStatus.NO_CONTENT, [], b"")

    def events(asked: Asked) -> Answer | Live:
        place = node.journal.place(*asked.after)
        if asked.wants_events:
            return streams.live(Events(node), place, asked.head)
        timeout = asked.number("timeout", 0, 0, API_MAX_POLL)
        with slots.held(timeout > 0):
            found = node.events(place, timeout)
        next = node.journal.cursor(found.last)
        return json_of({"events": found.events, "next": next, "started": found.started})

    def acknowledge_forks(_: Asked) -> Answer:
        node.acknowledge_forks()
        return json_of({})

    return [
        Route("GET", "/api/v1/status", status),
        Route("GET", "/api/v1/peers", peers),
        Route("POST", "/api/v1/peers", connect),
        Route("DELETE", "/api/v1/peers/{key}", forget),
        Route("POST", "/api/v1/peers/{key}/retry", retry),
        Route("GET", "/api/v1/events", events, "after timeout"),
        Route("POST", "/api/v1/forks/acknowledge", acknowledge_forks),
    ]


def _unknown_peer() -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, "no peer has that key; GET /api/v1/peers lists them")
