"""Decides by the head of an HTTP request alone whether this node answers it.

It asks five questions, in this order. Is the request meant for this node, or has a page made its
own name point here (`Host`)? Does a person or a script send it, and not a page of another origin?
Is its query short? Does it have the token, if one is needed? Does the node take a body of that
size?
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qs

from ..address import is_ip
from ..settings import (
    HTTP_COOKIE_AGE,
    HTTP_MAX_BODY,
    HTTP_MAX_BULK_BODY,
    HTTP_MAX_PARAMETERS,
    HTTP_MAX_QUERY,
)
from .answers import HTML_TYPE, Answer, Fields, Head, is_bulk, page, refusal, safe, wants_page

Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)")

# The only names of this machine that need no token. They are compared as text: versions of Python
# and browsers disagree on other spellings of the same addresses, and browsers send fetch metadata
# to some of them only.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# Load balancers and orchestrators ask for these by any name; they show only the state.
_PROBES = ("/healthz", "/readyz")
# A GET of these changes something.
_ACTIONS = ("/add", "/commit")
# In the Accept header of a request for a part of a page: an image, a style, a script, a video ...
_PARTS = ("image/", "text/css", "script", "audio/", "video/", "font", "text/vtt")
# A forwarded request may come from anywhere.
_RELAYED = ("X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_REAL_IP", "FORWARDED", "VIA")
# Browsers send these when they prefetch; Sec-Purpose is the standard, the others are old.
_GUESSES = ("SEC_PURPOSE", "PURPOSE", "X_PURPOSE", "X_MOZ")

_REFRESH = '<meta http-equiv="refresh" content="0; url=/">'
_NEEDED = (
    "open the link that the node logged when it started, or send 'Authorization: Bearer TOKEN'; "
    "the token is in http-token in the node's data directory, or in its --http-token-file"
)


def head_of(
    fields: Mapping[str, str], method: str, target: str, path: str, query: str, length: int
) -> Head:
    """Return the head of a request as the WSGI environment has it.

    `fields` are the header fields, in capitals and with `_` for `-`; `path` is unquoted.
    """
    head: dict[str, Any] = {f"HTTP_{name}": value for name, value in fields.items()}
    head |= {"REQUEST_METHOD": method, "REQUEST_URI": target, "QUERY_STRING": query}
    head["PATH_INFO"] = "/" + path.lstrip("/") if path.startswith("/") else path
    head["CONTENT_TYPE"] = fields.get("CONTENT_TYPE", "")
    head["CONTENT_LENGTH"] = length
    return head


class Refusal(NamedTuple):
    """The answer to a request that does not get to the application."""

    status: HTTPStatus
    sentence: str
    fields: Sequence[tuple[str, str]] = ()

    def answer(self, head: Head) -> Answer:
        """Return it as bytes."""
        if self.status == HTTPStatus.OK:
            body = page(self.status.phrase, f"<p>{escape(self.sentence)}</p>", _REFRESH)
            answer = Answer(self.status, [("Content-Type", HTML_TYPE)], body.encode())
        else:
            answer = refusal(head, self.status, self.sentence)
        return answer._replace(fields=[*answer.fields, *self.fields]).safe()


@dataclass(frozen=True)
class Guard:
    """The rules of one HTTP port."""

    port: int
    token: str
    # The port listens on loopback: requests to one of LOCAL_NAMES need no token.
    local: bool = True
    # Names, in lower case, that clients may use besides localhost and IP addresses.
    names: frozenset[str] = frozenset()

    def judge(self, head: Head) -> Refusal | None:
        """Return the answer to a request that is refused, else None."""
        foreign = is_foreign(head) and not _navigates(head)
        if _is_probe(head) and not foreign:
            return None
        field = head.get("HTTP_HOST", "")
        host = host_of(field)
        if host is None:
            return Refusal(HTTPStatus.BAD_REQUEST, "a request needs one Host, a name or IP address")
        if not _names_host(head.get("REQUEST_URI", "/"), field):
            return Refusal(
                HTTPStatus.BAD_REQUEST, "the request line and the header Host name different hosts"
            )
        if host not in self.names and not (host == "localhost" or is_ip(host)):
            return Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this node is not known as {host}; if it should be, start it with "
                f"--http-name {host}",
            )
        if foreign:
            return Refusal(
                HTTPStatus.FORBIDDEN,
                "cross-origin request refused: a page of another origin may not do this; "
                "type the address, or use curl",
            )
        return _query(head) or self._login(head, host) or _size(head)

    def room(self, head: Head) -> int:
        """Return how many bytes of the request's body are worth keeping."""
        return 0 if _is_probe(head) or self.judge(head) else body_limit(head)

    def has_token(self, head: Head) -> bool:
        """Return whether the request has the token, in its header or its cookie."""
        return any(self._is_token(text) for text in self._sent(head))

    def needs_token(self, host: str) -> bool:
        """Return whether requests to `host` need the token."""
        return not (self.local and host in LOCAL_NAMES)

    @property
    def cookie(self) -> str:
        """The name of the cookie. It has the port, since browsers keep cookies by host only."""
        return f"p2p_sync_{self.port}"

    def _login(self, head: Head, host: str) -> Refusal | None:
        relayed = any(f"HTTP_{name}" in head for name in _RELAYED)
        if not (relayed or self.needs_token(host)):
            return None
        shown = parse_qs(head["QUERY_STRING"]).get("token") if head["PATH_INFO"] == "/" else None
        if shown and self._is_token(shown[0]):
            cookie = f"{self.cookie}={self.token}; Path=/; Max-Age={HTTP_COOKIE_AGE}"
            # No redirect: a Strict cookie is not sent along one that begins on another site.
            return Refusal(
                HTTPStatus.OK,
                "This browser can use the node now.",
                (
                    ("Set-Cookie", f"{cookie}; HttpOnly; SameSite=Strict"),
                    ("Cache-Control", "no-store"),
                ),
            )
        if self.has_token(head):
            return None
        wrong = shown or list(self._sent(head))
        problem = "this token is wrong" if wrong else "a token is required"
        return Refusal(
            HTTPStatus.UNAUTHORIZED, f"{problem}: {_NEEDED}", (("WWW-Authenticate", "Bearer"),)
        )

    def _sent(self, head: Head) -> Iterator[str]:
        """Yield each text that the request sends as a token."""
        scheme, _, bearer = head.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":
            yield bearer.strip()
        for pair in head.get("HTTP_COOKIE", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie:
                yield value

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def host_of(field: str) -> str | None:
    """Return the host in a Host field, in lower case; None if there is none."""
    match = _HOST.fullmatch(field)
    if not match or (match[1] and not (":" in match[1] and is_ip(match[1]))):
        return None
    return str(match[1] or match[2]).lower()


def is_foreign(head: Head) -> bool:
    """Return whether a page of another origin sent the request, as far as the browser says.

    Another port of the same host is another origin. Clients other than browsers do not send these
    headers. Old browsers, and all browsers over plain HTTP to another machine, do not send
    Sec-Fetch-Site: there the Strict cookie protects, and opening `/add` asks first.
    """
    if head.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return True
    own = _own_origins(head)
    referer = str(head.get("HTTP_REFERER", "")).lower()
    return (
        str(head.get("HTTP_ORIGIN", own[0])).lower() not in own
        or bool(referer and _origin_of(referer) not in own)
        or _is_part(head)
    )


def is_own(head: Head) -> bool:
    """Return whether the browser says that this node's own page sent the request."""
    site = head.get("HTTP_SEC_FETCH_SITE") == "same-origin"
    return site or str(head.get("HTTP_ORIGIN", "")).lower() in _own_origins(head)


def is_opened(head: Head) -> bool:
    """Return whether a browser opens the address, but not from this node's own page.

    The user may have typed it; a link in a mail, or a redirect, looks the same.
    """
    if is_own(head):
        return False
    mode, dest = head.get("HTTP_SEC_FETCH_MODE"), head.get("HTTP_SEC_FETCH_DEST")
    if mode or dest:
        return mode == "navigate" or dest == "document"
    return wants_page(head)


def is_guess(head: Head) -> bool:
    """Return whether a browser asks before the user decides to: prefetch, prerender, preview."""
    return any(f"HTTP_{name}" in head for name in _GUESSES)


def _own_origins(head: Head) -> tuple[str, str]:
    host = head.get("HTTP_HOST", "").lower()
    return f"http://{host}", f"https://{host}"


def _origin_of(url: str) -> str:
    """Return the scheme and the authority of a URL in lower case, user names included."""
    match = _ORIGIN.match(url)
    return match[0] if match else ""


def _is_part(head: Head) -> bool:
    """Return whether a browser loads the answer as a part of a page.

    The parts of this node's own page are below /static/.
    """
    path, accept = head["PATH_INFO"], str(head.get("HTTP_ACCEPT", "")).lower()
    if path.startswith("/static/") or "text/html" in accept:
        return False
    if any(kind in accept for kind in _PARTS):
        return True
    if path not in _ACTIONS:
        return False
    # For a script or a fetch a browser accepts anything, as curl does; when it opens an address, it
    # accepts text/html.
    agent = str(head.get("HTTP_USER_AGENT", "")).lower()
    unlabelled = accept and "HTTP_SEC_FETCH_SITE" not in head and agent.startswith("mozilla/")
    return bool(unlabelled) or head.get("HTTP_SEC_FETCH_DEST", "empty") not in ("empty", "document")


def _is_probe(head: Head) -> bool:
    return head["PATH_INFO"] in _PROBES


def _names_host(target: str, host: str) -> bool:
    """Return whether a request target is a path, or a URL with the host of the Host field."""
    if target.startswith("/"):
        return True
    match = _ABSOLUTE.match(target.lower())
    return match is not None and match[1] == host.lower()


def body_limit(head: Head) -> int:
    """Return how many bytes the body of the request may have."""
    return HTTP_MAX_BULK_BODY if is_bulk(head) else HTTP_MAX_BODY


def _navigates(head: Head) -> bool:
    """Return whether the request is one that a page of any origin may open."""
    path = str(head["PATH_INFO"])
    mode = str(head.get("HTTP_SEC_FETCH_MODE", "navigate"))
    return (path in ("/", *_PROBES) or path.startswith("/static/")) and mode == "navigate"


def _query(head: Head) -> Refusal | None:
    query = head["QUERY_STRING"]
    if len(query) > HTTP_MAX_QUERY and head["PATH_INFO"] != "/commit":
        sentence = f"the query string may have at most {HTTP_MAX_QUERY} bytes; shorten it"
        return Refusal(HTTPStatus.BAD_REQUEST, sentence)
    if query.count("&") >= HTTP_MAX_PARAMETERS:
        sentence = (
            f"the query string may have at most {HTTP_MAX_PARAMETERS} parameters; "
            "an & in a message is written %26"
        )
        return Refusal(HTTPStatus.BAD_REQUEST, sentence)
    return None


def _size(head: Head) -> Refusal | None:
    limit = body_limit(head)
    if int(head.get("CONTENT_LENGTH") or 0) <= limit:
        return None
    sentence = f"the body may have at most {limit} bytes; send many messages as NDJSON"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def guarded(application: Application, guard: Guard) -> Application:
    """Return the WSGI `application` with `guard` before it and safe fields on each answer."""

    def call(head: Any, start_response: Any) -> Iterable[bytes]:
        def start(status: str, fields: Fields, *rest: Any) -> Any:
            return start_response(status, safe(fields), *rest)

        refused = guard.judge(head)
        if refused is None:
            return application(head, start)
        status, fields, body = refused.answer(head)
        length = ("Content-Length", f"{len(body)}")
        start_response(f"{status.value} {status.phrase}", [*fields, length])
        return [] if head["REQUEST_METHOD"] == "HEAD" else [body]

    return call
