"""Original nodes and ours in one mesh: who is told of whom, and each commit once on every node."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.disk.log import Log
from tests.harness import raw
from tests.harness.member import hello, identities
from tests.harness.original import Original
from tests.harness.support import NodeProcess, holds, run_nodes, settle, wait_sockets, wait_until

# Orders of joining: A, B and C are ours, X and Y original nodes, "X>A=3" says that X is told to
# dial A, after which there are 3 links in all. With each order: the links of each node in the end.
# An original that one of ours has dialled is a leaf; the others make a full mesh. Not among them:
# orders in which originals spoil it on their own. They tell everybody whom they have dialled: one
# of ours of an original that has dialled it, an original of one of ours that has dialled it.
ORDERS = {
    "A>X=1 B>A=2 C>A=4": "A3 B2 C2 X1",  # one of ours dials the original
    "B>A=1 A>X=2": "A2 B1 X1",  # ours have met before
    "B>A=1 C>A=3 X>A=6": "A3 B3 C3 X3",  # the original dials ours
    "X>A=1 X>B=3": "A2 B2 X2",  # ours meet through the original
    "B>A=1 X>A=3 Y>A=5 X>Y=6": "A3 B3 X3 Y3",  # both originals dial in, and one the other by hand
    "A>B=1 X>A=3 Y>B=5 X>Y=6": "A3 B3 X3 Y3",
    "X>A=1 X>B=3 Y>A=5 X>Y=6": "A3 B3 X3 Y3",
    "B>A=1 C>A=3 X>A=6 Y>B=9 X>Y=10": "A4 B4 C4 X4 Y4",
    "A>X=1 A>Y=2 B>A=3": "A3 B1 X1 Y1",  # A dials both
    "X>Y=1 A>X=3 B>A=4": "A3 B1 X2 Y2",  # the originals have met before
    "A>X=1 B>X=2 B>A=3": "A2 B2 X2",  # two of ours dial the original, and meet then
    "B>A=1 A>X=2 B>X=3": "A2 B2 X2",
    "B>A=1 C>A=3 C>X=4 A>X=5": "A3 B2 C3 X2",
    "A>X=1 X>B=2 B>A=3": "A2 B2 X2",  # it is a leaf of A, and dials B
    "A>X=1 X>B=2 A>B=3": "A2 B2 X2",
    "X>B=1 A>X=3": "A2 B2 X2",  # it has dialled B before A dials it
    "A>X=1 X>A=1": "A1 X1",  # it dials the node that has dialled it
    "A>X=1 B>A=2 X>A=3": "A2 B2 X2",
    "A>Y=1 X>A=2 B>A=4": "A3 B2 X2 Y1",  # one is a leaf, the other dials in
    "X>A=1 A>Y=2 B>A=4": "A3 B2 X2 Y1",
    "A>X=1 B>X=2 B>Y=3 B>A=4": "A2 B3 X2 Y1",  # a leaf of both, and one of B alone
    "A>X=1 B>X=2 A>Y=3 B>Y=4 B>A=5": "A3 B3 X2 Y2",  # both are leaves of both
    "A>X=1 B>Y=2 B>A=3": "A2 B2 X1 Y1",  # each of ours has a leaf of its own
}
# In these, two originals are known to another node of ours each: their equal texts show as one.
APART = ("A>X=1 B>Y=2 B>A=3",)
Member = NodeProcess | Original


def link_count(node: Member) -> int:
    return node.links() if isinstance(node, Original) else node.sockets()


def shown(node: Member) -> list[str]:
    return list(node.messages) if isinstance(node, Original) else node.texts()


def has_joined(original: Original, links: int) -> bool:
    """Has `original` that many links, and a frame over each?"""
    return original.links() >= links and len(original.frames) >= links


def agree(nodes: list[Member], texts: list[str]) -> None:
    """Each node comes to show exactly `texts`, in any order, and ours all in the same one, once
    they have all copies of what originals committed."""
    expected = [sorted(texts)] * len(nodes)

    def seen() -> list[list[str]]:
        return [sorted(shown(node)) for node in nodes]

    def ours() -> set[str]:
        return {node.messages() for node in nodes if isinstance(node, NodeProcess)}

    wait_until(lambda: seen() == expected, lambda: f"{expected[0]} on each, got {seen()}")
    wait_until(lambda: len(ours()) == 1, lambda: f"one order on all of ours, got {ours()}")
    assert seen() == expected


def commit_on_each(nodes: list[Member], text: str) -> list[str]:
    """Commit "`text` 0" on the first of `nodes` and so on; return the texts."""
    texts = [f"{text} {index}" for index in range(len(nodes))]
    for node, each in zip(nodes, texts, strict=True):
        node.commit(each)
    return texts


@pytest.mark.parametrize("order", ORDERS)
def test_each_commit_shows_once_on_each_node(order: str) -> None:
    with ExitStack() as stack:
        nodes: dict[str, Member] = {
            name: stack.enter_context(Original()) for name in "XY" if name in order
        }
        ours = [name for name in "ABC" if name in order]
        nodes.update(zip(ours, stack.enter_context(run_nodes(len(ours))), strict=True))
        everyone = list(nodes.values())

        def counts() -> dict[str, int]:
            return {name: link_count(node) for name, node in nodes.items()}

        def so_far(step: str) -> str:
            return f"{step}, got {counts()}"

        def reached(ends: int) -> bool:
            return sum(counts().values()) >= ends

        for step in order.split():
            nodes[step[0]].add(nodes[step[2]].address)
            ends = 2 * int(step[4:])
            wait_until(partial(reached, ends), partial(so_far, step))
        right = {found[0]: int(found[1:]) for found in ORDERS[order].split()}
        settle(lambda: counts() == right, lambda: f"{right} links, got {counts()}")
        texts = commit_on_each(everyone, "from")
        agree(everyone, texts)
        if order not in APART:
            for node in everyone:  # the same text, committed once by each and by the first twice
                node.commit("again")
            everyone[0].commit("again")
            texts += ["again"] * (len(nodes) + 1)
            agree(everyone, texts)
        agree(everyone, texts + commit_on_each(everyone, "last"))
        originals = [node for node in everyone if isinstance(node, Original)]
        if len(originals) == 1:  # two of them may tell each other anything
            assert originals[0].address not in originals[0].told()


def test_originals_that_come_and_go_get_one_link_to_each_of_ours() -> None:
    with run_nodes(3) as nodes:
        for count, node in enumerate(nodes[1:], 1):
            node.add(nodes[0].address)
            wait_sockets(count, *nodes[: count + 1])
        for number in range(12):
            with Original() as original:
                original.add(nodes[number % 3].address)
                wait_until(partial(has_joined, original, 3))
                nodes[0].commit(f"text {number}")
                wait_until(partial(shown, original))
                assert (original.links(), original.messages) == (3, [f"text {number}"])
            wait_sockets(2, *nodes)


def test_three_of_ours_that_hear_one_commit_log_it_once() -> None:
    with Original() as original, run_nodes(3) as nodes:
        for node in nodes:  # they know each other only by the original's links and by hand
            node.add(original.address)
        nodes[1].add(nodes[0].address)
        nodes[2].add(nodes[0].address)
        wait_sockets(3, *nodes)
        texts = [f"text {number % 7}" for number in range(20)]  # each two or three times
        for text in texts:
            original.commit(text)
        agree([*nodes, original], texts)
        agree([*nodes, original], texts + commit_on_each([*nodes, original], "last"))


def test_an_original_gets_the_commits_of_the_other_end_only_and_no_history() -> None:
    with NodeProcess() as node, NodeProcess("--advertise", "none") as behind, Original() as early:
        behind.add(node.address)
        wait_sockets(1, node, behind)
        early.add(node.address)
        wait_until(lambda: early.links() == 1)
        wait_sockets(2, node)
        behind.commit("relayed to nobody")
        wait_until(lambda: node.messages() == "relayed to nobody")
        node.commit("before")
        wait_until(lambda: early.messages == ["before"])
        with Original() as late:
            late.add(node.address)
            wait_sockets(3, node)
            early.commit("from the early one")
            wait_until(lambda: "from the early one" in node.texts())
            node.commit("after")
            wait_until(lambda: early.messages == ["before", "from the early one", "after"])
            wait_until(lambda: late.messages == ["after"])


def test_an_original_is_told_each_of_ours_by_one_address() -> None:
    with run_nodes(3) as (a, b, c), Original() as guest:
        b.add(f"http://localhost:{a.port + 1}/")
        wait_sockets(1, a, b)
        c.add(a.address)
        wait_sockets(2, a, b, c)
        guest.add(c.address)
        wait_until(lambda: guest.links() >= 3 and len(guest.frames) >= 3)
        spellings = defaultdict(set)
        for told in [*guest.told(), c.address]:
            spellings[told.rpartition(":")[2]].add(told)
        assert spellings == {str(node.port + 1): {node.address} for node in (a, b, c)}


def test_a_leaf_is_told_no_address_and_gets_every_new_message_but_no_history() -> None:
    with NodeProcess() as first, NodeProcess() as other, Original() as leaf:
        first.commit("old")
        first.add(other.address)
        wait_sockets(1, first, other)
        first.add(leaf.address)
        wait_until(lambda: leaf.links() == 1)
        with NodeProcess("--peer", other.address) as later, Original() as guest:
            wait_sockets(2, other, later)
            wait_sockets(3, first)
            guest.add(later.address)
            wait_until(lambda: guest.links() == 3)
            wait_sockets(4, first)
            texts = commit_on_each([first, other, later, guest], "new")
            wait_until(lambda: sorted(leaf.messages) == texts, lambda: leaf.messages)
            leaf.commit("of the leaf")
            wait_until(lambda: guest.messages[-1:] == ["of the leaf"])
            agree([first, other, later], ["old", *texts, "of the leaf"])
            holds(lambda: sorted(leaf.messages) == sorted([*texts, "of the leaf"]))
            assert sorted(guest.messages) == sorted([*texts, "of the leaf"])
            assert (leaf.links(), leaf.told()) == (1, [])


def test_what_the_writer_has_not_counted_yet_is_sent_to_a_leaf_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Log.last_arrival
    monkeypatch.setattr(Log, "last_arrival", lambda log: counted(log) - 1)
    with Node(0) as node, Original() as leaf:
        node.connect(leaf.address)
        wait_until(lambda: node.sockets() == 1)
        texts = [f"text {number}" for number in range(45)]
        for text in texts:
            node.commit(text)
        wait_until(lambda: len(leaf.messages) >= len(texts))
        holds(lambda: leaf.messages == texts, lambda: leaf.messages)


def test_what_is_handed_over_while_the_sender_reads_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A leaf got a message before the one that was committed before it."""
    arrivals, meanwhile = Log.arrivals, ["two", "three"]

    def read(log: Log, after: int, limit: int, *rest: Any, **named: Any) -> Any:
        if after == 1:
            while meanwhile:
                node.commit(meanwhile.pop(0))
        return arrivals(log, after, limit, *rest, **named)

    with Node(0) as node, raw.dial(node.address) as original:
        original.send_sockets()
        wait_until(lambda: node.sockets() == 1)
        node.commit("one")
        assert original.read_message() == "one"
        monkeypatch.setattr(Log, "arrivals", read)
        with node._running().state.turn() as core:
            for peer in core.peers:
                core._turn.effects.wake(peer)
        assert [original.read_message() for _ in range(2)] == ["two", "three"]


