"""What a node says of its machine, and how the next node joins it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.address import parse_address
from p2p_sync.node.machine import addresses_for_others, join_command
from p2p_sync.settings import Settings
from tests.harness.support import NodeProcess, run_nodes, wait_sockets

HERE = "ws://127.0.0.1:8001"


@pytest.mark.parametrize(
    ("options", "addresses", "join"),
    [
        ({"host": "127.0.0.1"}, [], f"p2p-sync 9000 --peer {HERE}"),
        (
            {"host": "10.0.0.1"},
            ["ws://10.0.0.1:8001"],
            "p2p-sync 8000 --host 0.0.0.0 --peer ws://10.0.0.1:8001",
        ),
        (
            {"host": "127.0.0.1", "advertise": parse_address("wss://a.example:443")},
            ["wss://a.example:443"],
            "p2p-sync 8000 --host 0.0.0.0 --peer wss://a.example:443",
        ),
        ({"host": "10.0.0.1", "dialable": False}, [], f"p2p-sync 9000 --peer {HERE}"),
        (
            {"host": "fd00::1", "tls_cert": "c", "tls_ca": "my ca.pem"},
            ["wss://[fd00::1]:8001"],
            "p2p-sync 8000 --host 0.0.0.0 --tls-ca 'my ca.pem' --peer 'wss://[fd00::1]:8001'",
        ),
    ],
)
def test_the_next_node_is_told_how_to_join(
    options: dict[str, Any], addresses: list[str], join: str
) -> None:
    settings = Settings(**options)
    assert addresses_for_others(settings, 8001) == addresses
    assert join_command(settings, HERE, 8001, has_secret=False) == join


def test_the_command_names_the_file_of_the_secret_and_never_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "the secret"
    file.write_text("top " * 9)
    file.chmod(0o600)
    with Node(0, secret_file=file) as node:
        assert f"--secret-file '{file}'" in node.status().node.join
    with Node(0, secret="top " * 9) as node:
        assert "--secret-file secret" in node.status().node.join
        assert "top top" not in str(node.status())


def test_who_listens_everywhere_names_its_ip_address_and_its_name() -> None:
    with Node(0, host="0.0.0.0") as node:
        about = node.status().node
        assert about.address == about.addresses[-1]
        assert not any("0.0.0.0" in address for address in about.addresses)
        assert about.join.endswith(f"--peer {about.addresses[0]}")


def test_the_command_is_one_that_works() -> None:
    with NodeProcess("--ephemeral") as one:
        words = one.api("status")["node"]["join"].split()
        assert words[:1] + words[2:3] == ["p2p-sync", "--peer"]
        with NodeProcess("--ephemeral", *words[2:]) as two:
            wait_sockets(1, one, two)


def test_a_node_says_what_it_takes_of_its_machine() -> None:
    with run_nodes(1) as (node,):
        found = node.api("status")["resources"]
        assert 10_000_000 < found["memory"] < 1_000_000_000
        assert found["log"] > 1000 and found["free"] % 100_000_000 == 0
    with Node(0) as kept_in_memory:
        resources = kept_in_memory.status().resources
        assert (resources.log, resources.free) == (0, None)


def test_the_first_event_says_that_the_node_has_started(tmp_path: Path) -> None:
    for _ in range(2):
        with Node(0, tmp_path, name="web-1") as node:
            first = node.events().events[0]
            assert (first.id, first.type) == (1, "started")
            assert first.text.startswith("web-1 started, version ")
