"""The witness: it proves at a start that the data directory is the one that the last start left.

A node must never give one id to two messages. So it goes on with the origin of its last start only
if nothing can have set its log back since: no copy, no older state, no other machine. Two small
files, written in turn and never synced, prove that. Each time commits of this node have reached the
disk, and before anybody learns of them, one of the two is written. It contains

    the id of this boot of the machine
    a count, so that the later one of the two is known
    the origin of this node's commits, how many the log holds, and their running hash
    device, inode and time of change (ctime) of the other witness, and of the database

The system sets the time of change whenever a file is written or gets a name, and no program can
choose it. A file cannot contain its own, hence the two. The later one proves it if it is of this
boot, if the other one and the database are what it says, and if the log goes as far as it says:

- A copy has other inodes and other times of change, however it was made.
- If somebody puts back an older state of both witnesses, the other one has changed since the later
  one was written. If only one was put back, the later one of the two does not describe it.
- If somebody puts back an older database alone, its time has changed; most often it also has fewer
  messages than the witness says.
- After kill -9 all that was written is in the page cache, and thus in the files. A transaction that
  was under way may have been stored, and the witness not yet written. Nobody has seen its messages,
  since nothing is sent before; the log is whole, and commits go on behind them. Only if SQLite was
  emptying its write-ahead log, the database has another time, and the proof fails.
- After a crash of the machine the files may be in any state. But that is another boot.

A disk that its provider has set back while the node did not run shows nothing of this. Then peers
say that they hold more of the origin than the log (see core/exchange.py).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..settings import WITNESS_BYTES
from ..wire.logframes import NO_HASH
from .directory import DATABASE, WITNESSES
from .private import open_private_file

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Where Linux shows the id of this boot. Without it, each start gets a new origin."""

_TYPES = [str, int, str, int, str, str, str]


class Left(NamedTuple):
    """What a start leaves: the origin of this node's commits, how many messages of it the log
    holds, and the running hash over them."""

    origin: str
    n: int = 0
    hash: str = NO_HASH


class Witness:
    """The two files of a data directory. Not for several threads at once."""

    def __init__(self, directory: Path) -> None:
        """Read the files, before anything changes the database; raises StartError, OSError."""
        self.left: Left | None = None
        self._directory = directory
        self._boot = _boot_id()
        self.own = Left("")
        self._described = ""  # the database, when the later one was written
        self._files: list[int] = []
        try:
            for name in WITNESSES:
                self._files.append(open_private_file(directory / name, os.O_RDWR | os.O_CREAT))
            counts = [self._read(file)[1] for file in self._files]
        except BaseException:
            self.close()
            raise
        self._count = max(counts)
        self._later = counts.index(self._count)
        boot, _, *own, other, self._described = self._read(self._files[self._later])
        database = directory / DATABASE
        found = [os.fstat(self._files[1 - self._later])]
        found += [database.lstat()] if database.exists() else []
        # On a file system that keeps whole seconds, the times would prove little.
        exact = all(about.st_ctime_ns % 1_000_000_000 for about in found)
        described = [other, self._described] == [_identity(about) for about in found]
        if exact and described and boot == self._boot != "":
            self.left = self.own = Left(*own)

    def keep(self, database: os.stat_result, own: Left | None = None) -> None:
        """Write down what the log holds of this node's commits, if that is new, or if the database
        has changed. If it cannot be written, the next start gets a new origin."""
        described = _identity(database)
        if not self._files or (own is None and described == self._described):
            return
        self.own, self._described = own or self.own, described
        try:
            other = _identity(os.fstat(self._files[self._later]))
            self._later, self._count = 1 - self._later, self._count + 1
            origin, n, running = self.own
            # The same as json.dumps, which takes three times as long.
            text = (
                f'["{self._boot}", {self._count}, "{origin}", {n}, "{running}", "{other}", '
                f'"{described}"]'
            )
            os.pwrite(self._files[self._later], text.ljust(WITNESS_BYTES).encode(), 0)
        except OSError:
            self.close()
            for name in WITNESSES:
                with suppress(OSError):
                    (self._directory / name).unlink()

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.pop())

    def _read(self, file: int) -> list[Any]:
        """Return the values in a witness, empty ones if it has no such values."""
        try:
            values = json.loads(os.pread(file, WITNESS_BYTES, 0))
        except ValueError:
            values = None
        if isinstance(values, list) and [type(value) for value in values] == _TYPES:
            return values
        return [kind() for kind in _TYPES]


def _identity(about: os.stat_result) -> str:
    return f"{about.st_dev} {about.st_ino} {about.st_ctime_ns}"


def _boot_id() -> str:
    """Return the id of this boot of the machine, "" where the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