def test_what_was_committed_elsewhere_while_cut_off_reaches_a_leaf_and_no_history() -> None:
    with NodeProcess() as other, NodeProcess() as node, Original() as leaf:
        node.add(leaf.address)
        wait_until(lambda: leaf.links() == 1)
        other.commit("before the two have met")
        node.add(other.address)
        wait_sockets(2, node)
        other.commit("after it")
        wait_until(lambda: leaf.messages == ["before the two have met", "after it"])


def test_of_two_nodes_with_one_leaf_the_other_goes_on_when_one_ends() -> None:
    with Original() as leaf, run_nodes(3) as (a, b, c):
        c.add(a.address)
        wait_sockets(1, a, c)
        c.add(b.address)
        wait_sockets(2, a, b, c)
        for node in (a, b):
            node.add(leaf.address)
            wait_sockets(3, node)
        wait_until(lambda: leaf.links() == 2)
        c.commit("with both")
        wait_until(lambda: leaf.messages == ["with both"])
        min([a, b], key=lambda node: node.id).stop()  # it sends the leaf what others commit
        wait_sockets(1, c)
        wait_until(lambda: leaf.links() == 1)
        c.commit("with one")
        wait_until(lambda: leaf.messages == ["with both", "with one"])


def test_no_peer_can_stop_a_dial_to_an_original() -> None:
    with (
        NodeProcess() as node,
        raw.dial(node.address, identity=next(identities)) as liar,
        Original() as original,
    ):
        lies = {kind: [original.address] for kind in ("leaves", "guests", "originals")}
        introduced = {original.address: "127.0.0.1"}
        liar.send_json(hello(introduced=introduced, **lies))
        wait_sockets(1, node)
        node.add(original.address)
        wait_sockets(2, node)
        node.commit("text")
        wait_until(lambda: original.messages == ["text"])


