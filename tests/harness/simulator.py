"""A seeded discrete-event simulator: the core of many nodes, the shipped one, in virtual time.

A heap holds what happens when. A node here is its core with a simulated shell around it: it carries
out the same effects, but threads, sockets, disks and clocks are events. A disk takes a while over a
transaction, and serves all that came meanwhile. A wall clock may be wrong. A wire between two nodes
has latency and jitter, can freeze, and when it is cut loses what is on its way. A host is up or
down, and reaches those on its own side of a partition; to dial takes a round trip.

All chance comes from one seed, so a run can be repeated, with a trace.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from p2p_sync.core.book import Known
from p2p_sync.core.core import Core
from p2p_sync.core.deduplication import node_of
from p2p_sync.core.effects import Close, Dial, Keep, Note, Settle
from p2p_sync.core.faults import KINDS
from p2p_sync.core.overlay import Overlay
from p2p_sync.core.peer import Peer
from p2p_sync.core.placing import Step, find
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import Work
from p2p_sync.core.shipping import fill
from p2p_sync.errors import DialError, LogDeleted, LogError, LogMoved
from p2p_sync.settings import MAX_AHEAD_MS, NEVER, SPARE_PEERS, Settings
from p2p_sync.wire.cutoffs import NO_HISTORY, began, choose, cutoff_of, is_cutoff
from p2p_sync.wire.entries import NOTICE, Entry, Erasure, chain
from p2p_sync.wire.forks import Branch
from p2p_sync.wire.frames import Frame, Sockets, decode, encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import (
    LOG_FRAMES,
    NO_HASH,
    Fork,
    Have,
    Head,
    Look,
    Mark,
    Messages,
    Run,
    Sums,
)
from p2p_sync.wire.signing import checked, sign, signed

EPOCH_MS = 1_700_000_000_000
"""The wall clock when a simulation begins."""
LATENCY = 0.02
"""Seconds one way over a wire that came of a dial."""
HEARTBEAT = 30.0
"""Seconds within which a link that carries nothing any more is noticed."""
PORT = 8001
BY_HAND = Settings(target_links=0)
"""Nodes that do not dial: the wires between them are laid by the test."""


@dataclass
class Disk:
    """What a node's disk holds, by origin."""

    # Of each message its entry; None of one that was deleted, or never came.
    log: dict[str, list[Entry | None]] = field(default_factory=dict)
    hashes: dict[str, list[str]] = field(default_factory=dict)  # after each; "" inside of an entry
    signatures: dict[str, list[str]] = field(default_factory=dict)  # after each that has one
    floors: dict[str, int] = field(default_factory=dict)
    cutoffs: dict[str, Head] = field(default_factory=dict)  # by their names
    gone: int = 0  # the newest time of what was deleted
    erasures: dict[str, Erasure] = field(default_factory=dict)  # by the id of the message

    def copy(self) -> Disk:
        """Return a copy."""
        return Disk(
            {name: log[:] for name, log in self.log.items()},
            {name: hashes[:] for name, hashes in self.hashes.items()},
            {name: signatures[:] for name, signatures in self.signatures.items()},
            self.floors.copy(),
            self.cutoffs.copy(),
            self.gone,
            self.erasures.copy(),
        )


