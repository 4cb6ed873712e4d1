"""Meshes of real nodes on this machine: they find each other, stay bounded and come back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.harness.api import check_logs, commit
from tests.harness.member import hello, identities
from tests.harness.members import Member
from tests.harness.process import held, memory
from tests.harness.raw import CLOSE, RawPeer, close_payload, dial, tcp
from tests.harness.support import (
    SCALE,
    NodeProcess,
    equal,
    free_port_pair,
    pause,
    wait_sockets,
    wait_until,
)

MESH_DEADLINE = 60.0 * SCALE
CONNECTS = 1000
AT_A_TIME = 10
ROOM = 3.0  # MiB by which memory may differ from the baseline
SHOWN_LINES = 40  # of each node's log, when a test has failed


@contextmanager
def mesh(directory: Path, count: int) -> Iterator[list[Member]]:
    """`count` nodes, started side by side; each but the first is given the first's address."""
    members = [Member(directory / f"node{n}") for n in range(count)]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.close)
        try:
            start(members[:1])
            start(members[1:], "--peer", members[0].address)
            yield members
        except BaseException:
            for member in members:
                lines = member.log.splitlines()[-SHOWN_LINES:]
                print(f"-- {member.name}, {member.port}", *lines, sep="\n")
            raise


def start(members: Iterable[Member], *options: str) -> None:
    """Start `members` side by side, and wait until they answer."""
    members = list(members)
    for member in members:
        member.start(*options)
    for member in members:
        member.node.wait_ready()


def end(members: Iterable[Member], signum: int) -> None:
    """End all of `members` by `signum`."""
    for member in members:
        member.stop(signum)


def commit_on_each(members: Iterable[Member], text: str) -> list[str]:
    """Commit a text of its own on each of `members`; return the texts."""
    texts = []
    for member in members:
        texts.append(f"{text} of {member.name}")
        assert commit(member.port, texts[-1])
    return texts


def agree(members: Sequence[Member], texts: Sequence[str]) -> None:
    """Wait until each of `members` holds as many messages as `texts`; all show one log of them."""
    deadline = time.monotonic() + MESH_DEADLINE
    for member in members:
        wait_count(member, len(texts), max(0.0, deadline - time.monotonic()))
    assert equal(*[member.node for member in members])
    check_logs([member.port for member in members], texts)


def wait_count(member: Member, count: int, timeout: float) -> None:
    """Wait until `member` holds `count` messages."""
    wait_until(
        lambda: member.node.count >= count,
        lambda: f"{count} messages on {member.name}, got {member.node.status()}",
        timeout,
    )


def wait_links(members: Sequence[Member], least: int, most: int) -> None:
    """Wait until each of `members` counts from `least` to `most` sockets at the same time."""

    def counts() -> list[int]:
        return [member.node.sockets() for member in members]

    wait_until(
        lambda: all(least <= member.node.sockets() <= most for member in members),
        lambda: f"{least} to {most} sockets each, got {counts()}",
        MESH_DEADLINE,
    )


# -- finding each other -----------------------------------------------------------------------


def test_twenty_from_one_address_and_seven_killed_come_back(tmp_path: Path) -> None:
    with mesh(tmp_path, 20) as members:
        texts = commit_on_each(members, "first")
        agree(members, texts)
        wait_links(members, 4, 17)

        killed, alive = members[:7], members[7:]  # among them the one that all were given
        end(killed, signal.SIGKILL)
        texts += commit_on_each(alive, "meanwhile")
        start(killed)
        texts += commit_on_each(killed, "again")
        agree(members, texts)
        wait_links(members, 4, 17)
        texts += commit_on_each(members, "last")
        agree(members, texts)


def test_nine_are_a_full_mesh(tmp_path: Path) -> None:
    with mesh(tmp_path, 9) as members:
        wait_sockets(8, *[member.node for member in members])
        agree(members, commit_on_each(members, "text"))


def test_one_that_cannot_be_dialled_takes_part_by_its_own_links(tmp_path: Path) -> None:
    with mesh(tmp_path, 4) as members:
        first = members[0]
        wait_sockets(3, *[member.node for member in members])
        hidden = Member(tmp_path / "hidden")
        with ExitStack() as stack:
            stack.callback(hidden.close)
            start([hidden], "--advertise", "none", "--peer", first.address)
            texts = commit_on_each([*members, hidden], "text")
            agree([*members, hidden], texts)
            wait_sockets(4, hidden.node, *[member.node for member in members])
            first.stop(signal.SIGKILL)  # the only one that it was given
            texts += commit_on_each([*members[1:], hidden], "without the first")
            agree([*members[1:], hidden], texts)


# -- coming back ------------------------------------------------------------------------------


