"""The data directory: what a node keeps over a restart. The one door to SQLite.

One node a directory: the file `lock` is locked by the kernel while the process lives. With no
directory the same code runs on a database in memory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from .errors import StartError

_SCHEMA_VERSION = 1
_APPLICATION_ID = 0x70327073  # "p2ps": tells our database from any other
_SCHEMA = f"""
CREATE TABLE identity (node TEXT NOT NULL);
CREATE TABLE addresses (address TEXT PRIMARY KEY, by_hand INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class Store:
    """A node's identity and the addresses it knows. For any thread."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        """Open or make the data directory; None keeps nothing.

        Raises StartError, which says what to do, where it cannot be used.
        """
        self.directory = Path(directory) if directory is not None else None
        self._lock = threading.Lock()  # one statement at a time
        self._lock_file: int | None = None
        self._database: sqlite3.Connection | None = None
        try:
            self._open()
        except StartError:
            self.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise StartError(
                f"the data directory {self.directory} cannot be used ({reason}); "
                "choose another with --data-dir, or keep nothing with --ephemeral"
            ) from None

    def _open(self) -> None:
        if self.directory is None:
            database = sqlite3.connect(":memory:", check_same_thread=False)
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._check_files(self.directory)
            self._lock_directory(self.directory)
            database = sqlite3.connect(self.directory / "node.db", check_same_thread=False)
        self._database = database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            with database:
                database.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))
        elif version > _SCHEMA_VERSION:
            raise StartError(
                f"the data directory {self.directory} was written by a newer p2p_sync; "
                "run that, or choose another directory with --data-dir"
            )
        self.node = str(database.execute("SELECT node FROM identity").fetchone()[0])

    def _check_files(self, directory: Path) -> None:
        names = {entry.name for entry in directory.iterdir()}
        if names <= {"lock"} or self._is_ours(directory / "node.db"):
            return
        raise StartError(
            f"the data directory {directory} holds files that are not a node's; "
            "choose an empty or a new one with --data-dir"
        )

    @staticmethod
    def _is_ours(path: Path) -> bool:
        """Return whether `path` is a database of ours, by the mark at byte 68 of its header."""
        with suppress(OSError), path.open("rb") as file:
            head = file.read(72)
            # A start that was killed early leaves an empty database behind.
            return not head or head[68:72] in (_APPLICATION_ID.to_bytes(4, "big"), bytes(4))
        return False

    def _lock_directory(self, directory: Path) -> None:
        self._lock_file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"the data directory {directory} is in use by another node; "
                "stop that one, or choose another directory with --data-dir"
            ) from None

    def addresses(self) -> dict[str, bool]:
        """Return the addresses kept, each with whether it was given by hand."""
        with self._lock:
            rows = self._open_database().execute("SELECT address, by_hand FROM addresses")
            kept = rows.fetchall()
        return {address: bool(by_hand) for address, by_hand in kept}

    def keep_addresses(self, addresses: dict[str, bool]) -> None:
        """Keep exactly these; raises OSError where the disk does not take them."""
        try:
            with self._lock, self._open_database() as database:
                database.execute("DELETE FROM addresses")
                database.executemany("INSERT INTO addresses VALUES (?, ?)", addresses.items())
        except sqlite3.Error as error:
            raise OSError(str(error)) from None

    def _open_database(self) -> sqlite3.Connection:
        """With the lock held: the database; an error once the store is closed."""
        if self._database is None:
            raise sqlite3.ProgrammingError("the data directory is closed")
        return self._database

    def close(self) -> None:
        """Let go of the directory. A second call does nothing."""
        with self._lock:
            if self._database:
                self._database.close()
                self._database = None
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None
