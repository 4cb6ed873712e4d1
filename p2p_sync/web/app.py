"""The page, the three addresses of the original system, and the API: the one door to Flask."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, make_response, redirect, render_template, request
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
)
from werkzeug.wrappers import Response as AnyResponse

from ..address import Address, is_loopback, is_private, parse_address
from ..codes import MAX_NUMBER
from ..disk.log import Log, Page, Place
from ..errors import CursorGone, InputError, LogError, LogFull, LogGone, MessageTooLong, NotRunning
from ..node.node import Node
from ..settings import (
    API_DEFAULT_LIMIT,
    API_DEFAULT_TIMEOUT,
    API_MAX_COPIES,
    API_MAX_COUNTED,
    API_MAX_LIMIT,
    API_MAX_POLL,
    API_MAX_SEARCH,
    API_MAX_TIMEOUT,
    API_STREAM_PAUSE,
    HTTP_RETRY_AFTER,
    PAGE_MESSAGES,
    PAGE_PEERS,
)
from ..wire.frames import Message
from .bodies import Lines, text_of
from .guard import is_guess, is_opened, is_own
from .metrics import CONTENT_TYPE, Metrics
from .plain import BEGUN, EXAMPLE, Done, shortened
from .problems import NONE_STORED, TEXT_TYPE, failure, is_bulk, page, wants_page
from .query import parameter
from .slots import Busy, Slots

logger = logging.getLogger("p2p_sync")


_ADD_EXAMPLE = "/add?address=ws://host:8001"


def create_app(node: Node, dropped: Callable[[], int] = lambda: 0) -> Flask:
    """Return the WSGI application that shows and drives `node`.

    `dropped` returns how many lines of the log nobody read in time; any thread may call it.
    """
    app = Flask(__name__)
    slots = Slots()
    _add_original(app, node, slots)
    _add_api(app, node, slots)
    _add_streams(app, node, slots, dropped)
    _add_probes(app, node)

    @app.errorhandler(InputError)
    @app.errorhandler(LogError)
    @app.errorhandler(Busy)
    @app.errorhandler(Exception)
    def refused(error: Exception) -> Response:
        return _refusal(error)

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Response:
        sentence = error.description
        allowed = sorted(error.valid_methods or ()) if isinstance(error, MethodNotAllowed) else []
        if request.routing_exception is error:  # Werkzeug's words tell nobody what to do
            sentence = f"there is nothing at {request.path[:80]!r}; "
            sentence += "/api/v1/openapi.json lists what there is"
            if allowed:
                sentence = f"this address takes {', '.join(allowed)}, not {request.method[:20]}"
        response = _error(HTTPStatus(error.code or 500), sentence)
        if allowed:
            response.headers["Allow"] = ", ".join(allowed)
        return response

    shown = redirect("/", 302)
    done = Done(shown.status, shown.get_wsgi_headers({}).to_wsgi_list(), shown.get_data())
    app.wsgi_app = shortened(app.wsgi_app, done)  # type: ignore[method-assign,assignment]
    return app


# -- the original system's addresses ------------------------------------------------------------


def _add_original(app: Flask, node: Node, slots: Slots) -> None:
    @app.get("/")
    def index() -> Response:
        if not wants_page(request.headers.get("Accept", "")):
            line = Response(_line(node), content_type=TEXT_TYPE)
            if node.log.count()[0] > PAGE_MESSAGES:  # one who reads slowly holds a thread
                slots.take()
                line.call_on_close(slots.free)
            return line
        before = request.args.get("before")
        return _index(node, _place(before) if before else None)

    @app.get("/add")
    def add() -> AnyResponse:
        _only_on_purpose()
        address = _address_in(request.environ["QUERY_STRING"])
        if is_opened(request.environ) and not _is_familiar(node, address):
            return _confirmation(address)
        node.connect(str(address))
        return redirect("/", 302)

    @app.post("/add")
    def add_confirmed() -> AnyResponse:
        if not is_own(request.environ):
            raise Forbidden("this form is sent by the page of this node alone; use the API")
        node.connect(str(_address_in(request.get_data(as_text=False).decode("latin-1"))))
        return redirect("/", 302)

    @app.get("/commit")
    def commit() -> AnyResponse:
        if begun := request.environ.get(BEGUN):
            begun()
            return redirect("/", 302)
        _only_on_purpose()
        text = parameter(request.environ["QUERY_STRING"], "msg", EXAMPLE)
        copies, timeout = _waiting()
        with slots.held(copies > 0):
            node.commit(text, copies, timeout)
        return redirect("/", 302)


def _address_in(query: str) -> Address:
    return parse_address(parameter(query, "address", _ADD_EXAMPLE))


def _is_familiar(node: Node, address: Address) -> bool:
    """Return whether a browser that was led here may connect to `address` without a question.

    Of a name it is not known where it leads.
    """
    if is_loopback(address.host) or is_private(address.host):
        return True
    return any(str(address) in entry["addresses"] for entry in node.peers())


def _confirmation(address: Address) -> Response:
    """Ask before this node connects to a stranger: a link or a redirect may have led here."""
    content = f"""
