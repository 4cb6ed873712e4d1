"""Serves the page over HTTP: the one door to waitress."""

from __future__ import annotations

from typing import Any

import waitress
from waitress import wasyncore

from ..config import MAX_MESSAGE_BYTES
from ..errors import StartError

# Enough that requests which wait leave room for those which do not.
_THREADS = 32

# A request line that holds the largest message with each byte percent-encoded, and headers.
_MAX_HEAD_BYTES = 3 * MAX_MESSAGE_BYTES + 64 * 1024

# The body of a bulk commit; what is large waits in a file.
_MAX_BODY_BYTES = 1024 * 1024 * 1024

_STOP_TIMEOUT = 0.5


class HttpServer:
    """Listens from the start on; serves in the thread that calls `run`."""

    def __init__(self, host: str, port: int) -> None:
        """Bind `host` and `port`; raises StartError where they cannot be had."""
        self._sockets: dict[int, Any] = {}
        self._application: Any = None
        try:
            self._server = waitress.create_server(
                self._call,
                map=self._sockets,
                host=host,
                port=port,
                threads=_THREADS,
                asyncore_use_poll=True,
                max_request_header_size=_MAX_HEAD_BYTES,
                max_request_body_size=_MAX_BODY_BYTES,
                ident="p2p_sync",
            )
        except (OSError, ValueError) as error:
            wasyncore.close_all(self._sockets)
            reason = getattr(error, "strerror", None) or error
            way_out = "choose a PORT above 1023" if port < 1024 else "choose another PORT"
            raise StartError(
                f"the HTTP port {port} on {host} cannot be had ({reason}); {way_out}"
            ) from None

    def run(self, application: Any) -> None:
        """Serve the WSGI `application` until a KeyboardInterrupt, which is raised."""
        self._application = application
        wasyncore.loop(timeout=1, use_poll=True, map=self._sockets)

    def stop(self) -> None:
        """Let requests that are being answered end, for a moment, and close all."""
        self._server.task_dispatcher.shutdown(timeout=_STOP_TIMEOUT)
        wasyncore.close_all(self._sockets, ignore_all=True)

    def _call(self, environ: Any, start_response: Any) -> Any:
        return self._application(environ, start_response)
