"""One link, as the replica sees it: what its peer claims, and what its sender has to send next.

| part | file | decides |
|---|---|---|
| `progress` | progress.py | how far the peer is, in each origin |
| `announcing` | announcing.py | what this node announces to the peer (HAVE) |
| `shipping` | shipping.py | which messages the peer is sent (MESSAGES) |
| `comparing` | comparing.py | what the two nodes hold otherwise than each other |
| `disputes` | disputes.py | where their histories of an origin differ |

A peer's claims are believed only as far as it ships. Those beyond that are not forgotten, but they
do not count where this node says how far it is behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any, NamedTuple

from ..settings import (
    BELIEVED,
    MAX_AHEAD,
    MAX_ORIGINS_NAMED,
    NEVER,
    SHIPPED_PERIOD,
    TIMES_SHIPPED,
)
from ..wire.frames import Message, Sockets
from ..wire.logframes import Graft, Have, Head, LogFrame, Prune, Vector
from .announcing import Announcing, pop
from .comparing import Comparing
from .disputes import Disputes
from .progress import Progress
from .shipping import Ship, Shipping
from .vector import VersionVector


class Work(NamedTuple):
    """What a link's sender has to do, in this order: send `frames` as they are; read `ships` and
    send them as one MESSAGES frame with `have` and `ack`, as far as its bytes allow. With neither,
    there is nothing to do before `until`, or until the link is woken."""

    frames: Sequence[Sockets | Message | LogFrame]
    ships: Sequence[Ship]
    have: Vector
    ack: bool
    until: float


NOTHING = Work((), (), {}, False, NEVER)
"""Nothing to send until the link is woken."""


class Own:
    """The origin of this node's own commits: its `name`, and the number of the last message that a
    commit `waits` for copies of."""

    def __init__(self, name: str) -> None:
        self.renew(name)

    def renew(self, name: str) -> None:
        """Take another origin."""
        self.name = name
        self.waits = 0


class ReplicaLink:
    """One live link to another node of ours.

    The sender's thread of the link calls `take` and `shipped`, with the state's lock held; the
    shell keeps `rtt` up. The rest is the replica's.
    """

    def __init__(
        self,
        peer: str,
        rtt: float,
        vector: VersionVector,
        own: Own,
        links: Sized,
        woken: dict[ReplicaLink, None],
        rng: random.Random,
        owner: Any = None,
        host: str = "",
    ) -> None:
        """`peer` is the other end's node id, `host` its remote host and `rtt` the round trip in
        seconds. `vector`, `own`,
        `links` (all of the node) and `woken` are shared with the replica. `owner` is whose link it
        is, the record of the peer; it is not touched here."""
        self.peer = peer
        self.rtt = rtt
        self.owner = owner
        self.host = host
        self._vector = vector
        self._own = own
        self._woken = woken
        self.met = -NEVER  # since when it is introduced
        self.ahead: dict[str, None] = {}  # origins of which it claims more than we durably hold
        self.missing = 0  # messages of these that we do not durably hold
        self.progress = Progress(vector, self.wake)
        self.announcing = Announcing(self.progress, links)
        self.shipping = Shipping(self.progress, self.announcing)
        self.comparing = Comparing(self.progress, self.ahead, self.wake, rng.random)
        self.grafts: dict[str, None] = {}  # origins to GRAFT
        self.prunes: dict[str, None] = {}  # origins to PRUNE
        self.pruned: set[str] = set()  # those pruned, and not grafted since
        # Origins of which the two nodes hold different histories. Nothing of them is taken from the
        # peer, nor believed, until it is known which history goes on (see disputes.py).
        self.refused = self.progress.refused
        self.disputes = Disputes()
        self.withheld: dict[str, int] = {}  # origins that are not kept from where the peer asks
        # What the peer does not keep of origins that it claims; the heads of those that are gone.
        self.floors: dict[str, int] = {}
        self.gone: dict[str, Head] = {}
        self.feeds: dict[str, None] = {}  # origins whose feeder it is
        self.eager: dict[str, None] = {}  # origins that it gets at once
        self.since = 0  # it keeps nothing from before this time, as it says; ms since the epoch
        # When it was first asked for what it claims, and has shipped nothing since.
        self.asked_at = NEVER
        self.delivered = 0  # messages that it has shipped and that were new
        self.doubted = False  # it was asked for what it claims, and did not ship in time
        # How many new messages it has shipped in this period and in the last one.
        self._shipped = [0, 0]
        self._period = -NEVER  # when this period began
        self.wake()

    def wake(self) -> None:
        """There may be work for the sender."""
        self._woken[self] = None

    # -- what the peer claims -------------------------------------------------------------------

    @property
    def introduced(self) -> bool:
        """Whether it is known what the peer holds, or what to ask it for."""
        return self.met > -NEVER

    @property
    def full(self) -> bool:
        """Whether no more of the peer's claims can be kept."""
        return len(self.ahead) >= MAX_AHEAD

    @property
    def claims_more(self) -> bool:
        """Whether the peer claims more than we durably hold."""
        return bool(self.missing or self.comparing.ignored)

    def shipped_new(self, count: int, now: float) -> None:
        """The peer has shipped messages that are new here."""
        self.delivered += count
        self.doubted = False
        self._begin_period(now)
        self._shipped[0] += count

    def believed(self, now: float) -> int:
        """Return how many messages we lack by what the peer claims, as far as it is believed."""
        self._begin_period(now)
        claimed = self.missing
        if not self.comparing.silent(now):
            claimed += self.comparing.ignored
        return min(claimed, max(BELIEVED, TIMES_SHIPPED * sum(self._shipped)))

    def _begin_period(self, now: float) -> None:
        """Begin another period, if this one is over."""
        if now >= self._period + SHIPPED_PERIOD:
            again = now < self._period + 2 * SHIPPED_PERIOD
            self._shipped = [0, self._shipped[0] if again else 0]
            self._period = now

    def prune(self, name: str) -> bool:
        """Have the peer ship no more of an origin; return whether it was not asked to before."""
        if name in self.pruned:
            return False
        self.pruned.add(name)
        self.prunes[name] = None
        self.wake()
        return True

    def graft(self, name: str) -> None:
        """Have the peer ship an origin from where we are."""
        self.pruned.discard(name)
        self.prunes.pop(name, None)
        self.grafts[name] = None
        self.wake()

    def refuse(self, name: str, theirs: Head) -> None:
        """Take no more of an origin from the peer, and find out where the histories differ."""
        self.refused[name] = theirs
        self.progress.unclaim(name, 0)
        self.disputes.ask(name)
        self.grafts.pop(name, None)
        self.wake()

    def lose(self, name: str) -> None:
        """Less of an origin is whole than was announced: neither ship nor announce what was due."""
        self.shipping.lose(name)
        self.announcing.lose(name)

    def end(self, names: Sequence[str]) -> None:
        """These origins are ended, or forgotten: neither ship, ask for nor announce them."""
        for name in names:
            self.lose(name)
            for table in (self.grafts, self.prunes, self.withheld, self.floors, self.gone):
                table.pop(name, None)
        self.progress.end(names)

    # -- the sender -----------------------------------------------------------------------------

    def take(self, now: float) -> Work:
        """Return what to send now; call it again until there is nothing, then wait."""
        frames: list[LogFrame] = []
        ships: Sequence[Ship] = ()
        have: Vector = {}
        ack = False
        until = self.comparing.due_at
        ready = self.progress.ready
        asks = ready or self.grafts or self.prunes or self.withheld or self.disputes
        if asks or now >= min(until, self.announcing.due_at()):
            if self.disputes:
                frames += self.disputes.take(self._vector)
                ships = self.disputes.ships(self._vector)
            frames += self._control(now)
            until = self.comparing.due_at
            if not ships and ready and self.introduced:
                ships, again = self.shipping.take(now)
                until = min(until, again)
            have = self.announcing.news(now, bool(ships or frames))
            ack = self._own.waits > 0 and self._waits(ships, have)
            if have and not ships:
                if frames and not isinstance(frames[0], Have):  # an answer stays as it is
                    frames[0] = replace(frames[0], have=have, ack=ack)
                else:
                    frames.append(Have(have, ack=ack))
        return Work(frames, ships, have, ack, self.announcing.rest(until, now))

    def shipped(self, ships: Sequence[Ship], now: float) -> None:
        """These pieces of the log are being sent; `shipping.correct` says where less fitted."""
        self.shipping.shipped(ships, self.rtt, now)

    def correct(self, planned: Sequence[Ship], ships: Sequence[Ship], now: float) -> None:
        """What was planned was not sent, but `ships`: the frame was full, or an entry of the log
        does not end there."""
        ends = [ship.upto for ship in ships] + [ship.after for ship in planned[len(ships) :]]
        for ship, end in zip(planned, ends, strict=True):
            if end != ship.upto:
                self.shipping.correct(ship.origin, ship.upto, end, now)

    def _control(self, now: float) -> list[LogFrame]:
        """PRUNE, GRAFT, and what the comparison of the vectors needs."""
        frames: list[LogFrame] = []
        if self.prunes:
            frames.append(Prune(pop(self.prunes, MAX_ORIGINS_NAMED)))
        if self.grafts:
            names = pop(self.grafts, MAX_ORIGINS_NAMED)
            origins = self._vector.origins
            after = {name: origins[name].next for name in names if name in origins}
            if after:
                frames.append(Graft(after))
        if self.withheld:
            floors, self.withheld = self.withheld, {}
            heads = {name: self._vector.origins[name].head for name in floors}
            frames.append(Have(heads, floors=floors))
        return frames + self.comparing.take(now)

    def _waits(self, ships: Sequence[Ship], have: Vector) -> bool:
        """Whether a commit of ours waits for the peer to hold something of this."""
        own, waits = self._own.name, self._own.waits
        if any(name == own and after < waits for name, after, _ in ships):
            return True
        return own in have and self.progress.held(own) < waits
