"""The token of the HTTP port: read from the file that was named, or made and kept."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from ..disk.private import check_private_file, open_private_file, read_private
from ..errors import StartError

# What may stand behind "Bearer" (RFC 6750); it needs no quoting in a cookie either.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")


def read_token(path: Path) -> str:
    """Return the token in the file; raises StartError for none, or one that others can read."""
    text = read_private(path, "token").strip()
    if not _TOKEN.fullmatch(text):
        raise StartError(
            f"the token file {path} holds no token: 16 to 512 letters, digits or . _ ~ + / -, "
            "for example from: openssl rand -hex 32"
        )
    return text


def kept_token(directory: str | None) -> str:
    """Return the token kept in the data directory, made if there is none; with None, a new one.

    Raises StartError where the directory cannot keep it, and for a file that is not ours alone.
    """
    if directory is None:
        return secrets.token_urlsafe(32)
    path = Path(directory, "http-token")
    if check_private_file(path) is None:
        part = path.with_suffix(".part")
        try:
            part.unlink(missing_ok=True)  # of a start that was killed here
            handle = open_private_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(handle, "w") as file:
                file.write(f"{secrets.token_urlsafe(32)}\n")
            part.replace(path)
        except OSError as error:
            raise StartError(f"the token cannot be kept in {path} ({error.strerror})") from None
    return read_token(path)
