"""The data directory: what a node keeps over a restart. The one door to SQLite.

One node a directory: the file `lock` is locked by the kernel while the process lives. With no
directory the same code runs on a database in memory.

A new database is made under another name and moved to its own once it is complete, so that an
empty file is always a damaged one. While it is open, SQLite would go on writing to files that were
deleted, replaced or cut short; so each transaction counts only if the files are still where they
were opened, and no shorter than this node has left them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from ..address import parse_address
from ..core.book import Known
from ..cursors import MAX_STARTS, Cursors
from ..errors import InputError, LogError, LogFull, LogGone, StartError
from .private import check_private_file, make_private_directory, open_private_file

logger = logging.getLogger("p2p_sync")

Database: TypeAlias = sqlite3.Connection

_NODE_ID = re.compile(r"[0-9a-f]{16}")

_NEW = "node.db.new"  # a database that is being made
# The files of a database in use.
_DATABASE = ("node.db", "node.db-wal", "node.db-shm")
# The first of them, which hold the messages, are looked at in each transaction, for some 4 us
# each; the others and the lock this often. Seconds.
_HOLDING = 2
_LOOK_AT_ALL = 0.4
# What may be left where somebody has put the database aside.
_BESIDE = {"lock", "http-token", "http-token.part", "node.db-shm"} | {
    f"{_NEW}{ending}" for ending in ("", "-wal", "-shm", "-journal")
}
_APPLICATION_ID = 0x70327073  # "p2ps": tells our database from any other
_VERSION = 5
_SCHEMA = f"""
    CREATE TABLE identity (node TEXT NOT NULL);
    -- The starts of this node: arrivals above `arrival` came in this one or later.
    CREATE TABLE starts (
        number INTEGER PRIMARY KEY,
        start TEXT NOT NULL UNIQUE,
        arrival INTEGER NOT NULL
    );
    CREATE TABLE addresses (
        address TEXT PRIMARY KEY,
        by_hand INTEGER NOT NULL,
        local INTEGER NOT NULL,      -- learned over loopback or given by hand
        source TEXT NOT NULL,        -- the node or host that named it
        node TEXT,                   -- the id found there
        attempts INTEGER NOT NULL,
        last_error TEXT NOT NULL,
        -- seconds since the epoch: when a node last answered, and since when every dial has failed
        worked REAL,
        failing REAL
    ) WITHOUT ROWID;
    CREATE TABLE origins (
        origin TEXT PRIMARY KEY,
        n INTEGER NOT NULL,          -- messages held: 1 to n
        hash BLOB NOT NULL,          -- running hash over them
        beyond INTEGER NOT NULL,     -- n + 1 is damaged, and the entries end here; 0: it is not
        sum INTEGER NOT NULL         -- checksum of the row
    ) WITHOUT ROWID;
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
        data TEXT NOT NULL,          -- the text; of several a list, in JSON
        sum INTEGER NOT NULL         -- checksum of all that never changes
    );
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {_VERSION};
"""
_INDEXES = """
    CREATE UNIQUE INDEX by_identity ON entries (origin, seq);
    CREATE INDEX by_place ON entries (time, origin, seq);
    CREATE INDEX by_text ON entries (data, time, origin, seq) WHERE heard;
    CREATE INDEX hidden ON entries (arrival) WHERE leader <> arrival;
