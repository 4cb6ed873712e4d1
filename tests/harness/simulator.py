"""A seeded discrete-event simulator that runs the very Replica class on many nodes.

A heap holds what happens when. A node has a disk (a transaction takes a while, and serves all that
came meanwhile), a wall clock that may be wrong, and a sender per link, which may be slow. A wire
between two nodes has latency and jitter, can freeze, and when it is cut loses what is on its way.
All chance comes from one seed, so that a run can be repeated, with a trace.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from p2p_sync.core.clock import MAX_AHEAD_MS, HybridClock
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import NEVER, ReplicaLink, Ship
from p2p_sync.wire.logframes import (
    NO_HASH,
    Entry,
    LogFrame,
    Messages,
    Run,
    chain,
    from_dict,
    to_json,
)

EPOCH_MS = 1_700_000_000_000
"""The wall clock when a simulation begins."""

Disk: TypeAlias = tuple[dict[str, list[Entry]], dict[str, list[str]]]
"""What a node's disk holds: origin -> of each message its entry, and origin -> of each the running
hash after it, nothing inside of an entry."""


class Simulation:
    """The events of one run, its nodes, and what is counted."""

    def __init__(self, seed: int, *, trace: bool = False, careful: bool = False) -> None:
        """`trace` prints all that happens; `careful` checks more, and sends all frames through
        their dictionary form."""
        self.rng = random.Random(seed)
        self.now = 0.0  # seconds
        self.nodes: list[Node] = []
        self.tracing = trace
        self.careful = careful
        self.forked: set[str] = set()  # origins that live twice: only there contents may differ
        self.committed: dict[tuple[str, int], Entry] = {}  # all that was ever durable
        self.frames: Counter[type] = Counter()  # sent, by type
        self.offences: Counter[str] = Counter()  # of nodes, as others see them; each cuts a link
        self.received = 0  # messages that came from peers, new or not
        self.received_first = 0  # those of them that were an origin's first
        self.delivered = 0  # those that were new, and stored
        self.started: dict[tuple[str, int], float] = {}  # commits that are watched: when
        self.spread: dict[tuple[str, int], float] = {}  # ... when the last node got them
        self.holders: Counter[tuple[str, int]] = Counter()  # ... and how many hold them
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def at(self, time: float, action: Callable[..., object], *args: Any) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (time, next(self._count), action, args))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let all happen up to a time, or until `done()`, which is asked each simulated second.

        Returns whether it was done.
        """
        events, pop = self._events, heapq.heappop
        check = self.now if done else NEVER
        while events and events[0][0] <= until:
            if events[0][0] >= check:
                if done is not None and done():
                    return True
                check = events[0][0] + 1.0
            self.now, _, action, args = pop(events)
            action(*args)
        self.now = until
        return done is not None and done()

    def trace(self, *words: object) -> None:
        """Print what happens, where that is wanted."""
        if self.tracing:
            print(f"{self.now:9.3f}", *words)

    def add(self, count: int, **options: Any) -> list[Node]:
        """Start nodes, with the options of Node, and return them."""
        added = [Node(self, len(self.nodes) + i, **options) for i in range(count)]
        self.nodes += added
        for node in added:
            node.start()
        return added

    def equal(self) -> bool:
        """Whether all running nodes hold the same, with nothing on its way to a disk."""
        running = [node for node in self.nodes if node.up]
        vectors = [node.replica.vector() for node in running]
        return not any(node.writing for node in running) and all(v == vectors[0] for v in vectors)


