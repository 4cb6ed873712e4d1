"""A real redis-server on a free port, for tests."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

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
