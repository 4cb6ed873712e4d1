"""The HTTP that opens a WebSocket, for both sides (RFC 6455, section 4). Pure: bytes in, bytes out.

The side that dials sends a GET with a key, the side that accepts answers 101 with a digest of that
key. One more header of each says which node it is (see wire/proof.py). Nothing else of HTTP is
used: no redirects, cookies, extensions or subprotocols. The libraries have handshakes, too, but the
dialling one keeps every peer's cookies in one place and sends them to other peers, and the
accepting one checks next to nothing.

A browser names the page that opens a WebSocket in the header Origin; nodes send none. A page may
open one only if it comes from this very host and port, and only if the host is a name that no
stranger's name server controls: a page could be made to look like this node's own otherwise (DNS
rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Container
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlsplit

from ..address import Address, is_ip
from ..errors import DialError, P2PSyncError
from ..settings import MAX_HANDSHAKE_BYTES
from ..wire.proof import HEADER

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class Refused(P2PSyncError):
    """A request that is answered with an HTTP error; the text is a sentence for its sender."""

    def __init__(self, status: HTTPStatus, sentence: str, *headers: str) -> None:
        super().__init__(sentence)
        self.kind = status.name.lower()
        body = f"{sentence}\n".encode()
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *headers,
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        self.answer = "\r\n".join([*head, "", ""]).encode("latin-1") + body


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers `key`."""
    digest = hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    """Return the first line and the headers, names in lower case; ValueError if one is none.

    The values of a header that comes twice are joined by a comma.
    """
    start, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError(line)
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return start, fields


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


# -- the side that dials ---------------------------------------------------------------------------


def request(address: Address, path: str, key: bytes, header: str) -> bytes:
    """Return the GET that asks `address` for a WebSocket; `key` is 16 fresh random bytes, `header`
    says which node asks."""
    host = replace(address, host=address.host.partition("%")[0])  # a zone means nothing elsewhere
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {str(host).partition('://')[2]}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode('ascii')}",
        "Sec-WebSocket-Version: 13",
        f"{HEADER}: {header}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def check_answer(head: bytes | None, key: bytes, address: Address) -> str | None:
    """Return the header that says which node has answered, if there is one. Raises DialError, with
    the reason, unless `head` agrees to `request`; None: it is too long."""
    if head is None:
        raise DialError("its answer to the handshake is too long")
    try:
        start, fields = _parse(head)
    except ValueError:
        raise DialError("no WebSocket handshake: its answer has a line that is no header") from None
    status = re.fullmatch(r"HTTP/1\.1 ([0-9]{3})( .*)?", start)
    if status is None:
        raise DialError("no WebSocket handshake: its answer is not HTTP")
    if status[1] != "101":
        raise DialError(_explain(int(status[1]), address), refused=True)
    accept = accept_key(base64.b64encode(key).decode("ascii"))
    for name, right in (
        ("upgrade", fields.get("upgrade", "").lower() == "websocket"),
        ("connection", "upgrade" in re.split(r"[\s,]+", fields.get("connection", "").lower())),
        ("sec-websocket-accept", fields.get("sec-websocket-accept") == accept),
        ("sec-websocket-extensions", not fields.get("sec-websocket-extensions")),
        ("sec-websocket-protocol", not fields.get("sec-websocket-protocol")),
    ):
        if not right:
            raise DialError(f"no WebSocket handshake: the header {name} of its answer is wrong")
    return fields.get(HEADER.lower())


def _explain(status: int, address: Address) -> str:
    """Return what an HTTP answer other than 101 means to the side that dialled."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "it is full (HTTP 503)"
    reason = f"it answered HTTP {status} instead of a WebSocket handshake"
    if address.port < 65535:
        likely = Address(address.host, address.port + 1, address.secure)
        reason += f"; if that is a node's HTTP port, its peer port is likely {likely}"
    return reason


# -- the side that accepts -------------------------------------------------------------------------


def welcome(key: str, header: str) -> bytes:
    """Return the 101 that agrees to the request with `key`; `header` says which node answers, or is
    empty."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
        *([f"{HEADER}: {header}"] if header else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def check_request(head: bytes | None, names: Container[str]) -> tuple[str, str | None]:
    """Return the key of a request for a WebSocket, and the header that says which node asks, if
    there is one; raises Refused if it is no such request.

    `head` is None if it is too long. A page of one of the hosts `names`, or of an IP address,
    may be this node's own.
    """
    if head is None:
        raise Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The headers of a handshake have at most {MAX_HANDSHAKE_BYTES} bytes.",
        )
    try:
        start, fields = _parse(head)
    except ValueError:
        raise _bad("A line of the headers is not a name, a colon and a value.") from None
    form = re.fullmatch(r"(\S+) .+ (HTTP/1\.[01])", start)
    if form and "upgrade" not in fields:
        raise Refused(
            HTTPStatus.UPGRADE_REQUIRED,
            "This is the peer port, which speaks WebSocket with other nodes. The page and the API "
            "are on the node's HTTP port, one below unless it was told otherwise.",
            "Upgrade: websocket",
        )
    if not form or form.groups() != ("GET", "HTTP/1.1"):
        raise _bad("A handshake begins with GET, a path and HTTP/1.1.")
    if "websocket" not in _tokens(fields["upgrade"]):
        raise _bad("The header Upgrade must name websocket.")
    if "upgrade" not in _tokens(fields.get("connection", "")):
        raise _bad("The header Connection must name Upgrade.")
    if fields.get("sec-websocket-version") != "13":
        raise Refused(
            HTTPStatus.UPGRADE_REQUIRED,
            "This node speaks version 13 of WebSocket, RFC 6455.",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
        )
    if "host" not in fields or "," in fields["host"]:
        raise _bad("The header Host must be there, once.")
    key = fields.get("sec-websocket-key", "")
    if not _is_key(key):
        raise _bad("The header Sec-WebSocket-Key must be 16 bytes in base 64.")
    if "origin" in fields and not _same_origin(fields["origin"], fields["host"], names):
        raise Refused(
            HTTPStatus.FORBIDDEN, "A page of another origin may not open a link to this node."
        )
    return key, fields.get(HEADER.lower())


def bad_header() -> Refused:
    """Return the refusal of a malformed header."""
    return _bad(f"The header {HEADER} must be 2, a key, the number of a start and a nonce.")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _same_origin(origin: str, host: str, names: Container[str]) -> bool:
    """Return whether a browser's page comes from this very host and port."""
    try:
        page, own = urlsplit(origin), urlsplit(f"//{host}")
        if origin.lower() != f"{page.scheme}://{page.netloc}".lower():
            return False
        if set("@%") & set(page.netloc + host):  # a user or a zone: no browser sends these
            return False
        default = {"http": 80, "https": 443}[page.scheme]
        same = (page.hostname, page.port or default) == (own.hostname, own.port or default)
    except (KeyError, ValueError):
        return False
    name = own.hostname or ""
    return same and (name in names or is_ip(name))


def _bad(sentence: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, sentence)
