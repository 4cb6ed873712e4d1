"""The replicated log of one node, without its texts.

Every node holds, of each origin, the messages 1 ... n without a gap. A link ships from the log what
its peer lacks. Nothing is announced or shipped before it is durable.

| part | file | decides |
|---|---|---|
| `trees` | trees.py | which link an origin's messages come from, and where they go at once |
| `catch_up` | catch_up.py | what is missing here, and which link is asked for it |
| `receiver` | receiver.py | what becomes of a frame |
| the links | replica_link.py | what a link's sender sends next |

Nothing here has a lock, a thread, a socket, a clock or randomness of its own. All methods are
called with the state's lock held, are quick, and take `now`, monotonic seconds. Who calls them:

    reader of a link   `receiver.receive`: a frame has come in; the new runs go to the writer
    writer             `stored` or `failed`, after its transaction; `catch_up.resume` when there is
                       room again
    sender of a link   `link.take` until there is nothing, and `link.shipped` in the same turn
    a timer            `catch_up.tick`, not later than `catch_up.deadline`
    anyone             `open`, `close`, `commit`, and the questions

After each call the shell empties `woken`: the links whose sender has work.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ..codes import MAX_NUMBER
from ..settings import LATE, MAX_ORIGINS, MAX_UNPLACED, NEVER
from ..wire.cutoffs import is_cutoff
from ..wire.entries import Entry, chain
from ..wire.forks import Branch
from ..wire.logframes import NO_SIGNATURE, NOTHING_HELD, Head, Run, Vector
from .catch_up import CatchUp
from .deduplication import node_of
from .forgetting import Forgetting
from .newcomers import Newcomers
from .placing import Move
from .receiver import Receiver
from .replica_link import Own, ReplicaLink
from .trees import Trees
from .vector import Origin, VersionVector


class Replica:
    """The replicated log of one node, without its texts."""

    def __init__(
        self,
        origin: str,
        vector: Vector,
        rng: random.Random,
        new_origins: int = MAX_ORIGINS,
        vouched: Callable[[str], bool] = lambda _: True,
        alone: Callable[[], bool] = lambda: False,
        ended: Collection[str] = (),
    ) -> None:
        """Start with the `vector` that the log holds; `origin` is the one of its commits.
        `new_origins` and `vouched` are for newcomers.py, `alone` is for catch_up.py, and `ended`
        are origins for forgetting.py."""
        self.woken: dict[ReplicaLink, None] = {}
        self.links: dict[ReplicaLink, None] = {}
        self.vector = VersionVector(vector, ended)
        self._own = Own(origin)
        self._rng = rng
        self.trees = Trees(self.vector, self.links, rng)
        self._newcomers = newcomers = Newcomers(new_origins, not vector, vouched)
        self.catch_up = CatchUp(self._own, self.vector, self.trees, self.links, newcomers, alone)
        self.forgetting = Forgetting(
            self._own, self.vector, self.trees, self.catch_up, self.links, newcomers
        )
        self.receiver = Receiver(
            self._own,
            self.vector,
            self.trees,
            self.catch_up,
            self.links,
            newcomers,
            self.forgetting,
        )
        self._unplaced: dict[str, dict[str, None]] = {}  # by origin: branches to ask for again
        # Origins of this node whose messages behind a number have other ids since the start.
        self._moved: dict[str, int] = {}
        self._grew = -NEVER
        self._growth = deque([(-NEVER, self.count)], maxlen=20)  # when so many were held

    @property
    def origin(self) -> str:
        """The origin of this node's commits."""
        return self._own.name

    def renew(self, origin: str) -> None:
        """Commit under another origin from now on: numbers of the old one may be used already
        (after a conflict over it, a failure or damage of the disk), or the clock was set back. What
        others hold of the old one is then pulled."""
        self._own.renew(origin)

    # -- links ----------------------------------------------------------------------------------

    def open(
        self, peer: str, rtt: float, now: float, owner: Any = None, host: str = ""
    ) -> ReplicaLink:
        """Add a link, once SOCKETS has shown that the other end, node `peer`, is one of ours.

        `rtt` is the round trip in seconds, a guess to begin with. `host` is the remote host;
        limits apply to it; "": it is a hub. `owner` is kept for the caller.
        """
        link = ReplicaLink(
            peer, rtt, self.vector, self._own, self.links, self.woken, self._rng, owner, host
        )
        self.links[link] = None
        return link

    def close(self, link: ReplicaLink, now: float) -> None:
        """Forget a link that is lost. What it fed is asked from other links at once."""
        if link not in self.links:
            return
        del self.links[link]
        for name in list(link.eager):
            self.trees.of(name).detach(link, now)
        orphans = [self.trees.of(name) for name in link.feeds]
        for tree in orphans:
            tree.feed(None)
        self.woken.pop(link, None)
        self.catch_up.close(link)
        link.progress.clear()  # records of earlier questions may keep the link
        self.catch_up.orphaned([tree.origin.name for tree in orphans], now)

    def withhold(self, link: ReplicaLink, name: str, floor: int, now: float) -> None:
        """Messages of an origin up to `floor` are not kept any more: tell the peer of a link, which
        was to be sent some of them."""
        if self.vector.shared(name):
            self.trees.of(name).detach(link, now)
            link.shipping.lose(name)
            link.withheld[name] = floor
            link.wake()

    # -- commits and the writer -----------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], now: float, ack: bool = False) -> Run:
        """Take in entries that are committed on this node; store the run, which is still to be
        signed, in turn with those received. `ack`: somebody waits for copies."""
        tree = self.trees.of(self._own.name)
        origin = tree.origin
        hashes = chain(origin.staged_hash, entries)
        run = Run(origin.name, origin.staged, origin.staged_hash, tuple(entries), hashes)
        self.vector.stage(origin, run)
        if ack:
            self._own.waits = run.end
        return run

    def expect_copies(self, origin: str, seq: int) -> None:
        """Somebody waits for copies of a message of ours: announce it, and ask peers to answer."""
        if origin != self.origin or len(self.copies(origin, seq)) == len(self.links):
            return
        self._own.waits = max(self._own.waits, seq)
        for link in self.links:
            if link.progress.held(self.origin) < seq:
                link.announcing.soon(self.origin)

    def stored(self, runs: Sequence[Run], now: float) -> None:
        """The runs are durable: they may be announced and shipped."""
        for run in runs:
            name, end = run.origin, run.end
            origin = self.vector.get(name)
            before = origin.n
            if origin.ended:
                self.forgetting.go_on(origin)
            for link in self.links:
                link.progress.grows(origin, end)
            self.vector.store(origin, run)
            if is_cutoff(name):
                continue
            tree, gap = self.trees.of(name), self.catch_up.gaps.get(name)
            if gap is None or not gap.asked:
                self.trees.move(tree, before, now)
            for link in tree.eager:
                if link.progress.held(name) < end:
                    link.shipping.offer(name)
            if name == self._own.name and run.after < self._own.waits:
                for link in self.links:
                    if link not in tree.eager:
                        link.announcing.soon(name)
            self.catch_up.stored(run, before)
        for run in runs if self._unplaced else ():
            for name in self._unplaced.pop(Branch.of(run.origin).base, ()):
                if name in self.catch_up.gaps:
                    self.catch_up.find_feeder(self.trees.of(name), now)
        self._grew = now
        if now >= self._growth[-1][0] + LATE / 10:
            self._growth.append((now, self.count))
        names = [run.origin for run in runs]
        if self._newcomers.joining and self.links:
            self._newcomers.joining = any(k.claims_more or not k.introduced for k in self.links)
        for link in self.links:
            if link.disputes:
                link.wake()  # now it may show what it holds
            if link.announcing.attentive:
                link.announcing.grown(names, now)

    def lose(self, name: str, head: Head) -> bool:
        """Of an origin no more than this is whole on this disk.

        The others are neither announced nor shipped any more. What was announced before does not
        hold: all links are to be closed, and opened again. Returns False, and does nothing, while
        messages of this origin are with the writer.
        """
        tree = self.trees.get(name)
        if tree is None or tree.origin.n <= head.n:
            return True
        origin = tree.origin
        if origin.staged > origin.n:
            return False
        self.catch_up.lose(name, origin.n - head.n)
        self.vector.lose(origin, head)
        for link in self.links:
            link.lose(name)
        return True

    def drop(self, names: Iterable[str], now: float) -> None:
        """The runs of these origins that were with the writer are dropped."""
        for name in names:
            self._unstaged(self.vector.unstage_one(name), now)

    def await_place(self, base: str, name: str) -> None:
        """The place of a branch is not known yet: ask for it again when more is held of its
        origin."""
        if len(self._unplaced) < MAX_UNPLACED:
            self._unplaced.setdefault(base, {})[name] = None

    def count_new(self, link: ReplicaLink, now: float) -> None:
        """A peer has brought a branch."""
        self._newcomers.take(link.host, now)

    def placed(self, run: Run, move: Move | None, now: float) -> None:
        """The writer has put a run where it belongs, after a move."""
        stored = [run]
        tree = self.trees.of(run.origin)
        if move:
            origin = tree.origin
            if node_of(move.source) == node_of(self.origin):
                self._moved.setdefault(move.source, move.after)
                self._moved[move.source] = min(self._moved[move.source], move.after)
            n, running, signature = origin.head
            stored.insert(0, Run(move.to, n - move.after, running, (), (), signature))
            for link in self.links:
                link.disputes.cut(run.origin)
                self.receiver.dispute(tree, link, NOTHING_HELD, now)
                link.progress.grows(origin, move.after)
            tree.asked = None
            self.vector.lose(origin, Head(move.after, run.previous, NO_SIGNATURE))
        for part in stored:
            self.vector.stage(self.trees.of(part.origin).origin, part)
        for part in stored:  # what followed has come too early
            self.await_place(Branch.of(part.origin).base, part.origin)
        self.stored(stored, now)

    def failed(self, now: float) -> None:
        """The writer could not store, and has dropped all that it was handed: nothing is taken in
        until `resume`."""
        catch_up = self.catch_up
        catch_up.paused = True
        for tree in self.trees:
            tree.answered = False  # what is dropped here leaves gaps
        for origin in self.vector.unstage():
            self._unstaged(origin, now)

    def _unstaged(self, origin: Origin, now: float) -> None:
        """What was staged of an origin is dropped: it is missing again."""
        name, catch_up = origin.name, self.catch_up
        if is_cutoff(name):
            return  # peers send it again
        catch_up.early.pop(name, None)
        if name == self.origin:  # nobody else holds what was dropped, whatever a peer claims
            self._own.waits = min(self._own.waits, origin.n)
            for link in self.links:
                if link.progress.held(name) > origin.n:
                    link.progress.unclaim(name, origin.n)
        else:
            catch_up.claim_again(name, now)
        if name in catch_up.gaps:
            catch_up.gaps[name].seen = min(catch_up.gaps[name].seen, origin.n)
        catch_up.forget(name)

    # -- questions ------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many messages are durable here."""
        return self.vector.fingerprints.messages

    def copies(self, origin: str, seq: int) -> set[str]:
        """Return the ids of the linked nodes that have announced a message as durable there."""
        return {link.peer for link in self.links if link.progress.held(origin) >= seq}

    def hosts(self, origin: str, seq: int) -> int:
        """Return on how many other remote hosts a message that was committed here is durable, as
        linked nodes announce: all ids of one host may be one program. A hub counts for none: what
        it keeps may be in its memory only."""
        if seq > self._moved.get(origin, MAX_NUMBER):
            return 0  # what peers hold under this id is another message
        links = (link for link in self.links if link.host)
        return len({link.host for link in links if link.progress.held(origin) >= seq})

    def early_at(self, link: ReplicaLink) -> dict[str, int]:
        """Return the origins that wait for the clock of which the peer of `link` holds more."""
        early = self.catch_up.early
        return {name: time for name, time in early.items() if link.progress.held(name)}

    def latest(self, now: float) -> int:
        """Return how many messages are so new that they may be on their way to a peer, or its
        answer on its way back."""
        if self._grew <= now - LATE:
            return 0
        return self.count - max(
            (n for moment, n in self._growth if moment <= now - LATE), default=0
        )

    def warnings(self, now: float) -> list[str]:
        """Return what the operator should know: that messages of new origins are left out."""
        warning = self._newcomers.warning(self.vector.size, now)
        return [warning] if warning else []

    def lag(self, link: ReplicaLink) -> int:
        """Return how many of our messages the peer of `link` lacks, by what it has announced."""
        return link.progress.lag