class Simulation:
    """The events of one run, its nodes, and what is counted."""

    def __init__(self, seed: int, *, trace: bool = False, careful: bool = False) -> None:
        """`trace` prints all that happens; `careful` checks more, and sends all frames through
        their text."""
        self.rng = random.Random(seed)
        self.now = 0.0  # seconds
        self.nodes: list[Node] = []
        self.hosts: dict[str, Node] = {}  # by address
        self.tracing = trace
        self.careful = careful
        self.tampering = 0.0  # the part of the frames about the log that are changed on their way
        self.tampered = 0
        self.forked: set[str] = set()  # origins that live twice: only there contents may differ
        self.committed: dict[tuple[str, int], Entry] = {}  # all that was ever durable
        self.frames: Counter[type] = Counter()  # sent, by type
        self.offences: Counter[str] = Counter()  # of nodes, as others see them
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
        added = []
        for _ in range(count):
            node = Node(self, len(self.nodes), **options)
            self.nodes.append(node)
            self.hosts[node.address] = node
            added.append(node)
        for node in added:
            node.start()
        return added

    def grow(self, count: int, settings: Settings | None = None) -> list[Node]:
        """Start nodes that dial, and know the address of the first of all."""
        added = []
        for _ in range(count):
            first = next(iter(self.hosts), None)
            given = (first,) if first else ()
            added += self.add(1, settings=settings or Settings(), given=given)
        return added

    def up(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes if node.up]

    def equal(self) -> bool:
        """Whether all running nodes hold the same, with nothing on its way to a disk."""
        running = self.up()
        vectors = [node.replica.vector.heads() for node in running]
        return not any(node.writing for node in running) and all(v == vectors[0] for v in vectors)

    # -- The network -----------------------------------------------------------------------------

    def part(self, sides: int) -> None:
        """Cut the network into so many sides; 1 mends it. Links across are noticed as dead late."""
        for number, node in enumerate(self.nodes):
            node.side = number % sides
        for node in self.up():
            for end in list(node.ends):
                if end.other.node.side != node.side:
                    end.wire.cut(HEARTBEAT)

    def degrees(self) -> list[int]:
        """How many sockets each running node counts."""
        return [node.overlay.count() for node in self.up()]

    def in_one_piece(self, nodes: list[Node] | None = None) -> bool:
        """Whether the links join all running nodes, or these, be it by way of others."""
        up = self.up()
        index = {node: number for number, node in enumerate(up)}
        pairs = {
            (index[node], index[end.other.node])
            for node in up
            for end in node.ends
            if end.other.node in index and not end.wire.lost
        }
        among = [index[node] for node in nodes] if nodes else None
        return connected(len(up), pairs, among)


