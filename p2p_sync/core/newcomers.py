"""New origins: how many of them this node takes from others, so that nobody fills its log.

An origin costs its node a key and a signature, which cost next to nothing. So what counts is the
remote host that brings it first, and whether anybody has met its node: a node is *vouched for* if
it is linked with this node, or if a linked node says that it is linked with it. A new node of the
mesh is soon vouched for where its messages arrive; invented ones are not, unless a member lies.

- One host brings up to `limit` new origins in an hour, and ORIGINS_FACTOR times as many of nodes
  that are vouched for. All hosts together bring up to ORIGINS_FACTOR times what one host may bring.
  What is beyond that is left out, and may come later.
- What this node asks for counts when it asks. A host that ships, without being asked, much more
  than a node of ours could have taken in an hour breaks the rules.
- A node that has started with an empty log takes all that there are, until it holds as much as its
  peers, for an hour at most.
- A tenth of the table of origins is for nodes that are vouched for, and no host fills more than the
  rest while a node joins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..settings import (
    MAX_ORIGINS,
    MAX_ORIGINS_HOSTS,
    MAX_STRANGERS,
    NEVER,
    NO_ROOM_PAUSE,
    ORIGINS_FACTOR,
    ORIGINS_PERIOD,
    called,
)
from .deduplication import node_of


class Newcomers:
    """The new origins of one node. Called with the state's lock held; times are monotonic."""

    def __init__(self, limit: int, joining: bool, vouched: Callable[[str], bool]) -> None:
        """`limit` is for one host. `joining`: the log is empty. `vouched` returns whether the node
        with an id is vouched for."""
        self._limit = limit
        self._vouched = vouched
        self.joining = joining  # ... and this node does not hold as much as its peers yet
        self._ends_at = -NEVER  # of the period
        self._taken: Counter[str] = Counter()  # in this period, by host
        self._total = 0
        self._left_out: Counter[str] = Counter()
        self._full_at = -NEVER  # when a new origin was not taken

    def has_room(self, name: str, host: str, held: int, now: float) -> bool:
        """Return whether a new origin that a host brings is taken; `held` are held so far."""
        self._begin_period(now)
        limit = MAX_STRANGERS if self.joining else self._limit
        if held < MAX_STRANGERS and self._below(limit, host):
            return True
        room = held < MAX_ORIGINS and self._below(ORIGINS_FACTOR * limit, host)
        if room and self._vouched(node_of(name)):
            return True
        self._full_at = now
        return False

    def warning(self, held: int, now: float) -> str:
        """Return why new origins were left out lately, "" if none were; `held` are held."""
        if now > self._full_at + 2 * NO_ROOM_PAUSE:
            return ""
        if held >= MAX_STRANGERS:
            return (
                f"messages of new origins are left out: this node holds {held:,} origins, and of "
                f"{MAX_ORIGINS:,} the last {MAX_ORIGINS - MAX_STRANGERS:,} are for nodes that it "
                f"has met; with {called('keep')} on all nodes, old origins are forgotten"
            )
        return (
            "messages of new origins are left out for now: peers have more of them than this node "
            f"takes in an hour ({called('max_new_origins', self._limit)})"
        )

    def _below(self, limit: int, host: str) -> bool:
        """Return whether a host has brought less than that, and all hosts not ORIGINS_FACTOR times
        as much."""
        taken = self._taken[self._named(host, self._taken)]
        return taken < limit and self._total < ORIGINS_FACTOR * limit

    def take(self, host: str, now: float) -> None:
        """There is room for a new origin of a host: count it."""
        self._begin_period(now)
        self._taken[self._named(host, self._taken)] += 1
        self._total += 1

    def give_back(self, host: str) -> None:
        """An origin that was taken of a host has not come."""
        name = self._named(host, self._taken)
        if self._taken[name] > 0:
            self._taken[name] -= 1
            self._total -= 1

    def leave_out(self, host: str) -> bool:
        """A new origin of a host is not taken; return whether it ships more than any node does."""
        name = self._named(host, self._left_out)
        self._left_out[name] += 1
        return name == host and self._left_out[name] >= 2 * ORIGINS_FACTOR**2 * self._limit

    def _begin_period(self, now: float) -> None:
        if now < self._ends_at:
            return
        if self._ends_at > -NEVER:
            self.joining = False  # it has had an hour
        self._ends_at = now + ORIGINS_PERIOD
        self._taken.clear()
        self._total = 0
        self._left_out.clear()

    def _named(self, host: str, counts: Counter[str]) -> str:
        """Return the name under which a host is counted: very many hosts share one."""
        return host if host in counts or len(counts) < MAX_ORIGINS_HOSTS else ""
