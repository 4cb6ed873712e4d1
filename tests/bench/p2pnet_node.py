"""A node on p2pnetwork: `p2pnet_node.py PORT PEER_PORT...`, told on stdin what to do.

`send N` broadcasts N messages of 100 bytes, `wait N` answers `held` when N have come, `links`
answers with their number.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from p2pnetwork.node import Node


class Counting(Node):
    """Counts what it is sent."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.held = 0
        self.changed = threading.Condition()

    def node_message(self, node: Any, data: Any) -> None:
        with self.changed:
            self.held += 1
            self.changed.notify_all()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints
    port, *peers = map(int, sys.argv[1:])
    node = Counting(port)
    node.start()
    for peer in peers:
        node.connect_with_node("127.0.0.1", peer)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command == "links":
            print(len(node.all_nodes), file=answers, flush=True)
        elif command == "send":
            for index in range(int(number)):
                node.send_to_nodes(f"m-{index:09d}-".ljust(100, "x"))
        elif command == "wait":
            goal = int(number)
            with node.changed:
                while node.held < goal:
                    node.changed.wait()
            print("held", file=answers, flush=True)


main()