class Node:
    """One node: its core with a simulated shell around it."""

    core: Core

    def __init__(
        self,
        sim: Simulation,
        number: int,
        *,
        disk: float = 0.0,
        skew_ms: int = 0,
        slow: float = 0.0,
        batch: int = 1_000,
        keep: int | None = None,
        settings: Settings = BY_HAND,
        given: Sequence[str] = (),
    ) -> None:
        """`disk`: seconds that a transaction takes; `slow`: seconds at most that a MESSAGES frame
        takes to read and send; `batch`: messages that fill one; `skew_ms`: what the wall clock is
        ahead; `keep`: messages that are kept; `given`: addresses given by hand."""
        self.sim = sim
        self.number = number
        self.identity = Identity.of_seed(number.to_bytes(32, "big"))
        self.id = self.identity.node
        self.host = f"10.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        self.address = f"ws://{self.host}:{PORT}"
        self.side = 0
        self.disk, self.skew_ms, self.slow, self.batch = disk, skew_ms, slow, batch
        self.keep = keep
        self.settings = settings
        self.given = list(given)
        self.kept: list[Known] = []  # what the disk holds of the address book
        self.dials = 0
        self.starts = 0
        self.left = ""  # the origin of the last start; "": commits get a new one
        self.up = False
        self.full = False  # the disk takes nothing
        self.on_disk = Disk()
        self.acknowledged: dict[tuple[str, int], Entry] = {}  # own commits that were answered
        self._boot("")

    def __repr__(self) -> str:
        return f"n{self.number}"

    @property
    def log(self) -> dict[str, list[Entry | None]]:
        """Of each message its entry, by origin."""
        return self.on_disk.log

    @property
    def replica(self) -> Replica:
        """The rules of the log."""
        return self.core.replica

    @property
    def overlay(self) -> Overlay:
        """The rules of links and addresses."""
        return self.core.overlay

    @property
    def conflicts(self) -> set[tuple[str, str]]:
        """The disputes that it is in: peer and origin."""
        return {(link.peer, name) for link in self.replica.links for name in link.refused}

    # -- Life ------------------------------------------------------------------------------------

    def _boot(self, origin: str) -> None:
        """Make a core on the disk as it is, with that origin, or a new one."""
        self.ends: dict[End, None] = {}
        self.writing: list[Run] = []  # in the transaction that is under way
        self.timer = NEVER
        vector = {name: self.head(name, len(log)) for name, log in self.log.items()}
        vector |= self.on_disk.cutoffs
        ended = [name for name in self.log if self.is_ended(name)]
        wall = self.wall()
        times = [log[-1].time for log in self.log.values() if log[-1]] + [self.on_disk.gone]
        newest = max((time for time in times if time < wall + MAX_AHEAD_MS), default=0)
        rng = self.sim.rng
        self.core = Core(self.id, origin, PORT, self.settings, vector, newest, wall, rng, ended)

    def start(self, origin: str | None = None) -> None:
        """Start on the disk as it is. Commits go on under the origin that the node has `left`, if
        the disk is still the same; under a given one, a machine's snapshot comes back to life."""
        self.starts += 1
        self.up = True
        self._boot(self.left if origin is None else origin)
        held = {short(name): len(log) for name, log in self.log.items()}
        self.sim.trace(self, "starts as", short(self.replica.origin), held)
        with self.turn() as core:
            for known in self.kept:
                core.book.restore(known, self.sim.now)
            for address in self.given:
                core.connect(address)

    def head(self, name: str, n: int) -> Head:
        """What the disk holds of the first `n` messages of an origin."""
        if is_cutoff(name):
            return self.on_disk.cutoffs[name]
        return Head(n, self.on_disk.hashes[name][n - 1], self.on_disk.signatures[name][n - 1])

    def hash_at(self, name: str, n: int) -> str | None:
        """The running hash over the first `n` messages of an origin, if they are here; "" inside of
        an entry."""
        hashes = self.on_disk.hashes.get(name, [])
        return hashes[n - 1] if n <= len(hashes) else None

    def crash(self, notice: float = 0.2) -> None:
        """Die at once. What is not durable is lost; peers notice within `notice` seconds."""
        self.sim.trace(self, "crashes")
        self.up = False
        if self.writing and self.sim.rng.random() < 0.5:
            self._append(self.writing)  # it got through, only nobody was told
        self.left = self.replica.origin
        self._keep(self.core)
        ends = list(self.ends)
        self._boot("")
        for end in ends:
            end.wire.cut(notice)

    def _keep(self, core: Core) -> None:
        """Write down the address book."""
        self.kept = [copy(known) for known in core.book.known.values() if not known.oneself]
        for known in self.kept:
            known.endpoints = ()

    def replace_disk(self, disk: Disk) -> None:
        """Put in another disk while the node is down."""
        assert not self.up
        self.on_disk = disk
        self.left = ""
        self.acknowledged = {
            (name, seq): message
            for (name, seq), message in self.acknowledged.items()
            if len(self.log.get(name, ())) >= seq
        }

    def repair(self) -> None:
        """Give a full disk room again."""
        self.full = False
        if self.up and self.core.commits.failure:
            with self.turn() as core:
                core.commits.recovered()

    def wall(self) -> int:
        """The wall clock, in milliseconds."""
        return EPOCH_MS + int(self.sim.now * 1000) + self.skew_ms

    # -- The shell -------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[Core]:
        """Lend the core; carry out at the end what it has decided, as the shell does."""
        core = self.core
        core.begin(self.sim.now, self.wall())
        yield core
        effects, _ = core.end()
        for peer in effects.woken:
            peer.link.send()
        for effect in effects.others:
            if isinstance(effect, Dial):
                self._dial(effect)
            elif isinstance(effect, Close):
                effect.peer.link.hang_up(effect.reason, effect.code)
            elif isinstance(effect, Settle):
                self._settle(effect)
            elif isinstance(effect, Note):
                self._note(effect)
            elif isinstance(effect, Keep):
                self._keep(core)
        if core is not self.core:
            return
        if core.commits.has_work and not self.writing:
            self._write()
        if core.deadline < self.timer:
            self.timer = max(core.deadline, self.sim.now + 0.001)
            self.sim.at(self.timer, self._tick, core, self.timer)

    def _tick(self, core: Core, timer: float) -> None:
        if core is self.core and timer == self.timer:
            self.timer = NEVER
            with self.turn() as core:
                core.tick()

    def commit(self, *texts: str, ack: bool = False, watch: bool = False) -> None:
        """Commit messages as one entry; refused while the disk is full. `watch`: measure how they
        spread."""
        if not self.up or self.full or self.core.commits.failure:
            return
        with self.turn() as core:
            commit = core.commits.commit(Entry.of(0, texts), texts, None, ack=ack)
            span = range(commit.first, commit.last + 1)
            self.sim.trace(self, "commits", short(commit.origin), span.start, "to", span.stop - 1)
            if self.sim.careful:
                self._check_order(commit.entry)
            if watch:
                self.sim.started.update(((commit.origin, seq), self.sim.now) for seq in span)

    def erase(self, target: str) -> None:
        """Commit a notice that erases the message with that id."""
        if self.up and not self.full and not self.core.commits.failure:
            with self.turn() as core:
                commit = core.commits.erase(target, None)
                self.sim.trace(self, "erases", target, "by", short(commit.origin), commit.first)

    def _settle(self, effect: Settle) -> None:
        commit = effect.commit
        if effect.error is None:
            for seq in range(commit.first, commit.last + 1):
                self.acknowledged[commit.origin, seq] = commit.entry

    def _note(self, note: Note) -> None:
        self.sim.trace(self, note.kind, note.text)
        if note.kind in KINDS:
            self.sim.offences[note.kind] += 1

    # -- The disk --------------------------------------------------------------------------------

    def _write(self) -> None:
        """Begin a transaction with all that waits."""
        runs = signed(self.core.commits.to_store(), self.identity)
        self.writing = [run for run in runs if not is_cutoff(run.origin)]
        for run in runs:
            if is_cutoff(run.origin):
                self.sim.at(self.sim.now + self.disk, self._cut, self.core, run, 0.5)
        if self.disk == 0.0 and not self.full:
            self._end(self.core)
        else:
            self.sim.at(self.sim.now + self.disk, self._end, self.core)

    def _end(self, core: Core) -> None:
        if core is not self.core:
            return  # crashed meanwhile
        runs, self.writing = self.writing, []
        if not self.full:
            self._append(runs)
            self._count(runs)
        with self.turn():
            if self.full:
                self.sim.trace(self, "cannot store")
                core.commits.failed(LogError("the disk is full"))
            else:
                core.stored(runs)
                disputed = core.commits.next_disputed()
                if disputed:
                    self._place(core, *disputed)

    def _cut(self, core: Core, run: Run, part: float) -> None:
        """End some of the origins that are older than a cutoff, and later all; then store it."""
        if core is not self.core or core.replica.vector.get(run.origin).staged != run.end:
            return  # it has crashed meanwhile, or could not store
        if self.writing or self.full:
            self.sim.at(self.sim.now + 0.01, self._cut, core, run, part)
            return
        names = [name for name in self.log if node_of(name) == node_of(run.origin)]
        if part == 1.0:
            self._append([run])
        with self.turn():
            ended = [name for name in names if self.is_ended(name, run.end)]
            core.replica.forgetting.end(name for name in ended if self.sim.rng.random() < part)
            if part == 1.0:
                core.stored([run])
        if part < 1.0:
            later = self.sim.rng.choice((0.001, 0.02, 1.0))
            self.sim.at(self.sim.now + later, self._cut, core, run, 1.0)

    def _place(self, core: Core, peer: Peer, run: Run) -> None:
        """Store a run where it belongs, as the writer."""
        placed = find(run, _Held(self))
        if placed and placed.run:
            if not core.commits.clear(Branch.of(run.origin).base):
                core.commits.dispute(peer, run)
                return
            if placed.move:
                source, after, to = placed.move
                disk = self.on_disk
                moved = disk.log[source][after:]
                disk.log[to] = [entry and entry.shifted(after) for entry in moved]
                disk.hashes[to] = disk.hashes[source][after:]
                disk.signatures[to] = disk.signatures[source][after:]
                for kept in (disk.log, disk.hashes, disk.signatures):
                    del kept[source][after:]
            self._append([placed.run])
        core.placed(peer, run, placed)

    def marks(self, name: str, above: int) -> list[Mark]:
        """Some places of a history, as Log.marks."""
        hashes = self.on_disk.hashes.get(name, [])
        places = [n for n in range(above + 1, len(hashes)) if hashes[n - 1]]
        chosen = self.sim.rng.sample(places, min(4, len(places)))
        chosen += [above] if hashes[above - 1 : above] not in ([], [""]) else []
        return [(n, hashes[n - 1]) for n in sorted(chosen)]

    def _count(self, runs: list[Run]) -> None:
        sim = self.sim
        for run in runs:
            if run.origin != self.replica.origin:
                sim.delivered += run.count
            for seq in range(run.after + 1, run.end + 1) if sim.started else ():
                key = (run.origin, seq)
                if key in sim.started:
                    sim.holders[key] += 1
                    sim.spread[key] = sim.now

    def _append(self, runs: list[Run]) -> None:
        committed, disk = self.sim.committed, self.on_disk
        for run in runs:
            name = run.origin
            if is_cutoff(name):
                disk.cutoffs[name] = run.head
                continue
            log = disk.log.setdefault(name, [])
            hashes = disk.hashes.setdefault(name, [])
            signatures = disk.signatures.setdefault(name, [])
            if run.skipped:
                assert len(log) == run.after - run.skipped
                disk.floors[name] = run.after
                log += [None] * run.skipped
                hashes += [""] * (run.skipped - 1) + [run.previous]
                signatures += [""] * (run.skipped - 1) + ["" if run.entries else run.signature]
            assert len(log) == run.after, f"{self}: {run.after} of {name} after {len(log)}"
            for entry, running in zip(run.entries, run.hashes, strict=True):
                if entry.kind == NOTICE:
                    before = hashes[-1] if hashes else NO_HASH
                    about = len(log), before, entry.time, run.signature
                    disk.erasures[entry.text] = Erasure(0, name, *about)
                for _ in range(entry.length):
                    log.append(entry)
                    known = committed.setdefault((name, len(log)), entry)
                    assert is_same(known, entry) or name in self.sim.forked
                hashes += [""] * (entry.length - 1) + [running]
            if run.entries:
                signatures += [""] * (run.count - 1) + [run.signature]
        for target, erasure in disk.erasures.items():
            self._erase(target, erasure)
        self._retain()

    def _erase(self, target: str, erasure: Erasure) -> None:
        """Replace the text of a message by what proves that it was erased."""
        name, _, seq = target.partition(":")
        log, at = self.log.get(name, []), int(seq) - 1
        entry = log[at] if at < len(log) else None
        if entry is None or entry.kind == NOTICE:
            return
        first, hashes = at, self.on_disk.hashes[name]
        while first and not hashes[first - 1]:
            first -= 1
        if entry.texts[at - first] is not None:
            erased = entry.erase(first + 1, erasure._replace(seq=at + 1))
            log[first : first + entry.length] = [erased] * entry.length

    def _retain(self) -> None:
        """Delete the oldest messages beyond the limit: of each origin up to a signed one."""
        disk = self.on_disk
        while self.keep is not None:
            held = sum(len(log) - disk.floors.get(name, 0) for name, log in disk.log.items())
            ends = [found for name in disk.log if (found := self._first_end(name))]
            if held <= self.keep or not ends:
                return
            time, name, end = min(ends)
            if held - (end - disk.floors.get(name, 0)) < self.keep:
                return
            disk.log[name][:end] = [None] * end
            disk.gone = max(disk.gone, time)
            disk.floors[name] = end

    def is_ended(self, name: str, cutoff: int = 0) -> bool:
        """Whether a cutoff, or that on the disk, ends an origin, as Log.ended."""
        held = self.on_disk.cutoffs.get(cutoff_of(node_of(name)))
        cutoff = cutoff or (held.n if held else 0)
        log = self.log[name]
        last = log[-1] if log else None
        return began(name) < cutoff and (not last or last.time < cutoff)

    def since(self) -> int:
        """The time before which nothing is kept, as Log.since."""
        times = [entry.time for log in self.log.values() for entry in log if entry]
        return min([self.wall(), *times])

    def forget(self) -> None:
        """Forget the ended origins of which nothing is kept, and end some, as node/forgetting.py;
        nothing that a test cuts counts as missing."""
        if not self.up or self.writing or self.full or self.core.commits.failure:
            return
        disk = self.on_disk
        with self.turn() as core:
            empty = [name for name in core.replica.vector.ended if not any(self.log.get(name, ()))]
            for name in core.replica.forgetting.forget(empty):
                for kept in (disk.log, disk.hashes, disk.signatures, disk.floors):
                    kept.pop(name, None)
                self.sim.trace(self, "forgets", short(name))
            latest = min(core.replica.forgetting.before(), self.since())
            own = {name: any(log) for name, log in self.log.items() if node_of(name) == self.id}
            before = choose(latest, core.replica.origin, own)
            ends = any(began(name) < before and not self.is_ended(name) for name in own)
            if ends and before > disk.cutoffs.get(cutoff_of(self.id), Head(0, "", "")).n:
                self.sim.trace(self, "ends its origins before", before)
                signature = sign(self.identity, cutoff_of(self.id), before, NO_HISTORY)
                core.commits.cut(before, signature)

    def _first_end(self, name: str) -> tuple[int, str, int] | None:
        """Return the time, the origin and the number of its first signed message that is kept."""
        signatures, log = self.on_disk.signatures[name], self.log[name]
        for n in range(self.on_disk.floors.get(name, 0), len(log)):
            entry = log[n]
            if signatures[n] and entry:
                return entry.time, name, n + 1
        return None

    def read(self, name: str, after: int, upto: int, room: int) -> tuple[Run, int]:
        """Read whole entries of an origin until `room` messages are read, and on to the next
        signed one; return what is left. Raises LogDeleted."""
        if after < self.on_disk.floors.get(name, 0):
            raise LogDeleted(name, self.on_disk.floors[name])
        hashes, signatures = self.on_disk.hashes[name], self.on_disk.signatures[name]
        if after >= len(hashes):
            raise LogMoved("it is in another branch now")
        while after and not hashes[after - 1]:
            after -= 1  # another one's entries of a forked origin may end elsewhere
        upto = min(upto, len(hashes))
        entries: list[Entry] = []
        end = after
        while end < min(upto, after + room) or not signatures[end - 1]:
            entry = self.log[name][end]
            assert entry
            entries.append(entry)
            end += entry.length
            if entry.kind == NOTICE:
                break
        previous = hashes[after - 1] if after else self._before(name)
        run = Run(
            name, after, previous, tuple(entries), chain(previous, entries), signatures[end - 1]
        )
        return run, room - (end - after)

    def _before(self, name: str) -> str:
        """The running hash before the first message of an origin, which may be a branch."""
        base, after, first = Branch.of(name)
        for other, _ in _Held(self).ends(base) if after else ():
            n = after - Branch.of(other).after
            before = self.hash_at(other, n) if n > 0 else None
            entry = self.log[name][0]
            if before and entry and chain(before, [entry])[0] == first:
                return before
        return NO_HASH

    def _check_order(self, message: Entry) -> None:
        """A commit sorts after all that this node holds, but for times far ahead."""
        limit = self.wall() + MAX_AHEAD_MS
        for name, log in self.log.items():
            last = log[-1]
            if last is None:
                pass
            elif name == self.replica.origin:
                assert last.time <= message.time
            elif last.time < limit:
                assert last.time < message.time, f"{self} commits before {name}"

    # -- Dials -----------------------------------------------------------------------------------

    def _dial(self, dial: Dial) -> None:
        core, sim = self.core, self.sim
        host = dial.address.removeprefix("ws://").rpartition(":")[0]
        with self.turn():
            endpoints = core.dialling.resolved(dial.address, [(host, PORT)])
        if not endpoints:
            return
        self.dials += 1
        other = sim.hosts.get(dial.address)
        if other is None or other.side != self.side:
            later = sim.now + self.settings.handshake_timeout
            sim.at(later, self._failed, core, dial, "it did not answer in time")
        else:
            sim.at(sim.now + 2 * LATENCY, self._answer, core, other, dial)

    def _answer(self, core: Core, other: Node, dial: Dial) -> None:
        if core is not self.core or not self.up:
            return
        accepted = sum(end.accepted for end in other.ends)
        if other is self:
            error = DialError("this node dialled itself", oneself=(self.host, PORT))
            with self.turn():
                core.dialling.failed(dial.address, error)
        elif other.side != self.side:  # the network was cut while the dial was under way
            self._failed(core, dial, "it did not answer in time")
        elif not other.up or accepted >= other.settings.max_peers + SPARE_PEERS:
            self._failed(core, dial, "refused")
        else:
            Wire(self, other, LATENCY, dial=dial)

    def _failed(self, core: Core, dial: Dial, reason: str) -> None:
        if core is self.core and self.up:
            with self.turn():
                core.dialling.failed(dial.address, DialError(reason))


