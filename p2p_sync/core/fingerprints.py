"""Fingerprints of a version vector: two nodes find what differs for the price of what differs.

Each origin of which something is held has a *key*, the beginning of the SHA-256 of its name, and a
*mark*, the SHA-256 of its name, its number of messages and its running hash. By their keys the
origins fall into leaves, 64 to each of 64 branches. The fingerprint of a leaf is the sum of its
marks, that of a branch the sum of its leaves, and that of the vector the sum of all: a sum can be
kept up to date when one mark changes (Bellare and Micciancio, "A New Paradigm for Collision-free
Hashing", 1997). Equal sums mean equal vectors, unless somebody has searched for long for histories
of origins of his own that have equal sums.

The sum of all is the digest that people compare. Nodes exchange its last 128 bits, and the last 48
of other sums. Whoever has many origins of his own can make such sums equal, which the sum of all
then shows, and with very many also the sum of all; it hides nothing but what differs for good.
The marks that nodes exchange are cut to 48 bits, too. The node that asks chooses a *salt* for them,
so that nobody can look for equal ones before.

Pure. Nothing here grows with the number of origins, apart from the look at one leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Protocol

from ..wire.heads import hash_in, number_in
from ..wire.logframes import BRANCHES, LEAVES, MARK, Vector

KEYS = 1 << 52
"""Keys are below this."""

ALL = range(LEAVES)
"""All leaves."""

_SHIFT = 40  # of a key, to get its leaf
_NUMBERS = tuple(ALL)
_SIZE = 1 << 256  # sums are below this
_MOST_CHANGED = 64  # origins whose marks wait to be added up, so that it takes no time


class Counted(Protocol):
    """An origin, as far as fingerprints know it."""

    name: str
    leaf: int
    n: int
    counts: bool  # its messages are counted

    @property
    def hash(self) -> str:
        """The running hash over its messages."""


def key_of(name: str) -> int:
    """Return the key of an origin."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") >> 4


def leaf_of(key: int) -> int:
    """Return the number of the leaf with a key: one object for all, there may be very many."""
    return _NUMBERS[key >> _SHIFT]


def first_key(leaf: int) -> int:
    """Return the smallest key in a leaf."""
    return leaf << _SHIFT


def mark(origin: Counted, salt: str) -> str:
    """Return the mark of an origin as nodes exchange it, with a salt."""
    text = f"{salt} {origin.name} {origin.n} {origin.hash}"
    return hashlib.sha256(text.encode()).hexdigest()[-MARK:]


def _mark(name: str, n: int, running: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name} {n} {running}".encode()).digest(), "big")


def digest(vector: Vector) -> str:
    """Return the sum of all marks of a version vector (64 hexadecimal digits). Needs no lock."""
    total = sum(_mark(name, head.n, head.hash) for name, head in vector.items() if head.n)
    return f"{total % _SIZE:064x}"


class Fingerprints:
    """The sums of one version vector. Called with the state's lock held."""

    def __init__(self) -> None:
        self.origins = 0  # of which something is held
        self.messages = 0  # of all of them
        self._total = 0
        self._branches = [0] * BRANCHES
        self._leaves = [0] * LEAVES
        self._counts = [0] * LEAVES  # messages
        self._members: list[tuple[Counted, ...]] = [()] * LEAVES
        # Origins that have changed since their marks were added up, with their heads then: one that
        # grows often costs nothing until somebody asks.
        self._changed: dict[Counted, bytes] = {}

    @property
    def digest(self) -> str:
        """The sum of all, 64 hexadecimal digits."""
        self._settle()
        return f"{self._total:064x}"

    @property
    def total(self) -> str:
        """The sum of all as nodes exchange it, 32 hexadecimal digits."""
        return self.digest[-32:]

    def add(self, origin: Counted) -> None:
        """Something is held of an origin from now on."""
        leaf = origin.leaf
        self._members[leaf] += (origin,)
        self.origins += 1
        self._count(leaf, origin.n * origin.counts)
        self._add(leaf, _mark(origin.name, origin.n, origin.hash))

    def remove(self, origin: Counted) -> None:
        """Nothing is held of an origin any more; its head is still the old one."""
        self._settle()
        leaf = origin.leaf
        self._members[leaf] = tuple(other for other in self._members[leaf] if other is not origin)
        self.origins -= 1
        self._count(leaf, -origin.n * origin.counts)
        self._add(leaf, -_mark(origin.name, origin.n, origin.hash))

    def update(self, origin: Counted, more: int, before: bytes) -> None:
        """The head of an origin has changed, it has so many messages more; `before` is the old
        one, packed (wire/heads.py)."""
        self._count(origin.leaf, more * origin.counts)
        self._changed.setdefault(origin, before)
        if len(self._changed) == _MOST_CHANGED:
            self._settle()

    def _settle(self) -> None:
        """Bring the sums up to date."""
        for origin, before in self._changed.items():
            old = _mark(origin.name, number_in(before), hash_in(before))
            new = _mark(origin.name, origin.n, origin.hash)
            self._add(origin.leaf, new - old)
        self._changed.clear()

    def _count(self, leaf: int, messages: int) -> None:
        self._counts[leaf] += messages
        self.messages += messages

    def _add(self, leaf: int, difference: int) -> None:
        branch = leaf >> 6
        self._leaves[leaf] = (self._leaves[leaf] + difference) % _SIZE
        self._branches[branch] = (self._branches[branch] + difference) % _SIZE
        self._total = (self._total + difference) % _SIZE

    # -- what is exchanged ----------------------------------------------------------------------

    def branches(self) -> str:
        """Return the sums of all branches, 12 hexadecimal digits each."""
        self._settle()
        return _cut(self._branches)

    def leaves(self, branch: int) -> str:
        """Return the sums of the leaves of a branch, 12 hexadecimal digits each."""
        self._settle()
        return _cut(self._leaves[branch << 6 : (branch + 1) << 6])

    def differing(self, theirs: str, branch: int | None = None) -> list[int]:
        """Return the numbers of the branches whose sums are not those that a peer has sent; with
        `branch` those of its leaves."""
        ours = self.branches() if branch is None else self.leaves(branch)
        first = 0 if branch is None else branch << 6
        parts = range(0, MARK * BRANCHES, MARK)
        return [
            first + index
            for index, at in enumerate(parts)
            if ours[at : at + MARK] != theirs[at : at + MARK]
        ]

    def count(self, leaves: Collection[int]) -> int:
        """Return how many messages the origins in some leaves have."""
        return self.messages if leaves == ALL else sum(map(self._counts.__getitem__, leaves))

    def members(self, leaves: Sequence[int], start: int) -> Iterator[tuple[int, Counted]]:
        """Yield the origins in leaves, which are in their order, with keys from `start` on, in the
        order of their keys, each with its key."""
        first = leaf_of(start)
        for leaf in leaves:
            members = self._members[leaf] if leaf >= first else ()
            keyed = [(key_of(member.name), member) for member in members]
            for key, origin in sorted(keyed, key=itemgetter(0)):
                if key >= start:
                    yield key, origin


def _cut(sums: Iterable[int]) -> str:
    return "".join([f"{number:0{MARK}x}"[-MARK:] for number in sums])
