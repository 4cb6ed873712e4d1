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

from p2p_sync.core import comparing, fingerprints
from p2p_sync.core.fingerprints import Fingerprints, digest, key_of, leaf_of
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import ReplicaLink
from p2p_sync.settings import LOOK_PAUSE, SMALL_VECTOR
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.frames import decode, encode
from p2p_sync.wire.logframes import (
    NO_HASH,
    Fork,
    Graft,
    Have,
    Head,
    LogFrame,
    Look,
    Prune,
    Run,
    Sums,
)

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
            Replica(name, vector, random.Random(name), 100_000)
            for name, vector in ((ONE, one), (OTHER, other))
        ]
        self.links = [
            node.open(name, RTT, 0.0) for node, name in zip(self.nodes, "ab", strict=True)
        ]

    def exchange(self, until: float = 0.0) -> None:
        """Let both sides say all that they have to say until a time."""
        while True:
            texts: list[tuple[int, str]] = []
            for index in (0, 1):
                texts += [(index, text) for text in self.say(index)]
            for index, text in texts:
                self._arrive(index, text)
            if any("GRAFT" not in text for _, text in texts):
                self.trips += 1
            elif self.now >= until:
                return
            else:
                self.now = min(until, self.now + LOOK_PAUSE)

    def say(self, index: int) -> list[str]:
        """Return the frames that one side has to send now, as text."""
        texts: list[str] = []
        while (work := self.links[index].take(self.now)).frames:
            texts += map(encode, work.frames)
        return texts

    def hear(self, index: int, texts: Iterable[str]) -> None:
        """Let the frames of one side arrive at the other one."""
        for text in texts:
            self._arrive(index, text)

    def step(self) -> None:
        """Let both sides say once what they have to say."""
        texts = self.say(0), self.say(1)
        self.hear(0, texts[0])
        self.hear(1, texts[1])

    def grow(self, index: int, name: str) -> None:
        """Let one side store one message more of an origin."""
        node = self.nodes[index]
        origin = node.trees.of(name).origin
        entries = (Entry(1, "text"),)
        hashes = chain(origin.hash, entries)
        run = Run(name, origin.n, origin.hash, entries, hashes, SIGNATURE)
        node.vector.stage(origin, run)
        node.stored([run], self.now)

    def missing(self, index: int) -> int:
        """How many messages of one side the other one lacks."""
        held = self.nodes[1 - index].vector.held
        heads = self.nodes[index].vector.heads()
        return sum(max(0, head.n - held(name)) for name, head in heads.items())

    def fill_up(self, index: int) -> None:
        """Let there be no room on one side for new origins."""
        self.nodes[index].catch_up.full = lambda name, held, *_: not held  # type: ignore[method-assign]

    def _arrive(self, index: int, text: str) -> None:
        frame = decode(text)
        assert isinstance(frame, Sums | Look | Have | Graft | Prune | Fork)
        self.frames.append((index, frame))
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
    n, before = origin.n, origin.packed
    origin.hold(heads([name], 2)[name])
    fingerprints.update(origin, origin.n - n, before)
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


def test_what_is_stored_while_branches_are_compared_is_not_taken_as_held() -> None:
    names = origins(200)
    pair = Pair(heads(names), heads(names) | heads(names[:1], 2))
    pair.step()
    name = next(n for n in names if leaf_of(key_of(n)) >> 6 != leaf_of(key_of(names[0])) >> 6)
    branches = pair.say(0), pair.say(1)
    pair.grow(0, name)  # while the branches are on their way
    pair.hear(0, branches[0])
    pair.hear(1, branches[1])
    pair.hear(1, [text for text in pair.say(1) if "SUMS" in text])
    assert not pair.nodes[0].copies(name, 2) and pair.lags()[0] >= 1
    pair.exchange(until=pair.now + 5.0)
    assert not pair.nodes[0].copies(name, 2) and pair.lags() == [1, 1]
    pair.grow(1, name)
    pair.exchange(until=pair.now + 60.0)
    assert pair.nodes[0].copies(name, 2) and pair.lags() == [0, 1]


def test_a_claim_without_room_does_not_hold_up_the_comparison() -> None:
    """It may come before the two know what differs."""
    names = origins(200)
    pair = Pair(heads(names), heads(names) | heads(names[:1], 2))
    pair.fill_up(0)
    pair.step()
    claim = Have(heads(["9" * 32 + "-5"]))
    pair.nodes[0].receiver.receive(pair.links[0], claim, pair.now)
    pair.exchange(until=pair.now + 1.0)
    assert all(link.introduced for link in pair.links)
    assert names[0] in pair.links[0].ahead and pair.lags() == [0, 1]