class _Held:
    """What a node holds of the branches of an origin: see Histories."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ends(self, base: str) -> list[tuple[str, int]]:
        """See Histories."""
        log = self._node.log
        return [(name, len(log[name])) for name in log if Branch.of(name).base == base]

    def hash_at(self, name: str, n: int) -> str | None:
        """See Histories."""
        return self._node.hash_at(name, n)

    def after(self, name: str, n: int) -> Step | None:
        """See Histories."""
        log = self._node.log.get(name, [])
        if n >= len(log):
            return None
        entry = log[n]
        if entry is None:
            return None
        hashes = self._node.on_disk.hashes[name]
        return Step(entry.time, entry.length, hashes[n + entry.length - 1])


class Wire:
    """A connection between two running nodes: in order both ways until it is cut."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        one: Node,
        other: Node,
        latency: float = 0.001,
        jitter: float = 0.0,
        dial: Dial | None = None,
    ) -> None:
        """`latency` and, at most, `jitter` on top of it: seconds one way. `dial`: what it came of;
        without one it was laid by the test."""
        self.sim = one.sim
        self.latency, self.jitter = latency, jitter
        self.laid = dial is None
        self.lost = False
        self.frozen = 0.0  # nothing arrives before this time
        self.ends = (End(self, one), End(self, other))
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        number = next(Wire._numbers)
        if dial is None:
            with one.turn() as core:
                core.book.learn([other.address], other.id, self.sim.now, over_loopback=False)
            dial = Dial(other.address, number)
        self.ends[1].open((one.host, 40_000 + number % 20_000))
        self.ends[0].open((other.host, PORT), dial)

    def cut(self, notice: float = 0.0, code: int | None = None) -> None:
        """Lose the link and all that is on its way; each end notices within `notice` seconds."""
        if not self.lost:
            self.lost = True
            self.sim.trace("cut", *(end.node for end in self.ends))
            for end in self.ends:
                later = self.sim.now + self.sim.rng.uniform(0.0, notice)
                self.sim.at(later, end.close, "cut", code)

    def again(self) -> None:
        """Open another connection between the two, where both run and nobody has."""
        one, other = (end.node for end in self.ends)
        between = [end for end in one.ends if end.other.node is other]
        if any(end.wire.lost for end in between):
            self.sim.at(self.sim.now + 1.0, self.again)  # its end has not been noticed yet
        elif one.up and other.up and not between:
            Wire(one, other, self.latency, self.jitter)


