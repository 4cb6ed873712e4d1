"""Host names: several endpoints, dead or silent ones, several nodes, this node itself."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node, PeerInfo
from p2p_sync.core import book as addressbook
from p2p_sync.web.app import create_app
from tests.harness import raw
from tests.harness.certificates import Authority
from tests.harness.member import hello, identities
from tests.harness.support import DEADLINE, SCALE, holds, settle, wait_until

NAME = "mesh.example"


class Names:
    """Host names that resolve in this process; those that hang do until the test has ended."""

    def __init__(self) -> None:
        self.table: dict[str, Sequence[str]] = {}
        self.lookups: list[str] = []
        self.hanging: set[str] = set()
        self.release = threading.Event()
        self._real: Callable[..., Any] = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        """Stand in for socket.getaddrinfo."""
        self.lookups.append(host)
        if host in self.hanging:
            self.release.wait(10 * DEADLINE)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        found = self.table.get(host, (host,))
        return [entry for ip in found for entry in self._real(ip, port, *rest, **more)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.release.set()


def port_of(*hosts: str) -> int:
    """Return a port that is free on all of these addresses of this machine."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            try:
                first = stack.enter_context(socket.create_server((hosts[0], 0)))
                port = int(first.getsockname()[1])
                for host in hosts[1:]:
                    stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return port
    pytest.skip("this machine has one loopback address only")


def hosts(count: int) -> list[str]:
    return [f"127.0.0.{number}" for number in range(2, count + 2)]


def entries(node: Node) -> dict[str, PeerInfo]:
    """The entries of the peers by each of their addresses."""
    return {address: entry for entry in node.peers() for address in entry.addresses}


def is_self(node: Node, address: str) -> bool:
    """Does the node show the address as its own?"""
    found = entries(node)
    return address in found and found[address].state == "self"


def peer_port(node: Node) -> int:
    return int(node.address.rpartition(":")[2])


def missed(node: Node) -> int:
    """How many peers are missing, by the node's verdict."""
    found = node.status().verdict
    return int(found.peers) - node.sockets()


@contextlib.contextmanager
def nodes_on(ips: Sequence[str], port: int, name: str, **settings: Any) -> Iterator[list[Node]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Node(port, host=ip, advertise=f"ws://{ip}:{port}", peers=[name], **settings)
            )
            for ip in ips
        ]


# -- one name for several nodes ------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "the secret of the tests"])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_nodes_that_share_one_name_become_one_mesh(
    names: Names, first: int, secret: str | None
) -> None:
    ips = hosts(4)
    port = port_of(*ips)
    names.table[NAME] = [*ips[first:], *ips[:first]]
    with nodes_on(ips, port, f"ws://{NAME}:{port}", secret=secret) as nodes:
        wait_until(lambda: all(node.sockets() == 3 for node in nodes), "one mesh")
        for node in nodes:
            connected = {entry.id for entry in node.peers() if entry.state == "connected"}
            assert connected == {other.id for other in nodes if other is not node}
            assert len({entry.key for entry in node.peers()}) == len(node.peers())
        wait_until(lambda: all(missed(node) == 0 for node in nodes), "none is missed")


def test_halves_that_a_name_leads_to_meet(names: Names) -> None:
    ips = hosts(4)
    port = port_of(*ips)
    names.table |= {NAME: ips[:2], "others.example": ips[2:]}
    settings = {"probe": 0.3, "redial_longest": 1.0}
    with (
        nodes_on(ips[:2], port, f"ws://{NAME}:{port}", **settings) as some,
        nodes_on(ips[2:], port, f"ws://others.example:{port}") as rest,
    ):
        nodes = [*some, *rest]
        wait_until(lambda: all(node.sockets() == 1 for node in nodes), "two halves")
        names.table[NAME] = ips
        wait_until(lambda: all(node.sockets() == 3 for node in nodes), "one mesh")


def test_a_name_that_leads_to_this_node_only_is_shown_and_looked_up_again(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addressbook, "ONESELF_PAUSE", 0.5)
    one, two = hosts(2)
    port = port_of(one, two)
    name = f"ws://{NAME}:{port}"
    names.table[NAME] = [one]
    with nodes_on([one], port, name) as (node,):
        wait_until(lambda: is_self(node, name), "shown as itself")
        entry = entries(node)[name]
        assert (entry.last_error, entry.attempts) == ("this is this node itself", 0)
        assert entry.by_hand and entry.next_try_s is not None
        assert missed(node) == 0, "it is not counted as missing"
        node.connect(f"ws://{one}:{port}")
        wait_until(
            lambda: is_self(node, f"ws://{one}:{port}"),
            "so is an IP address",
        )
        names.table[NAME] = [one, two]
        with Node(port, host=two) as other:
            wait_until(lambda: node.sockets() == other.sockets() == 1, "the second node is found")
            assert entries(node)[name].state == "connected"


