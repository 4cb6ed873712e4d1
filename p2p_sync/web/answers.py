"""The one renderer of errors: a problem document (RFC 9457), a page, or a sentence.

Rendering needs nothing but the head of the request and the error, so it works whatever has failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

from ..errors import (
    Busy,
    ConsumerInUse,
    CursorGone,
    InputError,
    KeyReused,
    LogError,
    LogFull,
    LogGone,
    MessageTooLong,
    NotLent,
    NotRunning,
    P2PSyncError,
    UnknownConsumer,
    UnknownMessage,
)
from ..settings import HTTP_RETRY_AFTER

Head: TypeAlias = Mapping[str, Any]
"""The WSGI environment of a request, as far as it comes from its head."""
Fields: TypeAlias = list[tuple[str, str]]

PROBLEM_TYPE = "application/problem+json"
PROBLEM = "urn:p2p-sync:"
"""Begins the `type` of each problem document."""
HTML_TYPE = "text/html; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
EVENTS_TYPE = "text/event-stream"

LIVE = "p2p_sync.live"
"""Where the WSGI environment has what begins an answer that goes on without a worker: a function
that the engine calls with the connection. Such an answer has no body of its own."""

SAFE_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Header fields of each answer that has none of that name itself."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">{head}
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css">
<title>p2p_sync: {title}</title><header><h1><a href="/">p2p_sync</a></h1><p>{title}</p></header>
<main>{content}</main></html>
"""

_KINDS = (
    (NotRunning, HTTPStatus.SERVICE_UNAVAILABLE, "stopping"),
    (CursorGone, HTTPStatus.GONE, "cursor_gone"),
    (MessageTooLong, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "message_too_long"),
    ((UnknownMessage, UnknownConsumer), HTTPStatus.NOT_FOUND, "not_found"),
    (NotLent, HTTPStatus.CONFLICT, "not_lent"),
    (ConsumerInUse, HTTPStatus.CONFLICT, "consumer_in_use"),
    (KeyReused, HTTPStatus.UNPROCESSABLE_ENTITY, "key_reused"),
    (InputError, HTTPStatus.BAD_REQUEST, "invalid"),
    (LogFull, HTTPStatus.INSUFFICIENT_STORAGE, "log_full"),
    (LogError, HTTPStatus.SERVICE_UNAVAILABLE, "log_unavailable"),
    (Busy, HTTPStatus.SERVICE_UNAVAILABLE, "busy"),
    (Exception, HTTPStatus.INTERNAL_SERVER_ERROR, "failed"),
)
"""The status and the name of each kind of error; the first that fits."""


class Answer(NamedTuple):
    """The answer to a request."""

    status: HTTPStatus
    fields: Fields
    body: bytes

    def safe(self) -> Answer:
        """Return the answer with the safe fields."""
        return self._replace(fields=safe(self.fields))


def safe(fields: Fields) -> Fields:
    """Return header fields, and the safe ones that are not among them."""
    given = {name.lower() for name, _ in fields}
    return [*fields, *(field for field in SAFE_FIELDS.items() if field[0].lower() not in given)]


def refusal(head: Head, status: HTTPStatus, sentence: str, name: str = "", **more: Any) -> Answer:
    """Return the answer to a request that failed.

    `sentence` says what is wrong and how to fix it. Under `/api` it becomes the `detail` of a
    problem document, with `more` as further members; its `type` tells programs what is wrong, by
    `name` or that of the status. Elsewhere it is shown on a page if the client accepts one,
    otherwise as a line of text.
    """
    name = name or status.name.lower()
    path = str(head.get("PATH_INFO", ""))
    if path == "/api" or path.startswith("/api/"):
        document: dict[str, Any] = {"type": f"{PROBLEM}{name}", "title": status.phrase}
        document |= {"status": status.value, "detail": sentence}
        if is_bulk(head):  # unless `more` says otherwise
            document |= {"stored": 0, "last": None}
        kind, text = PROBLEM_TYPE, json.dumps(document | more, ensure_ascii=False)
    elif wants_page(head):
        alert = f'<p class="problem" role="alert">{escape(sentence)}</p>'
        back = '<p><a href="/">Back to the page of this node</a></p>'
        kind, text = HTML_TYPE, page(status.phrase, alert + back)
    else:
        kind, text = TEXT_TYPE, f"{sentence}\n"
    fields = [("Content-Type", kind)]
    if name in ("stopping", "busy"):
        fields.append(("Retry-After", f"{HTTP_RETRY_AFTER:g}"))
    return Answer(status, fields, text.encode("utf-8", "replace"))


class Refused(P2PSyncError):
    """A request that is refused with a `status` of its own and, perhaps, header `fields`."""

    def __init__(self, status: HTTPStatus, sentence: str, fields: Fields | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.fields = fields or []


class Progress(NamedTuple):
    """How far a request that brings many messages has come."""

    line: int  # the last that was read, from 1
    stored: int  # messages
    last: str | None  # the id of the last one that is stored


def refusal_of(head: Head, error: Exception, progress: Progress | None = None) -> Answer:
    """Return the answer to a request that `error` ended."""
    if isinstance(error, Refused):
        answer = refusal(head, error.status, str(error))
        return answer._replace(fields=answer.fields + error.fields)
    status, name = next((s, name) for kind, s, name in _KINDS if isinstance(error, kind))
    sentence = str(error)
    more: dict[str, Any] = {}
    if name == "failed":
        sentence = "this node failed; see its log"
    elif name == "stopping":
        sentence = "this node is stopping; try another one"
    elif isinstance(error, CursorGone):
        more |= {"next": error.next} | ({} if error.missed is None else {"missed": error.missed})
    elif isinstance(error, LogError) and not isinstance(error, LogGone) and not progress:
        sentence += "; nothing that was acknowledged is lost"
    if progress:
        line, stored, last = progress
        more |= {"reason": sentence, "stored": stored, "last": last}
        if status.value < 500 and name != "key_reused":  # its line is not the last that was read
            sentence, more["line"] = f"line {line}: {sentence}", line
        sentence += f"; {stored} {'message is' if stored == 1 else 'messages are'} stored"
        sentence += f", up to {last}; send only those after it again" if last else ""
    return refusal(head, status, sentence, name, **more)


def page(title: str, content: str, head: str = "") -> str:
    """Return a small page. `title` is text; `content` and `head` are HTML."""
    return _PAGE.format(title=escape(title), content=content, head=head)


def wants_page(head: Head) -> bool:
    """Return whether the client accepts pages."""
    return "text/html" in head.get("HTTP_ACCEPT", "").lower()


def is_bulk(head: Head) -> bool:
    """Return whether the request brings many messages to be committed."""
    kind = head.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    return (
        head.get("REQUEST_METHOD") == "POST"
        and head.get("PATH_INFO") == "/api/v1/messages"
        and kind == NDJSON_TYPE
    )
