"""The rules of the replicated log, one by one, without a network."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from p2p_sync.core import catch_up, comparing, newcomers, replica_link
from p2p_sync.core.fingerprints import digest, key_of, leaf_of
from p2p_sync.core.placing import Move
from p2p_sync.core.receiver import Conflict
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import ReplicaLink
from p2p_sync.settings import MAX_ORIGINS_NAMED, NEVER
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.forks import name_of
from p2p_sync.wire.logframes import (
    NO_HASH,
    NO_SIGNATURE,
    Fork,
    Graft,
    Have,
    Head,
    LogFrame,
    Look,
    Messages,
    Prune,
    Run,
    Sums,
)

US = "0" * 32 + "-1"
O = "a" * 32 + "-1"  # noqa: E741 - an origin
P = "b" * 32 + "-1"
RTT = 0.2


def run(origin: str, after: int, end: int, prefix: str = "") -> Run:
    """Messages after+1 ... end of an origin; another `prefix` makes other contents."""
    messages = tuple(Entry(n, f"{prefix}{n}") for n in range(1, end + 1))
    hashes = chain(NO_HASH, messages)
    whole = Run(origin, 0, NO_HASH, messages, hashes)
    rest = whole.beyond(after)
    assert rest
    return rest


def entry(n: int, prefix: str = "") -> Head:
    """What HAVE says of the first n messages of an origin. The core does not look at signatures."""
    return Head(n, run(O, 0, n, prefix).hashes[-1], NO_SIGNATURE)


ABSURD = Head(2**40, "0" * 32, NO_SIGNATURE)


class Bench:
    """A replica with a time, a writer that stores at once, and links whose frames are seen."""

    def __init__(self, **held: int) -> None:
        vector = {{"O": O, "P": P, "US": US}[name]: entry(n) for name, n in held.items()}
        self.replica = Replica(US, vector, random.Random(1))
        self.conflicts: list[Conflict] = []  # that frames have shown
        self.offences: Counter[str] = Counter()  # ... and protocol violations, by kind
        self.now = 100.0

    def link(self, peer: str = "peer", /, **holds: int) -> ReplicaLink:
        """Open a link over which both sides have told their vectors."""
        link = self.replica.open(peer, RTT, self.now, host="192.0.2.1")
        told = {{"O": O, "P": P, "US": US}[name]: entry(n) for name, n in holds.items()}
        self.receive(link, Have(told, last=True))
        self.sent(link)
        return link

    def receive(self, link: ReplicaLink, frame: Any, store: bool = True) -> list[Run]:
        accepted, conflicts, offences, _ = self.replica.receiver.receive(link, frame, self.now)
        self.conflicts += conflicts
        self.offences.update(offences)
        if store and accepted:
            self.replica.stored(accepted, self.now)
        return accepted

    def forks(self) -> list[tuple[str, str]]:
        """The peers and origins of the conflicts that frames have shown."""
        return [(conflict.peer, conflict.origin) for conflict in self.conflicts]

    def arrive(self, link: ReplicaLink, *runs: Run) -> list[Run]:
        return self.receive(link, Messages(runs))

    def commit(self, count: int = 1, ack: bool = False) -> None:
        messages = [Entry(1, "text")] * count
        self.replica.stored([self.replica.commit(messages, self.now, ack)], self.now)

    def later(self, seconds: float) -> None:
        """Let time pass, and the timer tick when it has to."""
        until = self.now + seconds
        while self.replica.catch_up.deadline <= until:
            self.now = max(self.now, self.replica.catch_up.deadline)
            self.replica.catch_up.tick(self.now)
        self.now = until

    def sent(self, link: ReplicaLink) -> list[Any]:
        """What the link's sender sends now: frames, and what it ships as (origin, after, upto)."""
        seen: list[Any] = []
        while True:
            work = link.take(self.now)
            seen += work.frames
            seen += [tuple(ship) for ship in work.ships]
            if work.ships and (work.have or work.ack):
                seen.append(Have(work.have, ack=work.ack))
            if work.ships:
                link.shipped(work.ships, self.now)
            if not work.frames and not work.ships:
                return seen


# -- The first message, feeders and PRUNE ---------------------------------------------------------


def test_FirstMessage_Committed_ShippedOnAllLinks() -> None:
    bench = Bench()
    links = [bench.link(), bench.link()]
    bench.commit()
    assert [bench.sent(link) for link in links] == [[(US, 0, 1)]] * 2


def test_Feeder_AskedToBeFedBeforeItsRunCame_AskedAgainSoon() -> None:
    """Questions have crossed: each took the other one for its feeder, and ships no more."""
    bench = Bench()
    link = bench.link(O=1)
    bench.receive(link, Graft({O: 1}))
    bench.arrive(link, run(O, 0, 1))
    bench.sent(link)
    bench.receive(link, Have({O: entry(3)}))
    bench.later(5.0)
    assert [frame.after for frame in bench.sent(link)] == [{O: 1}]


def test_FirstMessages_CommittedTogether_FirstAloneFloods() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit(1000)
    assert bench.sent(link) == [(US, 0, 1)]
    bench.later(2 * RTT)
    assert bench.sent(link) == [(US, 1, 1000)]


def test_FirstMessage_Received_ShippedOnAllOtherLinks() -> None:
    bench = Bench()
    source, other = bench.link(), bench.link()
    assert bench.arrive(source, run(O, 0, 1)) == [run(O, 0, 1)]
    assert bench.sent(other) == [(O, 0, 1)]
    assert bench.sent(source) == []


def test_SecondMessage_WithinARoundTrip_HeldThenShipped() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit()
    bench.sent(link)
    bench.commit()
    assert bench.sent(link) == []
    bench.now = link.take(bench.now).until
    assert RTT < bench.now - 100.0 < 2 * RTT
    assert bench.sent(link) == [(US, 1, 2)]


def test_SecondMessage_PrunedMeanwhile_NotShipped() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit()
    bench.sent(link)
    bench.receive(link, Prune((US,)))
    bench.commit()
    bench.later(1.0)
    assert bench.sent(link) == [Have({US: bench.replica.vector.heads()[US]})]


def test_SecondMessage_HeldThenPruned_ToldSoon() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit()
    bench.sent(link)
    bench.commit()
    assert bench.sent(link) == []
    bench.receive(link, Prune((US,)))
    bench.later(0.05)
    assert bench.sent(link) == [Have({US: bench.replica.vector.heads()[US]})]


def test_Duplicate_FromAnotherLink_PrunedOnce() -> None:
    bench = Bench()
    feeder, other = bench.link(), bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    assert bench.arrive(other, run(O, 0, 1)) == []
    assert bench.sent(other) == [Prune((O,))]
    bench.arrive(other, run(O, 0, 1))
    assert bench.sent(other) == []


def test_Duplicate_FromTheFeeder_NotPruned() -> None:
    bench = Bench()
    feeder = bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    bench.arrive(feeder, run(O, 0, 1))
    assert bench.sent(feeder) == []


def test_Duplicate_OfAnOwnMessage_Pruned() -> None:
    bench = Bench()
    bench.commit()
    link = bench.link()
    own = Run(US, 0, NO_HASH, (Entry(1, "text"),), chain(NO_HASH, [Entry(1, "text")]))
    assert bench.arrive(link, own) == []
    assert bench.sent(link) == [Prune((US,))]


def test_NewMessage_NotFromTheFeeder_TakenAndPruned() -> None:
    bench = Bench()
    feeder, other = bench.link(), bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    assert bench.arrive(other, run(O, 1, 2)) == [run(O, 1, 2)]
    assert bench.sent(other) == [Prune((O,))]


def test_Run_PartlyKnown_OnlyTheRestIsNew() -> None:
    bench = Bench()
    link = bench.link()
    bench.arrive(link, run(O, 0, 3))
    assert bench.arrive(link, run(O, 1, 5)) == [run(O, 3, 5)]


def test_Run_WithTheWriterAlready_NotNewAgain() -> None:
    bench = Bench()
    one, other = bench.link(), bench.link()
    assert bench.receive(one, Messages((run(O, 0, 2),)), store=False)
    assert bench.receive(other, Messages((run(O, 0, 2),)), store=False) == []


