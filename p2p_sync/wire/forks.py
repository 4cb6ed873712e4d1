"""Forks: one node has signed two different continuations of one origin.

That happens where a data directory was set back in a way that no file shows (a rolled back disk, a
resumed virtual machine) and the node went on, or where a node lies. All histories of an origin
together are a tree. Every node stores the whole tree, cut into *branches*, so nothing that was
acknowledged is lost, and all nodes cut it in the same way:

- Where histories differ, the entry with the smaller time comes first, and of equal times the one
  with the smaller running hash. The first continues the branch that it differs from: whatever the
  node had committed before it was set back stays where it was.
- Each other continuation is a branch of its own, an origin with the name `ORIGIN~AFTER~HASH`: it
  leaves the history of ORIGIN after message AFTER, and HASH is the running hash after its first
  entry. Its messages are numbered from 1, and it is sent, counted, kept and erased as any origin.

The running hashes of a branch go on from those before it, and its node has signed them under the
name of the origin: so a branch is proved by what proves each run, and by its name.

How two nodes find out where they differ: core/disputes.py. How a node cuts its log: disk/forks.py.

Pure. Any thread may call it.
"""

from __future__ import annotations

from typing import NamedTuple


class Branch(NamedTuple):
    """What the name of an origin says: the `base`, which its node signs, the number of the message
    `after` which it begins, and the running hash after its `first` entry ("": it is the base)."""

    base: str
    after: int
    first: str

    @staticmethod
    def of(origin: str) -> Branch:
        """Read the name of an origin, which has the right form."""
        base, _, rest = origin.partition("~")
        after, _, first = rest.partition("~")
        return Branch(base, int(after or 0), first)


def name_of(base: str, after: int, first: str) -> str:
    """Return the name of the branch that leaves the history of `base` after that message, with that
    running hash after its first entry."""
    return f"{base}~{after}~{first}"


def committed_id(origin: str, seq: int) -> str:
    """Return the id that a message was committed under, which does not change when its history
    forks: notices name it. Messages of two histories may have been committed under one id."""
    base, after, _ = Branch.of(origin)
    return f"{base}:{after + seq}"


def comes_first(time: int, running: str, other_time: int, other_running: str) -> bool:
    """Return whether the first of two entries that follow the same history continues it. Each has
    its time, and the running hash after it."""
    return (time, running) < (other_time, other_running)
