"""TLS on the peer port: names and chains are verified, and nothing ever goes on in plaintext."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node, StartError
from tests.harness import raw
from tests.harness.certificates import Authority
from tests.harness.member import hello
from tests.harness.support import (
    DEADLINE,
    NodeProcess,
    free_port_pair,
    holds,
    run_to_end,
    wait_sockets,
    wait_until,
)

SECRET = "the secret of the tests"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def node(authority: Authority, name: str = "node", **settings: Any) -> Node:
    """A node with a certificate of the authority, which it trusts."""
    cert, key = authority.issue(name)
    files: dict[str, Any] = {"tls_cert": cert, "tls_key": key, "tls_ca": authority.pem}
    return Node(0, **files | settings)


def state(one: Node, address: str) -> tuple[str, str]:
    """The state of the entry of an address, and its last error."""
    (entry,) = [entry for entry in one.peers() if entry.address == address]
    return entry.state, entry.last_error


def refused(one: Node, address: str) -> str:
    """Wait until a dial was refused; return why."""
    wait_until(lambda: state(one, address)[1], "a dial has failed")
    return state(one, address)[1]


def test_nodes_link_by_tls_and_find_each_other_by_wss(authority: Authority) -> None:
    with node(authority) as one, node(authority) as two, node(authority) as three:
        assert one.address.startswith("wss://")
        one.connect(two.address)
        three.connect(two.address)
        wait_until(lambda: one.sockets() == two.sockets() == three.sockets() == 2)
        one.commit("over TLS")
        wait_until(lambda: [m.data for m in three.messages()] == ["over TLS"])
        addresses = [entry.address for entry in one.peers()]
        assert all(f"{address}".startswith("wss://") for address in addresses), addresses


def test_much_goes_over_tls_both_ways_at_once(authority: Authority) -> None:
    with node(authority) as one, node(authority) as two:
        list(one.commit_all("x" * 500 + str(n) for n in range(3000)))
        list(two.commit_all("y" * 500 + str(n) for n in range(3000)))
        one.connect(two.address)
        list(one.commit_all("z" * 500 + str(n) for n in range(2000)))
        wait_until(lambda: two.status().messages.count == 8000)
        wait_until(lambda: one.status().messages == two.status().messages)


def test_a_node_of_processes_with_tls_stops_in_time(authority: Authority) -> None:
    one_options, other_options = authority.options("one"), authority.options("other")
    with NodeProcess(*one_options) as one, NodeProcess(*other_options) as other:
        one.add(f"wss://localhost:{other.port + 1}")
        wait_sockets(1, one, other)
        wait_until(lambda: one.logged("certificate is for", "localhost", "--advertise"), one.log)
        one.commit("hello")
        wait_until(lambda: other.texts() == ["hello"])
        assert (one.stop(), other.stop()) == (0, 0)
        assert "Traceback" not in one.log() + other.log()


# -- no plaintext -------------------------------------------------------------------------------


@contextlib.contextmanager
def tapped(address: str) -> Iterator[tuple[str, bytearray]]:
    """A port that passes all on to `address`, and keeps what the dialling side says."""
    host, port = address.rpartition("//")[2].rsplit(":", 1)
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, target: socket.socket, keep: bool) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    if keep:
                        seen.extend(data)
                    target.sendall(data)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection((host, int(port)))
                    for ends in ((near, far, True), (far, near, False)):
                        threading.Thread(target=pump, args=ends, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"wss://localhost:{listener.getsockname()[1]}", seen
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def test_what_goes_over_the_wire_is_not_plaintext(authority: Authority) -> None:
    with node(authority) as one, node(authority) as two, tapped(two.address) as (address, seen):
        one.commit("a very plain text")
        one.connect(address)
        wait_until(lambda: [m.data for m in two.messages()] == ["a very plain text"])
        assert seen
        for word in (b"SOCKETS", b"plain", b"GET /", one.id.encode()):
            assert word not in seen


def test_a_ws_dial_of_a_tls_port_gets_nothing(authority: Authority) -> None:
    with node(authority) as closed, Node(0) as other:
        plain = closed.address.replace("wss:", "ws:")
        other.connect(plain)
        refused(other, plain)
        assert (closed.sockets(), other.sockets()) == (0, 0)
        with raw.tcp(plain) as stranger:
            stranger.sendall(raw.handshake(plain.removeprefix("ws://")))
            with contextlib.suppress(ConnectionError):
                assert b"101" not in stranger.recv(1000)


def test_a_wss_dial_of_a_plain_port_says_nothing_in_plaintext(authority: Authority) -> None:
    with node(authority) as one, raw.RawServer() as plain:
        one.connect(plain.address.replace("ws://127.0.0.1", "wss://localhost"))
        with plain.accept_tcp() as sock:
            first = sock.recv(1000)
            assert first[:2] == b"\x16\x03", "a TLS handshake"
            assert b"GET" not in first
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"GET" not in sock.recv(1000)
        assert one.sockets() == 0


def test_learned_ws_addresses_are_not_dialled(authority: Authority) -> None:
    with node(authority) as one, raw.RawServer() as trap, raw.RawServer() as other:
        peer = tls_peer(authority, one.address)
        secure = other.address.replace("ws:", "wss:")
        peer.send_json(hello(addresses=[trap.address, secure]))
        other.accept_tcp().close()
        trap.listener.settimeout(1.0)
        with pytest.raises(TimeoutError):
            trap.listener.accept()
        one.connect(trap.address)  # by hand it is
        trap.listener.settimeout(10.0)
        trap.accept().close()
        peer.close()


def tls_peer(authority: Authority, address: str) -> raw.RawPeer:
    """A raw peer that dials over TLS."""
    context = ssl.create_default_context(cafile=str(authority.pem))
    sock = context.wrap_socket(raw.tcp(address), server_hostname="localhost")
    sock.sendall(raw.handshake(address.rpartition("//")[2]))
    head, rest = raw.read_head(sock)
    assert "101" in head
    return raw.RawPeer(sock, client=True, head=head, rest=rest)


# -- who it is ----------------------------------------------------------------------------------


def another_authority(authority: Authority, folder: Path) -> tuple[str, str]:
    return Authority(folder, "stranger").issue("stranger")


def another_name(authority: Authority, folder: Path) -> tuple[str, str]:
    return authority.issue("named", "elsewhere.example")


@pytest.mark.parametrize(
    ("made", "says"),
    [(another_authority, "self-signed|local issuer|unable"), (another_name, "mismatch|not valid")],
)
def test_a_wrong_certificate_is_not_accepted(
    authority: Authority,
    tmp_path: Path,
    made: Callable[[Authority, Path], tuple[str, str]],
    says: str,
) -> None:
    cert, key = made(authority, tmp_path)
    with node(authority) as one, Node(0, tls_cert=cert, tls_key=key) as two:
        one.connect(two.address)
        reason = refused(one, two.address)
        assert "certificate" in reason and any(word in reason.lower() for word in says.split("|"))
        assert state(one, two.address)[0] == "refused"
        holds(lambda: one.sockets() == two.sockets() == 0, duration=0.5)


def test_old_versions_of_tls_are_refused(authority: Authority) -> None:
    with node(authority) as one:
        context = ssl.create_default_context(cafile=str(authority.pem))
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError), raw.tcp(one.address) as sock:
            context.wrap_socket(sock, server_hostname="localhost")


def relay(authority: Authority, address: str) -> tuple[str, socket.socket]:
    """A machine in the middle, with a right certificate of its own: it reads and passes on."""
    cert, key = authority.issue("middle")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(authority.pem))
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
        """Pass on both ways; one thread alone may use a TLS connection."""
        other = {near: far, far: near}
        with near, far, contextlib.suppress(OSError, ValueError):
            while True:
                ready = [end for end in other if end.pending()]
                for end in ready or select.select(list(other), [], [], DEADLINE)[0]:
                    end.setblocking(False)
                    try:
                        data = end.recv(65536)
                    except ssl.SSLWantReadError:
                        continue
                    if not data:
                        return
                    other[end].settimeout(DEADLINE)
                    other[end].sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near = context.wrap_socket(listener.accept()[0], server_side=True)
                far = client.wrap_socket(raw.tcp(address), server_hostname="localhost")
                threading.Thread(target=pump, args=(near, far), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"wss://localhost:{listener.getsockname()[1]}", listener


@pytest.mark.parametrize("secret", [None, SECRET])
def test_relay_under_tls(authority: Authority, secret: str | None) -> None:
    """A proof that is passed on holds for another certificate than the one that was shown."""
    with node(authority, secret=secret) as one, node(authority, secret=secret) as two:
        address, listener = relay(authority, two.address)
        with contextlib.closing(listener):
            one.connect(address)
            assert "the signature is wrong" in refused(one, address)
            assert (one.sockets(), two.sockets()) == (0, 0)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def test_a_secret_and_tls_together(authority: Authority) -> None:
    with node(authority, secret=SECRET) as one, node(authority, secret=SECRET) as two:
        one.connect(two.address)
        wait_until(lambda: one.sockets() == two.sockets() == 1)
        one.commit("hello")
        wait_until(lambda: [m.data for m in two.messages()] == ["hello"])


# -- the files ----------------------------------------------------------------------------------


def break_nothing(cert: str, key: str, authority: Authority) -> list[str]:
    return ["--tls-cert", cert + ".not", "--tls-key", key]


def break_key(cert: str, key: str, authority: Authority) -> list[str]:
    return ["--tls-cert", cert, "--tls-key", authority.issue("other")[1]]


def break_text(cert: str, key: str, authority: Authority) -> list[str]:
    Path(cert).write_text("not a certificate")
    return ["--tls-cert", cert, "--tls-key", key]


def break_time(cert: str, key: str, authority: Authority) -> list[str]:
    cert, key = authority.issue("old", expired=True)
    return ["--tls-cert", cert, "--tls-key", key]


def break_authority(cert: str, key: str, authority: Authority) -> list[str]:
    return ["--tls-ca", key]


def break_pair(cert: str, key: str, authority: Authority) -> list[str]:
    return ["--tls-key", key]


@pytest.mark.parametrize(
    "broken", [break_nothing, break_key, break_text, break_time, break_authority, break_pair]
)
def test_wrong_files_end_the_start_with_a_sentence(
    authority: Authority, broken: Callable[[str, str, Authority], list[str]]
) -> None:
    options = broken(*authority.issue("node"), authority)
    ended = run_to_end(str(free_port_pair()), "--ephemeral", *options)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "certificate" in ended.stderr or "authority" in ended.stderr or "--tls" in ended.stderr
    if broken is break_time:
        assert "expired" in ended.stderr


def test_certificates_are_read_again(authority: Authority) -> None:
    with NodeProcess(*authority.options("node")) as process:
        address = f"wss://localhost:{process.port + 1}"
        first = shown(authority, address)
        authority.issue("node")
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shown(authority, address) != first, "the new certificate is shown")
        second = shown(authority, address)
        Path(authority.folder / "node.crt").write_text("broken")
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: process.logged("keeping the old settings", "certificate"))
        assert shown(authority, address) == second


def shown(authority: Authority, address: str) -> bytes | None:
    context = ssl.create_default_context(cafile=str(authority.pem))
    with context.wrap_socket(raw.tcp(address), server_hostname="localhost") as sock:
        return sock.getpeercert(binary_form=True)


def test_the_library_raises_for_wrong_files(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    for wrong in (
        Node(0, tls_cert=missing),
        Node(0, tls_ca=missing),
        Node(0, secret_file=f"{missing}"),
    ):
        with pytest.raises(StartError, match=r"missing\.pem"):
            wrong.start()