# -- Links that open ------------------------------------------------------------------------------


def test_Opening_PeersVectorUnknown_NothingShipped() -> None:
    bench = Bench()
    bench.commit()
    link = bench.replica.open("peer", RTT, bench.now)
    bench.receive(link, Graft({US: 0}))
    assert [type(frame) for frame in bench.sent(link)] == [Sums]
    bench.receive(link, Have({}, last=True))
    assert bench.sent(link) == [(US, 0, 1)]


def test_Opening_LogGrowsMeanwhile_TheRestIsAnnounced() -> None:
    bench = Bench(O=3)
    link = bench.replica.open("peer", RTT, bench.now)
    assert [type(frame) for frame in bench.sent(link)] == [Sums]
    bench.commit()
    bench.later(1.0)
    told = [frame.have for frame in bench.sent(link) if isinstance(frame, Have)]
    assert told == [{US: bench.replica.vector.heads()[US]}]


def test_Opening_PeerLacksHistory_PulledByGraftOnly() -> None:
    bench = Bench(O=5)
    link = bench.link()
    assert bench.sent(link) == []
    bench.receive(link, Graft({O: 2}))
    assert bench.sent(link) == [(O, 2, 5)]


def test_Opening_WeLackHistory_PulledOverOneLink() -> None:
    bench = Bench()
    one = bench.replica.open("one", RTT, bench.now)
    other = bench.replica.open("other", RTT, bench.now)
    for link in (one, other):
        bench.receive(link, Have({O: entry(5)}, last=True))
    assert Graft({O: 0}) in bench.sent(one)
    assert not any(isinstance(frame, Graft) for frame in bench.sent(other))


def test_Opening_HistoryPulled_NotFlooded() -> None:
    bench = Bench()
    source, other = bench.link(O=5), bench.link()
    bench.arrive(source, run(O, 0, 5))
    assert bench.sent(other) == [Have({O: entry(5)})]


def test_Opening_Equal_NothingAskedAndTheNextMessageShipped() -> None:
    bench = Bench(O=5)
    feeder = bench.replica.open("peer", RTT, bench.now)
    bench.receive(feeder, Have({O: entry(5)}, last=True))
    assert [type(frame) for frame in bench.sent(feeder)] == [Sums]
    other = bench.link(O=5)
    bench.arrive(feeder, run(O, 5, 6))
    assert bench.sent(other) == [(O, 5, 6)]
    assert bench.sent(feeder) == []


def test_Opening_AmidAStreamOfMessages_TheNextOneShipped() -> None:
    bench, feeder, lazy = fed()
    bench.later(1.0)
    new = bench.link(O=1)
    bench.arrive(feeder, run(O, 1, 2))
    assert bench.sent(new) == [(O, 1, 2)]
    assert not any(isinstance(frame, tuple) for frame in bench.sent(lazy)), "it was pruned"
    bench.receive(new, Prune((O,)))
    bench.later(1.0)
    bench.arrive(feeder, run(O, 2, 3))
    assert bench.sent(new) == [Have({O: entry(3)})]


def test_Opening_PeerHasTheNextMessageAlready_NotShipped() -> None:
    bench, feeder, _ = fed()
    bench.later(1.0)
    new = bench.link(O=1)
    bench.receive(new, Have({O: entry(2)}))
    bench.arrive(feeder, run(O, 1, 2))
    assert bench.sent(new) == []


def test_Opening_WipedPeer_GetsAllAgain() -> None:
    bench = Bench()
    old = bench.link("peer")
    bench.arrive(bench.link(), run(O, 0, 3))
    bench.sent(old)
    bench.receive(old, Have({O: entry(3)}))
    bench.replica.close(old, bench.now)
    new = bench.link("peer")
    bench.receive(new, Graft({O: 0}))
    assert bench.sent(new) == [(O, 0, 3)]


def test_Opening_WeGetItElsewhere_PeerToldThatWeHoldItNow() -> None:
    """What a peer holds when a link opens is answered, too, once we hold as much."""
    bench = Bench()
    source, other = bench.link("source", O=5), bench.link("other", O=5)
    bench.arrive(source, run(O, 0, 5))
    bench.later(2.0)
    assert told(bench, other) == {O: entry(5)}


def test_Opening_WeGetItWhileItsClaimIsOnItsWay_PeerToldThatWeHoldItNow() -> None:
    bench = Bench()
    source = bench.link("source", O=5)
    other = bench.replica.open("other", RTT, bench.now)
    bench.sent(other)
    bench.arrive(source, run(O, 0, 5))
    bench.receive(other, Have({O: entry(5)}, last=True))
    bench.later(2.0)
    assert told(bench, other) == {O: entry(5)}


def test_Have_ComesWhileItIsToBeShipped_PeerToldThatWeHoldItToo() -> None:
    bench = Bench()
    source, other = bench.link("source"), bench.link("other")
    bench.arrive(source, run(O, 0, 1))
    bench.receive(other, Have({O: entry(1)}))
    bench.later(2.0)
    assert told(bench, other) == {O: entry(1)}


def test_Have_ThreeThousandOrigins_AllAnsweredWithinASecond() -> None:
    bench = Bench()
    source, other = bench.link("source"), bench.link("other")
    names = [f"{n:032x}-1" for n in range(1, 3_001)]
    for i in range(0, 3_000, 500):
        for link in (source, other):
            bench.receive(link, Have({name: entry(1) for name in names[i : i + 500]}))
        bench.arrive(source, *(run(name, 0, 1) for name in names[i : i + 500]))
    bench.later(1.1)
    assert told(bench, other).keys() == set(names)


def told(bench: Bench, link: ReplicaLink) -> dict[str, Head]:
    """What the peer of a link is told now that we hold."""
    have: dict[str, Head] = {}
    for frame in bench.sent(link):
        have.update(() if isinstance(frame, tuple) else frame.have)
    return have


# -- Being behind: HAVE and GRAFT -----------------------------------------------------------------


def fed() -> tuple[Bench, ReplicaLink, ReplicaLink]:
    """A node that holds one message of O, with a feeder and a lazy link."""
    bench = Bench()
    feeder, lazy = bench.link("feeder"), bench.link("lazy")
    bench.arrive(feeder, run(O, 0, 1))
    bench.arrive(lazy, run(O, 0, 1))
    bench.later(5.0)
    bench.sent(lazy), bench.sent(feeder)
    return bench, feeder, lazy


def test_Have_FeederDelivers_NoGraft() -> None:
    bench, feeder, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    bench.arrive(feeder, run(O, 1, 2))
    bench.later(5.0)
    assert bench.sent(lazy) == [Have({O: entry(2)})], "so that it knows"


def test_Have_FeederSilent_GraftAfterAWhile() -> None:
    bench, _, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    assert bench.sent(lazy) == []
    bench.later(0.5)
    assert bench.sent(lazy) == [Graft({O: 1})]


def test_Have_WhileAGraftIsPending_RaisesWhatIsWaitedFor() -> None:
    bench, _, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    bench.receive(lazy, Have({O: entry(4)}))
    bench.arrive(lazy, run(O, 1, 2))
    bench.sent(lazy)
    assert bench.replica.catch_up.behind(bench.now) == 2
    bench.later(1.0)
    assert Graft({O: 2}, have={O: entry(2)}) in bench.sent(lazy)


def test_Graft_Answered_FeederChanges() -> None:
    bench, feeder, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    bench.later(0.5)
    bench.arrive(lazy, run(O, 1, 2))
    bench.arrive(feeder, run(O, 1, 2))
    assert bench.sent(feeder) == [Prune((O,), have={O: entry(2)})]
    assert not any(isinstance(frame, Prune) for frame in bench.sent(lazy))


def test_Graft_FeederIsFasterAfterAll_FeederStays() -> None:
    bench, feeder, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    bench.later(0.5)
    bench.sent(lazy)
    bench.arrive(feeder, run(O, 1, 2))
    bench.arrive(lazy, run(O, 1, 2))
    assert Prune((O,), have={O: entry(2)}) in bench.sent(lazy)


