"""The files that commands read and write, and messages in bulk."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from ..core.verdict import numbered
from ..disk.private import sync_directory
from ..settings import CLI_CHUNK, CLI_MAX_LINE, CLI_PACKING
from ..web.answers import PROBLEM
from .api import Api, Failure
from .exits import NOT_ALLOWED, REFUSED, USAGE
from .logline import printable

T = TypeVar("T")

UNREADABLE = (OSError, EOFError, zlib.error)
"""The errors of a file that cannot be read, or decompressed."""

_GZIP = b"\x1f\x8b"  # what gzip writes begins with this


class Bulk:
    """Sends many messages, some at a time. A context manager: if anything ends it early, the error
    says how many messages are stored."""

    def __init__(
        self, api: Api, path: str, source: str, within: float | None = None, expected: str = ""
    ) -> None:
        """`source` names the file that the lines come from; `within` bounds each request;
        `expected` says what lines the file should have."""
        self._api = api
        self._expected = expected
        self._path = path
        self._source = source
        self._within = within
        self._stored = 0
        self._last = ""
        self._unsure = ""

    def send(self, numbers: Sequence[int], lines: Sequence[bytes], key: str = "") -> dict[str, Any]:
        """Send lines of NDJSON and return the answer; raises Failure.

        `numbers` are the numbers of the lines in the source. `key`: an idempotency key, so that the
        same lines can be sent again.
        """
        if numbers:
            sent = f"lines {numbers[0]} to {numbers[-1]}" if numbers[1:] else f"line {numbers[0]}"
            self._unsure = f"; {sent} may be stored, too"
        try:
            answer = self._api.ask(self._path, b"\n".join([*lines, b""]), self._within, key=key)
        except Failure as error:
            problem = error.problem
            if "stored" not in problem:  # the node did not say
                if error.code in (USAGE, NOT_ALLOWED, REFUSED):  # it has refused all of it
                    self._unsure = ""
                raise
            self._note(problem["stored"], problem["last"])
            reason = printable(str(problem.get("reason", error)))
            if "line" in problem:
                reason = f"line {numbers[problem['line'] - 1]} of {self._source}: {reason}"
                if problem.get("type") == f"{PROBLEM}invalid":
                    reason += self._expected
            raise Failure(error.code, reason) from None
        self._note(answer["count"], answer["last"])
        return dict(answer)

    def _note(self, stored: int, last: str | None) -> None:
        self._stored += stored
        self._last = last or self._last
        self._unsure = ""

    def __enter__(self) -> Bulk:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        verb = "is" if self._stored == 1 else "are"
        extent = f"{numbered(self._stored, 'message')} {verb} stored"
        extent += f", up to {printable(self._last)}" if self._last else ""
        extent += self._unsure
        if isinstance(error, UNREADABLE):
            failed = _unusable("read", self._source, error)
            raise Failure(failed.code, f"{failed}; {extent}") from None
        if isinstance(error, Failure):
            raise Failure(error.code, f"{error}; {extent}") from None
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            print(f"p2p-sync: interrupted; {extent}", file=sys.stderr)


def mark_of(name: str) -> str:
    """Return a text that names a file and its present content; "" for what is not a file."""
    try:
        about = Path(name).stat()
    except OSError:
        return ""
    if name == "-" or not stat.S_ISREG(about.st_mode):
        return ""
    known = f"{about.st_dev}:{about.st_ino}:{about.st_mtime_ns}:{about.st_size}"
    return f"import-{hashlib.sha256(known.encode()).hexdigest()[:32]}"


def batches(read: Callable[[int], bytes], expected: str = "") -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of a file, as many as are there at a time, and how many came before; `read`
    reads up to so many bytes of it, and `expected` says what lines it should have."""
    rest = b""
    count = 0
    while chunk := read(CLI_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > CLI_MAX_LINE:
            number = count + len(lines) + 1
            raise Failure(USAGE, f"line {number} is longer than any message can be{expected}")
        if lines:
            yield count, lines
        count += len(lines)
    if rest:
        yield count, [rest]


@contextmanager
def opened(name: str, expected: str = "") -> Iterator[Iterator[tuple[int, list[bytes]]]]:
    """Open a file, or standard input if `name` is "-", and lend its lines as `batches` yields them,
    with a progress bar. What gzip has compressed is decompressed, whatever its name is. Raises
    Failure, also while it is read."""
    with ExitStack() as stack:
        try:
            file: Any = sys.stdin.buffer
            if name != "-":
                file = stack.enter_context(Path(name).open("rb"))
            is_packed = file.peek(len(_GZIP)).startswith(_GZIP)
        except UNREADABLE as error:
            raise _unusable("read", name, error) from None
        unpacked = gzip.GzipFile(fileobj=file) if is_packed else file

        def read(size: int) -> bytes:
            try:
                return bytes(unpacked.read1(size))
            except UNREADABLE as error:
                raise _unusable("read", name, error) from None

        yield _with_progress(file.fileno(), batches(read, expected))


def _with_progress(
    descriptor: int, lines: Iterator[tuple[int, list[bytes]]]
) -> Iterator[tuple[int, list[bytes]]]:
    size = os.fstat(descriptor).st_size  # 0: a pipe
    place = 0

    def moved(_: object) -> int:
        nonlocal place
        before, place = place, os.lseek(descriptor, 0, os.SEEK_CUR)
        return place - before

    return progress(lines, size, moved)


@contextmanager
def replaced(name: str) -> Iterator[BinaryIO]:
    """Lend a file to write; a name that ends in .gz is compressed. It gets its `name` once it is
    whole and on disk; until then, and if anything goes wrong, an older file of that name stays as
    it is.

    A new file has the mode 0600, another one keeps its mode. Devices and pipes are written
    directly. Raises Failure if the file cannot be written.
    """
    path = Path(name).resolve()  # so that a link keeps leading to the file
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    device = path.exists() and not path.is_file()
    try:
        with path.open("wb") if device else os.fdopen(_made(part), "wb") as file:
            with _packed(name, file) as target:
                yield target
            if device:
                return
            file.flush()
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)  # the name, too
    except OSError as error:
        raise _unusable("write", name, error) from None
    finally:
        part.unlink(missing_ok=True)


def _made(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _is_packed(name: str) -> bool:
    return name.endswith(".gz")


def _packed(name: str, file: BinaryIO) -> Any:
    return gzip.GzipFile("", "wb", CLI_PACKING, file) if _is_packed(name) else nullcontext(file)


def _unusable(verb: str, name: str, error: Exception) -> Failure:
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        reason = f"what gzip has compressed is cut short or damaged: {error}"
    return Failure(USAGE, f"cannot {verb} {name} ({reason})")


def progress(
    items: Iterable[T], length: int, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield `items`, with a progress bar if standard error is a terminal; `size` of each adds up to
    `length`."""
    with ExitStack() as stack:
        bar: Any = None
        if sys.stderr.isatty() and length:
            bar = stack.enter_context(click.progressbar(length=length, file=sys.stderr))
        for item in items:
            yield item
            if bar:
                bar.update(size(item))
