"""The token of the HTTP port: read from a given file, or made and kept in the data directory."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from ..disk.private import kept_file, read_private
from ..errors import StartError

# The characters that RFC 6750 allows after "Bearer"; a cookie needs no quotes for them.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")


def read_token(path: Path) -> str:
    """Return the token in the file; raises StartError if it has none, or others can read it."""
    text = read_private(path, "token").strip()
    if not _TOKEN.fullmatch(text):
        raise StartError(
            f"the token file {path} has no token: 16 to 512 letters, digits or . _ ~ + / -, "
            "for example from: openssl rand -hex 32"
        )
    return text


def kept_token(directory: str | None) -> str:
    """Return the token in the data directory, a new one if there is none; with None, a new one.

    Raises StartError if the token cannot be written, or if other users can read it.
    """
    if directory is None:
        return secrets.token_urlsafe(32)
    path = Path(directory, "http-token")
    kept_file(path, lambda: f"{secrets.token_urlsafe(32)}\n".encode(), "token")
    return read_token(path)
