"""One link, as the replica sees it: what its peer holds, and what to send to it next.

The log is the queue. A link keeps per origin where the peer is; what lies between that and the end
of our log is read from there when its sender has time.

Each side tells the other everything that it comes to hold, once: by shipping it, or by HAVE. So
`holds`, what the peer has told, is all that there is to know of the peer, and it is complete within
a second or two. News (HAVE) are worked out when they are due, from the order in which the version
vector changed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from ..settings import (
    AUDIT_INTERVAL,
    AUDIT_NAMED,
    BELIEVED,
    HAVE_INTERVAL,
    HAVE_RIDE,
    HAVE_SOON,
    HOLD_MARGIN,
    HOLD_TRIPS,
    MANY_LINKS,
    MAX_AHEAD,
    MAX_BATCH,
    MAX_ORIGINS_NAMED,
    MAX_RESENT,
    MAX_SHIPPED,
    MOST_INTERVALS,
    NEVER,
    PIECE_NAMED,
    PIECE_PATIENCE,
    PIECE_PAUSE,
    RESEND_AFTER,
    SHIPPED_PERIOD,
    TIMES_SHIPPED,
)
from ..wire.frames import Sockets
from ..wire.logframes import Graft, Have, LogFrame, PackedRun, Prune, Run, Vector
from .vector import Origin, VersionVector

Piece = TypeVar("Piece", Run, PackedRun)


class Ship(NamedTuple):
    """Messages `after`+1 ... `upto` of `origin`, to be read from the log and sent."""

    origin: str
    after: int
    upto: int


class Work(NamedTuple):
    """What a link's sender has to do, in this order: send `frames` as they are; read `ships` and
    send them as one MESSAGES frame with `have` and `ack`, as far as its bytes allow, then call
    `shipped`. With neither, there is nothing to do before `until`, or until the link is woken."""

    frames: Sequence[Sockets | LogFrame]
    ships: Sequence[Ship]
    have: Vector
    ack: bool
    until: float


NOTHING = Work((), (), {}, False, NEVER)
"""Nothing to send until the link is woken."""


def _table() -> Any:
    return field(default_factory=dict)


class Commits:
    """Our own commits, as far as links need to know: `origin`, and up to where one `waits` for
    copies."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.waits = 0


