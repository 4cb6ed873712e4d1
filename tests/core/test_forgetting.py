"""Origins that their nodes have ended, by the rules alone and in the simulator."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import ReplicaLink
from p2p_sync.core.shipping import Ship
from p2p_sync.wire.cutoffs import NO_HISTORY, START_STEP, choose, cutoff_of
from p2p_sync.wire.heads import Heads
from p2p_sync.wire.logframes import Graft, Have, Head, Look, Vector
from tests.harness.simulator import Node, Simulation, Wire

NODE = "a" * 32
SIGNATURE = "0" * 192
TIME = 1_700_000_000_000


def origin(start: int, rest: str = "") -> str:
    return f"{NODE}-{start * START_STEP + 5}{rest}"


def test_Choose_SomeKept_TheCutoffIsTheStartBehindTheLastThatIsNotKept() -> None:
    one, two, three, present = (origin(start) for start in (1, 2, 3, 9))
    assert choose(100, present, {}) == 0, "there is nothing to end"
    assert choose(100, present, {one: False}) == 9
    assert choose(100, present, {one: False, two: False, three: True}) == 3
    assert choose(100, present, {one: True, two: False}) == 0
    assert choose(2, present, {one: False, two: False}) == 2
    assert choose(8, present, {one: False, two: False}) == 2, "the second may have newer messages"
    branch = origin(1, "~3~" + "0" * 32)
    assert choose(100, present, {one: False, branch: True}) == 0, "a branch of it is kept"
    assert choose(100, present, {one: False, branch: False}) == 9


def replica(vector: Vector, limit: int = 1_000_000) -> tuple[Replica, ReplicaLink]:
    made = Replica(f"{'f' * 32}-1", vector, random.Random(1), limit)
    return made, made.open("e" * 32, 0.01, 0.0, host="peer")


def store(made: Replica, link: ReplicaLink, have: dict[str, Head]) -> int:
    """Let a peer send cutoffs, and store those that are taken; return how many."""
    runs = made.receiver.receive(link, Have(have), 1.0).runs
    made.stored(runs, 1.0)
    return len(runs)


def test_Cutoff_ManyOrigins_EndedInShortTurnsAndForgotten() -> None:
    names = [f"{NODE}-{START_STEP * n}" for n in range(1, 99_001)]
    made, link = replica({name: Head(3, "0" * 31 + "1", SIGNATURE) for name in names})
    turns: list[float] = []
    cutoff = Head(200_000, NO_HISTORY, SIGNATURE)
    runs = made.receiver.receive(link, Have({cutoff_of(NODE): cutoff}), 1.0).runs
    for action in (made.forgetting.end, made.forgetting.forget):
        for at in range(0, len(names), 100):
            began_at = time.thread_time()
            action(names[at : at + 100])
            turns.append(time.thread_time() - began_at)
        made.stored(runs, 1.0)
        runs = []
    assert made.vector.heads() == {cutoff_of(NODE): cutoff} and made.count == 0
    assert made.vector.origins.keys() == {cutoff_of(NODE)} and not made.vector.ended
    assert made.lag(link) == 0
    assert sorted(turns)[-20] < 0.02, "of the processor; it takes about 0.5 ms"


def test_Cutoff_OfManyInventedNodes_OnlyAsManyAsNewOriginsAreTaken() -> None:
    made, link = replica({"b" * 32 + "-1": Head(1, "0" * 31 + "1", SIGNATURE)}, limit=10)
    link.met = 0.0
    taken = 0
    for part in range(20):
        nodes = [f"{n:032x}" for n in range(1000 * part + 1, 1000 * part + 1001)]
        cutoff = Head(TIME, NO_HISTORY, SIGNATURE)
        taken += store(made, link, {cutoff_of(node): cutoff for node in nodes})
    assert taken == len(made.vector.cutoffs) <= 100


def test_Cutoff_LaterOnesWhileOneIsWithTheWriter_WaitForALaterComparison() -> None:
    made, link = replica({})
    made.receiver.receive(link, Have({}, last=True), 1.0)
    first, later = (Head(TIME + n, NO_HISTORY, SIGNATURE) for n in range(2))
    runs = made.receiver.receive(link, Have({cutoff_of(NODE): first}), 1.0).runs
    assert not any(isinstance(frame, Look) for frame in link.take(1.0).frames)
    assert not made.receiver.receive(link, Have({cutoff_of(NODE): later}), 1.0).runs
    assert any(isinstance(frame, Look) for frame in link.take(1.0).frames), "it is asked for again"
    made.stored(runs, 1.0)
    assert store(made, link, {cutoff_of(NODE): first}) == 0
    assert store(made, link, {cutoff_of(NODE): later}) == 1
    assert made.vector.heads() == {cutoff_of(NODE): later}


def test_Cutoff_OfOneHundredThousandNodes_FitsInMemory() -> None:
    tracemalloc.start()
    try:
        head, nodes = Head(TIME, NO_HISTORY, SIGNATURE), range(100_000)
        vector = Heads({cutoff_of(f"{n:032x}"): head for n in nodes})  # as the log hands it over
        before, _ = tracemalloc.get_traced_memory()
        made, _ = replica(vector)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made.vector.cutoffs) == 100_000
    assert after - before < 50_000_000


def ending(sim: Simulation, nodes: list[Node]) -> None:
    """Let all nodes forget what they can."""
    for _ in range(4):
        for node in nodes:
            node.forget()
        sim.run(sim.now + 5.0)


@pytest.mark.parametrize("seed", range(5))
def test_Ended_ACopyOfTheNodeGoesOnWithTheOrigin_NothingIsLost(seed: int) -> None:
    sim = Simulation(seed, careful=True)
    nodes = sim.add(3, keep=4)
    one, two, three = nodes
    Wire(one, two)
    Wire(two, three)
    one.commit("first")
    sim.run(2.0)
    old, snapshot = one.replica.origin, one.on_disk.copy()
    one.crash()
    one.left = ""
    one.start()
    sim.run(sim.now + 1.0)
    Wire(one, two)
    for n in range(8):
        one.commit(f"{n}")
        sim.run(sim.now + 0.5)
    sim.run(sim.now + 35.0)  # until all have said what they keep
    ending(sim, nodes)
    assert not any(old in node.log for node in nodes), "forgotten"
    one.crash()
    one.replace_disk(snapshot)
    one.start(old)  # its machine comes back to life as it was
    one.commit("after the snapshot")
    sim.run(sim.now + 1.0)
    message = one.log[old][-1]
    Wire(one, two)
    assert sim.run(sim.now + 60.0, sim.equal)
    assert all(node.log[old][1:] == [message] for node in nodes)
    assert one.replica.origin != old, "new commits get a new origin"
    assert not sim.offences


def test_Ended_WhileTheSenderReads_NothingOfItIsSentAnyMore() -> None:
    """Else a peer that knows the cutoff would take it for messages since then."""
    name = origin(1)
    made, link = replica({name: Head(3, "0" * 31 + "1", SIGNATURE)})
    made.receiver.receive(link, Have({}, last=True), 1.0)
    made.receiver.receive(link, Graft({name: 0}), 1.0)
    ships: list[Ship] = []
    while (work := link.take(1.0)).frames or work.ships:
        ships += work.ships
        link.shipped(work.ships, 1.0)
    assert ships == [(name, 0, 3)]
    made.forgetting.end([name])
    cutoff = Head(2, NO_HISTORY, SIGNATURE)
    assert store(made, link, {cutoff_of(NODE): cutoff}) == 1
    link.shipping.correct(name, 3, 1, 2.0)
    link.announcing.soon(name)
    link.announcing.confirm(name, 2.0)
    made.receiver.receive(link, Graft({name: 0}), 2.0)
    told: set[str] = set()
    for now in (2.0, 4.0, 6.0):
        while (work := link.take(now)).frames:
            told.update(*(getattr(frame, "have", {}) for frame in work.frames))
        assert not work.ships
    assert told <= {cutoff_of(NODE)}


def counting(names: list[str], links: int) -> tuple[Replica, list[ReplicaLink]]:
    """A node that holds origins with a message each, and peers that have claimed half of them."""
    made, _ = replica({name: Head(1, "0" * 31 + "1", SIGNATURE) for name in names})
    others = [made.open(f"{n:032x}", 0.01, 0.0, host=f"{n}") for n in range(links)]
    for link in others:
        link.comparing.all()
        for at in range(0, len(names) // 2, 500):
            have = {name: made.vector.head(name) for name in names[at : at + 500]}
            made.receiver.receive(link, Have(have), 1.0)
    return made, others


def test_Ended_AMemberBringsMany_TurnsAreShortAndTheLagIsRight() -> None:
    names = [f"{NODE}-{START_STEP * n}" for n in range(1, 3_001)]
    made, links = counting(names, 20)
    runs = made.receiver.receive(
        links[0], Have({cutoff_of(NODE): Head(TIME, NO_HISTORY, SIGNATURE)}), 1.0
    ).runs
    made.forgetting.end(names)
    made.stored(runs, 1.0)
    head, turns = Head(1, "0" * 31 + "1", SIGNATURE), []
    for at in range(0, len(names), 500):
        began_at = time.thread_time()
        made.receiver.receive(links[0], Have(dict.fromkeys(names[at : at + 500], head)), 1.0)
        turns.append(time.thread_time() - began_at)
    assert not made.vector.ended and made.count == 3_000
    assert sorted(turns)[2] < 0.05, "of the processor; it takes about 8 ms"
    for link in links:
        lag = made.lag(link)
        link.progress.count()
        assert lag == made.lag(link) == (0 if link is links[0] else 3_000)
    made.forgetting.end(names[:1_000])
    for link in links:
        lag = made.lag(link)
        link.progress.count()
        assert lag == made.lag(link)


def test_Ended_APeerThatKnowsTheCutoffBringsLess_ItCounts() -> None:
    """Also where the peer holds less of the origin, and whatever the times of its messages."""
    made, link = replica({origin(1): Head(3, "0" * 31 + "1", SIGNATURE)})
    stranger = made.open("d" * 32, 0.01, 0.0, host="stranger")
    cutoff = {cutoff_of(NODE): Head(9, NO_HISTORY, SIGNATURE)}
    runs = made.receiver.receive(link, Have(cutoff), 1.0).runs
    made.forgetting.end([origin(1)])
    assert made.vector.ended
    assert not made.forgetting.forget([origin(1)]), "the cutoff is not stored yet"
    less = {origin(1): Head(2, "0" * 31 + "2", SIGNATURE)}
    made.receiver.receive(stranger, Have(less), 1.0)
    assert made.vector.ended, "it may not know the cutoff, which is with the writer"
    made.stored(runs, 1.0)
    made.receiver.receive(stranger, Have(less), 1.0)
    assert made.vector.ended
    made.receiver.receive(link, Have(less), 1.0)
    assert not made.vector.ended and made.count == 3
    assert made.vector.changed_since(0)[0].name == origin(1), "it is announced"


def test_Ended_StillOnTheDisk_TakesRoomInTheTableOfOrigins() -> None:
    names = [f"{NODE}-{START_STEP * n}" for n in range(1, 100_001)]
    made, link = replica({name: Head(1, "0" * 31 + "1", SIGNATURE) for name in names})
    made.forgetting.end(names)
    head = Head(1, "0" * 31 + "1", SIGNATURE)
    made.receiver.receive(link, Have({"b" * 32 + "-1": head}), 1.0)
    assert not made.catch_up.gaps, "else a member could fill the disk with origins that it ends"
    assert "holds 100,000 origins" in made.warnings(1.0)[0]


def test_Cutoff_WhileClaimsOfTheOldOriginsAreOpen_ThoseAreVoid() -> None:
    made, link = replica({})
    stranger = made.open("d" * 32, 0.01, 0.0, host="stranger")
    head = Head(3, "0" * 31 + "1", SIGNATURE)
    for one in (link, stranger):
        made.receiver.receive(one, Have({origin(1): head, origin(20): head}), 1.0)
    cutoff = {cutoff_of(NODE): Head(9, NO_HISTORY, SIGNATURE)}
    made.receiver.receive(link, Have(cutoff), 1.0)
    claims = {name: [*gap.claims] for name, gap in made.catch_up.gaps.items()}
    assert claims == {origin(20): [link, stranger]}


def test_Cutoff_OfACopyOfThisNode_TheOriginForItsCommitsCounts() -> None:
    """Else its peers would not get what it has committed there, if the copy's clock was ahead."""
    own = f"{'f' * 32}-1"
    made, _ = replica({own: Head(3, "0" * 31 + "1", SIGNATURE)})
    made.forgetting.end([own])
    assert made.origin == own and made.count == 3


def test_Claimed_BeforeThePeerSentTheCutoff_AskedAgain() -> None:
    """What it claims in the same frame, or later, it claims in spite of the cutoff."""
    name, other = origin(1), origin(2)
    made, link = replica({})
    claims = {each: Head(6, "0" * 31 + "1", SIGNATURE) for each in (name, other)}
    made.receiver.receive(link, Have(claims, last=True), 1.0)
    assert {*made.catch_up.gaps} == {name, other} and link.missing == 12
    cutoff = {cutoff_of(NODE): Head(9, NO_HISTORY, SIGNATURE)}
    assert store(made, link, {other: claims[other], **cutoff}) == 1
    assert {*made.catch_up.gaps} == {other} and link.missing == 6
    assert any(isinstance(frame, Look) for frame in link.take(1.0).frames)
