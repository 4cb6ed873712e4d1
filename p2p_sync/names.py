"""Names of nodes, for people; and which names consumers may have.

A name of a node is only what it calls itself. Two nodes may have one name, on purpose or not, so a
name decides nothing: a node is known by its id. Where people read a name, they can see the id, too.
Each node tells its peers the names of the nodes that it is connected with, so that people read the
names of nodes two links away as well.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from .errors import ConsumerError, InputError
from .settings import MAX_NAME, SHORT_ID

# An id or a part of one, or an address: a node with such a name could pass for another one.
_MISLEADING = re.compile(r"[0-9a-f]{8}|[:/]|\d+\.\d+\.\d+")

# . and .. are gone from a URL before it gets here.
_CONSUMER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")


def check_consumer(name: str) -> None:
    """Raise ConsumerError if this cannot be the name of a consumer."""
    if not isinstance(name, str) or not _CONSUMER.fullmatch(name):
        raise ConsumerError(
            "the name of a consumer has 1 to 64 letters (A to Z, a to z), digits, '.', '_' and "
            f"'-', and is not '.' or '..'; not {name!r:.80}"
        )


def checked_name(text: str) -> str:
    """Return a name without spaces around it. Raises InputError if it cannot be one."""
    name = text.strip(" ")
    if problem := _problem(name):
        raise InputError(f"the name of a node {problem}; choose another")
    return name


def name_from(value: object) -> str:
    """Return the name that a peer has sent; "" if it is none."""
    return value if isinstance(value, str) and not _problem(value) else ""


def host_name() -> str:
    """Return the name of this machine without its domain, which is how people call it."""
    text = socket.gethostname().partition(".")[0]
    return "".join(filter(str.isprintable, text))[:MAX_NAME].strip() or "node"


def label(node: str, name: str) -> str:
    """Return what the log calls a node: its name and its shortened id."""
    return f"{name} ({node[:SHORT_ID]})" if name else node[:SHORT_ID]


class Named(Protocol):
    """A node, as far as it is known."""

    @property
    def id(self) -> str | None:
        """Its id."""

    @property
    def name(self) -> str | None:
        """What it calls itself."""


def told(links: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the names, by id, of nodes that are connected with peers. `links` are those of each
    peer, as it gives them: names by id, "" where it knows none."""
    return {node: name for each in links for node, name in each.items() if name}


def labels(nodes: Iterable[Named], others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a list calls each of its nodes, by id; without those that have none. `others` are
    the names of further nodes; what a node calls itself goes before what others call it.

    It is the name, and the shortened id as well if two of them have that name or if it looks like
    an id or an address. A node without a name is called by its shortened id.
    """
    names = dict(others or {})
    names |= {node.id: node.name or names.get(node.id, "") for node in nodes if node.id}
    count = Counter(map(_alike, names.values()))
    return {
        node: name
        if name and count[_alike(name)] == 1 and not _MISLEADING.search(_alike(name))
        else label(node, name)
        for node, name in names.items()
    }


def _problem(name: str) -> str:
    """Return why a text cannot be a name; "" if it can."""
    if not name.strip():
        return "is empty"
    if len(name) > MAX_NAME:
        return f"has at most {MAX_NAME} characters; this one has {len(name)}"
    if not name.isprintable():
        wrong = next(character for character in name if not character.isprintable())
        return f"is printable text in one line; this one has the character U+{ord(wrong):04X}"
    return ""


def _alike(name: str) -> str:
    """Return a form in which names that look the same are equal."""
    return unicodedata.normalize("NFKC", name).casefold()
