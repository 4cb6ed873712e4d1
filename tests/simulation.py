"""What the replicated log costs and how fast it is, measured in the simulator.

    python -m tests.simulation --nodes 1000     the stable tree of a mesh of that size
    python -m tests.simulation tree             the same for 25, 100 and 1,000 nodes
    python -m tests.simulation first            duplicates from the very first message on
    python -m tests.simulation broadcast        Maelstrom's broadcast workload
    python -m tests.simulation deaths           a tenth of 100 nodes dies at once
    python -m tests.simulation grow             1,000 nodes started from one address
    python -m tests.simulation die              30 % of them die at once
    python -m tests.simulation churn            1 % of them are killed each second
    python -m tests.simulation parted           they part into halves, and meet again
    python -m tests.simulation all

Each prints what it measured beside its goal, and exits with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from p2p_sync.wire.frames import Sockets
from p2p_sync.wire.logframes import Have
from tests.harness.simulator import Node, Simulation, Wire, regular


class Row(NamedTuple):
    """One measured figure."""

    figure: str
    measured: float
    goal: float  # at most this
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is as good as it has to be."""
        return round(self.measured, 6) <= self.goal


def mesh(seed: int, nodes: int, degree: int, latency: float, jitter: float = 0.0) -> Simulation:
    """Return a simulation of a random mesh whose links have just opened."""
    sim = Simulation(seed)
    sim.add(nodes)
    for a, b in regular(nodes, degree, sim.rng):
        Wire(sim.nodes[a], sim.nodes[b], latency, jitter)
    sim.run(3.0)
    return sim


def warm_up(sim: Simulation, origins: Iterable[Node]) -> None:
    """Let each origin's first message find its tree."""
    for node in origins:
        node.commit("first")
    sim.run(sim.now + 7.0)


def spreads(sim: Simulation) -> list[float]:
    """Return for each watched commit how long it took to reach all nodes, in seconds."""
    assert all(sim.holders[key] == len(sim.nodes) for key in sim.started)
    return [sim.spread[key] - began for key, began in sim.started.items()]


# -- The figures ----------------------------------------------------------------------------------


def stable_tree(
    nodes: int, degree: int, commits: int = 1_000, origins: int = 20, seed: int = 1
) -> list[Row]:
    """Copies of each message that a node receives once each origin has its tree."""
    sim = mesh(seed, nodes, degree, 0.02, 0.01)
    sources = sim.nodes[:origins]
    warm_up(sim, sources)
    received, delivered, frames = sim.received, sim.delivered, Counter(sim.frames)
    for i in range(commits):
        sim.at(sim.now + i / 50, lambda: sim.rng.choice(sources).commit("text", watch=True))
    began = time.process_time()
    sim.run(sim.now + commits / 50 + 3.0)
    took = time.process_time() - began
    delivered = sim.delivered - delivered
    times = spreads(sim)
    name = f"{nodes} nodes, degree {degree}: "
    haves = (sim.frames[Have] - frames[Have]) / delivered
    print(
        f"{name}{delivered:,} deliveries in {took:.1f} s of this machine, "
        f"{haves:.3f} HAVE frames each; spread at 20 to 30 ms a hop: "
        f"median {statistics.median(times) * 1000:.0f} ms, most {max(times) * 1000:.0f} ms"
    )
    return [Row(name + "copies of each message", (sim.received - received) / delivered, 1.02)]


def first_messages(
    nodes: int = 100, degree: int = 6, origins: int = 100, each: int = 40, seed: int = 1
) -> list[Row]:
    """Duplicates while the trees are being found, the flood of each first message apart."""
    sim = mesh(seed, nodes, degree, 0.02, 0.01)
    for node in sim.nodes[:origins]:
        began = sim.now + sim.rng.uniform(0.0, 5.0)
        for i in range(each):
            sim.at(began + i / 50, node.commit, "text")
    sim.run(sim.now + each / 50 + 10.0)
    assert sim.equal()
    later = sim.received - sim.received_first
    needed = origins * (each - 1) * (nodes - 1)
    print(f"first messages: {sim.received_first / (origins * (nodes - 1)):.2f} copies each")
    name = f"{nodes} nodes, degree {degree}, {each} messages per origin: duplicates"
    return [Row(name, (later - needed) / needed * 100, 1.0, "%")]