def test_a_name_of_this_node_is_kept_over_a_restart(names: Names, tmp_path: Path) -> None:
    names.table[NAME] = ["127.0.0.1"]
    with Node(0, tmp_path) as node:
        name = f"ws://{NAME}:{peer_port(node)}"
        node.connect(name)
        wait_until(lambda: is_self(node, name))
    with Node(0, tmp_path) as node:
        assert name in entries(node)


# -- several names of one node -------------------------------------------------------------------


@pytest.mark.parametrize("ours_dials", [True, False])
def test_further_names_of_a_connected_peer_are_addresses_of_its_entry(
    names: Names, ours_dials: bool
) -> None:
    names.table |= {"one.example": ["127.0.0.1"], "two.example": ["127.0.0.1"]}
    with Node(0) as node, Node(0) as other:
        if ours_dials:
            node.connect(other.address)
        else:
            other.connect(node.address)
        wait_until(lambda: node.sockets() == other.sockets() == 1)
        more = [f"ws://{host}:{peer_port(other)}" for host in ("one.example", "two.example")]
        for name in more:
            node.connect(name)

        def folded() -> bool:
            return len(node.peers()) == 1 and set(entries(node)) == {other.address, *more}

        settle(lambda: folded() and node.sockets() == 1 and missed(node) == 0, lambda: node.peers())
        assert node.peers()[0].state == "connected"
        assert node.peers()[0].last_error == ""


# -- endpoints that do not answer ----------------------------------------------------------------


