"""Decides by the head of an HTTP request alone whether this node answers it.

There are four questions, in this order. Is the request meant for this node, or has a page made
its own name point here (`Host`)? Does a person or a script want it, and not a page of another
origin? Does it bring the token, where one is needed? Does the node take a body of that size?
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qs

from ..address import is_ip
from ..settings import HTTP_COOKIE_AGE, HTTP_MAX_BODY, HTTP_MAX_BULK_BODY
from .problems import HTML_TYPE, NONE_STORED, failure, is_bulk, page, wants_page

# The WSGI environment of a request; the guard reads no more of it than the head.
Head: TypeAlias = Mapping[str, Any]
Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)")

# This machine, by the only names that need no token. Each is literal: other spellings of the same
# addresses are judged differently by each version of Python and by each browser, which sends its
# fetch metadata to some of them and not to others.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# They show nothing but the state, to anyone, by any name: load balancers and orchestrators ask.
_PROBES = ("/healthz", "/readyz")
# A GET of these changes something.
_ACTIONS = ("/add", "/commit")
# In the Accept header of a request for a part of a page: an image, a style, a script, a video ...
_PARTS = ("image/", "text/css", "script", "audio/", "video/", "font", "text/vtt")
# A request that came through a proxy is not known to come from this machine.
_RELAYED = ("X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_REAL_IP", "FORWARDED", "VIA")
# Browsers send them with what they load ahead; Sec-Purpose is the standard's, the rest are old.
_GUESSES = ("SEC_PURPOSE", "PURPOSE", "X_PURPOSE", "X_MOZ")

# With every answer; Cache-Control where the answer has none of its own.
SAFE_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
]
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
    # The port listens on loopback: those who call it by one of LOCAL_NAMES need no token.
    local: bool = True
    # Further names, in lower case, that clients may use beside localhost and IP addresses.
    names: frozenset[str] = frozenset()

    def judge(self, head: Head) -> Answer | None:
        """Return the answer to a request that does not get through, else None."""
        foreign = is_foreign(head) and not _navigates(head)
        if _is_probe(head) and not foreign:
            return None
        field = head.get("HTTP_HOST", "")
        host = host_of(field)
        if host is None:
            return Answer(HTTPStatus.BAD_REQUEST, "a request has one Host, a name or IP address")
        if not _names_host(head.get("REQUEST_URI", "/"), field):
            return Answer(
                HTTPStatus.BAD_REQUEST, "the request line and the header Host name different hosts"
            )
        if host not in self.names and not (host == "localhost" or is_ip(host)):
            return Answer(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this node is not known as {host}; if it should be, start it with "
                f"--http-name {host}",
            )
        if foreign:
            return Answer(
                HTTPStatus.FORBIDDEN,
                "cross-origin request refused: a page of another origin may not do this; "
                "type the address, or use curl",
            )
        return self._login(head, host) or _size(head)

    def room(self, head: Head) -> int:
        """Return how many bytes of the request's body are worth keeping."""
        return 0 if _is_probe(head) or self.judge(head) else body_limit(head)

    def has_token(self, head: Head) -> bool:
        """Return whether the request brings the token, in its header or its cookie."""
        return any(self._is_token(text) for text in self._sent(head))

    def needs_token(self, host: str) -> bool:
        """Return whether those who call this node `host` need the token."""
        return not (self.local and host in LOCAL_NAMES)

    @property
    def cookie(self) -> str:
        """The cookie's name; it tells the port, for browsers keep cookies by host alone."""
        return f"p2p_sync_{self.port}"

    def _login(self, head: Head, host: str) -> Answer | None:
        relayed = any(f"HTTP_{name}" in head for name in _RELAYED)
        if not (relayed or self.needs_token(host)):
            return None
        shown = parse_qs(head["QUERY_STRING"]).get("token") if head["PATH_INFO"] == "/" else None
        if shown and self._is_token(shown[0]):
            cookie = f"{self.cookie}={self.token}; Path=/; Max-Age={HTTP_COOKIE_AGE}"
            # No redirect: a Strict cookie is not sent along one that begins on another site.
            return Answer(
                HTTPStatus.OK,
                "This browser may use the node now.",
                (
                    ("Set-Cookie", f"{cookie}; HttpOnly; SameSite=Strict"),
                    ("Cache-Control", "no-store"),
                ),
            )
        if self.has_token(head):
            return None
        wrong = shown or list(self._sent(head))
        problem = "this token is wrong" if wrong else "a token is required"
        return Answer(
            HTTPStatus.UNAUTHORIZED, f"{problem}: {_NEEDED}", (("WWW-Authenticate", "Bearer"),)
        )

    def _sent(self, head: Head) -> Iterator[str]:
        """Yield what the request brings as a token."""
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
    """Return the host that a Host field names, in lower case, None where it names none."""
    match = _HOST.fullmatch(field)
    if not match or (match[1] and not (":" in match[1] and is_ip(match[1]))):
        return None
    return str(match[1] or match[2]).lower()


