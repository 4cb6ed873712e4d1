"""Our side of the scenarios that count messages a second: 1, 2, 5, 6 and 11."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from tests.bench import client, ours
from tests.bench.results import Sample, Scale
from tests.bench.usage import Meter
from tests.harness.http import Http, post_bytes
from tests.harness.support import DEADLINE, RUN_NODE, NodeProcess

RATE = "messages/s"

CLIENTS = 16

# A commit that is timed while something else goes on, and the pause before the next. Seconds.
_COMMIT_PAUSE = 0.005
# For how long commits are timed before, at least.
_QUIET = 2.0


def from_one(scale: Scale, nodes: int = 3) -> Sample:
    """Scenario 1: a bulk commit at one node, until all hold all."""
    with ours.mesh(nodes) as mesh:
        meter = _bulk(mesh, [scale.messages, *[0] * (nodes - 1)])
    return meter.sample({RATE: scale.messages / meter.seconds})


def from_all(scale: Scale) -> Sample:
    """Scenario 2: the same number of messages in sum, from all three at once."""
    share = scale.messages // 3
    with ours.mesh(3) as mesh:
        meter = _bulk(mesh, [share] * 3)
    return meter.sample({RATE: 3 * share / meter.seconds})


def one_stopped(scale: Scale) -> Sample:
    """Scenario 11: the third node stands still as soon as it has begun to get the messages."""
    with ours.mesh(3) as mesh, _stopped_when_it_holds(mesh[2]):
        meter = _bulk(mesh[:2], [scale.messages, 0])
    return meter.sample({RATE: scale.messages / meter.seconds})


def _bulk(nodes: Sequence[NodeProcess], counts: Sequence[int]) -> Meter:
    """Commit `counts` messages at the nodes, all at once, and wait until each holds all."""
    requests = [
        (node.port, ours.bulk(node.port, ours.body(count)))
        for node, count in zip(nodes, counts, strict=True)
        if count
    ]
    threads = [threading.Thread(target=ours.commit_all, args=one) for one in requests[1:]]
    with ours.measured(nodes) as meter:
        for thread in threads:
            thread.start()
        ours.commit_all(*requests[0])
        ours.wait_all(nodes, sum(counts))
        meter.stop()
    for thread in threads:
        thread.join(DEADLINE)
    return meter


@contextmanager
def _stopped_when_it_holds(node: NodeProcess) -> Iterator[None]:
    """Send SIGSTOP once the node holds something; the block may end before."""
    over = threading.Event()

    def watch() -> None:
        with ours.counting(node.port) as held:
            while not held() and not over.wait(0.05):
                pass
        node.process.send_signal(signal.SIGSTOP)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE)
        node.process.send_signal(signal.SIGCONT)


def by_get(scale: Scale) -> Sample:
    """Scenario 5: many clients' `GET /commit`, until all three hold what was committed."""
    with ours.mesh(3) as mesh, ours.counting(mesh[0].port) as held:
        target = f"/commit?msg={client.text(0)}"
        with ours.measured(mesh) as meter:
            load = client.drive(mesh[0].port, target, CLIENTS, scale.seconds)
            ours.wait_all(mesh, held())
            meter.stop()
    return meter.sample({"requests/s": load.requests / meter.seconds, **load.figures})


def late_joiner(scale: Scale) -> Sample:
    """Scenario 6: an empty node dials one with a long log, and commits go on at that one."""
    directory = ours.LONG_LOG.directory(scale.long_log)
    with (
        NodeProcess(data_dir=directory, command=RUN_NODE) as full,
        NodeProcess(command=RUN_NODE) as empty,
    ):
        with ours.counting(full.port) as held:
            goal = held()
        with _Commits(full.port) as commits:
            time.sleep(min(_QUIET, scale.idle_seconds))
            quiet = commits.take()
            with ours.measured([full, empty]) as meter, ours.counting(empty.port) as held:
                empty.add(full.address)
                client.wait_held(held, goal)
                meter.stop()
            busy = commits.take()
    figures = {
        RATE: goal / meter.seconds,
        "peak MB": max(process.peak_mb for process in meter.processes),
        "quiet commit ms": median(quiet) * 1000,
    }
    if busy:
        figures["commit meanwhile ms"] = median(busy) * 1000
        figures["slower"] = median(busy) / median(quiet)
    return meter.sample(figures)


class _Commits:
    """Commits single messages one after the other, in a thread; a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._delays: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def take(self) -> list[float]:
        """The delays since the last call, in seconds."""
        delays, self._delays = self._delays, []
        return delays

    def _run(self) -> None:
        body = json.dumps({"data": client.text(0, "single")}).encode()
        request = post_bytes(self._port, "/api/v1/messages", body, "application/json")
        with Http(self._port) as http:
            while not self._over.wait(_COMMIT_PAUSE):
                begun = time.perf_counter()
                http.ask(request, 201)
                self._delays.append(time.perf_counter() - begun)

    def __enter__(self) -> _Commits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(DEADLINE)
