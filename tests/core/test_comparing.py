"""Two nodes find out what differs between their version vectors."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_sync.core import comparing
from p2p_sync.core.fingerprints import Fingerprints, digest, key_of, leaf_of
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import ReplicaLink
from p2p_sync.settings import LOOK_PAUSE, SMALL_VECTOR
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.frames import decode, encode
from p2p_sync.wire.logframes import NO_HASH, Graft, Have, Head, LogFrame, Look, Run, Sums

ONE, OTHER = "1" * 32 + "-1", "2" * 32 + "-1"
SIGNATURE = "0123456789abcdef" * 12
RTT = 0.02


def heads(names: Iterable[str], n: int = 1) -> dict[str, Head]:
    """What is held of origins: `n` messages each."""
    running = chain(NO_HASH, [Entry(1, "text")] * n)[-1]
    return {name: Head(n, running, SIGNATURE) for name in names}


def origins(count: int, start: int = 0) -> list[str]:
    """Names of origins: 50 nodes that have started very often."""
    return [f"{n % 50:032x}-{n:019d}" for n in range(start, start + count)]


class Pair:
    """Two nodes with one link; what they say travels as text. Nothing is shipped."""

    def __init__(self, one: dict[str, Head], other: dict[str, Head]) -> None:
        self.now = 100.0
        self.bytes = 0
        self.frames: list[tuple[int, LogFrame]] = []
        self.trips = 0  # one way
        self.nodes = [
            Replica(name, vector, random.Random(1), 100_000)
            for name, vector in ((ONE, one), (OTHER, other))
        ]
        self.links = [
            node.open(name, RTT, 0.0) for node, name in zip(self.nodes, "ab", strict=True)
        ]

    def exchange(self, until: float = 0.0) -> None:
        """Let both sides say all that they have to say until a time."""
        while True:
            texts: list[tuple[int, str]] = []
            for index, link in enumerate(self.links):
                while (work := link.take(self.now)).frames:
                    texts += [(index, encode(frame)) for frame in work.frames]
            for index, text in texts:
                self._arrive(index, text)
            if any("GRAFT" not in text for _, text in texts):
                self.trips += 1
            elif self.now >= until:
                return
            else:
                self.now = min(until, self.now + LOOK_PAUSE)

    def _arrive(self, index: int, text: str) -> None:
        frame = decode(text)
        assert isinstance(frame, Sums | Look | Have | Graft)
        self.frames.append((index, frame))
        if not isinstance(frame, Graft):
            self.bytes += len(text)
        other = 1 - index
        self.nodes[other].receiver.receive(self.links[other], frame, self.now)

    def wanted(self) -> list[set[str]]:
        """What each side has learned that it lacks."""
        return [{*link.ahead} for link in self.links]

    def lags(self) -> list[int]:
        """How many messages the peer of each side lacks, as that side knows."""
        return [node.lag(link) for node, link in zip(self.nodes, self.links, strict=True)]


def differing(count: int, differ: int, seed: int = 1) -> Pair:
    """Two nodes with that many origins. Of some each holds more than the other."""
    names = origins(count)
    chosen = random.Random(seed).sample(names, differ)
    one, other = heads(names), heads(names)
    for index, name in enumerate(chosen):
        (one, other)[index % 2].update(heads([name], 2))
    return Pair(one, other)


@pytest.mark.parametrize("count", [0, 1, SMALL_VECTOR, 1_000, 100_000])
def test_equal_logs_cost_one_small_frame_each_way(count: int) -> None:
    pair = differing(count, 0)
    pair.exchange()
    assert pair.trips == 1 and pair.bytes < 200
    assert pair.lags() == [0, 0] and all(link.introduced for link in pair.links)
    name = origins(1)[0]
    assert not count or pair.nodes[0].copies(name, 1) == {"a"}


@pytest.mark.parametrize(("differ", "kilobytes"), [(1, 10), (10, 60), (100, 400)])
def test_of_very_many_origins_only_what_differs_costs(differ: int, kilobytes: int) -> None:
    pair = differing(100_000, differ)
    pair.exchange()
    held = [node.vector.held for node in pair.nodes]
    expected = [set(), set()]  # type: list[set[str]]
    for name in origins(100_000):
        if held[0](name) != held[1](name):
            expected[held[0](name) > held[1](name)].add(name)
    assert sum(map(len, expected)) == differ
    assert pair.wanted() == expected
    assert pair.lags() == [len(expected[1]), len(expected[0])]
    assert pair.bytes < 1000 * kilobytes and pair.trips <= 6, (pair.bytes, pair.trips)


def test_an_audit_of_a_healthy_link_costs_less_than_100_bytes() -> None:
    pair = differing(100_000, 0)
    pair.exchange()
    before = len(pair.frames)
    pair.exchange(until=pair.now + 31.0)
    audits = [frame for index, frame in pair.frames[before:] if index == 0]
    assert audits and {type(frame) for frame in audits} == {Sums}
    text = encode(audits[0])
    assert len(text) + len(f',"clock":{1_700_000_000_000}') < 100, text


def test_what_differs_on_a_link_that_is_up_is_found_by_the_audit() -> None:
    """However it came to that."""
    pair = differing(1_000, 0)
    pair.exchange()
    name = origins(1)[0]
    origin = pair.nodes[0].vector.origins[name]
    fingerprints = pair.nodes[0].vector.fingerprints
    before = origin.n, origin.hash
    origin.n, origin.hash, _ = heads([name], 2)[name]
    fingerprints.update(origin, *before)
    pair.exchange(until=pair.now + 31.0)
    assert pair.wanted() == [set(), {name}]


names_of = st.sets(st.sampled_from(origins(400)), max_size=300)


@settings(max_examples=60)
@given(names_of, names_of, names_of, st.sampled_from([0, 5, 64]), st.integers(1, 300))
def test_each_side_learns_what_it_lacks_and_what_the_other_lacks(
    both: set[str], mine: set[str], theirs: set[str], small: int, named: int
) -> None:
    one, other = heads(both | mine), heads(both | theirs)
    one.update(heads(sorted(mine)[:20], 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "SMALL_VECTOR", small)
        patch.setattr(comparing, "LOOK_NAMED", named)
        patch.setattr(comparing, "MAX_LOOKED_MARKS", 7 * named)
        patch.setattr(comparing, "MAX_LOOKED_LEAVES", named)
        pair = Pair(one, other)
        pair.exchange(until=pair.now + 25.0)
    lacks = [
        {name for name, head in a.items() if head.n > b.get(name, Head(0, "", "")).n}
        for a, b in ((other, one), (one, other))
    ]
    assert pair.wanted() == lacks
    for index, link in enumerate(pair.links):
        ours, theirs_now = (one, other)[index], (other, one)[index]
        for name, head in ours.items():
            held = theirs_now.get(name, Head(0, "", "")).n
            assert min(head.n, link.progress.held(name)) == min(head.n, held)
        assert pair.lags()[index] == sum(
            max(0, head.n - theirs_now.get(name, Head(0, "", "")).n) for name, head in ours.items()
        )


def test_a_fresh_node_asks_for_no_more_than_it_has_room_for() -> None:
    pair = Pair({}, heads(origins(5_000)))
    pair.exchange(until=pair.now + 10.0)
    (link, _) = pair.links
    assert len(link.ahead) == 500 and pair.nodes[0].catch_up.behind(pair.now) >= 500
    taken: set[str] = set()
    while link.ahead:
        runs = [Run(name, 0, NO_HASH, (Entry(1, "text"),)) for name in [*link.ahead]]
        for run in runs:
            hashes = chain(NO_HASH, run.entries)
            whole = Run(run.origin, 0, NO_HASH, run.entries, hashes, SIGNATURE)
            taken.add(run.origin)
            tree = pair.nodes[0].trees.of(run.origin)
            pair.nodes[0].vector.stage(tree.origin, whole)
            pair.nodes[0].stored([whole], pair.now)
        pair.exchange(until=pair.now + 1.0)
    assert taken == set(origins(5_000)) and pair.nodes[0].catch_up.behind(pair.now) == 0
    assert digest(pair.nodes[0].vector.heads()) == pair.nodes[1].vector.fingerprints.digest


def test_the_marks_of_a_leaf_that_somebody_has_filled_still_fit() -> None:
    """Start numbers can be chosen so that all origins fall into one leaf."""
    leaf = leaf_of(key_of("0" * 32 + "-0"))
    candidates = (f"{0:032x}-{n}" for n in range(10**9))
    filled = [*itertools.islice((n for n in candidates if leaf_of(key_of(n)) == leaf), 150)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "MAX_LOOKED_MARKS", 40)
        patch.setattr(comparing, "LOOK_NAMED", 20)
        pair = Pair(heads(filled[:100]), heads(filled[50:]))
        pair.exchange(until=pair.now + 10.0)
    assert pair.wanted() == [set(filled[100:]), set(filled[:50])]


def test_sums_are_kept_up_to_date() -> None:
    rng = random.Random(1)
    replica = Replica(ONE, {}, rng)
    for _ in range(300):
        name = rng.choice(origins(40))
        tree = replica.trees.of(name)
        run = Run(name, tree.origin.n, tree.origin.hash, (Entry(1, "text"),))
        run = Run(name, run.after, run.previous, run.entries, chain(run.previous, run.entries))
        replica.vector.stage(tree.origin, run)
        replica.stored([run], 0.0)
        if rng.random() < 0.1:
            replica.lose(name, Head(0, NO_HASH, ""))
    vector = replica.vector.heads()
    assert replica.vector.fingerprints.digest == digest(vector)
    assert replica.count == sum(head.n for head in vector.values())
    again = Replica(ONE, vector, rng).vector.fingerprints
    assert again.branches() == replica.vector.fingerprints.branches()
    for branch in range(64):
        assert again.leaves(branch) == replica.vector.fingerprints.leaves(branch)


def test_very_many_origins_take_little_memory_and_time() -> None:
    vector = heads(origins(100_000))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        node = Replica(ONE, vector, random.Random(1))
        of_node = tracemalloc.get_traced_memory()[0] - before
        link: ReplicaLink = node.open("peer", RTT, 0.0)
        total = node.vector.fingerprints
        equal = Sums(total.total, total.origins, total.messages)
        node.receiver.receive(link, equal, 1.0)
        of_link = tracemalloc.get_traced_memory()[0] - before - of_node
    finally:
        tracemalloc.stop()
    assert of_node < 50_000_000 and of_link < 100_000, (of_node, of_link)
    begun = time.thread_time()
    look = Look(tuple(range(4096)), 0, 1 << 52, ())
    node.receiver.receive(link, look, 2.0)
    link.take(2.0)
    other = Sums("0" * 32, total.origins, total.messages, total.branches())
    node.receiver.receive(link, other, 3.0)
    link.take(3.0)
    node.lag(link), node.count, total.digest
    assert time.thread_time() - begun < 0.05


def test_fingerprints_of_nothing() -> None:
    empty = Fingerprints()
    assert empty.digest == digest({}) == "0" * 64 and empty.total == "0" * 32
