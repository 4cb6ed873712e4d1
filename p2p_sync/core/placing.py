"""Where a run belongs that contradicts what this node holds, or begins a branch (wire/forks.py).

The run is compared with the branch that has the messages before it, entry by entry. It may turn out
to be held already, or to go on where that branch ends. If it differs, the entry that comes first
continues the branch, and the other one begins a branch of its own.

So no history is ever held twice, whatever name a peer gives it: a run that only repeats what is
held under another name changes nothing.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ..settings import MAX_BRANCHES
from ..wire.forks import Branch, comes_first, name_of
from ..wire.logframes import NO_HASH, Run


class Step(NamedTuple):
    """An entry of a history: its time, how many messages it has, and the running hash after it."""

    time: int
    length: int
    hash: str


class Histories(Protocol):
    """What this node holds of all branches of an origin."""

    def ends(self, base: str) -> Iterable[tuple[str, int]]:
        """Return the branches that are held, each with the number of its last message."""

    def hash_at(self, name: str, n: int) -> str | None:
        """Return the running hash after message `n` of a branch; "" inside of an entry, None if it
        is not held."""

    def after(self, name: str, n: int) -> Step | None:
        """Return the entry after message `n` of a branch, None if it is not held."""


class Move(NamedTuple):
    """The messages of the branch `source` behind number `after` become the branch `to`."""

    source: str
    after: int
    to: str


class Placed(NamedTuple):
    """Where a run belongs: first a `move`, if another history has to make way, then `run`, renamed
    and without what is held, is to be stored (None: all of it is held)."""

    run: Run | None
    move: Move | None = None


def find(run: Run, held: Histories) -> Placed | None:
    """Return where a proven run belongs; None where its place cannot be found, because what is
    before it is not held."""
    base, start, _ = Branch.of(run.origin)
    position = start + run.after
    ends = dict(held.ends(base))
    name = next((name for name in ends or [base] if _leads_to(name, run, position, held)), None)
    at = position - Branch.of(name).after if name is not None else 0
    for index, (entry, running) in enumerate(zip(run.entries, run.hashes, strict=True)):
        if name is None:
            return None
        if at == ends.get(name, 0):
            return Placed(_part(run, index, name, at))
        ours = held.after(name, at)
        if ours is None:
            return None
        if ours.hash == running:
            at += entry.length
            continue
        begins = Branch.of(name).after + at
        branch = name_of(base, begins, running)
        if branch in ends:
            name, at = branch, entry.length
            continue
        if len(ends) > MAX_BRANCHES:
            return None
        if comes_first(entry.time, running, ours.time, ours.hash):
            move = Move(name, at, name_of(base, begins, ours.hash))
            return Placed(_part(run, index, name, at), move)
        return Placed(_part(run, index, branch, 0))
    return Placed(None)


def _leads_to(name: str, run: Run, position: int, held: Histories) -> bool:
    """Return whether a branch has the messages before a run, which end at that position."""
    _, start, first = Branch.of(name)
    if position <= start and first:
        return False  # it shares them with the branch that it leaves
    if position == 0:
        return run.previous == NO_HASH
    return held.hash_at(name, position - start) == run.previous


def _part(run: Run, first: int, name: str, at: int) -> Run:
    """Return a run from its entry with the index `first` on, as one of the branch `name` after
    number `at`."""
    shift = Branch.of(name).after - Branch.of(run.origin).after
    entries = tuple(entry.shifted(shift) for entry in run.entries[first:])
    previous = run.hashes[first - 1] if first else run.previous
    return Run(name, at, previous, entries, run.hashes[first:], run.signature)
