"""Formats the log: a record is one line, whatever text from a peer or a user is in it."""

from __future__ import annotations

import json
import logging
from typing import Any


def printable(text: str) -> str:
    """Return `text` with unprintable characters escaped, such as line ends and direction marks."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OneLine(logging.Formatter):
    """Escapes characters that could forge a line, and indents the lines of a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        text = super().formatException(ei)
        return "\n".join(f"  {printable(line)}" for line in text.splitlines())


class JsonLine(logging.Formatter):
    """One JSON object per line: `time` (ms), `level`, `text`; for a peer its `address`, and its id
    as `peer`; and the `traceback`, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": int(record.created * 1000),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
        }
        for name in ("address", "peer"):
            if getattr(record, name, None):
                fields[name] = getattr(record, name)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
