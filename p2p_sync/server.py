"""Accepts peers: the one door to websocket-server.

The library's server listens and gives each connection a thread of its own; its handler is
replaced, for it checks next to nothing. What we do instead: a handshake with deadlines, limits
and HTTP answers, then a Link, which is read in the connection's thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import logging
import socket
import threading
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from .address import is_ip, is_loopback
from .config import MAX_HANDSHAKE_BYTES, MAX_HANDSHAKES, SPARE_PEERS, Settings
from .counters import Counters
from .credentials import Credentials
from .errors import LinkClosed, P2PSyncError
from .link import Handler, Link
from .repeats import Repeats
from .stream import Stream, plain_endpoint
from .tls import Secured, end, streamable

_handlers = logging.root.handlers[:]
import websocket_server

logging.root.handlers[:] = _handlers  # the import has set up logging, which is not its business

logger = logging.getLogger("p2p_sync")


class Refused(P2PSyncError):
    """A handshake that is answered with an HTTP error."""

    def __init__(self, status: HTTPStatus, sentence: str, *headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class PeerServer(websocket_server.WebsocketServer):
    """Listens on the peer port and makes a Link of each connection that shakes hands."""

    request_queue_size = 128

    handler: Handler

    def __init__(
        self,
        port: int,
        settings: Settings,
        credentials: Credentials,
        counters: Counters | None = None,
    ) -> None:
        """Bind `settings.host` and `port` (0: any free one); raises OSError if that fails."""
        family, *_, bound = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(bound[0], port)
        self.RequestHandlerClass = PeerConnection
        self.settings = settings
        self.credentials = credentials
        self.counters = counters or Counters()
        self.repeats = Repeats()
        self._lock = threading.Lock()  # guards the two tables
        self._handshakes: dict[socket.socket, None] = {}
        self._links: set[Link] = set()
        self._thread: threading.Thread | None = None

    # -- the owner's thread ---------------------------------------------------------------------

    def start(self, handler: Handler) -> None:
        """Accept peers in a thread, until `stop`; their links tell `handler`."""
        self.handler = handler
        self._thread = threading.Thread(target=self.serve_forever, name="accept", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end unfinished handshakes; links are their owner's to close."""
        if self._thread:
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._lock:
            unfinished = list(self._handshakes)
        for connection in unfinished:
            end(connection)

    # -- the accepting thread -------------------------------------------------------------------

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = super().get_request()
            return self.credentials.tls.accepted(connection), address
        except OSError as error:
            logger.warning("accepting a connection failed: %s", error)
            threading.Event().wait(0.1)  # out of descriptors: do not spin until there are some
            raise

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        with self._lock:
            self._handshakes[request] = None
            oldest = next(iter(self._handshakes))
            too_many = len(self._handshakes) > MAX_HANDSHAKES
            if too_many:
                del self._handshakes[oldest]
        if too_many:
            end(oldest)
        super().process_request(request, client_address)

    # -- the connections' threads ---------------------------------------------------------------

    def admit(self, connection: socket.socket, link: Link) -> None:
        """Count `link` among the accepted ones; raises Refused when there is no room.

        Those in the spare places are told addresses, then their links are closed (see overlay.py).
        """
        host = link.remote[0]
        with self._lock:
            if len(self._links) >= self.settings.max_peers + SPARE_PEERS:
                raise _full(f"This node is full: it accepts {self.settings.max_peers} links.")
            limit = self.settings.max_peers_per_host
            same = sum(_site(other.remote[0]) == _site(host) for other in self._links)
            if same >= limit and not is_loopback(host):
                raise _full(f"This node accepts {limit} links of one host, and has them of yours.")
            self._links.add(link)
            self._handshakes.pop(connection, None)

    def release(self, connection: socket.socket, link: Link) -> None:
        """Forget a connection, whatever became of it."""
        with self._lock:
            self._links.discard(link)
            self._handshakes.pop(connection, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("serving %s failed", client_address)

    def allowed_host(self, host: str) -> bool:
        """Return whether a page of `host` may be this node's own."""
        names = {"localhost", self.settings.host.lower()}
        if self.settings.advertise:
            names.add(self.settings.advertise.host)
        return host.lower() in names or is_ip(host)


class PeerConnection(websocket_server.WebSocketHandler):
    """One accepted connection, in its own thread from the first byte to the last."""

    server: PeerServer

    def setup(self) -> None:
        settings = self.server.settings
        remote = plain_endpoint(self.client_address)
        self.connection = streamable(self.request)
        self.stream = Stream(self.connection, settings.handshake_timeout)
        self.deadline = time.monotonic() + settings.handshake_timeout
        self.stream.deadline = self.deadline
        self.link = Link(self.stream, self.server.handler, settings, remote)
        self.entered = False  # counted by the gate

    def handle(self) -> None:
        try:
            if isinstance(self.connection, Secured):
                self.link.binding = self.connection.shake_hands(self.deadline)
            key = self._read_handshake()
            if self.server.credentials.keys:
                self._wait_at_the_gate()
            self.server.admit(self.request, self.link)
            answer = self.make_handshake_response(key)
            self.stream.write(answer.encode("ascii"), self.server.settings.handshake_timeout)
        except Refused as refused:
            self.server.counters.add("refusals_total", refused.status.name.lower())
            what = f"{self.link.remote[0]} {refused}"
            if news := self.server.repeats.failed(what, str(refused), time.monotonic()):
                logger.info("refused a connection from %s: %s", self.link, news)
            self._refuse(refused)
        except LinkClosed as error:
            logger.debug("a connection from %s ended in its handshake: %s", self.link, error)
        else:
            self.stream.deadline = None
            self.link.run()

    def finish(self) -> None:
        self.server.release(self.request, self.link)
        if self.entered and not self.link.proved:
            self.server.credentials.gate.leave(self.link.remote[0])
        self.stream.close()

    def _wait_at_the_gate(self) -> None:
        """Let a host from which proofs have failed wait; raises Refused."""
        wait = self.server.credentials.gate.enter(self.link.remote[0])
        if wait is None:
            raise _full("Proofs from your host have failed, and others of it are under way.")
        self.entered = True
        if wait:
            self.stream.wait_readable(wait)  # it has to wait for us: what comes is the end

    def _read_handshake(self) -> str:
        """Read the opening handshake and return its key; raises Refused."""
        head = self.stream.read_until(b"\r\n\r\n", MAX_HANDSHAKE_BYTES)
        if head is None:
            raise Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The headers of a handshake have at most {MAX_HANDSHAKE_BYTES} bytes.",
            )
        request, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        if rest.rpartition(" ")[2] != "HTTP/1.1":
            raise _bad("A handshake begins with GET, a path and HTTP/1.1.")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise _bad("A line of the headers is not a name, a colon and a value.")
            name = name.lower()
            if name in fields and name in ("host", "origin", "sec-websocket-key"):
                raise _bad(f"The header {name} stands twice.")
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
        if method != "GET":
            raise _bad("A handshake is a GET.")
        self._check_fields(fields)
        return fields["sec-websocket-key"]

    def _check_fields(self, fields: dict[str, str]) -> None:
        if "upgrade" not in fields:
            raise Refused(
                HTTPStatus.UPGRADE_REQUIRED,
                "This port speaks WebSocket with other nodes. "
                "The page is on the node's HTTP port, one below unless it was told otherwise.",
                "Upgrade: websocket",
            )
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
        if "host" not in fields:
            raise _bad("The header Host is missing.")
        try:
            key = base64.b64decode(fields.get("sec-websocket-key", ""), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 16:
            raise _bad("The header Sec-WebSocket-Key must be 16 bytes in base 64.")
        if "origin" in fields and not self._same_origin(fields["origin"], fields["host"]):
            raise Refused(
                HTTPStatus.FORBIDDEN, "A page of another origin may not open a link to this node."
            )

    def _same_origin(self, origin: str, host: str) -> bool:
        """Return whether a browser's page comes from this very host and port.

        Nodes send no Origin. The host must be one that no stranger's name server controls, or
        a page could be made to look like this node's own (DNS rebinding).
        """
        try:
            page, own = urlsplit(origin), urlsplit(f"//{host}")
            default = {"http": 80, "https": 443}[page.scheme]
            same = (page.hostname, page.port or default) == (own.hostname, own.port or default)
        except (KeyError, ValueError):
            return False
        return same and self.server.allowed_host(own.hostname or "")

    def _refuse(self, refused: Refused) -> None:
        body = f"{refused}\n".encode()
        head = [
            f"HTTP/1.1 {refused.status.value} {refused.status.phrase}",
            *refused.headers,
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        self.stream.deadline = time.monotonic() + 1.0
        with contextlib.suppress(LinkClosed):
            self.stream.write("\r\n".join([*head, "", ""]).encode("latin-1") + body, 1.0)
            self.stream.end()
            while True:  # an end with bytes unread would destroy the answer on its way
                self.stream.read_some()


def _full(sentence: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, sentence, "Retry-After: 60")


def _site(host: str) -> str | bytes:
    """Return what one host's addresses share: of IPv6 it has a whole network."""
    return ipaddress.ip_address(host).packed[:8] if ":" in host else host


def _bad(sentence: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, sentence)


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]
