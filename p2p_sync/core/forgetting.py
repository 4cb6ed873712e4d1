"""Forgetting: the origins that nodes have ended by cutoffs (see wire/cutoffs.py).

An origin that is ended counts nowhere, though messages of it may still be kept here: they can be
read, found and erased, and go when this node's own limits say so. Then the origin is forgotten.

- A cutoff comes in HAVE, and goes on to all peers. It is stored as an origin of which no message is
  kept, and never asked for.
- The node first ends what is older, a little at a time, and then stores the cutoff. From when it is
  with the writer, nothing of these origins is taken from a peer that does not know it yet: that one
  learns the cutoff by the same comparison.
- A peer that knows the cutoff and brings such an origin all the same counts it: it holds messages
  since then. So it counts here, too, until the next cutoff. This decides alone, and not the times
  of messages: the nodes may hold more or less of the origin, but count the same.
- A node does not end the origin that it commits to itself. It takes another one, and its peers get
  what they lack of the old one.

A node makes a cutoff for its own origins alone: before its present one, before all that it keeps
and its connected peers keep, and only while no known node is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..wire.cutoffs import MAX_CUTOFF, NO_HISTORY, began
from ..wire.logframes import Head, Run
from .catch_up import CatchUp
from .deduplication import node_of
from .newcomers import Newcomers
from .replica_link import Own, ReplicaLink
from .trees import Trees
from .vector import Origin, VersionVector


class Forgetting:
    """The cutoffs and the ended origins of one node. Called with the state's lock held."""

    def __init__(
        self,
        own: Own,
        vector: VersionVector,
        trees: Trees,
        catch_up: CatchUp,
        links: Mapping[ReplicaLink, None],
        newcomers: Newcomers,
    ) -> None:
        """All are shared with the replica."""
        self._own = own
        self._vector = vector
        self._trees = trees
        self._catch_up = catch_up
        self._links = links
        self._newcomers = newcomers

    # -- what peers say -------------------------------------------------------------------------

    def ignores(self, link: ReplicaLink, name: str) -> bool:
        """Return whether nothing of an origin is taken from a link, whose peer does not know yet
        that it may be ended."""
        cutoff = self._vector.cutoffs.get(node_of(name)) if self._vector.cutoffs else None
        if cutoff is None or began(name) >= cutoff.staged:
            return False
        return link.progress.held(cutoff.name) < cutoff.staged

    def heard(self, link: ReplicaLink, name: str, head: Head, now: float) -> Run | None:
        """A peer has sent a cutoff; return the run to store if it is new."""
        origin = self._vector.origins.get(name)
        staged = origin.staged if origin else 0
        if not staged:
            if self._catch_up.full(name, 0, link, now):
                link.comparing.rest(now)
                link.comparing.missed(name, 1)
                return None
            self._newcomers.take(link.host, now)
        link.progress.note(name, head.n)
        if head.n <= staged:
            return None
        if self._catch_up.paused:
            link.comparing.rest(now)
        elif run := self.cut(name, head.n, head.signature, link):
            return run
        link.comparing.missed(name, 1)  # ask for it again
        return None

    def cut(
        self, name: str, time: int, signature: str, source: ReplicaLink | None = None
    ) -> Run | None:
        """Stage a cutoff, which `source` has sent; return the run to store. None if it is not later
        than the one that is held, or one is with the writer still.

        What peers that do not know it have claimed is void. So is what `source` has claimed before;
        it is asked whether it still does.
        """
        origin = self._vector.get(name)
        if time <= origin.staged or origin.staged > origin.n:
            return None
        self._vector.cutoffs[node_of(name)] = origin
        run = Run(name, time, NO_HISTORY, (), (), signature, time - origin.n)
        self._vector.stage(origin, run)
        self._void(node_of(name), time, source)
        return run

    def _void(self, node: str, time: int, source: ReplicaLink | None) -> None:
        gaps = self._catch_up.gaps
        for name in [name for name in gaps if node_of(name) == node and began(name) < time]:
            for link in [*gaps[name].claims]:
                if link is source:
                    link.comparing.missed(name, 0)
                elif not self.ignores(link, name):
                    continue
                self._catch_up.withdraw(name, link)

    # -- ended origins --------------------------------------------------------------------------

    def end(self, names: Iterable[str]) -> None:
        """End these origins because of a cutoff, which counts as stored only after this: peers must
        not think that this node knows it and counts them."""
        origins = map(self._vector.origins.get, names)
        ended = [o for o in origins if o and not o.ended and o.name != self._own.name]
        for link in self._links:
            link.end([origin.name for origin in ended])
        for origin in ended:
            self._vector.end(origin)

    def go_on(self, origin: Origin) -> None:
        """An ended origin counts again: a peer that knows the cutoff has brought it, or a copy of
        this node has ended what this one commits to."""
        self._vector.go_on(origin)
        for link in self._links:
            link.progress.goes_on(origin)

    def forget(self, names: Iterable[str]) -> list[str]:
        """Nothing of these origins is kept on disk: forget those that are ended, and return
        them."""
        forgotten: list[str] = []
        for name in names:
            origin = self._vector.origins.get(name)  # None if the disk could not forget it before
            gap = name in self._catch_up.gaps
            if not self._vector.cutoff(name):
                continue  # it is not stored yet
            if origin and (
                not origin.ended or gap or origin.staged > origin.n or self._is_disputed(name)
            ):
                continue
            if tree := self._trees.get(name):
                self._trees.drop(tree)
            forgotten.append(name)
        for link in self._links:
            link.end(forgotten)
        return forgotten

    def before(self) -> int:
        """Return the latest time that a cutoff of this node may have, as far as its peers are
        concerned, if no known node is missing."""
        own = self._own.name
        bounds = [MAX_CUTOFF, began(own), *(link.since for link in self._links)]
        bounds += [
            began(name)
            for link in self._links
            for name in link.refused
            if node_of(name) == node_of(own)
        ]
        return min(bounds)

    def _is_disputed(self, name: str) -> bool:
        return any(name in link.refused for link in self._links)
