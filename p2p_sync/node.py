"""A node: builds the parts, starts and stops them. What programs use as a library."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .address import Address, parse_address, reachable
from .config import MAX_MESSAGE_BYTES, Settings
from .errors import InputError, MessageError, MessageTooLong, StartError
from .mesh import Mesh
from .overlay import Overlay
from .protocol import MAX_NUMBER, Message, check_text
from .server import PeerServer
from .state import State
from .store import Store

logger = logging.getLogger("p2p_sync")

_STOP_TIMEOUT = 1.0


class Node:
    """One member of the network: it holds the messages and links with its peers.

    All methods may be called by any thread. As a context manager it is started and stopped.
    """

    def __init__(
        self,
        peer_port: int,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        peers: Sequence[str] = (),
        advertise: str | None = None,
        **settings: Any,
    ) -> None:
        """Make a node that will accept peers on `peer_port` (0: any free port).

        `data_dir` holds its identity and the addresses it knows; None keeps nothing. `peers` are
        addresses to dial, `advertise` is the address that peers are told ("none": this node
        cannot be dialled; None: they form it from the connection). Further options are the
        fields of `config.Settings`. Raises InputError for what cannot be meant.
        """
        if not 0 <= peer_port <= 65535:
            raise InputError(f"{peer_port} is no port; ports go up to 65535")
        if not 0 <= settings.get("max_message_bytes", 0) <= MAX_MESSAGE_BYTES:
            raise InputError(f"the limit of a message is at most {MAX_MESSAGE_BYTES} bytes")
        dialable = advertise != "none"
        self._settings = Settings(
            peers=tuple(parse_address(peer) for peer in peers),
            advertise=parse_address(advertise) if advertise and dialable else None,
            dialable=dialable,
            **settings,
        )
        self._peer_port = peer_port
        self._data_dir = data_dir
        self._callbacks: list[Callable[[Message], object]] = []
        self._lifecycle = threading.Lock()  # one start or stop at a time
        self._parts: _Parts | None = None

    # -- starting and stopping ------------------------------------------------------------------

    def start(self) -> None:
        """Open the data directory, accept peers and begin to dial.

        Raises StartError, which says what to do, where the port or the directory cannot be had.
        """
        with self._lifecycle:
            if self._parts is None:
                self._parts = _Parts(self._peer_port, self._data_dir, self._settings)
                self._parts.start(self._callbacks)

    def stop(self) -> None:
        """Close all links and end all threads within about two seconds. Twice is fine."""
        with self._lifecycle:
            parts, self._parts = self._parts, None
        if parts:
            parts.stop()

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what it does ---------------------------------------------------------------------------

    def connect(self, address: str) -> None:
        """Dial the node at `address` and keep that address; returns at once.

        Raises AddressError where `address` cannot be one.
        """
        self._running().mesh.connect(parse_address(address))

    def commit(self, text: str) -> Message:
        """Add a message, have it sent to all peers, and return it.

        Raises MessageTooLong or MessageError where `text` cannot be a message.
        """
        parts = self._running()
        limit = self._settings.max_message_bytes
        if problem := check_text(text, limit):
            long = len(text.encode("utf-8", "surrogatepass")) > limit
            raise (MessageTooLong if long else MessageError)(problem)
        message = parts.state.commit(text)
        parts.mesh.wake_senders()
        return message

    def messages(self) -> list[Message]:
        """Return the messages, in the order that is the same on every node."""
        return self._running().state.messages

    def sockets(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        return self._running().state.count()

    def on_message(self, callback: Callable[[Message], object]) -> None:
        """Have `callback` called with each message that comes to be held from the start on.

        All callbacks run in one thread of their own, in order of arrival; what one raises is
        logged. To be set before `start`, or it misses what came before.
        """
        self._callbacks.append(callback)

    # -- what it is -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The node's id: 16 hexadecimal digits, kept in the data directory."""
        return self._running().store.node

    @property
    def address(self) -> str:
        """The address for peers, as seen from this machine, or the one that is advertised."""
        return self._running().address

    def _running(self) -> _Parts:
        parts = self._parts
        if parts is None:
            raise InputError("the node is not running; call start() or use it in a with statement")
        return parts


class _Parts:
    """What exists from a node's start to its stop."""

    def __init__(
        self, port: int, data_dir: str | os.PathLike[str] | None, settings: Settings
    ) -> None:
        self.store = Store(data_dir)
        try:
            self.server = PeerServer(port, settings)
        except OSError as error:
            self.store.close()
            raise StartError(
                f"the peer port {port} on {settings.host} cannot be had "
                f"({error.strerror or error}); choose another with --peer-port"
            ) from None
        start = secrets.randbelow(MAX_NUMBER)
        overlay = Overlay(self.store.node, start, settings, self.server.port)
        self.state = State(f"{self.store.node}-{start}", overlay, time.time)
        self.mesh = Mesh(self.state, self.store, settings)
        self.address = str(
            settings.advertise or Address(reachable(settings.host), self.server.port)
        )
        self._delivery = threading.Thread(target=self._deliver, name="callbacks", daemon=True)

    def start(self, callbacks: list[Callable[[Message], object]]) -> None:
        self._callbacks = callbacks
        self.server.start(self.mesh)
        self.mesh.start()
        self._delivery.start()

    def stop(self) -> None:
        self.state.stop()
        self.mesh.stop()
        self.server.stop()
        if threading.current_thread() is not self._delivery:
            self._delivery.join(_STOP_TIMEOUT)
        self.store.close()

    def _deliver(self) -> None:
        """The thread `callbacks`: hand on each message, in order of arrival."""
        delivered = 0
        while (messages := self.state.arrivals(delivered)) is not None:
            delivered += len(messages)
            for message in messages:
                for callback in list(self._callbacks):
                    try:
                        callback(message)
                    except Exception:
                        logger.exception("the callback %r failed", callback)