@contextlib.contextmanager
def dead(ip: str, port: int) -> Iterator[None]:
    """An endpoint that answers no SYN, as a host that is off."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((ip, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((ip, port))
        yield


@contextlib.contextmanager
def silent(ip: str, port: int) -> Iterator[None]:
    """An endpoint that accepts and says nothing."""
    with socket.create_server((ip, port)):
        yield


@contextlib.contextmanager
def refusing(ip: str, port: int) -> Iterator[None]:
    yield


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("trouble", [dead, silent, refusing])
def test_a_name_with_endpoints_that_do_not_answer(
    names: Names, trouble: Callable[[str, int], Any], tls: bool, tmp_path: Path
) -> None:
    ips = hosts(4)
    port = port_of(*ips)
    names.table[NAME] = ips
    files: dict[str, Any] = {}
    if tls:
        authority = Authority(tmp_path)
        cert, key = authority.issue("node", NAME)
        files = {"tls_cert": cert, "tls_key": key, "tls_ca": str(authority.pem)}
    with contextlib.ExitStack() as stack:
        for ip in ips[:-1]:
            stack.enter_context(trouble(ip, port))
        good = stack.enter_context(Node(port, host=ips[-1], **files))
        node = stack.enter_context(Node(0, **files))
        begun = time.monotonic()
        node.connect(f"{'wss' if tls else 'ws'}://{NAME}:{port}")
        wait_until(lambda: good.sockets() == 1, "linked")
        assert time.monotonic() - begun < 8 * SCALE, "before the first has run into a timeout"


def test_the_endpoint_that_worked_is_tried_first_next_time(names: Names) -> None:
    one, two = hosts(2)
    port = port_of(one, two)
    names.table[NAME] = [one, two]
    with (
        socket.create_server((one, port)) as first,
        socket.create_server((two, port)) as second,
        Node(0, redial_longest=1.0) as node,
    ):
        node.connect(f"ws://{NAME}:{port}")
        first.settimeout(DEADLINE)
        second.settimeout(DEADLINE)
        first.accept()[0].close()
        for _ in range(2):
            sock, _ = second.accept()
            with raw.RawPeer(sock, client=False, head="") as peer:
                peer.send_bytes(raw.welcome(raw.read_head(sock)[0]))
                peer.send_sockets()
                wait_until(lambda: node.sockets() == 1, "linked")
            assert not select.select([first], [], [], 0)[0], "the first was not dialled again"


def test_the_losing_connections_of_a_dial_are_closed(names: Names) -> None:
    one, two = hosts(2)
    port = port_of(one, two)
    names.table[NAME] = [one, two]
    with socket.create_server((one, port)) as listener, Node(port, host=two), Node(0) as node:
        node.connect(f"ws://{NAME}:{port}")
        listener.settimeout(DEADLINE)
        sock, _ = listener.accept()
        sock.settimeout(DEADLINE)
        with sock, contextlib.suppress(ConnectionError):
            while sock.recv(4096):
                pass  # the handshake, then the end


def test_a_stop_gives_up_all_connections_of_a_dial(names: Names) -> None:
    ips = hosts(3)
    port = port_of(*ips)
    names.table[NAME] = ips
    with contextlib.ExitStack() as stack:
        for ip in ips:
            stack.enter_context(silent(ip, port))
        node = stack.enter_context(Node(0))
        node.connect(f"ws://{NAME}:{port}")
        wait_until(lambda: entries(node)[f"ws://{NAME}:{port}"].state == "dialling")
        begun = time.monotonic()
        node.stop()
        assert time.monotonic() - begun < 5 * SCALE


def test_a_dial_takes_one_thread_whatever_it_tries(names: Names) -> None:
    ips = hosts(3)
    port = port_of(*ips)
    names.table[NAME] = ips
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server((ip, port))) for ip in ips]
        stack.enter_context(Node(0)).connect(f"ws://{NAME}:{port}")
        wait_until(lambda: len(select.select(silent, [], [], 0)[0]) == 3, "all are tried")
        dials = [thread.name for thread in threading.enumerate() if NAME in thread.name]
        assert len(dials) == 1, dials


def test_a_name_with_thousands_of_endpoints_gets_eight_connections(names: Names) -> None:
    names.table[NAME] = [f"127.1.{number // 250}.{1 + number % 250}" for number in range(4000)]
    accepted = 0
    with Node(0) as node, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", 0))
        listener.listen(128)
        name = f"ws://{NAME}:{listener.getsockname()[1]}"
        with raw.dial(node.address, identity=next(identities)) as peer:
            peer.send_json(hello(addresses=[name]))
            listener.settimeout(DEADLINE)
            while name not in entries(node) or not entries(node)[name].attempts:
                if select.select([listener], [], [], 0.05)[0]:
                    listener.accept()[0].close()
                    accepted += 1
    assert accepted == 8


def test_an_endpoint_that_does_not_know_the_secret_costs_no_second_dial(names: Names) -> None:
    one, two = hosts(2)
    port = port_of(one, two)
    names.table[NAME] = [one, two]
    right, wrong = "the secret of the tests", "another secret of the tests"
    with (
        Node(port, host=one, secret=wrong) as stranger,
        Node(port, host=two, secret=right) as good,
        Node(0, secret=right, redial_first=10 * DEADLINE) as node,
    ):
        node.connect(f"ws://{NAME}:{port}")
        wait_until(lambda: good.sockets() == 1, "the second endpoint is tried at once")
        assert stranger.sockets() == 0


# -- names that hang -----------------------------------------------------------------------------


def test_names_that_hang_delay_no_dial(names: Names) -> None:
    names.hanging = {f"hangs{number}.example" for number in range(40)}
    names.table["good.example"] = ["127.0.0.1"]
    with Node(0) as node, Node(0) as by_name, Node(0) as by_address:
        with raw.dial(node.address, identity=next(identities)) as peer:
            told = [f"ws://{host}:80" for host in names.hanging]
            peer.send_json(hello(addresses=told))
            wait_until(lambda: names.hanging & {*names.lookups}, "a lookup hangs")
            before = threading.active_count()
            node.connect(f"ws://good.example:{peer_port(by_name)}")
            node.connect(by_address.address)
            # The two may have found each other by then, too.
            wait_until(lambda: by_name.sockets() and by_address.sockets(), "both are linked")
            holds(lambda: len(names.hanging & {*names.lookups}) <= 8, "learned lookups are bounded")
            assert threading.active_count() < before + 20
        for host in list(names.hanging)[:30]:
            node.connect(f"ws://{host}:81")
        holds(lambda: len([h for h in names.lookups if h in names.hanging]) <= 16)
        begun = time.monotonic()
        node.stop()
        assert time.monotonic() - begun < 5 * SCALE, "a lookup that hangs does not delay the stop"


def test_certificates_are_checked_for_the_name_of_the_dial(names: Names, tmp_path: Path) -> None:
    one, two = hosts(2)
    port = port_of(one, two)
    names.table[NAME] = [one, two]
    authority = Authority(tmp_path)
    files: dict[str, Any] = {"tls_ca": authority.pem}
    wrong, right = authority.issue("wrong", "other.example"), authority.issue("right", NAME)
    with (
        Node(port, host=one, tls_cert=wrong[0], tls_key=wrong[1], **files) as stranger,
        Node(port, host=two, tls_cert=right[0], tls_key=right[1], **files) as good,
        Node(0, **files) as node,
    ):
        node.connect(f"wss://{NAME}:{port}")
        wait_until(lambda: good.sockets() == 1, "the one with the right certificate is linked")
        assert stranger.sockets() == 0


def test_a_further_name_of_a_connected_peer_is_known_to_add(names: Names) -> None:
    names.table[NAME] = ["127.0.0.1"]
    with Node(0) as node, Node(0) as other:
        port = other.address.rpartition(":")[2]
        for host in ("127.0.0.1", NAME):
            node.connect(f"ws://{host}:{port}")

        def folded() -> bool:
            return any(len(peer.addresses) > 1 for peer in node.peers())

        wait_until(folded, "the name is an address of the connected peer")
        client = create_app(node).test_client()
        for name, status in ((NAME, 302), ("stranger.example", 200)):
            path = f"/add?address=ws://{name}:{port}"
            answer = client.get(path, headers={"Accept": "text/html", "Host": "localhost"})
            assert answer.status_code == status, name
