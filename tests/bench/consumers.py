"""Measures how many messages a second consumers handle: a function, a webhook, a command.

python -m tests.bench.consumers [--messages N]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time

from p2p_sync import Node
from tests.bench import client
from tests.harness.receiver import Receiver
from tests.harness.support import RUN_NODE, NodeProcess, request, wait_until

NDJSON = {"Content-Type": "application/x-ndjson"}


def of_a_function(count: int) -> float:
    """`node.consume` with a function that does nothing, on disk."""
    with tempfile.TemporaryDirectory() as folder, Node(0, f"{folder}/data") as node:
        list(node.commit_all(map(str, range(count))))
        begun = time.perf_counter()
        node.consume("c", lambda _: None)
        wait_until(lambda: not node.consumers.info("c").lag, timeout=client.PATIENCE)
        return count / (time.perf_counter() - begun)


def of_a_hook(count: int) -> float:
    """A webhook of a node, from a bulk commit to the last request."""
    with Receiver() as receiver, NodeProcess("--hook", receiver.url) as node:
        begun = time.perf_counter()
        commit(node, count)
        wait_until(lambda: len(receiver.taken) == count, timeout=client.PATIENCE)
        return count / (time.perf_counter() - begun)


def of_a_command(count: int) -> float:
    """`consume` that runs /bin/true."""
    with NodeProcess() as node:
        commit(node, count)
        url = f"http://127.0.0.1:{node.port}"
        command = [*RUN_NODE, "consume", "--node", url, "c", "--", "/bin/true"]
        process = subprocess.Popen(command)
        try:
            wait_until(lambda: 0 < lag(node, count) < count, timeout=client.PATIENCE)
            first, begun = lag(node, count), time.perf_counter()
            wait_until(lambda: lag(node, count) == 0, timeout=client.PATIENCE)
            return first / (time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait()


def commit(node: NodeProcess, count: int) -> None:
    """Commit many messages at once."""
    body = "".join(f'"{number}"\n' for number in range(count))
    assert request(node.port, "/api/v1/messages", "POST", NDJSON, body.encode()).status == 201


def lag(node: NodeProcess, count: int) -> int:
    """How many of the messages are not handled; all until there is a consumer."""
    return min((each["lag"] for each in node.api("consumers")["consumers"]), default=count)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.consumers", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="for a function, a webhook")
    count = parser.parse_args().messages
    print(f"a function that does nothing: {of_a_function(count):,.0f} messages/s")
    print(f"a webhook on this machine:    {of_a_hook(count):,.0f} messages/s")
    print(f"consume with /bin/true:       {of_a_command(max(20, count // 50)):,.0f} messages/s")


if __name__ == "__main__":
    main()