<p class="problem">This connects this node to <b>{escape(str(address))}</b>, which will receive
all messages and can add its own. Go on only if you know that node.</p>
<form method="post" action="/add"><p><input type="hidden" name="address"
value="{escape(str(address))}"> <button>Connect</button> <a href="/">Cancel</a></p></form>"""
    response = make_response(page("Connect to another node?", content))
    response.headers["Cache-Control"] = "no-store"
    # With no referrer a browser would call the origin of the form "null".
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _only_on_purpose() -> None:
    """Refuse HEAD, and what a browser asks ahead of a person's decision."""
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET"], "this address does something; it takes GET alone")
    if is_guess(request.environ):
        raise ServiceUnavailable("prefetching is not allowed here: this address does something")


def _line(node: Node) -> Iterator[str]:
    """Yield the original system's line in pieces; the one format that its users' scripts read."""
    messages = node.log.all()
    first = ",".join(message.data for message in itertools.islice(messages, PAGE_MESSAGES))
    yield f"No. sockets {node.sockets()} {first}"
    while page := [message.data for message in itertools.islice(messages, PAGE_MESSAGES)]:
        yield "," + ",".join(page)


def _add_probes(app: Flask, node: Node) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", content_type=TEXT_TYPE)

    @app.get("/readyz")
    def readyz() -> Response:
        reason = node.unready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        return Response(f"{reason or 'ready'}\n", status, content_type=TEXT_TYPE)


# -- what machines read -----------------------------------------------------------------------


def _add_streams(app: Flask, node: Node, slots: Slots, dropped: Callable[[], int]) -> None:
    metrics = Metrics(node, dropped)
    description = Path(__file__).with_name("openapi.json").read_bytes()

    @app.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    @app.get("/api/v1/openapi.json")
    def openapi() -> Response:
        return Response(description, content_type="application/json")

    @app.get("/api/v1/messages/follow")
    def follow() -> Response:
        pages = node.follow(_arrival(node), API_STREAM_PAUSE)
        slots.take()
        response = Response(_stream(pages, node.log), content_type="application/x-ndjson")
        response.call_on_close(slots.free)
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold lines back
        return response


def _stream(pages: Iterator[Page[tuple[int, Message]]], log: Log) -> Iterator[str]:
    yield "\n"  # the head of the answer goes out with it
    try:
        for page in pages:
            if page.damaged:
                yield json.dumps(_damaged(page)) + "\n"
            yield (
                "".join(
                    json.dumps({**_fields(message), "next": log.cursor(number)}, ensure_ascii=False)
                    + "\n"
                    for number, message in page
                )
                or "\n"
            )
    except LogError as error:  # who follows comes back, and is told
        logger.warning("a reader that follows the messages is left: %s", error)


# -- the API ------------------------------------------------------------------------------------