@pytest.mark.parametrize("ours_dials", [True, False])
def test_odd_frames_of_an_original_cost_nothing(ours_dials: bool) -> None:
    with NodeProcess() as node, Original() as original:
        if ours_dials:
            node.add(original.address)
        else:
            original.add(node.address)
        wait_until(lambda: original.links() == 1 and original.frames)
        original.send({"type": "MESSAGE"})
        original.send({"type": "MESSAGE", "data": ["a", "b"]})
        original.send({"type": "MESSAGE", "data": {"deep": None}})
        original.commit("x\ud800y")
        original.commit("still linked")
        wait_until(lambda: node.texts()[-1:] == ["still linked"])
        assert node.texts() == ["x\ufffdy", "still linked"]
        assert (node.sockets(), original.links()) == (1, 1)
        assert "Traceback" not in node.log(), node.log()
        node.commit("answer")
        wait_until(lambda: original.messages[-1] == "answer")


def test_the_stand_in_does_what_the_original_does() -> None:
    """The original's known troubles: it links twice, dials itself, shows a commit three times."""
    with Original() as a, Original() as b, Original() as c:
        a.add(b.address)
        wait_until(lambda: len(a.frames) == len(b.frames) == 1)
        c.add(a.address)
        wait_until(lambda: (a.links(), b.links(), c.links()) == (3, 5, 2))
        b.commit("text")
        wait_until(lambda: [len(node.messages) for node in (a, b, c)] == [2, 3, 1])
