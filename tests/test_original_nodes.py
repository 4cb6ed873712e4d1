"""Original nodes and ours in one mesh: who is told of whom, and each commit once on every node."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from functools import partial

import pytest

from tests.original import Original
from tests.support import NodeProcess, holds, run_nodes, wait_sockets, wait_until

# Orders of joining that end in a full mesh: A, B and C are ours, X and Y original nodes, "X>A=3"
# says that X is told to dial A, after which there are 3 links in all. Not among them: orders in
# which originals spoil it on their own. They tell everybody whom they have dialled: one of ours of
# an original that has dialled it, an original of one of ours that has dialled it.
ORDERS = [
    "A>X=1 B>A=3 C>A=6",  # ours dial the original
    "B>A=1 A>X=3",  # ours have met before
    "B>A=1 C>A=3 X>A=6",  # the original dials ours
    "X>A=1 X>B=3",  # ours meet through the original
    "B>A=1 X>A=3 Y>A=5 X>Y=6",  # both originals dial in, and one the other by hand
    "A>B=1 X>A=3 Y>B=5 X>Y=6",
    "X>A=1 X>B=3 Y>A=5 X>Y=6",
    "B>A=1 C>A=3 X>A=6 Y>B=9 X>Y=10",
    "A>X=1 A>Y=3 B>A=6",  # A dials both; Y is told of X, B of both
    "X>Y=1 A>X=3 B>A=6",  # the originals have met before
]
Node = NodeProcess | Original


def link_count(node: Node) -> int:
    return node.links() if isinstance(node, Original) else node.sockets()


def shown(node: Node) -> list[str]:
    return list(node.messages) if isinstance(node, Original) else node.texts()


def has_joined(original: Original, links: int) -> bool:
    """Has `original` that many links, and a frame over each?"""
    return original.links() >= links and len(original.frames) >= links


def agree(nodes: list[Node], texts: list[str]) -> None:
    """Each node comes to show exactly `texts`, in any order, and ours all in the same one."""
    expected = [sorted(texts)] * len(nodes)

    def seen() -> list[list[str]]:
        return [sorted(shown(node)) for node in nodes]

    wait_until(lambda: seen() == expected, lambda: f"{expected[0]} on each, got {seen()}")
    ours = {node.messages() for node in nodes if isinstance(node, NodeProcess)}
    assert len(ours) == 1, f"one order on all of ours, got {ours}"


def commit_on_each(nodes: list[Node], text: str) -> list[str]:
    """Commit "`text` 0" on the first of `nodes` and so on; return the texts."""
    texts = [f"{text} {index}" for index in range(len(nodes))]
    for node, each in zip(nodes, texts, strict=True):
        node.commit(each)
    return texts


@pytest.mark.parametrize("order", ORDERS)
def test_a_full_mesh_shows_each_commit_once_on_each_node(order: str) -> None:
    with ExitStack() as stack:
        nodes: dict[str, Node] = {
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
        full = dict.fromkeys(nodes, len(nodes) - 1)
        holds(lambda: counts() == full, lambda: f"one link between each two, got {counts()}")
        texts = commit_on_each(everyone, "from")
        agree(everyone, texts)
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


def test_an_original_that_was_told_of_is_not_told_of_those_who_come_later() -> None:
    with NodeProcess() as first, Original() as original:
        first.add(original.address)
        wait_until(lambda: original.links() == 1)
        with NodeProcess("--peer", first.address) as later:
            wait_sockets(2, first, later)
            holds(lambda: original.links() == 2, "the later one has dialled it, and that is all")
            assert original.told() == []


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
