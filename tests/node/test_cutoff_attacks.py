"""Members that misuse cutoffs, and bad luck while origins are ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.disk import witness
from p2p_sync.disk.log import Log
from p2p_sync.errors import LogError
from p2p_sync.wire.cutoffs import NO_HISTORY, START_STEP, cutoff_of
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH
from p2p_sync.wire.signing import sign
from tests.harness import raw
from tests.harness.library import texts
from tests.harness.member import hello, identities, run
from tests.harness.support import SCALE, pause, wait_until
from tests.node.test_forgetting import equal, heads, rows, state

CUTOFF = 1_700_000_000_000
OLD = (CUTOFF - 100) * START_STEP + 1
"""The start of an origin that the cutoff ends."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_sync.node.forgetting.CUTOFF_CHECK", 0.1)
    monkeypatch.setattr("p2p_sync.core.comparing.AUDIT_INTERVAL", 2.0)


@contextmanager
def member(node: Node, identity: Identity) -> Iterator[raw.RawPeer]:
    """A link of a member that claims to hold nothing."""
    with raw.dial(node.address, identity=identity) as peer:
        peer.send_json(hello())
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        yield peer


def cut(peer: raw.RawPeer, identity: Identity, time_ms: int) -> None:
    """Send a cutoff."""
    name = cutoff_of(identity.node)
    head = [time_ms, NO_HISTORY, sign(identity, name, time_ms, NO_HISTORY)]
    peer.send_json({"type": "HAVE", "have": {name: head}})


def history(identity: Identity, *times: int) -> list[dict[str, Any]]:
    """Runs of an old origin, each with one message of that time."""
    name, running, runs = f"{identity.node}-{OLD}", NO_HASH, []
    for n, moment in enumerate(times):
        previous, (running,) = running, chain(running, [Entry(moment, f"{n}")])
        signature = sign(identity, name, n + 1, running)
        entries = [[moment, f"{n}"]]
        runs.append({"origin": name, "after": n, "previous": previous, "entries": entries})
        runs[-1]["signature"] = signature
    return runs


def give(node: Node, identity: Identity, runs: list[dict[str, Any]], cutoff: int = CUTOFF) -> None:
    """Send a node a cutoff and then runs, as a member; return once it shows them."""
    wanted = len(node.messages()) + len(runs)
    with member(node, identity) as peer:
        cut(peer, identity, cutoff)
        wait_until(lambda: cutoff_of(identity.node) in heads(node))
        for part in runs:
            peer.send_json({"type": "MESSAGES", "runs": [part]})
        wait_until(lambda: len(node.messages()) == wanted)


def keeps_nothing(node: Node, origin: str) -> bool:
    return all(message.origin != origin for message in node.messages())


@pytest.mark.parametrize("times", [(1, -1), (-1, 1), (-1, -2), (1, 2)])
def test_nodes_that_got_different_parts_of_an_ended_origin_become_equal(
    times: tuple[int, int],
) -> None:
    """Times relative to the cutoff: what a member dates before it is not kept from any node."""
    one, two = history(identity := next(identities), *(CUTOFF + 10 * time for time in times))
    with Node(0) as here, Node(0) as there:
        give(here, identity, [one, two])
        give(there, identity, [one])
        here.connect(there.address)
        wait_until(lambda: equal(here, there), lambda: (state(here), state(there)))
        wait_until(lambda: texts(there) == texts(here), lambda: texts(there))


def test_what_nobody_keeps_since_the_cutoff_is_not_missed_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    monkeypatch.setattr(witness, "BOOT_ID", boot)
    runs = history(identity := next(identities), CUTOFF + 1)
    with Node(0, keep_messages=3) as there:
        here = Node(0, tmp_path / "here", keep_messages=3)
        here.start()
        here.connect(there.address)
        give(here, identity, runs)
        for n in range(10):
            here.commit(f"{n}")
        wait_until(lambda: equal(here, there))
        for node in (here, there):
            wait_until(partial(keeps_nothing, node, runs[0]["origin"]))
        for known in here.peers():
            here.forget(known.key)
        here.stop()
        with Node(0, tmp_path / "here", keep_messages=3) as here:
            wait_until(lambda: runs[0]["origin"] not in rows(tmp_path / "here"))
            here.connect(there.address)
            wait_until(lambda: equal(here, there), lambda: (state(here), state(there)))
            assert here.status().missed == there.status().missed == 0


