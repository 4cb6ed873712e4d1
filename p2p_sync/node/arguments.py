"""What programs pass to the methods of `Node`, in the form that its parts use."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from typing import TypeAlias

from ..address import Address, parse_address
from ..errors import InputError
from ..settings import called
from ..urls import Url, parse_url

_NODE = re.compile("[0-9a-f]{0,32}")

File: TypeAlias = str | os.PathLike[str]


def path_of(path: File | None) -> str | None:
    """Return a path as a text. Raises TypeError for what is none."""
    return None if path is None else os.fspath(path)


def addresses_of(texts: Sequence[str]) -> tuple[Address, ...]:
    """Return the addresses in these texts; raises InputError."""
    if isinstance(texts, str):
        raise InputError(f"{called('peers')} is a list of addresses, such as [{texts!r}]")
    return tuple(parse_address(text) for text in texts)


def urls_of(texts: Sequence[str]) -> tuple[Url, ...]:
    """Return the URLs in these texts, each once; raises InputError."""
    if isinstance(texts, str):
        raise InputError(f"{called('hooks')} is a list of URLs")
    return tuple(dict.fromkeys(parse_url(text) for text in texts))


def check_node(node: str) -> None:
    """Raise InputError unless this is the beginning of the id of a node; "" is none."""
    if not isinstance(node, str) or not _NODE.fullmatch(node):
        raise InputError(
            "node is the id of a node, or its first digits (0-9, a-f), as Node.id and the origin "
            f"of a message have it, not {node!r:.40}"
        )


def seconds_of(timeout: float) -> float:
    """Return a time that a thread can wait for; raises InputError if it is no time."""
    if not timeout >= 0:
        raise InputError(f"timeout= is a number of seconds, 0 or more, not {timeout}")
    return min(timeout, threading.TIMEOUT_MAX)
