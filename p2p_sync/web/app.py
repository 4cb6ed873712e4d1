"""The page, the three addresses of the original system, and the API: the one door to Flask."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from werkzeug.routing import BaseConverter
from werkzeug.wrappers import Response as AnyResponse

from ..address import Address, is_loopback, is_private, parse_address
from ..codes import MAX_NUMBER
from ..core.deduplication import node_of
from ..disk.log import Log, Page, Place
from ..errors import Busy, InputError, LogError, P2PSyncError
from ..names import labels
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
    HTTP_WAITING,
    PAGE_MESSAGES,
    PAGE_PEERS,
    SHORT_ID,
    SHOWN_TO_ERASE,
)
from ..wire.entries import Erasure
from ..wire.frames import Message, check_topic
from .answers import TEXT_TYPE, Answer, Progress, page, refusal, refusal_of, wants_page
from .bodies import Lines, message_of, text_of
from .guard import is_guess, is_opened, is_own
from .metrics import CONTENT_TYPE, Metrics
from .plain import STORED, message_in
from .query import parameter

logger = logging.getLogger("p2p_sync")


_ADD_EXAMPLE = "/add?address=ws://host:8001"
_ERASE_EXAMPLE = "/erase?id=ORIGIN:NUMBER"


class _Name(BaseConverter):
    """The id of a message in a path."""

    regex = "[^/]*:[^/]*"


def create_app(node: Node, dropped: Callable[[], int] = lambda: 0) -> Flask:
    """Return the WSGI application that shows and drives `node`.

    `dropped` returns how many lines of the program's log were dropped; any thread may call it.
    """
    app = Flask(__name__)
    app.url_map.converters["name"] = _Name
    slots = Slots()
    _add_original(app, node, slots)
    _add_api(app, node, slots)
    _add_streams(app, node, slots, dropped)
    _add_probes(app, node)

    @app.errorhandler(Exception)
    def refused(error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return _refused(error)
        sentence = str(error.description)
        allowed = sorted(error.valid_methods or ()) if isinstance(error, MethodNotAllowed) else []
        if request.routing_exception is error:  # Werkzeug's words do not say what to do
            sentence = f"not found: {request.path[:80]!r}; see /api/v1/openapi.json"
            if allowed:
                sentence = f"{request.method[:20]} is not allowed here; use {', '.join(allowed)}"
        response = _answered(refusal(request.environ, HTTPStatus(error.code or 500), sentence))
        if allowed:
            response.headers["Allow"] = ", ".join(allowed)
        return response

    return app


def _answered(answer: Answer) -> Response:
    status = f"{answer.status.value} {answer.status.phrase}"
    return Response(answer.body, status, answer.fields)


def _refused(error: Exception, progress: Progress | None = None) -> Response:
    """Answer a request that `error` ended; this asks nothing of the node, which may have failed."""
    if not isinstance(error, P2PSyncError):
        logger.error("answering %r failed", request.path, exc_info=error)
    return _answered(refusal_of(request.environ, error, progress))


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


# -- the original system's addresses ------------------------------------------------------------


def _add_original(app: Flask, node: Node, slots: Slots) -> None:
    @app.get("/")
    def index() -> Response:
        if not wants_page(request.environ):
            line = Response(_line(node), content_type=TEXT_TYPE)
            if node.log.count()[0] > PAGE_MESSAGES:  # a client that reads slowly holds a thread
                slots.take()
                line.call_on_close(slots.free)
            return line
        before = request.args.get("before")
        return _index(node, _place(before) if before else None, _topic())

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
            raise Forbidden("only the page of this node may send this form; use the API")
        node.connect(str(_address_in(request.get_data(as_text=False).decode("latin-1"))))
        return redirect("/", 302)

    @app.get("/erase")
    def erase() -> Response:
        name = parameter(request.environ["QUERY_STRING"], "id", _ERASE_EXAMPLE)
        return _erase_confirmation(node, name)

    @app.post("/erase")
    def erase_confirmed() -> AnyResponse:
        if not is_own(request.environ):
            raise Forbidden("only the page of this node may send this form; use the API")
        body = request.get_data(as_text=False).decode("latin-1")
        node.erase(parameter(body, "id", _ERASE_EXAMPLE))
        return redirect("/", 302)

    @app.post("/forks/acknowledge")
    def acknowledge() -> AnyResponse:
        if not is_own(request.environ):
            raise Forbidden("only the page of this node may send this form; use the API")
        node.acknowledge_forks()
        return redirect("/", 302)

    @app.get("/commit")
    def commit() -> AnyResponse:
        _only_on_purpose()
        text, topic = message_in(request.environ["QUERY_STRING"])
        copies, timeout = _waiting()
        with slots.held(copies > 0):
            node.commit(text, copies, timeout, topic=topic)
        return _answered(STORED)


def _address_in(query: str) -> Address:
    return parse_address(parameter(query, "address", _ADD_EXAMPLE))


def _is_familiar(node: Node, address: Address) -> bool:
    """Return whether a browser may connect to `address` without a question.

    A host name may lead anywhere, so it is never familiar by itself.
    """
    if is_loopback(address.host) or is_private(address.host):
        return True
    return any(str(address) in entry["addresses"] for entry in node.peers())


def _confirmation(address: Address) -> Response:
    """Ask first: a link or a redirect may have led the browser here."""
    content = f"""
