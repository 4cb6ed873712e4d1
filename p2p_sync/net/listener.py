"""Accepts peers: the one door to websocket-server.

The library's server binds the port. Its loop and its handler are replaced: the handler checks next
to nothing, and takes a thread for every stranger. Here one thread, `accept`, opens all connections
(see opening.py) and never waits for one of them. Those that are not open yet are in a table of
their own, where the host with the most makes room, so nobody can keep others out by opening many.
The thread rests as long as it has worked, so no flood of connections delays the others by much.

The listener knows no links. It asks its owner whether there is room and which node it is, gives it
each open connection, and reports each that was turned down.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from http import HTTPStatus
from typing import Protocol

from ..codes import NORMAL, NOT_PROVED, OTHER_PROTOCOL, SAME_NODE, TRY_AGAIN_LATER
from ..errors import LinkClosed, ProtocolError
from ..settings import (
    ACCEPT_DEBT,
    ACCEPT_LOGGED,
    ACCEPT_PAUSE,
    ACCEPTED_AT_ONCE,
    MAX_UNPROVED,
    Settings,
)
from ..wire.proof import Handshake
from .credentials import Credentials
from .handshake import Refused, bad_header, check_request, welcome
from .opening import Opened, Opening, Openings, Steps
from .stream import Endpoint, plain_endpoint

_handlers = logging.root.handlers[:]
import websocket_server

logging.root.handlers[:] = _handlers  # the import has set up logging, which is not its business

logger = logging.getLogger("p2p_sync")

# Names of refusals after the HTTP handshake, by close code.
_KINDS = {
    NOT_PROVED: "not_proved",
    OTHER_PROTOCOL: "other_protocol",
    SAME_NODE: "same_node",
    TRY_AGAIN_LATER: "service_unavailable",
}


class Owner(Protocol):
    """The owner of a listener, which calls it in its thread, with no lock held. No call may
    wait."""

    def room(self, host: str) -> str:
        """Return why there is no room for another connection from `host`, an IP address; "" if
        there is."""

    def handshake(self, binding: str) -> Handshake:
        """Return the handshake of a new connection, with a fresh nonce.

        `binding` is the SHA-256 of the certificate that this side has shown, empty without TLS.
        """

    def take(self, opened: Opened) -> None:
        """Take over an open connection.

        Raises RuntimeError if there can be no thread for it, and LinkClosed if the owner stops;
        then the listener closes the connection.
        """

    def refused(self, remote: Endpoint, kind: str, reason: str) -> None:
        """Note a connection that was refused; `kind` is a word for the metrics."""


class Listener(websocket_server.WebsocketServer):
    """The peer port of a node."""

    request_queue_size = 1024  # those of a flood that wait while this thread does not run

    owner: Owner

    def __init__(self, port: int, settings: Settings, credentials: Credentials) -> None:
        """Bind `settings.host` and `port` (0: any free one); raises OSError if that fails."""
        family, *_, bound = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(bound[0], port)
        self.timeout_of_opening = settings.handshake_timeout
        # The hosts whose pages may be this node's own.
        self.names = {"localhost", settings.host.lower()}
        if settings.advertise:
            self.names.add(settings.advertise.host)
        self._credentials = credentials
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._waker, self._wake = socket.socketpair()
        # The accepting thread's:
        self._openings = Openings()
        self._accept_at = 0.0  # when the listening socket is looked at again
        self._pause_logged = -ACCEPT_LOGGED
        self._paid = self._worked = 0.0  # until when its work is paid for; the CPU time of it

    # -- the owner's thread ---------------------------------------------------------------------

    def start(self, owner: Owner) -> None:
        """Accept peers for `owner` in a thread, until `stop`."""
        self.owner = owner
        self._thread = threading.Thread(target=self._serve, name="accept", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end unfinished openings."""
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
        self._openings.watch(self.socket)
        self._openings.watch(self._waker)
        self._worked = time.thread_time()
        while not self._stopped:
            try:
                self._serve_once()
            except Exception:
                logger.exception("accepting peers failed; the peer port goes on")
                time.sleep(ACCEPT_PAUSE)
        for opening in self._openings:
            self._openings.end(opening)

    def _serve_once(self) -> None:
        for opening, error in self._openings.wait(self._accept_at or time.monotonic() + 60.0):
            if error is None:
                self._hand_over(opening)
            elif isinstance(error, LinkClosed):
                logger.debug("a connection from %s ended in its opening: %s", opening, error)
            else:
                logger.error("serving %s failed", opening, exc_info=error)
        if time.monotonic() >= self._accept_at:
            self._accept()
        if len(self._openings) > MAX_UNPROVED:
            for opening in surplus(list(self._openings), MAX_UNPROVED):
                self._openings.end(opening)
        worked, before = time.thread_time(), self._worked
        now = time.monotonic()
        self._worked, self._paid = worked, max(self._paid, now) + worked - before
        if self._paid > now + ACCEPT_DEBT:
            time.sleep(self._paid - now)

    def _accept(self) -> None:
        if self._accept_at:
            self._accept_at = 0.0
            self._openings.watch(self.socket)
        for _ in range(ACCEPTED_AT_ONCE):
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
                opening = _Accepting(self, self._credentials.accepted(connection), address)
            except Exception as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise
                logger.debug("a connection from %s ended at once: %s", address, error)
                continue
            self._openings.add(opening)

    def _pause(self, reason: str) -> None:
        """Accept nothing for a moment, because there are no descriptors or threads left."""
        now = time.monotonic()
        if now - self._pause_logged >= ACCEPT_LOGGED:
            self._pause_logged = now
            logger.error("peers cannot be accepted for the moment: %s", reason)
        self._accept_at = now + ACCEPT_PAUSE
        self._openings.watch(self.socket, False)

    def _hand_over(self, opening: Opening) -> None:
        """Give an open connection to the owner."""
        try:
            self.owner.take(opening.opened)
        except (LinkClosed, RuntimeError) as error:
            opening.stream.close()
            if isinstance(error, RuntimeError):  # there can be no more threads
                self._pause(str(error))


