"""Hosts of their own on one machine: network namespaces, joined by bridges, cables and a NAT.

Needs Linux, root, and `ip` (package iproute2); the NAT `nft` (nftables) or `iptables`. Nothing of
it shows in the machine's own network: bridges and cables are inside of namespaces, too. The names
of these begin with p2p and this process's number.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness.support import RUN_NODE, NodeProcess

HTTP_PORT, PEER_PORT = 8000, 8001  # on each host
_NEW_NET = 0x40000000  # CLONE_NEWNET
Result = TypeVar("Result")
Space = TypeVar("Space", bound="Namespace")


def run(*words: str) -> None:
    """Run a command; fail with what it says."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"


def require_namespaces() -> None:
    """Skip the test, with the reason, where namespaces, bridges and cables cannot be made."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are a thing of Linux")
    if not shutil.which("ip"):
        pytest.skip("network namespaces need `ip`, of the package iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        with Namespace("trial") as trial:
            trial.bridge()
            trial.ip("link", "add", "one", "type", "veth", "peer", "name", "other")
    except (AssertionError, OSError) as error:
        pytest.skip(f"no network namespaces here: {error}")


def masquerade(interface: str) -> list[tuple[str, ...]]:
    """The commands that hide a network behind the address of `interface`; skip if there are none.

    What comes in and belongs to no connection from inside ends at the router.
    """
    if shutil.which("nft"):
        chain = "{ type nat hook postrouting priority 100 ; }"
        return [
            ("nft", "add table ip nat"),
            ("nft", f"add chain ip nat out {chain}"),
            ("nft", f"add rule ip nat out oifname {interface} masquerade"),
        ]
    if shutil.which("iptables"):
        rule = ("-A", "POSTROUTING", "-o", interface, "-j", "MASQUERADE")
        return [("iptables", "-t", "nat", *rule)]
    pytest.skip("a NAT needs `nft`, of the package nftables, or `iptables`")


class Namespace:
    """A network namespace with its loopback interface; a context manager."""

    def __init__(self, name: str) -> None:
        self.name = f"p2p{os.getpid()}-{name}"
        self._inside = ThreadPoolExecutor(1, self.name, self._enter)

    def __enter__(self: Space) -> Space:
        run("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread inside, and the namespace."""
        self._inside.shutdown()
        run("ip", "netns", "del", self.name)

    def ip(self, *words: str) -> None:
        run("ip", "-n", self.name, *words)

    def run(self, *words: str) -> None:
        """Run a command inside."""
        run(*self.command(*words))

    def command(self, *words: str) -> tuple[str, ...]:
        """What runs a command inside; it becomes that command, with the same process number."""
        return ("ip", "netns", "exec", self.name, *words)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call `function` in a thread whose sockets are inside."""
        return self._inside.submit(function, *arguments).result()

    def bridge(self) -> None:
        """Make the switch that cables to others, and among others, end at."""
        self.ip("link", "add", "bridge", "type", "bridge")
        self.ip("link", "set", "bridge", "up")

    def _enter(self) -> None:
        """Take the calling thread, and no other, inside."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.name}").open() as file:
            if libc.setns(file.fileno(), _NEW_NET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.name)


class Host(Namespace):
    """A namespace with an address and, once started, a node."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        super().__init__(name)
        self.host = name
        self.address = address
        self.directory = directory / name
        self._node: NodeProcess | None = None

    def close(self) -> None:
        try:
            if self._node:
                self._node.close()
        finally:
            super().close()

    @property
    def peer_address(self) -> str:
        return f"ws://{self.address}:{PEER_PORT}"

    @property
    def node(self) -> NodeProcess:
        """Its node; what asks it over HTTP has to be called by `call`."""
        assert self._node is not None, "no node has been started"
        return self._node

    def start(self, *options: str) -> None:
        """Start the node, open to other hosts; does not wait."""
        self._node = NodeProcess(
            *("--host", "0.0.0.0", *options),
            port=HTTP_PORT,
            data_dir=self.directory,
            command=self.command(*RUN_NODE),
            wait=False,
        )

    def end(self) -> None:
        """End the node, as its unit would."""
        node, self._node = self.node, None
        node.stop()
        node.close()

    def sockets(self) -> int:
        return self.call(self.node.sockets)


class Lab:
    """Sites (switches), hosts at them, and cables between them; see `lab`."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.hosts: list[Host] = []

    def site(self, name: str) -> Namespace:
        """A switch."""
        site = self._stack.enter_context(Namespace(name))
        site.bridge()
        return site

    def host(self, name: str, site: Namespace, address: str, gateway: str = "") -> Host:
        """A host at `site`, in the network of the first three numbers of `address`."""
        host = self._stack.enter_context(Host(name, address, self._directory))
        self._plug(host, site, name, address)
        if gateway:
            host.ip("route", "add", "default", "via", gateway)
        self.hosts.append(host)
        return host

    def cable(self, one: Namespace, other: Namespace) -> Cable:
        """A cable between two switches."""
        words = ("type", "veth", "peer", "name", "cable", "netns", other.name)
        one.ip("link", "add", "cable", *words)
        for site in (one, other):
            site.ip("link", "set", "cable", "master", "bridge", "up")
        return Cable(one)

    def router(self, name: str, site: Namespace, address: str, inner: str) -> Namespace:
        """A router at `site`, and a switch behind it; it is `inner`, the gateway, to that side.

        It hides the hosts behind it by NAT, and no other host has a route to them.
        """
        commands = masquerade("eth0")
        router = self.site(name)
        self._plug(router, site, name, address)
        router.ip("address", "add", f"{inner}/24", "dev", "bridge")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for words in commands:
            router.run(*words)
        return router

    def part(self, some: Sequence[Host], others: Sequence[Host]) -> None:
        """Let none of `some` and `others` reach each other; each attempt fails at once."""
        self._route("add", some, others)

    def join(self, some: Sequence[Host], others: Sequence[Host]) -> None:
        """Undo `part`."""
        self._route("del", some, others)

    def _route(self, verb: str, some: Sequence[Host], others: Sequence[Host]) -> None:
        for one, other in itertools.product(some, others):
            one.ip("route", verb, "unreachable", other.address)
            other.ip("route", verb, "unreachable", one.address)

    def _plug(self, what: Namespace, site: Namespace, port: str, address: str) -> None:
        """Join eth0 of a namespace to `port` of the switch of `site`."""
        words = ("type", "veth", "peer", "name", port, "netns", site.name)
        what.ip("link", "add", "eth0", *words)
        site.ip("link", "set", port, "master", "bridge", "up")
        what.ip("address", "add", f"{address}/24", "dev", "eth0")
        what.ip("link", "set", "eth0", "up")


class Cable:
    """A cable between two switches: it is plugged in until it is cut."""

    def __init__(self, end: Namespace) -> None:
        self._end = end

    def cut(self) -> None:
        self._end.ip("link", "set", "cable", "down")

    def plug_in(self) -> None:
        self._end.ip("link", "set", "cable", "up")


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    """An empty place for hosts; all that is made there is gone in the end, also after a failure.

    Skips where it cannot be. After a failure it prints what the nodes have logged.
    """
    require_namespaces()
    with ExitStack() as stack:
        made = Lab(stack, directory)
        try:
            yield made
        except Exception:
            for host in made.hosts:
                print(f"-- {host.host}, {host.address}", host._node and host.node.log(), sep="\n")
            raise