def test_Graft_NotAnswered_AnotherLinkAsked() -> None:
    bench, _, lazy = fed()
    third = bench.link("third", O=1)
    bench.receive(lazy, Have({O: entry(2)}))
    bench.later(0.5)
    bench.receive(third, Have({O: entry(2)}))
    assert bench.sent(lazy) == [Graft({O: 1})]
    assert bench.sent(third) == []
    bench.later(3.0)
    assert bench.sent(third) == [Graft({O: 1})]


def test_Graft_NeverAnswered_AskedAgainAfterAMinute() -> None:
    """What a link ships comes in order, however slowly: asking earlier would bring copies."""
    bench, _, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    times = []
    for _ in range(600):
        bench.later(1.0)
        if Graft({O: 1}) in bench.sent(lazy):
            times.append(bench.now)
    assert len(times) >= 5
    assert all(later - earlier > 60.0 for earlier, later in itertools.pairwise(times))


def test_Have_NoFeeder_GraftAtOnce() -> None:
    bench = Bench()
    link = bench.link()
    bench.receive(link, Have({O: entry(3)}))
    assert bench.sent(link) == [Graft({O: 0})]


def test_FeederLost_SilentOrigin_LazyLinkGraftedAtOnce() -> None:
    bench, feeder, lazy = fed()
    bench.replica.close(feeder, bench.now)
    assert bench.sent(lazy) == [Graft({O: 1})]


def test_FeederLost_OnlyChildrenLeft_OneAsked() -> None:
    bench = Bench()
    feeder, child = bench.link(), bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    assert bench.sent(child) == [(O, 0, 1)]
    bench.replica.close(feeder, bench.now)
    assert bench.sent(child) == [Graft({O: 1})]


def test_Graft_FromTheFeeder_AnotherLinkAsked() -> None:
    bench, feeder, lazy = fed()
    bench.receive(feeder, Graft({O: 1}))
    assert bench.sent(lazy) == [Graft({O: 1})]


def test_Graft_FromTheOnlyLink_NotAskedBack() -> None:
    bench = Bench()
    feeder = bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    bench.receive(feeder, Graft({O: 1}))
    assert bench.sent(feeder) == []


def test_Gap_FromTheFeeder_GraftOnceForAPosition() -> None:
    bench = Bench()
    feeder = bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    for after in (3, 4, 5):
        assert bench.arrive(feeder, run(O, after, after + 1)) == []
    assert bench.sent(feeder) == [Graft({O: 1})]


def test_Graft_WhileAFrameIsOnItsWay_PositionOfTheGraftHolds() -> None:
    bench = Bench(O=9)
    link = bench.link()
    bench.receive(link, Graft({O: 5}))
    work = link.take(bench.now)
    bench.receive(link, Graft({O: 2}))
    link.shipped(work.ships, bench.now)
    assert bench.sent(link) == [(O, 2, 9)]


# -- What is shipped ------------------------------------------------------------------------------


def test_Ships_LargeBacklog_OthersGetTheirShare() -> None:
    bench = Bench(O=5_000, P=5_000)
    link = bench.link()
    bench.receive(link, Graft({O: 0, P: 0}))
    assert [tuple(ship) for ship in link.take(bench.now).ships] == [(O, 0, 1000), (P, 0, 1000)]


def test_Ships_FrameFull_GoesOnWhereItEnded() -> None:
    bench = Bench(O=100)
    link = bench.link()
    bench.receive(link, Graft({O: 0}))
    (ship,) = link.take(bench.now).ships
    link.shipped([ship._replace(upto=30)], bench.now)
    assert bench.sent(link) == [(O, 30, 100)]


def test_Ships_NotDurable_NotShippedNorTold() -> None:
    bench = Bench()
    link = bench.link()
    staged = bench.replica.commit([Entry(1, "text")], bench.now)
    bench.later(60.0)
    assert {type(frame) for frame in bench.sent(link)} == {Sums}
    assert bench.replica.vector.heads() == {}
    bench.replica.stored([staged], bench.now)
    assert bench.sent(link) == [(US, 0, 1)]


def test_Ships_PeerHoldsIt_NotShipped() -> None:
    bench = Bench()
    one, other = bench.link(), bench.link()
    bench.arrive(one, run(O, 0, 1))
    bench.receive(other, Have({O: entry(1)}))
    assert bench.sent(other) == []


# -- HAVE -----------------------------------------------------------------------------------------


def test_Have_FirstChangeAfterAQuietSecond_AtOnceThenOncePerSecond() -> None:
    bench, feeder, lazy = fed()
    bench.later(1.0)
    for n in range(2, 12):
        bench.arrive(feeder, run(O, n - 1, n))
        told = bench.sent(lazy)
        assert told == ([Have({O: entry(n)})] if n == 2 else []), n
        bench.later(0.05)
    bench.later(0.6)
    assert bench.sent(lazy) == [Have({O: entry(11)})]


def test_Have_SteadyNewsOnALazyLink_OneASecond() -> None:
    bench, feeder, lazy = fed()
    frames = 0
    for n in range(2, 102):  # ten seconds; the peer has it too, and tells once a second
        bench.later(0.1)
        bench.arrive(feeder, run(O, n - 1, n))
        if n % 10 == 5:
            bench.receive(lazy, Have({O: entry(n)}))
        frames += len(bench.sent(lazy))
    assert 9 <= frames <= 11


@pytest.mark.parametrize(("links", "seconds"), [(8, 1.0), (12, 1.5), (40, 2.0)])
def test_Have_ManyLinks_EachToldLessOften(links: int, seconds: float) -> None:
    bench, feeder, lazy = fed()
    for n in range(links - 2):
        bench.link(str(n))
    bench.later(5.0)
    bench.arrive(feeder, run(O, 1, 2))
    assert bench.sent(lazy) == [Have({O: entry(2)})]
    bench.arrive(feeder, run(O, 2, 3))
    bench.later(seconds - 0.05)
    assert bench.sent(lazy) == []
    bench.later(0.1)
    assert bench.sent(lazy) == [Have({O: entry(3)})]


def test_Have_OfWhatWeShipped_NotAnswered() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit()
    assert bench.sent(link) == [(US, 0, 1)]
    bench.receive(link, Have(bench.replica.vector.heads()))
    bench.later(5.0)
    assert bench.sent(link) == []


def test_Have_PeerKnownToHoldIt_ToldOnceThatWeDo() -> None:
    bench, feeder, lazy = fed()
    bench.receive(lazy, Have({O: entry(2)}))
    bench.arrive(feeder, run(O, 1, 2))
    assert bench.sent(lazy) == []
    bench.later(2.0)
    assert bench.sent(lazy) == bench.sent(feeder) == [Have({O: entry(2)})]
    bench.later(5.0)
    assert bench.sent(lazy) == bench.sent(feeder) == []


def test_Have_ShippedByThePeer_AcknowledgedOnceAfterASecond() -> None:
    bench, feeder, _ = fed()
    bench.later(2.0)
    bench.sent(feeder)
    for n in range(2, 12):
        bench.arrive(feeder, run(O, n - 1, n))
        assert bench.sent(feeder) == []
        bench.later(0.05)
    bench.later(0.6)
    assert bench.sent(feeder) == [Have({O: entry(11)})]
    bench.later(5.0)
    assert bench.sent(feeder) == []


def test_Have_SomethingElseIsSent_RidesAlong() -> None:
    bench, feeder, lazy = fed()
    bench.receive(lazy, Graft({P: 0}))
    bench.arrive(feeder, run(O, 1, 2))
    bench.sent(lazy)
    bench.later(0.5)
    bench.arrive(feeder, run(O, 2, 3))
    assert bench.sent(lazy) == []
    bench.commit()
    assert bench.sent(lazy) == [(US, 0, 1), Have({O: entry(3)})]


def test_Have_IdleLink_EachHalfMinute() -> None:
    bench = Bench(O=3)
    link = bench.link(O=3)
    times = []
    for _ in range(1_200):
        bench.later(0.1)
        if bench.sent(link):
            times.append(bench.now)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(22.0 < gap < 31.0 for gap in gaps) and len(gaps) >= 2


