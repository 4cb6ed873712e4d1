"""kill -9 of `consume` and of its node, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.harness.api import read_pages
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    NodeProcess,
    free_port_pair,
    pause,
    request,
    wait_until,
)

KILLS = int(os.environ.get("P2P_SYNC_TEST_CONSUME_KILLS", "10"))
LONGEST = 0.3  # seconds that a command runs messages before a kill
SOME = 20  # messages that are committed before each kill
NDJSON = {"Content-Type": "application/x-ndjson"}


def start_command(port: int, file: Path) -> subprocess.Popen[bytes]:
    script = f'echo "$(cat)" >> {file}'
    url = f"http://127.0.0.1:{port}"
    return subprocess.Popen(
        [*RUN_NODE, "consume", "--node", url, "c", "--ack-wait=0.5", "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def has_grown(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_each_message_is_handled_and_twice_only_if_its_command_was_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    file, port = tmp_path / "handled", free_port_pair()
    file.touch()
    killed = 0
    with ExitStack() as stack:
        node = stack.enter_context(NodeProcess(data_dir=tmp_path / "data", port=port))
        command = start_command(port, file)
        try:
            for round in range(KILLS):
                lines = "".join(f'"{round}.{number}"\n' for number in range(SOME))
                answer = request(port, "/api/v1/messages", "POST", NDJSON, lines.encode())
                assert answer.status == 201, answer.text
                wait_until(partial(has_grown, file, file.stat().st_size))
                pause(rng.uniform(0, LONGEST))
                if rng.random() < 0.5:
                    killed += 1
                    command.send_signal(signal.SIGKILL)
                    command.wait(DEADLINE)
                    command = start_command(port, file)
                else:
                    node.stop(signal.SIGKILL)
                    node = stack.enter_context(NodeProcess(data_dir=tmp_path / "data", port=port))
            wait_until(lambda: node.api("consumers")["consumers"][0]["lag"] == 0, timeout=300)
            assert command.poll() is None, "it has survived the restarts of the node"
            held = [message["data"] for message in read_pages(port, "arrival")[0]]
        finally:
            command.kill()
            command.wait(DEADLINE)
    handled = file.read_text().split()
    # What a killed command has started may write on, and so once more, but not for the first time.
    assert [*dict.fromkeys(handled)] == held, f"in order, none is skipped (seed {seed})"
    assert len(handled) - len(held) <= killed, f"twice only what a killed one had (seed {seed})"
