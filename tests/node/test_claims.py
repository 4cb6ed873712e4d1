"""What peers say that they hold: it is answered, believed within bounds, and hinders nobody.

Real nodes, and raw peers that claim, ship and ask as they please.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from p2p_sync.core.fingerprints import KEYS
from p2p_sync.wire.logframes import LEAVES
from tests.harness import raw
from tests.harness.api import origins_of, post_all
from tests.harness.member import claims, hello, identities, run
from tests.harness.process import memory
from tests.harness.proxy import Proxy
from tests.harness.raw import RawPeer
from tests.harness.support import (
    SCALE,
    NodeProcess,
    equal,
    holds,
    run_nodes,
    wait_sockets,
    wait_until,
)

T = TypeVar("T")

ABSURD = 2**40
MANY = ("--max-new-origins", "100000")


class Member:
    """A raw peer that says it is a node of ours; a thread of its own reads and keeps frames."""

    def __init__(self, address: str) -> None:
        self.identity = identity = next(identities)
        self.frames: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.peer: RawPeer = raw.dial(address, identity=identity)
        self.peer.send_json(hello(link=1))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def say(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):
            self.peer.send_json({"type": kind, **fields})

    def have(self, starts: Sequence[int] = (), n: int = ABSURD) -> None:
        """Claim `n` messages of each of these origins of its own; this is its whole vector."""
        for part in pieces(starts, 800) or [[]]:
            ends = not part or part[-1] == starts[-1]
            self.say("HAVE", have=claims(self.identity, part, n), last=ends)

    def ship(self, starts: Sequence[int], after: int = 0) -> None:
        """Ship message after+1 of each of these origins of its own."""
        for part in pieces(starts, 1_000):
            runs = [run(self.identity, after=after, start=start) for start in part]
            self.say("MESSAGES", runs=runs)

    def told(self) -> dict[str, Any]:
        """What it was told by HAVE, or with another frame."""
        told: dict[str, Any] = {}
        for frame in list(self.frames):
            told.update(frame.get("have", {}))
        return told

    def look(self, start: int = 0) -> None:
        """Ask for all that the node holds, piece by piece."""
        self.say("LOOK", leaves=[0, LEAVES - 1], start=start, end=KEYS, known="", salt="0" * 16)

    def received(self) -> int:
        """How many messages it was shipped."""
        runs = [run for frame in list(self.frames) for run in frame.get("runs", ())]
        entries = [entry[1] for run in runs for entry in run["entries"]]
        return sum(1 if isinstance(texts, str) else len(texts) for texts in entries)

    def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                found = self.peer.read()
                if found.opcode == raw.TEXT:
                    self.frames.append(json.loads(found.payload))
                    if after := self.frames[-1].get("next"):
                        self.look(after)
                elif found.opcode == raw.PING:
                    self.peer.send(raw.PONG, found.payload)
                elif found.opcode == raw.CLOSE:
                    code = int.from_bytes(found.payload[:2], "big")
                    self.closed = (code, found.payload[2:].decode())
                    self.peer.send(raw.CLOSE, found.payload[:2])
                    return

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.peer.sock.shutdown(2)
        self.peer.close()
        self._reader.join(5.0)


def pieces(names: Sequence[T], size: int) -> list[Sequence[T]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def ready(node: NodeProcess) -> bool:
    return node.get("/readyz").status == 200


def all_in_sync(*nodes: NodeProcess) -> bool:
    return {node.status()["verdict"]["state"] for node in nodes} == {"in_sync"}


def verdicts(*nodes: NodeProcess) -> list[str]:
    return [node.status()["verdict"]["text"] for node in nodes]


def give_origins(node: NodeProcess, count: int) -> None:
    """Make a node hold a message of each of so many origins."""
    with Member(node.address) as member:
        member.have()
        member.ship(range(1, count + 1))
        wait_until(lambda: node.count >= count, "all is stored")
    wait_until(lambda: node.sockets() == 0)


# -- What is claimed at the opening is answered ---------------------------------------------------


@pytest.mark.parametrize("origins", [1, 3_000])
def test_what_a_peer_holds_when_a_link_opens_is_answered(origins: int) -> None:
    """Once the node holds as much, though it got it from another."""
    with run_nodes(2, "--ephemeral", *MANY) as (honest, node):
        give_origins(honest, origins)
        post_all(honest.port, [f"text {n}" for n in range(500)])
        with Member(honest.address) as reader:
            reader.have()
            reader.look()
            wait_until(lambda: len(reader.told()) == origins + 1)
        with Member(node.address) as member:
            for part in pieces(list(reader.told()), 800):
                member.say("HAVE", have={name: reader.told()[name] for name in part})
            member.say("HAVE", have={}, last=True)
            wait_until(lambda: node.status()["behind"])
            node.add(honest.address)
            wait_until(lambda: equal(honest, node))
            wait_until(lambda: member.told() == reader.told(), "all is told", 5.0 * SCALE)


@pytest.mark.parametrize("origins", [1, 3_000])
def test_nodes_are_in_sync_soon_after_one_has_come_back(origins: int) -> None:
    with run_nodes(4, *MANY) as nodes:
        first, away = nodes[0], nodes[3]
        give_origins(first, origins)
        for number, node in enumerate(nodes):
            for other in nodes[:number]:
                node.add(other.address)
        wait_sockets(3, *nodes)
        wait_until(lambda: all_in_sync(*nodes), lambda: verdicts(*nodes))
        for turn in range(2):
            away.stop()
            wait_sockets(2, *nodes[:3])
            for node in nodes[:3]:
                post_all(node.port, [f"{turn} {n}" for n in range(500)])
            wait_until(lambda: equal(*nodes[:3]))
            with NodeProcess(*MANY, port=away.port, data_dir=away.data_dir) as back:
                now = [*nodes[:3], back]
                wait_until(partial(equal, *now), "the same is held everywhere")
                wait_until(partial(all_in_sync, *now), partial(verdicts, *now), 5.0 * SCALE)


def test_nodes_are_in_sync_soon_after_one_has_joined_with_nothing() -> None:
    with run_nodes(3, "--ephemeral", *MANY) as (one, two, three):
        give_origins(one, 3_000)
        two.add(one.address)
        wait_until(lambda: equal(one, two))
        three.add(one.address)
        three.add(two.address)
        wait_until(lambda: equal(one, two, three))
        wait_until(
            lambda: all_in_sync(one, two, three), lambda: verdicts(one, two, three), 5.0 * SCALE
        )


# -- Claims that are false ------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "not asked before"])
def test_claims_do_not_make_a_node_unready(asked: bool) -> None:
    with NodeProcess("--ephemeral") as node, contextlib.ExitStack() as stack:
        assert not asked or ready(node)
        for _ in range(3):
            liar = stack.enter_context(Member(node.address))
            liar.have(range(1, 5_001))
        wait_until(lambda: node.status()["behind"])
        holds(lambda: ready(node) and node.status()["behind"] <= 1_000)
        assert node.status()["verdict"]["text"] == "Catching up: 0 of 1,000"


def test_claims_cost_little_memory() -> None:
    with NodeProcess("--ephemeral") as node, contextlib.ExitStack() as stack:

        def claim() -> None:
            member = stack.enter_context(Member(node.address))
            member.have(range(1, 20_001))
            wait_until(lambda: any(frame["type"] == "GRAFT" for frame in member.frames))

        claim()
        wait_until(lambda: node.sockets() == 1)
        before = memory(node)
        for _ in range(4):
            claim()
        wait_sockets(5, node)
        holds(lambda: ready(node))
        assert memory(node) - before < 4 * 4


@contextlib.contextmanager
def liars(node: NodeProcess, *, shipping: bool = False) -> Iterator[list[Member]]:
    """Fourteen that claim to hold absurdly much of their own origins; and ship a message of one now
    and then, where they are `shipping`."""
    with contextlib.ExitStack() as stack:
        stopped = threading.Event()
        members = [stack.enter_context(Member(node.address)) for _ in range(14)]
        for member in members:
            member.have(range(1, 301))

        def ship() -> None:
            for n in itertools.count():
                if stopped.wait(0.3):
                    return
                for member in members:
                    member.ship([1], after=n)

        if shipping:
            shipper = threading.Thread(target=ship, daemon=True)
            shipper.start()
            stack.callback(shipper.join, 5.0)
        stack.callback(stopped.set)
        yield members


@pytest.mark.parametrize("shipping", [False, True], ids=["silent", "shipping a bit"])
def test_liars_delay_nobody(shipping: bool) -> None:
    with run_nodes(2, "--ephemeral", *MANY) as (honest, node):
        give_origins(honest, 300)
        post_all(honest.port, [f"text {n}" for n in range(3_000)])
        count = honest.count
        with liars(node, shipping=shipping):
            wait_sockets(14, node)
            node.add(honest.address)
            began = time.monotonic()
            wait_until(lambda: node.count >= count, "it has caught up")
            assert time.monotonic() < began + 8.0 * SCALE
            wait_until(lambda: ready(node))
            for n in range(5):
                began = time.monotonic()
                honest.commit(f"later {n}")
                wait_until(partial(shows, node, f"later {n}"))
                assert time.monotonic() < began + 3.0 * SCALE
            assert ready(node)
            assert node.status()["verdict"]["state"] == "catching_up", "not forgotten"
        wait_until(lambda: equal(honest, node) and all_in_sync(honest, node))


def shows(node: NodeProcess, text: str) -> bool:
    return text in node.get("/api/v1/messages?order=newest&limit=50").text


def test_a_newcomer_among_liars_becomes_ready() -> None:
    with NodeProcess("--ephemeral") as honest:
        post_all(honest.port, [f"text {n}" for n in range(3_000)])
        with (
            NodeProcess("--ephemeral", "--peer", honest.address) as node,
            liars(node),
        ):
            wait_until(lambda: ready(node), timeout=10.0 * SCALE)
            assert node.count == 3_000, "not before it holds all"


def test_a_newcomer_gets_more_origins_than_one_peer_may_claim() -> None:
    with run_nodes(3, "--ephemeral", *MANY) as (one, two, newcomer):
        give_origins(one, 8_000)
        two.add(one.address)
        wait_until(lambda: equal(one, two))
        newcomer.add(one.address)
        newcomer.add(two.address)
        wait_until(lambda: newcomer.count)
        seen: list[tuple[int, str]] = []

        def done() -> bool:
            told = newcomer.status()
            seen.append((told["messages"]["count"], told["verdict"]["state"]))
            return equal(one, newcomer)

        wait_until(done, "it holds all", 30.0 * SCALE)
        # A node counts before it judges: what it lacks may have come in between.
        lacking = {state for (_, state), (later, _) in pairwise(seen) if later < 8_000}
        assert lacking == {"catching_up"}
        wait_until(lambda: all_in_sync(one, two, newcomer), lambda: verdicts(one, two, newcomer))


# -- What is asked for again ----------------------------------------------------------------------


def shipped_or_closed(member: Member, count: int) -> bool:
    return member.closed is not None or member.received() >= count


def test_asking_again_and_again_is_cut_off() -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, [f"text {n}" for n in range(2_000)])
        (origin,) = origins_of(node)
        with Member(node.address) as member:
            member.have()
            for count in (2_000, 4_000, 6_000):
                member.say("GRAFT", after={origin: 0})
                wait_until(partial(shipped_or_closed, member, count))
            assert member.closed == (
                1008,
                "it asks again for what it was sent less than a minute ago",
            )
            assert 2_000 <= member.received() <= 4_000
        assert node.status()["misbehaviour"]["graft"] == 1


def test_a_slow_line_gets_nobody_blamed() -> None:
    """What is on its way for many seconds is neither asked for again nor held against the peer."""
    with run_nodes(2, "--ephemeral") as (one, two), Proxy(one.port + 1) as proxy:
        proxy.rate(14_000)
        give_origins(one, 50)
        post_all(one.port, [f"{n} " + "x" * 990 for n in range(150)])
        two.add(proxy.address)
        wait_sockets(1, one, two)
        for n in range(20):
            one.commit(f"one {n} " + "x" * 500)
            two.commit(f"two {n}")
        wait_until(lambda: equal(one, two), "both hold all", 60.0 * SCALE)
        for node in (one, two):
            assert not any(node.status()["misbehaviour"].values()), node.status()["misbehaviour"]
        events = two.api("events?after=0&timeout=0")["events"]
        assert [event["type"] for event in events] == ["started", "joined", "caught_up"]
        copies = two.get("/metrics").text
        assert "p2p_sync_duplicates_received_total 0.0" in copies, "nothing crossed the line twice"
