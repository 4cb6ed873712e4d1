"""Private files: the data directory and what is in it, and files with secrets or tokens.

A directory or file is ours if this user or root owns it. Directories are made with mode 0700 and
files with 0600, whatever the umask is.
"""

from __future__ import annotations

import codecs
import os
import pwd
import select
import stat
from collections.abc import Callable
from pathlib import Path

from .. import settings
from ..errors import StartError
from ..settings import called

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def make_private_directory(path: Path) -> None:
    """Make the directory and its missing parents; one that is there stays as it is.

    Raises StartError for a symbolic link, for a file, and for a directory of another user; OSError
    if it cannot be made or read.
    """
    missing = [path]
    while not os.path.lexists(missing[-1]):
        missing.append(missing[-1].parent)
    for directory in reversed(missing[:-1]):
        directory.mkdir(0o700)
        directory.chmod(0o700)  # the umask may have taken some of it
    if path.is_symlink():
        raise StartError(
            f"the data directory {path} is a symbolic link; name the directory itself: "
            f"{called('data_dir', os.path.realpath(path))}"
        )
    if not path.is_dir():
        raise StartError(f"the data directory {path} is not a directory; choose another")
    _check_owner(path, path.lstat())


def close_directory(path: Path) -> None:
    """Take the access of others from a directory of ours. Raises StartError, OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        _check_owner(path, found)
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(handle, stat.S_IMODE(found.st_mode) & ~0o077)
    finally:
        os.close(handle)


def check_private_file(path: Path) -> os.stat_result | None:
    """Return the status of a file in the data directory, None if it does not exist.

    Raises StartError unless it is a regular file of ours without a second name. Opens nothing.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    _check_file(path, found)
    return found


def open_private_file(path: Path, flags: int) -> int:
    """Open a file in the data directory; return the descriptor. O_CREAT in `flags` makes it.

    Takes the access of others from a file of ours. Raises StartError as `check_private_file` does,
    OSError if it cannot be opened.
    """
    check_private_file(path)  # says more than the error of a symbolic link does
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        found = os.fstat(handle)
        _check_file(path, found)
        if stat.S_IMODE(found.st_mode) != 0o600 and found.st_uid == os.geteuid():
            os.fchmod(handle, 0o600)
    except BaseException:
        os.close(handle)
        raise
    return handle


def kept_file(path: Path, make: Callable[[], bytes], what: str) -> str:
    """Return the text of a file in the data directory; if there is none, it is made with what
    `make` returns, complete or not at all.

    Raises StartError, which names `what` the file holds, if it cannot be written, or as
    `read_private` does.
    """
    if check_private_file(path) is None:
        part = path.with_suffix(".part")
        try:
            part.unlink(missing_ok=True)  # from a start that was killed here
            handle = open_private_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(handle, "wb") as file:
                file.write(make())
                file.flush()
                os.fsync(handle)
            part.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            raise StartError(f"cannot write the {what} to {path} ({error.strerror})") from None
    return read_private(path, what)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk; raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_file(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISREG(found.st_mode):
        problem = "is not a regular file"
    elif found.st_nlink > 1:
        problem = "has a second name (a hard link)"
    else:
        _check_owner(path, found)
        return
    raise StartError(
        f"{path} {problem}; replace it by a file of its own, or choose another directory"
    )


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid in (os.geteuid(), 0):
        return
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = f"the user {found.st_uid}"
    raise StartError(
        f"{path} belongs to {owner}, who could change it; choose another directory with "
        f"{called('data_dir')}, or, if you trust what is in it, run: chown -R {os.geteuid()} {path}"
    )


def read_private(path: Path, what: str) -> str:
    """Return the text of the file, without a byte order mark.

    Raises StartError if it cannot be read, if other users can read or change it, and if it is too
    long or not UTF-8.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            about = os.fstat(handle)
            fixed = bool(os.fstatvfs(handle).f_flag & os.ST_RDONLY)
            data = _read(handle)
        finally:
            os.close(handle)
    except OSError as error:
        reason = error.strerror or error
        raise StartError(f"the {what} file {path} cannot be read ({reason})") from None
    if exposed := _exposed(about, fixed):
        access, remedy = exposed
        raise StartError(f"others may {access} the {what} file {path}; run: {remedy} {path}")
    if len(data) > settings.MAX_SECRET_FILE_BYTES:
        raise StartError(
            f"the {what} file {path} is longer than {settings.MAX_SECRET_FILE_BYTES} bytes"
        )
    if data.startswith(_UTF_16) or b"\0" in data:
        raise StartError(f"the {what} file {path} is UTF-16 or not text at all; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _read(handle: int) -> bytes:
    """Read a file or a pipe, up to a byte more than the limit; raises OSError.

    Waits a limited time: a pipe without a writer would block the start, and signals with it.
    """
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    data = b""
    while len(data) <= settings.MAX_SECRET_FILE_BYTES:
        if not poll.poll(settings.SECRET_FILE_PATIENCE * 1000):
            raise TimeoutError(f"nothing was written to it for {settings.SECRET_FILE_PATIENCE} s")
        part = os.read(handle, settings.MAX_SECRET_FILE_BYTES + 1 - len(data))
        if not part:
            break
        data += part
    return data


def _exposed(about: os.stat_result, fixed: bool) -> tuple[str, str] | None:
    """Return the access that other users have but should not have, and the command that ends it.

    The owner has full access, so it must be this user or root. Secrets that are mounted into a
    container belong to root and are often readable by a group or by all, and the user of the node
    cannot change that. So a group may read a file of root, and all may read it if we are not root.
    On a file system that is mounted read-only (`fixed`) every file is accepted.
    """
    mode, of_root = about.st_mode, about.st_uid == 0
    if not (of_root or about.st_uid == os.geteuid() or fixed):
        return "change", f"chown {os.geteuid()}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not fixed:
        return "change", "chmod 600" if about.st_uid == os.geteuid() else "chmod o-rwx,g-w"
    if not mode & (stat.S_IRWXG | stat.S_IRWXO) or fixed:
        return None
    if of_root and (not mode & stat.S_IRWXO or os.geteuid() != 0):
        return None
    return "read", "chmod 600"