def test_Have_VeryManyChangesAtOnce_AllTold() -> None:
    bench = Bench()
    feeder, lazy = bench.link(O=1), bench.link()
    names = [f"{n:032x}-1" for n in range(1, 4_001)]
    for i in range(0, 4_000, 400):
        bench.receive(feeder, Have({name: entry(1) for name in names[i : i + 400]}))
        bench.arrive(feeder, *(run(name, 0, 1) for name in names[i : i + 400]))
    told: set[str] = set()
    for frame in bench.sent(lazy):
        assert len(frame.have) <= MAX_ORIGINS_NAMED
        told.update(frame.have)
    assert told == set(names)


def test_Graft_PeerHoldsLessThanItTold_NoCopyAnyMore() -> None:
    bench = Bench(O=3)
    link = bench.link("peer", O=3)
    bench.receive(link, Graft({O: 1}))
    assert bench.replica.copies(O, 2) == set()
    assert bench.sent(link) == [(O, 1, 3)]


def test_Ack_CommitWaits_PeerTellsSoonAfterItIsDurable() -> None:
    bench = Bench()
    link = bench.link()
    runs = bench.receive(link, Messages((run(O, 0, 1),), ack=True), store=False)
    bench.later(1.0)
    assert bench.sent(link) == []
    bench.replica.stored(runs, bench.now)
    bench.later(0.05)
    assert bench.sent(link) == [Have({O: entry(1)})]


def test_Ack_CommitWaits_AskedOnEagerAndLazyLinks() -> None:
    bench = Bench()
    eager, lazy = bench.link("eager"), bench.link("lazy")
    bench.commit()
    bench.sent(eager), bench.sent(lazy)
    bench.receive(lazy, Prune((US,)))
    bench.later(5.0)
    bench.commit(ack=True)
    assert bench.sent(eager) == [(US, 1, 2), Have({}, ack=True)]
    assert bench.sent(lazy) == [Have({US: bench.replica.vector.heads()[US]}, ack=True)]
    bench.receive(lazy, Have({US: bench.replica.vector.heads()[US]}))
    assert bench.replica.copies(US, 2) == {"lazy"}


# -- Disk trouble ---------------------------------------------------------------------------------


def test_Failed_ThenRoom_AskedAgain() -> None:
    bench = Bench()
    link = bench.link()
    assert bench.receive(link, Messages((run(O, 0, 2),)), store=False)
    bench.replica.failed(bench.now)
    assert bench.arrive(link, run(O, 2, 3)) == []
    bench.later(10.0)
    assert not any(isinstance(frame, Graft) for frame in bench.sent(link))
    assert bench.replica.catch_up.behind(bench.now) == 3
    bench.replica.catch_up.resume(bench.now)
    assert bench.sent(link) == [Graft({O: 0})]
    assert bench.arrive(link, run(O, 0, 3)) == [run(O, 0, 3)]


def test_Failed_OwnCommitThatAPeerClaims_Forgotten() -> None:
    bench = Bench()
    link = bench.link()
    own = bench.replica.commit([Entry(1, "text")], bench.now)
    bench.receive(link, Have({US: own.head}))
    assert bench.replica.copies(US, 1) == {"peer"}
    bench.replica.failed(bench.now)
    assert not bench.replica.copies(US, 1)
    assert not bench.replica.trees.get(US), "nothing is held of it"


def test_Failed_OwnCommits_NumbersUsedAgain() -> None:
    bench = Bench()
    bench.replica.commit([Entry(1, "lost")], bench.now)
    bench.replica.failed(bench.now)
    bench.replica.catch_up.resume(bench.now)
    assert bench.replica.commit([Entry(2, "kept")], bench.now).after == 0


# -- Conflicts ------------------------------------------------------------------------------------


def test_Refused_OurOwnOriginWithoutEvidence_NothingIsShippedAndNoConflict() -> None:
    bench = Bench()
    link = bench.link()
    bench.commit()
    bench.sent(link)
    bench.receive(link, Prune((US,)))
    assert not bench.conflicts
    bench.commit()
    bench.later(5.0)
    assert not any(isinstance(frame, tuple) for frame in bench.sent(link))


def test_Conflict_EqualNumberOtherHash_RefusedOnThatLinkOnly() -> None:
    bench = Bench(O=3)
    bad, good = bench.link("bad"), bench.link("good", O=3)
    bench.receive(bad, Have({O: entry(3, "other"), P: entry(1)}))
    assert bench.forks() == [("bad", O)]
    assert bench.sent(bad) == [Fork(O, entry(3)), Graft({P: 0})]
    assert bench.arrive(bad, run(O, 3, 4)) == []
    assert bench.arrive(bad, run(P, 0, 1)) == [run(P, 0, 1)]
    assert bench.arrive(good, run(O, 3, 4)) == [run(O, 3, 4)]


@pytest.mark.parametrize("after, end", [(3, 4), (1, 3), (1, 5)])
def test_Conflict_ShippedContentsDiffer_NothingTaken(after: int, end: int) -> None:
    bench = Bench(O=3)
    link = bench.link()
    assert bench.arrive(link, run(O, after, end, "other")) == []
    assert bench.forks() == [("peer", O)]
    assert bench.replica.vector.heads()[O] == entry(3)


def test_Conflict_PeerRefuses_KnownHereToo() -> None:
    bench = Bench(O=3)
    link = bench.link()
    bench.receive(link, Fork(O, entry(3, "other")))
    assert bench.forks() == [("peer", O)]


def test_Conflict_FeederLost_RefusingPeerNotAsked() -> None:
    bench = Bench()
    feeder, other = bench.link(), bench.link()
    bench.arrive(feeder, run(O, 0, 1))
    bench.sent(other)
    bench.receive(other, Fork(O, entry(3, "other")))
    bench.sent(other)
    bench.replica.close(feeder, bench.now)
    assert bench.sent(other) == []


@pytest.mark.parametrize("frame", [Have({US: entry(5)}), Messages((run(US, 1, 4),))], ids=type)
def test_OwnOrigin_PeerHoldsMore_PulledAfterRenewal(frame: LogFrame) -> None:
    bench = Bench()
    bench.commit()
    link = bench.link()
    receiver = bench.replica.receiver
    assert not receiver.outdoes(Have({US: entry(1)}))
    assert not receiver.outdoes(Messages((run(US, 0, 1),)))
    assert receiver.outdoes(frame)
    bench.replica.renew(P)
    assert not receiver.outdoes(frame)
    bench.receive(link, Have({US: entry(5)}))
    assert bench.forks() == []
    assert bench.sent(link) == [Graft({US: 1})]
    bench.commit()
    assert bench.replica.vector.heads()[P][0] == 1


def test_Commit_OriginOfAnEarlierStart_GoesAtOnceToThoseThatHoldWhatIsBeforeIt() -> None:
    bench = Bench(US=3)
    level, behind = bench.link("level", US=3), bench.link("behind", US=2)
    bench.commit()
    assert (US, 3, 4) in bench.sent(level)
    assert not any(isinstance(sent, tuple) for sent in bench.sent(behind))


def test_Conflict_WithTheFeeder_AnotherLinkAsked() -> None:
    bench, feeder, lazy = fed()
    bench.receive(feeder, Messages((run(O, 1, 2, "other"),)))
    assert bench.sent(lazy) == [Graft({O: 1})]


# -- Questions and bounds -------------------------------------------------------------------------


def test_Behind_NothingShipped_NeverForgotten() -> None:
    bench = Bench()
    link = bench.link()
    bench.receive(link, Have({O: entry(7)}))
    assert bench.replica.catch_up.behind(bench.now) == 7
    bench.later(600.0)
    assert bench.replica.catch_up.behind(bench.now) == 7
    bench.arrive(link, run(O, 0, 2))
    assert bench.replica.catch_up.behind(bench.now) == 5