@pytest.mark.parametrize("count", [10, 200], ids=["small", "large"])
def test_an_audit_that_differs_forgets_nothing(count: int) -> None:
    names = origins(count)
    pair = Pair(heads(names, 50), heads(names, 50))
    pair.exchange()
    link, node = pair.links[0], pair.nodes[0]
    pair.now += 31.0
    pair.grow(1, names[1])
    for _ in range(5):  # the sums, and what follows
        texts = pair.say(0), pair.say(1)
        pair.hear(0, texts[0])
        pair.hear(1, [text for text in texts[1] if '"lacks"' in text or "HAVE" not in text])
        assert node.copies(names[0], 50) and node.lag(link) == 0
    assert any(isinstance(frame, Look) for _, frame in pair.frames)


def test_an_origin_is_not_shipped_again_because_another_one_differs() -> None:
    names = origins(10)
    pair = Pair(heads(names, 50), heads(names, 50))
    pair.exchange()
    link, node = pair.links[0], pair.nodes[0]
    node.trees.of(names[0]).attach(link)
    for n in (51, 52, 53):
        pair.now += 31.0
        pair.grow(1, names[1])
        pair.hear(1, [text for text in pair.say(1) if "SUMS" in text])
        pair.grow(0, names[0])
        ships = link.take(pair.now).ships
        assert [(ship.origin, ship.after) for ship in ships] == [(names[0], n - 1)]
        link.shipped(ships, pair.now)
        pair.grow(1, names[0])
        node.receiver.receive(link, Have(heads(names[:1], n)), pair.now)
        assert node.lag(link) == 0 and node.copies(names[0], n)
        pair.exchange(until=pair.now + 5.0)


