"""The data directory: what a node keeps over a restart. The one door to SQLite.

One node a directory: the file `lock` is locked by the kernel while the process lives. With no
directory the same code runs on a database in memory.
"""

from __future__ import annotations

import fcntl
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from .addressbook import Known
from .errors import LogError, LogFull, StartError

Database: TypeAlias = sqlite3.Connection

# What may be left where somebody has put the database aside.
_BESIDE = {"lock", "http-token", "http-token.part"}
_APPLICATION_ID = 0x70327073  # "p2ps": tells our database from any other
# One step a version: the first makes version 1 of nothing, and so on.
_MIGRATIONS = [
    f"""
    CREATE TABLE identity (node TEXT NOT NULL);
    CREATE TABLE addresses (address TEXT PRIMARY KEY, by_hand INTEGER NOT NULL) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION_ID};
    """,
    """
    CREATE TABLE origins (
        origin TEXT PRIMARY KEY,
        n INTEGER NOT NULL,          -- messages held: 1 to n
        hash BLOB NOT NULL           -- running hash over them
    ) WITHOUT ROWID;
    CREATE TABLE messages (
        arrival INTEGER PRIMARY KEY, -- counts up as they come to be shown here
        origin TEXT NOT NULL,
        seq INTEGER NOT NULL,
        time INTEGER NOT NULL,
        data TEXT NOT NULL,
        hash BLOB NOT NULL,          -- running hash up to and with this one
        heard INTEGER NOT NULL,
        leader INTEGER               -- of a hearing: arrival of the one that is shown for it
    );
    CREATE UNIQUE INDEX by_identity ON messages (origin, seq);
    CREATE INDEX by_place ON messages (time, origin, seq);
    CREATE INDEX by_text ON messages (data, time, origin, seq) WHERE heard;
    CREATE INDEX hidden ON messages (arrival) WHERE leader <> arrival;
    """,
    """
    -- learned over loopback or given by hand: may lead to this machine
    ALTER TABLE addresses ADD COLUMN local INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE addresses ADD COLUMN source TEXT NOT NULL DEFAULT '';  -- who told of it
    ALTER TABLE addresses ADD COLUMN node TEXT;                        -- the id found there
    ALTER TABLE addresses ADD COLUMN original INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE addresses ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE addresses ADD COLUMN last_error TEXT NOT NULL DEFAULT '';
    -- seconds since the epoch: when a node last answered, and since when every dial has failed
    ALTER TABLE addresses ADD COLUMN worked REAL;
    ALTER TABLE addresses ADD COLUMN failing REAL;
    """,
    """
    -- What was committed together is one row: one for each message costs ten times as much.
    CREATE TABLE entries (
        arrival INTEGER PRIMARY KEY, -- of its last message; counts up as they come to be shown here
        origin TEXT NOT NULL,
        seq INTEGER NOT NULL,        -- of its first message
        count INTEGER NOT NULL,      -- of its messages
        time INTEGER NOT NULL,
        heard INTEGER NOT NULL,
        leader INTEGER,              -- of a hearing: arrival of the one that is shown for it
        previous BLOB NOT NULL,      -- running hash before it
        data TEXT NOT NULL           -- the text; of several a list, in JSON
    );
    INSERT INTO entries SELECT
        arrival, origin, seq, 1, time, heard, leader,
        lag(hash, 1, x'') OVER (PARTITION BY origin ORDER BY seq), data
        FROM messages;
    DROP TABLE messages;
    CREATE UNIQUE INDEX by_identity ON entries (origin, seq);
    CREATE INDEX by_place ON entries (time, origin, seq);
    CREATE INDEX by_text ON entries (data, time, origin, seq) WHERE heard;
    CREATE INDEX hidden ON entries (arrival) WHERE leader <> arrival;
    """,
]
# Connections to read with, and how long one may be waited for. Seconds.
_READERS = 4
_READER_TIMEOUT = 10.0
# Up to this size a database is checked whole at the start, which takes a moment. Bytes.
_CHECK_SIZE = 64 * 1024 * 1024
# How much of the write-ahead log may pile up before it is folded into the database. Pages.
_CHECKPOINT_PAGES = 4000

# What is kept of an address beside its times: the first fields of Known, in their order.
_FACTS = "address, by_hand, local, source, node, original, attempts, last_error"