def test_Behind_AbsurdClaims_BelievedAsFarAsTheyAreShipped() -> None:
    bench = Bench()
    for name in ("one", "other", "third"):
        bench.receive(bench.link(name), Have({O: ABSURD}))
    assert bench.replica.catch_up.behind(bench.now) == 1_000, "claims do not add up"
    link = bench.link("ships")
    bench.receive(link, Have({P: ABSURD}))
    bench.arrive(link, run(P, 0, 300))
    assert bench.replica.catch_up.behind(bench.now) == 3_000
    bench.later(60.0)
    assert bench.replica.catch_up.behind(bench.now) == 1_000, "it has not shipped for a while"


def test_CaughtUp_ClaimsThatAreNotShipped_DoNotCountBesideAPeerThatIsLevel() -> None:
    bench = Bench()
    assert bench.replica.catch_up.caught_up(bench.now), "alone"
    liar, honest = bench.link("liar"), bench.link("honest", P=3)
    bench.receive(liar, Have({O: ABSURD}))
    assert not bench.replica.catch_up.caught_up(bench.now)
    bench.later(5.0)
    assert not bench.replica.catch_up.caught_up(bench.now), "the honest one has more"
    bench.arrive(honest, run(P, 0, 3))
    assert bench.replica.catch_up.caught_up(bench.now)


def test_Behind_LinkLost_ItsClaimsGo() -> None:
    bench = Bench()
    one, other = bench.link(), bench.link()
    bench.receive(one, Have({O: entry(7)}))
    bench.receive(other, Have({O: entry(3)}))
    bench.replica.close(one, bench.now)
    assert bench.replica.catch_up.behind(bench.now) == 3
    assert bench.sent(other) == [Graft({O: 0})]


def test_Copies_PeersThatTold_Counted() -> None:
    bench = Bench(O=3)
    bench.link("one", O=3), bench.link("two", O=2)
    assert bench.replica.copies(O, 3) == {"one"}
    assert bench.replica.copies(O, 2) == {"one", "two"}


def test_Lag_PeerLacksSome_Counted() -> None:
    bench = Bench(O=3, P=2)
    assert bench.replica.lag(bench.link("peer", O=1)) == 4


def test_Digest_OrderOfArrival_DoesNotMatter() -> None:
    one, other = Bench(O=3, P=2), Bench(P=2, O=3)
    assert digest(one.replica.vector.heads()) == digest(other.replica.vector.heads())
    assert digest(one.replica.vector.heads()) != digest(Bench(O=3).replica.vector.heads())


def test_Origins_OnlyEverClaimed_ForgottenWithTheLink() -> None:
    bench = Bench(O=1)
    link, other = bench.link(), bench.link()
    names = [f"{n:032x}-1" for n in range(1, 100)]
    bench.receive(link, Have({name: entry(1) for name in names}))
    bench.receive(other, Have({names[0]: entry(1)}))
    bench.replica.close(link, bench.now)
    assert {tree.origin.name for tree in bench.replica.trees} == {names[0]}
    assert bench.sent(other) == [Graft({names[0]: 0})]


def test_Origins_MoreHeldThanAllowed_NewOnesNotTaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "MAX_STRANGERS", 1)
    monkeypatch.setattr(newcomers, "MAX_ORIGINS", 1)
    bench = Bench(O=1)
    bench.receive(bench.link(), Have({P: entry(1)}))
    assert bench.replica.catch_up.behind(bench.now) == 1, "it is shown"
    link, other = bench.link(), bench.link()
    assert bench.arrive(link, run(P, 0, 1)) == []
    assert bench.arrive(other, run(O, 1, 2)) == [run(O, 1, 2)]
    assert {tree.origin.name for tree in bench.replica.trees} == {O}


def test_Close_Twice_Harmless() -> None:
    bench = Bench()
    link = bench.link()
    bench.replica.close(link, bench.now)
    bench.replica.close(link, bench.now)
    assert bench.receive(link, Have({O: entry(1)})) == []
    assert bench.replica.catch_up.deadline == NEVER


# -- A link that stalls ---------------------------------------------------------------------------


def test_Stalled_AskedAndNothingShipped_FoundAfterAMinute() -> None:
    bench = Bench()
    link = bench.link(O=5)
    assert Graft({O: 0}) in bench.sent(link) or bench.replica.catch_up.behind(bench.now) == 5
    bench.later(59.0)
    assert bench.replica.catch_up.stalled(bench.now) == []
    bench.later(3.0)
    assert bench.replica.catch_up.stalled(bench.now) == [link]


def test_Stalled_ShipsNowAndThen_NotStalled() -> None:
    bench = Bench()
    link = bench.link(O=5)
    for n in range(1, 4):
        bench.later(50.0)
        bench.arrive(link, run(O, n - 1, n))
        assert bench.replica.catch_up.stalled(bench.now) == []


def test_Stalled_GotItFromElsewhere_NotStalled() -> None:
    bench = Bench()
    link, other = bench.link(O=5), bench.link(O=5)
    bench.later(30.0)
    bench.arrive(other, run(O, 0, 5))
    bench.later(60.0)
    assert link not in bench.replica.catch_up.stalled(bench.now)


def test_Stalled_DiskFullHere_NotThePeersFault() -> None:
    bench = Bench()
    bench.link(O=5)
    bench.replica.failed(bench.now)
    bench.later(120.0)
    assert bench.replica.catch_up.stalled(bench.now) == []


# -- Peers that misbehave -------------------------------------------------------------------------

FAKES = [f"{n:032x}-7" for n in range(1, 51)]


def test_Claims_TooManyAtATime_AskedForAgainWhenSomeAreShipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (replica_link, comparing):
        monkeypatch.setattr(module, "MAX_AHEAD", 10)
    monkeypatch.setattr(comparing, "LOOK_NAMED", 5)
    bench = Bench()
    link = bench.link()
    bench.receive(link, Have({name: entry(2) for name in FAKES[:20]}))
    assert bench.sent(link) == [Graft(dict.fromkeys(FAKES[:10], 0))]
    assert bench.replica.catch_up.behind(bench.now) == 2 * 20
    assert {tree.origin.name for tree in bench.replica.trees} == set(FAKES[:10]), (
        "the rest costs nothing"
    )
    got: set[str] = set()
    wanted = set(FAKES[:10])
    while wanted:
        bench.arrive(link, *(run(name, 0, 2) for name in wanted))
        got |= wanted
        wanted = set()
        assert bool(bench.replica.catch_up.behind(bench.now)) == (len(got) < 20)
        frames = bench.sent(link)
        for look in (frame for frame in frames if isinstance(frame, Look)):
            leaves = [name for name in FAKES[:20] if leaf_of(key_of(name)) in look.leaves]
            left = {name: entry(2) for name in leaves if name not in got}
            bench.receive(link, Have(left, lacks=()))
            frames += bench.sent(link)
        wanted = {name for f in frames if isinstance(f, Graft) for name in f.after}
    assert got == set(FAKES[:20]) and bench.replica.catch_up.behind(bench.now) == 0
    bench.later(5.0)
    assert not any(isinstance(frame, (Graft, Look)) for frame in bench.sent(link)), "the last"


def test_Close_FeederOfVeryManyOrigins_SomeAreAskedForAtATime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catch_up, "MAX_TICKS", 2)
    bench = Bench()
    feeder, other = bench.link("feeder"), bench.link("other")
    names = FAKES[:5]
    bench.arrive(feeder, *(run(name, 0, 1) for name in names))
    bench.receive(other, Have({name: entry(1) for name in names}))
    bench.sent(other)
    bench.replica.close(feeder, bench.now)
    asked: list[int] = []
    while (deadline := bench.replica.catch_up.deadline) <= bench.now:
        asked.append(sum(len(f.after) for f in bench.sent(other) if isinstance(f, Graft)))
        bench.replica.catch_up.tick(bench.now)
    asked.append(sum(len(f.after) for f in bench.sent(other) if isinstance(f, Graft)))
    assert asked == [2, 2, 1] and deadline > bench.now


