"""What the replicated log costs and how fast it is, measured in the simulator.

    python -m tests.simulation --nodes 1000     the stable tree of a mesh of that size
    python -m tests.simulation tree             the same for 25, 100 and 1,000 nodes
    python -m tests.simulation first            duplicates from the very first message on
    python -m tests.simulation broadcast        Maelstrom's broadcast workload
    python -m tests.simulation linger           the same, trading delay for frames
    python -m tests.simulation deaths           a tenth of 100 nodes dies at once
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

from p2p_sync.logframes import Have
from tests.simulator import Node, Simulation, Wire, regular


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


def mesh(
    seed: int, nodes: int, degree: int, latency: float, jitter: float = 0.0, linger: float = 0.0
) -> Simulation:
    """Return a simulation of a random mesh whose links have just opened."""
    sim = Simulation(seed)
    sim.add(nodes, linger=linger)
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
    linger: float = 0.0,
    goals: tuple[float, float, float] = (12.5, 200.0, 300.0),
    *,
    seconds: float = 60.0,
    seed: int = 1,
    cold: bool = False,
) -> list[Row]:
    """Maelstrom's broadcast workload: 25 nodes, 100 ms a hop, 100 operations/s, half are reads.

    `cold` counts the floods of the first messages too.
    """
    sim = mesh(seed, 25, 8, 0.1, linger=linger)
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
    name = "broadcast" + (f", linger {linger * 1000:.0f} ms" if linger else "")
    name += ", floods of the first messages included" if cold else ""
    return [
        Row(f"{name}: frames per operation", frames / operations, goals[0]),
        Row(f"{name}: median until all have it", statistics.median(times), goals[1], "ms"),
        Row(f"{name}: most", max(times), goals[2], "ms"),
    ]


def broadcast_lingering(seed: int = 1, seconds: float = 60.0) -> list[Row]:
    """The same workload with delay traded for frames."""
    return broadcast(0.15, (7.0, 600.0, 1000.0), seconds=seconds, seed=seed)


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
                ends = list(node.ends.values())
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


FIGURES: dict[str, Callable[[], list[Row]]] = {
    "tree": trees,
    "first": first_messages,
    "broadcast": broadcast,
    "linger": broadcast_lingering,
    "deaths": deaths,
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
