"""kill -9 of a program that consumes messages, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from p2p_sync import Node
from tests.harness.support import DEADLINE, ROOT, pause, wait_until

ROUNDS = int(os.environ.get("P2P_SYNC_TEST_CONSUMER_KILLS", "12"))
LONGEST = 0.15  # seconds that a program runs before it is killed

PROGRAM = """
import sys
from p2p_sync import Node

directory, file, round = sys.argv[1:]
with open(file, "a", buffering=1) as lines, Node(0, directory) as node:
    node.consume("c", lambda message: lines.write(f"{message.data}\\n"))
    for number in range(1_000_000):
        node.commit(f"{round}.{number}")
"""


def has_grown(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_each_message_is_handled_and_only_the_last_before_a_kill_twice(tmp_path: Path) -> None:
    """The program commits messages and handles them; each handled one is a line of a file."""
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    directory, file = tmp_path / "data", tmp_path / "handled"
    file.touch()
    for number in range(ROUNDS):
        size = file.stat().st_size
        arguments = [sys.executable, "-c", PROGRAM, str(directory), str(file), f"{number}"]
        program = subprocess.Popen(arguments, cwd=ROOT)
        try:
            wait_until(partial(has_grown, file, size))
            pause(rng.uniform(0, LONGEST))
        finally:
            program.send_signal(signal.SIGKILL)
            program.wait(DEADLINE)
    with Node(0, directory) as node:
        held = [message.data for _, message in node.log.arrivals(0, 1_000_000)]
        with file.open("a", buffering=1) as lines:
            consuming = node.consume("c", lambda message: lines.write(f"{message.data}\n"))
            wait_until(lambda: not node.consumers.status()[0].lag)
            consuming.stop()
    handled = file.read_text().split()
    once = [text for text, before in zip(handled, ["", *handled], strict=False) if text != before]
    assert once == held, f"in order, none skipped; twice only one after the other (seed {seed})"
    assert len(handled) - len(once) <= ROUNDS, f"at most one for each kill (seed {seed})"
