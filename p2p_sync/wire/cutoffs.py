"""Cutoffs: how a node says that its old origins can be forgotten.

A node begins a new origin when it cannot prove that it may go on with the old one. The old one is
*closed*: nothing is committed there any more. Once nobody keeps a message of it, it has no use, but
a node that was away would bring it back. So its node signs a *cutoff*, a time, that says: nobody
keeps what is older, so my origins that began before it and have no message since it are *ended*.

An ended origin counts nowhere: in no fingerprint, no digest, no number of messages. A node forgets
it once it keeps no message of it. What remains is one number for each node, however many origins it
had. A later cutoff replaces an earlier one, so all nodes come to the same.

On the wire and in the table `origins` a cutoff has the form of an origin: the name `NODE-0`, the
time as the number of messages (none of which is kept), a hash of zeros, and a signature like that
of any other head. So it is compared, announced, checked and stored as one.

A cutoff is the moment when one of the node's own origins began, since all that it had committed
before is older. A message that is dated later shows that a copy of the node, such as a virtual
machine that was resumed, went on with the old origin. Who holds it does not end that one, and then
it counts on all nodes (core/forgetting.py).

Pure. Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

START_STEP = 10**6
"""Start numbers are milliseconds since the epoch, times this, and a random rest."""

MAX_CUTOFF = 2**43 - 1
"""The latest cutoff, in the year 2248; ms since the epoch. The start numbers of the origins that
follow it have to fit into their 19 digits."""

NO_HISTORY = "0" * 32
"""The running hash of a cutoff."""


def cutoff_of(node: str) -> str:
    """Return the name of a node's cutoff."""
    return f"{node}-0"


def is_cutoff(name: str) -> bool:
    """Return whether this is the name of a cutoff, and not of an origin."""
    return name.endswith("-0")


def began(origin: str) -> int:
    """Return when an origin, or that of a branch, began; ms since the epoch."""
    number = origin.partition("-")[2].partition("~")[0]
    return int(number) // START_STEP


def choose(latest: int, present: str, others: Mapping[str, bool]) -> int:
    """Return the cutoff that ends the most, at most `latest`; 0: none ends anything.

    `present` is the node's origin for new commits, and `others` are its other ones: whether
    messages of each are kept.
    """
    starts = sorted({began(name) for name in (*others, present)})
    kept = {began(name) for name, keeps in others.items() if keeps}
    best = 0
    for before, start in pairwise(starts):
        if before in kept or start > latest:
            break
        best = start
    return best
