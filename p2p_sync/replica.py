"""The rules of the replicated log: who feeds whom, what is new, what to ask for again.

Every node holds, of each origin, the messages 1 ... n without a gap. A link ships from the log what
its peer lacks. To cross the mesh with one copy per node, a link is *eager* or *lazy* per origin, as
in Plumtree (Leitao, Pereira, Rodrigues, "Epidemic Broadcast Trees", 2007): an eager link gets the
messages at once, a lazy one only HAVE.

- The first message of an origin floods all links. Each node takes the link of its first arrival as
  the origin's *feeder*, and answers copies on other links with PRUNE, which makes them lazy.
- A node that learns by HAVE that it is behind, and gets nothing for a while, sends GRAFT: that link
  becomes eager, and the feeder once it ships something new. When the feeder's link is lost, GRAFT
  goes out at once, though the origin be silent. Nothing else changes a feeder: changing it for
  speed makes cycles.
- What one side lacks when a link opens is pulled by GRAFT, so over one link only.

Nothing here has a lock, a thread, a socket, a clock or randomness of its own. All methods are
called with the state's lock held, are quick, and take `now`, monotonic seconds. Who calls them:

    reader of a link   `receive`: a frame has come in; hands the runs that are new to the writer
    writer             `stored` or `failed`, after its transaction; `resume` when there is room
    sender of a link   `link.take` until there is nothing, `link.shipped` after a MESSAGES frame
    a timer            `tick`, not later than `next_deadline`
    anyone             `open`, `close`, `commit`, and the questions

After each call the shell empties `woken` (links whose sender has work) and `conflicts`. Nothing is
told or shipped before it is durable.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .codes import POLICY_VIOLATION
from .errors import ProtocolError
from .logframes import Entry, Graft, Have, LogFrame, Messages, Prune, Run, Vector, chain
from .replica_link import NEVER, Commits, ReplicaLink
from .vector import Origin, VersionVector

GRAFT_DELAY = 0.1
"""Seconds, and a hop, for which one who learns that it is behind waits for its feeder."""
ANSWER_DELAY = 2.0
"""Seconds, and a hop, for a feeder that has what we lack to go on shipping it."""
MAX_DELAY = 30.0
"""Seconds; the two delays double up to this while nothing comes."""
MAX_ORIGINS = 100_000
"""Origins that a node holds, and (give or take a frame) that a peer may tell of."""
STALLED_AFTER = 60.0
"""Seconds after which a link that was asked for what it said to have, and has shipped nothing at
all, counts as stalled."""
CLAIM_LIFE = 60.0
"""Seconds after which a claim that nothing was shipped for no longer counts as `behind`."""


class Conflict(NamedTuple):
    """Two contents under one identity: `peer` and we differ at `seq` of `origin`, if not before."""

    peer: str
    origin: str
    seq: int


@dataclass(slots=True, eq=False)
class _Tree:
    """The way that an origin's messages take through this node."""

    origin: Origin
    feeder: ReplicaLink | None = None  # where they come from
    fed: bool = False  # the feeder has shipped something
    eager: tuple[ReplicaLink, ...] = ()  # where they go at once
    asked: tuple[ReplicaLink, int] | None = None  # the last GRAFT, and its position

    def detach(self, link: ReplicaLink) -> None:
        """Make a link lazy."""
        if link in self.eager:
            self.eager = tuple(other for other in self.eager if other is not link)
            link.withhold(self.origin.name)


@dataclass(slots=True, eq=False)
class _Want:
    """An origin of which live links hold more than we do."""

    target: int
    since: float  # when we learned of it, or got the last message of it
    seen: int  # what was staged when we last looked
    delay: float = 0.0  # how long to wait for progress
    deadline: float = 0.0
    asked: list[ReplicaLink] = field(default_factory=list)  # those that got a GRAFT since


