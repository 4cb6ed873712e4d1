"""Puts the log of a node into an Outlet."""

from __future__ import annotations

import io
import logging

from .outlet import Outlet


class QueuedHandler(logging.Handler):
    """Hands each record to an Outlet as text."""

    def __init__(self, outlet: Outlet, formatter: logging.Formatter) -> None:
        """`formatter` also forms the note about dropped lines."""
        super().__init__()
        self._outlet = outlet
        self.setFormatter(formatter)
        outlet.note = self._note

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._outlet.put(self.format(record))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self.say(logging.ERROR, f"cannot format a line of the log: {record.msg!r}")

    def say(self, level: int, text: str) -> None:
        """Log a text that comes from no logger."""
        fields = {"levelno": level, "levelname": logging.getLevelName(level), "msg": text}
        self._outlet.put(self.format(logging.makeLogRecord(fields)))

    def _note(self, count: int) -> str:
        fields = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": _DROPPED}
        return self.format(logging.makeLogRecord({**fields, "args": (f"{count:,}",)}))


_DROPPED = "%s lines of the log were dropped here, since nobody read standard error"


class QueuedStream(io.TextIOBase):
    """Replaces `sys.stderr`, so that nothing else in the process waits for it either."""

    def __init__(self, handler: QueuedHandler) -> None:
        self._handler = handler
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._handler.say(logging.ERROR, line)
        return len(text)