class _Accepting(Opening):
    """A connection that the other side opens."""

    def __init__(self, listener: Listener, connection: socket.socket, address: object) -> None:
        deadline = time.monotonic() + listener.timeout_of_opening
        super().__init__(connection, plain_endpoint(address), deadline, dialled=False)
        self._listener = listener

    def _open(self) -> Steps[None]:
        listener, owner = self._listener, self._listener.owner
        try:
            binding = yield from self._try(self.stream.shake_hands)
            head = yield from self._read_head()
            key, header = check_request(head, listener.names)
            if full := owner.room(self.remote[0]):
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, full, "Retry-After: 60")
            self._handshake = handshake = owner.handshake(binding)
            try:
                handshake.read(header)
            except ValueError:
                raise bad_header() from None
            self._write(welcome(key, handshake.header))
            handshake.check()
            if handshake.node:
                yield from self._await_proof(handshake)
                if full := owner.room(self.remote[0]):
                    raise ProtocolError(TRY_AGAIN_LATER, full)
        except Refused as refused:
            owner.refused(self.remote, refused.kind, str(refused))
            yield from self._say_last(refused.answer)
            raise LinkClosed("it was turned down") from None
        except ProtocolError as error:
            if error.code != NORMAL:  # this node has dialled itself
                owner.refused(self.remote, _KINDS.get(error.code, "wrong_frame"), error.reason)
            yield from self._close(error)
            raise LinkClosed("it was turned down") from None


def surplus(openings: Collection[Opening], limit: int) -> Iterator[Opening]:
    """Yield the openings to end, so that `limit` are left. `openings` begin with the oldest. Each
    one to end is of the host with the most: one that was refused already, or else the oldest."""
    hosts: dict[str, deque[Opening]] = {}
    for opening in sorted(openings, key=lambda opening: not opening.turned_down):
        hosts.setdefault(opening.site, deque()).append(opening)
    for _ in range(len(openings) - limit):
        yield max(hosts.values(), key=len).popleft()