def broadcast(
    *,
    seconds: float = 60.0,
    seed: int = 1,
    cold: bool = False,
) -> list[Row]:
    """Maelstrom's broadcast workload: 25 nodes, 100 ms a hop, 100 operations/s, half are reads.

    `cold` counts the floods of the first messages too.
    """
    sim = mesh(seed, 25, 8, 0.1)
    if not cold:
        warm_up(sim, sim.nodes)
    before = sum(sim.frames.values())
    operations = int(seconds * 100)
    for i in range(0, operations, 2):  # a read costs no frames
        node = sim.rng.choice(sim.nodes)
        sim.at(sim.now + i / 100, lambda node=node: node.commit("text", watch=True))
    sim.run(sim.now + seconds)
    frames = sum(sim.frames.values()) - before
    sim.run(sim.now + 5.0)
    times = [seconds * 1000 for seconds in spreads(sim)]
    name = "broadcast" + (", floods of the first messages included" if cold else "")
    return [
        Row(f"{name}: frames per operation", frames / operations, 12.5),
        Row(f"{name}: median until all have it", statistics.median(times), 200.0, "ms"),
        Row(f"{name}: most", max(times), 300.0, "ms"),
    ]


def deaths(
    seeds: Iterable[int] = range(20), nodes: int = 100, degree: int = 8, latency: float = 0.1
) -> list[Row]:
    """A tenth of the nodes dies under 50 commits a second; the living miss nothing.

    Measured is the longest time that a commit, of before or after, that a living node holds took to
    reach all living nodes, counted from the deaths on where it is older. Peers see that a link is
    closed after one hop's time.
    """
    longest = []
    for seed in seeds:
        sim = mesh(seed, nodes, degree, latency)
        warm_up(sim, sim.nodes)
        death = sim.now + 3.0
        dying = sim.rng.sample(sim.nodes, nodes // 10)

        def commit(sim: Simulation = sim) -> None:
            sim.rng.choice([node for node in sim.nodes if node.up]).commit("text", watch=True)

        def die(sim: Simulation = sim, dying: list[Node] = dying) -> None:
            for node in dying:
                ends = list(node.ends)
                node.crash()
                for end in ends:
                    sim.at(sim.now + latency, end.other.close)

        for i in range(50 * 8):
            sim.at(sim.now + i / 50, commit)
        sim.at(death, die)
        sim.run(death + 20.0)
        assert sim.equal()
        living = next(node for node in sim.nodes if node.up)
        times = [
            sim.spread[name, seq] - max(began, death)
            for (name, seq), began in sim.started.items()
            if len(living.log.get(name, ())) >= seq
        ]
        longest.append(max(times))
        print(f"seed {seed}: {longest[-1]:.2f} s", flush=True)
    return [Row("a tenth dies: until all living hold all, worst seed", max(longest), 1.5, "s")]


def trees() -> list[Row]:
    """The stable tree for 25, 100 and 1,000 nodes."""
    rows = []
    for nodes, degree in ((25, 6), (25, 8), (100, 6), (100, 8), (1_000, 6), (1_000, 8)):
        rows += stable_tree(nodes, degree)
    return rows


# -- The overlay ----------------------------------------------------------------------------------


def grown(nodes: int, seed: int, seconds: float = 60.0) -> Simulation:
    """Return a network whose nodes were started at once from one address."""
    net = Simulation(seed)
    net.grow(nodes)
    net.run(seconds)
    return net


def grow(nodes: int = 1_000, seed: int = 1) -> list[Row]:
    """Nodes that know one address find each other; then they probe and exchange links."""
    net = Simulation(seed)
    net.grow(nodes)
    while not (net.in_one_piece() and min(net.degrees()) >= 4) and net.now < 120.0:
        net.run(net.now + 0.5)
    took = net.now
    frames, dials = net.frames[Sockets], sum(node.dials for node in net.up())
    least, most = min(net.degrees()), 0
    pieces = 0
    while net.now < took + 60.0:
        net.run(net.now + 1.0)
        degrees = net.degrees()
        least, most = min(least, *degrees), max(most, *degrees)
        pieces += not net.in_one_piece()
    calm = (net.frames[Sockets] - frames) / nodes
    known = statistics.mean(len(node.overlay.book.known) for node in net.up())
    print(
        f"{nodes} nodes: {dials / nodes:.1f} dials and {frames / nodes:.0f} SOCKETS frames a node "
        f"to get there; {calm:.1f} frames a node in the minute after, {known:.0f} addresses known"
    )
    name = f"{nodes} nodes from one address: "
    return [
        Row(name + "one mesh, each with 4 links at least, after", took, 60.0, "s"),
        Row(name + "least links in the minute after, below 4 by", max(0, 4 - least), 0.0),
        Row(name + "most links", most, 16.0),
        Row(name + "seconds in more than one piece", pieces, 0.0),
    ]


def load(net: Simulation, seconds: float, origins: list[Node], rate: float = 2.0) -> None:
    """Let some nodes commit for a while, those that are up, `rate` a second in sum."""
    for i in range(int(seconds * rate)):
        node = origins[i % len(origins)]
        net.at(net.now + i / rate, node.commit, "text")


def settled(net: Simulation, nodes: list[Node]) -> bool:
    """Whether all is well among these: one piece, nobody alone, the same log everywhere."""
    vectors = [node.replica.vector.heads() for node in nodes]
    return net.in_one_piece(nodes) and all(vector == vectors[0] for vector in vectors)


def wait_settled(net: Simulation, limit: float) -> float:
    """Run until all is well; return how long that took, infinity if longer than `limit`."""
    began = net.now
    while net.now < began + limit:
        if settled(net, net.up()):
            return net.now - began
        net.run(net.now + 0.5)
    return float("inf")


def die(nodes: int = 1_000, seed: int = 1) -> list[Row]:
    """30 % of the nodes die at once, under commits."""
    net = grown(nodes, seed)
    load(net, 10.0, net.up()[:20])
    net.run(net.now + 5.0)
    for node in net.rng.sample(net.up(), nodes * 3 // 10):
        node.crash()
    began = net.now
    while not (net.in_one_piece() and min(net.degrees()) >= 4) and net.now < began + 60.0:
        net.run(net.now + 0.5)
    joined = net.now - began
    agreed = wait_settled(net, 60.0) + joined
    name = f"30 % of {nodes} nodes die: until the others "
    return [
        Row(name + "are one mesh again", joined, 15.0, "s"),
        Row(name + "hold the same, all that one of them held", agreed, 15.0, "s"),
    ]


def churn(nodes: int = 1_000, seed: int = 1, seconds: float = 30.0) -> list[Row]:
    """Each second 1 % of the nodes are killed; they come back after 5 to 15 s."""
    net = grown(nodes, seed)
    origins = net.up()[:20]
    load(net, seconds, origins)
    pieces = 0
    began: dict[Node, float] = {}
    until = net.now + seconds

    def restart(node: Node) -> None:
        node.start()
        began[node] = net.now

    while net.now < until:
        for node in net.rng.sample(net.up(), max(1, nodes // 100)):
            node.crash()
            net.at(net.now + net.rng.uniform(5.0, 15.0), restart, node)
        net.run(net.now + 1.0)
        pieces += not net.in_one_piece([n for n in net.up() if began.get(n, 0.0) < net.now - 3.0])
    net.run(net.now + 16.0)
    agreed = wait_settled(net, 60.0)
    name = f"1 % of {nodes} nodes a second are killed: "
    return [
        Row(name + "seconds in which those up for 3 s are parted", pieces, 0.0),
        Row(name + "at the end, all are back and agree after", agreed, 15.0, "s"),
    ]


def parted(nodes: int = 1_000, seed: int = 1, seconds: float = 120.0) -> list[Row]:
    """Two halves that cannot reach each other refill their links, commit, and meet again."""
    net = grown(nodes, seed)
    net.part(2)
    load(net, seconds, net.up()[:20], 0.5)
    net.run(net.now + seconds)
    assert not net.in_one_piece()
    assert min(net.degrees()) >= 4, "both have refilled their links"
    net.part(1)
    joined = wait_settled(net, 120.0)
    return [Row(f"halves of {nodes} nodes, parted {seconds:.0f} s, are one again", joined, 30, "s")]


FIGURES: dict[str, Callable[[], list[Row]]] = {
    "tree": trees,
    "first": first_messages,
    "broadcast": broadcast,
    "deaths": deaths,
    "grow": grow,
    "die": die,
    "churn": churn,
    "parted": parted,
}


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", nargs="?", choices=[*FIGURES, "all"])
    parser.add_argument("--nodes", type=int, help="the stable tree of this many nodes")
    parser.add_argument("--degree", type=int, default=8, help="links of each of them (8)")
    options = parser.parse_args()
    gc.disable()  # there is nothing to find, and much to look through
    rows: list[Row] = []
    if options.nodes:
        rows = stable_tree(options.nodes, options.degree)
    else:
        for name in FIGURES if options.figure in (None, "all") else [options.figure]:
            rows += FIGURES[name]()
    width = max(len(row.figure) for row in rows)
    print(f"\n{'figure':{width}} {'measured':>12} {'goal':>10}")
    for row in rows:
        verdict = "" if row.met else "  MISSED"
        print(f"{row.figure:{width}} {row.measured:>9.4g} {row.unit:2} {row.goal:>10g}{verdict}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