class End:
    """One end of a wire: the link of a node, with its sender."""

    other: End
    peer: Peer

    def __init__(self, wire: Wire, node: Node) -> None:
        self.wire, self.node, self.sim = wire, node, wire.sim
        self.core = node.core
        self.accepted = True
        self.busy = False  # in the middle of sending
        self.timer = NEVER
        self.arrival = 0.0  # of the last frame: later ones come later
        self.volume = (0, 0)
        self.since = 0  # as it was last sent

    @property
    def here(self) -> bool:
        """Whether the node still has this link."""
        return self in self.node.ends and self.core is self.node.core

    def open(self, remote: tuple[str, int], dial: Dial | None = None) -> None:
        """Tell the core of the link."""
        self.node.ends[self] = None
        self.accepted = dial is None
        with self.node.turn() as core:
            self.peer = core.links.opened(
                self,
                remote,
                (self.node.host, PORT),
                dialled=dial.address if dial else None,
                dial=dial.number if dial else 0,
                node=self.other.node.id,
                start=self.other.node.starts,
            )
            core.links.measured(self.peer, 2 * self.wire.latency + self.wire.jitter)
        self.sim.at(self.sim.now + self.node.settings.greeting_pause, self._greet)

    def _greet(self) -> None:
        if self.here:
            with self.node.turn() as core:
                core.links.greet(self.peer)

    def close(self, reason: str = "cut", code: int | None = None) -> None:
        """The node notices that the link is lost."""
        if self.here:
            self.sim.trace(self.node, "loses", self.other.node)
            del self.node.ends[self]
            with self.node.turn() as core:
                core.links.closed(self.peer, reason, code)

    def hang_up(self, reason: str, code: int) -> None:
        """The node closes the link, after what waits in the outbox."""
        if not self.here:
            return
        self.send()
        self.wire.lost = True
        self.sim.at(self.sim.now + self.wire.latency, self.other.close, reason, code)
        self.close(reason, code)
        if self.wire.laid:
            self.sim.at(self.sim.now + 1.0, self.wire.again)

    # -- The sender ------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what there is, then set the timer."""
        node = self.node
        while self.here and not self.busy:
            # Neither this nor `correct` decides anything, so a whole turn would only cost time.
            self.core.begin(self.sim.now, node.wall())
            work = self.core.exchange.take(self.peer)
            for frame in work.frames:
                self._put(frame)
            if work.ships and node.slow:
                self.busy = True
                later = self.sim.now + self.sim.rng.uniform(0.0, node.slow)
                self.sim.at(later, self._ship_late, work)
            elif work.ships:
                self._ship(work)
            elif not work.frames:
                if work.until < self.timer:
                    self.timer = work.until
                    self.sim.at(work.until, self._wake)
                return

    def _ship_late(self, work: Work) -> None:
        """A slow sender has read the log and sends the frame."""
        self.busy = False
        if self.here:
            self._ship(work)
            self.send()

    def _ship(self, work: Work) -> None:
        try:
            runs, ships, _ = fill(work.ships, self.node.read, self.node.batch)
        except (LogDeleted, LogMoved) as error:
            if isinstance(error, LogDeleted):
                self.core.exchange.withhold(self.peer, work.ships, error.origin, error.floor)
            else:
                self.core.exchange.correct(self.peer, work.ships, ())
            if work.have:
                self._put(Have(work.have, ack=work.ack))
            return
        if ships != work.ships:
            self.core.exchange.correct(self.peer, work.ships, ships)
        self._put(Messages(tuple(runs), work.have, work.ack))

    def _wake(self) -> None:
        self.timer = NEVER
        self.send()

    def _put(self, frame: Frame) -> None:
        sim, wire = self.sim, self.wire
        sim.frames[type(frame)] += 1
        if wire.lost:
            return
        if isinstance(frame, Have):
            frame = replace(frame, clock=self.node.wall())
        elif isinstance(frame, Sums) and (since := self.node.since()) != self.since:
            self.since, frame = since, replace(frame, since=since)
        elif isinstance(frame, Fork) and frame.agree is None:
            frame = replace(frame, marks=self.node.marks(frame.origin, frame.above))
        arrival = sim.now + wire.latency
        if wire.jitter or wire.frozen:
            arrival += sim.rng.random() * wire.jitter
            self.arrival = arrival = max(self.arrival, arrival, wire.frozen)
        if sim.careful:
            if sim.tracing:
                sim.trace(self.node, "->", self.other.node, describe(frame))
            for name, head in getattr(frame, "have", {}).items():
                # While the frame was made it may have been cut, or ended and forgotten.
                gone = Branch.of(name).base in sim.forked or self.core.replica.vector.cutoff(name)
                held = gone or self.node.head(name, head.n) == head
                assert held, "announced, and not durable"
            frame = decode(encode(frame))  # type: ignore[arg-type]
        if sim.tampering and sim.rng.random() < sim.tampering:
            frame = self._tampered(frame)
        sim.at(arrival, self.other._arrive, frame)

    def _tampered(self, frame: Frame) -> Frame:
        """Return a frame as it is without the keys of others, if it says something about the log: a
        text is changed, a signature is another one, or more is claimed than is signed."""
        rng = self.sim.rng
        if isinstance(frame, Messages):
            first, *others = frame.runs
            if rng.random() < 0.5:
                entry = first.entries[0]._replace(text="forged", length=1)
                entries = (entry, *first.entries[1:])
                hashes = chain(first.previous, entries)
                first = Run(first.origin, first.after, first.previous, entries, hashes,
                            first.signature)  # fmt: skip
            else:
                first = replace(first, signature=first.signature[:-1] + "0")
            self.sim.tampered += 1
            return replace(frame, runs=(first, *others))
        if isinstance(frame, Have) and frame.have:
            name, head = next(iter(frame.have.items()))
            self.sim.tampered += 1
            return replace(frame, have={**frame.have, name: head._replace(n=head.n + 1_000)})
        return frame

    def _arrive(self, frame: Frame) -> None:
        if not self.here or (self.wire.lost and not isinstance(frame, Sockets)):
            return
        if isinstance(frame, Messages):
            for run in frame.runs:
                self.sim.received += run.count
                if run.after == 0:
                    self.sim.received_first += 1
        with self.node.turn() as core:
            if isinstance(frame, LOG_FRAMES):
                proven = checked(frame, core.exchange.doubtful(self.peer, frame), self.node.hash_at)
                if proven is None:
                    core.links.fault(self.peer, "signature", "a signature is wrong")
                    return
                frame = proven
            core.received(self.peer, frame)


