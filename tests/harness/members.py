"""Nodes that outlive their processes: they are killed and started again on what they hold."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.harness.proxy import Proxy
from tests.harness.support import NodeProcess


class Member:
    """A node with a data directory, and a port that it keeps until it is started at another."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self._port: int | None = None  # of its last process
        self._node: NodeProcess | None = None
        self._logs: list[str] = []

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def port(self) -> int:
        """Its HTTP port, once it has been started."""
        node = self._node
        port = node.port if node else self._port
        assert port is not None, "the node has not been started"
        return port

    @property
    def address(self) -> str:
        """Where peers are to dial it."""
        return f"ws://127.0.0.1:{self.port + 1}"

    @property
    def node(self) -> NodeProcess:
        assert self._node is not None, "the node is not running"
        return self._node

    @property
    def log(self) -> str:
        """What all its processes have printed."""
        return "".join([*self._logs, self._node.log() if self._node else ""])

    def start(self, *options: str, port: int | None = None, wait: bool = False) -> None:
        """Run it on what its directory holds, with more `options`, from now on at `port`."""
        options, port = (*self.options, *options), port or self._port
        self._node = NodeProcess(*options, port=port, data_dir=self.directory, wait=wait)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """End its process, and keep what that has printed."""
        node = self.node
        self._port, self._node = node.port, None
        try:
            code = node.stop(signum)
            self._logs.append(node.log())
        finally:
            node.close()
        assert code == (0 if signum == signal.SIGTERM else -signum), self.log

    def close(self) -> None:
        """End its process, if it has one."""
        if self._node:
            self._node.close()


class Proxied(Member):
    """A member that its peers reach through a proxy."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self.proxy = Proxy(lambda: self.port + 1)
        self.options = ("--advertise", self.proxy.address, *options)

    @property
    def address(self) -> str:
        return self.proxy.address

    def close(self) -> None:
        super().close()
        self.proxy.close()
