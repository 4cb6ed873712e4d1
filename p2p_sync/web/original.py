"""The page, and the routes of the original system: /, /add and /commit. What the page does without
JavaScript is here, too."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping
from html import escape
from http import HTTPStatus

from ..address import Address, is_loopback, is_private, parse_address
from ..core.deduplication import node_of
from ..disk.wanted import Place, Wanted
from ..names import labels, told
from ..node.node import Node
from ..settings import PAGE_MESSAGES, PAGE_PEERS, SHORT_ID, SHOWN_TO_ERASE
from ..wire.entries import Erasure
from .answers import HTML_TYPE, TEXT_TYPE, Answer, Refused, page, wants_page
from .guard import is_guess, is_opened, is_own
from .messages import REPEATED, key_in, place_of, token_of, waiting
from .plain import EXAMPLE, STORED, message_in
from .query import parameter
from .routes import Asked, Route, Slots, Stream, moved

_ADD_EXAMPLE = "/add?address=ws://host:8001"
_ERASE_EXAMPLE = "/erase?id=ORIGIN:NUMBER"

Render = Callable[[Mapping[str, object]], str]
"""Turns the values of the page into HTML."""


def original_routes(node: Node, slots: Slots, render: Render) -> list[Route]:
    """Return the routes."""

    def index(asked: Asked) -> Answer | Stream:
        if not wants_page(asked.head):
            if node.log.count()[0] > PAGE_MESSAGES:  # a client that reads slowly holds a thread
                return slots.stream(_line(node), TEXT_TYPE)
            return Stream(_line(node), TEXT_TYPE, lambda: None)
        before = asked.argument("before")
        values = _values(node, place_of(before) if before else None, asked.topic())
        return _html(render(values))

    def add(asked: Asked) -> Answer:
        _only_on_purpose(asked)
        address = _address_in(asked.query)
        if is_opened(asked.head) and not _is_familiar(node, address):
            return _confirmation(address)
        node.connect(str(address))
        return moved("/")

    def add_confirmed(asked: Asked) -> Answer:
        node.connect(str(_address_in(_form(asked))))
        return moved("/")

    def erase(asked: Asked) -> Answer:
        return _erase_confirmation(node, asked.argument("id", None))

    def erase_confirmed(asked: Asked) -> Answer:
        node.erase(parameter(_form(asked), "id", _ERASE_EXAMPLE))
        return moved("/")

    def acknowledge(asked: Asked) -> Answer:
        _form(asked)
        node.acknowledge_forks()
        return moved("/")

    def commit(asked: Asked) -> Answer:
        _only_on_purpose(asked)
        text, topic = message_in(asked.query)
        copies, timeout = waiting(asked)
        key = key_in(asked.head)
        with slots.held(copies > 0):
            done = node.intake.commit(text, copies, timeout, topic, key)
        return STORED._replace(fields=STORED.fields + REPEATED * done.repeated)

    return [
        Route("GET", "/", index, None, "/"),
        Route("GET", "/add", add, None, _ADD_EXAMPLE),
        Route("POST", "/add", add_confirmed, None, _ADD_EXAMPLE),
        Route("GET", "/erase", erase, None, _ERASE_EXAMPLE),
        Route("POST", "/erase", erase_confirmed, None, _ERASE_EXAMPLE),
        Route("POST", "/forks/acknowledge", acknowledge, None),
        Route("GET", "/commit", commit, None, EXAMPLE),
    ]


def _only_on_purpose(asked: Asked) -> None:
    """Refuse HEAD, and requests that a browser sends before the user decides to."""
    if asked.head["REQUEST_METHOD"] == "HEAD":
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "this address changes something; use GET",
            [("Allow", "GET")],
        )
    if is_guess(asked.head):
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "prefetching is not allowed here: this address changes something",
        )


def _form(asked: Asked) -> str:
    """Return what a form of this node's page sends, as a query string."""
    if not is_own(asked.head):
        raise Refused(
            HTTPStatus.FORBIDDEN, "only the page of this node may send this form; use the API"
        )
    return asked.body().decode("latin-1")


def _address_in(query: str) -> Address:
    return parse_address(parameter(query, "address", _ADD_EXAMPLE))


def _is_familiar(node: Node, address: Address) -> bool:
    """Return whether a browser may connect to `address` without a question.

    A host name may lead anywhere, so it is never familiar by itself.
    """
    if is_loopback(address.host) or is_private(address.host):
        return True
    return any(str(address) in entry.addresses for entry in node.peers())


def _confirmation(address: Address) -> Answer:
    """Ask first: a link or a redirect may have led the browser here."""
    content = f"""
<p class="problem">This connects this node to <b>{escape(str(address))}</b>, which will receive
all messages and can add its own. Continue only if you know that node.</p>
<form method="post" action="/add"><p><input type="hidden" name="address"
value="{escape(str(address))}"> <button>Connect</button> <a href="/">Cancel</a></p></form>"""
    return _question(page("Connect to another node?", content))


def _erase_confirmation(node: Node, name: str) -> Answer:
    """Ask whether to erase a message: it cannot be undone."""
    message = node.log.message(name)
    if message is None:
        raise Refused(
            HTTPStatus.NOT_FOUND,
            "this node has no such message; go back to the page and load it again",
        )
    if message.erased:
        return _html(page("Erased already", '<p>This message is erased. <a href="/">Back</a></p>'))
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


def _html(text: str, *fields: tuple[str, str]) -> Answer:
    return Answer(HTTPStatus.OK, [("Content-Type", HTML_TYPE), *fields], text.encode())


def _question(text: str) -> Answer:
    """Return a page with a form."""
    # Without a referrer a browser would send "null" as the origin of the form.
    return _html(text, ("Cache-Control", "no-store"), ("Referrer-Policy", "same-origin"))


def _line(node: Node) -> Iterator[str]:
    """Yield the line of the original system in pieces; scripts of its users read it."""
    messages = (message for message in node.log.all() if not message.erased)
    first = ",".join(message.data for message in itertools.islice(messages, PAGE_MESSAGES))
    yield f"No. sockets {node.sockets()} {first}"
    while page := [message.data for message in itertools.islice(messages, PAGE_MESSAGES)]:
        yield "," + ",".join(page)


def _values(node: Node, before: Place | None, topic: str) -> dict[str, object]:
    """Return the values of the page."""
    messages = node.log.newest(PAGE_MESSAGES, before, Wanted(topic))
    status, peers = node.status(), node.peers()
    names = labels([status.node, *peers], told(peer.links for peer in peers))
    return {
        "node": status.node,
        "sockets": status.sockets,
        "resources": status.resources,
        "size": _size,
        "count": status.messages.count,
        "forks": len(status.forks),
        "warnings": status.warnings,
        "verdict": status.verdict,
        "peers": peers[:PAGE_PEERS],
        "label": lambda origin: names.get(node_of(origin), origin[:SHORT_ID]),
        "messages": messages,
        "topic": topic,
        "paged": before is not None,
        "older": token_of(messages[-1].order) if len(messages) == PAGE_MESSAGES else "",
        "when": _when,
        "erased": _erased,
    }


def _erased(erasure: Erasure, label: Callable[[str], str]) -> str:
    """Return what the page shows in the place of an erased text; `label` names nodes."""
    if not erasure.origin:
        return "(erased)"
    return f"(erased {_when(erasure.time)} by {label(erasure.origin)})"


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _when(milliseconds: int) -> str:
    """Return a time for people, to the second, UTC."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "invalid time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
