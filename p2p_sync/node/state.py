"""The shared state of a node: sockets, addresses and messages, behind one lock.

Every method may be called by any thread, unless it says otherwise. None sends, syncs or calls
back while it holds the lock: what is to be done is returned, and done by the caller after it.
The rules are the overlay's (links and addresses) and the replica's (what is held, what to send).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..codes import GOING_AWAY, MAX_NUMBER
from ..core.book import Known
from ..core.clock import (
    MAX_AHEAD_MS,
    MAX_EARLY_MS,
    HybridClock,
    Skew,
    early_notice,
    span,
    suspicion_text,
)
from ..core.conduct import KINDS, Conduct
from ..core.gossip import Commits
from ..core.overlay import Overlay
from ..core.peer import Peer, Tell
from ..core.peertable import Entry as PeerEntry
from ..core.peertable import Traffic, entries
from ..core.replica import Conflict, Replica
from ..core.replica_link import ReplicaLink, Ship
from ..core.replica_link import Work as LinkWork
from ..disk.log import Log
from ..errors import LinkClosed, LogError
from ..metrics import Counts
from ..net.link import Link, wake
from ..wire.frames import Message
from ..wire.logframes import Entry, Have, LogFrame, Messages, Run

# What may wait for the writer before those who bring more have to wait. Messages.
_MAX_PENDING = 20_000

# Changes of the address book wait this long to be kept, and those that matter little. Seconds.
_KEEP_SOON = 0.1
_KEEP_RARELY = 60.0

# How long `upkeep` leaves the lock to others where there is more to do at once. Seconds.
_BREATH = 0.002

# Lines a minute about one kind of misbehaviour of a host's peers that have no id.
_LINES_OF_A_HOST = 30
# Peers whose lag is told in the metrics, those that lack most.
_MAX_LAGS = 100

# How often to look whether the clock has been corrected, while an origin waits for it. Seconds.
_CLOCK_PAUSE = 1.0

# Conflicts that are kept to be shown.
_MAX_CONFLICTS = 1000


@dataclass
class _Socket:
    """A link, and what goes to its peer: the log of ours, or to an original our own commits."""

    link: Link
    replica: ReplicaLink | None = None
    # For an original: the number of the last arrival that it was sent or need not get, when its
    # link opened (ms since the epoch), and which commits of originals it has.
    arrival: int = 0
    since: int = 0
    commits: Commits = field(default_factory=Commits)


@dataclass(frozen=True)
class Ticket:
    """Messages that were committed here and are on their way to the disk."""

    origin: str
    first: int
    entry: Entry
    texts: Sequence[str]  # those in the entry
    failures: int
    begun: float  # monotonic
    # Called once they are on disk (True), or will not be.
    then: Callable[[bool], object] | None
    # Held until then: waiting for a lock is what costs least.
    settled: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def __post_init__(self) -> None:
        self.settled.acquire()

    def settle(self, stored: bool) -> None:
        """Tell those who wait; with no lock held."""
        self.settled.release()
        if self.then:
            self.then(stored)

    @property
    def last(self) -> int:
        return self.first + len(self.texts) - 1

    def message(self, index: int = 0) -> Message:
        """Return one of the messages with its identity."""
        time, text, heard = self.entry.time, self.texts[index], self.entry.heard
        return Message(self.origin, self.first + index, time, text, heard)


class Offence(NamedTuple):
    """A fault of a peer: its kind (see conduct.py), what to log of it, and how often it did it."""

    kind: str
    sentence: str
    times: int = 1


class Taken(NamedTuple):
    """What came of a frame about the log."""

    woken: list[Link]  # to be woken
    offences: list[Offence]
    conflicts: list[Conflict]  # found now
    new: bool  # it has brought messages that are new


class Due(NamedTuple):
    """What `upkeep` has to do."""

    tells: list[Tell]
    dials: list[tuple[str, int]]  # an address, and the number of the dial
    woken: list[Link]
    stalled: list[Link]
    keep: bool  # write the addresses down
    notes: list[str]  # about clocks, to be logged and shown


class State:
    """What one node holds."""

    def __init__(
        self,
        overlay: Overlay,
        replica: Replica,
        log: Log,
        clock: HybridClock,
        new_origin: Callable[[], str],
    ) -> None:
        """`new_origin` names the origin to commit under when the old one may not be used on."""
        self.log = log
        self._new_origin = new_origin
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._pending_changed = threading.Condition(self._lock)
        self._stored = threading.Condition(self._lock)
        self._told = threading.Condition(self._lock)
        self._relinked = threading.Condition(self._lock)
        self._overlay = overlay
        self._conduct = Conduct()
        self._replica = replica
        self._sockets: dict[int, _Socket] = {}
        self._pending: list[Run] = []
        self._tickets: deque[Ticket] = deque()  # not stored yet, in their order
        self._pending_messages = 0
        self._failures = 0
        self._failure: LogError | None = None
        self._conflicts: set[Conflict] = set()
        # From which originals the latest of their messages came, by the identities these got.
        self._sources: dict[tuple[str, int], Peer] = {}
        self._kept = -1  # the revision of the address book that is written down
        self._keep_at = float("-inf")
        self._waking = float("inf")  # when `upkeep` comes back by itself
        self._skew = Skew()
        self._suspected = 0  # by how much this machine's clock seemed to be off, ms
        self._notes: list[str] = []  # about clocks, for `upkeep`
        self._carried = (0, 0)  # bytes that links which have ended had sent and received
        self._stopped = False

    # -- the three -------------------------------------------------------------------------------

    @property
    def sockets(self) -> list[Link]:
        """The links that are open now."""
        with self._lock:
            return [socket.link for socket in self._sockets.values()]

    @property
    def addresses(self) -> list[Known]:
        """The addresses known, with what is known of each."""
        with self._lock:
            known = self._overlay.book.known.values()
            kept = [k for k in known if k.by_hand or not (k.oneself or k.passing)]
            return [replace(entry) for entry in kept]

    @property
    def messages(self) -> Iterator[Message]:
        """The messages shown, in the order that is the same on every node; read as you go."""
        return self.log.all()

    def count(self) -> int:
        """Return the number of connected sockets, a node of ours counted once."""
        with self._lock:
            return self._overlay.count()

    def peers(self, late: bool = False) -> list[dict[str, Any]]:
        """Return what is known of each peer and address, as the API tells it.

        `late`: the latest messages do not count for `behind`.
        """
        with self._lock:
            sockets = list(self._sockets.items())
        traffic = {}
        for number, s in sockets:
            with self._lock:  # anew for each: with many origins it takes a while
                lag: int | None = None
                early: dict[str, int] = {}
                if s.replica and s.replica.introduced:
                    now, early = time.monotonic(), self._replica.early_at(s.replica)
                    lag = (
                        self._replica.late(s.replica, now) if late else self._replica.lag(s.replica)
                    )
            traffic[number] = Traffic(
                s.link.rtt if s.link.measured else None,
                (s.link.sent, s.link.volume[0]),
                (s.link.received, s.link.volume[1]),
                lag,
                early_notice(early, _wall()),
            )
        with self._lock:
            table = self._table()
            now, wall = time.monotonic(), time.time()
            return [entry.fields(traffic, now, wall) for entry in table]

    def forget(self, key: str) -> list[Link] | None:
        """Forget the addresses of the entry of `peers` with that key; None: there is none.

        Returns its links, for the caller to close.
        """
        with self._lock:
            entry = next((entry for entry in self._table() if entry.has(key)), None)
            if entry is None:
                return None
            for known in entry.known:
                self._overlay.book.forget(known)
            self._relinked.notify_all()
            numbers = {peer.link for peer in entry.peers}
            return [s.link for n, s in self._sockets.items() if n in numbers]

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return what is held: origin -> (number of messages, running hash)."""
        with self._lock:
            return self._replica.vector()

    def behind(self) -> int:
        """Return how many messages live links have told of and this node does not hold yet."""
        with self._lock:
            return self._replica.behind(time.monotonic())

    def caught_up(self) -> bool:
        """Return whether this node holds all that peers hold, as far as they ship it."""
        with self._lock:
            return self._replica.caught_up(time.monotonic())

    def held(self, origin: str) -> int:
        """Return how many messages of an origin are on disk here."""
        with self._lock:
            return self._replica.held(origin)

    def seeks(self) -> bool:
        """Return whether addresses are known, and no node of ours has told yet what it holds."""
        with self._lock:
            told = any(s.replica and s.replica.introduced for s in self._sockets.values())
            return not told and any(not k.oneself for k in self._overlay.book.known.values())

    def traffic(self) -> Counts:
        """Return what the links are and have carried, named as for `Counters`."""
        with self._lock:
            links = Counter[tuple[str, ...]](
                (
                    "out" if peer.known else "in",
                    "closing" if peer.leaving else "open" if peer.introduced else "opening",
                )
                for peer in self._overlay.peers.values()
            )
            sent, received = _sum([self._carried, *(s.link.volume for s in self._sockets.values())])
            known = [s.replica for s in self._sockets.values() if s.replica]
            lags = {(link.peer[:8],): self._replica.lag(link) for link in known}
            return {
                "links": dict(links),
                "link_bytes_total": {("out",): sent, ("in",): received},
                "duplicates_received_total": {(): self._replica.duplicates},
                "behind_messages": {(): self._replica.behind(time.monotonic())},
                "conflicts": {(): len(self._conflicts)},
                "waiting_origins": {(): len(self._replica.early)},
                "clock_difference": {(): self._suspicion()[0] / 1000},
                "peer_lag_messages": dict(
                    sorted(lags.items(), key=lambda lag: -lag[1])[:_MAX_LAGS]
                ),
            }

    def copies(self, identities: Iterable[tuple[str, int]]) -> list[int]:
        """Return of each message how many linked nodes are known to hold it."""
        wanted = list(identities)
        with self._lock:
            return [len(self._replica.copies(origin, seq)) for origin, seq in wanted]

    def conflicts(self) -> int:
        """Return how often two contents were seen under one identity, and not taken."""
        with self._lock:
            return len(self._conflicts)

    def clock_warnings(self) -> list[str]:
        """Return what is wrong with clocks now, this machine's or others', a sentence each."""
        with self._lock:
            wall = _wall()
            off, nodes = self._suspicion()
            notice = early_notice(self._replica.early, wall)
        return [*([suspicion_text(off, nodes)] if off else []), *([notice] if notice else [])]

    # -- misbehaviour ---------------------------------------------------------------------------

    def misbehaviour(self) -> dict[str, int]:
        """Return how often peers have misbehaved, by kind (see conduct.py)."""
        with self._lock:
            return dict(self._conduct.counts)

    def misbehaved(self, kind: str, times: int = 1) -> None:
        """Count a fault of a peer, by kind (see conduct.py)."""
        with self._lock:
            self._conduct.counts[kind] += times

    def line(self, link: Link, kind: str, sentence: str) -> str:
        """Return the line to log about the peer on `link`; nothing if there were too many."""
        with self._lock:
            peer = self._overlay.peers.get(link.number)
            node = peer.node if peer else None
            most = 1 if node else _LINES_OF_A_HOST
            left_out = self._conduct.line(kind, node or link.remote[0], time.monotonic(), most)
        if left_out is None:
            return ""
        more = f" ({left_out} lines like this were left out)" if left_out else ""
        return f"from {link}: {sentence}{more}"

    def may_log(self, kind: str, host: str, most: int) -> bool:
        """Return whether to log something that peers of a host can bring about at any rate."""
        with self._lock:
            return self._conduct.line(kind, host, time.monotonic(), most) is not None

    # -- links ----------------------------------------------------------------------------------

    @contextmanager
    def overlay(self) -> Iterator[Overlay]:
        """Hold the lock and lend the overlay's rules; `upkeep` looks again after it."""
        with self._lock:
            yield self._overlay
            self._relinked.notify_all()

    def link_opened(self, link: Link) -> None:
        """Add `link`; raises LinkClosed when the node has stopped meanwhile."""
        with self._lock:
            if self._stopped:
                raise LinkClosed("this node stops")
            since = int(time.time() * 1000)
            self._sockets[link.number] = _Socket(link, None, self.log.last_arrival(), since)

    def link_known(self, link: Link) -> list[Link]:
        """Let the log flow once the peer on `link` has shown that it is one of ours."""
        with self._lock:
            socket = self._sockets.get(link.number)
            peer = self._overlay.peers.get(link.number)
            if socket and peer and peer.node and not socket.replica and not link.closing():
                socket.replica = self._replica.open(peer.node, link.rtt, time.monotonic())
            return self._woken()

    def link_closed(self, link: Link) -> list[Link]:
        """Remove `link`, if it is still there; return the links to wake."""
        with self._lock:
            socket = self._sockets.pop(link.number, None)
            if socket:
                self._carried = _sum([self._carried, link.volume])
            if socket and socket.replica:
                self._replica.close(socket.replica, time.monotonic())
            self._relinked.notify_all()
            self._told.notify_all()
            return self._woken()

    def receive(self, link: Link, frame: LogFrame) -> Taken:
        """Take a frame about the log, and return what came of it.

        Called by the link's reader. Where the writer is behind, it waits, and so does the peer.
        """
        newest = 0
        if isinstance(frame, Messages):
            newest = max((e.time for run in frame.runs for e in run.entries), default=0)
        with self._lock:
            self._pending_changed.wait_for(self._has_room)
            socket = self._sockets.get(link.number)
            if socket is None or socket.replica is None:
                return Taken([], [], [], False)
            socket.replica.rtt = link.rtt
            now, wall = time.monotonic(), _wall()
            latest = wall + MAX_EARLY_MS
            if newest <= latest:
                latest = MAX_NUMBER
            runs = self._replica.receive(socket.replica, frame, now, latest)
            offences, conflicts = self._take_offences(), self._take_conflicts()
            if isinstance(frame, Messages) and newest > wall + MAX_AHEAD_MS:
                offences += self._compare_dates(frame, wall, now)
            elif isinstance(frame, Have) and frame.clock is not None:
                self._skew.told(socket.replica.peer, frame.clock, now)
                self._suspect(wall, now)
            if runs:
                self._observe(newest, runs, wall)
                self._put(runs)
            if frame.have:
                self._told.notify_all()
            return Taken(self._woken(), offences, conflicts, bool(runs))

    def take(self, link: Link) -> LinkWork | None:
        """Return what the sender of `link` has to send to a node of ours; None to an original."""
        with self._lock:
            socket = self._sockets.get(link.number)
            if socket is None or socket.replica is None:
                return None
            return socket.replica.take(time.monotonic())

    def shipped(self, link: Link, ships: Sequence[Ship]) -> None:
        """Note what the sender of `link` sends of the log."""
        with self._lock:
            socket = self._sockets.get(link.number)
            if socket and socket.replica:
                socket.replica.shipped(ships, time.monotonic())

    def arrival(self, link: Link) -> int | None:
        """Return the arrival after which the original on `link` is to be sent messages; None if it
        is none, or not yet known for one."""
        with self._lock:
            socket = self._sockets.get(link.number)
            peer = self._overlay.peers.get(link.number)
            known = socket and peer and peer.original and not peer.leaving
            return socket.arrival if socket and known else None

    def for_original(
        self, link: Link, arrivals: Iterable[tuple[int, Message]], upto: int
    ) -> list[Message]:
        """Return those of the arrivals that the original on `link` gets. All arrivals up to `upto`
        count as sent. Called by the link's sender."""
        found = []
        with self._lock:
            socket = self._sockets.get(link.number)
            if socket is None:
                return []
            for _, message in arrivals:
                own = message.origin == self._replica.origin
                is_history = not own and message.time < socket.since - MAX_AHEAD_MS
                commit = socket.commits.of(message) if message.heard else None
                if is_history or (commit and commit.sent):
                    continue
                source = self._sources.get((message.origin, message.seq))
                if self._overlay.gets(link.number, message, source):
                    found.append(message)
                    if commit:
                        commit.sent = True
            socket.arrival = upto
        return found

    # -- commits --------------------------------------------------------------------------------

    def commit(
        self, texts: Sequence[str], ack: bool = False, after: Ticket | None = None
    ) -> Ticket:
        """Give messages of this node's own their identities and hand them to the writer.

        `texts` go into one entry of the log, whose limits they keep. `ack`: somebody waits for
        copies of them. `after`: they must not be stored without those. Raises LogError while the
        log cannot be written, and where it has failed since `after`.
        """
        draft = Entry.of(0, texts)
        with self._lock:
            self._pending_changed.wait_for(self._has_room)
            if after and self._failures > after.failures:
                raise self._failure or LogError("the log could not be written; try again")
            return self._commit(draft, texts, ack)

    def hear(self, text: str, link: Link) -> Ticket:
        """Commit what the original node on `link` has committed; raises LogError as `commit`."""
        draft = Entry.of(0, [text], heard=True)
        with self._lock:
            self._pending_changed.wait_for(self._has_room)
            ticket = self._commit(draft, [text])
            socket = self._sockets.get(link.number)
            peer = self._overlay.peers.get(link.number)
            if socket and peer:
                socket.commits.of(ticket.message()).sent = True
                self._sources[ticket.origin, ticket.first] = peer
                if len(self._sources) > _MAX_PENDING:
                    del self._sources[next(iter(self._sources))]
            return ticket

    def begin(self, text: str, then: Callable[[bool], object]) -> Ticket | None:
        """Do as `commit`, and have `then` called when the ticket is settled; None: no room now."""
        draft = Entry.of(0, [text])
        with self._lock:
            return self._commit(draft, [text], then=then) if self._has_room() else None

    def wait_stored(self, ticket: Ticket) -> None:
        """Wait until the messages of `ticket` are on disk; raises LogError if they cannot be."""
        with ticket.settled:
            pass
        with self._lock:
            if self._replica.held(ticket.origin) < ticket.last:
                if self._failures > ticket.failures:
                    raise self._failure or LogError("the log could not be written; try again")
                raise LogError("this node is stopping")

    def wait_copies(
        self, origin: str, seq: int, copies: int, timeout: float, asked: bool = False
    ) -> int:
        """Wait until `copies` other nodes hold a message, `timeout` seconds at most.

        `asked`: it was committed with `ack`, which has asked the others. Returns how many do.
        """

        def reached() -> int:
            return len(self._replica.copies(origin, seq))

        if not asked:
            with self._lock:
                if origin == self._replica.origin and reached() < copies:
                    self._replica.expect_copies(seq)
                woken = self._woken()
            wake(woken)
        with self._lock:
            self._told.wait_for(lambda: self._stopped or reached() >= copies, timeout)
            return reached()

    # -- the writer's thread --------------------------------------------------------------------

    def pending(self, timeout: float) -> list[Run] | None:
        """Wait for runs to store, `timeout` seconds at most, and take them all; None after `stop`
        once there are no more."""
        with self._lock:
            self._pending_changed.wait_for(lambda: self._pending or self._stopped, timeout)
            runs, self._pending = self._pending, []
            if not runs:
                return None if self._stopped else []
            self._pending_messages = 0
            self._pending_changed.notify_all()
            return runs

    def stored(self, runs: Sequence[Run]) -> tuple[list[Link], list[Ticket]]:
        """Note that `runs` are on disk; return the links to wake, and the tickets to settle."""
        with self._lock:
            self._replica.stored(runs, time.monotonic())
            tickets, settled = self._tickets, []
            while tickets and self._replica.held(tickets[0].origin) >= tickets[0].last:
                settled.append(tickets.popleft())
            self._stored.notify_all()
            woken = []
            woken = [s.link for s in self._sockets.values() if s.replica is None]
            return woken + self._woken(), settled

    def lose(self, name: str, n: int, running: str) -> int | None:
        """Hold no more than the first `n` messages of an origin: what follows is damaged on disk.

        Returns how many were held, None if that has to wait for messages that are being stored.
        Our own commits go on under a new origin, for these numbers were used. All links are closed;
        they open again, and then tell what is held.
        """
        with self._lock:
            if name == self._replica.origin:
                self._replica.renew(self._new_origin())
            held = self._replica.held(name)
            if not self._replica.lose(name, n, running):
                return None
            links = [s.link for s in self._sockets.values() if s.replica] if held > n else []
        for link in links:
            link.close(GOING_AWAY, "a part of this node's log is damaged; link again")
        return held

    def failed(self, error: LogError) -> list[Ticket]:
        """Note that the log could not be written; all that waited for it is dropped.

        Returns the tickets to settle. Commits go on under a new origin, lest an identity that is
        half on disk is used again.
        """
        with self._lock:
            self._replica.failed(time.monotonic())
            self._replica.renew(self._new_origin())
            self._pending.clear()
            self._pending_messages = 0
            self._failures += 1
            self._failure = error
            self._pending_changed.notify_all()
            return self._take_tickets()

    def recovered(self) -> list[Link]:
        """Note that the log can be written again; return the links to wake."""
        with self._lock:
            self._failure = None
            self._replica.resume(time.monotonic())
            return self._woken()

    def problem(self) -> str:
        """Return why the log cannot be written now; nothing while it can."""
        with self._lock:
            return str(self._failure or "")

    # -- waiting --------------------------------------------------------------------------------

    def wait_arrival(self, after: int, timeout: float | None = None) -> bool:
        """Wait for an arrival with a number above `after`; False with none, and after `stop`."""
        with self._lock:
            came = self._stored.wait_for(
                lambda: self._stopped or self.log.last_arrival() > after, timeout
            )
            return came and not self._stopped

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        with self._lock:
            return self._stopped

    def due(self) -> Due | None:
        """Wait until there is something for `upkeep` to do; None after `stop`.

        Called by the thread `upkeep`.
        """
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                self._replica.tick(now)
                stalled = self._replica.stalled(now)
                links = [s.link for s in self._sockets.values() if s.replica in stalled]
                addresses, again = self._overlay.due(now)
                dials = [(address, self._overlay.dial(address, now)) for address in addresses]
                changed = self._overlay.book.revision != self._kept
                keep_at = self._keep_at + (0.0 if changed else _KEEP_RARELY)
                tells, later = self._overlay.news(now)
                self._replica.clock_at(_wall() + MAX_EARLY_MS, now)
                notes, self._notes = self._notes, []
                due = Due(tells, dials, self._woken(), links, now >= keep_at, notes)
                if due.keep:
                    self._kept = self._overlay.book.revision
                    self._keep_at = now + _KEEP_SOON
                if any(due):
                    return due
                self._waking = min(again, later, keep_at, self._replica.next_deadline())
                if self._replica.early:  # nobody says when the clock is corrected
                    self._waking = min(self._waking, now + _CLOCK_PAUSE)
                left = max(_BREATH, self._waking - now)
                self._relinked.wait(None if left == float("inf") else left)
            return None

    def wait_unlinked(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the last link to end; return whether it has."""
        with self._lock:
            return self._relinked.wait_for(lambda: not self._sockets, timeout)

    def stop(self) -> None:
        """Wake all who wait, apart from those for the disk, and let no further link or commit in.

        The writer stores what waits for it; then `give_up` ends the rest.
        """
        with self._lock:
            self._stopped = True
            for condition in (self._pending_changed, self._stored, self._told, self._relinked):
                condition.notify_all()

    def give_up(self) -> None:
        """Settle what will not be stored, because the writer has ended."""
        with self._lock:
            tickets = self._take_tickets()
        for ticket in tickets:
            ticket.settle(False)

    # -- with the lock held ---------------------------------------------------------------------

    def _commit(
        self,
        draft: Entry,
        texts: Sequence[str],
        ack: bool = False,
        then: Callable[[bool], object] | None = None,
    ) -> Ticket:
        """Commit an entry that lacks its time."""
        if self._stopped or self._failure:
            raise self._failure or LogError("this node is stopping")
        now, wall = time.monotonic(), _wall()
        if ahead := self._clock.corrected(wall):
            self._replica.renew(self._new_origin())
            self._note(
                f"this machine's clock was set back by {span(ahead)}: new messages have the "
                "current time, under a new origin"
            )
        entry = draft._replace(time=self._clock.tick(wall))
        run = self._replica.commit([entry], now, ack)
        self._put([run])
        ticket = Ticket(run.origin, run.after + 1, entry, texts, self._failures, now, then)
        self._tickets.append(ticket)
        return ticket

    def _take_tickets(self) -> list[Ticket]:
        """Return all that are not settled, for what will not be stored."""
        tickets = list(self._tickets)
        self._tickets.clear()
        return tickets

    def _table(self) -> list[PeerEntry]:
        overlay = self._overlay
        known, peers = overlay.book.known.values(), overlay.peers.values()
        now = time.monotonic()
        return entries(known, peers, overlay.dialling, lambda end: overlay.book.node_at(end, now))

    def _has_room(self) -> bool:
        return self._stopped or self._pending_messages < _MAX_PENDING

    def _put(self, runs: Sequence[Run]) -> None:
        self._pending += runs
        self._pending_messages += sum(run.count for run in runs)
        self._pending_changed.notify_all()

    def _take_offences(self) -> list[Offence]:
        """Return what the rules found wrong."""
        found = self._replica.offences
        offences = [Offence(kind, f"it {KINDS[kind]}", times) for kind, times in found.items()]
        found.clear()
        return offences

    def _take_conflicts(self) -> list[Conflict]:
        """Return the conflicts that the rules found, and keep them to be shown.

        The peer that holds the other contents need not be the one that made them, so it is no
        offence. A conflict over our own origin means that this machine was restored from a
        snapshot: its commits go under another origin from now on.
        """
        found, self._replica.conflicts = self._replica.conflicts, []
        own = self._replica.origin
        if any(conflict.origin == own for conflict in found):
            self._replica.renew(self._new_origin())
        for conflict in found:
            if len(self._conflicts) < _MAX_CONFLICTS:
                self._conflicts.add(conflict)
        return found

    def _observe(self, newest: int, runs: Sequence[Run], wall: int) -> None:
        """Follow the times of messages that others committed, as far as the clock's rule allows."""
        if not self._clock.observe(newest, wall):
            for run in runs:
                for entry in run.entries:
                    self._clock.observe(entry.time, wall)

    def _compare_dates(self, frame: Messages, wall: int, now: float) -> list[Offence]:
        """Take note of messages that are dated ahead of this machine's clock.

        Returns what to count and log of the peer, unless this machine's clock seems to be wrong.
        """
        ahead: dict[str, int] = {}
        for run in frame.runs:
            newest = max(entry.time for entry in run.entries)
            if newest > wall + MAX_AHEAD_MS:
                ahead[run.origin] = newest
                self._skew.dated(run.origin.partition("-")[0], newest, now)
        if self._suspect(wall, now):
            return []
        origin = next((o for o in ahead if o in self._replica.early), next(iter(ahead)))
        sentence = (
            f"a message of origin {origin} is dated {span(ahead[origin] - wall)} ahead of this "
            "machine's clock; "
        )
        sentence += (
            "that origin waits until the clock gets there"
            if origin in self._replica.early
            else "its time is kept and not followed"
        )
        return [Offence("future", sentence, len(ahead))]

    def _suspicion(self) -> tuple[int, int]:
        return self._skew.suspicion(_wall(), time.monotonic())

    def _suspect(self, wall: int, now: float) -> int:
        """Return by how much this machine's clock seems to be off; note it when that changes."""
        off, nodes = self._skew.suspicion(wall, now)
        if off and not self._suspected:
            if self._conduct.line("clock", "", now) is not None:
                self._note(suspicion_text(off, nodes))
        elif self._suspected and not off:
            self._note("this machine's clock does not differ from most other clocks any more")
        self._suspected = off
        return off

    def _note(self, text: str) -> None:
        """Have `upkeep` log and show a text."""
        self._notes.append(text)
        self._waking = float("-inf")
        self._relinked.notify_all()

    def _woken(self) -> list[Link]:
        """Return the links whose senders have work; see to it that `upkeep` is in time."""
        if self._replica.next_deadline() < self._waking:
            self._waking = float("-inf")
            self._relinked.notify_all()
        if not self._replica.woken:
            return []
        woken = [s.link for s in self._sockets.values() if s.replica in self._replica.woken]
        self._replica.woken.clear()
        return woken


def _wall() -> int:
    """Return what this machine's clock shows, ms since the epoch."""
    return int(time.time() * 1000)


def _sum(volumes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    sent, received = zip(*volumes, strict=True)
    return sum(sent), sum(received)
