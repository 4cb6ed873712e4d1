"""The overlay's rules in the simulator: meshes find, keep and heal themselves.

The figures at 1,000 nodes are by hand: `python -m tests.simulation grow` and so on.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from p2p_sync.settings import Settings
from tests import simulation
from tests.harness.simulator import Disk, Node, Simulation
from tests.simulation import Row, load, wait_settled

SEEDS = 80


@pytest.mark.parametrize(
    "figure", [simulation.grow, simulation.die, simulation.churn, simulation.parted]
)
def test_Figures_100Nodes_Met(figure: Callable[[int], list[Row]]) -> None:
    missed = [row for row in figure(100) if not row.met]
    assert not missed


@pytest.mark.parametrize("block", range(4))
def test_Histories_AnySeed_OneMeshAndOneLogInTheEnd(block: int) -> None:
    for seed in range(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        history(seed)


def history(seed: int) -> None:
    """Nodes of all kinds come, die, return, move and are parted; then all must be well."""
    rng = random.Random(seed)
    net = Simulation(seed)
    target = rng.randint(2, 8)
    net.grow(1, Settings(target_links=target))
    net.grow(rng.randint(1, 24), Settings(target_links=target))
    hidden = net.grow(rng.randint(0, 2), Settings(target_links=target, dialable=False))
    every = list(net.nodes)
    net.run(rng.uniform(0.0, 20.0))
    for _ in range(rng.randint(1, 8)):
        load(net, 5.0, every)
        happening = rng.choice(["part", "mend", "kill", "kill all", "wipe", "restart"])
        some = rng.sample(every, rng.randint(1, len(every)))
        if happening == "part":
            net.part(2)
        elif happening == "mend":
            net.part(1)
        elif happening == "restart":
            restart(some)
        else:
            for node in every if happening == "kill all" else some:
                if node.up:
                    node.crash()
                if happening == "wipe":
                    node.replace_disk(Disk())
                    node.kept = []
        net.run(net.now + rng.uniform(0.0, 90.0))
    net.part(1)
    restart(every)
    took = wait_settled(net, 120.0)
    assert took < 120.0, f"seed {seed}: not one mesh in two minutes"
    assert all(node.overlay.count() for node in hidden), f"seed {seed}: one is alone"
    limit = 2 * target + 1  # one may just be closing
    assert max(net.degrees()) <= max(limit, len(net.nodes) - 1 if target * 2 > 24 else limit)


def restart(nodes: list[Node]) -> None:
    for node in nodes:
        if not node.up:
            node.start()


def test_FullMesh_NineNodes_StaysAsItIsWithoutFrames() -> None:
    net = Simulation(1)
    net.grow(9)
    net.run(30.0)
    assert net.degrees() == [8] * 9
    dials = [node.dials for node in net.up()]
    net.run(300.0)
    assert net.degrees() == [8] * 9
    assert [node.dials for node in net.up()] == dials, "there is nobody to look for"


def test_NoArgument_AllStartedAgainInAnyOrder_OneMesh() -> None:
    for seed in range(10):
        net = Simulation(seed)
        nodes = net.grow(12)
        net.run(20.0)
        for node in nodes:
            node.crash()
            node.given = []
        net.run(60.0)
        for node in net.rng.sample(nodes, len(nodes)):
            net.run(net.now + net.rng.uniform(0.0, 3.0))
            node.kept = [known for known in node.kept if not known.by_hand]
            node.start()
        assert wait_settled(net, 60.0) < 60.0
