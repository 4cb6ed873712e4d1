"""Meshes of real nodes on this machine: they find each other, stay bounded and come back."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import check_logs, commit, status
from tests.harness.raw import CLOSE, RawPeer, close_payload, dial, held, tcp
from tests.harness.support import (
    SCALE,
    NodeProcess,
    free_port_pair,
    request,
    wait_sockets,
    wait_until,
)

MESH_DEADLINE = 60.0 * SCALE
CONNECTS = 1000
AT_A_TIME = 10
ROOM_KB = 3 * 1024  # by which memory may differ from the baseline
SHOWN_LINES = 40  # of each node's log, when a test has failed


class Member:
    """A node that outlives its processes: a port and a data directory."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory
        self._node: NodeProcess | None = None

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port + 1}"

    @property
    def node(self) -> NodeProcess:
        assert self._node is not None, "the node is not running"
        return self._node

    def start(self, *options: str, port: int | None = None) -> None:
        """Run it on what its directory holds, from now on at `port`; does not wait."""
        self.port = port or self.port
        self._node = NodeProcess(*options, port=self.port, data_dir=self.directory, wait=False)

    def end(self, signum: int) -> None:
        """End its process by `signum`."""
        node, self._node = self.node, None
        node.stop(signum)
        node.close()

    def close(self) -> None:
        if self._node:
            self._node.close()


def distinct_ports(count: int) -> list[int]:
    """Ports N such that no N or N+1 is another's: all are chosen before any of them is taken."""
    ports: list[int] = []
    while len(ports) < count:
        port = free_port_pair()
        if all(abs(port - other) > 1 for other in ports):
            ports.append(port)
    return ports


@contextmanager
def mesh(directory: Path, count: int) -> Iterator[list[Member]]:
    """`count` nodes, started side by side; each but the first is given the first's address."""
    members = [Member(port, directory / f"node{n}") for n, port in enumerate(distinct_ports(count))]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.close)
        try:
            start(members[:1])
            start(members[1:], "--peer", members[0].address)
            yield members
        except BaseException:
            for member in members:
                if member._node:
                    lines = member.node.log().splitlines()[-SHOWN_LINES:]
                    print(f"-- {member.directory.name}, {member.port}", *lines, sep="\n")
            raise


def start(members: Iterable[Member], *options: str) -> None:
    """Start `members` side by side, and wait until they answer."""
    members = list(members)
    for member in members:
        member.start(*options)
    for member in members:
        member.node.wait_ready()


def end(members: Iterable[Member], signum: int) -> None:
    """Send `signum` to all of `members`, then wait until they have ended."""
    members = list(members)
    for member in members:
        member.node.process.send_signal(signum)
    for member in members:
        member.end(signum)


def commit_on_each(members: Iterable[Member], text: str) -> list[str]:
    """Commit a text of its own on each of `members`; return the texts."""
    texts = []
    for member in members:
        texts.append(f"{text} of {member.directory.name}")
        assert commit(member.port, texts[-1])
    return texts


def agree(members: Sequence[Member], texts: Sequence[str]) -> None:
    """Wait until each of `members` holds as many messages as `texts`; all show one log of them."""
    deadline = time.monotonic() + MESH_DEADLINE
    for member in members:
        wait_count(member, len(texts), max(0.0, deadline - time.monotonic()))
    digests = {status(member.port)["messages"]["digest"] for member in members}
    assert len(digests) == 1, digests
    check_logs([member.port for member in members], texts)


