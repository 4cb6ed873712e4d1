"""`/api/v1/peers`: who is there, who is not, and why."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from p2p_sync import Node, __version__
from tests.harness import raw
from tests.harness.member import claims, hello, identities
from tests.harness.support import (
    Answer,
    NodeProcess,
    free_port_pair,
    holds,
    request,
    run_nodes,
    silent_listener,
    wait_sockets,
    wait_until,
)

FIELDS = {
    "key", "id", "name", "address", "addresses", "direction", "state", "since", "rtt_ms",
    "attempts", "last_error", "next_try_s", "sent", "received", "behind", "late", "version",
    "links", "by_hand", "source", "notice", "worked",
}  # fmt: skip


def peers(node: NodeProcess) -> list[dict[str, Any]]:
    found = node.peers()
    assert all(set(entry) == FIELDS for entry in found), found
    return found


def entry(node: NodeProcess, address: str) -> dict[str, Any]:
    (found,) = [peer for peer in peers(node) if peer["address"] == address]
    return found


def post(node: NodeProcess, value: object) -> Answer:
    body = json.dumps(value).encode()
    return request(node.port, "/api/v1/peers", "POST", {"Content-Type": "application/json"}, body)


def delete(node: NodeProcess, key: str) -> Answer:
    return request(node.port, f"/api/v1/peers/{key}", "DELETE")


def test_two_that_are_linked_tell_of_each_other() -> None:
    with run_nodes(2) as (one, other):
        added = post(one, {"address": f"localhost:{other.port + 1}"})
        assert added.status == 202
        told = json.loads(added.body)
        assert told["address"] == f"ws://localhost:{other.port + 1}"
        wait_sockets(1, one, other)
        one.commit("hello")
        wait_until(lambda: other.texts() == ["hello"])

        def settled() -> bool:
            (peer,) = peers(one)
            return peer["rtt_ms"] is not None and peer["behind"] == 0

        wait_until(settled, lambda: peers(one))
        (peer,) = peers(one)
        assert peer["key"] == told["key"]
        assert peer["id"] == other.id
        assert (peer["direction"], peer["state"]) == ("out", "connected")
        assert (peer["attempts"], peer["last_error"], peer["next_try_s"]) == (0, "", None)
        assert peer["sent"]["messages"] == 1 and peer["sent"]["bytes"] > 100
        assert peer["received"]["messages"] == 0 and peer["received"]["bytes"] > 100
        assert (peer["version"], peer["by_hand"]) == (__version__, True)
        links = {one.id: one.status()["node"]["name"]}
        wait_until(lambda: peers(one)[0]["links"] == links, "it tells of its links")
        (back,) = peers(other)
        assert (back["direction"], back["id"]) == ("in", one.id)
        assert back["address"] == one.address
        assert back["received"]["messages"] == 1


def test_why_a_peer_is_not_there() -> None:
    gone = f"ws://127.0.0.1:{free_port_pair()}"
    with NodeProcess() as node, silent_listener() as (silent, _):
        http = f"ws://127.0.0.1:{node.port}"
        for address in (gone, silent, http):
            assert post(node, {"address": address}).status == 202
        wait_until(lambda: entry(node, gone)["attempts"] >= 2)
        assert "refused" in entry(node, gone)["last_error"].lower()
        wait_until(lambda: entry(node, gone)["state"] == "waiting")
        assert 0 <= entry(node, gone)["next_try_s"] <= 60
        assert entry(node, silent)["state"] == "dialling"
        wait_until(lambda: entry(node, http)["state"] == "refused")
        assert f"ws://127.0.0.1:{node.port + 1}" in entry(node, http)["last_error"]


def test_how_far_a_peer_is_behind() -> None:
    with NodeProcess() as node, raw.dial(node.address, identity=next(identities)) as peer:
        peer.send_json(hello())
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        wait_until(lambda: node.sockets() == 1)
        for number in range(3):
            node.commit(f"text {number}")
        assert [p["behind"] for p in peers(node)] == [3]


def test_forgetting_hangs_up_and_does_not_dial_again() -> None:
    with run_nodes(2) as (one, other):
        one.add(other.address)
        wait_sockets(1, one, other)
        (peer,) = peers(one)
        answer = delete(one, peer["key"])
        assert (answer.status, answer.body) == (204, b"")
        wait_until(lambda: one.sockets() == 0)
        wait_until(lambda: other.logged("told to forget"), other.log)
        (back,) = peers(other)
        assert delete(other, back["key"]).status == 204 or not peers(other)
        wait_until(lambda: peers(other) == [] or delete(other, peers(other)[0]["key"]))
        wait_until(lambda: peers(one) == [] or delete(one, peers(one)[0]["key"]))
        holds(lambda: peers(one) == [] and one.sockets() == 0)


def test_an_unknown_key_and_a_bad_address_are_refused() -> None:
    with NodeProcess() as node:
        answer = delete(node, "0" * 12)
        assert answer.status == 404 and "/api/v1/peers" in json.loads(answer.body)["detail"]
        assert post(node, {"address": "nonsense"}).status == 400
        assert "ws://" in json.loads(post(node, {"address": "nonsense"}).body)["detail"]
        assert post(node, {}).status == 400
        assert post(node, ["ws://a:1"]).status == 400
        assert peers(node) == []


def test_the_library_tells_the_same() -> None:
    with Node(0) as one, Node(0) as other:
        key = one.connect(other.address)
        wait_until(lambda: one.sockets() == 1)
        (peer,) = one.peers()
        assert (peer.key, peer.id, peer.state) == (key, other.id, "connected")
        assert one.forget(key)
        assert not one.forget("unknown")
        wait_until(lambda: not one.peers() or one.forget(one.peers()[0].key))


def test_one_remote_host_cannot_take_all_places() -> None:
    host = own_address()
    with NodeProcess("--host", "0.0.0.0", "--max-peers-per-host", "2") as node:
        address = f"ws://{host}:{node.port + 1}"
        with raw.dial(address), raw.dial(address):
            answer = raw.ask(address, raw.handshake(f"{host}:{node.port + 1}"))
            assert answer.status == 503
            assert b"2 links from one host" in answer.body
            with raw.dial(node.address), raw.dial(node.address), raw.dial(node.address):
                pass  # this very machine is exempt


def own_address() -> str:
    """An address of this machine other than loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def test_addresses_told_by_a_peer_are_dialled_only_where_it_may_send_us() -> None:
    us = next(identities)
    with (
        NodeProcess() as node,
        raw.RawServer() as trap,
        raw.dial(node.address, identity=us) as peer,
    ):
        name = "ws://169.254.169.254:80"
        peer.send_json(hello(addresses=[name, "ws://224.0.0.1:1", trap.address]))
        trap.accept().close()
        wait_until(lambda: entry(node, name)["state"] == "refused")
        assert "by hand" in entry(node, name)["last_error"]
        assert entry(node, name)["source"] == us.node


def test_a_peer_that_does_not_send_what_it_says_it_has_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p_sync.core.catch_up.STALLED_AFTER", 1.0)
    liar = next(identities)
    with Node(0) as node, raw.dial(node.address, identity=liar) as peer:
        peer.send_json(hello())
        have = claims(liar, [1], 5)
        peer.send_json({"type": "HAVE", "have": have, "last": True})
        wait_until(lambda: node.sockets() == 1)
        wait_until(lambda: node.sockets() == 0, "the stalled link is cut")
