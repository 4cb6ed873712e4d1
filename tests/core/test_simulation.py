"""The promises over random histories, and the figures of `tests.simulation` in small."""

from __future__ import annotations

import pytest

from p2p_sync.core import comparing
from tests import simulation
from tests.harness.simulator import Disk, Simulation, Wire, connected, regular
from tests.histories import History, failing


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories change what counts as small; other tests must not see that."""
    for name in ("SMALL_VECTOR", "LOOK_NAMED"):
        monkeypatch.setattr(comparing, name, getattr(comparing, name))


@pytest.mark.parametrize("first", range(0, 1_000, 125))
def test_Histories_FaultsOfEveryKind_PromisesKept(first: int) -> None:
    bad = failing(range(first, first + 125))
    assert bad == [], "rerun with: python -m tests.histories --trace --seed " + str(bad[0])


def test_History_SameSeed_SameRun() -> None:
    one, other = History(5), History(5)
    assert one.run() == other.run()
    assert one.sim.frames == other.sim.frames
    assert one.sim.committed == other.sim.committed


def check(rows: list[simulation.Row]) -> None:
    missed = [row for row in rows if not row.met]
    assert not missed


@pytest.mark.parametrize("nodes, degree", [(25, 6), (60, 8)])
def test_StableTree_OneCopyOfEachMessage(nodes: int, degree: int) -> None:
    check(simulation.stable_tree(nodes, degree, commits=100, origins=5))


def test_FirstMessages_HardlyADuplicateAfterThem() -> None:
    check(simulation.first_messages(nodes=40, origins=10, each=20))


def test_Broadcast_FewFramesAndFast() -> None:
    check(simulation.broadcast(seconds=10.0))


def test_Deaths_TheLivingMissNothing() -> None:
    check(simulation.deaths(seeds=[0], nodes=50))


def test_Joiner_ManyLinks_NoDuplicates() -> None:
    sim = simulation.mesh(1, 20, 6, 0.02)
    for node in sim.nodes[:5]:
        node.commit(*["text"] * 500)
    sim.run(sim.now + 10.0)
    (joiner,) = sim.add(1)
    received, delivered = sim.received, sim.delivered
    for node in sim.nodes[:6]:
        Wire(node, joiner, 0.02)
    sim.run(sim.now + 5.0)
    assert sim.equal()
    assert sim.received - received == sim.delivered - delivered == 2_500


def test_Partition_BothSidesCommit_HealedWithoutDuplicates() -> None:
    sim = Simulation(1)
    sim.add(20)
    wires = [Wire(sim.nodes[a], sim.nodes[b], 0.02) for a, b in regular(20, 6, sim.rng)]
    sim.run(3.0)
    simulation.warm_up(sim, sim.nodes)
    halves = [wire for wire in wires if len({end.node.number < 10 for end in wire.ends}) == 2]
    for wire in halves:
        wire.cut()
    for node in sim.nodes * 10:
        node.commit("text")
        sim.run(sim.now + 0.05)
    sim.run(sim.now + 3.0)
    assert not sim.equal()
    for wire in halves:
        one, other = (end.node for end in wire.ends)
        Wire(one, other, 0.02)
    sim.run(sim.now + 5.0)
    assert sim.equal()


def watch_links(sim: Simulation, seconds: float) -> float:
    """Return the frames per link end and second."""
    before = sum(sim.frames.values())
    sim.run(sim.now + seconds)
    ends = sum(len(node.ends) for node in sim.nodes)
    return (sum(sim.frames.values()) - before) / ends / seconds


def test_SilentMesh_AHaveEachHalfMinute() -> None:
    sim = simulation.mesh(1, 20, 6, 0.02)
    simulation.warm_up(sim, sim.nodes)
    assert watch_links(sim, 300.0) < 1 / 22


def test_DeadOrigin_ItsTreeComesToRest() -> None:
    """Nodes that lost the source ask each other; that must not go round for ever."""
    for seed in range(20):
        sim = simulation.mesh(seed, 12, 4, 0.02)
        simulation.warm_up(sim, sim.nodes[:6])
        for node in sim.nodes[:6]:
            node.crash()
        sim.run(sim.now + 5.0)
        assert watch_links(sim, 60.0) < 1 / 20


def test_Copies_CommitWaits_KnownSoon() -> None:
    sim = simulation.mesh(1, 10, 4, 0.01)
    simulation.warm_up(sim, sim.nodes)
    node = sim.nodes[0]
    node.commit("text", ack=True)
    sim.run(sim.now + 0.2)
    assert len(node.replica.copies(node.replica.origin, 2)) == 4


def test_WipedNode_SameAddress_GetsAllAgain() -> None:
    sim = simulation.mesh(1, 5, 4, 0.01)
    simulation.warm_up(sim, sim.nodes)
    node = sim.nodes[0]
    node.crash()
    node.replace_disk(Disk())
    node.start()
    for other in sim.nodes[1:]:
        Wire(node, other, 0.01)
    sim.run(sim.now + 3.0)
    assert sim.equal()
    assert len(node.log) == 5


def test_RestartedNode_OtherNeighbours_CommitsTakeTheShortestWay() -> None:
    sim = simulation.mesh(1, 10, 4, 0.01)
    simulation.warm_up(sim, sim.nodes)
    node, *others = sim.nodes
    before = {end.other.node for end in node.ends}
    origin = node.replica.origin
    node.crash()
    sim.run(sim.now + 5.0)
    node.start()
    assert node.replica.origin == origin
    for other in [other for other in others if other not in before][:4]:
        Wire(node, other, 0.01)
    sim.run(sim.now + 1.0)
    for number in range(3):
        began = sim.now
        node.commit(f"text {number}", watch=True)
        sim.run(sim.now + 3.0)
        assert sim.spread[origin, len(node.log[origin])] - began < 0.05
    assert sim.equal()


def test_DiskSetBack_PeersHoldMore_NewOriginBeforeTheFirstCommit() -> None:
    sim = simulation.mesh(1, 5, 4, 0.01)
    simulation.warm_up(sim, sim.nodes)
    node = sim.nodes[0]
    origin, before = node.replica.origin, node.on_disk.copy()
    for number in range(3):
        node.commit(f"later {number}")
    sim.run(sim.now + 3.0)
    log = node.log[origin][:]
    node.crash()
    node.replace_disk(before)
    sim.run(sim.now + 1.0)
    node.start(origin)
    for other in sim.nodes[1:]:
        Wire(node, other, 0.01)
    sim.run(sim.now + 1.0)
    node.commit("after all that")
    sim.run(sim.now + 3.0)
    renewed = node.replica.origin
    assert renewed > origin
    assert sim.equal()
    assert node.log[origin] == log
    assert [entry and entry.text for entry in node.log[renewed]] == ["after all that"]
    assert not any(other.conflicts for other in sim.nodes)


def test_ClockHoursAhead_OthersNotDragged() -> None:
    sim = Simulation(1)
    (ahead,) = sim.add(1, skew_ms=20 * 3_600_000)
    (other,) = sim.add(1)
    Wire(ahead, other)
    sim.run(1.0)
    ahead.commit("from the future")
    sim.run(2.0)
    other.commit("now")
    sim.run(3.0)
    assert sim.equal()
    (entry,) = other.log[other.replica.origin]
    assert entry and entry.time < other.wall()


def test_Regular_AnySeed_ConnectedWithTheDegree() -> None:
    sim = Simulation(1)
    pairs = regular(30, 4, sim.rng)
    assert connected(30, pairs) and not connected(31, pairs)
    assert all(sum(node in pair for pair in pairs) == 4 for node in range(30))
