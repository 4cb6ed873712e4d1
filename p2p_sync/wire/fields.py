"""Checks of the fields that frames about the log are made of. Each returns the value, or raises
ProtocolError with the reason."""

from __future__ import annotations

import re
from typing import Any

from ..codes import MAX_NUMBER, PROTOCOL_ERROR
from ..errors import ProtocolError
from .identity import KEY, NODE_ID, SIGNATURE

ORIGIN = re.compile(NODE_ID + r"-(?!0(?![0-9]))[0-9]{1,19}(?:~[0-9]{1,16}~[0-9a-f]{32})?")
"""A node's id, a dash and the number of the start that has begun the origin, which is not 0. Of a
branch, what forks.py says."""
_CUTOFF = re.compile(NODE_ID + "-0")
_HASH = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(KEY + SIGNATURE)


def wrong(reason: str) -> ProtocolError:
    """Return the error about a frame."""
    return ProtocolError(PROTOCOL_ERROR, f"a frame about the log: {reason}")


def list_of(value: Any, limit: int) -> list[Any]:
    """Check a list of at most `limit` values."""
    if not isinstance(value, list):
        raise wrong("a list is missing")
    if len(value) > limit:
        raise wrong(f"a list of more than {limit}")
    return value


def number(value: Any, least: int) -> int:
    """Check a whole number of at least `least`."""
    if type(value) is not int or not least <= value <= MAX_NUMBER:  # bool is an int, and no number
        raise wrong("not a number in its range")
    return value


def origin(value: Any) -> str:
    """Check the name of an origin."""
    return _text(value, ORIGIN, "an origin")


def origin_or_cutoff(value: Any) -> str:
    """Check the name of an origin, or of a cutoff (cutoffs.py)."""
    is_cutoff = isinstance(value, str) and _CUTOFF.fullmatch(value)
    return str(value) if is_cutoff else origin(value)


def running_hash(value: Any) -> str:
    """Check a running hash."""
    return _text(value, _HASH, "a running hash")


def digest(value: Any) -> str:
    """Check the SHA-256 of a text."""
    return _text(value, _DIGEST, "a digest")


def signature(value: Any) -> str:
    """Check a public key and a signature."""
    return _text(value, _SIGNATURE, "a signature")


def _text(value: Any, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise wrong(f"not {what}")
    return value