def test_Claims_OriginsThatAnotherPeerAsksFor_ForgottenWithTheClaims() -> None:
    bench = Bench()
    liar, other = bench.link("liar"), bench.link("other")
    for _ in range(3):
        bench.receive(liar, Have({name: entry(2) for name in FAKES}))
        bench.receive(other, Graft(dict.fromkeys(FAKES, 0)))
        bench.replica.close(liar, bench.now)
        assert not other.progress.cursor and not [*bench.replica.trees]
        liar = bench.link("liar")


def test_Claims_NeverShipped_HinderNoOtherLink(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (replica_link, comparing):
        monkeypatch.setattr(module, "MAX_AHEAD", 10)
    bench = Bench()
    bad, good = bench.link("bad"), bench.link("good")
    bench.receive(bad, Have({name: entry(2) for name in FAKES}))
    bench.receive(good, Have({O: entry(2)}))
    assert bench.sent(good) == [Graft({O: 0})]
    bench.replica.close(bad, bench.now)
    assert {tree.origin.name for tree in bench.replica.trees} == {O}


@pytest.mark.parametrize("first", [True, False])
def test_Claims_FourteenLiars_HonestPeerAskedSoon(first: bool) -> None:
    bench = Bench()
    names = ["honest", *map(str, range(14))] if first else [*map(str, range(14)), "honest"]
    links = {name: bench.link(name) for name in names}
    for name, link in links.items():
        bench.receive(link, Have({O: entry(9) if name == "honest" else ABSURD}))
    began = bench.now
    while Graft({O: 0}) not in bench.sent(links["honest"]):
        bench.later(0.1)
    assert bench.now < began + 4.0
    bench.arrive(links["honest"], run(O, 0, 9))
    for link in links.values():
        bench.sent(link)
    bench.receive(links["honest"], Have({P: entry(9)}))
    for name, link in links.items():
        if name != "honest":
            bench.receive(link, Have({P: ABSURD}))
    assert bench.sent(links["honest"]) == [Graft({P: 0})], "the others are doubted"


def test_Claims_LiarsThatShipABit_HonestPeerAskedSoon() -> None:
    """Each ships a message now and then, so that there is always some progress."""
    bench = Bench()
    liars = [bench.link(str(number)) for number in range(14)]
    honest = bench.link("honest")
    for link in liars:
        bench.receive(link, Have({O: ABSURD}))
    bench.receive(honest, Have({O: entry(900)}))
    began = bench.now
    seq = 0
    while not any(isinstance(frame, Graft) for frame in bench.sent(honest)):
        asked = [link for link in liars if bench.sent(link)]
        for link in asked or liars[:1]:
            bench.arrive(link, run(O, seq, seq + 1))
            seq += 1
        bench.later(0.4)
        assert bench.now < began + 12.0


def test_Claims_OfALostLink_AskedFromAnotherThatSaysTheSame() -> None:
    bench = Bench()
    one, other = bench.link("one"), bench.link("other")
    for link in (one, other):
        bench.receive(link, Have({O: entry(2)}))
    bench.replica.close(one, bench.now)
    assert bench.sent(other) == [Graft({O: 0})]
    assert bench.replica.catch_up.behind(bench.now) == 2
    bench.arrive(other, run(O, 0, 2))
    assert (other.ahead, bench.replica.catch_up.behind(bench.now)) == ({}, 0)


def test_Tick_VeryManyDue_AFewAtATime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "MAX_TICKS", 10)
    bench = Bench()
    link, other = bench.link(), bench.link()
    for each in (link, other):
        bench.receive(each, Have({name: entry(2) for name in FAKES}))
    bench.sent(link), bench.sent(other)
    bench.now += 5.0
    bench.replica.catch_up.tick(bench.now)
    assert bench.sent(other) == [Graft(dict.fromkeys(FAKES[:10], 0))]
    assert bench.replica.catch_up.deadline <= bench.now, "the others are due as well"


def test_Gap_InWhatWasOnItsWay_NoFault() -> None:
    bench = Bench()
    link = bench.link()
    for after in range(3, 9):  # however long it was on its way
        bench.arrive(link, run(O, after, after + 1))
        bench.later(20.0)
    assert Graft({O: 0}) in bench.sent(link)
    assert not bench.offences


def test_Gap_AfterTheAnswerToOurGraft_Counted() -> None:
    bench = Bench()
    link = bench.link()
    bench.arrive(link, run(O, 3, 4))
    bench.sent(link)
    bench.arrive(link, run(O, 0, 2))
    assert not bench.offences
    bench.arrive(link, run(O, 3, 4))
    assert bench.offences == {"gap": 1}


def test_Gap_AfterADiskFailureHere_NoFaultOfThePeer() -> None:
    bench = Bench()
    link = bench.link()
    bench.receive(link, Have({O: entry(5)}))
    bench.sent(link)
    bench.arrive(link, run(O, 0, 2))
    bench.receive(link, Messages((run(O, 2, 3),)), store=False)
    bench.replica.failed(bench.now)
    bench.replica.catch_up.resume(bench.now)
    bench.arrive(link, run(O, 3, 4))  # was on its way
    assert not bench.offences
    bench.arrive(link, run(O, 2, 5))
    assert bench.replica.vector.held(O) == 5


def again(*asked: tuple[float, Graft | Prune]) -> tuple[Bench, int]:
    """A peer asks for this at these times; return the bench, and the messages it was sent."""
    bench = Bench(O=90, P=90)
    link = bench.link()
    sent = 0
    for at, frame in asked:
        bench.later(100.0 + at - bench.now)
        bench.receive(link, frame)
        sent += sum(item[2] - item[1] for item in bench.sent(link) if isinstance(item, tuple))
    return bench, sent


def test_Graft_SameRangeOnceAMinute_Sent() -> None:
    bench, sent = again(*((70.0 * n, Graft({O: 0})) for n in range(5)))
    assert (sent, bench.offences) == (5 * 90, {})


@pytest.mark.parametrize(
    "frames",
    [
        [Graft({O: 0})],
        [Graft({O: 0}), Graft({O: 1}), Graft({O: 2}), Graft({O: 30})],
        [Graft({O: 0}), Graft({P: 0})],
        [Graft({O: 0}), Prune((O,))],
        [Graft({O: 0}), Graft({O: 90})],
        [Graft({O: 0}), Graft({O: 10**9})],
        [Graft({O: 0}, have={O: entry(1)})],
    ],
    ids=["same", "overlapping", "alternating", "pruned", "skipped", "beyond", "with less"],
)
def test_Graft_SameRangeOnceASecond_Violation(frames: list[Graft | Prune]) -> None:
    bench, sent = again(*((float(n), frames[n % len(frames)]) for n in range(40)))
    assert bench.offences["graft"] > 10
    assert sent <= 2 * 2 * 90


def test_Refusal_OfWhatIsNotHeldHere_NoConflict() -> None:
    bench = Bench()
    link = bench.link()
    bench.receive(link, Have({O: entry(2)}))
    bench.receive(link, Prune((O, P)))
    assert (bench.conflicts, link.refused) == ([], {})


def test_Graft_PeerAsksWhetherHistoriesDiffer_AskedAgainAtOnce() -> None:
    """It has dropped what it was asked for when its own history moved."""
    bench = Bench()
    link = bench.link(O=5)
    bench.receive(link, Fork(O, entry(8)))
    agreed, asked, *_ = bench.sent(link)
    assert isinstance(agreed, Fork) and agreed.agree == entry(8).hash
    assert isinstance(asked, Graft) and asked.after == {O: 0}


# -- Entries of several messages ------------------------------------------------------------------


def several(variant: str = "") -> Run:
    """An origin whose entries have 2, 3 and 1 messages; a `variant` differs in the second."""
    texts = [["a", "b"], ["c", f"d{variant}", "e"], ["f"]]
    entries = tuple(Entry.of(time, some) for time, some in enumerate(texts, 1))
    return Run(O, 0, NO_HASH, entries, chain(NO_HASH, entries))


def part(whole: Run, after: int, end: int) -> Run:
    rest, tail = whole.beyond(after), whole.beyond(end)
    assert rest and tail
    count = len(rest.entries) - len(tail.entries)
    return Run(O, after, rest.previous, rest.entries[:count], rest.hashes[:count])


