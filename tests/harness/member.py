"""What a raw peer needs that plays a node of ours: a key, its first frame, and messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH
from p2p_sync.wire.signing import sign

HASH = "0123456789abcdef" * 2
"""A hash of nothing in particular."""

identities = (Identity.of_seed(number.to_bytes(32, "big")) for number in itertools.count(0xBAD0))
"""Keys of nodes, a new one each time."""


def hello(**fields: Any) -> dict[str, Any]:
    """The first frame of a node; `fields` replace or add some."""
    return {"type": "SOCKETS", "addresses": [], **fields}


def run(
    identity: Identity,
    count: int = 1,
    after: int = 0,
    time_ms: int = 1,
    *,
    start: int = 1,
    text: str = "",
) -> dict[str, Any]:
    """The messages after+1 ... after+count of an origin of that node, as a MESSAGES frame has them,
    signed. They are their numbers, behind a `text` if there is one."""
    origin = f"{identity.node}-{start}"
    entries = [Entry(time_ms, f"{text}{n}") for n in range(1, after + count + 1)]
    hashes = chain(NO_HASH, entries)
    return {
        "origin": origin,
        "after": after,
        "previous": hashes[after - 1] if after else NO_HASH,
        "entries": [list(entry[:2]) for entry in entries[after:]],
        "signature": sign(identity, origin, after + count, hashes[-1]),
    }


def claims(identity: Identity, starts: Iterable[int], n: int) -> dict[str, list[Any]]:
    """What HAVE says of these origins of that node, though it has committed nothing there: that
    they have `n` messages. It is signed."""
    names = (f"{identity.node}-{start}" for start in starts)
    return {name: [n, HASH, sign(identity, name, n, HASH)] for name in names}
