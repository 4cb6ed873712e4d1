"""Nodes that speak another version of the protocol: both sides say so, and nobody is to blame."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.wire.frames import PROTOCOL_VERSION
from tests.harness import raw
from tests.harness.raw import RawPeer, RawServer
from tests.harness.secret import OLD, US, secret_file
from tests.harness.support import NodeProcess, holds, wait_until

OURS = f"this node speaks {PROTOCOL_VERSION}"
OTHERS = [2, 99, 2**53 - 1]
"""Versions to come; there is none before the first."""
WRONG: dict[str, Any] = {
    "zero": 0,
    "negative": -1,
    "true": True,
    "a text": "2",
    "a fraction": 1.5,
    "a float": 2.0,
    "null": None,
    "a list": [1],
    "too large": 2**53,
}
LATER: dict[str, dict[str, Any]] = {
    "the same form": {"addresses": [], "id": US, "start": 7, "link": 0},
    "more fields": {"addresses": [], "id": US, "start": 7, "keys": {"a": [1, 2]}},
    "other fields": {"addresses": {"a": 1}, "id": {"key": "x" * 64}, "start": "now", "links": 5},
    "many addresses": {"addresses": [":"] * 300, "id": US, "start": 7},
    "no id": {"name": "a node of the future"},
}


def say(peer: RawPeer, protocol: Any, **fields: Any) -> None:
    peer.send_json({"type": "SOCKETS", "protocol": protocol, **fields})


@pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])
@pytest.mark.parametrize("fields", LATER.values(), ids=LATER)
@pytest.mark.parametrize("version", OTHERS)
def test_another_version_gets_its_own_code_and_can_see_ours(
    version: int, fields: dict[str, Any], secret: str | None
) -> None:
    with Node(0, secret=secret) as node, raw.dial(node.address) as peer:
        say(peer, version, **fields)
        opening = peer.read_json()
        assert (opening["type"], opening["protocol"]) == ("SOCKETS", PROTOCOL_VERSION)
        code, reason = peer.read_close()
        assert code == 4426
        assert reason == f"it speaks protocol {version}, {OURS}: upgrade this node"
        assert not any(node.status()["misbehaviour"].values())
        assert node.sockets() == 0


@pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])
@pytest.mark.parametrize("version", OTHERS)
def test_the_peer_list_says_why_and_the_address_is_tried_again(
    version: int, secret: str | None
) -> None:
    with RawServer() as server, Node(0, secret=secret, redial_first=0.05) as node:
        node.connect(server.address)
        for count in range(1, 4):
            with server.accept() as peer:
                assert peer.read_json()["protocol"] == PROTOCOL_VERSION
                say(peer, version, addresses=[], id=US, start=7, nonce="ab" * 32)
                assert peer.read_close()[0] == 4426
            wait_until(partial(attempts, node, count))
        (entry,) = node.peers()
        assert f"it speaks protocol {version}, {OURS}" in entry["last_error"]
        assert "upgrade this node" in entry["last_error"]
        assert entry["state"] in ("refused", "dialling")
        assert not any(node.status()["misbehaviour"].values())


def attempts(node: Node, count: int) -> bool:
    return bool(node.peers()[0]["attempts"] >= count)


def test_the_side_that_is_told_by_a_close_shows_it_too() -> None:
    with RawServer() as server, Node(0) as node:
        node.connect(server.address)
        with server.accept() as peer:
            peer.read_json()
            why = f"it speaks protocol {PROTOCOL_VERSION}, this node speaks 2: upgrade it"
            peer.send(raw.CLOSE, raw.close_payload(4426, why))
            wait_until(lambda: why in node.peers()[0]["last_error"])
        assert not any(node.status()["misbehaviour"].values())


@pytest.mark.parametrize("secret", [False, True], ids=["open", "secret"])
def test_the_log_says_it_once_for_many_tries(tmp_path: Path, secret: bool) -> None:
    options = ("--secret-file", str(secret_file(tmp_path, OLD))) if secret else ()
    with NodeProcess(*options) as node:
        for _ in range(20):
            with raw.dial(node.address) as peer:
                say(peer, 2)
                assert peer.read_close()[0] == 4426
        wait_until(lambda: node.logged("speaks protocol 2", OURS))
        assert len([line for line in node.log().splitlines() if OURS in line]) <= 20
        assert "Traceback" not in node.log()


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_version_that_can_be_none_is_a_violation(value: Any) -> None:
    with Node(0) as node, raw.dial(node.address) as peer:
        say(peer, value, addresses=[], id=US, start=7)
        code, reason = peer.read_close()
        assert code == 1002 and reason is not None and "protocol" in reason
        wait_until(lambda: node.status()["misbehaviour"]["frame"] == 1)


def test_a_node_of_ours_names_its_version() -> None:
    with Node(0) as node, raw.dial(node.address) as peer:
        peer.send_json({"type": "SOCKETS", "addresses": [], "id": US, "start": 7})
        assert peer.read_close()[0] == 1002


def test_an_original_names_none_and_is_welcome() -> None:
    with Node(0) as node, raw.dial(node.address) as peer:
        peer.send_sockets()
        wait_until(lambda: node.sockets() == 1)
        holds(lambda: node.sockets() == 1)


def test_a_link_that_turns_to_another_version_is_closed() -> None:
    with Node(0) as node, raw.dial(node.address) as peer:
        say(peer, PROTOCOL_VERSION, addresses=[], id=US, start=7)
        wait_until(lambda: node.sockets() == 1)
        say(peer, 2)
        assert peer.read_close()[0] == 4426
