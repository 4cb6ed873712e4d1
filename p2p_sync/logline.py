"""The form of the log: a record is one line, whatever text a peer or a user has put into it."""

from __future__ import annotations

import logging
from typing import Any


def printable(text: str) -> str:
    """Return `text` with what is not printable escaped, line ends and direction marks included."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OneLine(logging.Formatter):
    """Escapes what could forge a line; the lines of a traceback are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        text = super().formatException(ei)
        return "\n".join(f"  {printable(line)}" for line in text.splitlines())
