"""Sums up in the log what fails again and again: the first failure gets a line, then the 2nd, 4th,
8th ... in a row, and each that has another reason than the one before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

# What fails at a time and is remembered, and for how long after the last failure. Seconds.
_MOST = 1000
_FORGOTTEN = 3600.0


@dataclass
class _Failures:
    reason: str
    at: float
    count: int = 0


class Repeats:
    """The failures in a row of each thing. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()  # the latest last

    def failed(self, what: str, reason: str, now: float) -> str:
        """Note a failure; return what to log of it, nothing where that has been said."""
        with self._lock:
            found = self._failures.pop(what, None)
            if found is None or now - found.at > _FORGOTTEN:
                found = _Failures("", now)
            self._failures[what] = found
            if len(self._failures) > _MOST:
                self._failures.popitem(last=False)
            found.count += 1
            news = reason != found.reason or found.count.bit_count() == 1
            found.reason, found.at = reason, now
            if not news:
                return ""
            return reason if found.count == 1 else f"{reason} ({found.count} times in a row)"

    def worked(self, what: str) -> int:
        """Note that it has not failed this time; return how often in a row it had before."""
        with self._lock:
            found = self._failures.pop(what, None)
            return found.count if found else 0
