"""The ground that the other tests stand on."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from tests.harness.support import DEADLINE, ROOT, NodeProcess

IGNORING = ["sh", "-c", """trap '' INT QUIT HUP; exec "$@" """, "sh"]
"""Starts a command as a shell starts a background job, and nohup one."""


def test_tests_pass_in_the_background() -> None:
    """The signals that they send reach the programs that they start."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    test = "tests/cli/test_client.py::test_following_ends_without_a_word[interrupted]"
    done = subprocess.run(
        [*IGNORING, *command, test],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout


def test_each_worker_has_ports_of_its_own() -> None:
    program = (
        "from tests.harness.support import free_port_pair as port\n"
        "print(*(port() for _ in range(200)))"
    )
    found = []
    for worker in ("gw0", "gw1", "gw2"):
        workers = {"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "3"}
        environment = {**os.environ, **workers}
        printed = subprocess.check_output(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, text=True
        )
        found.append([int(port) for port in printed.split()])
    assert min(found[0]) >= 10_000 and max(found[2]) < 30_000
    assert max(found[0]) + 1 < min(found[1]) and max(found[1]) + 1 < min(found[2])


def test_another_node_on_the_same_port_is_not_taken_for_the_one_that_starts() -> None:
    with NodeProcess("--ephemeral") as other:
        node = NodeProcess("--ephemeral", port=other.port, wait=False)
        with closing(node), pytest.raises(AssertionError, match="in use"):
            node.wait_ready()
