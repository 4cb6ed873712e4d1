"""The routes of the API that read, commit and erase messages."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ..codes import MAX_NUMBER
from ..disk.log import Page
from ..disk.pages import BEGINNING
from ..disk.wanted import Place
from ..errors import InputError, UnknownMessage
from ..node.fields import fields_of
from ..node.keys import check_key
from ..node.node import Node
from ..settings import (
    API_DEFAULT_LIMIT,
    API_DEFAULT_TIMEOUT,
    API_MAX_COPIES,
    API_MAX_COUNTED,
    API_MAX_LIMIT,
    API_MAX_SEARCH,
    API_MAX_TIMEOUT,
)
from ..wire.frames import Message
from .answers import Answer, Fields, Head, Progress, is_bulk, refusal_of
from .bodies import Lines, message_of
from .routes import FILTERS, Asked, Route, Slots, json_of, polled

REPEATED: Fields = [("Idempotent-Replayed", "true")]
"""Says that this answer was given before."""


def message_routes(node: Node, slots: Slots) -> list[Route]:
    """Return the routes."""

    def read(asked: Asked) -> Answer:
        counted = asked.number("copies", 0, 0, 1) > 0
        most = API_MAX_COUNTED if counted else API_MAX_LIMIT
        limit = asked.number("limit", API_DEFAULT_LIMIT, 1, most)
        after = asked.argument("after")
        order = asked.argument("order", "arrival")
        text, wanted = asked.argument("q"), asked.wanted()
        if len(text) > API_MAX_SEARCH:
            raise InputError(f"q is a text of at most {API_MAX_SEARCH} characters")
        if order != "newest" and (counted or text):
            raise InputError("copies and q need order=newest")
        if order == "arrival":
            arrived = node.log.arrivals(node.log.place(after), limit, wanted=wanted)
            found = [fields_of(message) for _, message in arrived]
            return _page(found, arrived, node.log.cursor(arrived.upto))
        place = place_of(after) if after else None
        if order == "time":
            page = node.log.ordered(place or BEGINNING, limit, wanted)
        elif order == "newest":
            page = node.log.search(text, limit, place, wanted)
        else:
            raise InputError(f"order is arrival, time or newest, not {order[:40]!r}")
        found = [fields_of(message) for message in page]
        if counted:
            for fields, spread in zip(found, node.report.spread(page), strict=True):
                fields.update(spread._asdict())
        return _page(found, page, token_of(page.place) if page.place else "")

    def commit(asked: Asked) -> Answer:
        copies, timeout = waiting(asked)
        skip = asked.argument("skip", "none")
        if skip not in ("none", "held"):
            raise InputError(f"skip is none or held, not {skip[:40]!r}")
        if is_bulk(asked.head):
            with slots.held():
                return _commit_lines(node, asked, copies, timeout, skip=skip == "held")
        text, topic, key = message_of(asked.body(), asked.topic(), key_in(asked.head))
        with slots.held(copies > 0):
            done = node.intake.commit(text, copies, timeout, topic, key)
        reached = HTTPStatus.CREATED if done.copies >= copies else HTTPStatus.ACCEPTED
        message = done.message()
        answer = json_of({**fields_of(message), "copies": done.copies}, reached)
        location = ("Location", f"/api/v1/messages/{quote(message.id, safe=':')}")
        fields = [*answer.fields, location, *REPEATED * done.repeated]
        return answer._replace(fields=fields)

    def show(asked: Asked) -> Answer:
        id = asked.parts["id"]
        message = node.log.message(id)
        if message is None:
            raise UnknownMessage(id)
        return polled(fields_of(message))

    def erase(asked: Asked) -> Answer:
        return json_of(fields_of(node.erase(asked.parts["id"])))

    return [
        Route("GET", "/api/v1/messages", read, f"after limit order q copies {FILTERS}"),
        Route("POST", "/api/v1/messages", commit, "copies timeout skip topic"),
        Route("GET", "/api/v1/messages/{id}", show),
        Route("DELETE", "/api/v1/messages/{id}", erase),
    ]


def key_in(head: Head) -> str:
    """Return the idempotency key in the header of a request, "" with none; raises KeyInvalid."""
    key: str | None = head.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return ""
    if len(key) > 1 and key[0] == key[-1] == '"':  # a draft of the IETF has it as a quoted string
        key = key[1:-1]
    check_key(key)
    return key


def waiting(asked: Asked) -> tuple[int, float]:
    """Return how many copies the request waits for, and for how many seconds at most."""
    copies = asked.number("copies", 0, 0, API_MAX_COPIES)
    return copies, asked.seconds("timeout", API_DEFAULT_TIMEOUT, API_MAX_TIMEOUT)


def _page(found: list[dict[str, Any]], page: Page[Any], next: str) -> Answer:
    answer = {"messages": found, "next": next, "complete": page.complete}
    return polled({**answer, **left_out(page)})


def left_out(page: Page[Any]) -> dict[str, int]:
    """Return the members of an answer that count what is not in it: damaged entries, and messages
    that were deleted before they were read."""
    counts = {"damaged": page.damaged, "missed": page.missed}
    return {name: count for name, count in counts.items() if count}


def token_of(place: Place) -> str:
    """Return a place in the shared order as a text; "" for the one before all messages."""
    time, origin, seq = place
    return f"{time}.{origin}.{seq}" if origin else ""


def place_of(token: str) -> Place:
    """Return the place in the shared order that `token_of` has turned into a text; raises
    InputError."""
    time, _, rest = token.partition(".")
    origin, _, seq = rest.partition(".")
    numbers = all(part.isascii() and part.isdigit() and len(part) < 17 for part in (time, seq))
    if not numbers or max(int(time), int(seq)) > MAX_NUMBER:
        raise InputError(
            "after must be the next of an earlier answer; omit it to start from the beginning"
        )
    return int(time), origin, int(seq)


def _commit_lines(node: Node, asked: Asked, copies: int, timeout: float, skip: bool) -> Answer:
    """Commit each line of the body; a bad line ends it, and the lines before it are stored.

    `skip`: skip lines whose id is already in the log.
    """
    count = repeated = 0
    first: Message | None = None
    last: Message | None = None
    ends: dict[str, int] = {}  # the last message of each origin: lines may repeat older ones
    held = node.report.holds if skip else None
    lines = Lines(asked.stream, asked.topic(), key_in(asked.head), held)
    answer: dict[str, Any] = {}
    try:
        for commit in node.intake.commit_many(lines):
            first = first or commit.message()
            last = commit.message(commit.count - 1)
            ends[commit.origin] = max(ends.get(commit.origin, 0), commit.last)
            count += commit.count
            repeated += commit.count * commit.repeated
        if last and copies:
            answer["copies"] = node.intake.wait_copies(ends, copies, timeout)
    except Exception as error:
        progress = Progress(lines.line, count, last.id if last else None) if lines.line else None
        return refusal_of(asked.head, error, progress)
    answer |= {
        "count": count,
        "repeated": repeated,
        "first": first and first.id,
        "last": last and last.id,
    }
    if skip:
        answer["skipped"] = lines.skipped
    reached = answer.get("copies", copies) >= copies
    return json_of(answer, HTTPStatus.CREATED if reached else HTTPStatus.ACCEPTED)
