"""Our side of the scenarios that time single commits: 3, 4 and 7."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from p2p_sync.wire.identity import Identity
from tests.bench import client, ours
from tests.bench.results import Sample, Scale, in_ms
from tests.harness import raw
from tests.harness.http import Http, commit_bytes, post_bytes
from tests.harness.support import RUN_NODE, NodeProcess, wait_sockets

# Commits before the clock runs, and the quiet before each. Seconds.
WARM_UP = 20
QUIET = 0.003

_LINE = 6  # nodes


def until_frame(port: int, address: str, count: int) -> list[float]:
    """Time from a request to commit at `port` until an original linked at `address` has it."""
    delays = []
    with raw.dial(address) as peer, Http(port) as http:
        peer.send_sockets()
        for number in range(-WARM_UP, count):
            what = client.text(number)
            request = commit_bytes(port, what)
            time.sleep(QUIET)
            begun = time.perf_counter()
            http.send(request)
            while peer.read_message() != what:
                pass
            if number >= 0:
                delays.append(time.perf_counter() - begun)
            assert http.answer()[0] == 302
    return delays


def to_original(scale: Scale) -> Sample:
    """Scenario 3."""
    with ours.mesh(3) as mesh, ours.measured(mesh) as meter:
        delays = until_frame(mesh[0].port, mesh[0].address, scale.delays)
    return meter.sample(in_ms(delays))


def with_copy(scale: Scale) -> Sample:
    """Scenario 4: until the answer to a commit that waits for a copy."""
    delays = []
    with ours.mesh(3) as mesh, ours.measured(mesh) as meter, Http(mesh[0].port) as http:
        for number in range(-WARM_UP, scale.delays):
            body = json.dumps({"data": client.text(number)}).encode()
            target = "/api/v1/messages?copies=1"
            request = post_bytes(mesh[0].port, target, body, "application/json")
            time.sleep(QUIET)
            begun = time.perf_counter()
            http.ask(request, 201)
            if number >= 0:
                delays.append(time.perf_counter() - begun)
    return meter.sample(in_ms(delays))


@contextmanager
def _follower(address: str) -> Iterator[raw.RawPeer]:
    """A peer that speaks as one of our nodes with an empty log, so that it is shipped all."""
    with raw.dial(address, identity=Identity.new()) as peer:
        peer.send_sockets()
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        peer.send(raw.PING, b"?")
        peer.read_until(raw.PONG)  # the node has read HAVE, so it ships the first commit
        yield peer


def _read_shipped(peer: raw.RawPeer, what: str) -> None:
    """Wait until the peer has been shipped a message with this text."""
    while True:
        frame: dict[str, Any] = peer.read_json()
        for run in frame.get("runs", ()):
            if any(entry[1] == what for entry in run["entries"]):
                return


def over_a_line(scale: Scale) -> Sample:
    """Scenario 7: from one end of a line of nodes to the other, each storing before it passes on.

    Both ends are followed, so that what the commit and the last step take cancels out.
    """
    delays = []
    with ExitStack() as stack:
        alone = ("--target-links", "0")
        line = [
            stack.enter_context(NodeProcess(*alone, command=RUN_NODE, wait=False))
            for _ in range(_LINE)
        ]
        for node in line:
            node.wait_ready()
        for node, after in itertools.pairwise(line):
            node.add(after.address)
        wait_sockets(2, *line[1:-1])
        near = stack.enter_context(_follower(line[0].address))
        far = stack.enter_context(_follower(line[-1].address))
        http = stack.enter_context(Http(line[0].port))
        with ours.measured(line) as meter:
            for number in range(-WARM_UP, scale.delays):
                what = client.text(number)
                request = commit_bytes(line[0].port, what)
                time.sleep(QUIET)
                http.send(request)
                _read_shipped(near, what)
                begun = time.perf_counter()
                _read_shipped(far, what)
                if number >= 0:
                    delays.append((time.perf_counter() - begun) / (_LINE - 1))
                http.answer()
    figures = {f"a hop, {name}": value for name, value in in_ms(delays).items()}
    return meter.sample(figures)
