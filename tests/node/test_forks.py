"""Two histories of one origin, both signed by its node: all nodes keep both in the same way."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.forks import name_of
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH, PackedRun, Run, messages_to_json
from p2p_sync.wire.signing import sign
from tests.disk.test_witness import set_back
from tests.harness import raw
from tests.harness.library import texts
from tests.harness.member import hello, identities, run
from tests.harness.support import NodeProcess, holds, run_to_end, wait_until


def digest(node: Node) -> Any:
    return node.status().messages.digest


def equal(*nodes: Node) -> bool:
    return len({(digest(node), *texts(node)) for node in nodes}) == 1


def forks(node: Node) -> list[tuple[int, int]]:
    """Of each fork: the number of the message after which it begins, and its messages."""
    status = node.status()
    assert not status.disputes or status.conflicts
    return [(fork.after, fork.messages) for fork in status.forks]


def has_no_dispute(node: Node) -> bool:
    return not node.status().disputes


def give(node: Node, identity: Identity, *runs: dict[str, Any]) -> None:
    """Send runs to a node as the member with that identity; return once it has stored them."""
    before = node.status().messages.count
    with raw.dial(node.address, identity=identity) as peer:
        peer.send_json(hello())
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        for part in runs:
            peer.send_json({"type": "MESSAGES", "runs": [part]})
        count = sum(len(part["entries"]) for part in runs)
        wait_until(lambda: node.status().messages.count == before + count)


def test_a_node_that_was_set_back_and_committed_keeps_what_it_and_its_peers_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, older = tmp_path / "data", tmp_path / "older"
    with Node(0) as peer, Node(0) as third:
        third.connect(peer.address)
        with Node(0, data) as node:
            first = node.commit("kept")
            node.connect(peer.address)
            wait_until(lambda: texts(third) == ["kept"])
        shutil.copytree(data, older)
        with Node(0, data) as node:
            lost = [node.commit(text) for text in ("then one", "then two")]
            assert {message.origin for message in lost} == {first.origin}
            wait_until(lambda: len(texts(third)) == 3)
        set_back(data, older)
        with Node(0, data, peers=[]) as node:
            for known in node.peers():
                node.forget(known.key)
            apart = [node.commit(text) for text in ("now one", "now two", "now three")]
            assert [message.id for message in apart][:1] == [lost[0].id], "used twice"
            node.connect(peer.address)
            wait_until(lambda: equal(node, peer, third) and len(texts(node)) == 6)
            order = ["kept", "then one", "then two", "now one", "now two", "now three"]
            assert texts(node) == order, "no acknowledged message is lost"
            (branch,) = {message.origin for message in node.messages()} - {first.origin}
            assert [m.id for m in node.messages()][3:] == [f"{branch}:{n}" for n in (1, 2, 3)]
            later = node.commit("later")
            assert later.origin not in (first.origin, branch)
            wait_until(lambda: texts(third)[6:] == ["later"])
            for each in (node, peer, third):
                assert forks(each) == [(1, 3)] and each.status().conflicts == 1
                assert any("signed two" in warning for warning in each.status().warnings)
            told = f"{first.origin}:2 to {first.origin}:4 have the ids {branch}:1 to {branch}:3"
            assert told in caplog.text
            node.erase(apart[2].id)
            wait_until(lambda: all(texts(each)[5] == "" for each in (node, peer, third)))
            assert [m.erased for m in third.messages()].count(None) == 6, "the old id finds it"
        with Node(0, data) as node:
            assert forks(node) == [(1, 3)]
            node.acknowledge_forks()
            assert forks(node) == [] and node.status().conflicts == 0
        with Node(0, data) as node:
            assert forks(node) == [] and not node.status().warnings, "acknowledged for good"
        assert forks(peer) == [(1, 3)], "each operator acknowledges it"


@pytest.mark.parametrize(
    "lengths", [(1, 1), (3, 1), (1, 3), (300, 2), (2, 300), (2500, 2500)], ids=str
)
@pytest.mark.parametrize("common", [0, 1, 700])
def test_a_lying_node_gives_each_of_two_nodes_another_history(
    common: int, lengths: tuple[int, int]
) -> None:
    liar = next(identities)
    with Node(0) as one, Node(0) as two, Node(0) as three:
        for node, text, count in zip((one, two), ("one", "two"), lengths, strict=True):
            give(node, liar, *history(liar, common, text, count))
        three.connect(two.address)
        wait_until(lambda: equal(two, three))
        one.connect(two.address)
        whole = common + sum(lengths)
        wait_until(lambda: equal(one, two, three) and len(texts(one)) == whole, partial(told, one))
        wait_until(lambda: [node.sockets() for node in (one, two, three)] == [2, 2, 2])
        for node in (one, two, three):
            assert not any(node.status().misbehaviour.values())
            wait_until(partial(has_no_dispute, node))
        assert forks(one) == forks(two) == forks(three)
        ((after, count),) = forks(one)
        assert after == common and count in lengths
        give(one, liar, run(liar, start=2, text="and on"))
        wait_until(lambda: equal(one, two, three))


def told(node: Node) -> str:
    return str([node.status(), node.peers()])


def history(
    liar: Identity, common: int, text: str, count: int, start: int = 1
) -> list[dict[str, Any]]:
    """Runs of one origin: `common` messages, and `count` that only the node with `text` gets."""
    origin = f"{liar.node}-{start}"
    entries = [Entry(1, f"{n}") for n in range(1, common + 1)]
    entries += [Entry(2, f"{text} {n}") for n in range(1, count + 1)]
    hashes = chain(NO_HASH, entries)
    runs = []
    for after in range(0, len(entries), 500):
        end = min(after + 500, len(entries))
        runs.append(
            {
                "origin": origin,
                "after": after,
                "previous": hashes[after - 1] if after else NO_HASH,
                "entries": [list(entry[:2]) for entry in entries[after:end]],
                "signature": sign(liar, origin, end, hashes[end - 1]),
            }
        )
    return runs


def test_three_histories_become_three_branches_wherever_they_meet_first() -> None:
    liar = next(identities)
    for order in itertools.permutations(range(3)):
        with Node(0) as a, Node(0) as b, Node(0) as c:
            nodes = [a, b, c]
            for n, node in enumerate(nodes):
                give(node, liar, *history(liar, 2, f"history {n}", 2 + n, 7))
            first, second, third = (nodes[n] for n in order)
            first.connect(second.address)
            wait_until(partial(equal, first, second))
            third.connect(second.address)
            wait_until(partial(equal, a, b, c))
            assert len(texts(a)) == 2 + 2 + 3 + 4
            assert forks(a) == forks(b) == forks(c) and [n for n, _ in forks(a)] == [2, 2]
            names = {fork.origin for fork in a.status().forks}
        assert len(names) == 2


def signed_run(liar: Identity, *texts: tuple[int, str]) -> dict[str, Any]:
    """A whole history of one origin, as a run: times and texts."""
    entries = [Entry(*each) for each in texts]
    hashes = chain(NO_HASH, entries)
    origin = f"{liar.node}-1"
    return {
        "origin": origin,
        "after": 0,
        "previous": NO_HASH,
        "entries": [list(entry[:2]) for entry in entries],
        "signature": sign(liar, origin, len(entries), hashes[-1]),
    }


def dispute(node: Node, liar: Identity, whole: dict[str, Any]) -> None:
    """Show a node another history of an origin, as one that is in dispute with it."""
    head = Run.from_dict(whole).head
    before = len(texts(node))
    with raw.dial(node.address, identity=liar) as peer:
        peer.send_json(hello())
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        peer.send_json({"type": "FORK", "origin": whole["origin"], "head": head, "marks": []})
        while peer.read_json()["type"] != "FORK":
            pass
        peer.send_json({"type": "MESSAGES", "runs": [whole]})
        wait_until(lambda: len(texts(node)) > before)


def test_a_branch_that_comes_before_the_branch_that_it_leaves_is_asked_for_again() -> None:
    liar = next(identities)
    with Node(0) as one, Node(0) as other:
        give(one, liar, signed_run(liar, (1, "c"), (5, "main")))
        dispute(one, liar, signed_run(liar, (1, "c"), (6, "b1"), (6, "b2")))
        dispute(one, liar, signed_run(liar, (1, "c"), (6, "b1"), (7, "n1")))
        assert texts(one) == ["c", "main", "b1", "b2", "n1"]
        other.connect(one.address)
        wait_until(partial(equal, one, other), partial(told, other))


def test_an_erasure_moves_with_its_message(caplog: pytest.LogCaptureFixture) -> None:
    liar = next(identities)
    with Node(0) as one, Node(0) as other, Node(0) as late:
        give(one, liar, signed_run(liar, (1, "c"), (5, "main")))
        give(other, liar, signed_run(liar, (1, "c"), (6, "b1"), (6, "b2")))
        one.erase(f"{liar.node}-1:2")
        other.erase(f"{liar.node}-1:3")
        other.connect(one.address)
        wait_until(partial(equal, one, other), partial(told, other))
        late.connect(other.address)
        wait_until(partial(equal, one, other, late), partial(told, late))
        assert texts(late).count("") == 2 + 1, "those with that id in each history"
        for node in (one, other, late):
            assert not any(node.status().misbehaviour.values())


def test_no_peer_makes_a_node_change_its_origin() -> None:
    liar = next(identities)
    with Node(0) as node:
        messages = [node.commit(f"{n}") for n in range(4)]
        origin = messages[0].origin
        heads = [node.log.read(origin, n, n + 1, 10**6)[0] for n in range(4)]
        with raw.dial(node.address, identity=liar) as peer:
            peer.send_json(hello())
            peer.send_json({"type": "HAVE", "have": {}, "last": True})
            head = [1, heads[1].previous, heads[0].signature]
            beyond = [[3, heads[3].previous]]
            peer.send_json({"type": "FORK", "origin": origin, "head": head, "marks": beyond})
            whole = Run(origin, 2, heads[2].previous, heads[2].entries, (), heads[2].signature)
            first = chain(whole.previous, whole.entries)[0]
            named = replace(whole, origin=name_of(origin, 2, first), after=0)
            peer.send_json(json.loads(messages_to_json([PackedRun.of(named)], {}, False)))
            peer.ping()
            holds(lambda: node.status().conflicts == 0)
        assert node.commit("later").origin == origin
        assert len(texts(node)) == 5


def held_under_another_name(node: Node, author: Identity) -> tuple[Run, Any]:
    """Give a node five messages; return the last three of them as a branch, and their frame."""
    whole = run(author, 5)
    give(node, author, whole)
    rest = Run.from_dict(whole).beyond(2)
    assert rest
    named = replace(rest, origin=name_of(whole["origin"], 2, rest.hashes[0]), after=0)
    return named, json.loads(messages_to_json([PackedRun.of(named)], {}, False))


def test_a_history_is_not_held_twice_under_the_name_of_a_branch() -> None:
    """A peer may ship what every node has signed and give it another name."""
    author, liar = next(identities), next(identities)
    with Node(0) as node:
        _, frame = held_under_another_name(node, author)
        with raw.dial(node.address, identity=liar) as peer:
            peer.send_json(hello())
            peer.send_json({"type": "HAVE", "have": {}, "last": True})
            peer.send_json(frame)
            peer.ping()
            holds(lambda: len(texts(node)) == 5)
            assert forks(node) == [] and node.status().conflicts == 0


def test_a_peer_that_agrees_and_shows_another_history_is_cut() -> None:
    author, liar = next(identities), next(identities)
    with Node(0) as node:
        give(node, author, signed_run(author, (5, "x1"), (5, "x2")))
        other = Run.from_dict(signed_run(author, (4, "y1"), (4, "y2"))).head
        origin = f"{author.node}-1"
        with raw.dial(node.address, identity=liar) as peer:
            peer.send_json(hello())
            peer.send_json({"type": "HAVE", "have": {origin: other}})
            while (frame := peer.read_json())["type"] != "FORK":
                pass
            shown = frame["head"][1]
            peer.send_json({"type": "FORK", "origin": origin, "head": other, "agree": shown})
            wait_until(lambda: node.status().misbehaviour["frame"] == 1)
            wait_until(lambda: node.sockets() == 0)


def test_a_peer_that_ships_only_what_is_held_under_another_name_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p_sync.core.catch_up.STALLED_AFTER", 1.0)
    author, liar = next(identities), next(identities)
    with Node(0) as node:
        named, again = held_under_another_name(node, author)
        with raw.dial(node.address, identity=liar) as peer:
            peer.send_json(hello())
            have = {named.origin: [named.end, *named.head[1:]]}
            peer.send_json({"type": "HAVE", "have": have, "last": True})
            with pytest.raises(AssertionError, match=r"closed: .*it did not send messages"):
                while True:
                    if peer.read_json()["type"] == "GRAFT":
                        peer.send_json(again)
            wait_until(lambda: node.sockets() == 0)
        assert node.status().misbehaviour["claims"] == 1


def test_the_page_and_the_command_line_report_a_fork_until_it_is_acknowledged() -> None:
    liar = next(identities)
    with NodeProcess() as node, Node(0) as other:
        give(other, liar, run(liar, text="two"))
        with raw.dial(node.address, identity=liar) as peer:
            peer.send_json(hello())
            peer.send_json({"type": "HAVE", "have": {}, "last": True})
            peer.send_json({"type": "MESSAGES", "runs": [run(liar, text="one")]})
            wait_until(lambda: node.count == 1)
        other.connect(node.address)
        wait_until(lambda: node.count == 2, node.status)
        # Until the other node says that it has branched too, its dispute counts beside the fork.
        wait_until(lambda: "p2p_sync_conflicts 1.0" in node.get("/metrics").text, node.status)
        page = node.get("/", Accept="text/html").text
        assert "1 fork" in page and "Acknowledge" in page
        told = run_to_end("acknowledge", "--node", f"http://127.0.0.1:{node.port}")
        assert (told.returncode, told.stdout) == (0, "Acknowledged\n"), told.stderr
        page = node.get("/", Accept="text/html").text
        assert "1 fork" not in page and "fork</span>" in page, "the messages stay marked"
        assert "p2p_sync_conflicts 0.0" in node.get("/metrics").text
