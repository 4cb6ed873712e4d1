"""Nodes that speak another version of the protocol: both sides say so, and nobody is to blame."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.wire.frames import PROTOCOL_VERSION
from p2p_sync.wire.proof import HEADER
from tests.harness import raw
from tests.harness.raw import RawPeer, RawServer
from tests.harness.secret import OLD, US, secret_file
from tests.harness.support import NodeProcess, holds, wait_until

OURS = f"this node speaks {PROTOCOL_VERSION}"
OTHERS = [1, 3, 99, 2**53 - 1]
WRONG = {
    "no number": "x",
    "negative": "-1",
    "a fraction": "2.0",
    "with a zero before": "02",
    "too large": "9" * 17,
    "empty": "",
    "nothing else": "2",
    "a short key": f"2 {US.key[:-1]} 1 {'ab' * 32}",
    "a start that is no number": f"2 {US.key} x {'ab' * 32}",
    "a start that is too large": f"2 {US.key} {2**53} {'ab' * 32}",
    "a short nonce": f"2 {US.key} 1 {'ab' * 31}",
    "capitals": f"2 {US.key.upper()} 1 {'ab' * 32}",
    "more": f"2 {US.key} 1 {'ab' * 32} more",
    "two spaces": f"2  {US.key} 1 {'ab' * 32}",
    "twice": f"2 {US.key} 1 {'ab' * 32}\r\n{HEADER}: 2 {US.key} 1 {'ab' * 32}",
}
LATER = {
    "the same form": f" {US.key} 1 {'ab' * 32}",
    "another form": " {} ssh-ed25519 now",
    "nothing else": "",
}


def upgrade(version: int) -> str:
    return "it" if version < PROTOCOL_VERSION else "this node"


def dial(node: Node | NodeProcess, header: str) -> RawPeer:
    return raw.dial(node.address, extra=(f"{HEADER}: {header}",))


@pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])
@pytest.mark.parametrize("rest", LATER.values(), ids=LATER)
@pytest.mark.parametrize("version", OTHERS)
def test_another_version_gets_its_own_code_and_can_see_ours(
    version: int, rest: str, secret: str | None
) -> None:
    with Node(0, secret=secret) as node, dial(node, f"{version}{rest}") as peer:
        assert (raw.header_in(peer.head) or "").startswith(f"{PROTOCOL_VERSION} ")
        code, reason = peer.read_close()
        assert code == 4426
        assert reason == f"it speaks protocol {version}, {OURS}: upgrade {upgrade(version)}"
        assert not any(node.status().misbehaviour.values())
        assert node.sockets() == 0


@pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])
@pytest.mark.parametrize("version", OTHERS)
def test_the_peer_list_says_why_and_the_address_is_tried_again(
    version: int, secret: str | None
) -> None:
    with RawServer() as server, Node(0, secret=secret, redial_first=0.05) as node:
        node.connect(server.address)
        for count in range(1, 4):
            with answer(server, f"{version} in a form of its own") as peer:
                assert (raw.header_in(peer.head) or "").startswith(f"{PROTOCOL_VERSION} ")
                assert peer.read_close()[0] == 4426
            wait_until(partial(attempts, node, count))
        (entry,) = node.peers()
        assert f"it speaks protocol {version}, {OURS}" in entry.last_error
        assert f"upgrade {upgrade(version)}" in entry.last_error
        assert entry.state in ("refused", "dialling")
        assert not any(node.status().misbehaviour.values())


def answer(server: RawServer, header: str) -> RawPeer:
    """Accept the next connection with this header in the 101."""
    sock = server.accept_tcp()
    head, rest = raw.read_head(sock)
    sock.sendall(raw.welcome(head, header))
    return RawPeer(sock, client=False, head=head, rest=rest)


def attempts(node: Node, count: int) -> bool:
    return bool(node.peers()[0].attempts >= count)


def test_the_side_that_is_told_by_a_close_shows_it_too() -> None:
    with RawServer() as server, Node(0) as node:
        node.connect(server.address)
        with server.accept() as peer:
            peer.read_json()
            why = f"it speaks protocol {PROTOCOL_VERSION}, this node speaks 3: upgrade it"
            peer.send(raw.CLOSE, raw.close_payload(4426, why))
            wait_until(lambda: why in node.peers()[0].last_error)
        assert not any(node.status().misbehaviour.values())


@pytest.mark.parametrize("secret", [False, True], ids=["open", "secret"])
def test_the_log_says_it_once_for_many_tries(tmp_path: Path, secret: bool) -> None:
    options = ("--secret-file", str(secret_file(tmp_path, OLD))) if secret else ()
    with NodeProcess(*options) as node:
        for _ in range(20):
            with dial(node, "3") as peer:
                assert peer.read_close()[0] == 4426
        wait_until(lambda: node.logged("speaks protocol 3", OURS))
        assert len([line for line in node.log().splitlines() if OURS in line]) <= 20
        assert "Traceback" not in node.log()


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG)
def test_a_malformed_header_is_refused_by_both_sides(header: str) -> None:
    with Node(0, redial_first=60.0) as node, RawServer() as server:
        asked = raw.handshake("127.0.0.1", extra=(f"{HEADER}: {header}",))
        refused = raw.ask(node.address, asked)
        assert refused.status == 400 and HEADER.encode() in refused.body
        node.connect(server.address)
        with answer(server, header or " ") as peer:
            peer.read_end()
        wait_until(partial(attempts, node, 1))
        assert f"the header {HEADER} of its answer is wrong" in node.peers()[0].last_error
        assert not any(node.status().misbehaviour.values())


def test_a_node_of_the_first_version_is_told_to_upgrade() -> None:
    """It has no header, but its first frame names the version."""
    first = {"type": "SOCKETS", "addresses": [], "id": "ab" * 16, "start": 7, "protocol": 1}
    with Node(0) as node, raw.dial(node.address) as peer:
        peer.send_json(first)
        assert peer.read_close() == (4426, f"it speaks protocol 1, {OURS}: upgrade it")
        assert not any(node.status().misbehaviour.values())


def test_an_original_names_none_and_is_welcome() -> None:
    with Node(0) as node, raw.dial(node.address) as peer:
        assert raw.header_in(peer.head) is None
        peer.send_sockets()
        wait_until(lambda: node.sockets() == 1)
        holds(lambda: node.sockets() == 1)