class Node:
    """One node: the replica with a simulated shell around it."""

    def __init__(
        self,
        sim: Simulation,
        number: int,
        *,
        disk: float = 0.0,
        skew_ms: int = 0,
        slow: float = 0.0,
        batch: int = 1_000,
        linger: float = 0.0,
    ) -> None:
        """`disk`: seconds that a transaction takes; `slow`: seconds at most that a MESSAGES frame
        takes to read and send; `batch`: messages that fill one; `skew_ms`: what the wall clock is
        ahead; `linger`: as in Replica."""
        self.sim = sim
        self.number = number
        self.id = f"{number:016x}"
        self.disk, self.skew_ms, self.slow, self.batch = disk, skew_ms, slow, batch
        self.linger = linger
        self.starts = 0
        self.up = False
        self.full = False  # the disk takes nothing
        self.log: dict[str, list[Entry]] = {}  # of each message its entry
        self.hashes: dict[str, list[str]] = {}
        self.acknowledged: dict[tuple[str, int], Entry] = {}  # own commits that were answered
        self.conflicts: set[tuple[str, str]] = set()  # (peer, origin)
        self.replica = Replica("", {}, sim.rng)

    def __repr__(self) -> str:
        return f"n{self.number}"

    # -- Life ------------------------------------------------------------------------------------

    def start(self, origin: str | None = None) -> None:
        """Start on the disk as it is, under a new origin; with an old one, a machine's snapshot
        comes back to life."""
        self.starts += 1
        self.up = True
        self.ends: dict[ReplicaLink, End] = {}
        self.queue: list[Run] = []  # for the writer
        self.writing: list[Run] = []  # in the transaction that is under way
        self.timer = NEVER
        vector = {name: (len(log), self.hashes[name][-1]) for name, log in self.log.items()}
        origin = origin or f"{self.id}-{self.starts}"
        self.replica = Replica(origin, vector, self.sim.rng, self.linger)
        self.clock = HybridClock()
        for log in self.log.values():
            self.clock.observe(log[-1].time, self.wall())
        self.sim.trace(
            self, "starts as", short(origin), {short(k): n for k, (n, _) in vector.items()}
        )

    def crash(self, notice: float = 0.2) -> None:
        """Die at once. What is not durable is lost; peers notice within `notice` seconds."""
        self.sim.trace(self, "crashes")
        self.up = False
        if self.writing and self.sim.rng.random() < 0.5:
            self._append(self.writing)  # it got through, only nobody was told
        self.writing = []
        self.replica = Replica("", {}, self.sim.rng)
        for end in self.ends.values():
            end.wire.cut(notice)
        self.ends = {}

    def disk_copy(self) -> Disk:
        """Return a copy of the disk."""
        return (
            {name: log[:] for name, log in self.log.items()},
            {name: hashes[:] for name, hashes in self.hashes.items()},
        )

    def replace_disk(self, disk: Disk) -> None:
        """Put in another disk while the node is down."""
        assert not self.up
        self.log, self.hashes = disk
        self.acknowledged = {
            (name, seq): message
            for (name, seq), message in self.acknowledged.items()
            if len(self.log.get(name, ())) >= seq
        }

    def repair(self) -> None:
        """Give a full disk room again."""
        self.full = False
        if self.up and self.replica.paused:
            self.replica.resume(self.sim.now)
            self.pump()

    def wall(self) -> int:
        """The wall clock, in milliseconds."""
        return EPOCH_MS + int(self.sim.now * 1000) + self.skew_ms

    # -- Events ----------------------------------------------------------------------------------

    def commit(self, *texts: str, ack: bool = False, watch: bool = False) -> None:
        """Commit messages as one entry; refused while the disk is full. `watch`: measure how they
        spread."""
        if not self.up or self.full or self.replica.paused:
            return
        entry = Entry.of(self.clock.tick(self.wall()), texts)
        run = self.replica.commit([entry], self.sim.now, ack)
        self.sim.trace(self, "commits", short(run.origin), run.after + 1, "to", run.end)
        if self.sim.careful:
            self._check_order(entry)
        if watch:
            for seq in range(run.after + 1, run.end + 1):
                self.sim.started[run.origin, seq] = self.sim.now
        self.write([run])
        self.pump()

    def _tick(self) -> None:
        self.timer = NEVER
        if self.up:
            self.replica.tick(self.sim.now)
            self.pump()

    # -- The shell -------------------------------------------------------------------------------

    def pump(self) -> None:
        """Let the woken senders work, and set the timer."""
        replica = self.replica
        woken = replica.woken
        while woken:
            link = next(iter(woken))
            del woken[link]
            self.ends[link].send()
        if replica.conflicts:
            self._note_conflicts()
        deadline = replica.next_deadline()
        if deadline < self.timer:
            self.timer = deadline
            self.sim.at(deadline, self._tick)

    def _note_conflicts(self) -> None:
        for conflict in self.replica.conflicts:
            self.sim.trace(self, *conflict)
            self.conflicts.add((conflict.peer, conflict.origin))
            if conflict.origin == self.replica.origin:
                self.starts += 1
                self.replica.renew(f"{self.id}-{self.starts}")
        self.replica.conflicts.clear()

    def write(self, runs: list[Run]) -> None:
        """Hand runs to the writer."""
        if self.disk == 0.0 and not self.full:
            self._stored(runs)
            return
        self.queue += runs
        if not self.writing:
            self._begin()

    def _begin(self) -> None:
        """Begin a transaction with all that waits."""
        self.writing, self.queue = self.queue, []
        self.sim.at(self.sim.now + self.disk, self._end, self.replica)

    def _end(self, replica: Replica) -> None:
        if replica is not self.replica:
            return  # crashed meanwhile
        runs, self.writing = self.writing, []
        if self.full:
            self.sim.trace(self, "cannot store")
            self.queue = []
            replica.failed(self.sim.now)
        else:
            self._stored(runs)
        if self.queue:
            self._begin()
        self.pump()

    def _stored(self, runs: list[Run]) -> None:
        sim, own = self.sim, self.replica.origin
        self._append(runs)
        self.replica.stored(runs, sim.now)
        for run in runs:
            if run.origin == own:
                for seq in range(run.after + 1, run.end + 1):
                    self.acknowledged[own, seq] = self.log[own][seq - 1]
            else:
                sim.delivered += run.count
                self.clock.observe(run.entries[-1].time, self.wall())
            for seq in range(run.after + 1, run.end + 1) if sim.started else ():
                key = (run.origin, seq)
                if key in sim.started:
                    sim.holders[key] += 1
                    sim.spread[key] = sim.now

    def _append(self, runs: list[Run]) -> None:
        committed = self.sim.committed
        for run in runs:
            name = run.origin
            if name not in self.log:
                self.log[name], self.hashes[name] = [], []
            log = self.log[name]
            assert len(log) == run.after, f"{self}: {run.after} of {name} after {len(log)}"
            for entry, running in zip(run.entries, run.hashes, strict=True):
                for _ in range(entry.length):
                    log.append(entry)
                    known = committed.setdefault((name, len(log)), entry)
                    assert known is entry or known == entry or name in self.sim.forked
                self.hashes[name] += [""] * (entry.length - 1) + [running]

    def read(self, ships: Sequence[Ship]) -> tuple[tuple[Run, ...], list[Ship]]:
        """Read the log until a frame is full; return the runs, and what they cover."""
        runs, done, room = [], [], self.batch
        for name, after, upto in ships:
            if room <= 0:
                break
            log = self.log[name]
            entries, end = [], after
            while end < min(upto, after + room):  # whole entries
                entries.append(log[end])
                end += log[end].length
            room -= end - after
            previous = self.hashes[name][after - 1] if after else NO_HASH
            assert previous or not after, "from inside an entry"
            runs.append(Run(name, after, previous, tuple(entries), chain(previous, entries)))
            done.append(Ship(name, after, end))
        return tuple(runs), done

    def _check_order(self, message: Entry) -> None:
        """A commit sorts after all that this node holds, but for times far ahead."""
        limit = self.wall() + MAX_AHEAD_MS
        for name, log in self.log.items():
            if name == self.replica.origin:
                assert log[-1].time <= message.time
            elif log[-1].time <= limit:
                assert log[-1].time < message.time, f"{self} commits before {name}"


