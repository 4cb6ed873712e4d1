"""Our side of scenario 12: a log as years of restarts leave it, of very many origins."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tests.bench import client, ours
from tests.bench.results import Sample, Scale
from tests.harness import raw
from tests.harness.http import Http, get_bytes
from tests.harness.origins import make_origins
from tests.harness.process import memory_mb
from tests.harness.support import RUN_NODE, NodeProcess, wait_until

_NODES = 50  # that have started often
_LINKS = 16
_DIFFERENT = 100  # origins, of very many
_QUESTIONS = 20
_PATHS = {"status": "/api/v1/status", "metrics": "/metrics", "peers": "/api/v1/peers"}


def many_origins(scale: Scale) -> Sample:
    """Scenario 12: a node with many origins starts; one whose log is equal but for some of them
    connects, gets these, and connects again; then peers that do nothing connect."""
    starts = scale.origins // _NODES
    with tempfile.TemporaryDirectory(prefix="p2p-bench-") as parent, ExitStack() as stack:
        first, second = Path(parent) / "first", Path(parent) / "second"
        make_origins(first, _NODES, starts, 2)
        make_origins(second, _NODES, starts, 2, _DIFFERENT)
        begun = time.perf_counter()
        node = stack.enter_context(NodeProcess(data_dir=first, command=RUN_NODE))
        figures = {"ready s": time.perf_counter() - begun}
        figures["RSS MB"] = memory_mb(node.process.pid, "VmRSS")
        with ours.measured([node]) as meter:
            with _joining(second, node) as other:
                figures["kB for 100 that differ"] = _carried_kb(other)
            with _joining(second, node) as other:
                figures["in sync s"] = _seconds_in_sync(other)
                figures["kB if equal"] = _carried_kb(other)
        before = memory_mb(node.process.pid, "VmRSS")
        peers = [stack.enter_context(raw.dial(node.address)) for _ in range(_LINKS)]
        for peer in peers:
            peer.send_sockets()
        wait_until(lambda: node.sockets() == _LINKS, "all peers are linked")
        grown = memory_mb(node.process.pid, "VmRSS") - before
        figures["kB a link"] = max(0.0, grown) * 1024 / _LINKS
        for name, path in _PATHS.items():
            figures[f"{name} ms"] = _seconds(node, path) * 1000
    return meter.sample(figures)


@contextmanager
def _joining(directory: Path, node: NodeProcess) -> Iterator[NodeProcess]:
    """A node that dials another one, once it holds the same."""
    options = "--peer", node.address
    with NodeProcess(*options, data_dir=directory, command=RUN_NODE) as other:
        wait_until(lambda: other.digest == node.digest, "the logs are equal", client.PATIENCE)
        yield other
        other.stop()


def _seconds_in_sync(other: NodeProcess) -> float:
    """Return how long it takes until a node says that it is in sync."""
    begun = time.perf_counter()

    def is_in_sync() -> bool:
        return bool(other.status()["verdict"]["state"] == "in_sync")

    wait_until(is_in_sync, "the node is in sync", client.PATIENCE)
    return time.perf_counter() - begun


def _carried_kb(other: NodeProcess) -> float:
    """Return what the links of a node have carried until now, in both directions."""
    sizes = re.findall(r"^p2p_sync_link_bytes_total\{.*\} (\S+)", other.get("/metrics").text, re.M)
    return sum(map(float, sizes)) / 1000


def _seconds(node: NodeProcess, path: str) -> float:
    """Return how long an answer takes, in the median."""
    request, seconds = get_bytes(node.port, path), []
    with Http(node.port) as http:
        for _ in range(_QUESTIONS):
            begun = time.perf_counter()
            http.ask(request, 200)
            seconds.append(time.perf_counter() - begun)
    return median(seconds)