<p class="problem">This connects this node to <b>{escape(str(address))}</b>, which will receive
all messages and can add its own. Continue only if you know that node.</p>
<form method="post" action="/add"><p><input type="hidden" name="address"
value="{escape(str(address))}"> <button>Connect</button> <a href="/">Cancel</a></p></form>"""
    return _question(page("Connect to another node?", content))


def _erase_confirmation(node: Node, name: str) -> Response:
    """Ask whether to erase a message: it cannot be undone."""
    message = node.log.message(name)
    if message is None:
        raise NotFound("this node has no such message; go back to the page and load it again")
    if message.erased:
        return make_response(
            page("Erased already", '<p>This message is erased. <a href="/">Back</a></p>')
        )
    text = (
        message.data
        if len(message.data) <= SHOWN_TO_ERASE
        else f"{message.data[:SHOWN_TO_ERASE]}\u2026"
    )
    content = f"""
<p class="problem">This erases the message on all nodes, for good. Original nodes and older backups
keep the text.</p>
<blockquote dir="auto">{escape(text)}</blockquote>
<form method="post" action="/erase"><p><input type="hidden" name="id"
value="{escape(message.id)}"> <button>Erase</button> <a href="/">Cancel</a></p></form>"""
    return _question(page("Erase this message?", content))


def _question(text: str) -> Response:
    """Return a page with a form."""
    response = make_response(text)
    response.headers["Cache-Control"] = "no-store"
    # Without a referrer a browser would send "null" as the origin of the form.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _only_on_purpose() -> None:
    """Refuse HEAD, and requests that a browser sends before the user decides to."""
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET"], "this address changes something; use GET")
    if is_guess(request.environ):
        raise ServiceUnavailable("prefetching is not allowed here: this address changes something")


def _line(node: Node) -> Iterator[str]:
    """Yield the line of the original system in pieces; scripts of its users read it."""
    messages = (message for message in node.log.all() if not message.erased)
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


# -- metrics, description, stream ---------------------------------------------------------------


def _add_streams(app: Flask, node: Node, slots: Slots, dropped: Callable[[], int]) -> None:
    metrics = Metrics(node, dropped)
    description = Path(__file__).with_name("openapi.json").read_bytes()

    @app.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    @app.get("/api/v1/openapi.json")
    def openapi() -> Response:
        return Response(description, content_type="application/json")

    @app.get("/api/v1/messages/export")
    def export() -> Response:
        return streamed(_exported(node.log.export()))

    @app.get("/api/v1/messages/follow")
    def follow() -> Response:
        pages = node.follow(_arrival(node), API_STREAM_PAUSE, _topic())
        return streamed(_stream(pages, node.log))

    def streamed(lines: Iterator[str]) -> Response:
        slots.take()
        response = Response(lines, content_type="application/x-ndjson")
        response.call_on_close(slots.free)
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold lines back
        return response


def _exported(pages: Iterator[Page[str]]) -> Iterator[str]:
    """Yield the lines of an export. Without the last one, which counts them, it is not whole."""
    count = 0
    try:
        for page in pages:
            if page.damaged:
                yield json.dumps(_left_out(page)) + "\n"
            count += len(page)
            yield "".join(page)
        yield json.dumps({"exported": count}) + "\n"
    except LogError as error:
        logger.warning("ended an export: %s", error)


def _stream(pages: Iterator[Page[tuple[int, Message]]], log: Log) -> Iterator[str]:
    yield "\n"  # sends the head of the answer
    try:
        for page in pages:
            if lacks := _left_out(page):
                yield json.dumps(lacks) + "\n"
            yield (
                "".join(
                    json.dumps({**_fields(message), "next": log.cursor(number)}, ensure_ascii=False)
                    + "\n"
                    for number, message in page
                )
                or "\n"
            )
    except LogError as error:  # a client that asks again gets the error
        logger.warning("ended a stream of messages: %s", error)


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
            raise NotFound("no peer has that key; GET /api/v1/peers lists them")
        return Response(status=HTTPStatus.NO_CONTENT)

    @app.get("/api/v1/events")
    def events() -> Response:
        if _topic():
            raise InputError("events have no topic; follow messages: /api/v1/messages/follow")
        cursor = _argument("after")
        timeout = _number("timeout", 0, 0, API_MAX_POLL)
        with slots.held(timeout > 0):
            found, last, started = node.events(node.journal.place(cursor), timeout)
        return _json(
            {
                "events": [asdict(event) for event in found],
                "next": node.journal.cursor(last),
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
        text, topic = _argument("q"), _topic()
        if order == "newest":
            return _back(node, text, topic, limit, after, counted)
        if counted or text:
            raise InputError("copies and q need order=newest")
        if order == "time":
            place = _place(after) if after else (-1, "", 0)
            page = node.log.ordered(place, limit, topic)
            return _polled(
                {
                    "messages": [_fields(message) for message in page],
                    "next": _token(page[-1].order if page else place),
                    **_left_out(page),
                }
            )
        if order != "arrival":
            raise InputError(f"order is arrival, time or newest, not {order[:40]!r}")
        arrival = _arrival(node)
        arrived = node.log.arrivals(arrival, limit, topic=topic)
        return _polled(
            {
                "messages": [_fields(message) for _, message in arrived],
                "next": node.log.cursor(arrived.upto),
                **_left_out(arrived),
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
                return _commit_lines(node, _topic(), copies, timeout, skip=skip == "held")
        text, topic = message_of(request.get_data(), _topic())
        with slots.held(copies > 0):
            message = node.commit(text, copies, timeout, topic=topic)
        reached = HTTPStatus.CREATED if message.copies >= copies else HTTPStatus.ACCEPTED
        return _json({**_fields(message), "copies": message.copies}, reached)

    @app.post("/api/v1/forks/acknowledge")
    def acknowledge_forks() -> Response:
        node.acknowledge_forks()
        return _json({})

    @app.delete("/api/v1/messages/<name:id>")
    def delete_message(id: str) -> Response:
        return _json(_fields(node.erase(id)))


def _back(node: Node, text: str, topic: str, limit: int, after: str, counted: bool) -> Response:
    """Answer with messages from the newest back, all or those that contain `text`."""
    if len(text) > API_MAX_SEARCH:
        raise InputError(f"q is a text of at most {API_MAX_SEARCH} characters")
    page, place = node.log.search(text, limit, _place(after) if after else None, topic)
    copies = node.report.copies(page) if counted else []
    fields = [_fields(message) for message in page]
    for entry, number in zip(fields, copies, strict=False):
        entry["copies"] = number
    last = _token(page[-1].order) if page else after
    return _polled(
        {
            "messages": fields,
            "next": _token(place) if place else last,
            "complete": place is None,
            **_left_out(page),
        }
    )


def _commit_lines(node: Node, topic: str, copies: int, timeout: float, skip: bool) -> Response:
    """Commit each line of the body; a bad line ends it, and the lines before it are stored.

    `topic` is that of lines that name none. `skip`: skip lines whose id is already in the log.
    """
    count = 0
    first: Message | None = None
    last: Message | None = None
    lines = Lines(request.stream, topic, node.report.holds if skip else None)
    answer: dict[str, Any] = {}
    try:
        for commit in node.intake.commit_many(lines):
            first = first or commit.message()
            last = commit.message(len(commit.texts) - 1)
            count += len(commit.texts)
        if last and copies:
            answer["copies"] = node.intake.wait_copies(last, copies, timeout)
    except Exception as error:
        progress = Progress(lines.line, count, last.id if last else None) if lines.line else None
        return _refused(error, progress)
    answer |= {"count": count, "first": first and first.id, "last": last and last.id}
    if skip:
        answer["skipped"] = lines.skipped
    reached = answer.get("copies", copies) >= copies
    return _json(answer, HTTPStatus.CREATED if reached else HTTPStatus.ACCEPTED)


def _left_out(page: Page[Any]) -> dict[str, int]:
    """Return the members of an answer that count what is not in it: damaged entries, and messages
    that were deleted before they were read."""
    counts = {"damaged": page.damaged, "missed": page.missed}
    return {name: count for name, count in counts.items() if count}


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": message.id,
        "origin": message.origin,
        "seq": message.seq,
        "time": message.time,
        "data": message.data,
    }
    if message.topic:
        fields["topic"] = message.topic
    if message.erased:
        fields["data"] = None
        time, node = message.erased.time, node_of(message.erased.origin)
        fields["erased"] = {"time": time or None, "node": node or None}
    return fields


def _waiting() -> tuple[int, float]:
    """Return how many copies the request waits for, and for how many seconds at most."""
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


def _topic() -> str:
    """Return the topic that the request gives, "" with none."""
    topic = _argument("topic")
    check_topic(topic)
    return topic


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
    """Return the place in the shared order that `_token` has turned into a text."""
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
    """Answer a request that clients repeat: 304 if they have this answer already."""
    response = _json(value)
    response.add_etag()
    response.make_conditional(request.environ)
    return response


def _index(node: Node, before: Place | None, topic: str) -> Response:
    messages = node.log.newest(PAGE_MESSAGES, before, topic)
    status, peers = node.status(), node.peers()
    names = labels([status["node"], *peers])
    shown = render_template(
        "page.html",
        node=status["node"],
        sockets=status["sockets"],
        count=status["messages"]["count"],
        forks=len(status["forks"]),
        warnings=status["warnings"],
        verdict=status["verdict"],
        peers=peers[:PAGE_PEERS],
        label=lambda origin: names.get(node_of(origin), origin[:SHORT_ID]),
        messages=messages,
        topic=topic,
        paged=before is not None,
        older=_token(messages[-1].order) if len(messages) == PAGE_MESSAGES else "",
        when=_when,
        erased=_erased,
    )
    return make_response(shown)


def _erased(erasure: Erasure, label: Callable[[str], str]) -> str:
    """Return what the page shows in the place of an erased text; `label` names nodes."""
    if not erasure.origin:
        return "(erased)"
    return f"(erased {_when(erasure.time)} by {label(erasure.origin)})"


def _when(milliseconds: int) -> str:
    """Return a time for people, to the second, UTC."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "invalid time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
