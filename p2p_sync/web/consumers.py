"""The routes of the API for consumers (node/consumers.py)."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from ..errors import ConsumerError, InputError
from ..node.consumers import ConsumerOptions
from ..node.fields import fields_of
from ..node.node import Node
from ..settings import API_DEFAULT_LIMIT, API_MAX_LIMIT, API_MAX_POLL, PARKED_LISTED
from .answers import Answer, Refused
from .bodies import object_of, text_of
from .query import names
from .routes import Asked, Route, Slots, json_of, polled

_PATH = "/api/v1/consumers/{name}"
_OPTIONS = {
    "start": str,
    "topic": str,
    "own": bool,
    "ack_wait": float,
    "max_attempts": int,
    "shared": bool,
}
_KINDS = {str: "a text", bool: "true or false", float: "a number", int: "a whole number"}


def consumer_routes(node: Node, slots: Slots) -> list[Route]:
    """Return the routes."""

    def every(_: Asked) -> Answer:
        return polled({"consumers": node.consumers.status()})

    def create(asked: Asked) -> Answer:
        given = _options(asked.body())
        start = given.pop("start", "first")
        name = asked.parts["name"]
        new = node.consumers.create(name, ConsumerOptions(**given), start, only=given)
        return json_of(node.consumers.info(name), HTTPStatus.CREATED if new else HTTPStatus.OK)

    def delete(asked: Asked) -> Answer:
        if not node.consumers.delete(asked.parts["name"]):
            raise Refused(
                HTTPStatus.NOT_FOUND,
                "no consumer has that name; GET /api/v1/consumers lists them",
            )
        return Answer(HTTPStatus.NO_CONTENT, [], b"")

    def take(asked: Asked) -> Answer:
        if asked.head["REQUEST_METHOD"] == "HEAD":  # nobody would get what it lends
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", [("Allow", "GET")])
        limit = asked.number("limit", API_DEFAULT_LIMIT, 1, API_MAX_LIMIT)
        wait = asked.seconds("wait", 0, API_MAX_POLL)
        with slots.held(wait > 0):
            given = node.consumers.take(asked.parts["name"], limit, wait, asked.has_gone)
        messages = [
            {**fields_of(message), "position": position, "attempts": attempts}
            for position, message, attempts in given
        ]
        return json_of({"messages": messages})

    def ack(asked: Asked) -> Answer:
        position = text_of(asked.body(), "position")
        node.consumers.ack(asked.parts["name"], position)
        return json_of({})

    def fail(asked: Asked) -> Answer:
        body = asked.body()
        position = text_of(body, "position")
        error = object_of(body).get("error", "its reader has failed")
        if not isinstance(error, str):
            raise InputError('error is a text: {"position": "...", "error": "why"}')
        node.consumers.fail(asked.parts["name"], position, error)
        return json_of({})

    def extend(asked: Asked) -> Answer:
        position = text_of(asked.body(), "position")
        node.consumers.extend(asked.parts["name"], position)
        return json_of({})

    def parked(asked: Asked) -> Answer:
        limit = asked.number("limit", PARKED_LISTED, 1, PARKED_LISTED)
        found = node.consumers.parked(asked.parts["name"], limit)
        return json_of(
            {
                "parked": [
                    {
                        "id": each.id,
                        "attempts": each.attempts,
                        "error": each.error,
                        "since": each.time,
                        "message": fields_of(message) if message else None,
                    }
                    for each, message in found
                ]
            }
        )

    def retry(asked: Asked) -> Answer:
        return json_of({"retried": node.consumers.retry(asked.parts["name"], _ids(asked))})

    def drop(asked: Asked) -> Answer:
        return json_of({"dropped": node.consumers.drop(asked.parts["name"], _ids(asked))})

    return [
        Route("GET", "/api/v1/consumers", every),
        Route("PUT", _PATH, create),
        Route("DELETE", _PATH, delete),
        Route("GET", _PATH, take, "limit wait"),
        Route("POST", f"{_PATH}/ack", ack),
        Route("POST", f"{_PATH}/fail", fail),
        Route("POST", f"{_PATH}/extend", extend),
        Route("GET", f"{_PATH}/parked", parked, "limit"),
        Route("POST", f"{_PATH}/parked/retry", retry, "id"),
        Route("DELETE", f"{_PATH}/parked", drop, "id"),
    ]


def _options(body: bytes) -> dict[str, Any]:
    """Return the options in a body, which may be empty."""
    given = object_of(body) if body.strip() else {}
    for name, value in [*given.items()]:
        kind = _OPTIONS.get(name)
        if kind is None:
            raise ConsumerError(
                f"a consumer has no option {name[:40]!r}; it has: {', '.join(_OPTIONS)}"
            )
        if kind is int and type(value) is float and value.is_integer():  # so JSON Schema says
            given[name] = value = int(value)
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not -math.inf < value < math.inf):
            raise ConsumerError(f"{name} is {_KINDS[kind]}, not {json.dumps(value)[:40]}")
    return given


def _ids(asked: Asked) -> list[str] | None:
    """Return the id of the one message that is meant; None: all are."""
    if "id" not in names(asked.query):
        return None
    id = asked.argument("id")
    if not id:
        raise InputError("id is empty; give the id of a message, or leave id out for all of them")
    return [id]