class Replica:
    """The replicated log of one node, without its texts."""

    def __init__(
        self, origin: str, vector: Vector, rng: random.Random, linger: float = 0.0
    ) -> None:
        """Start with the `vector` that the log holds; `origin` is the one of this start.

        `linger` (seconds) is how long a link gathers messages before it ships them: fewer frames
        for more delay.
        """
        self.woken: dict[ReplicaLink, None] = {}
        self.conflicts: list[Conflict] = []
        self.paused = False  # the log cannot be written
        self._rng = rng
        self._linger = linger
        self._vector = VersionVector(vector)
        self._commits = Commits(origin)
        self._trees = {name: _Tree(held) for name, held in self._vector.origins.items()}
        self._links: dict[ReplicaLink, None] = {}
        self._wants: dict[str, _Want] = {}
        self._timers: list[tuple[float, str]] = []  # a heap: when to look at a want

    @property
    def origin(self) -> str:
        """The origin of this node's commits."""
        return self._commits.origin

    def renew(self, origin: str) -> None:
        """Commit under another origin from now on, after a conflict over our own (a snapshot of a
        running machine came back to life); what others hold of the old one is then pulled."""
        for link in self._links:
            link.refused.discard(self.origin)
        self._commits.origin, self._commits.waits = origin, 0

    # -- Links -----------------------------------------------------------------------------------

    def open(self, peer: str, rtt: float, now: float) -> ReplicaLink:
        """Add a link, once SOCKETS has shown that the other end, node `peer`, is one of ours.

        `rtt` is the round trip in seconds, a guess to begin with.
        """
        link = ReplicaLink(
            peer, rtt, self._vector, self._commits, self.woken, self._rng, self._linger
        )
        self._links[link] = None
        return link

    def close(self, link: ReplicaLink, now: float) -> None:
        """Forget a link that is lost. What it fed is asked from other links at once."""
        if link not in self._links:
            return
        del self._links[link]
        orphans = []
        for tree in self._trees.values():
            tree.detach(link)
            if tree.feeder is link:
                tree.feeder = None
                orphans.append(tree)
        self.woken.pop(link, None)
        for name in list(self._wants):
            self._lower(name)
        for tree in orphans:
            self._refeed(tree, now)
        empty = [name for name, tree in self._trees.items() if tree.origin.staged == 0]
        for name in empty:  # was only claimed
            if name not in self._wants:
                del self._trees[name], self._vector.origins[name]

    # -- Frames (the reader of a link) -----------------------------------------------------------

    def receive(self, link: ReplicaLink, frame: LogFrame, now: float) -> list[Run]:
        """Take in a frame and return the runs that are new here, checked and in order.

        They are to be stored in the order in which this returns them, across all links: hand them
        to the writer before the lock is released. Raises ProtocolError.
        """
        if link not in self._links:
            return []  # closed while the frame was on its way to us
        if len(link.holds) > MAX_ORIGINS:  # looked at here: what is staged has to be handed on
            raise ProtocolError(POLICY_VIOLATION, f"more than {MAX_ORIGINS} origins")
        accepted = []
        if isinstance(frame, Messages):
            link.asked_at = NEVER
            for run in frame.runs:
                new = self._arrive(link, run, now)
                if new is not None:
                    accepted.append(new)
        elif isinstance(frame, Prune):
            self._receive_prune(link, frame, now)
        elif isinstance(frame, Graft):
            for name, after in frame.after.items():
                self._make_eager(link, name, after, now)
        for name, (n, running) in frame.have.items():
            self._claim(link, name, n, running, now)
        if frame.ack:
            for name, (n, _) in frame.have.items():
                link.tell_when(name, n)
            for run in frame.runs if isinstance(frame, Messages) else ():
                link.tell_when(run.origin, run.end)
        if isinstance(frame, Have) and frame.last and not link.introduced:
            self._introduce(link, now)
        return accepted

    def _introduce(self, link: ReplicaLink, now: float) -> None:
        """The peer has told its whole vector: take it as feeder where there is none."""
        link.introduced = True
        link.wake()
        for name, tree in self._trees.items():
            fed = tree.feeder is not None or name == self.origin
            if not fed and 0 < tree.origin.n <= link.holds.get(name, 0):
                self._ask(tree, link, now)

    def _arrive(self, link: ReplicaLink, run: Run, now: float) -> Run | None:
        """Take in a run and return its new part, or None."""
        name, end = run.origin, run.end
        if name in link.refused:
            return None
        link.note(name, end)
        link.owe(name, now)
        tree = self._tree(name)
        origin = tree.origin
        position = origin.staged
        if run.after > position:  # a gap
            self._want(tree, end, link, now)
            if tree.feeder is link and tree.asked != (link, position):
                self._ask(tree, link, now)
            return None
        if end >= position:
            before = run.previous if run.after == position else run.hashes[position - run.after - 1]
            if before != origin.staged_hash:
                self._refuse(tree, link, position, now)
                return None
        want = self._wants.get(name)
        self._settle(tree, link, end > position, want, now)
        if end <= position:
            return None
        if name == self.origin:  # more of our own than we have ever committed
            self._refuse(tree, link, end, now)
            return None
        if self.paused:
            self._want(tree, end, link, now)
            return None
        if position == 0:
            if len(self._vector.names) >= MAX_ORIGINS:
                return None
            if want is None or link not in want.asked:
                self._flood(tree, link)
        new = run.beyond(position)
        self._vector.stage(origin, new)
        if want is not None:
            want.since = now
            want.asked.clear()
        return new

    def _settle(
        self, tree: _Tree, link: ReplicaLink, new: bool, want: _Want | None, now: float
    ) -> None:
        """A run has come over `link`, with something `new` or not: is this the feeder?"""
        name = tree.origin.name
        if tree.feeder is link:
            tree.fed = True
            return
        if name != self.origin:
            answer = new and want is not None and link in want.asked
            if answer or (not tree.fed and name not in link.pruned):
                tree.feeder, tree.fed = link, True
                tree.detach(link)
                return
            if tree.feeder is None:
                self._ask(tree, link, now)  # it was pruned, and may stop shipping
                return
        if name not in link.pruned:
            link.pruned.add(name)
            link.prunes[name] = None
            link.wake()
            tree.detach(link)

    def _flood(self, tree: _Tree, source: ReplicaLink | None) -> None:
        """A new origin: make all links eager."""
        name = tree.origin.name
        for link in self._links:
            if link.introduced and link is not source and link not in tree.eager:
                tree.eager += (link,)
                link.hold(name)

    def _receive_prune(self, link: ReplicaLink, frame: Prune, now: float) -> None:
        for name in frame.origins:
            if name in self._trees:
                self._trees[name].detach(link)
        for name in frame.refused:
            if name in self._trees and name not in link.refused:
                self._refuse(self._trees[name], link, self._trees[name].origin.n, now)

    def _make_eager(self, link: ReplicaLink, name: str, after: int, now: float) -> None:
        """The peer asks to be fed from `after` on."""
        tree = self._trees.get(name)
        if tree is None:
            return
        link.rewind(name, after)
        if link not in tree.eager:
            tree.eager += (link,)
        if tree.origin.n > after:
            link.offer(name, now)
        if tree.feeder is link:  # two that feed each other: one has to look elsewhere
            tree.feeder = None
            self._refeed(tree, now, besides=(link,))

    def _claim(self, link: ReplicaLink, name: str, n: int, running: str, now: float) -> None:
        """The peer says that it durably holds `n` of an origin, with that running hash."""
        if name in link.refused:
            return
        if n > link.holds.get(name, 0):
            link.note(name, n)
        origin = self._vector.origins.get(name)
        if origin is not None:
            same_n = n == origin.n and running != origin.hash
            if same_n or (n == origin.staged and running != origin.staged_hash):
                self._refuse(self._trees[name], link, n, now)
                return
            if n <= origin.staged:
                return
        tree = self._tree(name)
        if name == self.origin:
            self._refuse(tree, link, n, now)
        else:
            self._want(tree, n, link, now)

    def _refuse(self, tree: _Tree, link: ReplicaLink, seq: int, now: float) -> None:
        """The peer has other contents under the same identities: take no more of this origin."""
        name = tree.origin.name
        self.conflicts.append(Conflict(link.peer, name, seq))
        link.refused.add(name)
        link.refusals[name] = None  # so that the peer knows, too
        link.holds.pop(name, None)
        link.grafts.pop(name, None)
        link.wake()
        tree.detach(link)
        self._lower(name)
        if tree.feeder is link:
            tree.feeder = None
            self._refeed(tree, now)

    def _tree(self, name: str) -> _Tree:
        tree = self._trees.get(name)
        if tree is None:
            tree = self._trees[name] = _Tree(self._vector.get(name))
        return tree

    # -- Being behind ----------------------------------------------------------------------------

    def _ask(self, tree: _Tree, link: ReplicaLink, now: float) -> None:
        """Send GRAFT to a link. A feeder that ships stays the feeder until this is answered."""
        if self.paused:
            return
        name = tree.origin.name
        if tree.feeder is None or not tree.fed:
            tree.feeder, tree.fed = link, False
        tree.asked = (link, tree.origin.staged)
        tree.detach(link)
        link.pruned.discard(name)
        link.prunes.pop(name, None)
        link.grafts[name] = None
        link.wake()
        if link.holds.get(name, 0) > tree.origin.staged:
            link.asked_at = min(link.asked_at, now)
        want = self._wants.get(name)
        if want is not None:
            want.asked.append(link)
            self._look_again(tree, want, link, now)

    def _refeed(self, tree: _Tree, now: float, besides: Sequence[ReplicaLink] = ()) -> None:
        """The feeder is lost: ask the best link at once, even if the origin is silent now.

        Where all links are ones that we feed, ask one of them: it takes the question on to where
        the origin comes from another way.
        """
        tree.fed = False
        if tree.origin.name != self.origin:
            most = max(tree.origin.staged, 1)
            link = self._best(tree, most, (*besides, *tree.eager))
            link = link or self._best(tree, most, besides)
            if link is not None:
                self._ask(tree, link, now)

    def _best(self, tree: _Tree, most: int, besides: Sequence[ReplicaLink]) -> ReplicaLink | None:
        """The link that holds most of an origin, at least `most`; chance decides between equals."""
        name = tree.origin.name
        best: list[ReplicaLink] = []
        for link in self._links:
            n = link.position(name)
            if n < most or link in besides or name in link.refused:
                continue
            if n > most:
                best, most = [], n
            best.append(link)
        return self._rng.choice(best) if best else None

    def _want(self, tree: _Tree, n: int, link: ReplicaLink, now: float) -> None:
        """A live link holds `n` of an origin, more than we do."""
        name = tree.origin.name
        want = self._wants.get(name)
        if want is not None:
            want.target = max(want.target, n)
        else:
            want = self._wants[name] = _Want(n, now, tree.origin.staged)
            if tree.feeder is not None:
                self._look_again(tree, want, tree.feeder, now)
        if tree.feeder is None:
            self._ask(tree, link, now)

    def _look_again(self, tree: _Tree, want: _Want, link: ReplicaLink | None, now: float) -> None:
        """Set the time by which `link`, the feeder or one that was asked, has to have shipped."""
        want.seen = tree.origin.staged
        delay = GRAFT_DELAY
        if link is not None:
            claims = link.holds.get(tree.origin.name, 0) > want.seen
            delay = (ANSWER_DELAY if claims else GRAFT_DELAY) + link.rtt / 2
        want.delay = min(max(delay, want.delay), MAX_DELAY)
        want.deadline = now + want.delay
        heapq.heappush(self._timers, (want.deadline, tree.origin.name))

    def _lower(self, name: str) -> None:
        """A link's claim is gone: want what the others claim."""
        want = self._wants.get(name)
        if want is not None:
            want.target = max((link.holds.get(name, 0) for link in self._links), default=0)
            if want.target <= self._vector.origins[name].n:
                del self._wants[name]

    def next_deadline(self) -> float:
        """When `tick` is due; infinity with nothing to wait for."""
        return self._timers[0][0] if self._timers and not self.paused else NEVER

    def tick(self, now: float) -> None:
        """Ask other links for what did not come."""
        if self.paused:
            return  # nobody is asked now; the timers stay for when it goes on
        while self._timers and self._timers[0][0] <= now:
            deadline, name = heapq.heappop(self._timers)
            want = self._wants.get(name)
            if want is None or want.deadline != deadline:
                continue
            tree = self._trees[name]
            staged = tree.origin.staged
            if staged > want.seen or staged >= want.target:
                want.delay = 0.0
                self._look_again(tree, want, tree.feeder, now)
                continue
            link = self._best(tree, staged + 1, want.asked)
            if link is None:  # all were asked: start again, more patiently
                want.asked.clear()
                want.delay *= 2
                link = self._best(tree, staged + 1, ())
            if link is not None:
                self._ask(tree, link, now)
            else:
                del self._wants[name]

    # -- The writer ------------------------------------------------------------------------------

    def commit(self, messages: Sequence[Entry], now: float, ack: bool = False) -> Run:
        """Take in messages that are committed on this node; store the run in turn with those
        received. `ack`: somebody waits for copies."""
        tree = self._tree(self.origin)
        origin = tree.origin
        if origin.staged == 0:
            self._flood(tree, None)
        hashes = chain(origin.staged_hash, messages)
        run = Run(origin.name, origin.staged, origin.staged_hash, tuple(messages), hashes)
        self._vector.stage(origin, run)
        if ack:
            self._commits.waits = run.end
        return run

    def take_in(self, name: str, seq: int, message: Entry) -> Run | None:
        """Take in a message of another origin that came alone, in a MESSAGE frame, if it is the
        next of that origin; store the run as those received."""
        origin = self._tree(name).origin
        new = origin.staged == 0 and len(self._vector.names) >= MAX_ORIGINS
        if name == self.origin or self.paused or seq != origin.staged + 1 or new:
            return None
        if origin.staged == 0:
            self._flood(self._tree(name), None)
        previous = origin.staged_hash
        run = Run(name, origin.staged, previous, (message,), chain(previous, (message,)))
        self._vector.stage(origin, run)
        return run

    def expect_copies(self, seq: int) -> None:
        """Somebody waits for copies of our own message `seq`: have the peers told, and answer."""
        self._commits.waits = max(self._commits.waits, seq)
        for link in self._links:
            if link.holds.get(self.origin, 0) < seq:
                link.tell_soon(self.origin)

    def stored(self, runs: Sequence[Run], now: float) -> None:
        """The runs are durable: they may be told and shipped."""
        for run in runs:
            name, end = run.origin, run.end
            tree = self._trees[name]
            self._vector.store(tree.origin, run)
            for link in tree.eager:
                if link.holds.get(name, 0) < end:
                    link.offer(name, now)
            if name == self.origin and run.after < self._commits.waits:
                for link in self._links:
                    if link not in tree.eager:
                        link.tell_soon(name)
            if name in self._wants and self._wants[name].target <= end:
                del self._wants[name]
        names = [run.origin for run in runs]
        for link in self._links:
            if link.attentive:
                link.grown(names)

    def failed(self, now: float) -> None:
        """The writer could not store, and has dropped all that it was handed: nothing is taken in
        until `resume`."""
        self.paused = True
        for origin in self._vector.unstage():
            if origin.name == self.origin:
                self._commits.waits = min(self._commits.waits, origin.n)
            most = max((link.holds.get(origin.name, 0) for link in self._links), default=0)
            if most > origin.n and origin.name != self.origin:
                self._wants.setdefault(origin.name, _Want(most, now, origin.n))

    def resume(self, now: float) -> None:
        """The log can be written again: ask for all that we lack."""
        self.paused = False
        for name, want in list(self._wants.items()):
            want.asked.clear()
            want.delay = 0.0
            self._look_again(self._trees[name], want, None, now)
            self._refeed(self._trees[name], now)

    def stalled(self, now: float) -> list[ReplicaLink]:
        """Return the links to cut: they say that they hold more than we do, and do not ship it."""
        found = []
        for link in self._links:
            if now - link.asked_at < STALLED_AFTER or self.paused:
                continue
            if any(link.holds.get(n, 0) > self._trees[n].origin.staged for n in self._wants):
                found.append(link)
            link.asked_at = NEVER  # cut, or owing nothing any more
        return found

    # -- Questions -------------------------------------------------------------------------------

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return origin -> (number of messages, running hash) of all that is durable here."""
        return self._vector.entries()

    def held(self, origin: str) -> int:
        """Return how many messages of an origin are durable here."""
        entry = self._vector.origins.get(origin)
        return entry.n if entry else 0

    def copies(self, origin: str, seq: int) -> set[str]:
        """Return the ids of the linked nodes that have told that they durably hold a message."""
        return {link.peer for link in self._links if link.holds.get(origin, 0) >= seq}

    def behind(self, now: float) -> int:
        """Return how many messages live links have told of and this node does not hold."""
        return sum(
            want.target - self._vector.origins[name].n
            for name, want in self._wants.items()
            if now < want.since + CLAIM_LIFE
        )

    def lag(self, link: ReplicaLink) -> int:
        """Return how many of our messages the peer of `link` lacks, as far as it has told."""
        holds = link.holds
        origins = self._vector.origins.values()
        return sum(max(0, origin.n - holds.get(origin.name, 0)) for origin in origins)
