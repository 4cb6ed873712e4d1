"""Trees: the way that an origin's messages take through the mesh.

To cross the mesh with one copy per node, a link is *eager* or *lazy* per origin, as in Plumtree
(Leitao, Pereira, Rodrigues, "Epidemic Broadcast Trees", 2007): an eager link gets the messages at
once, a lazy one only HAVE.

- A message floods the links that none of its origin has crossed since they opened, so the first one
  of an origin floods all. Each node takes the link of its first arrival as the origin's *feeder*,
  and answers copies on other links with PRUNE, which makes them lazy.
- A node that learns by HAVE that it is behind, and gets nothing for a while, sends GRAFT: that link
  becomes eager, and the feeder once it ships something new. When the feeder's link is lost, GRAFT
  goes out at once, though the origin be silent. Nothing else changes a feeder: changing it for
  speed makes cycles.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ..settings import NEVER
from .replica_link import ReplicaLink
from .vector import Origin, VersionVector


@dataclass(slots=True, eq=False)
class Tree:
    """The way that an origin's messages take through this node."""

    origin: Origin
    feeder: ReplicaLink | None = None  # where they come from
    fed: bool = False  # the feeder has shipped something
    eager: tuple[ReplicaLink, ...] = ()  # where they go at once
    asked: tuple[ReplicaLink, int] | None = None  # the last GRAFT, and its position
    answered: bool = False  # ... has been answered, so that nothing may be left out after it
    looked: float = -NEVER  # when it had to look for another feeder, since two fed each other
    moved: float = -NEVER  # when the last message came that nobody had asked for

    def feed(self, link: ReplicaLink | None, fed: bool = False) -> None:
        """Take a link as the feeder, or none. `fed`: it has shipped something."""
        if self.feeder is not None:
            self.feeder.feeds.pop(self.origin.name, None)
        if link is not None:
            link.feeds[self.origin.name] = None
        self.feeder, self.fed = link, fed

    def attach(self, link: ReplicaLink) -> None:
        """Make a link eager."""
        if link not in self.eager:
            self.eager += (link,)
            link.eager[self.origin.name] = None

    def detach(self, link: ReplicaLink, now: float) -> None:
        """Make a link lazy."""
        if link in self.eager:
            self.eager = tuple(other for other in self.eager if other is not link)
            del link.eager[self.origin.name]
            link.shipping.withhold(self.origin.name, now)

    def prune(self, link: ReplicaLink, now: float) -> None:
        """Take no more of this origin over a link, and give it no more unasked."""
        if link.prune(self.origin.name):
            self.detach(link, now)


class Trees:
    """The trees of one node, one per origin that it holds or wants. Called with the state's lock
    held."""

    def __init__(
        self, vector: VersionVector, links: Mapping[ReplicaLink, None], rng: random.Random
    ) -> None:
        """`vector` is what this node holds; it and `links` are shared with the replica."""
        self.met = -NEVER  # when the last link was introduced
        self._vector = vector
        self._links = links
        self._rng = rng
        self._trees: dict[str, Tree] = {}

    def __iter__(self) -> Iterator[Tree]:
        """Yield the trees that were needed since the start."""
        return iter(self._trees.values())

    def get(self, name: str) -> Tree | None:
        """Return the tree of an origin, None where nothing is held or wanted of it."""
        return self.of(name) if name in self._vector.origins else None

    def of(self, name: str) -> Tree:
        """Return the tree of an origin, which begins here where there is none."""
        tree = self._trees.get(name)
        if tree is None:
            tree = self._trees[name] = Tree(self._vector.get(name))
        return tree

    def drop(self, tree: Tree) -> None:
        """Forget an origin of which nothing is held."""
        name = tree.origin.name
        for link in tree.eager:
            del link.eager[name]
        tree.eager = ()
        tree.feed(None)
        for link in self._links:  # a peer may have asked for it by GRAFT
            link.progress.cursor.pop(name, None)
        del self._trees[name]
        self._vector.drop(name)

    def move(self, tree: Tree, before: int, now: float) -> None:
        """A message has come that nobody had asked for, after `before` others of its origin: make
        the links eager that are newer than the last one, and whose peers hold just what is before
        it."""
        name, moved = tree.origin.name, tree.moved
        tree.moved = now
        if self.met <= moved:
            return
        for link in self._links:
            if link.met <= moved or link is tree.feeder or link in tree.eager:
                continue
            if link.progress.position(name) >= before and link.progress.held(name) < tree.origin.n:
                tree.attach(link)
                link.shipping.flood(name)

    def best(self, tree: Tree, least: int, besides: Collection[ReplicaLink]) -> ReplicaLink | None:
        """Return the link to ask for an origin, of those that hold `least` or more: one that is not
        doubted, if there is one, then one that holds most; chance decides between equals."""
        name = tree.origin.name
        best: list[ReplicaLink] = []
        rank = (False, least)
        for link in self._links:
            n = link.progress.position(name)
            floored = link.floors.get(name, 0) > tree.origin.next
            if n < least or link in besides or name in link.refused or floored:
                continue
            this = (not link.doubted, n)
            if this > rank or not best:
                best, rank = [], this
            if this == rank:
                best.append(link)
        return self._rng.choice(best) if best else None
