"""A TCP proxy that the fault tests put between nodes: it delays, stalls, cuts and refuses."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

_CHUNK = 64 * 1024
_PIECE = 1024  # at a time, where there is a rate
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset
_STOP_TIMEOUT = 10.0


class Proxy:
    """Listens on a free port of its own and forwards each connection to a port of 127.0.0.1.

    `target` is that port, or returns what it is now.

    All methods may be called by any thread. A context manager: leaving it ends all.
    """

    def __init__(self, target: int | Callable[[], int]) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._delay = 0.0
        self._rate = 0.0
        self._stalled = False
        self._refusing = False
        self._stopped = False
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"ws://127.0.0.1:{self.port}"
        self._start(self._accept, "accept")

    # -- faults ---------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Hold each piece back for `seconds`, in either direction."""
        self._set(delay=seconds)

    def rate(self, bytes_per_second: float) -> None:
        """Forward no faster than this, in either direction; 0 is no limit."""
        with self._changed:
            self._rate = bytes_per_second

    def stall(self) -> None:
        """Forward nothing: the connections stay open and silent, and new ones get no answer."""
        self._set(stalled=True)

    def cut(self) -> None:
        """End all connections; what was on the way is lost."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            _reset(connection)

    def refuse(self) -> None:
        """End all connections, and new ones as soon as they open."""
        self._set(refusing=True)
        self.cut()

    def heal(self) -> None:
        """Forward everything at once again."""
        self._set(delay=0.0, stalled=False, refusing=False)

    def close(self) -> None:
        """End all connections and threads; a second call does nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            thread.join(_STOP_TIMEOUT)
            assert not thread.is_alive(), f"the proxy's thread {thread.name} does not end"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its threads ----------------------------------------------------------------------------

    def _set(
        self,
        delay: float | None = None,
        stalled: bool | None = None,
        refusing: bool | None = None,
    ) -> None:
        with self._changed:
            self._delay = self._delay if delay is None else delay
            self._stalled = self._stalled if stalled is None else stalled
            self._refusing = self._refusing if refusing is None else refusing
            self._changed.notify_all()

    def _start(self, job: Callable[..., None], name: str, *arguments: object) -> None:
        """Run `job` in a thread that is joined at the end."""

        def run() -> None:
            try:
                job(*arguments)
            finally:
                with self._changed:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"proxy {name}", daemon=True)
        with self._changed:
            self._threads.add(thread)
            thread.start()  # before anyone may join it

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                refused = self._refusing or self._stopped
                if not refused:
                    self._open.add(connection)
            if refused:
                _reset(connection)
                connection.close()
            else:
                self._start(self._serve, "serve", connection)

    def _serve(self, near: socket.socket) -> None:
        """Forward both ways until either end has closed."""
        far: socket.socket | None = None
        try:
            port = self._target() if callable(self._target) else self._target
            far = socket.create_connection(("127.0.0.1", port), 5)
            far.settimeout(None)
            with self._changed:
                if near not in self._open or self._refusing or self._stopped:
                    return
                self._open.add(far)
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()
        except OSError:
            pass
        finally:
            for connection in (near, far):
                if connection is not None:
                    with self._changed:
                        self._open.discard(connection)
                    _reset(connection)
                    connection.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Forward one way, as the faults allow; an end, or an error, ends both ways."""
        try:
            while data := source.recv(_PIECE if self._rate else _CHUNK):
                if not self._pass():
                    break
                sink.sendall(data)
                self._spend(len(data))
        except OSError:
            pass
        finally:
            self._pass()
            for connection in (source, sink):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _spend(self, count: int) -> None:
        """Take the time that so many bytes need."""
        with self._changed:
            if self._rate:
                self._changed.wait_for(lambda: self._stopped, count / self._rate)

    def _pass(self) -> bool:
        """Wait as long as the faults ask for; False when the proxy ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, self._delay)
            self._changed.wait_for(lambda: self._stopped or self._refusing or not self._stalled)
            return not self._stopped


def _reset(connection: socket.socket) -> None:
    """Wake the threads that read and write on `connection`, and lose what waits in it."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
