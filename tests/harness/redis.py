"""A real redis-server on a free port, and what tests await of nodes that have it as their hub."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from p2p_sync import Node
from tests.harness.support import free_port_pair, wait_until


class RedisServer:
    """A redis-server on this machine, in a directory of its own. Skips the test where there is
    none."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        """`options` are further arguments of redis-server."""
        redis = pytest.importorskip("redis")
        if not shutil.which("redis-server"):
            pytest.skip("redis-server is not on this machine")
        self.port = port or free_port_pair()
        self.directory = directory
        self.options = options
        self.client: Any = redis.Redis("127.0.0.1", self.port, socket_timeout=20)
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The address of the hub there."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it serves."""
        self.directory.mkdir(exist_ok=True)
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.directory), "--save", "", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def serves() -> bool:
            try:
                self.client.ping()
            except Exception as error:
                return type(error).__name__ == "AuthenticationError"
            return True

        wait_until(serves, "redis-server", 20)

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(20)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.client.close()


def tell(redis: RedisServer, origin: str | bytes, head: str | bytes, before: str = "") -> None:
    """Add news as the script of the hub does; `before` is the place of the news before it."""
    past = before or redis.client.hget("{p2p}:have", "news") or b""
    place = redis.client.xadd("{p2p}:news", {"before": past, "origin": origin, "head": head})
    redis.client.hset("{p2p}:have", "news", place)


def streams(redis: RedisServer) -> str:
    """Return all that the streams of the hub hold, as a text."""
    names = [f"{{p2p}}:{name}" for name in ("log", "news", "messages", "in")]
    return str([redis.client.xrange(name) for name in names])


def wait_same(*nodes: Node, count: int, timeout: float = 15) -> None:
    """Wait until all nodes hold the same `count` messages."""

    def same() -> bool:
        digests = {node.status().messages.digest for node in nodes}
        counts = {node.status().messages.count for node in nodes}
        return len(digests) == 1 and counts == {count}

    def shown() -> str:
        return f"{count} messages everywhere: {[node.status().messages for node in nodes]}"

    wait_until(same, shown, timeout)


def wait_in_sync(node: Node) -> None:
    wait_until(lambda: node.status().verdict.state == "in_sync", "in sync")


def wait_linked(node: Node) -> None:
    """Wait until the first peer of a node, its hub, is connected."""
    wait_until(lambda: node.peers() and node.peers()[0].state == "connected", "the hub is linked")


def wait_held(redis: RedisServer, count: int) -> None:
    """Wait until the hub holds so many runs."""
    wait_until(lambda: redis.client.xlen("{p2p}:log") == count, f"{count} runs in the hub")