def is_foreign(head: Head) -> bool:
    """Return whether a browser shows that a page of another origin is behind the request.

    Another port of the same host is another origin. Clients other than browsers do not send these
    headers. Nor do old browsers, and any browser over plain HTTP from another machine, send the
    first of them: there the Strict cookie protects, and a page that is opened is first asked about.
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
    """Return whether a browser vouches that this node's own page is behind the request."""
    site = head.get("HTTP_SEC_FETCH_SITE") == "same-origin"
    return site or str(head.get("HTTP_ORIGIN", "")).lower() in _own_origins(head)


def is_opened(head: Head) -> bool:
    """Return whether a browser opens the address, other than from this node's own page.

    It may have been typed, but a link in a mail, or a redirect, looks the same.
    """
    if is_own(head):
        return False
    mode, dest = head.get("HTTP_SEC_FETCH_MODE"), head.get("HTTP_SEC_FETCH_DEST")
    if mode or dest:
        return mode == "navigate" or dest == "document"
    return wants_page(head.get("HTTP_ACCEPT", ""))


def is_guess(head: Head) -> bool:
    """Return whether a browser asks ahead of a person's decision: prefetch, prerender, preview."""
    return any(f"HTTP_{name}" in head for name in _GUESSES)


def _own_origins(head: Head) -> tuple[str, str]:
    host = head.get("HTTP_HOST", "").lower()
    return f"http://{host}", f"https://{host}"


def _origin_of(url: str) -> str:
    """Return the scheme and the authority of a URL in lower case, user names included."""
    match = _ORIGIN.match(url)
    return match[0] if match else ""


def _is_part(head: Head) -> bool:
    """Return whether a browser loads the answer as a part of a page, and not as a page.

    The parts of this node's page are below /static/.
    """
    path, accept = head["PATH_INFO"], str(head.get("HTTP_ACCEPT", "")).lower()
    if path.startswith("/static/") or "text/html" in accept:
        return False
    if any(kind in accept for kind in _PARTS):
        return True
    if path not in _ACTIONS:
        return False
    # For a script or a fetch a browser accepts anything, as curl does; but to open an address
    # every browser accepts text/html.
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
    """Return the most bytes that the body of such a request may have."""
    kind = head.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    bulk = head["PATH_INFO"] == "/api/v1/messages" and kind == "application/x-ndjson"
    return HTTP_MAX_BULK_BODY if bulk else HTTP_MAX_BODY


def _navigates(head: Head) -> bool:
    """Return whether the request only shows what may be shown from anywhere."""
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
            added = [(name, value) for name, value in SAFE_HEADERS if name.lower() not in given]
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
    """Return the content type and the body of an answer."""
    status, sentence, _ = answer
    if status == HTTPStatus.OK:
        return HTML_TYPE, page(status.phrase, f"<p>{escape(sentence)}</p>", _REFRESH).encode()
    path, kind = head["PATH_INFO"], head.get("CONTENT_TYPE", "")
    more = NONE_STORED if is_bulk(head["REQUEST_METHOD"], path, kind) else {}
    return failure(path, head.get("HTTP_ACCEPT", ""), status, sentence, **more)