@dataclass(slots=True, eq=False)
class ReplicaLink:
    """One live link to another node of ours.

    The sender's thread of the link calls `take` and `shipped`, with the state's lock held; the
    shell keeps `rtt` up. The rest is the replica's.
    """

    peer: str  # the other end's node id
    rtt: float  # the round trip, in seconds
    _vector: VersionVector
    _commits: Commits
    _links: Sized  # all of the node
    _woken: dict[ReplicaLink, None]
    _rng: random.Random
    owner: Any = None  # whose link it is: the record of the peer, which is not touched here

    introduced: bool = False  # the peer has told its whole vector
    holds: dict[str, int] = _table()  # origin -> what the peer durably holds, as it said
    ahead: dict[str, None] = _table()  # origins of which it claims more than we durably hold
    gap: int = 0  # messages of these that we do not durably hold
    ignored: int = 0  # about how many it claims on top, which were ignored; 0: none
    delivered: int = 0  # messages that it has shipped and that were new
    doubted: bool = False  # it was asked for what it claims, and did not ship in time
    grafts: dict[str, None] = _table()  # origins to GRAFT
    prunes: dict[str, None] = _table()  # origins to PRUNE
    pruned: set[str] = field(default_factory=set)  # those pruned, and not grafted since
    refusals: dict[str, None] = _table()  # origins to refuse
    refused: set[str] = field(default_factory=set)  # those with a conflict
    feeds: dict[str, None] = _table()  # origins whose feeder it is
    eager: dict[str, None] = _table()  # origins that it gets at once
    asked_at: float = NEVER  # when it was first asked for what it said to have, and shipped nothing
    attentive: bool = True  # `grown` is to be called when the log has grown

    _cursor: dict[str, int] = _table()  # origin -> where shipping is, when beyond `holds`
    _ready: dict[str, None] = _table()  # origins with something to ship, in turn
    _held: dict[str, float] = _table()  # flooded origin -> when to ship more (0: nothing shipped)
    _soon: dict[str, None] = _table()  # origins to tell of soon, even if the peer holds them
    _told: int = 0  # the peer has been told of the vector's changes up to this revision
    _knows: dict[str, int] = _table()  # ... and, of later ones, that we hold so much of an origin
    _opening: bool = True  # it has not been told all that was there before
    _acks: dict[str, int] = _table()  # origin -> position that a commit of the peer waits for
    # Origins that the peer holds as far as we do, and has not been told so.
    _owes: dict[str, None] = _table()
    _owed_since: float = NEVER
    _told_at: float = -NEVER  # when the peer got the last HAVE
    _audit: int = 0  # the index of the next name to tell, news or not
    _audit_at: float = 0.0
    _asked_piece: int | None = None  # the index from which the peer asks for the vector
    _piece_at: float = -NEVER  # when it may be answered
    # Where to ask the peer for its vector again, for a claim was ignored (None: nowhere).
    _missed: int | None = None
    _missed_again: bool = False  # a claim was ignored since: start again at the end
    _asks_piece: bool = False  # the question has been sent ...
    _asks_piece_at: float = 0.0  # ... at this time
    _resent: dict[str, tuple[int, float]] = _table()  # origin -> sent again up to there, and when
    _shipped: list[int] = field(default_factory=lambda: [0, 0])  # it has, in this and the last
    _period: float = -NEVER  # ... of these periods; when this one began

    def __post_init__(self) -> None:
        self._told = self._vector.revision
        self.wake()

    def wake(self) -> None:
        """There may be work for the sender."""
        self._woken[self] = None

    # -- What the peer has and gets --------------------------------------------------------------

    def position(self, name: str) -> int:
        """Up to where the peer holds an origin, or will when all that was sent is stored."""
        cursor = self._cursor.get(name)
        return self.holds.get(name, 0) if cursor is None else cursor

    def note(self, name: str, n: int) -> None:
        """The peer durably holds `n` of an origin."""
        if n > self.holds.get(name, 0):
            origin = self._vector.origins.get(name)
            if origin is not None:  # one object for all links
                name, n = origin.name, origin.n if origin.n == n else n
            self.holds[name] = n
            if self._cursor.get(name, NEVER) <= n:
                del self._cursor[name]

    def unclaim(self, name: str, n: int) -> None:
        """Forget that the peer holds more than `n` of an origin."""
        if n:
            self.holds[name] = n
        else:
            self.holds.pop(name, None)

    def shipped_new(self, count: int, now: float) -> None:
        """The peer has shipped messages that are new here."""
        self.delivered += count
        self.doubted = False
        self._turn(now)
        self._shipped[0] += count

    def believed(self, now: float) -> int:
        """Return how many messages we lack by what the peer claims, as far as it is believed."""
        self._turn(now)
        return min(self.gap + self.ignored, max(BELIEVED, TIMES_SHIPPED * sum(self._shipped)))

    def _turn(self, now: float) -> None:
        """Begin another period, if this one is over."""
        if now >= self._period + SHIPPED_PERIOD:
            again = now < self._period + 2 * SHIPPED_PERIOD
            self._shipped = [0, self._shipped[0] if again else 0]
            self._period = now

    def resend(self, name: str, after: int, now: float) -> bool:
        """The peer asks to be sent again what lies behind `after`; return whether it may."""
        until, at = self._resent.get(name, (0, -NEVER))
        if now < at + RESEND_AFTER and after < until:
            return False
        if name not in self._resent and len(self._resent) >= MAX_RESENT:
            recent = {n: r for n, r in self._resent.items() if now < r[1] + RESEND_AFTER}
            self._resent = recent
            if len(recent) >= MAX_RESENT:
                return False
        self._resent[name] = (self.position(name), now)
        return True

    def rewind(self, name: str, after: int) -> None:
        """The peer has asked to be shipped an origin from `after` on."""
        self._cursor[name] = after
        if self.holds.get(name, 0) > after:
            self.unclaim(name, after)
        self._held.pop(name, None)

    def hold(self, name: str) -> None:
        """A new origin floods: ship its first message, what follows a round trip later, so that a
        PRUNE comes first."""
        self._held[name] = 0.0

    def offer(self, name: str) -> None:
        """Ship what the peer lacks of an origin."""
        self._ready[name] = None
        self.wake()

    def withhold(self, name: str, now: float) -> None:
        """Ship no more of an origin."""
        self._held.pop(name, None)
        if name in self._ready:
            del self._ready[name]  # it was left out of HAVE, for it was to be shipped
            if self.position(name) < self._vector.origins[name].n:
                self.tell_soon(name)
            else:
                self._owe(name, now)

    def lose(self, name: str) -> None:
        """Less of an origin is whole than was told: neither ship nor tell what was due."""
        for table in (self._held, self._ready, self._soon, self._owes, self._knows):
            table.pop(name, None)

    # -- What the peer is told of ----------------------------------------------------------------

    def grown(self, names: Iterable[str], now: float) -> None:
        """The log has grown: see whether the sender has to come back earlier to tell of it."""
        origins = self._vector.origins
        for name, n in list(self._acks.items()):
            if name in origins and origins[name].n >= n:
                del self._acks[name]
                self.tell_soon(name)
        if self._owed_since == NEVER:
            self._owed_since = now  # something may be owed: `take` finds out
            self.wake()
        elif any(self.position(name) < origins[name].n for name in names):
            self.wake()

    def tell_soon(self, name: str) -> None:
        """Tell of an origin soon, even if the peer is known to hold as much."""
        self._soon[name] = None
        self.wake()

    def tell_when(self, name: str, n: int) -> None:
        """A commit of the peer waits: tell soon once we durably hold `n` of an origin."""
        origin = self._vector.origins.get(name)
        if origin is not None and origin.n >= n:
            self.tell_soon(name)
        elif len(self._acks) < AUDIT_NAMED:
            self._acks[name] = n
            self.attentive = True

    def _owe(self, name: str, now: float) -> None:
        """The peer holds as much of an origin: tell it in a while that we do, too."""
        self._owes[name] = None
        if self._owed_since == NEVER:
            self._owed_since = now
            if self.attentive:
                self.wake()

    # -- The peer's vector, told again -----------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether no more of the peer's claims can be kept."""
        return len(self.ahead) >= MAX_AHEAD

    def missed(self, count: int) -> None:
        """Claims of the peer to so many messages that we lack were ignored."""
        self.ignored += count
        if self._missed is None:
            self._missed = 0
        else:
            self._missed_again = True

    def asks(self) -> bool:
        """Whether to ask for a piece of the peer's vector now."""
        waits = self._missed is None or self._asks_piece or not self.introduced
        return not waits and len(self.ahead) <= MAX_AHEAD - PIECE_NAMED

    def got_piece(self, have: Vector, after: int, ignored: int) -> None:
        """The piece that we asked for has come. The next one begins at index `after` (0: there is
        none). `ignored` counts the messages of claims in it that were ignored once more; then this
        piece is to be asked for again."""
        if not self._asks_piece or self._missed is None:
            return
        self._asks_piece = False
        self.ignored = max(1, self.ignored + ignored - sum(n for n, _ in have.values()))
        if not ignored:
            goes_on = after == self._missed + PIECE_NAMED
            self._missed = after if goes_on else (0 if self._missed_again else None)
            self._missed_again = self._missed_again and goes_on
            if self._missed is None:
                self.ignored = 0
        if self.asks():
            self.wake()

    def silent(self, now: float) -> bool:
        """Whether the peer does not answer what we ask about its vector."""
        return self._asks_piece and now > self._asks_piece_at + PIECE_PATIENCE

    def ask_piece(self, index: int, now: float) -> None:
        """The peer asks for a piece of our vector."""
        self._asked_piece = index
        self._piece_at = max(self._piece_at, now)
        self.wake()

    # -- The sender ------------------------------------------------------------------------------

    def take(self, now: float) -> Work:
        """Return what to send now; call it again until there is nothing, then wait."""
        frames: list[LogFrame] = []
        ships: Sequence[Ship] = ()
        have: Vector = {}
        ack = False
        until = NEVER
        due = now >= self._have_at() or self._piece_due(now)
        if self._ready or self.grafts or self.prunes or self.refusals or self.asks() or due:
            opening = self._opening
            frames = self._control(now)
            if self._ready and self.introduced:
                ships, until = self._ships(now)
            if not opening and self._tells(now, bool(ships or frames)):
                have = self._news(now, bool(ships or frames))
            ack = self._commits.waits > 0 and self._waits(ships, have)
            if have and not ships:
                if frames:
                    frames[0] = replace(frames[0], have=have, ack=ack)
                else:
                    frames.append(Have(have, ack=ack))
        again = self._told_at + self._interval()  # there is more by then, likely: no need to wake
        until = min(until, self._have_at(), again if now < again else NEVER)
        if self._asked_piece is not None:
            until = min(until, self._piece_at)
        self.attentive = bool(self._acks) or until > again
        return Work(frames, ships, have, ack, until)

    def _control(self, now: float) -> list[LogFrame]:
        """PRUNE, GRAFT, and the next piece of the vector while the link opens."""
        frames: list[LogFrame] = []
        if self.prunes or self.refusals:
            frames.append(
                Prune(_pop(self.prunes, MAX_ORIGINS_NAMED), _pop(self.refusals, MAX_ORIGINS_NAMED))
            )
        if self.grafts or self.asks():
            names = _pop(self.grafts, MAX_ORIGINS_NAMED)
            origins = self._vector.origins
            after = {name: origins[name].staged for name in names if name in origins}
            more = self._missed if self.asks() else None
            if more is not None:
                self._asks_piece, self._asks_piece_at = True, now
            if after or more is not None:
                frames.append(Graft(after, more=more))
        if self._opening:
            piece = self._piece(MAX_ORIGINS_NAMED, now)
            frames.append(Have(piece, last=not self._opening))
        elif self._asked_piece is not None and self._piece_due(now):
            frames.append(self._asked_for(self._asked_piece))
            self._asked_piece, self._piece_at = None, now + PIECE_PAUSE
        return frames

    def _asked_for(self, first: int) -> Have:
        """The piece of the vector that the peer asks for."""
        names = self._vector.names[first : first + PIECE_NAMED]
        end = first + len(names)
        have = {name: self._vector.origins[name].entry for name in names}
        return Have(have, next=end if end < len(self._vector.names) else 0)

    def _piece_due(self, now: float) -> bool:
        return self._asked_piece is not None and now >= self._piece_at

    def shipped(self, ships: Iterable[Ship], now: float) -> None:
        """These pieces have been sent, `upto` being where the frame was full."""
        for name, after, upto in ships:
            if self.position(name) != after:
                continue  # the peer has asked for another position meanwhile
            self._cursor[name] = upto
            n = self._vector.origins[name].n
            self._know(name, upto)
            if name in self._ready:
                del self._ready[name]
                if upto < n:
                    self._ready[name] = None  # the others first
            if name in self._held:
                self._held[name] = now + HOLD_TRIPS * self.rtt + HOLD_MARGIN

    def correct(self, name: str, assumed: int, end: int, now: float) -> None:
        """What was shipped of an origin ends at `end`, and not where `shipped` has `assumed`."""
        self._knows.pop(name, None)
        if self.position(name) == assumed and self.holds.get(name, 0) <= end:
            self._cursor[name] = end
            self._know(name, end)
        if self.position(name) < self._vector.origins[name].n:
            self._ready[name] = None
        elif end < assumed:
            self._owe(name, now)  # the peer has it from elsewhere, and was not told that we do
        else:
            self._ready.pop(name, None)

    def _ships(self, now: float) -> tuple[list[Ship], float]:
        """The pieces of the log to ship, a fair share of each origin; and when to come back."""
        ships: list[Ship] = []
        until = NEVER
        share = max(1, MAX_BATCH // len(self._ready))
        for name in list(self._ready):
            n, after = self._vector.origins[name].n, self.position(name)
            if after >= n:
                del self._ready[name]
                if self._knows.get(name, 0) < n:
                    self._owe(name, now)  # it has it from elsewhere
                continue
            upto = min(n, after + share)
            held = self._held.get(name)
            if held == 0.0:
                upto = after + 1
            elif held:
                if now < held:
                    until = min(until, held)
                    continue
                del self._held[name]
            ships.append(Ship(name, after, upto))
            if len(ships) == MAX_BATCH:
                break
        return ships, until

    def _have_at(self) -> float:
        """When the next HAVE is due."""
        if self._opening:
            return -NEVER
        if self._soon:
            return self._told_at + HAVE_SOON
        due = min(self._audit_at, self._owed_since + self._interval())
        if self._told < self._vector.revision:
            due = min(due, self._told_at + self._interval())
        return due

    def _interval(self) -> float:
        """Seconds between HAVEs where nobody waits for them."""
        return HAVE_INTERVAL * min(max(1.0, len(self._links) / MANY_LINKS), MOST_INTERVALS)

    def _tells(self, now: float, riding: bool) -> bool:
        """Whether to tell now, where something else is sent anyway (`riding`) or not."""
        if now >= self._have_at():
            return True
        news = self._soon or self._owes or self._told < self._vector.revision
        return riding and bool(news) and now >= self._told_at + HAVE_RIDE

    def _news(self, now: float, riding: bool) -> dict[str, tuple[int, str]]:
        """What to tell: the changes that the peer may not know of, and what is asked for."""
        have = {name: self._vector.origins[name].entry for name in _pop(self._soon, AUDIT_NAMED)}
        if now >= self._audit_at:
            have.update(self._piece(AUDIT_NAMED, now))
        news, rest = self._changes(MAX_ORIGINS_NAMED - 3 * AUDIT_NAMED)
        have.update((origin.name, origin.entry) for origin in news)
        wait = 0.0 if have else HAVE_RIDE if riding else self._interval()
        if now >= self._owed_since + wait:
            owed = _pop(self._owes, AUDIT_NAMED)
            have.update((name, self._vector.origins[name].entry) for name in owed)
        for name, (n, _) in have.items():
            self._know(name, n)
        if have and not rest:
            self._told_at = now
        if not rest:
            self._knows.clear()
        if not self._owes:
            self._owed_since = NEVER
        return have

    def _changes(self, limit: int) -> tuple[list[Origin], bool]:
        """Return the origins that have changed, and that the peer lacks and is not about to get:
        the oldest changes first, up to a limit; and whether there are more."""
        news: list[Origin] = []
        for origin in reversed(self._vector.changed_since(self._told)):
            name, n = origin.name, origin.n
            lack = n - self.position(name)
            if self._knows.get(name, 0) >= n or (name in self._ready and lack <= MAX_BATCH):
                pass
            elif lack <= 0:
                self._owe(name, self._told_at)  # or later, when this was not attentive
            elif len(news) < limit:
                news.append(origin)
            else:
                return news, True
            self._told = origin.revision
        self._told = self._vector.revision
        return news, False

    def _know(self, name: str, n: int) -> None:
        """The peer has been told, or shipped, that we hold `n` of an origin."""
        origin = self._vector.origins[name]
        if origin.revision > self._told:
            self._knows[name] = n
        if n >= origin.n:
            self._owes.pop(name, None)

    def _piece(self, limit: int, now: float) -> dict[str, tuple[int, str]]:
        """The next piece of the vector, told whether it is news or not."""
        piece = self._vector.names[self._audit : self._audit + limit]
        self._audit += limit
        self._audit_at = now + AUDIT_INTERVAL * self._rng.uniform(0.75, 1.0)
        if self._audit >= len(self._vector.names):
            self._audit = 0
            self._opening = False
        return {name: self._vector.origins[name].entry for name in piece}

    def _waits(self, ships: Sequence[Ship], have: Vector) -> bool:
        """Whether a commit of ours waits for the peer to hold something of this."""
        own, waits = self._commits.origin, self._commits.waits
        if any(name == own and after < waits for name, after, _ in ships):
            return True
        return own in have and self.holds.get(own, 0) < waits


def _pop(table: dict[str, None], limit: int) -> tuple[str, ...]:
    """Take out the first `limit` entries and return their names."""
    names = tuple(itertools.islice(table, limit))
    for name in names:
        del table[name]
    return names


def fill(
    ships: Sequence[Ship], read: Callable[[str, int, int, int], tuple[Piece, int]], room: int
) -> tuple[list[Piece], list[Ship], int]:
    """Read the log until a frame is full.

    `read` returns messages of an origin, `after`+1 up to `upto`, at least one entry of them, and
    what is left of `room` then. Returns the runs, what of `ships` they are, and the room that is
    left.
    """
    runs: list[Piece] = []
    done: list[Ship] = []
    count = 0
    for origin, after, upto in ships:
        run, left = read(origin, after, upto, room)
        if runs and (left < 0 or count + run.count > MAX_SHIPPED):
            break  # it begins the next frame
        runs.append(run)
        done.append(Ship(origin, after, run.end))
        room, count = left, count + run.count
        if room <= 0 or count >= MAX_BATCH:
            break
    return runs, done, room
