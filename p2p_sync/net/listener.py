"""Accepts peers: the one door to websocket-server.

The library's server binds the port. Its loop and its handler are replaced: the handler checks next
to nothing, and takes a thread for every stranger. Here one thread accepts all connections and
serves them until they are open: TLS, the HTTP handshake and, in a network with a secret, the proof.
It never waits for one of them. They are in a table of their own, in which the host with the most
loses its oldest first, so nobody can keep others out by opening many. Once open, a connection
becomes a Link with threads of its own, and counts for `max_peers`.
"""

from __future__ import annotations

import base64
import binascii
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

from ..address import is_ip, is_loopback, site
from ..codes import NORMAL, NOT_PROVED, OTHER_PROTOCOL, TRY_AGAIN_LATER, UNSUPPORTED_DATA
from ..errors import LinkClosed, P2PSyncError, ProtocolError
from ..metrics import Counters
from ..repeats import Repeats
from ..settings import (
    ACCEPT_LOGGED,
    ACCEPT_PAUSE,
    MAX_HANDSHAKE_BYTES,
    MAX_UNPROVED,
    SPARE_PEERS,
    Settings,
)
from ..wire.frames import decode, encode
from ..wire.proof import MAX_OPENING_BYTES, Handshake
from . import websocket as frames
from .credentials import Credentials
from .fairtable import FairTable
from .link import Handler, Link
from .stream import Stream, plain_endpoint
from .tls import Blocked, Secured, streamable

_handlers = logging.root.handlers[:]
import websocket_server

logging.root.handlers[:] = _handlers  # the import has set up logging, which is not its business

logger = logging.getLogger("p2p_sync")

# Connections that are accepted before those that are open already are served again.
_ACCEPTED_AT_ONCE = 64
# Frames, fragments among them, that a connection may send before it has proved the secret.
_MOST_FRAMES = 64
# How long a connection that is turned down has to read why (seconds), and what it may send in that
# time (bytes).
_LINGER = 1.0
_MOST_IGNORED = 4 * 1024 * 1024
# Names of refusals after the HTTP handshake, by close code.
_KINDS = {
    NOT_PROVED: "not_proved",
    OTHER_PROTOCOL: "other_protocol",
    TRY_AGAIN_LATER: "service_unavailable",
}
# The part of its time that the accepting thread may compute, and for how long it may exceed that at
# once (seconds): no flood of connections delays the other threads by much.
_SHARE = 0.5
_DEBT = 0.02

T = TypeVar("T")


