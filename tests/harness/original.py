"""A stand-in for an original (Node.js) node: rows 5 and 6 of the job, no ids, no relaying.

It does what the original's `p2p.js` does, in its order: when a link opens, it is in the list, then
SOCKETS goes out, and only then is the address that was dialled in `addresses`. So an original that
hears of an address twice before its dial has opened dials twice, and `/add` always dials.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import websocket

from tests.harness.support import NodeProcess, run_nodes, wait_until

_handlers = logging.root.handlers[:]
from websocket_server import WebsocketServer

logging.root.handlers[:] = _handlers  # importing websocket_server calls logging.basicConfig()

GONE = (OSError, websocket.WebSocketException)


class Original:
    """An original node, accepting peers on `address`; a context manager.

    `messages` is what it shows, `frames` each decoded frame that it got, in order of arrival. All
    methods may be called from any thread.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.frames: list[dict[str, Any]] = []
        self._addresses: list[str] = []
        self._lock = threading.RLock()  # guards the lists; frames go out under it, in one order
        self._links: dict[Any, Callable[[str], Any]] = {}  # WebSocket or handler -> its send
        self._threads: list[threading.Thread] = []
        self._server = WebsocketServer("127.0.0.1", 0, loglevel=logging.CRITICAL)
        self._server.request_queue_size = 128
        self._server.socket.listen(128)
        self._server.new_client = lambda client, _: self._opened(
            client["handler"], client["handler"].send_message
        )
        self._server.client_left = lambda client, _: self._closed(client and client["handler"])
        self._server.message_received = lambda _, __, text: self._received(text)
        self.address = f"ws://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Original:
        self._start(self._server.serve_forever, 0.02)
        return self

    def __exit__(self, *_: object) -> None:
        """End as a killed process does: every connection is cut, nothing is said."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            connections = [getattr(link, "sock", None) or link.connection for link in self._links]
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def add(self, address: str) -> None:
        """Dial `address` without waiting, known or not."""
        self._start(self._dial, address)

    def commit(self, text: str) -> None:
        """Add a message and send it on all links."""
        with self._lock:
            self.messages.append(text)
            self.send({"type": "MESSAGE", "data": text})

    def send(self, frame: dict[str, Any]) -> None:
        """Send any frame on all links: without `data`, as a bare `/commit` does, or odder ones."""
        with self._lock:
            for send in list(self._links.values()):
                with suppress(*GONE):
                    send(json.dumps(frame))

    def links(self) -> int:
        """How many links are open."""
        return len(self._links)

    def told(self) -> list[str]:
        """The addresses of all SOCKETS frames received."""
        with self._lock:
            return [a for f in self.frames if f["type"] == "SOCKETS" for a in f["addresses"]]

    def _start(self, target: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="original", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _dial(self, address: str) -> None:
        try:
            link = websocket.create_connection(address, timeout=10, suppress_origin=True)
        except GONE:
            return  # the original logs it and forgets
        link.settimeout(None)
        try:
            self._opened(link, link.send, address)
            while text := link.recv():  # answers PING and CLOSE by itself
                self._received(str(text))
        except GONE:
            pass
        finally:
            self._closed(link)
            link.shutdown()

    def _opened(self, link: Any, send: Callable[[str], Any], dialled: str | None = None) -> None:
        with self._lock:
            self._links[link] = send
            send(json.dumps({"type": "SOCKETS", "addresses": self._addresses}))
            if dialled is not None:
                self._addresses.append(dialled)

    def _closed(self, link: Any) -> None:
        with self._lock:
            self._links.pop(link, None)

    def _received(self, text: str) -> None:
        with self._lock:
            frame = json.loads(text)
            self.frames.append(frame)
            if frame["type"] == "MESSAGE":
                self.messages.append(frame.get("data"))
            elif frame["type"] == "SOCKETS":
                for address in [a for a in frame["addresses"] if a not in self._addresses]:
                    self.add(address)


@contextmanager
def heard_by_two() -> Iterator[tuple[NodeProcess, NodeProcess, Original]]:
    """Lend two nodes that are linked, and an original that both of them have dialled."""
    with run_nodes(2, "--ephemeral") as (one, two), Original() as original:
        one.add(two.address)
        for node in (one, two):
            node.add(original.address)
        wait_until(lambda: original.links() == 2)
        yield one, two, original
