"""Query strings: an invalid one is refused, not repaired."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from ..errors import InputError

_BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def parameter(query: str, name: str, example: str, default: str | None = None) -> str:
    """Return the parameter `name` of a raw query string, or the `default` if it has none.

    `query` has one character for each byte, as in WSGI; `example` is a valid request. Raises
    InputError if the parameter is missing or given twice, for broken percent-encoding, and for
    bytes that are not UTF-8.
    """
    raw = query.encode("latin-1")
    if _BROKEN.search(raw):
        raise InputError(f"a % must be followed by two hexadecimal digits: {example}")
    found: str | None = None
    for part in raw.split(b"&"):
        key, _, value = part.partition(b"=")
        if unquote_to_bytes(key) != name.encode():
            continue
        if found is not None:
            raise InputError(f"{name} is given twice; give it once: {example}")
        try:
            found = unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{name} must be UTF-8, percent-encoded: {example}") from None
    if found is None:
        found = default
    if found is None:
        raise InputError(f"{name} is missing: {example}")
    return found


def names(query: str) -> Iterator[str]:
    """Yield the name of each parameter of a raw query string."""
    for part in query.encode("latin-1").split(b"&"):
        if part:
            yield unquote_to_bytes(part.partition(b"=")[0]).decode("utf-8", "replace")
