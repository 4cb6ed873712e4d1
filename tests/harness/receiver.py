"""A server that webhooks POST to."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = int | bytes | threading.Event


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]  # by lower-case names
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.document["messages"])

    @property
    def texts(self) -> list[str]:
        return [message["data"] for message in self.messages]


class Receiver:
    """Takes requests on a port of 127.0.0.1 and keeps them, in a context manager.

    `answer` says for each how to answer: with a status, with bytes as they are, or not at all until
    an event is set.
    """

    def __init__(
        self,
        answer: Callable[[Received], Answer] = lambda _: 204,
        port: int = 0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.requests: list[Received] = []
        self.answer = answer
        self.taken: list[dict[str, Any]] = []  # the messages of requests that were answered by 2xx
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the sender was killed
                    return
                names = {name.lower(): text for name, text in self.headers.items()}
                with suppress(OSError):
                    receiver._serve(self, Received(self.path, names, body))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # The handshake belongs to the thread of the request.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def _serve(self, handler: BaseHTTPRequestHandler, request: Received) -> None:
        self.requests.append(request)
        answer = self.answer(request)
        if isinstance(answer, threading.Event):
            answer.wait()
        elif isinstance(answer, bytes):
            handler.wfile.write(answer)
        else:
            if 200 <= answer < 300:
                self.taken += request.messages
            handler.send_response(answer)
            handler.send_header("Location", f"{self.url}/elsewhere")
            handler.end_headers()

    @property
    def texts(self) -> list[str]:
        """The texts of all messages that were taken, in their order."""
        return [message["data"] for message in self.taken]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def is_signed(request: Received, secret: bytes) -> bool:
    """Return whether one of the signatures of a request is that of the secret."""
    moment, *proofs = request.headers["p2p-sync-signature"].split(",")
    signed = moment.removeprefix("t=").encode() + b"." + request.body
    return f"v1={hmac.new(secret, signed, hashlib.sha256).hexdigest()}" in proofs
