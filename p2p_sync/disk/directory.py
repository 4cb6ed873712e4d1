"""The data directory: it belongs to this user, one node uses it, and its files stay in place.

While a database is open, SQLite would go on writing to files that were deleted, replaced or cut
short. `Watch` notices that: a file has to keep its device and inode, and the files that hold
messages must not be shorter than this node has left them.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from ..errors import StartError
from ..settings import WATCH_ALL, called
from .private import (
    check_private_file,
    close_directory,
    make_private_directory,
    open_private_file,
)

DATABASE = "node.db"
NEW_DATABASE = [f"node.db.new{ending}" for ending in ("", "-wal", "-shm", "-journal")]
"""The files of a database that is being made, the database first."""

KEY_FILE = "node-key.pem"
"""The file with the private key of the node."""

WITNESSES = ("witness-1", "witness-2")
"""The files that prove that nothing was put back, see witness.py."""

_WAL = "node.db-wal"
_OPEN = (DATABASE, _WAL, "node.db-shm")
_PRIVATE = ("http-token", "http-token.part", KEY_FILE, "node-key.part", *WITNESSES)
# What may be left where somebody has put the database aside.
_BESIDE = {"lock", "node.db-shm", *_PRIVATE, *NEW_DATABASE}


def claim(directory: Path) -> int:
    """Make the data directory if need be, and lock it for this process; return the descriptor of
    the lock. The kernel releases it when the process ends, however that happens.

    Raises StartError for a directory of another user or program, or in use; OSError.
    """
    make_private_directory(directory)
    _check_names(directory)
    close_directory(directory)
    lock = open_private_file(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in _PRIVATE:
            check_private_file(directory / name)
        for name in (*_OPEN, KEY_FILE):
            if check_private_file(directory / name):
                # Now: while SQLite has it open, closing it again would end SQLite's locks.
                os.close(open_private_file(directory / name, os.O_RDONLY))
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise StartError(
                f"the data directory {directory} is in use by another node; "
                f"stop that one, or choose another directory with {called('data_dir')}"
            ) from None
        raise
    return lock


def _check_names(directory: Path) -> None:
    """Refuse a directory of another program, before anything is made in it."""
    names = {entry.name for entry in directory.iterdir()}
    if DATABASE in names or names <= _BESIDE:
        return
    wal = directory / _WAL
    if _WAL in names and wal.lstat().st_size:
        raise StartError(
            f"{wal} is there, but the database that it belongs to is not; bring {DATABASE} back, "
            "or put the file aside and start again: the other nodes send what they hold"
        )
    if not names <= {_WAL, *_BESIDE}:
        raise StartError(
            f"the data directory {directory} holds files that are not a node's; choose an empty or "
            f"a new one with {called('data_dir')}"
        )


class Watch:
    """The files of an open database. Not for several threads at once."""

    def __init__(self, directory: Path) -> None:
        """Note which files are open; raises StartError if one is missing."""
        self._opened: dict[str, tuple[int, int]] = {}  # path -> device, inode
        self._sizes: dict[str, int] = {}  # of the files that hold messages
        self._all_at = 0.0
        self._shorter: int | None = None  # the bytes that the database may shrink to
        self.cut = False  # a file was cut short, so what is in the files does not belong together
        for path in (directory / name for name in (*_OPEN, "lock")):
            about = check_private_file(path)
            if about is None:
                raise StartError(f"{path} was deleted while the node was starting; start it again")
            self._opened[str(path)] = (about.st_dev, about.st_ino)
            if path.name == DATABASE:
                self.database = about  # its status when it was last looked at
        self._holding = list(self._opened)[:2]

    def wal_size(self) -> int:
        """Return the bytes of the write-ahead log when it was last looked at."""
        return self._sizes.get(self._holding[1], 0)

    def shortened(self) -> None:
        """The database has shortened its files by itself."""
        self._sizes.clear()

    def may_shrink(self, size: int) -> None:
        """The database is about to shrink to this size, when SQLite gets to it."""
        self._shorter = size

    def _has_shrunk(self, path: str, size: int) -> bool:
        """Return whether a file that is shorter now is the database, and has shrunk by itself."""
        if path != self._holding[0] or self._shorter is None or size < self._shorter:
            return False
        self._shorter = None
        return True

    def problem(self) -> str | None:
        """Return what has happened to the files, None if they are in place.

        Looks at the database and its write-ahead log each time, 4 us each, at others now and then.
        """
        paths = self._holding
        if (now := time.monotonic()) >= self._all_at:
            self._all_at, paths = now + WATCH_ALL, list(self._opened)
        for path in paths:
            try:
                about = os.lstat(path)
            except OSError as error:
                return f"{path} is not there any more ({error.strerror})"
            if (about.st_dev, about.st_ino) != self._opened[path]:
                return f"{path} was replaced by another file"
            shorter = about.st_size < self._sizes.get(path, 0)
            if shorter and not self._has_shrunk(path, about.st_size):
                self.cut = True
                return f"{path} was overwritten"
            if path in self._holding:
                self._sizes[path] = about.st_size
                if path == self._holding[0]:
                    self.database = about
        return None
