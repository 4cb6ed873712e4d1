"""Files that nobody else may read: secrets and tokens."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import StartError

_LEAST_BYTES = 16
_MOST_SECRETS = 2
_MOST_BYTES = 4096


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