def test_EntryOfSeveral_Received_CountsItsMessages() -> None:
    bench = Bench()
    link, other = bench.link(), bench.link("other")
    assert bench.arrive(link, part(several(), 0, 5))
    assert bench.replica.vector.held(O) == 5
    assert bench.replica.vector.heads() == {O: Head(5, several().hashes[1], NO_SIGNATURE)}
    assert bench.sent(other) == [(O, 0, 1)], "the shell sends the first entry whole"


def test_EntryOfSeveral_RunOverlapsAtItsEnd_OnlyTheRestIsNew() -> None:
    bench = Bench()
    link = bench.link()
    bench.arrive(link, part(several(), 0, 2))
    (new,) = bench.arrive(link, several())
    assert (new.after, new.end, new.entries) == (2, 6, several().entries[1:])
    assert not bench.conflicts


@pytest.mark.parametrize("whole", [several("x"), run(O, 0, 6)], ids=["contents", "inside"])
def test_EntryOfSeveral_OtherEntriesUnderTheSameNumbers_Conflict(whole: Run) -> None:
    bench = Bench()
    link = bench.link()
    bench.arrive(link, part(several(), 0, 5))
    assert bench.arrive(link, whole) == []
    assert bench.forks() == [("peer", O)]
    assert bench.replica.vector.held(O) == 5


def test_EntryOfSeveral_PeerHasOneThatReachesBeyondOurs_Conflict() -> None:
    bench = Bench(O=3)
    link = bench.link()
    assert bench.arrive(link, several()) == []
    assert bench.forks() == [("peer", O)]


def test_EntryOfSeveral_AskedForFromInside_SentOnce() -> None:
    bench = Bench()
    one, other = bench.link(), bench.link("other")
    bench.arrive(one, several())
    bench.sent(other)
    bench.receive(other, Graft({O: 3}))
    assert bench.sent(other) == [(O, 3, 6)], "the shell sends the entry whole"
    assert bench.sent(other) == []


# -- Late peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True])
def test_Floor_OnlyPeerSaysSo_WaitsForThePeersThatAreConfigured(alone: bool) -> None:
    bench = Bench(US=1)
    bench.replica.catch_up._alone = lambda: alone
    link = bench.link(O=5)
    bench.receive(link, Have({O: entry(5)}, floors={O: 3}))
    spent = asked(bench, link, 3)
    assert 60.0 <= spent < 80.0 if alone else 3.0 <= spent < 10.0


def asked(bench: Bench, link: ReplicaLink, after: int) -> float:
    """Return after how many seconds a peer is asked for what follows `after`; infinity where that
    takes more than 100."""
    began = bench.now
    while bench.now < began + 100.0:
        grafts = [frame for frame in bench.sent(link) if isinstance(frame, Graft)]
        if any(graft.after.get(O) == after for graft in grafts):
            return bench.now - began
        bench.later(0.5)
        skips, bench.replica.catch_up.skips = bench.replica.catch_up.skips, []
        bench.replica.stored(skips, bench.now)
    return NEVER


@pytest.mark.parametrize("other", [0, 2], ids=["alone", "another holds less than is skipped"])
def test_Floor_RisesBeforeTheMessagesCome_GoesOnFromThere(other: int) -> None:
    bench = Bench(US=1)
    link = bench.link(O=9)
    bench.receive(link, Have({O: entry(9)}, floors={O: 3}))
    assert asked(bench, link, 3) < 10.0
    if other:
        bench.link("other", O=other)
    bench.later(60.0)  # it is slow
    bench.receive(link, Have({O: entry(9)}, floors={O: 5}))
    assert asked(bench, link, 5) < 10.0
    (new,) = bench.arrive(link, run(O, 5, 9))
    assert (new.after, new.skipped, bench.replica.vector.held(O)) == (5, 5, 9)


def test_Floor_AtTheHeadThenPeerGrows_AskedForWhatFollows() -> None:
    bench = Bench(US=1)
    link = bench.link(O=2)
    bench.receive(link, Have({O: entry(2)}, floors={O: 2}))
    bench.receive(link, Have({O: entry(4)}))
    assert asked(bench, link, 2) < 10.0
    assert bench.replica.vector.held(O) == 2


def test_Floor_PeerIsLostBeforeTheMessagesCome_OthersAreAskedFromTheBeginning() -> None:
    bench = Bench(US=1)
    link = bench.link(O=9)
    bench.receive(link, Have({O: entry(9)}, floors={O: 3}))
    assert asked(bench, link, 3) < 10.0
    other = bench.link("other", O=2)
    bench.replica.close(link, bench.now)
    assert asked(bench, other, 0) < 10.0


def late(bench: Bench, link: ReplicaLink) -> int:
    """How many messages a peer lacks, apart from the latest."""
    return max(0, bench.replica.lag(link) - bench.replica.latest(bench.now))


def test_Late_UnderSteadyCommits_OnlyWhatWasThereForAWhile() -> None:
    bench = Bench()
    link = bench.link()
    for n in range(1, 101):
        bench.commit()
        bench.later(0.1)
        if n > 10:  # it is a second behind, as one is who tells each second
            bench.receive(link, Have({US: Head(n - 10, "0" * 32, NO_SIGNATURE)}))
        assert late(bench, link) == 0, n
    assert bench.replica.lag(link) == 10
    bench.later(5.0)
    assert late(bench, link) == 10


def test_Late_JoinsAndLacksAll_AtOnce() -> None:
    bench = Bench(O=5)
    assert late(bench, bench.link()) == 5


# -- Messages that are dated too far ahead --------------------------------------------------------

LATEST = 4  # `run` dates message n at n


class Early(Bench):
    """A bench whose clock accepts messages up to LATEST."""

    latest = LATEST

    def receive(self, link: ReplicaLink, frame: Any, store: bool = True) -> list[Run]:
        accepted = self.replica.receiver.receive(link, frame, self.now, self.latest).runs
        if store and accepted:
            self.replica.stored(accepted, self.now)
        return accepted


def test_Early_InTheMidstOfARun_TheWholeRunWaits() -> None:
    """It has one signature, so no part of it could be shipped on."""
    bench = Early()
    link = bench.link()
    assert [r.end for r in bench.arrive(link, run(O, 0, 4))] == [4]
    assert bench.arrive(link, run(O, 4, 9)) == []
    assert bench.replica.catch_up.early == {O: 9}
    assert Prune((O,)) in bench.sent(link), "the peer is to ship no more of it"


@pytest.mark.parametrize("held", [0, 2, 4])
def test_Early_ShippedOn_NothingIsAskedOrHeldAgainstThePeer(held: int) -> None:
    bench = Early(**({"O": held} if held else {}))
    link = bench.link(O=9)
    bench.sent(link)
    if held < 4:
        bench.arrive(link, run(O, held, 4))
    bench.arrive(link, run(O, 4, 9))
    bench.sent(link)
    for n in range(9, 14):
        assert bench.arrive(link, run(O, n, n + 1)) == []
        bench.receive(link, Have({O: entry(n + 1)}))
    bench.later(120.0)
    assert not any(isinstance(frame, Graft) for frame in bench.sent(link))
    assert bench.replica.catch_up.behind(bench.now) == 0
    assert not bench.offences and not bench.conflicts
    assert bench.replica.catch_up.stalled(bench.now) == []
    assert bench.replica.vector.held(O) == 4


def test_Early_ClockGetsThere_AskedForAndGoesOn() -> None:
    bench = Early()
    link = bench.link()
    bench.arrive(link, run(O, 0, 4))
    bench.arrive(link, run(O, 4, 6))
    bench.sent(link)
    bench.replica.catch_up.clock_at(LATEST, bench.now)
    assert bench.sent(link) == []
    bench.latest = 6
    bench.replica.catch_up.clock_at(6, bench.now)
    assert Graft({O: 4}) in bench.sent(link)
    bench.arrive(link, run(O, 4, 6))
    bench.arrive(link, run(O, 6, 9))
    assert bench.replica.vector.held(O) == 6 and bench.replica.catch_up.early == {O: 9}
    bench.latest = 100
    bench.replica.catch_up.clock_at(100, bench.now)
    bench.arrive(link, run(O, 6, 9))
    assert bench.replica.vector.held(O) == 9 and not bench.replica.catch_up.early


