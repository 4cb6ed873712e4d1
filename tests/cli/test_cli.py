"""The command line: help, environment, ways to start, and how a node stops."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic

import pytest

from tests.harness.raw import dial
from tests.harness.support import (
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    request,
    run_nodes,
    run_to_end,
    wait_sockets,
    wait_until,
)

DEFAULTS = {
    "--host": "127.0.0.1",
    "--http-host": "127.0.0.1",
    "--http-name": "",
    "--http-token-file": "",
    "--peer-port": "PORT+1",
    "--peer": "",
    "--advertise": "",
    "--data-dir": "p2p-data",
    "--ephemeral": "",
    "--target-links": "8",
    "--max-peers": "128",
    "--max-message-bytes": "65536",
    "--log-level": "info",
    "--log-format": "text",
}


def test_help_shows_each_option_with_its_default(tmp_path: Path) -> None:
    result = run_to_end("run", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert re.search(r"(?i)usage:.*\bPORT\b", result.stdout)
    sections = re.split(r"\n\s+(?=-)", result.stdout)
    for option, default in DEFAULTS.items():
        mine = [s for s in sections if re.match(rf"(-\w, )?{option}(?![\w-])", s)]
        assert mine, f"{option} is not in the help"
        joined = " ".join(mine[0].split())
        assert default.lower() in joined.lower(), f"{option}: no {default} in {joined!r}"
    assert list(tmp_path.iterdir()) == [], "asking for help leaves nothing behind"


@pytest.mark.parametrize("script", ["", "p2p-sync"], ids=["python -m p2p_sync", "p2p-sync"])
def test_other_ways_to_start(script: str) -> None:
    command = [sys.executable, "-m", "p2p_sync"]
    if script:
        command = [str(Path(sys.executable).with_name(script))]
        if not shutil.which(command[0]):
            pytest.skip(f"{script} is not installed beside this Python")
    with NodeProcess(command=command) as node:
        node.commit("text")
        assert node.line() == "No. sockets 0 text"
        assert node.stop() == 0


def test_options_from_the_environment() -> None:
    with run_nodes(2) as (a, b):
        environment = {
            "P2P_SYNC_PEER": f"{a.address} localhost:{b.port + 1}",
            "P2P_SYNC_MAX_MESSAGE_BYTES": "10",
            "P2P_SYNC_ADVERTISE": "ws://localhost:1",
        }
        with NodeProcess(environment=environment, command=RUN_NODE) as node:
            wait_until(lambda: node.sockets() == 2)
            assert node.commit("0123456789").status == 302
            assert node.commit("0123456789x").status == 413
            with dial(a.address) as link:
                told = link.read_json()["addresses"]
                assert "ws://localhost:1" in told, "what it advertises"


def test_a_flag_from_the_environment_and_the_command_line_wins(tmp_path: Path) -> None:
    environment = {"P2P_SYNC_EPHEMERAL": "1", "P2P_SYNC_MAX_MESSAGE_BYTES": "10"}
    options = ("--max-message-bytes", "5")
    with NodeProcess(*options, cwd=tmp_path, environment=environment, command=RUN_NODE) as node:
        assert node.commit("123456").status == 413
    assert list(tmp_path.iterdir()) == [], "--ephemeral keeps nothing"


def test_data_goes_to_its_default_place(tmp_path: Path) -> None:
    with NodeProcess(cwd=tmp_path, command=RUN_NODE) as node:
        assert any((tmp_path / "p2p-data" / str(node.port)).iterdir())


def test_the_peer_port_can_be_chosen() -> None:
    peer_port = free_port_pair()
    with NodeProcess("--peer-port", str(peer_port)) as node, NodeProcess() as other:
        other.add(f"127.0.0.1:{peer_port}")
        wait_sockets(1, node, other)
        with pytest.raises(OSError):
            dial(f"ws://127.0.0.1:{node.port + 1}")


@pytest.mark.parametrize(
    "options",
    [
        ("--max-message-bytes", "131073"),
        ("--peer", "not an address"),
        ("--advertise", "not an address"),
        ("--log-level", "loud"),
        ("--target-links", "many"),
        ("--ephemeral", "--data-dir", "somewhere"),
        ("--no-such-option",),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run_to_end(str(free_port_pair()), *options, cwd=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert any(option in result.stderr for option in options), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_a_node_is_local_unless_told_otherwise() -> None:
    with NodeProcess() as node:
        wait_until(lambda: node.logged("--host"), "the log says how to open it")
        for port in (node.port, node.port + 1):
            with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), 5):
                pass
    with NodeProcess("--host", "0.0.0.0", "--http-host", "0.0.0.0") as node:
        for port in (node.port, node.port + 1):
            socket.create_connection(("127.0.0.2", port), 5).close()
        assert request(node.port, "/").status == 401, "who is not local brings the token"


@contextmanager
def blocking_peer(node: NodeProcess) -> Iterator[None]:
    """A peer that is linked and reads nothing, with megabytes committed for it."""
    with dial(node.address, receive_buffer=4096) as link:
        link.send_sockets()
        wait_sockets(1, node)
        for _ in range(150):
            assert node.commit("x" * 60_000).status == 302
        yield


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("blocked", [False, True], ids=["", "while a peer is blocking"])
def test_a_signal_ends_the_node_and_tells_its_peers(signum: int, blocked: bool) -> None:
    with NodeProcess(command=RUN_NODE) as node, NodeProcess() as peer:
        with blocking_peer(node) if blocked else nullcontext():
            peer.add(node.address)
            wait_sockets(1, peer)
            accepted = dial(node.address)
            assert accepted.read_json()["type"] == "SOCKETS"
            begin = monotonic()
            assert node.stop(signum) == 0
            assert monotonic() - begin < 2 * SCALE
            assert accepted.read_close()[0] == 1001
        wait_sockets(0, peer)
        assert "Traceback" not in node.log(), node.log()


def test_peers_that_come_while_a_node_stops_do_no_harm() -> None:
    with NodeProcess(command=RUN_NODE) as node:
        slow_to_go = dial(node.address)  # it does not answer the CLOSE, so the stop takes a while
        assert slow_to_go.read_json()["type"] == "SOCKETS"
        node.process.send_signal(signal.SIGTERM)
        while node.process.poll() is None:
            with suppress(OSError, EOFError, AssertionError), dial(node.address) as late:
                late.send_sockets()
                late.send_message("too late")
        slow_to_go.close()
        assert node.stop() == 0
        assert "Traceback" not in node.log(), node.log()