def test_a_cutoff_in_the_future_says_nothing_of_the_messages_that_are_here() -> None:
    with Node(0) as node:
        before = node.commit("kept")
        give(node, next(identities), [], before.time + 10**12)
        since = node.status().messages.complete_since
        assert since is None or since <= time.time() * 1000


def test_a_cutoff_beyond_all_start_numbers_is_refused() -> None:
    with Node(0) as node, member(node, identity := next(identities)) as peer:
        cut(peer, identity, 2**43)
        code, reason = peer.read_close()
        assert (code, reason) == (1002, "a frame about the log: a cutoff with a hash, or too late")


def test_commits_before_the_own_cutoff_from_a_wrong_clock_reach_the_peers(tmp_path: Path) -> None:
    """The clock of a node was a year ahead, and it has ended its origins. Then its disk is set back
    to an earlier state, so it does not know that."""
    with Node(0) as peer, Node(0, tmp_path) as node:
        identity = node._running().store.identity
        sent = node.commit("before it is linked")
        give(peer, identity, [], sent.time + 365 * 24 * 3600 * 1000)
        node.connect(peer.address)
        wait_until(lambda: equal(node, peer), lambda: (state(node), state(peer)))
        assert texts(peer) == ["before it is linked"]
        wait_until(lambda: node.commit("later").origin != sent.origin)
        wait_until(lambda: equal(node, peer), lambda: (state(node), state(peer)))


def many(node: Node, identity: Identity, peer: raw.RawPeer, count: int) -> None:
    """Have a node store origins that the cutoff ends, with a message each."""
    for at in range(0, count, 250):
        runs = [run(identity, start=OLD - at - n) for n in range(min(250, count - at))]
        peer.send_json({"type": "MESSAGES", "runs": runs})
    wait_until(lambda: len(heads(node)) == count, lambda: node.status().misbehaviour)


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let each look at the origins of a node take so long."""
    ended: Callable[..., Any] = Log.ended

    def slow(*args: Any) -> Any:
        pause(seconds)
        return ended(*args)

    monkeypatch.setattr(Log, "ended", slow)


def test_commits_do_not_wait_while_a_member_ends_many_origins_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, 0.02)
    identity = next(identities)
    with Node(0, tmp_path, max_new_origins=10_000) as node, member(node, identity) as peer:
        many(node, identity, peer, 3_000)
        waits: list[float] = []
        for n in range(100):
            cut(peer, identity, CUTOFF + n)
            peer.ping()
            began = time.monotonic()
            node.commit(f"{n}")
            waits.append(time.monotonic() - began)
        assert sorted(waits)[-5] < 0.1 * SCALE, "one of them waits for one look, and not for 30"
        wait_until(lambda: cutoff_of(identity.node) in heads(node))
        with node._running().state.turn() as core:
            assert len(core.replica.vector.ended) == 3_000


def test_a_cutoff_is_stored_after_its_origins_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p_sync.node.forgetting.KEEP_RETRY", 0.1)
    ended: Callable[..., Any] = Log.ended
    fails = iter(range(3))

    def failing(*args: Any) -> Any:
        if next(fails, None) is not None:
            raise LogError("the disk is slow")
        return ended(*args)

    monkeypatch.setattr(Log, "ended", failing)
    identity = next(identities)
    with Node(0, tmp_path) as node, member(node, identity) as peer:
        many(node, identity, peer, 3)
        cut(peer, identity, CUTOFF)
        node.commit("nothing waits for it")
        name = cutoff_of(identity.node)
        wait_until(lambda: name in heads(node), lambda: state(node))
        assert name in rows(tmp_path) and len(heads(node)) == 2
