"""The form of the log: a record is one line, whatever text a peer or a user has put into it."""

from __future__ import annotations

import json
import logging
from typing import Any

from ..net.link import Link


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


class JsonLine(logging.Formatter):
    """A JSON object a line: `time` (ms), `level`, `text`; `address` and `peer` (an id) of whom it
    is about, and the `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": int(record.created * 1000),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
        }
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, Link):
                fields |= {"address": argument.address, "peer": argument.node or None}
        if hasattr(record, "address"):  # of a dial that has led to no link
            fields["address"] = record.address
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
