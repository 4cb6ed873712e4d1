"""The database of a node, `node.db`: its connections and transactions, and how it is opened.

How a transaction becomes durable: the database has a write-ahead log and `synchronous = FULL`, so
COMMIT returns once the transaction is on disk in `node.db-wal`, with a checksum for each of its
pages. After kill -9 or a power loss the next start finds the last complete transaction there, and
nothing of one that was not complete. That needs a disk that honours fsync. A new database is made
under another name and renamed once it is complete; so an empty `node.db` is always a damaged one.

A transaction counts only if the files are still where they were opened (directory.py): the look
before COMMIT can undo it, the one behind it can say that it is lost.

SQLite begins the write-ahead log anew only at a moment when nothing reads it, which may never come
while readers follow each other; and it never shortens the file. So the writer empties it when it is
too long: new readers then use the database alone, and the writer waits for the others.

One connection writes, behind the one lock of the database; a few read at the same time. Without a
directory, the database is in memory, and its only connection is used behind the lock.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from .. import settings
from ..address import parse_address
from ..core.book import Known
from ..cursors import Cursors
from ..errors import InputError, LogError, LogFull, LogGone, StartError
from ..settings import called
from ..wire.identity import Identity
from .directory import DATABASE, KEY_FILE, NEW_DATABASE, Watch, claim
from .private import kept_file, open_private_file, sync_directory
from .schema import APPLICATION_ID, LAST_ARRIVAL, PRAGMAS, STATEMENTS, VERSION
from .witness import Left, Witness

logger = logging.getLogger("p2p_sync")

Database: TypeAlias = sqlite3.Connection
"""A connection. It returns texts as bytes, since a damaged one may be no UTF-8."""

# What is kept of an address beside its times: the first fields of Known, in their order.
_FACTS = "address, by_hand, local, source, node, name, attempts, last_error"


class Store:
    """The database of one node, with its id and its addresses beside the log."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        """Open or make the data directory; None: keep everything in memory.

        Raises StartError, which says what to do, if it cannot be used.
        """
        self.directory = Path(directory) if directory is not None else None
        self.small = True  # so the log can be read whole at the start
        self.indexes_damaged = False
        self._lock = threading.Lock()  # one transaction at a time
        self._errors = _Errors(self)
        self._writer: Database | None = None
        self._readers: queue.LifoQueue[Database] = queue.LifoQueue()
        self._directory_lock: int | None = None
        self._watch: Watch | None = None
        self._witness: Witness | None = None
        self._gone: LogGone | None = None
        self._fold_at = -settings.NEVER  # when the write-ahead log may be emptied again
        # When it is to be emptied of erased texts; there may be some of the last start.
        self._remnants_at = time.monotonic() + settings.REMNANTS_PAUSE
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
                f"choose another with {called('data_dir')}, or keep nothing with "
                f"{called('ephemeral')}"
            ) from None

    def _open(self) -> None:
        if self.directory is None:
            self.identity = Identity.new()
            self._writer = _connect(":memory:")
            _fill(self._writer)
        else:
            place = self.directory.absolute()  # the process may change its working directory
            self._directory_lock = claim(place)
            self._witness = Witness(place)
            self.identity = _kept_identity(place)
            path = place / DATABASE
            if not path.exists():
                create(place, _fill)
            self.small = path.stat().st_size <= settings.MAX_CHECKED_BYTES
            self.indexes_damaged = _check(path, self.small)
            self._writer = _connect(path)
            for _ in range(settings.READERS):
                self._readers.put(_connect(path))
            self._watch = Watch(place)
        self.start = secrets.token_hex(4)  # the name of this start, see cursors.py
        self.cursors = Cursors(_note_start(self._writer, self.start))
        self._testify(now=True)

    # -- for any thread -------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """The id of this node."""
        return self.identity.node

    @property
    def gone(self) -> LogGone | None:
        """Why nothing that is read counts as stored any more; None if it does."""
        return self._gone

    @property
    def left(self) -> Left | None:
        """What the last start has left; None if it is not proven that the directory is the one that
        it has left."""
        return self._witness.left if self._witness else None

    def begin(self, origin: str) -> None:
        """Commits go on with this origin, if they do not already."""
        with self._lock:
            if self._witness and self._witness.own.origin != origin:
                self._testify(Left(origin))

    @contextmanager
    def writing(self, own: Left | None = None, *, durable: bool = True) -> Iterator[Database]:
        """Lend the database for one transaction, which is on disk when the block ends, or undone.
        `own`: what the log holds of this node's commits after it, if it contains some.

        One that is not `durable` gets there with the next one that is; a power loss may undo it.
        Raises LogFull or LogError if the disk does not take it. After LogGone, which may be raised
        when all is written, every further call raises it, too.
        """
        with self._lock, self._errors:
            database = self._open_writer()
            if self._gone:
                raise self._gone
            if not durable:
                database.execute("PRAGMA synchronous = NORMAL")
            try:
                database.execute("BEGIN IMMEDIATE")
                yield database
                self._look(database)  # here it can still be undone
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    database.execute("PRAGMA synchronous = FULL")
            self._settle(database, own)

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """Lend a connection to read from, while others write; raises LogError."""
        if self.directory is None:
            with self._lock, self._errors:
                yield self._open_writer()
            return
        if self._writer is None:
            raise LogError("the data directory is closed")
        try:
            database = self._readers.get(timeout=settings.READER_TIMEOUT)
        except queue.Empty:
            raise LogError("the log is busy; try again") from None
        try:
            with self._errors:
                yield database
        finally:
            if self._writer is None:
                database.close()
            else:
                self._readers.put(database)

    @contextmanager
    def snapshot(self) -> Iterator[Database]:
        """Lend a connection that sees nothing of what is written meanwhile; raises LogError."""
        with self.reading() as database:
            database.execute("BEGIN")
            try:
                yield database
            finally:
                database.execute("ROLLBACK")

    def check(self) -> None:
        """Raise LogGone if a file of the database was deleted, replaced or cut short.

        To be called now and then while nothing is written; it also empties a write-ahead log that
        is too long.
        """
        with self._lock, self._errors:
            if self._writer:
                self._settle(self._writer)

    def erased(self) -> None:
        """Note, in a transaction, that it erases texts: they are still in the write-ahead log."""
        self._remnants_at = min(self._remnants_at, time.monotonic() + settings.REMNANTS_PAUSE)

    def shorten(self, database: Database, pages: int) -> None:
        """In a transaction, give up to so many free pages back to the file system."""
        for _ in range(pages):  # Python stops it after the first one, whatever the number
            database.execute("PRAGMA incremental_vacuum(1)")
        (count,) = database.execute("PRAGMA page_count").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        if self._watch:
            self._watch.may_shrink(count * size)

    def size(self) -> int:
        """Return how many bytes the database takes on the disk."""
        size = 0
        for file in self.directory.glob(f"{DATABASE}*") if self.directory else ():
            with suppress(OSError):  # it may be deleted meanwhile
                size += file.stat().st_size
        return size

    def addresses(self, epoch: float) -> list[Known]:
        """Return the addresses kept; damaged ones are left out.

        `epoch` is the time on the caller's clock at which the system's clock stood at zero.
        """
        with self.reading() as database:
            query = f"SELECT {_FACTS}, worked + ?, failing + ? FROM addresses"
            rows = [[*map(_text, row)] for row in database.execute(query, (epoch, epoch))]
        return [Known(*row) for row in rows if _is_address(row[0])]

    def keep_addresses(self, addresses: Iterable[Known], epoch: float) -> None:
        """Keep these addresses and no others; raises LogError if they cannot be written."""
        facts = _FACTS.split(", ")
        rows = [
            [*(getattr(known, fact) for fact in facts), known.worked, epoch, known.failing, epoch]
            for known in addresses
        ]
        values = f"{'?, ' * len(facts)} ? - ?, ? - ?"
        with self.writing() as database:
            database.execute("DELETE FROM addresses")
            database.executemany(
                f"INSERT INTO addresses ({_FACTS}, worked, failing) VALUES ({values})", rows
            )

    def close(self) -> None:
        """Let go of the directory. A second call does nothing."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer:
                with suppress(LogError):
                    self._look(writer)
                writer.close()
        with suppress(queue.Empty):
            while True:
                self._readers.get_nowait().close()
        with self._lock:
            if self._witness:
                if not self._gone:
                    self._testify(now=True)  # closing it has emptied its write-ahead log
                self._witness.close()
        if self._directory_lock is not None:
            os.close(self._directory_lock)
            self._directory_lock = None

    # -- with the lock held ---------------------------------------------------------------------

    def _open_writer(self) -> Database:
        if self._writer is None:
            raise LogError("the data directory is closed")
        return self._writer

    def _look(self, database: Database) -> None:
        """Raise LogGone, now and at all further calls, if the files are not where they were."""
        if not self._gone and self._watch and (problem := self._watch.problem()):
            self._gone = LogGone(f"{problem}; bring it back and start the node again")
            if database.in_transaction:
                database.execute("ROLLBACK")
            if not self._watch.cut:
                with suppress(sqlite3.Error):
                    # A node.db that is still there takes what only the write-ahead log has held.
                    database.execute("PRAGMA wal_checkpoint").fetchone()
        if self._gone:
            raise self._gone

    def _settle(self, database: Database, own: Left | None = None) -> None:
        """A transaction is over, if there was one: look after the files."""
        self._look(database)
        if self._fold(database):
            self._look(database)
        self._testify(own)

    def _testify(self, own: Left | None = None, *, now: bool = False) -> None:
        """Have the witness write what is on disk. `now`: the database may have changed since
        `_look`."""
        if self._witness and self._watch:
            if now:
                self._watch.problem()
            self._witness.keep(self._watch.database, own)

    def _fold(self, database: Database) -> bool:
        """Empty the write-ahead log if it is too long, or may hold erased texts; return whether
        the files have changed."""
        now = time.monotonic()
        if not self._watch or now < self._fold_at:
            return False
        if self._watch.wal_size() <= settings.MAX_WAL_BYTES and now < self._remnants_at:
            return False
        database.execute(f"PRAGMA busy_timeout = {settings.WAL_PATIENCE * 1000:.0f}")
        busy = True
        with suppress(sqlite3.OperationalError):  # the transaction before it is stored
            busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        self._watch.shortened()
        database.execute(f"PRAGMA busy_timeout = {settings.BUSY_TIMEOUT * 1000:.0f}")
        if busy:
            self._fold_at = time.monotonic() + settings.WAL_RETRY
        else:
            self._remnants_at = settings.NEVER
        return True


