"""The commands `forget` and `retry`: which peer they mean, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.cli.api import Failure
from p2p_sync.cli.peers import find
from tests.cli.test_client import run
from tests.harness.support import (
    NodeProcess,
    free_port_pair,
    request,
    run_nodes,
    wait_sockets,
    wait_until,
)

NOWHERE = "ws://127.0.0.1:1"


# -- which peer is meant ----------------------------------------------------------------------


def entry(key: str, id: str | None, name: str | None, *addresses: str) -> dict[str, Any]:
    address = addresses[0] if addresses else None
    found = {"key": key, "id": id, "name": name, "address": address, "addresses": addresses}
    return {**found, "state": "waiting"}


PEERS = [
    entry("111111111111", "aaaa1111" * 4, "hub", "ws://10.0.0.1:8001", "ws://hub.test:8001"),
    entry("222222222222", "aaaa2222" * 4, "twin", "ws://10.0.0.2:8001"),
    entry("333333333333", "bbbb3333" * 4, "twin"),
    entry("444444444444", None, None, "ws://10.0.0.4:8001"),
]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("111111111111", 0),
        ("ws://10.0.0.1:8001", 0),
        ("10.0.0.1:8001", 0),
        ("HUB.test:8001", 0),
        ("hub", 0),
        ("aaaa1111", 0),
        ("AAAA1", 0),
        ("bbbb", 2),
        ("bbbb3333" * 4, 2),
        ("10.0.0.4:8001", 3),
    ],
)
def test_a_peer_is_found_by_all_that_people_call_it(text: str, index: int) -> None:
    assert find(PEERS, text) is PEERS[index]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("twin", ["twin (aaaa2222) at ws://10.0.0.2:8001", "twin (bbbb3333)"]),
        ("aaaa", ["hub (aaaa1111) at ws://10.0.0.1:8001", "twin (aaaa2222)"]),
        ("bbb", ["p2p-sync peers"]),
        ("", ["p2p-sync peers"]),
        ("10.0.0.9:8001", ["p2p-sync peers"]),
    ],
)
def test_what_may_be_several_peers_or_none_is_an_error(text: str, named: list[str]) -> None:
    with pytest.raises(Failure) as raised:
        find(PEERS, text)
    assert raised.value.code == 2 and all(part in str(raised.value) for part in named)


# -- forget ---------------------------------------------------------------------------------------


@pytest.fixture
def linked() -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes; the first has dialled the second, which would not dial it."""
    with run_nodes(2, "--ephemeral", "--target-links", "0") as (node, other):
        node.add(other.address)
        wait_sockets(1, node, other)
        yield node, other


WAYS: dict[str, Callable[[NodeProcess], str]] = {
    "address": lambda peer: peer.address,
    "id": lambda peer: peer.id[:8],
    "name": lambda peer: str(peer.status()["node"]["name"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_forgotten_peer_is_gone(way: str, linked: tuple[NodeProcess, NodeProcess]) -> None:
    node, other = linked
    done = run(node, "forget", WAYS[way](other))
    assert done.returncode == 0 and done.stdout.startswith("Forgot "), done
    assert other.id[:8] in done.stdout
    wait_until(lambda: other.address not in node.addresses() and node.sockets() == 0, "it is gone")


def test_forgetting_an_unknown_peer_changes_nothing(
    linked: tuple[NodeProcess, NodeProcess],
) -> None:
    node, other = linked
    done = run(node, "forget", "nobody")
    assert done.returncode == 2 and "'nobody'" in done.stderr
    assert other.address in node.addresses()


def test_what_was_forgotten_is_told_as_json() -> None:
    with NodeProcess("--ephemeral", "--peer", NOWHERE) as node:
        done = run(node, "forget", NOWHERE, "--json")
        assert json.loads(done.stdout)["address"] == NOWHERE
        assert node.peers() == []


# -- retry ----------------------------------------------------------------------------------------


def test_a_retry_does_not_wait_for_the_pause_after_a_failure() -> None:
    port = free_port_pair()
    with Node(0, redial_first=600.0, redial_longest=600.0) as node:
        key = node.connect(f"ws://127.0.0.1:{port}")
        wait_until(lambda: node.peers()[0].attempts == 1, node.peers)
        with Node(port):
            assert node.retry(key)
            wait_until(lambda: node.sockets() == 1, node.peers)
        assert not node.retry("unknown")


def test_retrying_tells_what_came_of_it() -> None:
    port = free_port_pair()
    address = f"ws://127.0.0.1:{port + 1}"
    with NodeProcess("--ephemeral", "--peer", address, "--peer", NOWHERE) as node:
        wait_until(lambda: all(peer["attempts"] for peer in node.peers()), "both were tried")
        done = run(node, "retry", address)
        assert done.returncode == 1 and f"{address} is not connected yet: " in done.stdout
        assert "refused" in done.stdout and f"{NOWHERE} " not in done.stdout
        with NodeProcess("--ephemeral", port=port):
            done = run(node, "retry", "--wait", "10")
            assert done.returncode == 1 and f"{NOWHERE} is not connected yet: " in done.stdout
            # The node may have dialled it again by itself before that.
            assert f"Connected to {address} (" in done.stdout or address not in done.stdout
            (told,) = json.loads(run(node, "retry", address, "--json").stdout)["peers"]
            assert (told["address"], told["state"]) == (address, "connected")


def test_retrying_where_nobody_is_unreachable(linked: tuple[NodeProcess, NodeProcess]) -> None:
    done = run(linked[0], "retry")
    assert (done.returncode, done.stdout) == (0, "No peer is unreachable\n")


def test_retrying_a_peer_that_is_not_known(linked: tuple[NodeProcess, NodeProcess]) -> None:
    node = linked[0]
    assert run(node, "retry", "nobody").returncode == 2
    assert request(node.port, "/api/v1/peers/0123456789ab/retry", "POST").status == 404
    assert request(node.port, f"/api/v1/peers/{node.peers()[0]['key']}/retry", "POST").status == 204
