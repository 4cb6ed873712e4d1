"""Forgetting: the origins that nodes have ended by cutoffs (see wire/cutoffs.py).

An origin that is ended counts nowhere, though messages of it may still be kept here: they can be
read, found and erased, and go when this node's own limits say so. Then the origin is forgotten.

- A cutoff comes in HAVE, and goes on to all peers. It is stored as an origin of which no message is
  kept, and never asked for.
- A peer that does not know the cutoff yet still claims ended origins. Nothing is taken of these
  from it: it learns the cutoff by the same comparison.
- A peer that knows the cutoff and claims such an origin all the same holds messages since then.
  The origin is taken like any other, and counts again.

A node makes a cutoff for its own origins alone: before its present one, before all that it keeps
and its connected peers keep, and only while no known node is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..wire.cutoffs import NO_HISTORY, began, cutoff_of, is_cutoff
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
        cutoff = self._vector.cutoff(name)
        return cutoff > 0 and link.progress.held(cutoff_of(node_of(name))) < cutoff

    def heard(self, link: ReplicaLink, name: str, head: Head, now: float) -> Run | None:
        """A peer has sent a cutoff; return the run to store if it is new."""
        origin = self._vector.origins.get(name)
        held, staged = (origin.n, origin.staged) if origin else (0, 0)
        if not held and not staged:
            if self._catch_up.full(name, 0, link, now):
                link.comparing.rest(now)
                link.comparing.missed(name, 1)
                return None
            self._newcomers.take(link.host, now)
        link.progress.note(name, head.n)
        if head.n <= staged:
            return None
        if self._catch_up.paused or staged > held:  # one at a time: ask for it again
            if self._catch_up.paused:
                link.comparing.rest(now)
            link.comparing.missed(name, 1)
            return None
        return self.cut(name, head.n, head.signature)

    def cut(self, name: str, time: int, signature: str) -> Run | None:
        """Stage a cutoff; return the run to store if it is later than the one that is held."""
        origin = self._vector.get(name)
        if time <= origin.staged:
            return None
        run = Run(name, time, NO_HISTORY, (), (), signature, time - origin.n)
        self._vector.stage(origin, run)
        return run

    # -- ended origins --------------------------------------------------------------------------

    def end(self, names: Iterable[str]) -> None:
        """These origins are ended by a cutoff, which counts as stored only after this: peers must
        not think that this node knows it and holds messages since then."""
        ended: list[str] = []
        for name in names:
            origin = self._vector.origins.get(name)
            if origin and not origin.ended:
                self._vector.end(origin)
                ended.append(name)
        for link in self._links:
            link.end(ended)

    def stored(self, node: str) -> None:
        """A cutoff of a node is stored: what peers have claimed of its old origins is void, and
        what is with the writer still counts only if it turns out to be newer."""
        gaps = self._catch_up.gaps
        for name in [name for name in gaps if node_of(name) == node and self._vector.cutoff(name)]:
            for link in list(gaps[name].claims):
                self._catch_up.withdraw(name, link)
        for origin in self._vector.staged_by(node):
            if self._vector.cutoff(origin.name) and not is_cutoff(origin.name) and not origin.ended:
                self._vector.end(origin)
                for link in self._links:
                    link.end([origin.name])

    def go_on(self, origin: Origin) -> None:
        """An ended origin has messages since the cutoff."""
        self._vector.go_on(origin)
        for link in self._links:
            link.progress.count()

    def forget(self, names: Iterable[str]) -> list[str]:
        """Nothing of these origins is kept on disk: forget those that are ended, and return
        them."""
        forgotten: list[str] = []
        for name in names:
            origin = self._vector.ended.get(name)
            gap = name in self._catch_up.gaps
            if not origin or gap or origin.staged > origin.n or self._is_disputed(name):
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
        bounds = [began(own), *(link.since for link in self._links)]
        bounds += [
            began(name)
            for link in self._links
            for name in link.refused
            if node_of(name) == node_of(own)
        ]
        return min(bounds)

    def _is_disputed(self, name: str) -> bool:
        return any(name in link.refused for link in self._links)