class Store:
    """A node's directory: its identity, its addresses, and the database for its log."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        """Open or make the data directory; None keeps nothing.

        Raises StartError, which says what to do, where it cannot be used.
        """
        self.directory = Path(directory) if directory is not None else None
        self._lock_file: int | None = None
        self._writing = threading.Lock()  # one transaction at a time
        self._writer: Database | None = None
        self._readers: queue.LifoQueue[Database] = queue.LifoQueue()
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
            self._writer = self._connect(":memory:")
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._check_files(self.directory)
            self._lock_directory(self.directory)
            path = self.directory / "node.db"
            self._check(path)
            self._writer = self._connect(path)
        self._migrate(self._writer)
        self.node = str(self._writer.execute("SELECT node FROM identity").fetchone()[0])
        if self.directory is not None:
            for _ in range(_READERS):
                self._readers.put(self._connect(self.directory / "node.db"))

    @staticmethod
    def _connect(path: Path | str) -> Database:
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        return database

    def _check(self, path: Path) -> None:
        """Refuse a database that is newer or damaged; of a large one only the ends are read."""
        if not path.exists():
            return
        with path.open("rb") as file:
            head = file.read(64)  # the version is at byte 60, until then nothing is touched
            if int.from_bytes(head[60:64], "big") > len(_MIGRATIONS):
                raise StartError(
                    f"the data directory {self.directory} was written by a newer p2p_sync; "
                    "run that, or choose another directory with --data-dir"
                )
        # Read only, or closing it would fold the write-ahead log into what is damaged.
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            problem = "ok"
            if path.stat().st_size <= _CHECK_SIZE:
                (problem,) = database.execute("PRAGMA quick_check(1)").fetchone()
            elif (version := database.execute("PRAGMA user_version").fetchone()[0]) >= 2:
                table = "entries" if version >= 4 else "messages"
                database.execute(f"SELECT max(arrival), max(time) FROM {table}").fetchone()
                database.execute("SELECT count(*) FROM origins").fetchone()
        except sqlite3.DatabaseError as error:
            problem = str(error)
        finally:
            database.close()
        if problem != "ok":
            raise StartError(
                f"the log {path} is damaged ({problem}) and left as it is; put it aside and start "
                "again: the other nodes send what they hold"
            )

    def _migrate(self, database: Database) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        for number, step in enumerate(_MIGRATIONS[version:], version + 1):
            database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
        if not database.execute("SELECT count(*) FROM identity").fetchone()[0]:
            database.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))

    def _check_files(self, directory: Path) -> None:
        names = {entry.name for entry in directory.iterdir()}
        if names <= _BESIDE or self._is_ours(directory / "node.db"):
            return
        raise StartError(
            f"the data directory {directory} holds files that are not a node's, or whose first "
            "page is damaged; choose an empty or a new one with --data-dir"
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

    # -- any thread -----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """Lend the database for one transaction: on disk when the block ends, or undone.

        Raises LogFull or LogError where the disk does not take it.
        """
        with self._writing, _errors():
            database = self._writer
            if database is None:
                raise sqlite3.ProgrammingError("the data directory is closed")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """Lend a database to read from, while others write; raises LogError."""
        if self.directory is None:
            with self._writing, _errors():
                if self._writer is None:
                    raise sqlite3.ProgrammingError("the data directory is closed")
                yield self._writer
            return
        if self._writer is None:
            raise LogError("the data directory is closed")
        try:
            database = self._readers.get(timeout=_READER_TIMEOUT)
        except queue.Empty:
            raise LogError("the log is busy; try again") from None
        try:
            with _errors():
                yield database
        finally:
            if self._writer is None:
                database.close()
            else:
                self._readers.put(database)

    def size(self) -> int:
        """Return how many bytes the log and what belongs to it take on the disk."""
        files = self.directory.glob("node.db*") if self.directory else ()
        return sum(file.stat().st_size for file in files)

    def addresses(self, epoch: float) -> list[Known]:
        """Return the addresses kept.

        `epoch` is the time on the caller's clock at which the system's clock stood at zero.
        """
        with self.reading() as database:
            rows = database.execute(f"SELECT {_FACTS}, worked, failing FROM addresses").fetchall()
        found = [Known(*row) for row in rows]
        for known in found:
            known.worked = _moved(known.worked, epoch)
            known.failing = _moved(known.failing, epoch)
        return found

    def keep_addresses(self, addresses: Iterable[Known], epoch: float) -> None:
        """Keep exactly these; raises LogError where the disk does not take them."""
        names = _FACTS.split(", ")
        rows = [
            [
                *(getattr(known, name) for name in names),
                _moved(known.worked, -epoch),
                _moved(known.failing, -epoch),
            ]
            for known in addresses
        ]
        with self.writing() as database:
            database.execute("DELETE FROM addresses")
            database.executemany(
                f"INSERT INTO addresses ({_FACTS}, worked, failing) "
                f"VALUES ({', '.join('?' * (len(names) + 2))})",
                rows,
            )

    def close(self) -> None:
        """Let go of the directory. A second call does nothing."""
        with self._writing:
            writer, self._writer = self._writer, None
            with suppress(queue.Empty):
                while True:
                    self._readers.get_nowait().close()
            if writer:
                writer.close()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None


def _moved(time: float | None, by: float) -> float | None:
    return None if time is None else time + by


@contextmanager
def _errors() -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        full = "full" in str(error)
        raise (LogFull if full else LogError)(f"the log cannot be used: {error}") from None
