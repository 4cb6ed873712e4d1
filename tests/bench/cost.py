"""Our side of the scenarios about what a node costs: 8, 9 and 10."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from tests.bench import client, ours
from tests.bench.results import Sample, Scale
from tests.harness import raw
from tests.harness.http import Http, get_bytes
from tests.harness.process import cpu_seconds, memory_mb
from tests.harness.support import RUN_NODE, NodeProcess, wait_until

# A mesh of this many nodes or fewer is a full one.
_FULL = 9
_DEGREE = 8
# How long a mesh is left to come to rest, as a part of the time that peers are idle.
_REST = 0.1

# The steady load: messages a request, requests a second, and for how long as a part of `seconds`.
_BATCH = 100
_PACE = 10.0
_STEADY = 0.5

_PAGES = 20


def idle_peers(scale: Scale) -> Sample:
    """Scenario 8: one node with peers that do nothing but answer its pings."""
    with ExitStack() as stack:
        node = stack.enter_context(NodeProcess(command=RUN_NODE))
        node.sockets()
        time.sleep(1)
        before = memory_mb(node.process.pid, "VmRSS")
        peers = [stack.enter_context(raw.dial(node.address)) for _ in range(scale.idle_peers)]
        for peer in peers:
            peer.send_sockets()
        _answer(peers, 3.0)
        wait_until(lambda: node.sockets() == len(peers), "all peers are linked")
        with ours.measured([node]) as meter:
            used = -cpu_seconds(node.process.pid)
            _answer(peers, scale.idle_seconds)
            used += cpu_seconds(node.process.pid)
        after = memory_mb(node.process.pid, "VmRSS")
    figures = {
        "% of a core": used / meter.seconds * 100,
        "kB a peer": (after - before) * 1024 / len(peers),
    }
    return meter.sample(figures)


def _answer(peers: Sequence[raw.RawPeer], seconds: float) -> None:
    """Answer pings, and pass over all else, for so long."""
    poll = select.poll()
    by_number = {peer.sock.fileno(): peer for peer in peers}
    for number in by_number:
        poll.register(number, select.POLLIN)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for number, _ in poll.poll(left * 1000):
            peer = by_number[number]
            for frame in peer.frames():
                if frame.opcode == raw.PING:
                    peer.send(raw.PONG, frame.payload)
                if not peer.buffered():
                    break


def long_log(scale: Scale) -> Sample:
    """Scenario 9: start on a long log, and show its first page."""
    directory = ours.LONG_LOG.directory(scale.long_log)
    begun = time.perf_counter()
    with NodeProcess(data_dir=directory, command=RUN_NODE, wait=False) as node:
        ready = _seconds_to_ready(node, begun)
        with ours.measured([node]) as meter:
            page = _seconds_a_page(node, "/", "text/html")
            first = _seconds_a_page(node, "/api/v1/messages?order=time&limit=100", "*/*")
    figures = {
        "peak MB": meter.processes[0].peak_mb,
        "ready s": ready,
        "first page ms": page[0] * 1000,
        "page ms": median(page) * 1000,
        "API page ms": median(first) * 1000,
    }
    return meter.sample(figures)


def _seconds_to_ready(node: NodeProcess, begun: float) -> float:
    request = get_bytes(node.port, "/healthz")
    while time.perf_counter() - begun < client.PATIENCE:
        try:
            with Http(node.port) as http:
                http.ask(request, 200)
        except ConnectionError:
            assert node.process.poll() is None, node.log()
            time.sleep(0.005)
        else:
            return time.perf_counter() - begun
    raise AssertionError("the node is not ready")


def _seconds_a_page(node: NodeProcess, target: str, accept: str) -> list[float]:
    request = get_bytes(node.port, target)
    request = request[:-2] + f"Accept: {accept}\r\n\r\n".encode()
    seconds = []
    with Http(node.port) as http:
        for _ in range(_PAGES):
            begun = time.perf_counter()
            http.ask(request, 200)
            seconds.append(time.perf_counter() - begun)
    return seconds


def growing_mesh(scale: Scale) -> Sample:
    """Scenario 10: CPU time a message and node, in meshes of several sizes."""
    figures: dict[str, float] = {}
    processes = []
    for size in scale.meshes:
        with ours.mesh(size, degree=size - 1 if size <= _FULL else _DEGREE) as mesh:
            time.sleep(scale.idle_seconds * _REST)
            count = scale.messages // 4
            request = ours.bulk(mesh[0].port, ours.body(count))
            with ours.measured(mesh) as meter:
                ours.commit_all(mesh[0].port, request)
                ours.wait_all(mesh, count)
                meter.stop()
            used = sum(process.cpu_s for process in meter.processes)
            figures[f"{size} nodes, bulk us"] = used / count / size * 1e6
            processes.append(meter)
            with ours.measured(mesh) as steady:
                more = _commit_steadily(mesh[0].port, scale.seconds * _STEADY)
                ours.wait_all(mesh, count + more)
                steady.stop()
            used = sum(process.cpu_s for process in steady.processes)
            figures[f"{size} nodes, steady us"] = used / more / size * 1e6
    return processes[-1].sample(figures)


def _commit_steadily(port: int, seconds: float) -> int:
    """Commit a small batch now and again; return how many messages that were."""
    request = ours.bulk(port, ours.body(_BATCH))
    batches = max(1, round(seconds * _PACE))
    begun = time.monotonic()
    with Http(port, client.PATIENCE) as http:
        for number in range(batches):
            time.sleep(max(0.0, begun + number / _PACE - time.monotonic()))
            http.ask(request, 201)
    return batches * _BATCH