def wait_count(member: Member, count: int, timeout: float) -> None:
    """Wait until `member` holds `count` messages."""
    wait_until(
        lambda: status(member.port)["messages"]["count"] >= count,
        lambda: f"{count} messages on {member.directory.name}, got {status(member.port)}",
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
        hidden = Member(free_port_pair(), tmp_path / "hidden")
        with ExitStack() as stack:
            stack.callback(hidden.close)
            start([hidden], "--advertise", "none", "--peer", first.address)
            texts = commit_on_each([*members, hidden], "text")
            agree([*members, hidden], texts)
            wait_sockets(4, hidden.node, *[member.node for member in members])
            first.end(signal.SIGKILL)  # the only one that it was given
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
        moved.end(signal.SIGTERM)
        texts += commit_on_each([m for m in members if m is not moved], "meanwhile")
        moved.start(port=free_port_pair())
        moved.node.wait_ready()
        texts += commit_on_each([moved], "from another port")
        agree(members, texts)
        wait_sockets(3, *[member.node for member in members])


def test_the_list_of_peers_tells_why_one_is_missing(tmp_path: Path) -> None:
    with mesh(tmp_path, 2) as (first, second):
        wait_sockets(1, first.node, second.node)
        number = status(second.port)["node"]["id"]

        def entry() -> dict[str, Any]:
            """The entry for the second node in the first one's list."""
            answer = request(first.port, "/api/v1/peers")
            assert answer.status == 200, answer.text
            peers = json.loads(answer.body)["peers"]
            found = [p for p in peers if p["id"] == number or p["address"] == second.address]
            assert len(found) == 1, f"one entry for {number}: {peers}"
            return dict(found[0])

        assert (entry()["state"], entry()["address"]) == ("connected", second.address)
        second.end(signal.SIGKILL)
        wait_until(lambda: entry()["state"] == "waiting" and entry()["attempts"] > 1, entry)
        missing = wait_until(lambda: entry() if entry()["state"] == "waiting" else None, entry)
        assert "refused" in missing["last_error"].lower(), missing
        assert 0 <= missing["next_try_s"] <= 60, missing
        start([second])
        wait_until(lambda: entry()["state"] == "connected", entry)
        assert entry()["id"] == number


# -- coming and going -------------------------------------------------------------------------


def come_and_go(node: NodeProcess, rng: random.Random, count: int) -> None:
    """Open `count` connections, `AT_A_TIME` together, and end them in all ways that there are."""
    for begin in range(0, count, AT_A_TIME):
        with ExitStack() as stack:
            peers = [stack.enter_context(dial(node.address)) for _ in range(AT_A_TIME - 1)]
            stack.enter_context(tcp(node.address))  # shakes no hands
            for number, peer in enumerate(peers, begin):
                say_and_end(peer, rng, number % 6)
    wait_until(lambda: node.sockets() == 0, "all have gone")


def say_and_end(peer: RawPeer, rng: random.Random, way: int) -> None:
    """One peer's stay: said nothing, as an original, as a node of ours; then cut or closed."""
    if way in (1, 2):
        peer.send_sockets()
        peer.read_json()
    elif way > 2:  # cannot be dialled, so that no dials disturb the count
        about = {"id": f"{rng.getrandbits(64):016x}", "start": rng.getrandbits(40), "link": 1}
        peer.send_json({"type": "SOCKETS", "addresses": [], "protocol": 1, **about})
        assert peer.read_json()["type"] == "SOCKETS"
    if way in (0, 2, 3):
        peer.abort()
    elif way in (1, 4):
        peer.send(CLOSE, close_payload(1001))
        peer.read_close()


def least(node: NodeProcess, what: str) -> int:
    """The fewest of `what` within a second: what comes and goes by itself does not count."""
    deadline = time.monotonic() + 1.0
    pause = threading.Event()
    fewest = held(node, what)
    while time.monotonic() < deadline:
        fewest = min(fewest, held(node, what))
        pause.wait(0.01)
    return fewest


def memory_kb(node: NodeProcess) -> int:
    """What of the process is in memory."""
    text = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_a_thousand_that_come_and_go_leave_nothing_behind() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("counts threads and descriptors in /proc, which is missing here")
    rng = random.Random(1)
    with NodeProcess("--log-level", "error") as node:
        come_and_go(node, rng, 2 * CONNECTS)  # until the tables about strangers are full
        baseline = {what: least(node, what) for what in ("task", "fd")}
        memory = memory_kb(node)
        come_and_go(node, rng, CONNECTS)
        wait_until(
            lambda: all(held(node, what) <= count for what, count in baseline.items()),
            lambda: f"{baseline}, got { {what: held(node, what) for what in baseline} }",
        )
        wait_until(
            lambda: memory_kb(node) <= memory + ROOM_KB,
            lambda: f"{memory} KB in memory, got {memory_kb(node)}",
        )
        print(f"{baseline}, {memory} KB before, {memory_kb(node)} KB after")
        node.commit("still there")
        assert node.line() == "No. sockets 0 still there"
        assert "Traceback" not in node.log(), node.log()
