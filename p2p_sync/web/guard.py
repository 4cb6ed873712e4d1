"""Who may ask this node for what over HTTP, judged by the head of a request alone.

Four questions, in this order: is the request meant for this node, or has a page made its own
name point here (`Host`); is it the wish of a person or a script, not of another origin's page;
does it bring the token, where one is needed; is its body of a size that is taken?
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qs

from ..address import is_ip, is_loopback
from .problems import KIND, is_api, problem

# What WSGI tells of a request; the guard reads no more of it than the head.
Head: TypeAlias = Mapping[str, Any]
Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]

# Bytes of a body: of a bulk commit, which is read line by line from a file, and of any other.
MAX_LINES = 1024 * 1024 * 1024
MAX_BODY = 1024 * 1024

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
# They say nothing but the state, to whoever asks.
_PROBES = ("/healthz", "/readyz")
# A request that came through a proxy is not known to come from this machine.
_RELAYED = ("X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_REAL_IP", "FORWARDED", "VIA")
_COOKIE_AGE = 30 * 24 * 3600

# With every answer; Cache-Control where the answer has none of its own.
_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
]
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}
<title>p2p_sync: {title}</title><h1>{title}</h1><p>{sentence}</p></html>
"""
_REFRESH = '<meta http-equiv="refresh" content="0; url=/">'
_NEEDED = (
    "open the link that the node logged when it started, or send 'Authorization: Bearer TOKEN'; "
    "the token is in http-token in the node's data directory, or in the file that it was given"
)


class Answer(NamedTuple):
    """What is answered in the application's stead."""

    status: HTTPStatus
    sentence: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Guard:
    """The rules of one HTTP port."""

    port: int
    token: str
    # The port listens on loopback: who comes to it by a loopback name needs no token.
    local: bool = True
    # Names, in lower case, by which the node may be called beside localhost and IP addresses.
    names: frozenset[str] = frozenset()

    def judge(self, head: Head) -> Answer | None:
        """Return the answer to a request that does not get through, else None."""
        host = host_of(head.get("HTTP_HOST", ""))
        if host is None:
            return Answer(HTTPStatus.BAD_REQUEST, "a request has one Host, a name or IP address")
        if host not in self.names and not (host == "localhost" or is_ip(host)):
            return Answer(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this node is not known as {host}; if it should be, start it with "
                f"--http-name {host}",
            )
        if is_foreign(head) and not _navigates(head):
            return Answer(
                HTTPStatus.FORBIDDEN,
                "a page of another origin may not do this; type the address, or use curl",
            )
        return self._login(head, host) or _size(head)

    def room(self, head: Head) -> int:
        """Return how many bytes of the request's body are worth keeping."""
        return 0 if self.judge(head) else body_limit(head)

    @property
    def cookie(self) -> str:
        """The cookie's name; it tells the port, for browsers keep cookies by host alone."""
        return f"p2p_sync_{self.port}"

    def _login(self, head: Head, host: str) -> Answer | None:
        relayed = any(f"HTTP_{name}" in head for name in _RELAYED)
        if head["PATH_INFO"] in _PROBES or (self.local and is_loopback(host) and not relayed):
            return None
        shown = parse_qs(head["QUERY_STRING"]).get("token") if head["PATH_INFO"] == "/" else None
        if shown and self._is_token(shown[0]):
            cookie = f"{self.cookie}={self.token}; Path=/; Max-Age={_COOKIE_AGE}"
            # No redirect: a Strict cookie is not sent along one that begins on another site.
            return Answer(
                HTTPStatus.OK,
                "This browser may use the node now.",
                (
                    ("Set-Cookie", f"{cookie}; HttpOnly; SameSite=Strict"),
                    ("Cache-Control", "no-store"),
                ),
            )
        scheme, _, bearer = head.get("HTTP_AUTHORIZATION", "").partition(" ")
        sent = [bearer.strip()] if scheme.lower() == "bearer" else []
        for pair in head.get("HTTP_COOKIE", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie:
                sent.append(value)
        if any(self._is_token(text) for text in sent):
            return None
        problem = "this token is wrong" if shown or sent else "this node asks for its token"
        return Answer(
            HTTPStatus.UNAUTHORIZED, f"{problem}: {_NEEDED}", (("WWW-Authenticate", "Bearer"),)
        )

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def host_of(field: str) -> str | None:
    """Return the host that a Host field names, in lower case, None where it names none."""
    match = _HOST.fullmatch(field)
    if not match or (match[1] and not is_ip(match[1])):
        return None
    return str(match[1] or match[2]).lower()


def is_foreign(head: Head) -> bool:
    """Return whether a browser says that another origin's page is behind the request.

    Another port of the same host is another origin. Who is no browser says nothing, nor does a
    browser that comes over plain HTTP from another machine: there the Strict cookie protects.
    """
    if head.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return True
    host = head["HTTP_HOST"].lower()
    own = (f"http://{host}", f"https://{host}")
    return str(head.get("HTTP_ORIGIN", own[0])).lower() not in own


def body_limit(head: Head) -> int:
    """Return the most bytes that the body of such a request may have."""
    kind = head.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    bulk = head["PATH_INFO"] == "/api/v1/messages" and kind == "application/x-ndjson"
    return MAX_LINES if bulk else MAX_BODY


def _navigates(head: Head) -> bool:
    """Return whether the request does no more than show what may be shown from anywhere."""
    path = str(head["PATH_INFO"])
    mode = str(head.get("HTTP_SEC_FETCH_MODE", "navigate"))
    return (path in ("/", *_PROBES) or path.startswith("/static/")) and mode == "navigate"


def _size(head: Head) -> Answer | None:
    limit = body_limit(head)
    if int(head.get("CONTENT_LENGTH") or 0) <= limit:
        return None
    sentence = f"the body of such a request has at most {limit} bytes; send many messages as NDJSON"
    return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def guarded(application: Application, guard: Guard) -> Application:
    """Return the WSGI `application` with `guard` before it and safe headers on each answer."""

    def call(head: Any, start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            given = {name.lower() for name, _ in headers}
            added = [(name, value) for name, value in _HEADERS if name.lower() not in given]
            return start_response(status, [*headers, *added], *rest)

        answer = guard.judge(head)
        if answer is None:
            return application(head, start)
        kind, body = _body(answer, head)
        fields = [("Content-Type", kind), ("Content-Length", f"{len(body)}"), *answer.headers]
        start(f"{answer.status.value} {answer.status.phrase}", fields)
        return [] if head["REQUEST_METHOD"] == "HEAD" else [body]

    return call


def _body(answer: Answer, head: Head) -> tuple[str, bytes]:
    """Return the type and the text of an answer, in kind."""
    status, sentence, _ = answer
    if is_api(head["PATH_INFO"]):
        return KIND, problem(status, sentence).encode()
    if status == HTTPStatus.OK or "text/html" in head.get("HTTP_ACCEPT", "").lower():
        page = _PAGE.format(
            refresh=_REFRESH if status == HTTPStatus.OK else "",
            title=status.phrase,
            sentence=escape(sentence),
        )
        return "text/html; charset=utf-8", page.encode()
    return "text/plain; charset=utf-8", f"{sentence}\n".encode()
