"""The simulator with the very Overlay class in each node: they find each other and dial.

A host is up or down, and reaches those on its own side of a partition. To dial takes a round trip;
a host that is down refuses at once, one that is not reached lets the dial time out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from p2p_sync.core.book import Known
from p2p_sync.core.overlay import Overlay
from p2p_sync.core.peer import Tell, Work
from p2p_sync.core.replica_link import NEVER
from p2p_sync.settings import SPARE_PEERS, Settings
from p2p_sync.wire.frames import Sockets
from tests.harness.simulator import End, Node, Simulation, Wire, connected

LATENCY = 0.02
"""Seconds one way, between any two hosts."""
HEARTBEAT = 30.0
"""Seconds within which a link that carries nothing any more is noticed."""
PORT = 8001


class Network(Simulation):
    """Hosts, each with a node."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.hosts: dict[str, MeshNode] = {}

    def grow(self, count: int, settings: Settings | None = None) -> list[MeshNode]:
        """Start nodes that know the address of the first of all."""
        first = next(iter(self.hosts.values()), None)
        added = []
        for _ in range(count):
            node = MeshNode(self, len(self.nodes), settings or Settings())
            self.nodes.append(node)
            self.hosts[node.address] = node
            node.given = [first.address] if first else []
            node.start()
            first = first or node
            added.append(node)
        return added

    def up(self) -> list[MeshNode]:
        """The nodes that run."""
        return [node for node in self.hosts.values() if node.up]

    def part(self, sides: int) -> None:
        """Cut the network into so many sides; 1 mends it. Links across are noticed as dead late."""
        for number, node in enumerate(self.hosts.values()):
            node.side = number % sides
        for node in self.up():
            for end in list(node.links.values()):
                if end.other.node.side != node.side:
                    end.wire.cut(HEARTBEAT)

    def degrees(self) -> list[int]:
        """How many sockets each running node counts."""
        return [node.overlay.count() for node in self.up()]

    def in_one_piece(self, nodes: list[MeshNode] | None = None) -> bool:
        """Whether the links join all running nodes, or these, be it by way of others."""
        up = self.up()
        index = {node: number for number, node in enumerate(up)}
        pairs = {
            (index[node], index[end.other.node])
            for node in up
            for end in node.links.values()
            if end.other.node in index and not end.wire.lost
        }
        among = [index[node] for node in nodes] if nodes else None
        return connected(len(up), pairs, among)


class MeshNode(Node):
    """A node that dials."""

    sim: Network

    def __init__(self, sim: Network, number: int, settings: Settings, **options: Any) -> None:
        super().__init__(sim, number, **options)
        self.settings = settings
        self.host = f"10.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        self.address = f"ws://{self.host}:{PORT}"
        self.side = 0
        self.given: list[str] = []  # addresses given by hand
        self.kept: list[Known] = []  # what the disk holds of the address book
        self.links: dict[int, MeshEnd] = {}
        self.dials = 0
        self._look_at = NEVER
        self._runs = 0

    def start(self, origin: str | None = None) -> None:
        super().start(origin)
        self.links = {}
        self.overlay = Overlay(self.id, self.starts, self.settings, PORT, self.sim.rng)
        for known in self.kept:
            self.overlay.book.restore(known, self.sim.now)
        for address in self.given:
            self.overlay.book.add(address, self.sim.now)
        self._runs += 1
        self._look_at = NEVER
        self.look()

    def crash(self, notice: float = LATENCY) -> None:
        """Die at once; peers see their links closed."""
        book = self.overlay.book.known.values()
        self.kept = [replace(k, probing=False, endpoints=()) for k in book if not k.oneself]
        links = list(self.links.values())
        self.links = {}
        super().crash(notice)
        for end in links:
            end.wire.cut(notice)

    # -- Dialling --------------------------------------------------------------------------------

    def look(self, at: float | None = None) -> None:
        """See what is due, now or at a time."""
        at = self.sim.now if at is None else at
        if at < self._look_at:
            self._look_at = at
            self.sim.at(at, self._due, at, self._runs)

    def _due(self, at: float, run: int) -> None:
        if not self.up or run != self._runs or at != self._look_at:
            return
        self._look_at = NEVER
        tells, later = self.overlay.news(self.sim.now)
        for tell in tells:
            self.links[tell.link].do([tell])
        addresses, again = self.overlay.due(self.sim.now)
        again = min(again, later)
        for address in addresses:
            self._dial(address)
        if again < NEVER:
            self.look(max(again, self.sim.now + 0.001))

    def _dial(self, address: str) -> None:
        number = self.overlay.dial(address, self.sim.now)
        host = address.removeprefix("ws://").rpartition(":")[0]
        if not self.overlay.resolved(address, ((host, PORT),), self.sim.now):
            self.look()
            return
        self.dials += 1
        other = self.sim.hosts.get(address)
        if other is None or other.side != self.side:
            later = self.sim.now + self.settings.handshake_timeout
            self.sim.at(later, self._failed, address, "it did not answer in time", self._runs)
        else:
            later = self.sim.now + 2 * LATENCY
            self.sim.at(later, self._answer, other, address, number, self._runs)

    def _answer(self, other: MeshNode, address: str, number: int, run: int) -> None:
        if run != self._runs or not self.up:
            return
        if other.side != self.side:  # the network was cut while the dial was under way
            self._failed(address, "it did not answer in time", run)
            return
        accepted = sum(end.accepted for end in other.links.values())
        if not other.up or accepted >= other.settings.max_peers + SPARE_PEERS:
            self._failed(address, "refused", run)
            return
        wire = MeshWire(self, other)
        wire.ends[1].accept(self)
        wire.ends[0].do(
            self.overlay.dialled(
                wire.ends[0].number, address, number, (other.host, PORT), self.sim.now
            )
        )
        self.look()

    def _failed(self, address: str, reason: str, run: int) -> None:
        if run == self._runs and self.up:
            self.overlay.failed(address, reason, self.sim.now)
            self.look()