def test_sums_that_were_made_to_agree_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has searched for two histories of his origin whose marks end in the same digits."""
    name, real = "a" * 32 + "-1", fingerprints._mark

    def mark(of: str, n: int, running: str) -> int:
        found = real(of, n, running)
        return found >> 48 << 48 | 0xABC if of == name else found

    monkeypatch.setattr(fingerprints, "_mark", mark)
    fork = {name: Head(1, "f" * 32, SIGNATURE)}
    for others in ({}, heads(origins(200))):
        pair = Pair(others | heads([name]), others | fork)
        pair.exchange(until=pair.now + 40.0)
        assert [set(link.refused) for link in pair.links] == [{name}, {name}]
        assert len(pair.frames) < 30


def test_nobody_knows_the_marks_before_the_question() -> None:
    """So nobody can search for two histories with the same."""
    names = origins(10)
    pair = Pair(heads(names), heads(names))
    for _ in range(5):
        pair.exchange()
        pair.now += 31.0
        pair.grow(0, names[0])
    looks = [frame for _, frame in pair.frames if isinstance(frame, Look)]
    marks = [mark for look in looks for mark in look.known]
    assert len(looks) >= 4 and len(set(marks)) == len(marks)


def test_origins_for_which_there_is_no_room_hold_up_no_others() -> None:
    old, excess = origins(100), [f"{n:032x}-7" for n in range(1_000, 2_000)]
    other = heads(old) | heads(excess) | heads(old[:50], 5)
    pair = Pair(heads(old), other)
    pair.fill_up(0)
    pair.exchange(until=pair.now + 30.0)
    link = pair.links[0]
    assert {*link.ahead} == {*old[:50]} and link.introduced
    assert pair.lags()[0] == 0 and pair.nodes[0].copies(old[60], 1)
    assert 900 <= link.comparing.ignored <= 1_000
    pair.frames.clear()
    pair.exchange(until=pair.now + 600.0)
    looks = [frame for index, frame in pair.frames if index == 0 and isinstance(frame, Look)]
    assert 5 <= len(looks) <= 20, "they are asked for now and then"
    del pair.nodes[0].catch_up.full
    pair.exchange(until=pair.now + 600.0)
    assert {*link.ahead} > {*old[:50]}


def test_what_differs_for_good_is_compared_rarely() -> None:
    """Here for lack of room: one side asks again and again what the other one lacks."""
    old, excess = origins(100), [f"{n:032x}-7" for n in range(1_000, 21_000)]
    pair = Pair(heads(old), heads(old) | heads(excess))
    pair.fill_up(0)
    pair.exchange(until=pair.now + 100.0)
    pair.bytes = 0
    for _ in range(20):
        pair.grow(1, old[0])
        pair.exchange(until=pair.now + 30.0)
    assert pair.bytes < 5_000 * 600, "5 kB a second"
    assert pair.lags() == [0, 20_020] and pair.links[0].introduced


def test_a_comparison_without_marks_ends_with_it() -> None:
    names = origins(200)
    pair = Pair(heads(names), {})
    pair.exchange()
    while pair.links[1].ahead:
        for name in [*pair.links[1].ahead]:
            pair.grow(1, name)
        pair.exchange(until=pair.now + 1.0)
    pair.exchange(until=pair.now + 60.0)
    assert pair.lags() == [0, 0]
    claim = Have(heads(["9" * 32 + "-5"]))
    pair.fill_up(0)
    pair.nodes[0].receiver.receive(pair.links[0], claim, pair.now)
    pair.exchange(until=pair.now + 90.0)
    assert pair.lags() == [0, 0] and pair.nodes[0].copies(names[5], 1)


def test_what_a_small_node_says_in_parts_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "SMALL_VECTOR", 20)
    monkeypatch.setattr(comparing, "LOOK_NAMED", 3)
    names = origins(22)
    pair = Pair(heads(names[:20], 5), heads(names[:20], 5))
    pair.exchange()
    pair.now += 31.0
    pair.grow(0, names[20])  # it has become large, and the other one has not
    pair.exchange(until=pair.now + 5.0)
    assert pair.lags() == [1, 0] and pair.nodes[0].copies(names[3], 5)


def test_what_is_equal_is_not_asked_for_and_shipped_when_it_grows() -> None:
    names = origins(10)
    pair = Pair(heads(names), heads(names) | heads(names[:1], 2))
    pair.exchange(until=pair.now + 1.0)
    asked = {name for frame in pair.frames for name in getattr(frame[1], "after", {})}
    assert asked == set(names[:1])
    pair.now += 1.0
    pair.grow(0, names[5])
    assert list(pair.links[0].take(pair.now).ships) == [(names[5], 1, 2)]


def test_nothing_of_a_refused_origin_counts_as_held() -> None:
    names = origins(100)
    for known in (False, True):
        pair = Pair(heads(names, 3), heads(names, 3))
        if known:
            pair.exchange()
        fork = {names[0]: Head(3, "f" * 32, SIGNATURE)}
        pair.nodes[0].receiver.receive(pair.links[0], Have(fork), pair.now)
        pair.exchange(until=pair.now + 40.0)
        assert not pair.nodes[0].copies(names[0], 1) and pair.lags()[0] == 3


def test_there_is_one_question_at_a_time() -> None:
    """So no old answer is taken for one to another question."""
    names = origins(10)
    pair = Pair(heads(names), heads(names) | heads(names[:1], 2))
    pair.hear(1, pair.say(1))
    assert sum("LOOK" in text for text in pair.say(0)) == 1
    pair.grow(0, names[0])
    for _ in range(5):
        pair.now += 31.0
        pair.hear(1, [text for text in pair.say(1) if "SUMS" in text])
        assert not any("LOOK" in text for text in pair.say(0))
        pair.grow(1, names[1])
    assert pair.links[0].comparing.silent(pair.now)


def test_sums_of_branches_are_answered_in_pace() -> None:
    """An answer takes 5 ms to make."""
    pair = differing(1_000, 0)
    pair.exchange()
    sums = pair.nodes[0].vector.fingerprints
    ask = Sums("0" * 32, sums.origins, sums.messages, "0" * 768)
    answers = 0
    for _ in range(100):
        pair.nodes[0].receiver.receive(pair.links[0], ask, pair.now)
        answers += sum('"leaves"' in text for text in pair.say(0))
        pair.now += 0.02
    assert 2 <= answers <= 3


def test_questions_come_in_pace_whatever_a_peer_says() -> None:
    pair = differing(1_000, 0)
    pair.exchange()
    sums = pair.nodes[0].vector.fingerprints
    texts: list[str] = []
    for n in range(1_000):
        other = Sums(f"{n:032x}", sums.origins, sums.messages)
        pair.nodes[0].receiver.receive(pair.links[0], other, pair.now)
        leaves = dict.fromkeys(range(64), "0" * 768)
        other = Sums(f"{n:032x}", sums.origins, sums.messages, leaves=leaves)
        pair.nodes[0].receiver.receive(pair.links[0], other, pair.now)
        texts += pair.say(0)
        pair.nodes[0].receiver.receive(pair.links[0], Have({}, next=1 << 40, lacks=()), pair.now)
        pair.now += 0.01
    assert sum("branches" in text for text in texts) <= 2
    assert sum("LOOK" in text for text in texts) <= 10.0 / LOOK_PAUSE + 1


def test_the_marks_of_a_leaf_that_somebody_has_filled_still_fit() -> None:
    """Start numbers can be chosen so that all origins fall into one leaf."""
    leaf = leaf_of(key_of("0" * 32 + "-1"))
    candidates = (f"{0:032x}-{n}" for n in range(1, 10**9))
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
