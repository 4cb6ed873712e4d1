"""The page and the three addresses of the original system: the one door to Flask."""

from __future__ import annotations

import datetime
import logging
from http import HTTPStatus

from flask import Flask, Response, make_response, redirect, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, ServiceUnavailable
from werkzeug.wrappers import Response as AnyResponse

from ..errors import InputError, MessageTooLong
from ..node import Node
from .query import parameter

logger = logging.getLogger("p2p_sync")

# Messages on the page; scripts get all of them. The newest stand on top.
PAGE_MESSAGES = 200

_ADD_EXAMPLE = "/add?address=ws://host:8001"


def create_app(node: Node) -> Flask:
    """Return the WSGI application that shows and drives `node`."""
    app = Flask(__name__)

    @app.get("/")
    def index() -> Response:
        return _index(node) if _wants_page() else _text(_line(node))

    @app.get("/add")
    def add() -> AnyResponse:
        _only_on_purpose()
        node.connect(parameter(request.environ["QUERY_STRING"], "address", _ADD_EXAMPLE))
        return redirect("/")

    @app.get("/commit")
    def commit() -> AnyResponse:
        _only_on_purpose()
        node.commit(parameter(request.environ["QUERY_STRING"], "msg", "/commit?msg=text"))
        return redirect("/")

    @app.errorhandler(InputError)
    def refused(error: InputError) -> Response:
        long = isinstance(error, MessageTooLong)
        return _error(
            node, HTTPStatus.REQUEST_ENTITY_TOO_LARGE if long else HTTPStatus.BAD_REQUEST, error
        )

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Response:
        response = _error(node, HTTPStatus(error.code or 500), error.description)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(error.valid_methods)
        return response

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        logger.error("answering %r failed", request.path, exc_info=error)
        return _error(node, HTTPStatus.INTERNAL_SERVER_ERROR, "this node failed; see its log")

    return app


def _only_on_purpose() -> None:
    """Refuse what is not a person's or a script's own wish: HEAD, and a browser's guess."""
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET"], "this address does something; it takes GET alone")
    purpose = f"{request.headers.get('Sec-Purpose', '')} {request.headers.get('Purpose', '')}"
    if "prefetch" in purpose.lower():
        raise ServiceUnavailable("this address does something; it is not for prefetching")


def _wants_page() -> bool:
    return "text/html" in request.headers.get("Accept", "").lower()


def _line(node: Node) -> str:
    """Return the original system's line; the one format that its users' scripts read."""
    return f"No. sockets {node.sockets()} {','.join(m.data for m in node.messages())}"


def _text(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    response = make_response(text, status)
    response.headers["Content-Type"] = "text/plain; charset=utf-8"
    return response


def _index(node: Node, status: HTTPStatus = HTTPStatus.OK, problem: object = "") -> Response:
    messages = node.messages()
    page = render_template(
        "page.html",
        node=node,
        sockets=node.sockets(),
        count=len(messages),
        messages=messages[: -PAGE_MESSAGES - 1 : -1],
        problem=problem,
        when=_when,
    )
    return make_response(page, status)


def _error(node: Node, status: HTTPStatus, problem: object) -> Response:
    """Answer in kind: the page with the sentence on top, or the sentence."""
    return _index(node, status, problem) if _wants_page() else _text(f"{problem}\n", status)


def _when(milliseconds: int) -> str:
    """Return a time for people, to the second, UTC."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "at no time that a calendar has"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