class MeshWire(Wire):
    """A connection whose ends have numbers, and a replica's link once each knows the other."""

    ends: tuple[MeshEnd, MeshEnd]

    def __init__(self, one: MeshNode, other: MeshNode) -> None:
        self.sim = one.sim
        self.latency, self.jitter = LATENCY, 0.0
        self.lost = False
        self.frozen = 0.0
        self.ends = (MeshEnd(self, one), MeshEnd(self, other))
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]


class MeshEnd(End):
    """One end of such a connection."""

    __slots__ = ("accepted", "number", "open")
    node: MeshNode
    other: MeshEnd
    numbers = 0

    def __init__(self, wire: MeshWire, node: MeshNode) -> None:
        self.wire, self.node, self.sim = wire, node, wire.sim
        self.busy = False
        self.timer = NEVER
        self.arrival = 0.0
        self.open = False  # the replica knows of it
        self.accepted = False
        MeshEnd.numbers += 1
        self.number = MeshEnd.numbers
        node.links[self.number] = self

    def accept(self, dialler: MeshNode) -> None:
        """Tell the rules that a link was accepted."""
        self.accepted = True
        remote = (dialler.host, 40_000 + self.number % 20_000)
        self.node.overlay.accepted(self.number, remote, (self.node.host, PORT), self.sim.now)

    def do(self, work: Iterable[Work]) -> None:
        """Carry out what the overlay asks for."""
        for item in work:
            end = self.node.links.get(item.link)
            if end is None:
                continue
            if isinstance(item, Tell):
                end._put(item.frame)  # type: ignore[arg-type]
            else:
                self.sim.at(self.sim.now + LATENCY, end.other.close, item.reason, item.code)
                end.close(item.reason, item.code)

    def close(self, reason: str = "cut", code: int | None = None) -> None:
        if self.node.links.pop(self.number, None) is None:
            return
        if self.open:
            super().close()
        self.node.overlay.closed(self.number, reason, self.sim.now, code)
        self.node.look()

    def _arrive(self, frame: Any) -> None:
        if self.wire.lost or self.number not in self.node.links:
            return
        if not isinstance(frame, Sockets):
            if self.open:
                super()._arrive(frame)
            return
        overlay = self.node.overlay
        self.do(overlay.hello(self.number, frame, self.sim.now))
        peer = overlay.peers.get(self.number)
        if peer and peer.node and not peer.leaving and not self.open:
            self.open = True
            self.link = self.node.replica.open(peer.node, 2 * LATENCY, self.sim.now)
            self.node.ends[self.link] = self
            self.node.pump()
        self.node.look()