class Refused(P2PSyncError):
    """A handshake that is answered with an HTTP error."""

    def __init__(self, status: HTTPStatus, sentence: str, *headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


def _no_challenge(_binding: str) -> Handshake | None:
    return None


class PeerServer(websocket_server.WebsocketServer):
    """Listens on the peer port and makes a Link of each connection that shakes hands."""

    request_queue_size = 1024  # those of a flood that wait while this thread does not run

    handler: Handler
    challenge: Callable[[str], Handshake | None]

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
        self.settings = settings
        self.credentials = credentials
        self.counters = counters or Counters()
        self._repeats = Repeats()
        self._lock = threading.Lock()  # guards the links
        self._links: set[Link] = set()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._waker, self._wake = socket.socketpair()
        # The accepting thread's:
        self._poll = select.poll()
        self._openings: dict[int, Opening] = {}  # by descriptor
        self._table: FairTable[Opening] = FairTable(MAX_UNPROVED)
        self._accept_at = 0.0  # when the listening socket is looked at again
        self._pause_logged = -ACCEPT_LOGGED

    # -- the owner's thread ---------------------------------------------------------------------

    def start(
        self, handler: Handler, challenge: Callable[[str], Handshake | None] = _no_challenge
    ) -> None:
        """Accept peers in a thread, until `stop`; their links tell `handler`.

        `challenge` returns what a connection has to prove, given the binding of its TLS; None:
        nothing.
        """
        self.handler = handler
        self.challenge = challenge
        self._thread = threading.Thread(target=self._serve, name="accept", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end unfinished openings; links are their owner's to close."""
        self._stopped = True
        self._wake.send(b"!")
        if self._thread:
            self._thread.join()
        self.server_close()
        self._waker.close()
        self._wake.close()

    # -- the accepting thread -------------------------------------------------------------------

    def _serve(self) -> None:
        self.socket.setblocking(False)
        self._poll.register(self.socket, select.POLLIN)
        self._poll.register(self._waker, select.POLLIN)
        paid, worked = 0.0, time.thread_time()
        while not self._stopped:
            for descriptor, _ in self._poll.poll(self._time_left() * 1000):
                if descriptor == self.socket.fileno():
                    self._accept()
                elif opening := self._openings.get(descriptor):
                    self._go_on(opening)
            self._end_late()
            worked, before = time.thread_time(), worked
            now = time.monotonic()
            paid = max(paid, now) + (worked - before) / _SHARE - (worked - before)
            if paid > now + _DEBT:
                time.sleep(paid - now)
        for opening in list(self._table):
            self._end(opening)

    def _time_left(self) -> float:
        """Return the seconds to the next deadline."""
        deadlines = [opening.deadline for opening in self._table]
        if self._accept_at:
            deadlines.append(self._accept_at)
        return max(0.0, min(deadlines, default=time.monotonic() + 60.0) - time.monotonic())

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error.strerror or str(error))
                return
            try:
                opening = Opening(self, self.credentials.tls.accepted(connection), address)
            except OSError as error:  # it has ended meanwhile
                logger.debug("a connection from %s ended at once: %s", address, error)
                connection.close()
                continue
            removed = self._table.add(opening, site(opening.remote[0]))
            self._openings[opening.descriptor] = opening
            self._poll.register(opening.descriptor, select.POLLIN)
            if removed:
                self._end(removed)

    def _pause(self, reason: str) -> None:
        """Accept nothing for a moment, for want of descriptors or threads, and do not spin."""
        now = time.monotonic()
        if now - self._pause_logged >= ACCEPT_LOGGED:
            self._pause_logged = now
            logger.error("peers cannot be accepted for the moment: %s", reason)
        self._accept_at = now + ACCEPT_PAUSE
        self._poll.modify(self.socket, 0)

    def _end_late(self) -> None:
        """End the openings that have taken too long; accept again after a pause."""
        now = time.monotonic()
        if self._accept_at and now >= self._accept_at:
            self._accept_at = 0.0
            self._poll.modify(self.socket, select.POLLIN)
        for opening in [opening for opening in self._table if now >= opening.deadline]:
            logger.debug("a connection from %s took too long to open", opening)
            self._end(opening)

    def _go_on(self, opening: Opening) -> None:
        """Serve an opening as far as it goes without waiting."""
        try:
            event = opening.go_on()
            if event is None:
                self._leave(opening)
                self._hand_over(opening)
            elif event != opening.event:
                opening.event = event
                self._poll.modify(opening.descriptor, event)
        except LinkClosed as error:
            logger.debug("a connection from %s ended in its opening: %s", opening, error)
            self._end(opening)
        except Exception:
            logger.exception("serving %s failed", opening)
            self._end(opening)

    def _hand_over(self, opening: Opening) -> None:
        """Make a link of a connection that is open, with threads of its own."""
        opening.stream.allow(None)
        link = Link(
            opening.stream, self.handler, self.settings, opening.remote, binding=opening.binding
        )
        link.proved = opening.proved
        with self._lock:
            self._links.add(link)
        try:
            threading.Thread(
                target=self._run, args=(link,), name=f"read {link}", daemon=True
            ).start()
        except RuntimeError as error:  # there can be no more threads
            self._pause(str(error))
            self._release(link)
            opening.stream.close()

    def _leave(self, opening: Opening) -> None:
        """Forget an opening, which goes on elsewhere or has ended."""
        self._table.remove(opening)
        if self._openings.pop(opening.descriptor, None):
            self._poll.unregister(opening.descriptor)

    def _end(self, opening: Opening) -> None:
        self._leave(opening)
        opening.stream.close()

    def has_room(self, host: str) -> str:
        """Return why there is no room for one more link of `host`; nothing if there is.

        Those in the spare places are sent addresses, then their links are closed (see overlay.py).
        """
        with self._lock:
            links = list(self._links)
        if len(links) >= self.settings.max_peers + SPARE_PEERS:
            return f"This node is full: it accepts {self.settings.max_peers} links."
        limit = self.settings.max_peers_per_host
        same = sum(site(link.remote[0]) == site(host) for link in links)
        if same >= limit and not is_loopback(host):
            return f"This node accepts {limit} links of one host, and has them of yours."
        return ""

    def turned_down(self, opening: Opening, kind: str, reason: str) -> None:
        """Count and log a connection that is not let in; it makes room before all others."""
        self._table.demote(opening)
        self.counters.add("refusals_total", kind)
        what = f"{site(opening.remote[0])!r} {reason}"
        if news := self._repeats.failed(what, reason, time.monotonic()):
            logger.info("refused a connection from %s: %s", opening, news)

    # -- the links' threads ---------------------------------------------------------------------

    def _run(self, link: Link) -> None:
        try:
            link.run()
        except Exception:
            logger.exception("serving %s failed", link)
        finally:
            self._release(link)

    def _release(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)

    # -- any thread -----------------------------------------------------------------------------

    def allowed_host(self, host: str) -> bool:
        """Return whether a page of `host` may be this node's own."""
        names = {"localhost", self.settings.host.lower()}
        if self.settings.advertise:
            names.add(self.settings.advertise.host)
        return host.lower() in names or is_ip(host)


class Opening:
    """One accepted connection until it is open. Used by the accepting thread alone."""

    def __init__(self, server: PeerServer, connection: socket.socket, address: object) -> None:
        self.remote = plain_endpoint(address)
        self.binding = ""
        self.proved: str | None = None  # the id of the node that has proved the secret
        self.event = select.POLLIN  # what it waits for
        self.descriptor = connection.fileno()
        self._server = server
        self._connection = streamable(connection)
        self.stream = Stream(self._connection, server.settings.handshake_timeout)
        self.deadline = time.monotonic() + server.settings.handshake_timeout
        self._steps = self._open()

    def __str__(self) -> str:
        host, port = self.remote
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    def go_on(self) -> int | None:
        """Go on as far as possible with what has arrived.

        Returns the event (of select.poll) to wait for; None: the connection is open. Raises
        LinkClosed when it is to be ended.
        """
        self.stream.allow(1)  # that none of them keeps the others waiting
        return next(self._steps, None)

    def _open(self) -> Iterator[int]:
        try:
            if isinstance(self._connection, Secured):
                self.binding = yield from self._try(self._connection.try_handshake)
            key = yield from self._try(self._read_handshake)
            if full := self._server.has_room(self.remote[0]):
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, full, "Retry-After: 60")
            answer = websocket_server.WebSocketHandler.make_handshake_response(key)
            self._write(answer.encode("ascii"))
            if challenge := self._server.challenge(self.binding):
                yield from self._prove(challenge)
                if full := self._server.has_room(self.remote[0]):
                    raise ProtocolError(TRY_AGAIN_LATER, full)
        except Refused as refused:
            self._server.turned_down(self, refused.status.name.lower(), str(refused))
            yield from self._turn_down(_http(refused))
        except ProtocolError as error:
            self._server.turned_down(self, _KINDS.get(error.code, "wrong_frame"), error.reason)
            payload = frames.close_payload(error.code, error.reason)
            yield from self._turn_down(frames.format_frame(frames.CLOSE, payload, masked=False))

    def _prove(self, challenge: Handshake) -> Iterator[int]:
        """Have the other side prove that it knows the secret, and prove it, too."""
        reader = frames.FrameReader(self.stream, True, MAX_OPENING_BYTES)
        for _ in range(_MOST_FRAMES):
            received = yield from self._try(reader.read)
            if received is None or received.opcode == frames.PONG:
                continue
            if received.opcode == frames.PING:
                self._write(frames.format_frame(frames.PONG, received.data, masked=False))
            elif received.opcode == frames.CLOSE:
                answer = frames.format_frame(frames.CLOSE, received.data[:2], masked=False)
                yield from self._turn_down(answer)
            elif received.text is None:
                raise ProtocolError(UNSUPPORTED_DATA, "a message must be text, not binary")
            else:
                self._take(challenge, received.text)
                if challenge.proved:
                    self.proved = challenge.peer
                    return
        raise LinkClosed("it sent many frames and no proof")

    def _take(self, challenge: Handshake, text: str) -> None:
        try:
            answers = challenge.receive(decode(text))
        except ProtocolError as error:
            # The side that dialled finds the same in this node's first frame, and knows then which
            # protocol this node speaks, or that it has dialled itself.
            if error.code in (OTHER_PROTOCOL, NORMAL):
                self._send(encode(challenge.opening))
            raise
        for frame in answers:
            self._send(encode(frame))

    def _try(self, call: Callable[[], T]) -> Generator[int, None, T]:
        """Return what `call` returns, once it needs not wait any more."""
        while True:
            try:
                return call()
            except Blocked as blocked:
                yield blocked.event

    def _turn_down(self, answer: bytes) -> Iterator[int]:
        """Send the answer, and leave it some time to be read.

        An end with bytes unread would destroy it on its way.
        """
        self.deadline = min(self.deadline, time.monotonic() + _LINGER)
        self._write(answer)
        self.stream.end()
        while self.stream.received < _MOST_IGNORED:
            yield from self._try(self.stream.read_some)
        raise LinkClosed("it goes on sending")

    def _send(self, text: str) -> None:
        self._write(frames.format_frame(frames.TEXT, text.encode("utf-8"), masked=False))

    def _write(self, data: bytes) -> None:
        """Write a little, for which there is always room unless the other side reads nothing."""
        if self.stream.write_some(data):
            raise LinkClosed("it reads nothing")

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
                raise _bad(f"The header {name} is given twice.")
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
            if origin.lower() != f"{page.scheme}://{page.netloc}".lower():
                return False
            if set("@%") & set(page.netloc + host):  # a user or a zone: no browser sends these
                return False
            default = {"http": 80, "https": 443}[page.scheme]
            same = (page.hostname, page.port or default) == (own.hostname, own.port or default)
        except (KeyError, ValueError):
            return False
        return same and self._server.allowed_host(own.hostname or "")


def _http(refused: Refused) -> bytes:
    body = f"{refused}\n".encode()
    head = [
        f"HTTP/1.1 {refused.status.value} {refused.status.phrase}",
        *refused.headers,
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _bad(sentence: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, sentence)


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]