class Wire:
    """A connection between two running nodes: in order both ways until it is cut."""

    def __init__(self, one: Node, other: Node, latency: float = 0.001, jitter: float = 0.0) -> None:
        """`latency` and, at most, `jitter` on top of it: seconds one way."""
        self.sim = one.sim
        self.latency, self.jitter = latency, jitter
        self.lost = False
        self.frozen = 0.0  # nothing arrives before this time
        self.ends = (End(self, one, other), End(self, other, one))
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        one.pump()
        other.pump()

    def cut(self, notice: float = 0.0) -> None:
        """Lose the link and all that is on its way; each end notices within `notice` seconds."""
        if not self.lost:
            self.lost = True
            self.sim.trace("cut", *(end.node for end in self.ends))
            for end in self.ends:
                self.sim.at(self.sim.now + self.sim.rng.uniform(0.0, notice), end.close)

    def again(self) -> None:
        """Open another connection between the two, where both run and nobody has."""
        one, other = (end.node for end in self.ends)
        if one.up and other.up and all(end.other.node is not other for end in one.ends.values()):
            Wire(one, other, self.latency, self.jitter)


class End:
    """One end of a wire: a link of a replica, with its sender."""

    __slots__ = ("arrival", "busy", "link", "node", "other", "sim", "timer", "wire")
    other: End

    def __init__(self, wire: Wire, node: Node, peer: Node) -> None:
        self.wire, self.node, self.sim = wire, node, wire.sim
        self.link = node.replica.open(peer.id, 2 * wire.latency + wire.jitter, wire.sim.now)
        node.ends[self.link] = self
        self.busy = False  # in the middle of sending
        self.timer = NEVER
        self.arrival = 0.0  # of the last frame: later ones come later

    def close(self) -> None:
        """The node notices that the link is lost."""
        node = self.node
        if self.link in node.ends:
            self.sim.trace(node, "loses", self.other.node)
            del node.ends[self.link]
            node.replica.close(self.link, self.sim.now)
            node.pump()

    def send(self) -> None:
        """Send what there is, then set the timer."""
        if self.busy:
            return
        link, now = self.link, self.sim.now
        while True:
            work = link.take(now)
            for frame in work.frames:
                self._put(frame)
            if work.ships:
                if self.node.slow:
                    self.busy = True
                    later = now + self.sim.rng.uniform(0.0, self.node.slow)
                    self.sim.at(later, self._ship, work.ships, work.have, work.ack)
                    return
                runs, done = self.node.read(work.ships)
                self._put(Messages(runs, work.have, work.ack))
                link.shipped(done, now)
            elif not work.frames:
                break
        if work.until < self.timer:
            self.timer = work.until
            self.sim.at(work.until, self._wake)

    def _ship(self, ships: Sequence[Ship], have: Any, ack: bool) -> None:
        """A slow sender has read the log and sent the frame."""
        self.busy = False
        if self.link in self.node.ends:
            runs, done = self.node.read(ships)
            self._put(Messages(runs, have, ack))
            self.link.shipped(done, self.sim.now)
            self.send()

    def _wake(self) -> None:
        self.timer = NEVER
        if self.link in self.node.ends:
            self.send()

    def _put(self, frame: LogFrame) -> None:
        sim, wire = self.sim, self.wire
        sim.frames[type(frame)] += 1
        if wire.lost:
            return
        arrival = sim.now + wire.latency
        if wire.jitter or wire.frozen:
            arrival += sim.rng.random() * wire.jitter
            self.arrival = arrival = max(self.arrival, arrival, wire.frozen)
        if sim.careful:
            sim.trace(self.node, "->", self.other.node, describe(frame))
            for name, (n, running) in frame.have.items():
                assert self.node.hashes[name][n - 1] == running, "told, and not durable"
            frame = from_dict(json.loads(to_json(frame)))
        sim.at(arrival, self.other._arrive, frame)

    def _arrive(self, frame: LogFrame) -> None:
        if self.wire.lost or self.link not in self.node.ends:
            return
        if type(frame) is Messages:
            for run in frame.runs:
                self.sim.received += run.count
                if run.after == 0:
                    self.sim.received_first += 1
        node = self.node
        runs = node.replica.receive(self.link, frame, self.sim.now)
        if runs:
            node.write(runs)
        offences = node.replica.offences
        if offences:
            self.sim.trace(node, "finds that", self.other.node, "commits", dict(offences))
            self.sim.offences += offences
            offences.clear()
            self.wire.cut()
            self.sim.at(self.sim.now + 1.0, self.wire.again)
        node.pump()


