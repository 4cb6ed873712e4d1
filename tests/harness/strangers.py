"""A flood of strangers on a peer port.

    python -m tests.harness.strangers PORT SILENT WRONG [HOST ...]

It opens SILENT connections a second that do not go on after the handshake, and WRONG ones that send
a wrong proof, from the given hosts by turns. A line with the numbers comes each second, until it is
killed or its standard input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import sys
import time
from collections import deque

from tests.harness.raw import TEXT, frame, handshake

MOST_OPEN = 400
"""Connections that it keeps open; the oldest make room, unless the node has ended them before."""


def opening(number: int) -> bytes:
    """What a node sends that does not know the secret: its id, and a proof of something else."""
    hello = {
        "type": "SOCKETS",
        "addresses": [],
        "id": f"{number:032x}",
        "start": 1,
        "protocol": 1,
        "nonce": "ab" * 32,
    }
    proof = {"type": "PROOF", "proof": "cd" * 32}
    return b"".join(frame(TEXT, json.dumps(f).encode(), masked=True) for f in (hello, proof))


def main(port: int, rates: list[int], hosts: list[str]) -> None:
    """Flood the port until the standard input ends."""
    sources = itertools.cycle(hosts or ["127.0.0.1"])
    kept: deque[socket.socket] = deque()
    opened = [0, 0]
    began = said = time.monotonic()
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        now = time.monotonic()
        for kind, rate in enumerate(rates):
            # After a time without the CPU it does not catch up: the rate is a limit.
            opened[kind] = max(opened[kind], int((now - began) * rate) - rate // 10)
            while opened[kind] < (now - began) * rate:
                opened[kind] += 1
                sock = socket.socket()
                with contextlib.suppress(OSError):
                    sock.bind((next(sources), 0))
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                    sock.send(handshake("node") + (opening(opened[1]) if kind else b""))
                kept.append(sock)
        while len(kept) > MOST_OPEN:
            kept.popleft().close()
        if now >= said + 1.0:
            print(*opened, flush=True)
            said = now


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(sys.argv[2]), int(sys.argv[3])], sys.argv[4:])
