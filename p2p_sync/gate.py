"""How strangers are slowed down where a network has a secret.

A host from which a proof has failed lately waits before the next handshake, and has few of them
under way at a time. Nobody is shut out: a right proof gets in, also from behind the same NAT.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

# Handshakes without a proof that a host with failures may have under way.
_MOST_UNPROVED = 4
# The first wait, which doubles with each failure up to the longest. Seconds.
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 4.0
# A host's failures are forgotten when there was none for this long. Seconds.
_MEMORY = 60.0
_MOST_HOSTS = 10_000


@dataclass
class _Host:
    unproved: int = 0
    failures: int = 0
    failed_at: float = 0.0


class Gate:
    """Counts, by host, the handshakes without a proof. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the table
        self._hosts: dict[str, _Host] = {}

    def enter(self, host: str) -> float | None:
        """Begin a handshake; return the seconds that it has to wait, None if it may not begin.

        Unless it was None, `leave` ends what this began.
        """
        now = time.monotonic()
        with self._lock:
            if len(self._hosts) >= _MOST_HOSTS:
                self._forget(now)
            entry = self._hosts.setdefault(host, _Host())
            if now - entry.failed_at > _MEMORY:
                entry.failures = 0
            if entry.failures and entry.unproved >= _MOST_UNPROVED:
                return None
            entry.unproved += 1
            if not entry.failures:
                return 0.0
            return float(min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(entry.failures - 1, 8)))

    def leave(self, host: str) -> None:
        """End a handshake, proved or not."""
        with self._lock:
            entry = self._hosts.get(host)
            if entry is not None:
                entry.unproved = max(0, entry.unproved - 1)
                if not entry.unproved and not entry.failures:
                    del self._hosts[host]

    def failed(self, host: str) -> None:
        """Note that a proof of that host's was wrong."""
        with self._lock:
            entry = self._hosts.setdefault(host, _Host())
            entry.failures += 1
            entry.failed_at = time.monotonic()

    def _forget(self, now: float) -> None:
        for host, entry in list(self._hosts.items()):
            if not entry.unproved and now - entry.failed_at > _MEMORY:
                del self._hosts[host]