def _add_api(app: Flask, node: Node, slots: Slots) -> None:
    @app.get("/api/v1/status")
    def status() -> Response:
        return _polled(node.status())

    @app.get("/api/v1/peers")
    def peers() -> Response:
        return _polled({"peers": node.peers()})

    @app.post("/api/v1/peers")
    def post_peers() -> Response:
        address = parse_address(text_of(request.get_data(), "address"))
        return _json(
            {"key": node.connect(str(address)), "address": str(address)}, HTTPStatus.ACCEPTED
        )

    @app.delete("/api/v1/peers/<key>")
    def delete_peer(key: str) -> Response:
        if not node.forget(key):
            raise NotFound("there is no peer with that key; GET /api/v1/peers names them")
        return Response(status=HTTPStatus.NO_CONTENT)

    @app.get("/api/v1/events")
    def events() -> Response:
        cursor = _argument("after")
        timeout = _number("timeout", 0, 0, API_MAX_POLL)
        with slots.held(timeout > 0):
            found, last, started = node.events(node.event_number(cursor), timeout)
        return _json(
            {
                "events": [asdict(event) for event in found],
                "next": node.event_cursor(last),
                "started": started,
            }
        )

    @app.get("/api/v1/messages")
    def messages() -> Response:
        counted = _number("copies", 0, 0, 1) > 0
        most = API_MAX_COUNTED if counted else API_MAX_LIMIT
        limit = _number("limit", API_DEFAULT_LIMIT, 1, most)
        after = _argument("after")
        order = _argument("order", "arrival")
        text = _argument("q")
        if order == "newest":
            return _back(node, text, limit, after, counted)
        if counted or text:
            raise InputError("copies and q go with order=newest, which reads back from the newest")
        if order == "time":
            place = _place(after) if after else (-1, "", 0)
            page = node.log.ordered(place, limit)
            return _polled(
                {
                    "messages": [_fields(message) for message in page],
                    "next": _token(page[-1].order if page else place),
                    **_damaged(page),
                }
            )
        if order != "arrival":
            raise InputError(f"order is arrival, time or newest, not {order[:40]!r}")
        arrival = _arrival(node)
        arrived = node.log.arrivals(arrival, limit)
        return _polled(
            {
                "messages": [_fields(message) for _, message in arrived],
                "next": node.log.cursor(arrived[-1][0] if arrived else arrival),
                **_damaged(arrived),
            }
        )

    @app.post("/api/v1/messages")
    def post_messages() -> Response:
        copies, timeout = _waiting()
        skip = _argument("skip", "none")
        if skip not in ("none", "held"):
            raise InputError(f"skip is none or held, not {skip[:40]!r}")
        if request.mimetype == "application/x-ndjson":
            with slots.held():
                return _commit_lines(node, copies, timeout, skip=skip == "held")
        text = text_of(request.get_data(), "data")
        with slots.held(copies > 0):
            message = node.commit(text, copies, timeout)
        reached = HTTPStatus.CREATED if message.copies >= copies else HTTPStatus.ACCEPTED
        return _json({**_fields(message), "copies": message.copies}, reached)


def _back(node: Node, text: str, limit: int, after: str, counted: bool) -> Response:
    """Answer with messages from the newest back, all or those that hold a text."""
    if len(text) > API_MAX_SEARCH:
        raise InputError(f"q is a text of at most {API_MAX_SEARCH} characters")
    page, place = node.log.search(text, limit, _place(after) if after else None)
    copies = node.copies(page) if counted else []
    fields = [_fields(message) for message in page]
    for entry, number in zip(fields, copies, strict=False):
        entry["copies"] = number
    last = _token(page[-1].order) if page else after
    return _polled(
        {
            "messages": fields,
            "next": _token(place) if place else last,
            "complete": place is None,
            **_damaged(page),
        }
    )


def _commit_lines(node: Node, copies: int, timeout: float, skip: bool) -> Response:
    """Commit each line of the body; a bad one ends it, and those before it are stored.

    `skip`: pass over those with an id that the log holds.
    """
    count = 0
    first: Message | None = None
    last: Message | None = None
    lines = Lines(request.stream, node.holds) if skip else Lines(request.stream)
    answer: dict[str, Any] = {}
    try:
        for begin, last in node.commit_many(lines):
            first = first or begin
            count += last.seq - begin.seq + 1
        if last and copies:
            answer["copies"] = node.wait_copies(last, copies, timeout)
    except Exception as error:
        return _refusal(error, lines.line, count, last)
    answer |= {"count": count, "first": first and first.id, "last": last and last.id}
    if skip:
        answer["skipped"] = lines.skipped
    reached = answer.get("copies", copies) >= copies
    return _json(answer, HTTPStatus.CREATED if reached else HTTPStatus.ACCEPTED)


def _damaged(page: Page[Any]) -> dict[str, int]:
    """Return what an answer says of entries that were left out of it."""
    return {"damaged": page.damaged} if page.damaged else {}


def _fields(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "origin": message.origin,
        "seq": message.seq,
        "time": message.time,
        "data": message.data,
    }


def _waiting() -> tuple[int, float]:
    """Return how many copies the request waits for, and for how long at most."""
    copies = _number("copies", 0, 0, API_MAX_COPIES)
    text = _argument("timeout", f"{API_DEFAULT_TIMEOUT:g}")
    try:
        timeout = float(text)
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout <= API_MAX_TIMEOUT:
        raise InputError(
            f"timeout is a number of seconds up to {API_MAX_TIMEOUT:g}, not {text[:40]!r}"
        )
    return copies, timeout


def _argument(name: str, default: str = "") -> str:
    found = request.args.getlist(name) or [default]
    if len(found) > 1:
        raise InputError(f"{name} is given twice; give it once")
    return found[0]