class _Errors:
    """In a `with` block, turns SQLite's errors into ours. For any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        if "full" in str(error):
            raise LogFull(
                "the disk is full; make room on it, and commits work again by themselves"
            ) from None
        # An index may lead to nothing; if it is not that, making it again will show it.
        self._store.indexes_damaged |= "malformed" in str(error)
        raise LogError(f"the log cannot be used: {error}") from None


# -- at the start ---------------------------------------------------------------------------------


def _connect(path: Path | str) -> Database:
    database = sqlite3.connect(
        path, timeout=settings.BUSY_TIMEOUT, check_same_thread=False, isolation_level=None
    )
    database.text_factory = bytes
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new database
        database.execute("PRAGMA secure_delete = ON")
        (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != b"wal" and path != ":memory:":
            raise StartError(
                f"the file system of {Path(path).parent} cannot hold a write-ahead log (SQLite "
                f"falls back to {_text(mode)!r}); choose a directory on a local disk with "
                f"{called('data_dir')}"
            )
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA wal_autocheckpoint = {settings.CHECKPOINT_PAGES}")
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the files
    except BaseException:
        database.close()
        raise
    return database


def create(place: Path, fill: Callable[[Database], object]) -> None:
    """Make a new database in a data directory, with what `fill` writes: complete, or not at all."""
    _delete_new(place)  # of a start that was killed here
    new = place / NEW_DATABASE[0]
    handle = open_private_file(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with closing(_connect(new)) as database:
            fill(database)
        os.fsync(handle)
        new.replace(place / DATABASE)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartError(f"cannot make a database in {place} ({reason})") from None
    finally:
        os.close(handle)
        _delete_new(place)
    sync_directory(place)


def _delete_new(place: Path) -> None:
    for name in NEW_DATABASE:
        (place / name).unlink(missing_ok=True)


def _fill(database: Database) -> None:
    """Make the tables of a new database."""
    database.executescript(f"BEGIN; {'; '.join(STATEMENTS)}; {PRAGMAS}; COMMIT")


def _check(path: Path, small: bool) -> bool:
    """Refuse a database that is not ours, of another version or damaged; of one that is not small
    only the ends are read. Return whether its indexes are damaged, which can be made again."""
    with path.open("rb") as file:
        head = file.read(72)
    aside = "put it aside and start again: the other nodes send what they hold"
    if not head:
        raise StartError(f"the log {path} is empty (0 bytes), so it is damaged; {aside}")
    if head[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise StartError(
            f"the data directory {path.parent} holds files that are not a node's, or whose first "
            f"page is damaged; choose an empty or a new one with {called('data_dir')}"
        )
    try:
        # Read only, or closing it would fold the write-ahead log into what is damaged.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.text_factory = bytes
            # In the write-ahead log there may be another version than in the head of the file.
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise StartError(
                    f"the data directory {path.parent} was written by another version of p2p_sync "
                    f"(its tables have version {version}, this one reads {VERSION}); run that, or "
                    f"choose another directory with {called('data_dir')}"
                )
            problem, indexes_damaged = _problem(database, small)
    except sqlite3.DatabaseError as error:
        problem = str(error)
    except UnicodeDecodeError:  # of what SQLite would report
        problem = "its tables have names that are not text"
    if problem:
        raise StartError(f"the log {path} is damaged ({problem}) and left as it is; {aside}")
    return indexes_damaged


def _problem(database: Database, small: bool) -> tuple[str, bool]:
    """Return what is damaged in a database, its indexes apart ("": nothing), and whether the
    indexes are."""
    query = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"
    if {sql for (sql,) in database.execute(query)} != {text.encode() for text in STATEMENTS}:
        return "its tables are not those of this version", False
    if not small:
        database.execute("SELECT max(arrival), max(time) FROM entries").fetchone()
        return "", False
    if database.execute("PRAGMA integrity_check(1)").fetchone() == (b"ok",):
        return "", False
    (problem,) = database.execute("PRAGMA quick_check(1)").fetchone()  # of all but the indexes
    return ("", True) if problem == b"ok" else (str(_text(problem)), False)


def _kept_identity(place: Path) -> Identity:
    """Return the key in the data directory, a new one if there is none."""
    path = place / KEY_FILE
    text = kept_file(path, lambda: Identity.new().to_pem(), "key")
    try:
        return Identity.from_pem(text.encode())
    except ValueError as error:
        raise StartError(
            f"the key file {path} is damaged ({error}); bring it back, or delete it: then this "
            "node gets a new key and a new id"
        ) from None


def _note_start(database: Database, start: str) -> list[tuple[str, int]]:
    """Keep the name of this start; return the latest starts, this one last, each with the last
    arrival when it began."""
    query = "SELECT start, arrival FROM starts ORDER BY number DESC LIMIT ?"
    rows = database.execute(query, (settings.MAX_STARTS - 1,)).fetchall()
    (arrival,) = database.execute(LAST_ARRIVAL).fetchone()
    with suppress(sqlite3.OperationalError):  # on a full disk the log can be read still
        database.execute("INSERT INTO starts (start, arrival) VALUES (?, ?)", (start, arrival))
        database.execute(
            "DELETE FROM starts WHERE number <= (SELECT max(number) FROM starts) - ?",
            (settings.MAX_STARTS,),
        )
    return [*((_text(name), number) for name, number in reversed(rows)), (start, arrival)]


# -- values of rows -------------------------------------------------------------------------------


def _text(value: Any) -> Any:
    """Return a text as str, and other values as they are."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and str(parse_address(value)) == value
    except InputError:
        return False