def is_same(one: Entry, other: Entry) -> bool:
    """Whether two entries are the same one, of which messages may be erased."""
    return one is other or (
        (one.time, one.kind, one.length, one.topic, one.digest)
        == (other.time, other.kind, other.length, other.topic, other.digest)
    )


def short(origin: str) -> str:
    """Return the beginning of a node's id, and its start, for the trace."""
    node, _, start = origin.partition("-")
    return f"{node[:4]}-{start}"


def describe(frame: Frame) -> str:
    """Return a frame in short, for the trace."""
    words = [type(frame).__name__.upper()]
    for run in getattr(frame, "runs", ()):
        words.append(f"{short(run.origin)}:{run.after + 1}-{run.end}")
    if isinstance(frame, Sums):
        words += [frame.total[:4], "branches" * bool(frame.branches), *map(str, frame.leaves or ())]
        return " ".join(words)
    if isinstance(frame, Look):
        words.append(f"in {len(frame.leaves)} leaves, {len(frame.known)} known")
    words += map(short, getattr(frame, "origins", ()))
    words += [f"floor {short(name)}:{n}" for name, n in getattr(frame, "floors", {}).items()]
    if isinstance(frame, Fork):
        words += [
            short(frame.origin),
            *map(str, frame.head[:2]),
            "agree" * (frame.agree is not None),
        ]
        words += [str(n) for n, _ in frame.marks]
    words += [f"{short(name)} after {n}" for name, n in getattr(frame, "after", {}).items()]
    if have := getattr(frame, "have", None):
        words.append("have " + " ".join(f"{short(k)}:{head.n}" for k, head in have.items()))
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
