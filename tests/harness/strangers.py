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

from p2p_sync.wire.identity import Identity
from tests.harness.raw import TEXT, begin, frame, handshake

MOST_OPEN = 400
"""Connections that it keeps open; the oldest make room, unless the node has ended them before."""


US = Identity.of_seed(b"stranger" * 4)
HEADER = begin(US, dialled=True).header
WRONG = {"type": "PROOF", "signature": US.sign(b"something else"), "proof": "cd" * 32}
"""What a node sends that has recorded the header of another one, or does not know the secret."""


def main(port: int, rates: list[int], hosts: list[str]) -> None:
    """Flood the port until the standard input ends."""
    sources = itertools.cycle(hosts or ["127.0.0.1"])
    kept: deque[socket.socket] = deque()
    opened = [0, 0]
    proof = frame(TEXT, json.dumps(WRONG).encode(), masked=True)
    named = handshake("node", extra=(f"P2P-Sync: {HEADER}",))
    openings = [named, named + proof]
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
                    sock.send(openings[kind])
                kept.append(sock)
        while len(kept) > MOST_OPEN:
            kept.popleft().close()
        if now >= said + 1.0:
            print(*opened, flush=True)
            said = now


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(sys.argv[2]), int(sys.argv[3])], sys.argv[4:])