def test_Early_FirstMessageOfAnOrigin_NothingIsKeptOfItButItsName() -> None:
    bench = Early()
    link = bench.link()
    bench.latest = 0
    assert bench.arrive(link, run(O, 0, 3)) == []
    assert bench.replica.vector.heads() == {} and bench.replica.catch_up.early == {O: 3}
    bench.replica.close(link, bench.now)
    assert bench.replica.catch_up.early == {}, "who ships it again says so again"


def test_Early_OfSeveralLinks_EachIsToldToShipNoMore() -> None:
    bench = Early()
    links = [bench.link(), bench.link("other")]
    for link in links:
        bench.arrive(link, run(O, 0, 4))
        bench.arrive(link, run(O, 4, 9))
    assert all(Prune((O,)) in bench.sent(link) for link in links)
    bench.replica.close(links[0], bench.now)
    assert bench.replica.catch_up.early == {O: 9} and bench.sent(links[1]) == []
    bench.latest = 9
    bench.replica.catch_up.clock_at(9, bench.now)
    assert Graft({O: 4}) in bench.sent(links[1])


def test_Early_HeldAlready_ShippedAgainAsADuplicate() -> None:
    """The clock was set back after they were accepted."""
    bench = Early(O=9)
    link = bench.link(O=9)
    assert bench.arrive(link, run(O, 5, 9)) == []
    assert not bench.replica.catch_up.early and bench.replica.receiver.duplicates == 4


def test_Early_BehindAGap_TheGapIsAskedForFirst() -> None:
    bench = Early()
    link = bench.link()
    bench.arrive(link, run(O, 6, 9))
    assert not bench.replica.catch_up.early
    assert Graft({O: 0}) in bench.sent(link)


def test_Early_WriteFails_WhatWasDroppedIsAskedForAgain() -> None:
    bench = Early()
    link = bench.link()
    bench.receive(link, Messages((run(O, 0, 4), run(O, 4, 9))), store=False)
    bench.sent(link)
    bench.replica.failed(bench.now)
    bench.replica.catch_up.resume(bench.now)
    assert Graft({O: 0}) in bench.sent(link)
    bench.arrive(link, run(O, 0, 4), run(O, 4, 9))
    assert bench.replica.vector.held(O) == 4 and bench.replica.catch_up.early == {O: 9}


def test_Ship_FullFrameAndPeerHasTheRestFromElsewhere_ToldByHave() -> None:
    bench = Bench(O=30)
    link = bench.link()
    bench.receive(link, Graft({O: 0}))
    work = link.take(bench.now)
    ((name, after, upto),) = work.ships
    link.shipped(work.ships, bench.now)
    link.progress.note(O, 30)
    link.shipping.correct(name, upto, after, bench.now)
    assert not link.take(bench.now).ships
    bench.later(5.0)
    told = [frame.have for frame in link.take(bench.now).frames if isinstance(frame, Have)]
    assert told and told[-1][O] == entry(30)


def test_Ship_MoreThanPlannedAndPeerHasAllFromElsewhere_ToldByHave() -> None:
    """The first message of an origin floods, and comes with the rest of its entry."""
    bench = Bench()
    source, link = bench.link("source"), bench.link()
    bench.arrive(source, run(O, 0, 30))
    work = link.take(bench.now)
    assert work.ships == [(O, 0, 1)]
    link.shipped(work.ships, bench.now)
    bench.receive(link, Have({O: entry(30)}))
    link.shipping.correct(O, 1, 2, bench.now)
    assert bench.sent(link) == []
    bench.later(2.0)
    assert told(bench, link) == {O: entry(30)}


def test_Ship_FullFrame_TheRestComesNext() -> None:
    bench = Bench(O=30)
    link = bench.link()
    bench.receive(link, Graft({O: 0}))
    work = link.take(bench.now)
    link.shipped(work.ships, bench.now)
    link.shipping.correct(O, 30, 12, bench.now)
    assert link.take(bench.now).ships == [(O, 12, 30)]


def test_Refusal_OfWhatIsNotOnDiskYet_ShownOnceItIs() -> None:
    """Else the peer would learn of no fork."""
    bench = Bench()
    good, bad = bench.link("good"), bench.link("bad")
    (waiting,) = bench.receive(good, Messages((run(O, 0, 2),)), store=False)
    bench.receive(bad, Messages((run(O, 0, 2, "other"),)))
    assert not any(isinstance(frame, Fork) for frame in bench.sent(bad))
    bench.replica.stored([waiting], bench.now)
    asked = [frame for frame in bench.sent(bad) if isinstance(frame, Fork)]
    assert [(frame.origin, frame.head) for frame in asked] == [(O, entry(2))]


def test_Placed_OwnMessagesHaveOtherIds_PeersWithTheOldIdsHaveNoCopies() -> None:
    bench = Bench()
    bench.commit(3)
    link = bench.link("peer")
    bench.replica.renew(f"{US}1")
    first = run(US, 1, 2, "first")
    to = name_of(US, 1, "ab" * 16)
    bench.replica.placed(first, Move(US, 1, to), bench.now)
    assert bench.replica.vector.held(US) == bench.replica.vector.held(to) == 2
    (asked,) = [frame for frame in bench.sent(link) if isinstance(frame, Fork)]
    bench.receive(link, Fork(US, first.head, agree=asked.head.hash))
    assert [bench.replica.hosts(US, n) for n in (1, 2, 3)] == [1, 0, 0]


# -- New origins for which there is no room -------------------------------------------------------

STRANGERS = [f"{n:032x}-1" for n in range(1, 31)]


def limited(limit: int = 10) -> Bench:
    """A bench that takes so many new origins of a host in an hour, and has a log already."""
    bench = Bench(O=1)
    vector = {O: entry(1)}
    bench.replica = Replica(US, vector, random.Random(1), limit, lambda _: False)
    return bench


def test_NewOrigins_ClaimedBeyondTheRoom_NotInSyncAndTakenLater() -> None:
    bench = limited()
    link = bench.link(O=1)
    bench.receive(link, Have({name: entry(1) for name in STRANGERS}))
    asked = {name for frame in bench.sent(link) for name in getattr(frame, "after", {})}
    assert len(asked) == 10, "no more than there is room for"
    bench.arrive(link, *(run(name, 0, 1) for name in asked))
    assert bench.replica.catch_up.behind(bench.now) == 20, "the others are not forgotten"
    assert not bench.offences
    got = set(asked)
    for _ in range(130):  # minutes
        bench.later(60.0)
        for frame in bench.sent(link):
            if isinstance(frame, Look):
                bench.receive(link, Have({name: entry(1) for name in STRANGERS}, lacks=()))
        more = {n for frame in bench.sent(link) for n in getattr(frame, "after", {})}
        bench.arrive(link, *(run(name, 0, 1) for name in more))
        got |= more
        assert bench.replica.catch_up.stalled(bench.now) == []
    assert got == set(STRANGERS) and bench.replica.catch_up.behind(bench.now) == 0
    assert not bench.offences


def test_NewOrigins_AskedFor_TakenThoughTheRoomIsUsedUpMeanwhile() -> None:
    bench = limited()
    link, other = bench.link("one", O=1), bench.link("other", O=1)
    bench.receive(link, Have({name: entry(1) for name in STRANGERS[:10]}))
    bench.arrive(other, *(run(name, 0, 1) for name in STRANGERS[10:]))
    assert bench.offences["new_origins"] == 20, "nobody has asked for these"
    bench.offences.clear()
    assert len(bench.arrive(link, *(run(name, 0, 1) for name in STRANGERS[:10]))) == 10
    assert not bench.offences


def test_Latest_MessagesOfLongAgo_NotOnTheirWayToAPeer() -> None:
    bench = Bench()
    bench.commit(1000)
    bench.later(5.0)
    bench.commit(2)
    assert bench.replica.latest(bench.now) == 2