def test_all_restarted_in_any_order_need_no_hand(tmp_path: Path) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    print(f"P2P_SYNC_TEST_SEED={seed}")
    rng = random.Random(seed)
    with mesh(tmp_path, 6) as members:
        nodes = list(members)
        wait_sockets(5, *[member.node for member in members])
        texts = commit_on_each(members, "before")
        agree(members, texts)
        rng.shuffle(nodes)
        end(nodes[:3], signal.SIGTERM)
        end(nodes[3:], signal.SIGKILL)
        rng.shuffle(nodes)
        for member in nodes:  # one after the other: the first finds nobody
            start([member])
        texts += commit_on_each(members, "after")
        agree(members, texts)


def test_one_whose_address_has_changed_is_taken_back(tmp_path: Path) -> None:
    with mesh(tmp_path, 4) as members:
        moved = members[2]
        wait_sockets(3, *[member.node for member in members])
        texts = commit_on_each(members, "before")
        agree(members, texts)
        moved.stop(signal.SIGTERM)
        texts += commit_on_each([m for m in members if m is not moved], "meanwhile")
        moved.start(port=free_port_pair())
        moved.node.wait_ready()
        texts += commit_on_each([moved], "from another port")
        agree(members, texts)
        wait_sockets(3, *[member.node for member in members])


def test_the_list_of_peers_tells_why_one_is_missing(tmp_path: Path) -> None:
    with mesh(tmp_path, 2) as (first, second):
        wait_sockets(1, first.node, second.node)
        number = second.node.id

        def entry() -> dict[str, Any]:
            """The entry for the second node in the first one's list."""
            peers = first.node.peers()
            found = [p for p in peers if p["id"] == number or p["address"] == second.address]
            assert len(found) == 1, f"one entry for {number}: {peers}"
            return dict(found[0])

        assert (entry()["state"], entry()["address"]) == ("connected", second.address)
        second.stop(signal.SIGKILL)
        wait_until(lambda: entry()["state"] == "waiting" and entry()["attempts"] > 1, entry)
        missing = wait_until(lambda: entry() if entry()["state"] == "waiting" else None, entry)
        assert "refused" in missing["last_error"].lower(), missing
        assert 0 <= missing["next_try_s"] <= 60, missing
        start([second])
        wait_until(lambda: entry()["state"] == "connected", entry)
        assert entry()["id"] == number


# -- coming and going -------------------------------------------------------------------------


def come_and_go(node: NodeProcess, count: int) -> None:
    """Open `count` connections, `AT_A_TIME` together, and end them in all ways that there are."""
    for begin in range(0, count, AT_A_TIME):
        with ExitStack() as stack:
            stack.enter_context(tcp(node.address))  # shakes no hands
            ways = [(begin + number) % 6 for number in range(AT_A_TIME - 1)]
            keys = [next(identities) if way > 2 else None for way in ways]
            peers = [stack.enter_context(dial(node.address, identity=key)) for key in keys]
            for peer, way in zip(peers, ways, strict=True):
                say_and_end(peer, way)
    wait_until(lambda: node.sockets() == 0, "all have gone")


def say_and_end(peer: RawPeer, way: int) -> None:
    """One peer's stay: said nothing, as an original, as a node of ours; then cut or closed."""
    if way in (1, 2):
        peer.send_sockets()
        peer.read_json()
    elif way > 2:  # cannot be dialled, so that no dials disturb the count
        peer.send_json(hello(link=1))
        assert peer.read_json()["type"] == "SOCKETS"
    if way in (0, 2, 3):
        peer.abort()
    elif way in (1, 4):
        peer.send(CLOSE, close_payload(1001))
        peer.read_close()


def least(node: NodeProcess, what: str) -> int:
    """The fewest of `what` within a second: what comes and goes by itself does not count."""
    deadline = time.monotonic() + 1.0
    fewest = held(node, what)
    while time.monotonic() < deadline:
        fewest = min(fewest, held(node, what))
        pause(0.01)
    return fewest


def test_a_thousand_that_come_and_go_leave_nothing_behind() -> None:
    with NodeProcess("--log-level", "error") as node:
        come_and_go(node, 2 * CONNECTS)  # until the tables about strangers are full
        baseline = {what: least(node, what) for what in ("task", "fd")}
        size = memory(node)
        come_and_go(node, CONNECTS)
        wait_until(
            lambda: all(held(node, what) <= count for what, count in baseline.items()),
            lambda: f"{baseline}, got { {what: held(node, what) for what in baseline} }",
        )
        wait_until(
            lambda: memory(node) <= size + ROOM,
            lambda: f"{size:.1f} MiB in memory, got {memory(node):.1f}",
        )
        print(f"{baseline}, {size:.1f} MiB before, {memory(node):.1f} MiB after")
        node.commit("still there")
        assert node.line() == "No. sockets 0 still there"
        assert "Traceback" not in node.log(), node.log()
