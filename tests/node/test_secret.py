"""Networks with a secret: who knows it is let in, and nobody else learns anything."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.wire.proof import HEADER
from tests.harness import raw
from tests.harness.member import hello, identities
from tests.harness.secret import NEW, OLD, OTHER, US, member, secret_file
from tests.harness.support import (
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    request,
    run_to_end,
    wait_sockets,
    wait_until,
)


@contextmanager
def members(folder: Path, count: int, *secrets: str) -> Iterator[list[NodeProcess]]:
    """Nodes that share secrets, each with a file of its own."""
    with ExitStack() as stack:
        nodes = []
        for number in range(count):
            path = secret_file(folder, *secrets, name=f"secret{number}")
            options = ("--secret-file", str(path))
            nodes.append(stack.enter_context(NodeProcess(*options, wait=False)))
        for node in nodes:
            node.wait_ready()
        yield nodes


def test_those_who_share_a_secret_form_a_network(tmp_path: Path) -> None:
    with members(tmp_path, 3, OLD) as (one, two, three):
        one.add(two.address)
        three.add(two.address)
        wait_sockets(2, one, two, three)
        one.commit("among us")
        wait_until(lambda: two.texts() == three.texts() == ["among us"])
        assert OLD not in one.log() + two.log() + three.log()


def test_a_wrong_secret_is_refused_with_a_sentence_on_both_sides(tmp_path: Path) -> None:
    right, wrong = secret_file(tmp_path, OLD), secret_file(tmp_path, OTHER, name="wrong")
    with (
        NodeProcess("--secret-file", str(right)) as node,
        NodeProcess("--secret-file", str(wrong)) as stranger,
    ):
        stranger.add(node.address)
        wait_until(lambda: stranger.peers()[0]["state"] == "refused")
        assert "secret" in stranger.peers()[0]["last_error"]
        wait_until(lambda: node.logged("proof is wrong"), node.log)
        wait_until(lambda: stranger.logged("4401", "proof is wrong"), stranger.log)
        holds(lambda: node.sockets() == stranger.sockets() == 0)


@pytest.mark.parametrize("dialler", ["with", "without"])
def test_with_and_without_a_secret_do_not_mix_and_say_so(tmp_path: Path, dialler: str) -> None:
    with (
        NodeProcess("--secret-file", str(secret_file(tmp_path, OLD))) as closed,
        NodeProcess() as open_node,
    ):
        closed.commit("for members")
        one, other = (closed, open_node) if dialler == "with" else (open_node, closed)
        one.add(other.address)
        give, start = "give that node the secret file", "give this node the same one"
        says = start if dialler == "with" else give
        wait_until(lambda: other.logged("refused a connection", says), other.log)
        wait_until(lambda: one.logged("4401", says), one.log)
        holds(lambda: closed.sockets() == open_node.sockets() == 0)
        assert open_node.texts() == []


def test_an_original_node_is_told_why_it_is_refused(tmp_path: Path) -> None:
    with NodeProcess("--secret-file", str(secret_file(tmp_path, OLD))) as node:
        with raw.dial(node.address) as original:
            original.send_sockets()
            code, reason = original.read_close()
        assert code == 4401 and "original" in str(reason)
        wait_until(lambda: node.logged("original nodes"))


def halfway(address: str) -> raw.RawPeer:
    """A peer that says which node it is, and has not proved it."""
    return raw.dial(address, extra=(f"{HEADER}: {raw.begin(US, dialled=True).header}",))


def test_the_opening_says_nothing_but_which_node_it_is(tmp_path: Path) -> None:
    with NodeProcess("--secret-file", str(secret_file(tmp_path, OLD))) as node:
        node.commit("for members")
        with raw.dial(node.address, identity=US, secret=OLD) as known:
            names = {line.partition(":")[0] for line in known.head.split("\r\n")[1:]}
            assert names == {"Upgrade", "Connection", "Sec-WebSocket-Accept", HEADER}
            assert known.read_json().keys() == {"type", "proof"}
            assert node.sockets() == 0, "it has to introduce itself yet"
            known.send_json(hello(port=4321))
            wait_until(lambda: node.sockets() == 1)
            with raw.dial(node.address, identity=next(identities), secret=OTHER) as stranger:
                assert next(stranger.frames()).opcode == raw.CLOSE, "the proof of the node is not"
            assert node.sockets() == 1


def test_who_says_nothing_is_told_nothing() -> None:
    with Node(0, secret=OLD, handshake_timeout=1.0) as node, halfway(node.address) as silent:
        frames = []
        with pytest.raises(EOFError):
            while True:
                frames.append(silent.read())
        assert frames == []


def test_pings_do_not_put_off_the_proof() -> None:
    with Node(0, secret=OLD, handshake_timeout=1.0) as node, halfway(node.address) as peer:
        started = time.monotonic()
        with pytest.raises((EOFError, OSError)):
            while time.monotonic() < started + 10:
                peer.ping()
        assert time.monotonic() < started + 5


@pytest.mark.parametrize("secret", [OLD, None])
def test_a_frame_before_the_proof_is_short(secret: str | None) -> None:
    with Node(0, secret=secret) as node, halfway(node.address) as peer:
        peer.send(raw.TEXT, b'"' + b"x" * 5000 + b'"')
        assert peer.read_close()[0] == 1009


@pytest.mark.parametrize("secret", [OLD, None])
def test_messages_before_the_proof_are_refused(secret: str | None) -> None:
    with Node(0, secret=secret) as node, halfway(node.address) as peer:
        peer.send_message("let me in")
        assert peer.read_close()[0] == 4401
        assert node.messages() == []


@pytest.mark.parametrize("timeout", [1.0, 60.0], ids=["times out", "is given up by a stop"])
def test_a_dial_that_waits_for_a_proof_ends(timeout: float) -> None:
    with raw.RawServer() as silent, Node(0, secret=OLD, handshake_timeout=timeout) as node:
        node.connect(silent.address)
        with silent.accept_tcp() as sock:
            head, rest = raw.read_head(sock)
            opening = raw.begin(US, dialled=False, secret=OLD)
            opening.read(raw.header_in(head))
            sock.sendall(raw.welcome(head, opening.header))
            peer = raw.RawPeer(sock, client=False, head=head, rest=rest)
            assert peer.read_json()["type"] == "PROOF"
            if timeout < 10:
                wait_until(lambda: "in time" in node.peers()[0].last_error)
            began = time.monotonic()
            node.stop()
            assert time.monotonic() < began + 5 * SCALE
            peer.read_end()


def test_a_secret_is_changed_without_downtime(tmp_path: Path) -> None:
    with members(tmp_path, 3, OLD) as nodes:
        for node in nodes[1:]:
            node.add(nodes[0].address)
        wait_sockets(2, *nodes)
        for secrets in ((OLD, NEW), (NEW, OLD), (NEW,)):
            for number, node in enumerate(nodes):
                mark = len(node.log())
                secret_file(tmp_path, *secrets, name=f"secret{number}")
                node.process.send_signal(signal.SIGHUP)
                wait_until(partial(node.logged, "reloaded", after=mark))
                drop_links(node)
                wait_sockets(2, *nodes)
        member(nodes[0].address, NEW).close()
        late = raw.dial(nodes[0].address, identity=US, secret=OLD)
        assert late.read_close()[0] == 4401


def drop_links(node: NodeProcess) -> None:
    """Have a node's links opened anew."""
    for entry in node.peers():
        request(node.port, f"/api/v1/peers/{entry['key']}", "DELETE")
        node.add(entry["address"])


