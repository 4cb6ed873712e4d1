"""Connections that have not proved the secret: they keep nobody out, and cost little."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from p2p_sync import Node
from p2p_sync.net.listener import surplus
from p2p_sync.settings import MAX_UNPROVED
from p2p_sync.wire.proof import HEADER
from tests.harness import raw
from tests.harness.certificates import Authority
from tests.harness.member import hello, identities
from tests.harness.process import held, memory
from tests.harness.raw import CONTINUATION, PING, PONG, TEXT, frame
from tests.harness.secret import OLD, OTHER, US, member, secret_file
from tests.harness.support import DEADLINE, ROOT, SCALE, NodeProcess, wait_until

HOSTS = {"one host": [], "several hosts": [f"127.0.0.{n}" for n in range(2, 10)]}
"""From where the strangers come; the honest node comes from 127.0.0.1."""


@contextlib.contextmanager
def flood(node: NodeProcess, silent: int, wrong: int, hosts: list[str]) -> Iterator[None]:
    """Strangers that open so many connections a second meanwhile."""
    command = [sys.executable, "-m", "tests.harness.strangers"]
    process = subprocess.Popen(
        [*command, str(node.port + 1), str(silent), str(wrong), *hosts],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline().split(), "it has begun"
        yield
        assert process.poll() is None
    finally:
        process.stdin.close()
        process.wait(DEADLINE)
        process.stdout.close()


def halfway(address: str) -> raw.RawPeer:
    """A peer that says which node it is, and has not proved it."""
    return raw.dial(address, extra=(f"{HEADER}: {raw.begin(US, dialled=True).header}",))


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_an_honest_node_joins_within_two_seconds_of_a_flood(
    tmp_path: Path, hosts: list[str]
) -> None:
    if hosts and not sys.platform.startswith("linux"):
        pytest.skip("127.0.0.2 is a host of its own on Linux alone")
    secret = ("--secret-file", str(secret_file(tmp_path, OLD)))
    with NodeProcess(*secret) as node:
        threads, before = held(node, "task"), memory(node)
        with flood(node, 500, 500, hosts):
            took = []
            for _ in range(3):
                with NodeProcess(*secret) as honest:
                    began = time.monotonic()
                    honest.add(node.address)
                    wait_until(lambda: honest.sockets() == 1)
                    took.append(time.monotonic() - began)
            assert held(node, "task") < threads + 10, "strangers have no threads"
            assert memory(node) < before + 50
        assert min(took) < 2.0 * SCALE, took
        refused = [line for line in node.log().splitlines() if "refused" in line]
        assert len(refused) < 100, "lines are bounded"
        assert "Traceback" not in node.log(), node.log()


def test_silent_strangers_take_no_place_of_a_link(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        secret = ("--secret-file", str(secret_file(tmp_path, OLD)))
        node = stack.enter_context(NodeProcess(*secret, "--max-peers", "1"))
        threads = held(node, "task")
        for _ in range(MAX_UNPROVED):
            stack.enter_context(halfway(node.address))
        assert held(node, "task") <= threads + 5
        peer = stack.enter_context(member(node.address, OLD))
        peer.send_json(hello())
        wait_until(lambda: node.sockets() == 1)


def test_after_wrong_proofs_a_right_one_of_the_same_host_is_let_in_at_once() -> None:
    with Node(0, secret=OLD) as node:
        for _ in range(50):
            stranger = raw.dial(node.address, identity=next(identities), secret=OTHER)
            assert stranger.read_close()[0] == 4401
        took = []
        for _ in range(5):
            began = time.monotonic()
            member(node.address, OLD).close()
            took.append(time.monotonic() - began)
        assert min(took) < 0.2 * SCALE, took
        assert not any(node.status().misbehaviour.values()), "strangers are no peers"


def test_the_place_of_a_stranger_is_free_when_it_goes() -> None:
    with Node(0, secret=OLD, handshake_timeout=60.0) as node, contextlib.ExitStack() as stack:
        first = stack.enter_context(halfway(node.address))
        for _ in range(3):
            with contextlib.ExitStack() as others:
                for _ in range(MAX_UNPROVED - 2):
                    others.enter_context(halfway(node.address))
            first.ping()
        first.ping()


FLOODS = {
    "empty fragments": (TEXT, b"{", frame(CONTINUATION, fin=False, masked=True)),
    "small fragments": (TEXT, b"{", frame(CONTINUATION, b"x", fin=False, masked=True)),
    "pings": (PING, b"", frame(PING, masked=True)),
    "pongs": (PONG, b"", frame(PONG, b"?", masked=True)),
    "pings in a message": (TEXT, b"{", frame(PING, masked=True)),
}


@pytest.mark.parametrize(("opcode", "first", "more"), FLOODS.values(), ids=FLOODS)
def test_a_flood_before_the_proof_is_cut(opcode: int, first: bytes, more: bytes) -> None:
    with Node(0, secret=OLD, handshake_timeout=60.0) as node, halfway(node.address) as peer:
        peer.send(opcode, first, fin=opcode != TEXT)
        deadline = time.monotonic() + DEADLINE
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                peer.send_bytes(more * 100)
        member(node.address, OLD).close()


def test_a_stranger_that_is_slow_over_tls_keeps_nobody_out(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("node")
    files: dict[str, Any] = {"tls_cert": cert, "tls_key": key, "tls_ca": tmp_path / "ca.pem"}
    with (
        Node(0, secret=OLD, **files) as node,
        Node(0, secret=OLD, **files) as other,
        contextlib.ExitStack() as stack,
    ):
        address = node.address.replace("wss:", "ws:")
        for number in range(200):  # nothing, or a part of TLS's first record
            stack.enter_context(raw.tcp(address)).sendall(b"\x16\x03\x01\x02\x00"[: number % 6])
        other.connect(node.address)
        wait_until(lambda: other.sockets() == 1)


# -- which connection makes room ------------------------------------------------------------------


@dataclass(eq=False)
class Waiting:
    """A connection that is not open yet."""

    site: str
    turned_down: bool = False


def make_room(limit: int, *waiting: Waiting) -> list[object]:
    return list(surplus(cast(list[Any], waiting), limit))


def test_the_host_with_the_most_loses_its_oldest() -> None:
    one, two, three, few = Waiting("many"), Waiting("many"), Waiting("many"), Waiting("few")
    assert make_room(3, few, one, two, three) == [one]
    other = Waiting("few")
    assert make_room(3, two, few, three, other) == [two], "the oldest of two hosts with two"
    assert make_room(1, few, one, two, three) == [one, two, few]


def test_many_hosts_with_one_each_lose_the_oldest_of_all() -> None:
    waiting = [Waiting(f"{number}") for number in range(6)]
    assert make_room(3, *waiting) == waiting[:3]


def test_what_has_been_turned_down_makes_room_first() -> None:
    waiting = [Waiting("one"), Waiting("one"), Waiting("one", turned_down=True)]
    assert make_room(2, *waiting) == [waiting[2]]
    assert make_room(3, Waiting("few", turned_down=True), *waiting) == [waiting[2]]
