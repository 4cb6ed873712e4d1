"""Files that nobody else may read: secrets, tokens and what is in the data directory.

A directory or file counts as ours if this user or root owns it. All that is made here has the mode
0700 or 0600, whatever the umask is.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from pathlib import Path

from .errors import StartError

_LEAST_BYTES = 16
_MOST_SECRETS = 2
_MOST_BYTES = 4096


def make_private_directory(path: Path) -> None:
    """Make the directory and its missing parents, or close one of ours to others.

    Raises StartError for a symbolic link, for what is no directory and for one of another user;
    OSError where it cannot be made or looked at.
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
            f"--data-dir {os.path.realpath(path)}"
        )
    if not path.is_dir():
        raise StartError(f"the data directory {path} is not a directory; choose another")
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        _check_owner(path, found)
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(handle, stat.S_IMODE(found.st_mode) & ~0o077)
    finally:
        os.close(handle)


def check_private_file(path: Path) -> os.stat_result | None:
    """Return what is known of a file in the data directory, None where there is none.

    Raises StartError for all but a regular file of ours with this one name. Opens nothing.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    _check_file(path, found)
    return found


def open_private_file(path: Path, flags: int) -> int:
    """Open a file in the data directory, which O_CREAT in `flags` may make; return the descriptor.

    A file of ours that others may use is closed to them. Raises StartError as `check_private_file`
    does, OSError where it cannot be opened.
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
        f"--data-dir, or, if you trust what is in it, run: chown -R {os.geteuid()} {path}"
    )


def read_private(path: Path, what: str) -> str:
    """Return the text of the file; raises StartError where it cannot be read, or others can."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MOST_BYTES)
    except OSError as error:
        raise StartError(f"the {what} file {path} cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise StartError(f"others may read the {what} file {path}; run: chmod 600 {path}")
    return text.decode("utf-8", "surrogateescape")


def secret_keys(text: str, source: str) -> tuple[bytes, ...]:
    """Return the keys made of the secrets in `text`, one a line; raises StartError.

    White space around a secret and lines that begin with # are no part of it. The first is used,
    both are accepted. Each is stretched (scrypt), for one that people have thought up is easily
    guessed by who has seen a proof.
    """
    lines = [line.strip() for line in text.splitlines()]
    secrets = [
        line.encode("utf-8", "surrogateescape") for line in lines if line[:1] not in ("", "#")
    ]
    if not 1 <= len(secrets) <= _MOST_SECRETS or min(map(len, secrets)) < _LEAST_BYTES:
        raise StartError(
            f"{source} holds no secret: one a line of at least {_LEAST_BYTES} bytes, two lines at "
            "most, for example from: openssl rand -hex 32"
        )
    return tuple(hashlib.scrypt(s, salt=b"p2p_sync", n=2**14, r=8, p=1, dklen=32) for s in secrets)
