"""Makes a data directory with very many origins, as years of restarts leave it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path

from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH, Run
from p2p_sync.wire.signing import sign

_BEGINNING = 1_700_000_000_000
"""The time of the first message, ms since the epoch."""

_DAY = 86_400_000
_RUNS = 5_000
"""Origins that one transaction stores."""


def runs_of(nodes: int, starts: int, messages: int, behind: int = 0) -> Iterator[Run]:
    """Yield the run of each origin: of `starts` starts of each of `nodes` nodes, a day apart, with
    one entry for each of `messages`, one less in the first `behind` origins. They are the same in
    each call, and genuine."""
    identities = [Identity.of_seed(sha256(f"node {n}".encode()).digest()) for n in range(nodes)]
    for start in range(starts):
        for n, identity in enumerate(identities):
            time = _BEGINNING + start * _DAY + n
            name = f"{identity.node}-{time}"
            texts = [
                f"message {k} of start {start} of node {n}"
                for k in range(messages - (start * nodes + n < behind))
            ]
            entries = tuple(Entry(time + 1000 * k, text) for k, text in enumerate(texts))
            hashes = chain(NO_HASH, entries)
            signature = sign(identity, name, len(entries), hashes[-1])
            yield Run(name, 0, NO_HASH, entries, hashes, signature)


def make_origins(
    directory: Path, nodes: int = 50, starts: int = 2_000, messages: int = 3, behind: int = 0
) -> None:
    """Make a data directory that holds `nodes` times `starts` origins, see `runs_of`. 100,000 take
    about 20 s."""
    runs = runs_of(nodes, starts, messages, behind)
    with closing(Store(directory)) as store:
        log = Log(store)
        while some := list(islice(runs, _RUNS)):
            log.append(some)
