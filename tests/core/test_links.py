"""What people are told of links, as the core decides it: peers join and leave once each."""

from __future__ import annotations

import gc
import random
import weakref

import pytest

from p2p_sync.core.core import Core
from p2p_sync.core.effects import JOINED, LEFT, Note
from p2p_sync.core.peer import Peer
from p2p_sync.settings import MANY_ADDRESSES, MAX_SOURCE_PEERS, Settings
from p2p_sync.wire.entries import HEARD, Entry
from p2p_sync.wire.frames import Frame, Heard, Ignored, Message, Proof, Sockets
from p2p_sync.wire.logframes import Have

US, THEM = "0" * 32, "1" * 32
HERE, THERE = ("127.0.0.1", 1001), ("127.0.0.1", 2001)
ADDRESS = "ws://127.0.0.1:2001"
SOCKETS = Sockets(port=THERE[1])


@pytest.fixture
def core() -> Core:
    core = Core(US, "", HERE[1], Settings(), {}, 0, 0, random.Random(1))
    core.begin(1.0, 1)
    core.connect(ADDRESS)
    return core


def told(core: Core) -> list[str]:
    """Return which of the two kinds of events there were since this was last asked."""
    effects, _ = core.end()
    notes = [effect for effect in effects.others if isinstance(effect, Note)]
    return [note.kind for note in notes if note.kind in (JOINED, LEFT)]


def linked(core: Core, dial: int) -> Peer:
    """Open a link to the other node, which introduces itself and goes on talking."""
    peer = talking(core, dial)
    core.received(peer, Have({}, last=True))
    return peer


def talking(core: Core, dial: int) -> Peer:
    """Open a link to the other node, dialled where there is a number, which introduces itself."""
    address = ADDRESS if dial else None
    peer = core.links.opened("link", THERE, HERE, dialled=address, dial=dial, node=THEM)
    core.received(peer, SOCKETS)
    return peer


