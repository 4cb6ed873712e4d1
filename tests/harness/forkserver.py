"""Processes of nodes that start fast.

A process of its own, the fork server, imports the program once, and forks for each node. It has no
threads, and ends after the tests and their nodes. What is left of a start is a tenth of the CPU.

A forked node has the pid, signals, working directory, environment, descriptors and exit code of one
that was started by `run_node.py`. Its interpreter is as the tests' own, so a test about that, or
about what is imported when, starts the real one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from p2p_sync.cli import main

context = multiprocessing.get_context("forkserver")
# Not the program itself: elsewhere than in ROOT, another copy of it may be installed.
context.set_forkserver_preload(["tests.harness.preload"])

# Guards the processes of `multiprocessing`: it reads each exit code once, and in any `start`.
_lock = threading.Lock()


class ForkedProcess:
    """A node that was started with `arguments`; both streams go to the descriptor `output`.

    It has those methods of subprocess.Popen that the tests call, for any thread.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: str | Path,
        environment: dict[str, str],
        output: int,
    ) -> None:
        self._arguments = arguments
        with Connection(os.dup(output), readable=False) as stream, _lock:
            # A daemon: a process that a test has left behind is ended with the tests.
            self._process = context.Process(
                target=_run, args=(arguments, cwd, environment, stream), daemon=True
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that ended it; None: it runs."""
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, at most `timeout` seconds, or raise TimeoutExpired; else as `poll`."""
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(list(self._arguments), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: Sequence[str], cwd: str | Path, environment: dict[str, str], output: Connection
) -> None:
    """Become what `run_node.py` is when it is started with `arguments`."""
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # they are those of `multiprocessing`
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(arguments))
