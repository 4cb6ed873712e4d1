"""Idempotency keys: which message each key has named, for about as long as the settings say.

A key is stored in the transaction that stores its message, so after a crash both are there or
neither. Keys and texts are kept as hashes. The oldest keys go when new ones come, so that the table
has at most MAX_KEYS rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core.commit import Keyed
from ..settings import KEYS_ASKED, MAX_KEYS
from .store import Database


def find(database: Database, names: Sequence[bytes], since: int) -> dict[bytes, Keyed]:
    """Return what is known of keys that were used at `since` (ms since the epoch) or later."""
    found: dict[bytes, Keyed] = {}
    since = max(since, 0)  # of a setting of many years SQLite could not store it
    for start in range(0, len(names), KEYS_ASKED):
        part = names[start : start + KEYS_ASKED]
        marks = ",".join("?" * len(part))
        rows = database.execute(
            f"SELECT key, digest, origin, seq, time FROM keys WHERE key IN ({marks}) AND time >= ?",
            (*part, since),
        )
        for name, digest, origin, seq, used in rows:
            found[name] = Keyed(name, digest, origin.decode(), seq, used)
    return found


def write(database: Database, keyed: Sequence[Keyed], keep: int) -> None:
    """Store keys, in the transaction of their messages; delete about as many that are older than
    `keep` (ms), or too many."""
    database.executemany(
        "INSERT OR REPLACE INTO keys (key, digest, origin, seq, time) VALUES (?, ?, ?, ?, ?)", keyed
    )
    oldest = database.execute(
        "SELECT number, time FROM keys ORDER BY number LIMIT ?", (2 * len(keyed),)
    ).fetchall()
    (newest,) = database.execute("SELECT max(number) FROM keys").fetchone()
    # By this machine's clock: that of messages may be ahead, since it follows other nodes.
    since = int(time.time() * 1000) - keep
    gone = [number for number, used in oldest if used < since or number <= newest - MAX_KEYS]
    if gone:
        database.execute("DELETE FROM keys WHERE number <= ?", (gone[-1],))