@pytest.mark.parametrize("dials", [(1, 0), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("first", ["the old link", "the new link"])
def test_a_peer_with_two_links_joins_once_and_leaves_with_the_last(
    core: Core, dials: tuple[int, int], first: str
) -> None:
    one = linked(core, dials[0])
    assert told(core) == [JOINED]
    other = talking(core, dials[1])
    assert one.leaving or other.leaving
    core.received(other, Have({}, last=True))
    assert told(core) == []
    ends = [one, other] if first == "the old link" else [other, one]
    core.links.closed(ends[0], "a second link")
    # A link that was closed before it could say more does not keep the peer here.
    gone = [LEFT] if ends[1].leaving and not ends[1].joined else []
    assert told(core) == gone
    core.links.closed(ends[1], "it was lost")
    assert told(core) + gone == [LEFT]


def test_a_peer_that_comes_back_joins_again(core: Core) -> None:
    for _ in range(2):
        peer = linked(core, 1)
        assert told(core) == [JOINED]
        core.links.closed(peer, "it was lost")
        assert told(core) == [LEFT]


@pytest.mark.parametrize("dial", [0, 1], ids=["guest", "leaf"])
@pytest.mark.parametrize("silent", [True, False])
def test_the_sender_of_an_original_wakes_when_it_is_known_for_one(
    core: Core, dial: int, silent: bool
) -> None:
    core.tick()
    peer = core.links.opened("link", THERE, HERE, dialled=ADDRESS if dial else None, dial=dial)
    core.links.greet(peer)
    core.exchange.take(peer)
    core.end()
    assert core.exchange.waits_after(peer) is None
    if silent:
        core.links.silent(peer)
    else:
        core.received(peer, Sockets(()))
    effects, _ = core.end()
    assert core.exchange.waits_after(peer) is not None
    assert list(effects.woken) == [peer]


@pytest.mark.parametrize(
    ("frame", "new"),
    [
        (Heard("text"), True),
        (Message("2" * 32 + "-1", 1, 1, "text"), False),
        (Proof(proof="0" * 64), False),
        (Ignored("a frame of an unknown type"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_an_original_commits_is_news_beside_the_log(
    core: Core, frame: Frame, new: bool
) -> None:
    """A link is read more slowly while its frames bring nothing new."""
    assert core.received(talking(core, 0), frame) is new


def test_frames_that_wait_go_out_with_the_work_that_a_sender_was_handed(core: Core) -> None:
    """So a peer whose link is closed as surplus gets the addresses in any case."""
    core.tick()
    peer = linked(core, 1)
    while not peer.idle:
        core.exchange.take(peer)
    core.commits.commit(Entry.of(0, ["text"]), ["text"], None)
    core.stored(core.commits.to_store())
    assert peer.handed
    core.links.greet(peer)
    frame = Sockets((ADDRESS,))
    peer.outbox = frame
    peer.leaving = True
    work = core.exchange.take(peer)
    assert frame in work.frames and work.ships


def test_what_waits_for_a_peer_that_reads_slowly_is_one_frame_and_the_peer_stays(
    core: Core,
) -> None:
    peer = linked(core, 1)
    first = core.exchange.take(peer).frames[0]
    assert isinstance(first, Sockets) and first.link == 1, "its opening frame"
    for number in range(1, 1000):
        remote = (f"10.0.{number // 250}.{number % 250}", 40000)
        other = core.links.opened("link", remote, HERE, node=f"{number:032x}")
        core.received(other, Sockets(port=8001))
        core.links.closed(other, "gone")
    assert not peer.leaving
    sockets = [frame for frame in core.exchange.take(peer).frames if isinstance(frame, Sockets)]
    assert len(sockets) == 1
    assert sockets[0].addresses[-1] == "ws://10.0.3.249:8001", "the newest"
    assert len(sockets[0].addresses) <= MANY_ADDRESSES, "not so many that it counts as a fault"


def test_what_is_remembered_of_originals_that_are_gone_is_bounded(core: Core) -> None:
    gone = []
    for number in range(2 * MAX_SOURCE_PEERS):
        peer = core.links.opened("link", ("10.0.0.1", number), HERE)
        core.received(peer, Heard("text"))
        core.commits.hear(peer, Entry.of(0, ["text"], HEARD), "text", None)
        core.links.closed(peer, "gone")
        core.end()
        gone.append(weakref.ref(peer))
    del peer
    gc.collect()
    assert sum(found() is not None for found in gone) == MAX_SOURCE_PEERS


def stored(core: Core, before: int) -> list[str]:
    """Commit and store a message that arrives after that many; return its text."""
    core.commits.commit(Entry.of(0, ["text"]), ["text"], None)
    core.stored(core.commits.to_store(), (before, before + 1))
    return ["text"]


def sent(peer: Peer) -> list[str]:
    """Return the texts that the sender of an original was handed, which takes them."""
    work, peer.handed = peer.handed, None
    return [frame.data for frame in work.frames if isinstance(frame, Message)] if work else []


def test_an_original_is_handed_what_was_just_stored_once(core: Core) -> None:
    core.tick()
    peer = core.links.opened("link", THERE, HERE, arrival=7)
    core.received(peer, Sockets(()))
    core.exchange.take(peer)
    texts = stored(core, 7)
    assert sent(peer) == texts
    assert core.exchange.waits_after(peer) == 8
    message = Message(core.replica.origin, 1, 1, "text")
    assert core.exchange.pass_on(peer, [(8, message)], 8) == [], "its sender has read it, too"


def test_an_original_that_lacks_more_is_handed_nothing(core: Core) -> None:
    core.tick()
    peer = core.links.opened("link", THERE, HERE, arrival=7)
    core.received(peer, Sockets(()))
    core.exchange.take(peer)
    stored(core, 8)
    assert sent(peer) == [] and core.exchange.waits_after(peer) == 7
    core.end()
    stored(core, 9)
    assert list(core.end()[0].woken) == [peer], "its sender reads all of it"
