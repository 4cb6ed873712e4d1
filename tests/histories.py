"""Short random histories with faults of every kind; in the end the promises must hold.

python -m tests.histories --count 1000          many seeds
python -m tests.histories --seed 7 --trace      one of them, with all that happens
"""

from __future__ import annotations

import argparse
import itertools
import time
import traceback
from collections import Counter

from p2p_sync.core import comparing
from p2p_sync.core.deduplication import node_of
from p2p_sync.core.fingerprints import digest
from p2p_sync.wire.cutoffs import began, cutoff_of
from p2p_sync.wire.entries import NOTICE, Entry
from p2p_sync.wire.forks import Branch
from p2p_sync.wire.logframes import Sums
from p2p_sync.wire.signing import is_genuine
from tests.harness.simulator import Disk, Node, Simulation, Wire, is_same

LIMIT = 100.0
"""Seconds after the last fault within which all nodes have to be equal. Disks take up to a second,
a frame of three messages up to a half, so this is far from what to expect of a mesh."""
FORGOTTEN = 400.0
"""The same after cutoffs. What a cutoff makes void is asked for again by the next comparison, which
the last one has put off by 15 s for each LOOK; and here each LOOK brings a single origin."""


class History:
    """One random history."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.sim = Simulation(seed, trace=trace, careful=True)
        self.rng = rng = self.sim.rng
        # Where a history forks before what is kept, nobody can find out where. So nothing is
        # deleted where a machine comes back to life (see `_fork`).
        self.forks = rng.choice((1, 1, 2, 3)) if rng.random() < 0.2 else 0
        self.deleting = not self.forks and rng.random() < 0.3
        self.ending = self.deleting and rng.random() < 0.6  # all nodes keep little
        self.erasing = not self.forks and rng.random() < 0.3
        for _ in range(rng.randint(3, 8)):
            self.sim.add(
                1,
                disk=rng.choice((0.0, 0.0, 0.005, 0.1, 1.0)),
                skew_ms=rng.choice((0, 0, 0, 500, -500, 50_000, -3_600_000, 20 * 3_600_000)),
                slow=rng.choice((0.0, 0.0, 0.0, 0.5)),
                batch=rng.choice((1_000, 1_000, 3)),
                keep=rng.choice((0, 5) if self.ending else (None, 0, 5, 40))
                if self.deleting
                else None,
            )
        self.nodes = self.sim.nodes
        self.latency = rng.choice((0.001, 0.02, 0.1, 0.4))
        self.jitter = self.latency * rng.choice((0.0, 0.5, 3.0))
        self.pace = rng.choice((0.01, 0.1, 1.0))  # seconds between steps, on average
        self.wires: dict[tuple[int, int], Wire] = {}
        self.backups = {node: node.on_disk.copy() for node in self.nodes}
        self.sim.tampering = rng.choice((0.02, 0.2)) if rng.random() < 0.1 else 0.0
        # Most of these logs are small. So is what counts as small in some histories.
        small, named = rng.choice((64, 64, 3, 0)), rng.choice((250, 2, 1))
        vars(comparing).update(SMALL_VECTOR=small, LOOK_NAMED=named)
        self.texts = itertools.count()
        self.steps: Counter[str] = Counter()

    def run(self) -> float:
        """Run it; return how long after the last fault all were equal, in simulated seconds.

        Raises AssertionError where a promise is broken.
        """
        sim, rng = self.sim, self.rng
        for pair in self._topology():
            self._link(*pair)
        steps = [self._commit] * 6 + [self._cut] * 2 + [self._open] * 2 + [self._crash] * 2
        steps += [self._burst, self._part, self._freeze, self._wipe, self._backup, self._restore]
        steps += [self._fill, self._repair] + [self._erase] * 3 * self.erasing
        steps += [self._forget] * 8 * self.deleting
        for _ in range(rng.randint(10, 60) * (1 + self.ending)):
            step = rng.choice(steps)
            self.steps[step.__name__] += 1
            step()
            sim.run(sim.now + rng.expovariate(1 / self.pace))
        for _ in range(self.forks):
            self._fork()
        self._peace()
        began = sim.now
        assert sim.run(began + LIMIT, sim.equal), f"not equal {LIMIT} s after the last fault"
        took = sim.now - began
        if self.ending:
            self._end_all()
        thawed = max((wire.frozen for wire in self.wires.values()), default=0.0)
        # Until each cut and each frozen link is noticed, and what a link has held back is answered.
        sim.run(max(sim.now + 12.0, thawed + 5.0))
        self._check()
        self._check_quiet()
        return took

    # -- Faults ----------------------------------------------------------------------------------

    def _topology(self) -> list[tuple[int, int]]:
        n, rng = len(self.nodes), self.rng
        line = [(i, i + 1) for i in range(n - 1)]
        full = list(itertools.combinations(range(n), 2))
        return rng.choice(
            (
                line,
                [*line, (0, n - 1)],
                [(0, i) for i in range(1, n)],
                [(rng.randrange(i), i) for i in range(1, n)],
                [pair for pair in full if rng.random() < 0.5],
                full,
            )
        )

    def _link(self, a: int, b: int) -> None:
        old = self.wires.get((a, b))
        one, other = self.nodes[a], self.nodes[b]
        if one.up and other.up and (old is None or old.lost):
            self.sim.trace(one, "and", other, "are linked")
            self.wires[a, b] = Wire(one, other, self.latency, self.jitter)

    def _any(self) -> Node:
        return self.rng.choice(self.nodes)

    def _any_wire(self) -> Wire | None:
        live = [wire for wire in self.wires.values() if not wire.lost]
        return self.rng.choice(live) if live else None

    def _commit(self) -> None:
        self._any().commit(f"text {next(self.texts)}", ack=self.rng.random() < 0.2)

    def _burst(self) -> None:
        node = self._any()
        for _ in range(self.rng.randint(1, 30)):
            node.commit(f"text {next(self.texts)}", "and more")

    def _cut(self) -> None:
        wire = self._any_wire()
        if wire:
            wire.cut(self.rng.choice((0.0, 0.1, 5.0)))

    def _open(self) -> None:
        self._link(*sorted(self.rng.sample(range(len(self.nodes)), 2)))

    def _freeze(self) -> None:
        wire = self._any_wire()
        if wire:
            wire.frozen = max(wire.frozen, self.sim.now + self.rng.uniform(0.0, 20.0))
            self.sim.trace("frozen:", *(end.node for end in wire.ends))

    def _part(self) -> None:
        half = set(self.rng.sample(range(len(self.nodes)), len(self.nodes) // 2))
        for (a, b), wire in self.wires.items():
            if (a in half) != (b in half):
                wire.cut(self.rng.choice((0.0, 5.0)))

    def _crash(self) -> None:
        node = self._any()
        if node.up:
            node.crash()
        else:
            if self.rng.random() < (0.7 if self.ending else 0.2):
                node.left = ""  # another boot of the machine
            node.start()

    def _wipe(self) -> None:
        self._replace(self._any(), Disk())

    def _backup(self) -> None:
        node = self._any()
        self.backups[node] = node.on_disk.copy()

    def _restore(self) -> None:
        node = self._any()
        self._replace(node, self.backups[node].copy())

    def _erase(self) -> None:
        node = self._any()
        held = [
            f"{name}:{seq}"
            for name, log in node.log.items()
            for seq, entry in enumerate(log, 1)
            if entry and entry.kind != NOTICE
        ]
        if held:
            node.erase(self.rng.choice(held))

    def _forget(self) -> None:
        self._any().forget()

    def _replace(self, node: Node, disk: Disk, origin: str | None = None) -> None:
        if node.up:
            node.crash()
        node.replace_disk(disk)
        node.start(origin)

    def _fill(self) -> None:
        self._any().full = True

    def _repair(self) -> None:
        self._any().repair()

    def _fork(self) -> None:
        """Bring a machine back to life as it ran some commits before."""
        node = self._any()
        if not node.up:
            return
        origin = node.replica.origin
        node.commit(f"before {next(self.texts)}")
        disk = node.on_disk.copy()
        for _ in range(self.rng.randint(1, 5)):
            node.commit(f"once {next(self.texts)}", *["more"] * self.rng.randint(0, 2))
        self.sim.run(self.sim.now + self.rng.choice((0.0, 0.1, 2.0)))
        self.sim.forked.add(origin)
        self._replace(node, disk, origin)
        for _ in range(self.rng.randint(0, 5)):
            node.commit(f"otherwise {next(self.texts)}", *["more"] * self.rng.randint(0, 2))
        self.sim.run(self.sim.now + self.rng.choice((0.0, 0.1, 2.0)))

    def _peace(self) -> None:
        """End all faults: all nodes run, and are connected."""
        self.sim.trace("peace")
        self.sim.tampering = 0.0
        for node in self.nodes:
            node.repair()
            if not node.up:
                node.start()
        for i in range(len(self.nodes) - 1):
            self._link(i, i + 1)

    def _end_all(self) -> None:
        """All nodes begin new origins, and the old ones are forgotten, also by a node that comes
        back with what it had before."""
        sim, nodes = self.sim, self.nodes
        away = self._any()
        before = away.on_disk.copy()
        for node in nodes:
            self._again(node, node.on_disk)
        for _ in range(10):
            for node in nodes:
                node.commit(f"text {next(self.texts)}")
            sim.run(sim.now + 1.0)
        self._forget_all()
        gone = before.log.keys() - nodes[0].replica.vector.heads().keys()
        cutoffs = nodes[0].on_disk.cutoffs
        for name, log in before.log.items():
            cutoff = cutoffs.get(cutoff_of(node_of(name)))
            if cutoff and log and log[-1] and log[-1].time >= cutoff.n:
                gone.discard(name)  # a message since the cutoff, as a copy of a node commits it
        self._again(away, before)
        self._forget_all()
        for node in nodes:
            back = gone & node.replica.vector.heads().keys()
            assert not back, f"{node} holds {back} again"

    def _again(self, node: Node, disk: Disk) -> None:
        node.crash()
        node.replace_disk(disk)
        node.start()
        self.sim.run(self.sim.now + 6.0)
        for i in range(len(self.nodes) - 1):
            self._link(i, i + 1)

    def _forget_all(self) -> None:
        for _ in range(6):
            for node in self.nodes:
                node.forget()
            self.sim.run(self.sim.now + 5.0)
        assert self.sim.run(self.sim.now + FORGOTTEN, self.sim.equal), "not equal after forgetting"

    # -- Promises --------------------------------------------------------------------------------

    def _check(self) -> None:
        sim, nodes = self.sim, self.nodes
        for node in nodes:
            ended = node.replica.vector.ended
            assert all(map(node.is_ended, ended)), f"{node} does not count what is not ended"
            names = [*(name for name in node.log if name not in ended), *node.on_disk.cutoffs]
            heads = {name: node.head(name, len(node.log.get(name, ()))) for name in names}
            assert node.replica.vector.heads() == heads
            assert all(is_genuine(name, head) for name, head in heads.items())
            self._check_floors(node)
            self._check_erased(node)
            for (name, seq), message in node.acknowledged.items():
                for other in nodes:
                    entries = other.log.get(name, [])[seq - 1 :][:1]
                    if name in sim.forked:
                        entries += branched(other, name, seq)
                    fits = any(is_same(held, message) for held in entries if held)
                    fits = fits or seq <= other.on_disk.floors.get(name, 0)
                    cutoff = other.on_disk.cutoffs.get(cutoff_of(node.id))
                    # Of an ended origin nothing was kept where its node could see it.
                    fits = fits or (cutoff is not None and began(name) < cutoff.n)
                    assert fits, f"{other} lacks {name}:{seq}"
        assert len({digest(node.replica.vector.heads()) for node in nodes}) == 1
        if not self.deleting:
            assert all(node.log.keys() == nodes[0].log.keys() for node in nodes)
            assert not any(node.core.exchange.missed for node in nodes)
        assert not any(node.conflicts for node in nodes)
        assert sim.tampered or not sim.offences["gap"], "honest nodes leave nothing out"
        assert sim.offences["signature"] <= sim.tampered
        for node in nodes:
            for end in node.ends:
                if not end.wire.lost and end.wire.frozen < sim.now - 10.0:
                    link = end.peer.log
                    assert link and node.replica.lag(link) == link.believed(sim.now) == 0

    def _check_floors(self, node: Node) -> None:
        """All that is above the floors is held, and no more is deleted than has to be."""
        floors = node.on_disk.floors
        for name, log in node.log.items():
            floor = floors.get(name, 0)
            assert floor <= len(log) and all(log[floor:]), "some below may be held, too"
        if node.keep is None and not node.core.exchange.missed and node.starts == 1:
            assert not floors, f"{node} keeps all, and has missed nothing"

    def _check_erased(self, node: Node) -> None:
        """The text of an erased message is gone from every node that the notice has reached."""
        for target in node.on_disk.erasures:
            name, _, seq = target.partition(":")
            log, at = node.log.get(name, []), int(seq) - 1
            entry = log[at] if at < len(log) else None
            if entry:
                first = at
                while first and not node.on_disk.hashes[name][first - 1]:
                    first -= 1
                assert entry.texts[at - first] is None, f"{node} still has {target}"
        for name, log in node.log.items() if not self.deleting else ():
            for n, entry in enumerate(log, 1):
                if entry and entry.kind == NOTICE:
                    assert entry.text in node.on_disk.erasures, f"{name}:{n} was passed over"

    def _check_quiet(self) -> None:
        """With nothing to do, links carry a SUMS each 30 s or a little less, and no more."""
        sim = self.sim
        sim.run(sim.now + 40.0)  # the last GRAFT may be answered by a frozen wire
        before = sim.frames.copy()
        sim.run(sim.now + 60.0)
        sent = sim.frames - before
        links = sum(len(node.ends) for node in self.nodes)
        assert set(sent) <= {Sums}, f"{sent} with nothing to do"
        assert links <= sent[Sums] <= 3 * links


def branched(node: Node, base: str, seq: int) -> list[Entry | None]:
    """Return what a node holds in branches of an origin that was committed under a number of it."""
    found: list[Entry | None] = []
    for name, log in node.log.items():
        branch = Branch.of(name)
        if branch.first and branch.base == base and branch.after < seq:
            found += log[seq - branch.after - 1 :][:1]
    return found


def failing(seeds: range) -> list[int]:
    """Run the histories of these seeds; print and return those that break a promise."""
    bad = []
    for seed in seeds:
        try:
            History(seed).run()
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} fails; see it by: python -m tests.histories --seed {seed} --trace")
            bad.append(seed)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000, help="how many seeds (1000)")
    parser.add_argument("--seed", type=int, help="the first one (0), or the only one")
    parser.add_argument("--trace", action="store_true", help="one seed, and all that happens")
    options = parser.parse_args()
    if options.trace:
        print(f"equal after {History(options.seed or 0, trace=True).run():.1f} s")
        return 0
    first = options.seed or 0
    began = time.process_time()
    bad = failing(range(first, first + options.count))
    print(f"{options.count} histories, {len(bad)} fail, {time.process_time() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
