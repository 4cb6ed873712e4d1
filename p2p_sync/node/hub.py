"""A hub as a peer: the other end of a link is a log in Redis (see net/redis.py).

A hub runs no program of ours, so each node that uses it thinks for it. A `HubLink` has a replica of
its own (core/replica.py), whose version vector is that of the hub, and whose disk is the hub. It
exchanges the same frames with this node as any peer, by calls instead of a socket. So every rule of
the core holds for a hub, and a hub needs none of its own: what is missing on one side is asked for,
shipped once, checked, and put where it belongs. A full or slow hub delays its own link only.

What other nodes bring to the hub comes as news, a head for each run. A run is fetched only if this
node does not get it from elsewhere: on such a link the origin is lazy.

Where histories of an origin fork, nodes put them in order. If that moves what the hub holds to a
branch, a node brings the branch, and what it holds itself takes the place of the other in the hub.

| thread | does |
|---|---|
| `dial ADDRESS` | takes frames from the core, hands frames to it, reads and writes the hub |
| `news ADDRESS` | waits for news of the hub |
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ..core.deduplication import node_of
from ..core.replica import Replica
from ..core.shipping import Ship, fill
from ..errors import InputError, LinkClosed, LogDeleted, MessageError, ProtocolError
from ..net.redis import SET_BACK, HubLog
from ..settings import BATCH_BYTES, FIRST_RTT, HUB_CLAIM, HUB_NEWS, LONGEST_SLEEP, MAX_ORIGINS
from ..version import __version__
from ..wire.cutoffs import is_cutoff
from ..wire.entries import NOTICE, Entry, Erasure, chain
from ..wire.forks import Branch
from ..wire.frames import Sockets, check_text, check_topic, decode, encode
from ..wire.identity import Identity
from ..wire.logframes import (
    LOG_FRAMES,
    NOTHING_HELD,
    Fork,
    Have,
    Head,
    PackedRun,
    Run,
    messages_to_json,
)
from ..wire.signing import checked, sign
from .keys import check_key
from .session import Session
from .state import State

logger = logging.getLogger("p2p_sync")

NAME = "hub"
"""What a hub calls itself."""
_NOBODY = "0" * 32 + "-1"  # the replica's own origin, under which nothing is committed


class HubLink:
    """A link whose other end is a hub. It has the interface of net.link.Link."""

    fault = ""
    volume = (0, 0)
    rtt = FIRST_RTT
    code: int | None = None
    local = remote = "hub", 1  # a hub has no endpoint of a peer

    def __init__(
        self, log: HubLog, session: Session, address: str, me: Identity, state: State, limit: int
    ) -> None:
        """`address` is the hub's, without what is secret. `me` is this node, which commits what
        programs add to the hub, texts of up to `limit` bytes."""
        self.dialled: str | None = address
        self.node = hashlib.sha256(f"hub {log.id}".encode()).hexdigest()[:32]
        self._log = log
        self._session = session
        self._me = me
        self._state = state
        self._mine = state.log
        self._limit = limit
        self._origin, self._time = "", 0  # of the last commit for a program
        self._changed = threading.Condition()  # guards the next ones
        self._awake = self._added = True  # the core, or a program, may have something
        self._news: list[tuple[str, Head]] = []
        self._reason = ""  # why it ends

    def __str__(self) -> str:
        return str(self.dialled)

    # -- any thread -----------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the core asked for more."""
        with self._changed:
            self._awake = True
            self._changed.notify_all()

    def ping(self) -> None:
        """Do nothing: the round trip is measured when the link opens."""

    def close(self, code: int, reason: str) -> None:
        """Send what the core still has, then end."""
        with self._changed:
            self.code = self.code or code
            self._reason = self._reason or reason
            self._changed.notify_all()

    def cut(self, reason: str, fault: str = "") -> None:
        """End at once."""
        with self._changed:
            self._reason = self._reason or reason
        self._log.close()

    # -- its two threads ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the link until it has ended, and free the connection."""
        self._guarded(self._serve)
        self._log.close()
        self._session.closed(self, self._reason)

    def _guarded(self, serve: Callable[[], None]) -> None:
        """Run what a thread does, and end the link with it."""
        reason = "this node failed; see its log"
        try:
            serve()
        except LinkClosed as error:
            reason = str(error)
        except ProtocolError as error:  # as of a peer; nothing of it is a fault of this node
            self.code, self.fault = error.code, "frame"
            reason = f"it broke the protocol: {error.reason}"
        except Exception:
            if not self._reason:  # else the connection was closed under the hands of redis-py
                logger.exception("the link with the hub %s failed", self)
        with self._changed:
            self._reason = self._reason or reason
            self._changed.notify_all()

    def _serve(self) -> None:
        heads, self._place = self._log.have()
        self._replica = replica = Replica(_NOBODY, heads, random.Random(), MAX_ORIGINS)
        self._link = replica.open(self._me.node, FIRST_RTT, time.monotonic())
        self._receive(encode(Sockets(version=__version__, enough=True, name=NAME)))
        began = time.monotonic()
        self._log.hash_at(_NOBODY, 1)
        self.rtt = time.monotonic() - began
        self._session.measured(self)
        threading.Thread(
            target=self._guarded, args=(self._wait,), name=f"news {self}", daemon=True
        ).start()
        again = look = 0.0
        over = False
        while not over:
            with self._changed:
                pause = min(again, look, replica.catch_up.deadline) - time.monotonic()
                if pause > 0 and not (self._awake or self._added or self._news or self._reason):
                    self._changed.wait(min(pause, LONGEST_SLEEP))
                news, self._news, self._awake = self._news, [], False
                added, self._added = self._added, False
                over = bool(self._reason)
                self._changed.notify_all()
            self._grow(news)
            texts, again = self._session.next_messages(self)
            for text in texts:
                self._take(text)
            again = min(0.0 if texts else again, self._say())
            if (added or time.monotonic() >= look) and not over:
                look = time.monotonic() + (0.0 if self._commit() else HUB_CLAIM)

    def _wait(self) -> None:
        """Wait for what others bring to the hub, in a thread of its own."""
        place, added = self._place, b"0"
        while not self._reason:
            before = added
            news, place, added = self._log.news(place, added)
            with self._changed:
                self._changed.wait_for(lambda: len(self._news) < HUB_NEWS or self._reason)
                self._news += news
                self._added = self._added or added != before
                self._changed.notify_all()

    # -- from this node to the hub --------------------------------------------------------------

    def _take(self, text: str) -> None:
        """Take in a frame of this node, as the hub's end of the link."""
        known = decode(text)
        if not isinstance(known, LOG_FRAMES):
            return
        if isinstance(known, Fork):  # the only one to look at: this node has proven what it holds
            known = checked(known, {}, self._log.hash_at) or known
        now = time.monotonic()
        runs, _, _, disputed = self._replica.receiver.receive(self._link, known, now)
        for run in disputed:
            if Branch.of(run.origin).first:  # as for the others, this node puts them in order
                self._log.ship([run])
                self._grow([(run.origin, run.head)])
                self._order(run)
        self._store(runs)

    def _store(self, runs: Sequence[Run]) -> None:
        """Ship runs that are staged; where other nodes were faster, take in what they shipped."""
        if not runs:
            return
        for run in runs:
            self._erase(run, run.hashes)
        answers = [*zip(runs, self._log.ship(runs), strict=True)]
        now = time.monotonic()
        self._replica.stored([run for run, held in answers if held is None], now)
        faster = {run.origin: held for run, held in answers if held}
        if any(held.n < self._replica.vector.held(name) for name, held in faster.items()):
            raise LinkClosed(SET_BACK)
        self._replica.drop(faster, now)
        self._grow(faster.items())
        for run in runs:
            self._order(run)

    def _order(self, run: Run) -> None:
        """If a run ends a branch that is what the hub holds of another one, this node has moved
        that: put in its place what this node has there."""
        branch, vector = Branch.of(run.origin), self._replica.vector
        for name in (branch.base, *vector.branches) if branch.first else ():
            held = vector.head(name)
            if name != run.origin and held.hash == run.hash != self._mine.head(name).hash:
                after = self._mine.floors().get(name, 0)
                ours, _ = self._mine.read(name, after, after + 1, BATCH_BYTES)
                hashes = chain(ours.previous, ours.entries)
                first = Run(name, after, ours.previous, ours.entries, hashes, ours.signature)
                self._log.ship([first], held)
                raise LinkClosed("a history forks, and the hub holds it in order now")

    def _erase(self, run: Run | PackedRun, hashes: Sequence[str]) -> None:
        """Erase in the hub what the notice at the end of a run has erased, if there is one."""
        last = run.entries[-1] if run.entries else None
        if last is None or last.kind != NOTICE:
            return
        base, _, number = last.text.rpartition(":")
        before = hashes[-2] if len(run.entries) > 1 else run.previous
        for name in (base, *self._replica.vector.branches):
            seq = int(number) - Branch.of(name).after
            if Branch.of(name).base == base and 0 < seq <= self._replica.vector.held(name):
                notice = run.origin, run.end - 1, before, last.time, run.signature
                self._log.erase(name, Erasure(seq, *notice))

    # -- what programs commit --------------------------------------------------------------------

    def _commit(self) -> bool:
        """Commit what programs have added to the hub; return whether there was anything.

        It gets an origin of this node that nobody has seen before the hub has it, and the hub
        forgets what was added as it takes in the message. So it is committed once, even if this
        node dies or is taken for dead, and another one does the same."""
        runs, places = [], []
        added = self._log.added(self._me.node)
        head = self._replica.vector.head(self._origin)
        for place, fields in added:
            try:
                entry = self._entry(place, fields)
            except InputError as error:
                logger.warning(
                    "entry %s of %s is no message: %s", place.decode(), self._log.inbox, error
                )
                entry = None
            if entry is None:
                self._log.refuse(place)
                continue
            if not self._origin or entry.time < self._time:
                with self._state.turn() as core:
                    self._origin = core.commits.another_origin()
                head = NOTHING_HELD
            self._time, hashes = entry.time, chain(head.hash, [entry])
            signature = sign(self._me, self._origin, head.n + 1, hashes[0])
            runs.append(Run(self._origin, head.n, head.hash, (entry,), hashes, signature))
            places.append(place)
            head = runs[-1].head
        answers = zip(runs, self._log.ship(runs, None, places), strict=True)
        self._grow([(run.origin, run.head) for run, held in answers if held is None])
        return bool(added)

    def _entry(self, place: bytes, fields: Mapping[bytes, bytes]) -> Entry | None:
        """Return what a program has added as an entry; None if its key has named another one.
        Raises InputError."""
        values = (fields.get(name, b"") for name in (b"data", b"topic", b"key"))
        text, topic, key = (value.decode("utf-8", "replace") for value in values)
        problem = check_text(text, self._limit) if b"data" in fields else "it has no field `data`"
        if problem:
            raise MessageError(problem)
        check_topic(topic)
        if key:
            check_key(key)
            if not self._log.is_first(key, place):
                return None
        with self._state.turn() as core:
            return Entry.of(core.commits.next_time(), [text], topic=topic)

    # -- from the hub to this node --------------------------------------------------------------

    def _grow(self, news: Iterable[tuple[str, Head]]) -> None:
        """Others have brought something to the hub."""
        now, vector = time.monotonic(), self._replica.vector
        for name, head in news:
            held = vector.head(name)
            if head.n == held.n and head.hash != held.hash:
                raise LinkClosed(SET_BACK)
            if head.n > held.n:
                origin = vector.get(name)
                if origin.staged > origin.n:
                    self._replica.drop([name], now)
                run = Run(name, head.n, head.hash, (), (), head.signature)
                vector.stage(origin, run)
                self._replica.stored([run], now)
                if is_cutoff(name):
                    continue  # nothing of it is shipped
                if self._link.progress.held(name) > head.n:
                    self._link.graft(name)  # this one has more, of which a part may be dropped
                elif node_of(name) != self._me.node:
                    self._link.prune(name)  # another node ships it, so this one need not,
                    self._replica.trees.of(name).fed = False  # unless that one stops doing so

    def _say(self) -> float:
        """Hand this node what the hub's end of the link has to say; return when there may be more,
        on the monotonic clock."""
        replica, link = self._replica, self._link
        if time.monotonic() >= replica.catch_up.deadline:
            replica.catch_up.tick(time.monotonic())
            skips, replica.catch_up.skips = replica.catch_up.skips, []
            self._store(skips)
        while True:
            now = time.monotonic()
            work = link.take(now)
            replica.woken.clear()
            link.shipped(work.ships, now)
            for frame in work.frames:
                if isinstance(frame, Fork) and frame.agree is None and frame.above:
                    running = self._log.hash_at(frame.origin, frame.above)
                    frame = replace(frame, marks=[(frame.above, running)] if running else ())
                self._receive(encode(frame))
            if work.ships:
                self._ship(work.ships, work.have, now)
            elif not work.frames:
                return work.until

    def _ship(self, planned: Sequence[Ship], have: Mapping[str, Head], now: float) -> None:
        """Read runs from the hub, and hand them to this node."""
        try:
            runs, ships, _ = fill(planned, self._log.read, BATCH_BYTES)
            self._receive(messages_to_json(runs, have, False))
            for run in runs:
                if run.notice:  # a node may have shipped the text before it knew the notice
                    self._erase(run, chain(run.previous, run.entries))
            self._link.correct(planned, ships, now)
        except LogDeleted as error:
            self._link.correct(planned, (), now)
            self._replica.withhold(self._link, error.origin, error.floor, now)
            if have:
                self._receive(encode(Have(have)))

    def _receive(self, text: str) -> None:
        self._session.received(self, text)