def short(origin: str) -> str:
    """Return an origin without its leading zeros, for the trace."""
    return origin.lstrip("0") if not origin.startswith("0" * 16) else "0" + origin[16:]


def describe(frame: LogFrame) -> str:
    """Return a frame in short, for the trace."""
    words = [type(frame).__name__.upper()]
    for run in getattr(frame, "runs", ()):
        words.append(f"{short(run.origin)}:{run.after + 1}-{run.end}")
    words += map(short, getattr(frame, "origins", ()))
    words += [f"refused {short(name)}" for name in getattr(frame, "refused", ())]
    words += [f"{short(name)} after {n}" for name, n in getattr(frame, "after", {}).items()]
    if frame.have:
        words.append("have " + " ".join(f"{short(k)}:{n}" for k, (n, _) in frame.have.items()))
    words += [flag for flag in ("last", "ack") if getattr(frame, flag, False)]
    return " ".join(words)


# -- Topologies: pairs of node numbers ------------------------------------------------------------


def regular(nodes: int, degree: int, rng: random.Random) -> list[tuple[int, int]]:
    """Return a random graph in which each node has `degree` neighbours (one less for some where
    nodes * degree is odd)."""
    while True:
        stubs = [node for node in range(nodes) for _ in range(degree)]
        rng.shuffle(stubs)
        pairs: dict[tuple[int, int], None] = {}
        while len(stubs) > 1:
            one = stubs.pop()
            for i in range(len(stubs) - 1, -1, -1):
                pair = (min(one, stubs[i]), max(one, stubs[i]))
                if stubs[i] != one and pair not in pairs:
                    pairs[pair] = None
                    del stubs[i]
                    break
            else:
                break
        else:
            if connected(nodes, pairs):
                return list(pairs)


def connected(nodes: int, pairs: Any, wanted: Collection[int] | None = None) -> bool:
    """Whether a graph is in one piece, or those `wanted` of its nodes are joined by all of it."""
    neighbours: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in pairs:
        neighbours[a].append(b)
        neighbours[b].append(a)
    wanted = range(nodes) if wanted is None else wanted
    todo = list(wanted)[:1]
    reached = set(todo)
    while todo:
        for other in neighbours[todo.pop()]:
            if other not in reached:
                reached.add(other)
                todo.append(other)
    return reached.issuperset(wanted)
