"""Programs on a terminal, with somebody at the keyboard."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
import threading
from contextlib import suppress

from tests.harness.support import DEADLINE, wait_until


class Terminal:
    """A program on a terminal of its own; `shown` is all that it has written there. A context
    manager, which kills the program."""

    def __init__(self, *command: str, **environment: str) -> None:
        self._ours, its = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # it controls the session
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(its)
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # so ends a terminal on Linux
            while data := os.read(self._ours, 65536):
                self.shown += data.decode("utf-8", "replace")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def wait_shown(self, text: str, after: int = 0) -> None:
        """Wait until the program has written `text`, from the place `after` on."""
        wait_until(lambda: text in self.shown[after:], lambda: self.shown)

    def wait_end(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