def test_a_broken_secret_file_leaves_all_as_it_was(tmp_path: Path) -> None:
    with members(tmp_path, 1, OLD) as (node,):
        secret_file(tmp_path, "short", name="secret0")
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: node.logged("keeping the old settings", "16 bytes"))
        member(node.address, OLD).close()


def test_the_secret_comes_by_the_environment_too(tmp_path: Path) -> None:
    with NodeProcess(environment={"P2P_SYNC_SECRET": OLD}) as node:
        member(node.address, OLD).close()
    twice = run_to_end(
        str(free_port_pair()),
        "--ephemeral",
        "--secret-file",
        str(secret_file(tmp_path, OLD)),
        environment={"P2P_SYNC_SECRET": OLD},
    )
    assert (twice.returncode, twice.stdout) == (2, "")
    assert "twice" in twice.stderr


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (f"{OLD}\n", 0o644, "chmod 600"),
        ("fifteen bytes..\n", 0o600, "16 bytes"),
        (f"{OLD}\n{NEW}\n{OTHER}\n", 0o600, "two lines"),
        ("# nothing\n\n", 0o600, "openssl rand"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_what_is_no_secret_file_ends_the_start(
    tmp_path: Path, text: str | None, mode: int, says: str
) -> None:
    path = tmp_path / "secret"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    ended = run_to_end(str(free_port_pair()), "--ephemeral", "--secret-file", str(path))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


@pytest.mark.parametrize("secret", [OLD, None])
def test_a_node_that_is_given_its_own_address_knows_itself(secret: str | None) -> None:
    with Node(0, secret=secret) as node, Node(0, secret=secret) as other:
        for address in (node.address, other.address):
            node.connect(address)

        def states() -> dict[str | None, str]:
            return {peer.address: peer.state for peer in node.peers()}

        expected = {node.address: "self", other.address: "connected"}
        wait_until(lambda: states() == expected, lambda: str(states()))
        wait_until(lambda: node.status().verdict.state == "in_sync")
        holds(lambda: states() == expected and node.status().verdict.peers == 1)