"""
_DROP_INDEXES = "".join(
    f"DROP INDEX {name};" for name in ("by_identity", "by_place", "by_text", "hidden")
)
# Connections to read with, and how long one may be waited for. Seconds.
_READERS = 4
_READER_TIMEOUT = 10.0
# How long to wait for the lock of another program, such as one that makes a backup. Seconds.
_BUSY = 5.0
# Up to this size a database is checked whole at the start, which takes a moment. Bytes.
_CHECK_SIZE = 64 * 1024 * 1024
# How much of the write-ahead log may pile up before it is folded into the database. Pages.
_CHECKPOINT_PAGES = 4000
# SQLite starts the write-ahead log over only when nobody reads from it, which never happens by
# itself while others read all the time, and leaves the file as long as it is. Above this size it is
# emptied: new readers then use the database alone, and the writer waits for the others. Bytes.
_MOST_WAL = 16 * 1024 * 1024
# How long it waits for them, and when it tries again if that was too short. Seconds.
_FOLD_PATIENCE = 0.5
_FOLD_AGAIN = 2.0

# What is kept of an address beside its times: the first fields of Known, in their order.
_FACTS = "address, by_hand, local, source, node, attempts, last_error"


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
        self.small = True  # so that all of it can be checked at the start
        self.indexes_differ = False  # from the rows of their table
        self._opened: dict[str, tuple[int, int]] = {}  # device and inode of each file
        self._sizes: dict[str, int] = {}  # of those that hold the messages, which only we shorten
        self._wal_size = 0
        self._fold_at = float("-inf")
        self._looked = float("-inf")  # when at all of them
        self._gone: LogGone | None = None
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
            _fill(self._writer)
        else:
            place = self.directory.absolute()  # the process may change its working directory
            make_private_directory(place)
            self._check_names(place)
            self._lock_directory(place)
            for name in ("http-token", "http-token.part"):
                check_private_file(place / name)
            for name in _DATABASE:
                if check_private_file(place / name):
                    # While SQLite has it open, closing it again would end SQLite's locks.
                    os.close(open_private_file(place / name, os.O_RDONLY))
            path = place / "node.db"
            if not path.exists():
                self._create(place)
            self._check(path)
            self._writer = self._connect(path)
            for _ in range(_READERS):
                self._readers.put(self._connect(path))
            self._watch([place / name for name in (*_DATABASE, "lock")])
        self.node = self._identity(self._writer)
        self.start = secrets.token_hex(4)  # the name of this start, see cursors.py
        self.cursors = Cursors(self._note_start(self._writer))

    def _identity(self, database: Database) -> str:
        """Return the id of this node. Peers would refuse a damaged one, so it gets a new one."""
        rows = [str(node) for (node,) in database.execute("SELECT node FROM identity")]
        if len(rows) == 1 and _NODE_ID.fullmatch(rows[0]):
            return rows[0]
        node = secrets.token_hex(8)
        logger.error("the id of this node is damaged, check the disk; its new id is %s", node)
        with suppress(sqlite3.OperationalError):  # on a full disk the log can be read still
            database.execute("DELETE FROM identity")
            database.execute("INSERT INTO identity VALUES (?)", (node,))
        return node

    def _note_start(self, database: Database) -> list[tuple[str, int]]:
        """Return the starts of this node, this one last, and keep them."""
        query = "SELECT start, arrival FROM starts ORDER BY number DESC LIMIT ?"
        starts = database.execute(query, (MAX_STARTS - 1,)).fetchall()[::-1]
        (arrival,) = database.execute("SELECT coalesce(max(arrival), 0) FROM entries").fetchone()
        with suppress(sqlite3.OperationalError):  # on a full disk the log can be read still
            database.execute(
                "INSERT INTO starts (start, arrival) VALUES (?, ?)", (self.start, arrival)
            )
            database.execute(
                "DELETE FROM starts WHERE number <= (SELECT max(number) FROM starts) - ?",
                (MAX_STARTS,),
            )
        return [*starts, (self.start, arrival)]

    def _watch(self, paths: Iterable[Path]) -> None:
        """Take note of which files are open."""
        for path in paths:
            found = check_private_file(path)
            if found is None:
                raise StartError(f"{path} was deleted while the node was starting; start it again")
            self._opened[str(path)] = (found.st_dev, found.st_ino)

    def _connect(self, path: Path | str) -> Database:
        database = sqlite3.connect(
            path, timeout=_BUSY, check_same_thread=False, isolation_level=None
        )
        database.text_factory = _decoded
        try:
            (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal" and path != ":memory:":
                raise StartError(
                    f"the file system of {self.directory} cannot hold a write-ahead log (SQLite "
                    f"falls back to {mode!r}); choose a directory on a local disk with --data-dir"
                )
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the files
        except BaseException:
            database.close()
            raise
        return database

    def _create(self, place: Path) -> None:
        """Make a new database: complete, or not at all."""
        new = place / _NEW
        for ending in ("", "-wal", "-shm", "-journal"):  # of a start that was killed here
            Path(f"{new}{ending}").unlink(missing_ok=True)
        os.close(open_private_file(new, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        with closing(self._connect(new)) as database:
            _fill(database)
        new.replace(place / "node.db")
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _check(self, path: Path) -> None:
        """Refuse a database that is not of this version, or damaged; of a large one only the ends
        are read."""
        with path.open("rb") as file:
            head = file.read(72)
        aside = "put it aside and start again: the other nodes send what they hold"
        if not head:
            raise StartError(f"the log {path} is empty (0 bytes), so it is damaged; {aside}")
        if head[68:72] != _APPLICATION_ID.to_bytes(4, "big"):
            raise StartError(
                f"the data directory {self.directory} holds files that are not a node's, or whose "
                "first page is damaged; choose an empty or a new one with --data-dir"
            )
        self._check_version(int.from_bytes(head[60:64], "big"))  # until then nothing is touched
        # Read only, or closing it would fold the write-ahead log into what is damaged.
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        database.text_factory = _decoded
        try:
            problem = "ok"
            # The newest version may still be in the write-ahead log.
            self._check_version(database.execute("PRAGMA user_version").fetchone()[0])
            if _schema(database) != _schema_of_new():
                raise sqlite3.DatabaseError("its tables are not those of this version")
            self.small = path.stat().st_size <= _CHECK_SIZE
            if self.small:
                (problem,) = database.execute("PRAGMA integrity_check(1)").fetchone()
                if problem != "ok":  # damaged indexes can be made again
                    (problem,) = database.execute("PRAGMA quick_check(1)").fetchone()
                    self.indexes_differ = problem == "ok"
            else:
                database.execute("SELECT max(arrival), max(time) FROM entries").fetchone()
                database.execute("SELECT count(*) FROM origins").fetchone()
        except sqlite3.DatabaseError as error:
            problem = str(error)
        except UnicodeDecodeError:  # of what SQLite would report
            problem = "its tables have names that are not text"
        finally:
            database.close()
        if problem != "ok":
            raise StartError(f"the log {path} is damaged ({problem}) and left as it is; {aside}")

    def _check_version(self, version: int) -> None:
        if version == _VERSION:
            return
        if version > _VERSION:
            writer, way = "a newer p2p_sync", "run that, or choose"
        else:
            writer, way = "a p2p_sync before the first release", "choose"
        raise StartError(
            f"the data directory {self.directory} was written by {writer}; {way} another directory "
            "with --data-dir"
        )

    def _check_names(self, place: Path) -> None:
        """Refuse a directory of something else, before anything is made in it."""
        names = {entry.name for entry in place.iterdir()}
        if "node.db" in names or names <= _BESIDE:
            return
        wal = place / "node.db-wal"
        if "node.db-wal" in names and wal.lstat().st_size:
            raise StartError(
                f"{wal} is there, but the database that it belongs to is not; bring node.db back, "
                "or put the file aside and start again: the other nodes send what they hold"
            )
        if names - {wal.name} <= _BESIDE:
            return
        raise StartError(
            f"the data directory {self.directory} holds files that are not a node's; choose an "
            "empty or a new one with --data-dir"
        )

    def _lock_directory(self, place: Path) -> None:
        self._lock_file = open_private_file(place / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"the data directory {self.directory} is in use by another node; "
                "stop that one, or choose another directory with --data-dir"
            ) from None

    # -- any thread -----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """Lend the database for one transaction: on disk when the block ends, or undone.

        Raises LogFull or LogError where the disk does not take it. After LogGone, which may come
        once all was written, all further calls raise it, too.
        """
        with self._writing, _errors():
            database = self._writer
            if database is None:
                raise sqlite3.ProgrammingError("the data directory is closed")
            if self._gone:
                raise self._gone
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                self._look(database)  # here it can still be undone
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._look(database)
            self._fold(database)

    def check(self) -> None:
        """Raise LogGone if a file of the database was deleted or replaced since it was opened.

        The writer calls it while it is idle, which is also the time to shorten what is too long.
        """
        with self._writing, _errors():
            if self._writer:
                self._look(self._writer)
                self._fold(self._writer)

    def _fold(self, database: Database) -> None:
        """With the lock held: empty the write-ahead log if it has grown too long."""
        if self._wal_size <= _MOST_WAL or time.monotonic() < self._fold_at:
            return
        database.execute(f"PRAGMA busy_timeout = {_FOLD_PATIENCE * 1000:.0f}")
        busy = True
        with suppress(sqlite3.OperationalError):  # the transaction before it is stored
            busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        self._sizes.clear()
        database.execute(f"PRAGMA busy_timeout = {_BUSY * 1000:.0f}")
        if busy:
            self._fold_at = time.monotonic() + _FOLD_AGAIN

    def _look(self, database: Database) -> None:
        """With the lock held: see whether what is written can be found again."""
        if self._gone:
            raise self._gone
        now = time.monotonic()
        files = list(self._opened.items())
        if now < self._looked + _LOOK_AT_ALL:
            files = files[:_HOLDING]
        else:
            self._looked = now
        for path, opened in files:
            cut = False
            try:
                found = os.lstat(path)
            except OSError as error:
                problem = f"is not there any more ({error.strerror})"
            else:
                if path.endswith("-wal"):
                    self._wal_size = found.st_size
                cut = found.st_size < self._sizes.get(path, 0)
                if (found.st_dev, found.st_ino) == opened and not cut:
                    if path.endswith(_DATABASE[:_HOLDING]):
                        self._sizes[path] = found.st_size
                    continue
                problem = "was overwritten" if cut else "was replaced by another file"
            self._gone = LogGone(f"{path} {problem}; bring it back and start the node again")
            if database.in_transaction:
                database.execute("ROLLBACK")
            if cut:
                raise self._gone  # what is in the files does not belong together
            with suppress(sqlite3.Error):
                # Where node.db is still there, it takes what only the write-ahead log has held.
                database.execute("PRAGMA wal_checkpoint").fetchone()
            raise self._gone

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

    def make_indexes(self, damaged: Iterable[int]) -> None:
        """Make the indexes again, without the rows of entries with these arrivals."""
        with self.writing() as database:
            for statement in _DROP_INDEXES.split(";"):
                database.execute(statement)
            numbers = [(arrival,) for arrival in damaged]
            database.executemany("DELETE FROM entries WHERE arrival = ?", numbers)
            for statement in _INDEXES.split(";"):
                database.execute(statement)

    def size(self) -> int:
        """Return how many bytes the log and what belongs to it take on the disk."""
        size = 0
        for file in self.directory.glob("node.db*") if self.directory else ():
            with suppress(OSError):  # it may be deleted meanwhile
                size += file.stat().st_size
        return size

    def addresses(self, epoch: float) -> list[Known]:
        """Return the addresses kept.

        `epoch` is the time on the caller's clock at which the system's clock stood at zero.
        """
        with self.reading() as database:
            rows = database.execute(f"SELECT {_FACTS}, worked, failing FROM addresses")
            found = [Known(*row) for row in rows if _is_address(row[0])]
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


def _fill(database: Database) -> None:
    """Make the tables of a new database."""
    database.executescript(f"BEGIN; {_SCHEMA} {_INDEXES} COMMIT;")
    database.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))


def _schema(database: Database) -> set[tuple[str, str]]:
    """Return the statements that made the tables and indexes, each with its name."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'probe'"
    return set(database.execute(query))


def _schema_of_new() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as database:
        _fill(database)
        return _schema(database)


def _decoded(data: bytes) -> str:
    """Read a text; one damaged row is no reason to fail, the checksums tell."""
    return data.decode("utf-8", "replace")


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and str(parse_address(value)) == value
    except InputError:
        return False


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
