"""Gives the routes to Flask, and renders what goes wrong: the one door to Flask."""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter

from ..errors import P2PSyncError
from ..node.node import Node
from .answers import LIVE, Answer, Refused, refusal_of
from .api import api_routes
from .consumers import consumer_routes
from .live import Live, Streams
from .messages import message_routes
from .original import original_routes
from .probes import probe_routes
from .routes import Asked, Route, Slots, Stream
from .streams import stream_routes

logger = logging.getLogger("p2p_sync")

_PART = re.compile(r"\{(\w+)\}")


class _Id(BaseConverter):
    """The id of a message in a path."""

    regex = "[^/]*:[^/]*"


def create_app(node: Node, dropped: Callable[[], int] = lambda: 0) -> Flask:
    """Return the WSGI application that shows and drives `node`.

    `dropped` returns how many lines of the program's log were dropped; any thread may call it.
    """
    app = Flask(__name__)
    app.url_map.converters["id"] = _Id
    slots, streams = Slots(), Streams(node)

    def page(values: Mapping[str, object]) -> str:
        return render_template("page.html", **values)

    for route in (
        *original_routes(node, slots, page),
        *api_routes(node, slots, streams),
        *message_routes(node, slots),
        *consumer_routes(node, slots),
        *stream_routes(node, slots, streams),
        *probe_routes(node, dropped, streams.count),
    ):
        _add(app, route)

    @app.after_request
    def smaller(response: Response) -> Response:
        """Compress the files of the page: over a slow line it is there sooner."""
        is_file = request.endpoint == "static" and response.status_code == HTTPStatus.OK
        if is_file and request.accept_encodings["gzip"] > 0:
            response.direct_passthrough = False
            response.set_data(gzip.compress(response.get_data(), mtime=0))
            response.headers["Content-Encoding"] = "gzip"
            response.headers["ETag"] = f"W/{response.headers['ETag']}"
            response.vary.add("Accept-Encoding")
        return response

    @app.errorhandler(Exception)
    def refused(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = _own(error)
        if not isinstance(error, P2PSyncError):
            logger.error("answering %r failed", request.path, exc_info=error)
        return _response(refusal_of(request.environ, error))

    return app


def _add(app: Flask, route: Route) -> None:
    rule = _PART.sub(lambda part: f"<{'id:' * (part[1] == 'id')}{part[1]}>", route.path)

    def view(**parts: str) -> Response:
        asked = Asked(request.environ, request.stream, parts, route.example)
        route.check(asked.query)
        return _response(route.answer(asked))

    app.add_url_rule(rule, f"{route.method} {route.path}", view, methods=[route.method])


def _response(answer: Answer | Stream | Live) -> Response:
    if isinstance(answer, (Stream, Live)):
        pieces = answer.pieces if isinstance(answer, Stream) else iter(())
        response = Response(pieces, content_type=answer.kind)
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold lines back
        if isinstance(answer, Stream):
            response.call_on_close(answer.end)
        elif request.method == "GET":
            request.environ[LIVE] = answer.begin
        return response
    status, fields, body = answer
    response = Response(body, f"{status.value} {status.phrase}", fields)
    if "ETag" in response.headers:
        response.make_conditional(request.environ)
    return response


def _own(error: HTTPException) -> Refused:
    """Return an error of Werkzeug as one of ours, whose words say what to do."""
    status = HTTPStatus(error.code or 500)
    if request.routing_exception is not error:
        return Refused(status, str(error.description))
    if not isinstance(error, MethodNotAllowed):
        return Refused(status, f"not found: {request.path[:80]!r}; see /api/v1/openapi.json")
    allowed = ", ".join(sorted(error.valid_methods or ()))
    sentence = f"{request.method[:20]} is not allowed here; use {allowed}"
    return Refused(status, sentence, [("Allow", allowed)])
