"""What a node says of its machine, and how the next node joins it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.address import parse_address
from p2p_sync.node.machine import addresses_for_others, join_command
from p2p_sync.settings import Settings
from tests.harness.support import NodeProcess, run_nodes, wait_sockets, wait_until

HERE = "ws://127.0.0.1:8001"


@pytest.mark.parametrize(
    ("options", "addresses", "join"),
    [
        ({"host": "127.0.0.1"}, [], f"p2p-sync 9000 --name vm-2 --peer {HERE}"),
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
        ({"host": "10.0.0.1", "dialable": False}, [], f"p2p-sync 9000 --name vm-2 --peer {HERE}"),
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
    assert join_command(settings, addresses, HERE, 8001, False, "vm") == join


@pytest.mark.parametrize(
    ("name", "next_name"),
    [("vm", "vm-2"), ("web-3", "web-4"), ("-1", "-1-2"), ("x" * 32, f"{'x' * 30}-2")],
)
def test_the_next_node_here_has_a_name_of_its_own(name: str, next_name: str) -> None:
    words = join_command(Settings(), (), HERE, 8001, False, name).split()
    assert words[words.index("--name") + 1] == next_name


def test_the_next_node_here_takes_no_name_and_no_port_of_a_known_peer() -> None:
    with Node(0, name="vm") as one, Node(0, name="vm-2") as two:
        http = parse_address(one.address).port - 1
        first = http + 1000 if http + 1000 < 65535 else http - 1000
        one.connect(f"127.0.0.1:{first + 1}")
        one.connect(two.address)
        wait_until(lambda: "--name vm-3 " in one.status().node.join)
        command = shlex.split(one.status().node.join)
        assert command[1] != str(first)
        assert parse_address(two.address).port not in (int(command[1]), int(command[1]) + 1)


def test_the_next_node_here_is_started_as_this_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> str:
        return shlex.split(join_command(Settings(), (), HERE, 8001, False, "vm"))[0]

    monkeypatch.setattr("sys.argv", ["my env/bin/p2p-sync", "8000"])
    assert program() == "my env/bin/p2p-sync"
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/p2p-sync")
    monkeypatch.setattr("sys.argv", ["/usr/bin/p2p-sync", "8000"])
    assert program() == "p2p-sync"
    monkeypatch.setattr("sys.argv", ["my_program.py"])
    assert program() == "p2p-sync"


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
        assert words[:1] + words[2:3] == ["p2p-sync", "--name"]
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