def _number(name: str, default: int, least: int, most: float) -> int:
    text = _argument(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not least <= int(text) <= most:
        raise InputError(f"{name} is a whole number from {least} to {most:g}, not {text[:40]!r}")
    return int(text)


def _arrival(node: Node) -> int:
    """Return the number of the arrival that the request gives as `after`."""
    return node.log.place(_argument("after"))


def _token(place: Place) -> str:
    time, origin, seq = place
    return f"{time}.{origin}.{seq}" if origin else ""


def _place(token: str) -> Place:
    """Return the place in the shared order that `_token` made the text of."""
    time, _, rest = token.partition(".")
    origin, _, seq = rest.partition(".")
    numbers = all(part.isascii() and part.isdigit() and len(part) < 17 for part in (time, seq))
    if not numbers or max(int(time), int(seq)) > MAX_NUMBER:
        raise InputError(
            "after must be the next of an earlier answer; omit it to start from the beginning"
        )
    return int(time), origin, int(seq)


# -- answers ------------------------------------------------------------------------------------


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, content_type="application/json")


def _polled(value: Any) -> Response:
    """Answer what is asked again and again: 304 to one who has it already."""
    response = _json(value)
    response.add_etag()
    response.make_conditional(request.environ)
    return response


def _status(error: InputError) -> HTTPStatus:
    long = isinstance(error, MessageTooLong)
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if long else HTTPStatus.BAD_REQUEST


def _index(node: Node, before: Place | None) -> Response:
    messages = node.log.newest(PAGE_MESSAGES, before)
    told = node.status()
    shown = render_template(
        "page.html",
        node=told["node"],
        sockets=told["sockets"],
        count=told["messages"]["count"],
        conflicts=told["conflicts"],
        warnings=told["warnings"],
        verdict=told["verdict"],
        peers=node.peers()[:PAGE_PEERS],
        messages=messages,
        paged=before is not None,
        older=_token(messages[-1].order) if len(messages) == PAGE_MESSAGES else "",
        when=_when,
    )
    return make_response(shown)


def _refusal(
    error: Exception, line: int = 0, stored: int = 0, last: Message | None = None
) -> Response:
    """Answer a request that `error` ended.

    Of one that brings many messages, `line` is the last that was read, and `stored` messages are on
    disk, up to `last`.
    """
    more: dict[str, int | str | None] = {}
    if isinstance(error, NotRunning):
        status, sentence = HTTPStatus.SERVICE_UNAVAILABLE, "this node is stopping; try another one"
    elif isinstance(error, CursorGone):
        status, sentence, more["next"] = HTTPStatus.GONE, str(error), error.next
    elif isinstance(error, InputError):
        status, sentence = _status(error), str(error)
    elif isinstance(error, LogError):
        full = isinstance(error, LogFull)
        status = HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.SERVICE_UNAVAILABLE
        sentence = str(error)
        if not (line or isinstance(error, LogGone)):
            sentence += "; nothing that was acknowledged is lost, try again later"
    elif isinstance(error, Busy):
        status, sentence = HTTPStatus.SERVICE_UNAVAILABLE, str(error)
    else:
        logger.error("answering %r failed", request.path, exc_info=error)
        status, sentence = HTTPStatus.INTERNAL_SERVER_ERROR, "this node failed; see its log"
    if line:
        more |= {"reason": sentence, "stored": stored, "last": last.id if last else None}
        if isinstance(error, InputError) and not isinstance(error, NotRunning):
            sentence, more["line"] = f"line {line}: {sentence}", line
        sentence += f"; {_extent(stored, last)}"
    response = _error(status, sentence, **more)
    if isinstance(error, (NotRunning, Busy)):
        response.headers["Retry-After"] = str(HTTP_RETRY_AFTER)
    return response


def _extent(stored: int, last: Message | None) -> str:
    """Say how many messages of a request are on disk."""
    count = "1 message is stored" if stored == 1 else f"{stored} messages are stored"
    return f"{count}, up to {last.id}; send only those behind it again" if last else count


def _error(status: HTTPStatus, sentence: object, **more: int | str | None) -> Response:
    """Answer a request that failed; this asks nothing of the node, which may have failed too."""
    if is_bulk(request.method, request.path, request.content_type or ""):
        more = {**NONE_STORED, **more}
    kind, body = failure(
        request.path, request.headers.get("Accept", ""), status, str(sentence), **more
    )
    return Response(body, status, content_type=kind)


def _when(milliseconds: int) -> str:
    """Return a time for people, to the second, UTC."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "invalid time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
